"""Updates of the posterior by one label: the step of the mean and the weight in the precision.

An update maps the logits and variance of an instance *before* its label is known to
``(coefficients, curvature)`` with

    W      <- W + u a^T,                     u = Sigma_old phi, a the coefficients (C,)
    Sigma  <- Sigma - h / (1 + h v) u u^T,   h the curvature, weight included (eq-covariance)

where v and h are (1,) for a shared covariance and (C,) for one of each output. Where outputs are
correlated, v is their covariance V (C, C) and the curvature is given by a root B (C, C), H = B B^T.
All are NumPy vectors and matrices of one instance; posteriors and pools share the very same
numbers. Its variance under the prior, phi^T phi / lambda, only a stiffened update asks for.
"""

import functools
import importlib.util
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch

from laplace_al._common.typing import Numbers, UpdateRule, Vector
from laplace_al._common.warn import warn_user
from laplace_al.model.curvatures import (
    open_stiffening,
    per_class_curvature,
    per_class_unit_curvature,
    shared_curvature,
    shared_unit_curvature,
    steepening,
)
from laplace_al.model.label_mode import (
    coupled_mode_coefficients,
    mode_coefficients,
    mode_coefficients_at_once,
)
from laplace_al.model.likelihoods import Likelihood, Mean

if TYPE_CHECKING:
    from laplace_al.model.compiled import Learnt


_IS_GAUSSIAN = {
    shared_curvature: False,
    per_class_curvature: False,
    shared_unit_curvature: True,
    per_class_unit_curvature: True,
}


class Block(NamedTuple):
    """What is known of b instances before they are learnt: arrays of float64.

    The rows l_i (b, G, k) of eq-block, logits and targets (b, C), weights (b,) and variances under
    the prior (b,).
    """

    rows: Vector
    logits: Vector
    targets: Vector
    weights: Vector
    prior_variance: Vector


