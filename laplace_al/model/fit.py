"""A fit: the prior precision, the mode, the posterior around it and its calibration."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from laplace_al._common.typing import Link
from laplace_al.model.calibration import Calibration, Observation, scores_at, weight_of_classes
from laplace_al.model.evidence import Evidence, log_evidence
from laplace_al.model.fitted_model import LINKS, FitReport, FittedModel, LooScore, Rules
from laplace_al.model.memory import Memory
from laplace_al.model.mode import Labelled, Mode, find_mode, minimise
from laplace_al.model.prior_precision import (
    Chosen,
    choose_prior_precision,
    prior_precision_by_scale,
    total_variance,
)
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.rows import Block, Rows, RowsInMemory, left_out, stiffening_at_mode
from laplace_al.model.structures import STRUCTURES, Structure


class FitSettings(NamedTuple):
    """How to fit: the parameters of a classifier that only ``fit`` reads."""

    prior_precision: float | Literal["scale", "loo", "evidence"]
    structure: str
    head: Literal["fit", "pretrained"]
    tol: float


class Fit(NamedTuple):
    """A fitted model, and the results of the searches for its mode and prior precision, if any."""

    model: FittedModel
    mode: Mode | None
    prior_precision: Chosen | None


class _Search(NamedTuple):
    """The searches of one fit: for the mode, and for the prior precision."""

    rows: Rows
    prior_mean: torch.Tensor
    settings: FitSettings
    rules: Rules

    @property
    def structure(self) -> Structure:
        return STRUCTURES[self.settings.structure]

    def prior(self, prior_precision: float) -> IsotropicPrior:
        return IsotropicPrior(self.prior_mean, prior_precision)

    def mode(self, prior_precision: float, start: torch.Tensor) -> Mode | None:
        """Return the mode; None where the mean is that of a pretrained head."""
        if self.settings.head == "pretrained":
            return None
        objective = self.rows.objective(self.prior(prior_precision))
        return minimise(objective, start, max_iter=self.rules.max_iter, tol=self.settings.tol)

    def prior_precision(
        self, centre: torch.Tensor, start: torch.Tensor
    ) -> tuple[float, Chosen | None]:
        """Return lambda: as it is, by the scale of the features, or chosen by its score."""
        wanted, link = self.settings.prior_precision, LINKS[self.rules.predictive]
        if not isinstance(wanted, str):
            return float(wanted), None
        if wanted == "scale":
            return prior_precision_by_scale(self.rows, centre, self.settings.head), None

        def score(prior_precision: float) -> float:
            nonlocal start
            mode = self.mode(prior_precision, start)
            start = start if mode is None else mode.mean
            prior = self.prior(prior_precision)
            rows, evidence = with_evidence(self.rows, start, prior, self.structure)
            calibration = calibration_of(rows, start, link) if wanted == "loo" else None
            if calibration is not None and calibration.is_informed:
                return calibration.objective
            return evidence.value

        chosen = choose_prior_precision(score, total_variance(self.rows, centre))
        return chosen.value, chosen


def fit(
    rows: Rows,
    centre: torch.Tensor,
    prior_mean: torch.Tensor,
    start: torch.Tensor,
    settings: FitSettings,
    rules: Rules,
    **fields: Any,
) -> Fit:
    """Fit a model to labelled rows.

    ``centre`` (D,) is some row of phi; ``prior_mean`` (D, C) is also the mean where the head is
    pretrained, and ``start`` where the search for the mode starts. ``fields`` are further ones of
    the :class:`FittedModel`.
    """
    search = _Search(rows, prior_mean, settings, rules)
    structure, link = search.structure, LINKS[rules.predictive]
    prior_precision, chosen = search.prior_precision(centre, start)
    prior, mode = search.prior(prior_precision), search.mode(prior_precision, start)
    mean = prior_mean if mode is None else mode.mean
    report = FitReport(None if mode is None else max(mode.n_iter, 1))
    if _needs_evidence(settings, rules, structure, mean):
        rows, evidence = with_evidence(rows, mean, prior, structure)
        report = report._replace(log_evidence=evidence.value, evidence_slope=evidence.slope)
    calibration = Calibration()
    if rules.calibration == "loo":
        calibration = calibration_of(rows, mean, link)
        score, proba = _leave_one_out(rows, mean, calibration, link)
        report = report._replace(loo_score=score, loo_proba=proba)
    model = FittedModel(
        rows.posterior(structure, mean, prior, rules.curvature),
        rules=rules,
        calibration=calibration,
        memory=None if mode is None else _memory_of(rows, mean, prior, structure, rules),
        report=report,
        **fields,
    )
    return Fit(model, mode, chosen)


def model_before_labels(
    data: Labelled, prior_mean: torch.Tensor, settings: FitSettings, rules: Rules, **fields: Any
) -> Fit:
    """Return the model before its first labels, which may determine the prior precision only."""
    search = _Search(RowsInMemory(data), prior_mean, settings, rules)
    centre = data.features[data.weights.argmax()]
    prior_precision, chosen = search.prior_precision(centre, prior_mean)
    memory = None
    if rules.memory_size != 0:
        memory = Memory.empty(search.prior(prior_precision), data.features)
    posterior = search.structure.posterior.prior(prior_mean, prior_precision)
    return Fit(FittedModel(posterior, rules=rules, memory=memory, **fields), None, chosen)


def _needs_evidence(
    settings: FitSettings, rules: Rules, structure: Structure, mean: torch.Tensor
) -> bool:
    """Return whether variances and evidence at the mode are needed, or cost little."""
    is_cheap = structure.name != "shared" or mean.shape[1] == 1
    is_asked = rules.calibration == "loo" or rules.curvature == "secant"
    return is_cheap or is_asked or settings.prior_precision in ("loo", "evidence")


def with_evidence(
    rows: Rows, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure
) -> tuple[Rows, Evidence]:
    """Return the rows with the variances of their logits at a mode, and the evidence there."""
    known, log_determinant = rows.with_variances(mean, prior, structure)
    return known, log_evidence(known, mean, prior, structure, log_determinant)


def evidence_of(
    data: Labelled, prior: IsotropicPrior, known: FittedModel, tol: float
) -> tuple[Evidence, Mode]:
    """Return the evidence of labels under another prior, and the mode that was found for it."""
    mode = find_mode(data, prior, known.posterior.mean, max_iter=known.rules.max_iter, tol=tol)
    return with_evidence(RowsInMemory(data), mode.mean, prior, known.structure)[1], mode


def calibration_of(rows: Rows, mean: torch.Tensor, link: Link) -> Calibration:
    """Return the calibration to leave-one-out predictions; the rows know their variances."""

    def total(scales: Sequence[float], places: NDArray[np.float64]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = rows.total(left_out_scores, mean, link, scales, places)
        return scores

    return Calibration.fit(total, rows.total(class_weights))


def _leave_one_out(
    rows: Rows, mean: torch.Tensor, calibration: Calibration, link: Link
) -> tuple[LooScore, NDArray[np.floating] | None]:
    """Return the score of leave-one-out, and its probabilities (n, K) of rows in memory."""
    right, log_likelihood, weight = rows.total(left_out_score, mean, calibration, link)
    score = LooScore(float(right / weight), float(log_likelihood / weight))
    if not isinstance(rows, RowsInMemory):
        return score, None
    logits = calibration.apply(link, *left_out(rows, mean))
    return score, rows.data.likelihood.log_probabilities(logits).exp().numpy(force=True)


def _memory_of(
    rows: Rows, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure, rules: Rules
) -> Memory | None:
    """Return the memory of the newest labels that count."""
    if rules.memory_size == 0:
        return None
    assert isinstance(rows, RowsInMemory)  # those in blocks are not to be remembered
    features, targets, weights, likelihood = rows.data
    counting = weights > 0
    stiffening = stiffening_at_mode(rows, mean, rules.curvature)
    return (
        Memory.empty(prior, features)
        .add(
            features[counting], likelihood.labels(targets[counting]).to(features), weights[counting]
        )
        .keep(
            rules.memory_size,
            mean,
            likelihood,
            structure,
            None if stiffening is None else stiffening[counting],
        )
    )


def class_weights(block: Block) -> torch.Tensor:
    """Return the weight of each class, (K,)."""
    return weight_of_classes(block.data.targets, block.data.weights)


def left_out_scores(
    block: Block,
    mean: torch.Tensor,
    link: Link,
    scales: Sequence[float],
    log_temperatures: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return :func:`~laplace_al.model.calibration.scores_at` of leave-one-out predictions."""
    _, targets, weights, likelihood = block.data
    predicted = left_out(block, mean)
    observation = Observation(link, likelihood, predicted, targets, weights)
    return scores_at(observation, scales, log_temperatures)


def left_out_score(
    block: Block, mean: torch.Tensor, calibration: Calibration, link: Link
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the weight of the labels that are right, their log-likelihood, and their weight."""
    _, targets, weights, likelihood = block.data
    logits = calibration.apply(link, *left_out(block, mean))
    loss = likelihood.negative_log_likelihood(logits, targets)
    found = likelihood.log_probabilities(logits).argmax(dim=1)
    right = (found == likelihood.labels(targets)).to(loss)
    return weights @ right, -weights @ loss, weights.sum()
