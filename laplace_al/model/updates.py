"""What one label does to the posterior: the step of the mean and the weight in the precision.

An update maps the logits and variance of an instance *before* its label is known to
``(coefficients, curvature)`` with

    W      <- W + u a^T,                     u = Sigma_old phi, a the coefficients (C,)
    Sigma  <- Sigma - h / (1 + h v) u u^T,   h the curvature, weight included (eq-covariance)

where v and h are (1,) for a shared covariance and (C,) for one of each output: NumPy vectors of one
instance. Posteriors and pools share the very same numbers. Where outputs are correlated, v is
their covariance V (C, C) and the curvature is given by a root B (C, C), H = B B^T, as tensors.
What the variance was under the prior, phi^T phi / lambda, only a stiffened :class:`MapUpdate` asks.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from laplace_al._common.typing import UpdateRule, Vector
from laplace_al.model.curvatures import open_stiffening, per_class_curvature, steepening
from laplace_al.model.likelihoods import (
    Likelihood,
    Mean,
    coupled_mode_coefficients,
    mode_coefficients,
    mode_coefficients_at_once,
)
from laplace_al.model.posterior.full import common_shift


class NewtonUpdate(NamedTuple):
    """One Newton step per label: ``W += step_size Sigma_new phi s (y - p)^T``.

    Huseljic et al., *Efficient Bayesian Updates for Deep (Active) Learning via Laplace
    Approximations*, arXiv 2210.06112. With ``Sigma_new phi = Sigma_old phi / (1 + h v)``.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    curvature : callable
        Mean of the targets (C,) to weights in the precision, (1,) or (C,).
    step_size : float
        gamma, > 0.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> update = NewtonUpdate(Bernoulli(), lambda mean: np.ones(1), step_size=1.0)
    >>> one = np.ones(1)
    >>> update(0 * one, one, one, 1.0)
    (array([0.25]), array([1.]))
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
        """Logits (C,), variance (1,) or (C,), target (C,) and a weight to a and h."""
        _, residual, mean = self.likelihood.learn(logits, target)
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
        """Many labels, each on its own: tensors (n, C), (n, G), (n, C) and (n, 1) to a and h."""
        _, residual, mean = self.likelihood.loss_and_derivatives(logits, targets)
        curvature = weights * self.curvature(mean)
        return self.step_size * weights * residual / (1.0 + curvature * variance), curvature


class MapUpdate(NamedTuple):
    """The exact mode of the current Gaussian times the likelihood of the label.

    Needs no step size and cannot overshoot; the curvature is taken at the new mode.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    curvature : callable
        Mean of the targets (C,) to weights in the precision, (1,) or (C,).
    is_stiffened : bool, default=False
        Whether :func:`laplace_al.model.curvatures.open_stiffening` multiplies those of several
        outputs, and :func:`laplace_al.model.curvatures.steepening` is added.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al.model.curvatures import per_class_curvature
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> update = MapUpdate(Bernoulli(), per_class_curvature)
    >>> one = np.ones(1)
    >>> step, curvature = update(0 * one, one, one, 1.0)
    >>> np.allclose(step, 1 / (1 + np.exp(step)))  # z = 0 and v = 1: a = y - p(a)
    True
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
        """Logits (C,), variance (1,) or (C,), target (C,) and a weight to a and h."""
        # the minimum of eq-one-label lies where eq-mode says
        # a = s (y - p(z + v a)): the mode depends on s v alone
        scaled, mean = mode_coefficients(self.likelihood, logits, weight * variance, target)
        if not self.is_stiffened:
            return weight * scaled, weight * self.curvature(mean)
        _, _, before = self.likelihood.learn(logits, target)
        curvature = self.curvature(mean)
        if len(variance) > 1:  # else all logits are equally well known
            curvature = curvature * open_stiffening(mean, variance)
        grown = steepening(before, mean, variance, prior_variance)
        return weight * scaled, weight * curvature + grown

    def at_once(
        self,
        logits: torch.Tensor,
        variance: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        prior_variance: torch.Tensor | float = np.inf,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Many labels, each on its own: tensors (n, C), (n, G), (n, C) and (n, 1) to a and h."""
        scaled, mean = mode_coefficients_at_once(
            self.likelihood, logits, weights * variance, targets
        )
        if not self.is_stiffened:
            return weights * scaled, weights * self.curvature(mean)
        before = self.likelihood.mean(logits)
        curvature = self.curvature(mean)
        if variance.shape[1] > 1:
            curvature = curvature * open_stiffening(mean, variance)
        grown = steepening(before, mean, variance, prior_variance)
        return weights * scaled, weights * curvature + grown