class NewtonUpdate(NamedTuple):
    """One Newton step per label: ``W += step_size Sigma_new phi s (y - p)^T``.

    ``curvature`` maps the mean of the targets to weights in the precision, (1,) or (C,).

    Huseljic et al., *Efficient Bayesian Updates for Deep (Active) Learning via Laplace
    Approximations*, arXiv 2210.06112. With ``Sigma_new phi = Sigma_old phi / (1 + h v)``.
    """

    likelihood: Likelihood
    curvature: Callable[[Any], Any]
    step_size: float = 1.0

    def __call__(
        self,
        logits: Vector,
        variance: Vector,
        target: Vector,
        weight: float,
        prior_variance: float = np.inf,
    ) -> tuple[Vector, Vector]:
        """Map logits (C,), variance (1,) or (C,), target (C,) and a weight to a and h."""
        _, residual, mean = self.likelihood.loss_and_derivatives_of_one(logits, target)
        curvature = weight * self.curvature(mean)
        # eq-newton
        return self.step_size * weight / (1.0 + curvature * variance) * residual, curvature

    def at_once(
        self,
        logits: torch.Tensor,
        variance: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        prior_variance: torch.Tensor | float = np.inf,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map many labels, each on its own: tensors (n, C), (n, G), (n, C) and (n, 1)."""
        _, residual, mean = self.likelihood.loss_and_derivatives(logits, targets)
        curvature = weights * self.curvature(mean)
        return self.step_size * weights * residual / (1.0 + curvature * variance), curvature


class MapUpdate(NamedTuple):
    """The exact mode of the current Gaussian times the likelihood of the label.

    It needs no step size and cannot overshoot; the curvature is taken at the new mode. If it
    ``is_stiffened``, :func:`~laplace_al.model.curvatures.open_stiffening` multiplies that of
    several outputs, and :func:`~laplace_al.model.curvatures.steepening` is added.
    """

    likelihood: Likelihood
    curvature: Callable[[Any], Any]
    is_stiffened: bool = False

    def __call__(
        self,
        logits: Vector,
        variance: Vector,
        target: Vector,
        weight: float,
        prior_variance: float = np.inf,
    ) -> tuple[Vector, Vector]:
        """Map logits (C,), variance (1,) or (C,), target (C,) and a weight to a and h."""
        # the minimum of eq-one-label lies where eq-mode says
        # a = s (y - p(z + v a)): the mode depends on s v alone
        scaled, mean = mode_coefficients(self.likelihood, logits, weight * variance, target)
        if not self.is_stiffened:
            return weight * scaled, weight * self.curvature(mean)
        _, _, before = self.likelihood.loss_and_derivatives_of_one(logits, target)
        return weight * scaled, self._stiffened(before, mean, variance, weight, prior_variance)

    def at_once(
        self,
        logits: torch.Tensor,
        variance: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        prior_variance: torch.Tensor | float = np.inf,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Map many labels, each on its own: tensors (n, C), (n, G), (n, C) and (n, 1)."""
        variances = weights * variance
        scaled, mean = mode_coefficients_at_once(self.likelihood, logits, variances, targets)
        if not self.is_stiffened:
            return weights * scaled, weights * self.curvature(mean)
        before = self.likelihood.mean(logits)
        return weights * scaled, self._stiffened(before, mean, variance, weights, prior_variance)

    def _stiffened(
        self, before: Mean[Numbers], mean: Mean[Numbers], variance: Numbers, weight: Any, prior: Any
    ) -> Numbers:
        """Return the curvature of one or many labels, given p before and after them."""
        curvature = self.curvature(mean)
        if variance.shape[-1] > 1:  # else all logits are equally well known
            curvature = curvature * open_stiffening(mean, variance)
        return weight * curvature + steepening(before, mean, variance, prior)


class CoupledNewtonUpdate(NamedTuple):
    """:class:`NewtonUpdate` for correlated logits: ``Sigma_new Phi = Sigma_old Phi (I + H V)^-1``.

    ``curvature_root`` maps the mean of the targets to a root (C, C) of the curvature.
    """

    likelihood: Likelihood
    curvature_root: Callable[[Any], Any]
    step_size: float = 1.0

    def __call__(
        self,
        logits: Vector,
        covariance: Vector,
        target: Vector,
        weight: float,
        prior_variance: float = np.inf,
    ) -> tuple[Vector, Vector]:
        """Map logits (C,), covariance (C, C), target (C,) and a weight to a and B."""
        _, residual, mean = self.likelihood.loss_and_derivatives_of_one(logits, target)
        root = weight**0.5 * self.curvature_root(mean)
        damped = np.eye(len(logits)) + root @ (root.T @ covariance)
        return np.linalg.solve(damped, self.step_size * weight * residual), root


class CoupledMapUpdate(NamedTuple):
    """:class:`MapUpdate` for correlated logits.

    If it ``is_stiffened``, the rows of the root are scaled, so that the diagonal of the curvature
    is multiplied and added to as in :class:`MapUpdate`, with the variances of the contrasts.
    """

    likelihood: Likelihood
    curvature_root: Callable[[Any], Any]
    is_stiffened: bool = False

    def __call__(
        self,
        logits: Vector,
        covariance: Vector,
        target: Vector,
        weight: float,
        prior_variance: float = np.inf,
    ) -> tuple[Vector, Vector]:
        """Map logits (C,), covariance (C, C), target (C,) and a weight to a and B."""
        scaled, mean = coupled_mode_coefficients(
            self.likelihood, logits, weight * covariance, target
        )
        root = self.curvature_root(mean)
        if not self.is_stiffened:
            return weight * scaled, weight**0.5 * root
        _, _, before = self.likelihood.loss_and_derivatives_of_one(logits, target)
        variance, share = contrast_variance(covariance), 1 - 1 / len(covariance)
        grown = steepening(before, mean, variance, prior_variance * (share or 1.0))
        number = np.finfo(np.float64)
        curvature = per_class_curvature(mean).clip(number.tiny)
        with np.errstate(over="ignore"):
            factor = weight * open_stiffening(mean, variance) + grown / curvature
        return weight * scaled, np.sqrt(factor.clip(max=number.max))[:, None] * root


def contrast_variance(covariance: Vector) -> Vector:
    """Return the variances (C,) of logits less their mean, which softmax ignores, given V (C, C).

    A single logit is a contrast, and keeps its own.
    """
    if len(covariance) > 1:
        rows = covariance - covariance.mean(axis=0)
        covariance = rows - rows.mean(axis=1, keepdims=True)
    return covariance.diagonal()  # eq-contrast


Rule: TypeAlias = NewtonUpdate | MapUpdate | CoupledNewtonUpdate | CoupledMapUpdate


class ExpectedUpdate(NamedTuple):
    """The update by a label on average over the prediction: the mean stays, the variance shrinks.

    The likelihood and curvature are those of a rule, at the logits as they are.
    """

    update: Rule

    def __call__(
        self,
        logits: Vector,
        variance: Vector,
        target: Vector,
        weight: float,
        prior_variance: float = np.inf,
    ) -> tuple[Vector, Vector]:
        """Return zero and the curvature, or its root; the target is not looked at."""
        _, _, mean = self.update.likelihood.loss_and_derivatives_of_one(logits, target)
        if isinstance(self.update, CoupledNewtonUpdate | CoupledMapUpdate):
            return 0 * logits, weight**0.5 * self.update.curvature_root(mean)
        return 0 * logits, weight * self.update.curvature(mean)


class RememberingUpdate:
    """An update rule that remembers what it saw of each label.

    ``predicted`` holds the logits (C,) and the variances (1,) or (C,) of each instance before it
    was learnt, ``learnt`` its logits (C,) at the new mode.
    """

    def __init__(self, update: UpdateRule) -> None:
        self.update = update
        self.predicted: tuple[list[Vector], list[Vector]] = [], []
        self.learnt: list[Vector] = []

    def __call__(
        self,
        logits: Vector,
        variance: Vector,
        target: Vector,
        weight: float,
        prior_variance: float = np.inf,
    ) -> tuple[Vector, Vector]:
        """Return what the rule says of it."""
        coefficients, curvature = self.update(logits, variance, target, weight, prior_variance)
        if variance.ndim == 2:
            learnt, variance = logits + coefficients @ variance, contrast_variance(variance)
        else:
            learnt = logits + variance * coefficients
        self._remember([logits], [variance], [learnt])
        return coefficients, curvature

    def in_block(self, block: Block) -> "Learnt | None":
        """Do what :func:`learn_in_block` does, and remember it."""
        found = learn_in_block(self.update, block)
        if found is not None:
            learnt = found.logits + found.variance * found.coefficients
            self._remember(found.logits, found.variance, learnt)
        return found

    def _remember(
        self, logits: Iterable[Vector], variance: Iterable[Vector], learnt: Iterable[Vector]
    ) -> None:
        self.predicted[0].extend(logits)
        self.predicted[1].extend(variance)
        self.learnt.extend(learnt)


def learn_in_block(update: UpdateRule, block: Block) -> "Learnt | None":
    """Learn the rows of a block in compiled code, see :mod:`laplace_al.model.compiled`.

    None where numba is not installed, the rule is not among those compiled, a target is neither 0
    nor 1, or some mode was not found: the rule itself then says more.
    """
    if isinstance(update, RememberingUpdate):
        return update.in_block(block)
    if not isinstance(update, NewtonUpdate | MapUpdate) or update.curvature not in _IS_GAUSSIAN:
        return None
    compiled = _compiled()
    if compiled is None:
        return None
    is_map, is_gaussian = isinstance(update, MapUpdate), _IS_GAUSSIAN[update.curvature]
    if isinstance(update, MapUpdate):
        rest = update.is_stiffened, 1.0
    else:
        rest = False, float(update.step_size)
    rule = compiled.RuleNumbers(is_map, is_gaussian, *rest)
    try:
        found: Learnt = compiled.learn_block(rule, *map(np.ascontiguousarray, block))
    except OSError:  # no room to keep what is compiled now, and is there for the next block
        return None
    return found if found.found else None


@functools.cache
def _compiled() -> ModuleType | None:
    """Return :mod:`laplace_al.model.compiled` where numba is installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        return importlib.import_module("laplace_al.model.compiled")
    except ImportError as error:  # of a version that does not support this one of NumPy
        warn_user(f"numba cannot be imported, and labels are learnt without it: {error}")
        return None
