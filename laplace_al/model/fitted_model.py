"""The model that a fit has found: one value, for every prediction and update."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from laplace_al._common.devices import on_device
from laplace_al._common.stored import StoredState
from laplace_al._common.typing import Link, UpdateRule
from laplace_al.model import links
from laplace_al.model.calibration import Calibration, Observation
from laplace_al.model.curvatures import open_stiffening, steepening
from laplace_al.model.leave_one_out import LeftOut
from laplace_al.model.likelihoods import Likelihood, likelihood_of
from laplace_al.model.memory import Memory
from laplace_al.model.mode import InMemory, Labelled, Mode, find_mode
from laplace_al.model.posterior import Posterior
from laplace_al.model.posterior.base import prior_variance
from laplace_al.model.predictive import averaged, sampled_weights
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import (
    CurvatureName,
    Structure,
    UpdateName,
    choose_structure,
    structure_of,
)
from laplace_al.model.updates import RememberingUpdate, Rule

LINKS = {
    "mean_field": links.mean_field,
    "plug_in": links.plug_in,
    "bridge": links.bridge,
    "monte_carlo": links.mean_field,  # of the same Gaussian, where nothing can be drawn
}
# Of a refit on remembered instances, in posterior standard deviations.
MEMORY_TOLERANCE = 0.01
# A label leaves the memory at a mode that fits it more closely than when it was learnt.
_SHARE_OF_LEAVING = 0.15
_ROWS_AT_ONCE = 4096


class Rules(NamedTuple):
    """The parameters of a classifier that say how it learns labels and predicts.

    ``class_weights`` has a number for each class; None: 1 for all.
    """

    update: UpdateName = "map"
    curvature: CurvatureName = "secant"
    step_size: float = 1.0
    n_passes: int = 1
    predictive: Literal["mean_field", "plug_in", "bridge", "monte_carlo"] = "mean_field"
    calibration: Literal["loo"] | None = "loo"
    class_weights: tuple[float, ...] | None = None
    memory_size: int | None = 0
    forgetting: float = 1.0
    max_iter: int = 100


class LooScore(NamedTuple):
    """How good the leave-one-out probabilities of the labels are.

    Parameters
    ----------
    accuracy : float
        Share of labels that are the most probable class.
    log_likelihood : float
        Mean log probability of the labels, in nats.
    """

    accuracy: float
    log_likelihood: float


class FitReport(NamedTuple):
    """Results of a fit beside the model; each is None where it was not computed."""

    n_iter: int | None = None
    log_evidence: float | None = None
    evidence_slope: float | None = None
    loo_score: LooScore | None = None
    loo_proba: NDArray[np.floating] | None = None


@dataclass(frozen=True, eq=False)
class FittedModel(StoredState):
    """A Gaussian over the weights of the last layer, and how it predicts and learns.

    A value: :meth:`updated` and :meth:`with_classes` return another one.
    """

    posterior: Posterior
    classes: NDArray[Any]  # (K,), sorted
    rules: Rules
    calibration: Calibration = field(default_factory=Calibration)
    has_intercept: bool = True  # whether the last weight is that of a constant 1
    seed: int = 0  # of the weights that are drawn
    memory: Memory | None = None
    report: FitReport = field(default_factory=FitReport)

    @property
    def structure(self) -> Structure:
        """Structure of the posterior."""
        return structure_of(self.posterior)

    @functools.cached_property
    def likelihood(self) -> Likelihood:
        """Likelihood of a label given its logits."""
        return likelihood_of(len(self.classes))

    @functools.cached_property
    def update_rule(self) -> Rule:
        """Rule by which one label updates the posterior."""
        update, curvature, step_size, *_ = self.rules
        return self.structure.update(
            self.likelihood, update=update, curvature=curvature, step_size=step_size
        )

    @property
    def n_features(self) -> int:
        """Number of features, without the constant."""
        return len(self.posterior.prior_mean) - int(self.has_intercept)

    def coefficients(self) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Return the mean of the weights (n_outputs, n_features), and of the intercepts."""
        mean = self.posterior.mean.T.numpy(force=True)
        if self.has_intercept:
            return mean[:, :-1].copy(), mean[:, -1].copy()
        return mean.copy(), np.zeros(len(mean))

    def under(self, rules: Rules) -> Self:
        """Return the model with other rules; itself if they are the same."""
        return self if rules == self.rules else replace(self, rules=rules)

    @property
    def class_weights(self) -> NDArray[np.float64]:
        """Weight of one label of each class, (K,)."""
        weights = self.rules.class_weights
        return np.ones(len(self.classes)) if weights is None else np.array(weights)

    @property
    def link(self) -> Link:
        """Function from Gaussian logits to the logits of a prediction."""
        return LINKS[self.rules.predictive]

    def without_posterior(self) -> Self:
        """Return the model without what is large: it predicts from known logits and variances."""
        return replace(self, posterior=None, memory=None)  # type: ignore[arg-type]

    def completed(self, features: Any) -> torch.Tensor:
        """Return phi (n, D): features with the constant 1, in the dtype of the posterior."""
        like = self.posterior.prior_mean
        return completed(features, like.dtype, like.device, has_intercept=self.has_intercept)

    def gaussian_logits(
        self,
        n_rows: int,
        rows: Callable[[slice], torch.Tensor],
        variance: Callable[[torch.Tensor], torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return means (n, C) and variances (n,) or (n, C) of logits, some rows at a time.

        ``rows`` gives phi (m, D) of a slice of the inputs, so that no wide copy of all is made.
        """
        parts = (rows(slice(i, i + _ROWS_AT_ONCE)) for i in range(0, n_rows, _ROWS_AT_ONCE))
        found = [(self.posterior.logits(phi), variance(phi)) for phi in parts]
        means, variances = zip(*found, strict=True)
        return torch.cat(means), torch.cat(variances)

    def calibrated(self, mean: torch.Tensor, variance: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, C) of a prediction from Gaussian ones."""
        return self.calibration.apply(self.link, mean, variance)

    def drawn_weights(self, n_samples: int, seed: int | None = None) -> Iterator[torch.Tensor]:
        """Yield weights (s, D, C) drawn from the calibrated posterior."""
        seed = self.seed if seed is None else seed
        return sampled_weights(self.posterior, self.calibration, n_samples, seed)

    def averaged(
        self, n_rows: int, rows: Callable[[slice], torch.Tensor], n_samples: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return probabilities (n, K) averaged over draws, and their mean entropies (n,)."""
        weights = self.drawn_weights(n_samples)
        return averaged(weights, rows, n_rows, self.likelihood, len(self.classes))

    def labelled(
        self, features: Any, places: NDArray[Any], weights: NDArray[np.float64]
    ) -> Labelled:
        """Return labels of features (n, n_features), see :func:`labelled`."""
        return labelled(self.completed(features), places, weights, self.likelihood)

    def decrement(self, data: Labelled) -> float:
        """Return the distance of the mean to the MAP of labels, in standard deviations."""
        prior = IsotropicPrior(self.posterior.prior_mean, self.posterior.prior_precision)
        _, gradient, _ = InMemory(data, prior).at(self.posterior.mean)
        return float(self.posterior.norm(gradient))  # eq-decrement

    def updated(self, data: Labelled) -> tuple[Self, Mode | None]:
        """Return the model that has learnt labels, each predicted before it is learnt.

        With it comes the mode of all that is remembered, or None if nothing is.
        """
        before, memory = self, self._memory_to_extend()
        if self.rules.forgetting < 1:
            before, memory, data = self._faded(memory, data)
        update = RememberingUpdate(before.update_rule)
        posterior = before._conditioned(before.posterior, data, update)
        for _ in range(self.rules.n_passes - 1):
            posterior = before._conditioned(posterior, data, before.update_rule)
        predicted = LeftOut(*(on_device(np.array(part), data.weights) for part in update.predicted))
        calibration = before.calibration
        if self.rules.calibration == "loo":
            calibration = calibration.with_labels(
                Observation(self.link, data.likelihood, predicted, data.targets, data.weights)
            )
        later = replace(
            before,
            posterior=posterior,
            calibration=calibration,
            memory=None,
            report=self.report._replace(log_evidence=None, evidence_slope=None),
        )
        if memory is None:
            return later, None
        if self.rules.curvature == "secant":
            learnt = on_device(np.array(update.learnt), data.weights)
            memory = before._steepened(memory, data, predicted, learnt, posterior)
        memory = memory.add(data.features, data.targets, self.rules.n_passes * data.weights)
        return later._refit_on(memory)

    def with_classes(self, classes: NDArray[Any]) -> Self:
        """Return the model with more classes, sorted; the new ones start from the prior."""
        posterior = self.posterior
        if posterior.mean.shape[1] == 1:
            posterior = posterior.as_two_outputs()
        mean = posterior.mean
        choose_structure(
            self.structure.name, len(mean), len(classes), dtype=mean.dtype, device=mean.device
        )
        positions = torch.as_tensor(np.searchsorted(classes, self.classes)).to(mean.device)
        posterior = posterior.with_outputs(positions, len(classes))
        memory = self.memory
        if memory is not None:
            if isinstance(memory.prior, IsotropicPrior):
                memory = memory.with_classes(positions, posterior.prior_mean)
            else:  # what is remembered goes on as a Gaussian
                memory = Memory.of_posterior(posterior)
        report = FitReport(n_iter=self.report.n_iter)
        return replace(self, posterior=posterior, classes=classes, memory=memory, report=report)

    def merged(self, other: Self, since: Self | None) -> Self:
        """Return the model of all labels that two have learnt separately.

        Both started from ``since``; None stands for the prior.
        """
        calibration = Calibration() if since is None else since.calibration
        return replace(
            self,
            posterior=self.posterior.merge(
                other.posterior, None if since is None else since.posterior
            ),
            calibration=self.calibration.merge(other.calibration, calibration),
        )

    def _faded(self, memory: Memory | None, data: Labelled) -> tuple[Self, Memory | None, Labelled]:
        """Return model, memory and labels with the weights that they have once all are learnt.

        Each label fades what came before it, the earlier ones of the same call included.
        """
        forgetting, weights = self.rules.forgetting, data.weights
        n_later = torch.arange(len(weights) - 1, -1, -1).to(weights)
        share = forgetting ** len(weights)
        model = replace(
            self,
            posterior=self.posterior.forget(share),
            calibration=self.calibration.forget(share),
        )
        memory = None if memory is None else memory.forget(share)
        return model, memory, data._replace(weights=weights * forgetting**n_later)

    def _memory_to_extend(self) -> Memory | None:
        """Return the memory before an update; None if labels are not to be remembered."""
        size, forgetting = self.rules.memory_size, self.rules.forgetting
        if size == 0:
            return None
        memory = Memory.of_posterior(self.posterior) if self.memory is None else self.memory
        is_whole = size is None and isinstance(memory.prior, IsotropicPrior)
        if forgetting < 1 and not is_whole:
            raise ValueError(
                "forgetting < 1 needs memory_size=0, or memory_size=None from the first label on; "
                f"got memory_size={size}, with which some labels may not be kept."
            )
        return memory

    def _conditioned(self, posterior: Posterior, data: Labelled, update: UpdateRule) -> Posterior:
        try:
            return posterior.condition(data.features, data.targets, data.weights, update)
        except (ArithmeticError, torch.linalg.LinAlgError) as error:
            raise ValueError(
                "X or sample_weight is too large beside prior_precision="
                f"{posterior.prior_precision:g} to be learnt: {error}. Scale the features, e.g. "
                "with StandardScaler."
            ) from error

    def _steepened(
        self,
        memory: Memory,
        data: Labelled,
        predicted: LeftOut,
        learnt: torch.Tensor,
        posterior: Posterior,
    ) -> Memory:
        """Return the memory with what it has dropped steepened, as the posterior is by labels."""
        mean = data.likelihood.mean
        at_prior = prior_variance(data.features, posterior.prior_precision)[:, None]
        growth = steepening(mean(predicted.logits), mean(learnt), predicted.variance, at_prior)
        return memory.steepened(data.features, growth, posterior.mean, self.structure)

    def _refit_on(self, memory: Memory) -> tuple[Self, Mode]:
        """Move the mean to the mode of all that is remembered, and drop what is too much."""
        likelihood, size = self.likelihood, self.rules.memory_size
        mode = find_mode(
            memory.labelled(likelihood),
            memory.prior,
            self.posterior.mean,
            max_iter=self.rules.max_iter,
            tol=MEMORY_TOLERANCE,
        )
        posterior = self.posterior.with_mean(mode.mean)
        stiffening = None
        if self.rules.curvature == "secant" and size is not None:
            leaving = memory.features[: max(len(memory.features) - size, 0)]
            variance = posterior.predictive_variance(leaving)
            variance = variance if variance.ndim == 2 else variance[:, None]
            probabilities = likelihood.mean(leaving @ mode.mean)
            stiffening = open_stiffening(probabilities, variance, _SHARE_OF_LEAVING)
        memory = memory.keep(size, mode.mean, likelihood, self.structure, stiffening)
        return replace(self, posterior=posterior, memory=memory), mode


def completed(
    features: Any, dtype: torch.dtype, device: torch.device, *, has_intercept: bool
) -> torch.Tensor:
    """Return phi (n, D): features as a tensor, with the constant 1 if there is an intercept."""
    features = torch.tensor(features, dtype=dtype, device=device)
    check_size(features, dtype)
    return with_constant(features, has_intercept=has_intercept)


def with_constant(features: torch.Tensor, *, has_intercept: bool) -> torch.Tensor:
    """Return phi (n, D): features (n, n_features), and the constant 1 if there is an intercept."""
    return functional.pad(features, (0, 1), value=1.0) if has_intercept else features


def labelled(
    phi: torch.Tensor,
    places: NDArray[Any],
    weights: NDArray[np.float64],
    likelihood: Likelihood,
) -> Labelled:
    """Return labelled instances from phi (n, D).

    ``places`` are the indices (n,) of their classes, or the probabilities (n, K) of all.
    """
    encode = likelihood.encode if places.ndim == 1 else likelihood.soft
    targets = encode(phi.new_tensor(places))
    return Labelled(phi, targets, phi.new_tensor(weights), likelihood)


def check_size(features: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse features whose products would overflow in the dtype of a posterior."""
    if torch.linalg.vector_norm(features, ord=torch.inf) > largest_feature(dtype):
        raise ValueError(
            f"X is too large: products of the features overflow in {dtype}. Scale the features, "
            "e.g. with StandardScaler."
        )


def largest_feature(dtype: torch.dtype) -> float:
    """Return the largest number that a feature may be: its square is far from overflow."""
    return torch.finfo(dtype).max ** 0.4
