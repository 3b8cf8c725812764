"""The maximum a posteriori (MAP) of the last layer, by Newton steps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch

from laplace_al.model.curvatures import per_class_curvature
from laplace_al.model.likelihoods import Likelihood, Mean
from laplace_al.model.priors import Prior

_MAX_CG_STEPS = 500
_MAX_HALVINGS = 60
_PATIENCE = 20  # steps that are solved loosely
_LOOSE = 0.25
_CAREFUL = 0.1
_SOLVED = 1e-5
_SURE = 2  # small steps of conjugate gradients in a row, after which the next are small as well
_SETTLED = 0.3  # of a logit: curvatures change by less than a third


class Labelled(NamedTuple):
    """Labelled instances of a last layer.

    Parameters
    ----------
    features : Tensor of shape (n, D)
    targets : Tensor of shape (n, C)
    weights : Tensor of shape (n,)
    likelihood : Bernoulli or Categorical
    """

    features: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor
    likelihood: Likelihood


class Mode(NamedTuple):
    """Where the search for the MAP ended.

    Parameters
    ----------
    mean : Tensor of shape (D, C)
        The weights.
    n_iter : int
        Newton steps taken.
    distance : float
        Estimated distance to the MAP, in standard deviations of the posterior.
    converged : bool
        Whether the distance is within the tolerance, or within what the dtype can resolve.
    """

    mean: torch.Tensor
    n_iter: int
    distance: float
    converged: bool


class Objective(Protocol):
    """What the MAP minimises, negative log-likelihood and prior, wherever the labels are.

    A point is what it has found out at some weights W (D, C), for the other methods.
    """

    def at(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Value (), gradient (D, C), and the point, at W."""

    def product(self, point: Any, direction: torch.Tensor) -> torch.Tensor:
        """Second derivative times a direction (D, C)."""

    def root(self, point: Any) -> torch.Tensor:
        """Root (D, D) of the inverse of the second derivative, as a mean over the outputs."""

    def moved(self, point: Any, other: Any) -> float:
        """Largest change of a logit between two points."""


def find_mode(
    data: Labelled,
    prior: Prior,
    start: torch.Tensor,
    *,
    max_iter: int,
    tol: float,
) -> Mode:
    """Minimise ``sum s CE(y, Phi W) + prior(W)`` over W, the prior ``lambda / 2 |W|^2``, say.

    Newton steps, each solved by conjugate gradients that are preconditioned with the shared
    covariance (one D x D factor for all outputs), with backtracking. Convex: any start
    leads to the one MAP.

    Parameters
    ----------
    data : Labelled
    prior : IsotropicPrior or GaussianPrior
    start : Tensor of shape (D, C)
    max_iter : int
        Newton steps at most.
    tol : float
        Distance to the MAP, in standard deviations of the posterior, that counts as there.

    Returns
    -------
    Mode

    Raises
    ------
    ValueError
        If the prior is lost to rounding beside the features.

    Examples
    --------
    >>> import torch
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> from laplace_al.model.priors import IsotropicPrior
    >>> one = torch.ones(1, 1, dtype=torch.float64)
    >>> prior = IsotropicPrior(0 * one, 1.0)
    >>> data = Labelled(one, one, one[0], Bernoulli())
    >>> mode = find_mode(data, prior, 0 * one, max_iter=20, tol=1e-8)
    >>> torch.allclose(mode.mean, 1 - torch.sigmoid(mode.mean))  # lambda w = y - p
    True
    """
    return minimise(InMemory(data, prior), start, max_iter=max_iter, tol=tol)


class _Point(NamedTuple):
    """Logits and probabilities (n, C)."""

    logits: torch.Tensor
    probabilities: Mean[torch.Tensor]


class InMemory(NamedTuple):
    """An :class:`Objective` of labels that are at hand.

    Parameters
    ----------
    data : Labelled
    prior : IsotropicPrior or GaussianPrior
    """

    data: Labelled
    prior: Prior

    def at(self, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, _Point]:
        """See :meth:`Objective.at`."""
        features, targets, weights, likelihood = self.data
        logits = features @ mean
        loss, residual, probabilities = likelihood.loss_and_derivatives(logits, targets)
        value = weights @ loss + self.prior.value(mean)  # eq-objective
        # eq-gradient
        gradient = self.prior.gradient(mean) - features.T @ (weights[:, None] * residual)
        return value, gradient, _Point(logits, probabilities)

    def product(self, point: _Point, direction: torch.Tensor) -> torch.Tensor:
        """See :meth:`Objective.product`."""
        features, _, weights, likelihood = self.data
        curved = likelihood.hessian_product(point.probabilities, features @ direction)
        return features.T @ (weights[:, None] * curved) + self.prior.product(direction)

    def root(self, point: _Point) -> torch.Tensor:
        """See :meth:`Objective.root`."""
        curvature = per_class_curvature(point.probabilities).mean(dim=1, keepdim=True)
        return self.prior.shared_root(self.data.features, self.data.weights[:, None] * curvature)

    def moved(self, point: _Point, other: _Point) -> float:
        """See :meth:`Objective.moved`."""
        return float((other.logits - point.logits).abs().max())


