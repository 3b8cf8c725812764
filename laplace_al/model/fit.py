"""A fit: the prior precision, the mode, the posterior around it and its calibration."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from laplace_al._common.typing import Link
from laplace_al.model.calibration import Calibration, Observation, scores_at, weight_of_classes
from laplace_al.model.evidence import evidence_slope, log_evidence
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

_SMALL = 2**18  # numbers of features, times outputs
_ENOUGH_LABELS = 1000  # for a temperature


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
            return evidence

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
        report = report._replace(log_evidence=evidence)
        # a mean that stays needs no solution, and a small one costs little
        if isinstance(rows, RowsInMemory) and (mode is None or _is_small(rows.data)):
            slope = evidence_slope(rows, mean, prior, structure)
            report = report._replace(evidence_slope=slope)
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


def _is_small(data: Labelled) -> bool:
    return data.features.numel() * data.targets.shape[1] <= _SMALL


def _needs_evidence(
    settings: FitSettings, rules: Rules, structure: Structure, mean: torch.Tensor
) -> bool:
    """Return whether variances and evidence at the mode are needed, or cost little."""
    is_cheap = structure.name != "shared" or mean.shape[1] == 1
    is_asked = rules.calibration == "loo" or rules.curvature == "secant"
    return is_cheap or is_asked or settings.prior_precision in ("loo", "evidence")


def with_evidence(
    rows: Rows, mean: torch.Tensor, prior: IsotropicPrior, structure: Structure
) -> tuple[Rows, float]:
    """Return the rows with the variances of their logits at a mode, and the evidence there."""
    known, log_determinant = rows.with_variances(mean, prior, structure)
    return known, log_evidence(known, mean, prior, structure, log_determinant)


class EvidenceUnder(NamedTuple):
    """The log evidence of labels under another prior, and the mode that was found for it.

    ``slope`` is its derivative along log lambda, if it was asked for.
    """

    value: float
    slope: float | None
    mode: Mode


def evidence_under(
    data: Labelled, prior: IsotropicPrior, known: FittedModel, tol: float, *, with_slope: bool
) -> EvidenceUnder:
    """Return the evidence of labels under another prior than that of the model."""
    mode = find_mode(data, prior, known.posterior.mean, max_iter=known.rules.max_iter, tol=tol)
    rows, value = with_evidence(RowsInMemory(data), mode.mean, prior, known.structure)
    assert isinstance(rows, RowsInMemory)
    slope = evidence_slope(rows, mode.mean, prior, known.structure) if with_slope else None
    return EvidenceUnder(value, slope, mode)


def calibration_of(rows: Rows, mean: torch.Tensor, link: Link) -> Calibration:
    """Return the calibration to leave-one-out predictions; the rows know their variances.

    A sample stands for all rows where there are many.
    """
    n_rows, weight = rows.total(size_of)
    share = None if n_rows <= _ENOUGH_LABELS else float(_ENOUGH_LABELS / weight)

    def total(scales: Sequence[float], places: NDArray[np.float64]) -> NDArray[np.float64]:
        options = (mean, link, share, scales, places)
        scores: NDArray[np.float64] = rows.total(left_out_scores, *options)
        return scores

    return Calibration.fit(total, rows.total(class_weights))


def _leave_one_out(
    rows: Rows, mean: torch.Tensor, calibration: Calibration, link: Link
) -> tuple[LooScore, NDArray[np.floating] | None]:
    """Return the score of leave-one-out, and its probabilities (n, K) of rows in memory."""
    if not isinstance(rows, RowsInMemory):
        right, log_likelihood, weight = rows.total(left_out_score, mean, calibration, link)
        return LooScore(float(right / weight), float(log_likelihood / weight)), None
    logits = calibration.apply(link, *left_out(rows, mean))
    right, log_likelihood, weight = score_of(rows.data, logits)
    score = LooScore(float(right / weight), float(log_likelihood / weight))
    return score, rows.data.likelihood.probabilities(logits).numpy(force=True)


def left_out_proba_of(data: Labelled, model: FittedModel) -> NDArray[np.floating]:
    """Return leave-one-out probabilities (n, K) of all labels that a model has learnt."""
    posterior = model.posterior
    prior = IsotropicPrior(posterior.prior_mean, posterior.prior_precision)
    rows, _ = RowsInMemory(data).with_variances(posterior.mean, prior, model.structure)
    logits = model.calibrated(*left_out(rows, posterior.mean))
    return data.likelihood.probabilities(logits).numpy(force=True)


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
        .add(features[counting], targets[counting], weights[counting])
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


def size_of(block: Block) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many instances have weight, and the sum of their weights."""
    weights = block.data.weights
    return (weights > 0).sum(), weights.sum()


def left_out_scores(
    block: Block,
    mean: torch.Tensor,
    link: Link,
    share: float | None,
    scales: Sequence[float],
    log_temperatures: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return :func:`~laplace_al.model.calibration.scores_at` of leave-one-out predictions.

    An instance is drawn with a probability of ``share`` times its weight, None: for certain.
    """
    features, targets, weights, likelihood = block.data
    if share is not None:
        chance = (share * weights).clamp(max=1)
        drawn = ((places_of(features) < chance) | (chance == 1)).nonzero()[:, 0]
        assert block.variance is not None
        data = Labelled(features[drawn], targets[drawn], weights[drawn], likelihood)
        block = Block(data, block.variance[drawn])
        targets, weights = data.targets, data.weights / chance[drawn]
    predicted = left_out(block, mean)
    observation = Observation(link, likelihood, predicted, targets, weights)
    return scores_at(observation, scales, log_temperatures)


def places_of(features: torch.Tensor) -> torch.Tensor:
    """Return a number in [0, 1) for each row, as if drawn: the same in any order and any blocks."""
    as_integer = torch.int64 if features.dtype == torch.float64 else torch.int32
    digest = features.contiguous().view(as_integer).long().sum(dim=1)
    for shift in (31, 27, 33):  # splitmix64, of Steele, Lea and Flood, OOPSLA 2014
        digest = (digest ^ (digest >> shift)) * -4658895280553007687
    return (digest & (2**53 - 1)).to(features) / 2**53


def left_out_score(
    block: Block, mean: torch.Tensor, calibration: Calibration, link: Link
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return :func:`score_of` calibrated leave-one-out predictions."""
    return score_of(block.data, calibration.apply(link, *left_out(block, mean)))


def score_of(
    data: Labelled, logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the expected weight of right labels, their log-likelihood, and their weight."""
    _, targets, weights, likelihood = data
    loss = likelihood.negative_log_likelihood(logits, targets)
    found = likelihood.probabilities(logits).argmax(dim=1, keepdim=True)
    right = likelihood.shares(targets).gather(1, found)[:, 0]
    return weights @ right, -weights @ loss, weights.sum()