class CoupledNewtonUpdate(NamedTuple):
    """:class:`NewtonUpdate` for correlated logits: ``Sigma_new Phi = Sigma_old Phi (I + H V)^-1``.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    curvature_root : callable
        Mean of the targets (1, C) of an instance to a root (C, C) of its curvature.
    step_size : float
        gamma, > 0.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> update = CoupledNewtonUpdate(Bernoulli(), lambda mean: torch.ones(1, 1), step_size=1.0)
    >>> one = torch.ones(1, 1)
    >>> update(0 * one, one, one, one[0])
    (tensor([[0.2500]]), tensor([[1.]]))
    """

    likelihood: Likelihood
    curvature_root: Callable[[Mean[torch.Tensor]], torch.Tensor]
    step_size: float = 1.0

    def __call__(
        self,
        logits: torch.Tensor,
        covariance: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        prior_variance: torch.Tensor | float = np.inf,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (1, C), covariance (C, C), targets (1, C), weights (1,) to a and B."""
        root = weights.sqrt() * self.curvature_root(self.likelihood.mean(logits))
        identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
        damped = identity + root @ (root.T @ covariance)
        residual = self.step_size * weights * self.likelihood.residual(logits, targets)
        return torch.linalg.solve(damped, residual.T).T, root


class CoupledMapUpdate(NamedTuple):
    """:class:`MapUpdate` for correlated logits.

    Parameters
    ----------
    likelihood : Bernoulli or Categorical
    curvature_root : callable
        Mean of the targets (1, C) of an instance to a root (C, C) of its curvature.
    is_stiffened : bool, default=False
        Whether its rows are scaled, so that the diagonal of the curvature is multiplied and added
        to as in :class:`MapUpdate`, with the variances of the contrasts.

    Examples
    --------
    >>> from laplace_al.model.curvatures import full_curvature_root
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> update = CoupledMapUpdate(Bernoulli(), full_curvature_root)
    >>> one = torch.ones(1, 1)
    >>> step, _ = update(0 * one, one, one, one[0])
    >>> torch.allclose(step, 1 - torch.sigmoid(step))
    True
    """

    likelihood: Likelihood
    curvature_root: Callable[[Mean[torch.Tensor]], torch.Tensor]
    is_stiffened: bool = False

    def __call__(
        self,
        logits: torch.Tensor,
        covariance: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        prior_variance: torch.Tensor | float = np.inf,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (1, C), covariance (C, C), targets (1, C), weights (1,) to a and B."""
        scaled, shifted = coupled_mode_coefficients(
            self.likelihood, logits, weights * covariance, targets
        )
        mean = self.likelihood.mean(shifted)
        root = self.curvature_root(mean)
        if not self.is_stiffened:
            return weights * scaled, weights.sqrt() * root
        variance, share = contrast_variance(covariance)[None], 1 - 1 / len(covariance)
        prior_variance = prior_variance * (share or 1.0)
        grown = steepening(self.likelihood.mean(logits), mean, variance, prior_variance)
        curvature = per_class_curvature(mean).clamp_min(torch.finfo(root.dtype).tiny)
        factor = weights * open_stiffening(mean, variance) + grown / curvature
        return weights * scaled, factor.clamp_max(torch.finfo(root.dtype).max).sqrt().T * root


def contrast_variance(covariance: torch.Tensor) -> torch.Tensor:
    """Variance of each of some correlated logits, less their mean, which softmax ignores.

    Parameters
    ----------
    covariance : Tensor of shape (C, C)

    Returns
    -------
    Tensor of shape (C,)
        Of a single logit, which is a contrast, its own variance.

    Examples
    --------
    >>> contrast_variance(torch.eye(2)), contrast_variance(torch.eye(1))
    (tensor([0.5000, 0.5000]), tensor([1.]))
    """
    rows = covariance - common_shift(covariance)
    return (rows - common_shift(rows.T).T).diagonal()  # eq-contrast


Rule: TypeAlias = NewtonUpdate | MapUpdate | CoupledNewtonUpdate | CoupledMapUpdate


class ExpectedUpdate(NamedTuple):
    """What a label does on average over the prediction: the mean stays, the variance shrinks.

    Parameters
    ----------
    update : callable
        The rule whose likelihood and curvature are used, at the logits as they are.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> one = np.ones(1)
    >>> ExpectedUpdate(NewtonUpdate(Bernoulli(), lambda mean: np.ones(1)))(0 * one, one, one, 2.0)
    (array([0.]), array([2.]))
    """

    update: Rule

    def __call__(
        self, logits: Any, variance: Any, target: Any, weight: Any, prior_variance: Any = np.inf
    ) -> tuple[Any, Any]:
        """Zero and the curvature; the target is not looked at."""
        if isinstance(self.update, CoupledNewtonUpdate | CoupledMapUpdate):
            mean = self.update.likelihood.mean(logits)
            return 0 * logits, weight.sqrt() * self.update.curvature_root(mean)
        _, _, mean = self.update.likelihood.learn(logits, target)
        return 0 * logits, weight * self.update.curvature(mean)


class Recording:
    """An update rule that remembers what it saw of each label.

    Parameters
    ----------
    update : callable
        A rule of this module.

    Attributes
    ----------
    predicted : tuple of list
        Logits (C,) and variances (1,) or (C,) of each instance before it was learnt.
    learnt : list
        Logits (C,) of each instance at the new mode.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> rule, one = Recording(NewtonUpdate(Bernoulli(), lambda mean: np.ones(1))), np.ones(1)
    >>> rule(0 * one, one, one, 1.0)
    (array([0.25]), array([1.]))
    >>> rule.predicted, rule.learnt
    (([array([0.])], [array([1.])]), [array([0.25])])
    """

    def __init__(self, update: UpdateRule) -> None:
        self.update = update
        self.predicted: tuple[list[Vector], list[Vector]] = [], []
        self.learnt: list[Vector] = []

    def __call__(
        self, logits: Any, variance: Any, target: Any, weight: Any, prior_variance: Any = np.inf
    ) -> tuple[Any, Any]:
        """What the rule says of it."""
        coefficients, curvature = self.update(logits, variance, target, weight, prior_variance)
        if isinstance(logits, torch.Tensor):  # of one instance whose logits are correlated
            seen = logits[0].numpy(), contrast_variance(variance).numpy()
            self.learnt.append((logits + coefficients @ variance)[0].numpy())
        else:
            seen = logits, variance
            self.learnt.append(logits + variance * coefficients)
        for parts, part in zip(self.predicted, seen, strict=True):
            parts.append(part)
        return coefficients, curvature