def minimise(objective: Objective, start: torch.Tensor, *, max_iter: int, tol: float) -> Mode:
    """Minimise an objective by the steps of :func:`find_mode`.

    Parameters
    ----------
    objective : Objective
    start : Tensor of shape (D, C)
    max_iter : int
    tol : float

    Returns
    -------
    Mode

    Examples
    --------
    >>> class Parabola:  # (w - 3)^2 / 2
    ...     def at(self, mean):
    ...         return ((mean - 3) ** 2 / 2).sum(), mean - 3, None
    ...     def product(self, point, direction):
    ...         return direction
    ...     def root(self, point):
    ...         return torch.ones(1, 1)
    ...     def moved(self, point, other):
    ...         return 0.0
    >>> minimise(Parabola(), torch.zeros(1, 1), max_iter=1, tol=1e-3).mean
    tensor([[3.]])
    """
    mean, moved, distance, is_careful = start, float("inf"), float("inf"), False
    value, gradient, point = objective.at(mean)
    rounding = torch.finfo(start.dtype).eps
    sure = _SURE if start.shape[1] > 1 else 1  # the root of one logit is that of its curvature
    for n_iter in range(max_iter + 1):
        if moved > _SETTLED:  # else the curvature has hardly changed
            root = objective.root(point)
        product = functools.partial(objective.product, point)
        # The root has one curvature for all classes: in those of less the distance is longer.
        guess = float(torch.linalg.vector_norm(root.T @ gradient))
        resolution = rounding**0.5 * (1 + float(value.abs().sqrt()))
        seems_near = guess <= max(tol, resolution)
        is_careful = is_careful or seems_near or n_iter >= min(_PATIENCE, max_iter)
        known, loosest, n_small = (distance, _CAREFUL, sure) if is_careful else (guess, _LOOSE, 1)
        # quadratic convergence near the mode, and no digit beyond the tolerance
        forcing = min(loosest, max(known, tol / (2 * known)))
        step = conjugate_gradients(product, -gradient, root, tol=forcing, n_small=n_small)
        descent = (gradient * step).sum()
        if is_careful:
            # -g^T x = x^T H x, whichever step of conjugate gradients x is
            before, distance = distance, float((-descent).clamp_min(0)) ** 0.5
            is_stuck = before <= distance <= resolution  # the dtype resolves no more
            if distance <= tol or is_stuck or n_iter == max_iter:
                mean = mean + step if distance <= tol else mean
                break
        bound = value + 4 * rounding * (1 + value.abs())
        for _ in range(_MAX_HALVINGS):
            new_value, new_gradient, new_point = objective.at(mean + step)
            if new_value <= bound + 1e-4 * descent:
                break
            step, descent = step / 2, descent / 2
        else:  # no step decreases the objective
            distance = distance if is_careful else guess
            break
        moved = objective.moved(point, new_point)
        mean, value, gradient, point = mean + step, new_value, new_gradient, new_point
    return Mode(mean, n_iter, distance, distance <= max(tol, resolution))


def solve_hessian(objective: Objective, mean: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """X in H X = right, with the second derivative H of an objective at W.

    Parameters
    ----------
    objective : Objective
    mean : Tensor of shape (D, C)
        W.
    right : Tensor of shape (D, C)

    Returns
    -------
    Tensor of shape (D, C)
        To five digits, in the norm of H.

    Examples
    --------
    >>> from laplace_al.model.likelihoods import Bernoulli
    >>> from laplace_al.model.priors import IsotropicPrior
    >>> one = torch.ones(1, 1)
    >>> data = InMemory(Labelled(one, one, one[0], Bernoulli()), IsotropicPrior(0 * one, 1.0))
    >>> solve_hessian(data, 0 * one, one)  # 1 / (1 + 1/4)
    tensor([[0.8000]])
    """
    _, _, point = objective.at(mean)
    product = functools.partial(objective.product, point)
    return conjugate_gradients(product, right, objective.root(point), tol=_SOLVED, n_small=_SURE)


def conjugate_gradients(
    operator: Callable[[torch.Tensor], torch.Tensor],
    right: torch.Tensor,
    root: torch.Tensor,
    *,
    tol: float,
    n_small: int,
) -> torch.Tensor:
    """x in operator(x) = right, by preconditioned conjugate gradients.

    Parameters
    ----------
    operator : callable
        Product with a symmetric positive definite matrix: (D, C) to (D, C).
    right : Tensor of shape (D, C)
    root : Tensor of shape (D, D)
        R of the preconditioner R R^T.
    tol : float
        Relative, in the norm of the operator.
    n_small : int
        How many steps in a row must be small to end it. One may be small by chance, where the
        preconditioner is poor.

    Returns
    -------
    Tensor of shape (D, C)

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> conjugate_gradients(lambda x: 4 * x, one, one, tol=0.1, n_small=1)
    tensor([[0.2500]])
    """
    solution = torch.zeros_like(right)
    residual = right
    preconditioned = root @ (root.T @ residual)
    direction = preconditioned
    energy = (residual * preconditioned).sum()
    resolved = 16 * torch.finfo(right.dtype).eps ** 2 * energy
    gained = n_in_a_row = torch.zeros_like(energy)
    for _ in range(_MAX_CG_STEPS):
        if (energy <= resolved) | (n_in_a_row == n_small):  # one look at the device
            break
        image = operator(direction)
        length = energy / (direction * image).sum()
        solution = solution + length * direction
        residual = residual - length * image
        gained = gained + length * energy
        preconditioned = root @ (root.T @ residual)
        new_energy = (residual * preconditioned).sum()
        # x^T operator(x) is the sum of the gains so far, that of the error the sum of those to
        # come: the next one, if the length stays, and more
        n_in_a_row = (n_in_a_row + 1) * (length * new_energy <= tol**2 / 2 * gained)
        direction = preconditioned + new_energy / energy * direction
        energy = new_energy
    return solution
