"""Square roots of covariances: made from a precision, and multiplied down by what is learnt.

A covariance is held as a root R with Sigma = R R^T and never formed. A label shrinks it by a
factor, R <- R (I - beta w w^T) with w = R^T phi the whitened features, so that nothing is
subtracted that could lose its sign: Sigma stays positive definite (Potter's square-root filter;
Bierman, *Factorization methods for discrete sequential estimation*, 1977). The rounding errors of
updates add up about as the root of their number: of float32 variances, a share of 2e-6 was wrong
after 1000 and of 1.4e-5 after 100,000. Roots come in batches (G, N, N): G Gaussians that learn from
the same instances.
"""

from collections.abc import Callable, Iterable, Iterator

import torch
from scipy.linalg import LinAlgWarning

from laplace_al._common.warn import warn_user

_CHUNK = 4096


def prior_root(
    n_roots: int, n_dimensions: int, prior_precision: float, like: torch.Tensor
) -> torch.Tensor:
    """Return roots (G, N, N) of the covariance I / lambda, of a tensor's dtype and device."""
    identity = torch.eye(n_dimensions, dtype=like.dtype, device=like.device)
    return (identity / prior_precision**0.5).repeat(n_roots, 1, 1)


def root_of_sum(
    features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> torch.Tensor:
    """Return roots (G, N, N) of the inverses of lambda I + Phi^T diag(h_g) Phi.

    The features are (n, N), the curvature h >= 0 (n, G). Raises ValueError if a sum overflows.
    """
    # made first: results between what is freed would keep the heap from giving it out again
    roots = features.new_empty(curvature.shape[1], features.shape[1], features.shape[1])
    for root, h in zip(roots, curvature.T, strict=True):
        root.copy_(_inverse_transpose(factor_of_sum(features, h, prior_precision)))
    return roots


def factor_of_sum(
    features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> torch.Tensor:
    """Return the lower triangular L (N, N) in lambda I + Phi^T diag(h) Phi = L L^T, h (n,) >= 0.

    Its diagonal is positive. Raises ValueError if the sum overflows.
    """

    def rows() -> Iterator[torch.Tensor]:
        for part, weights in zip(features.split(_CHUNK), curvature.split(_CHUNK), strict=True):
            yield weights.sqrt()[:, None] * part

    return _factor_of_rows(rows, prior_precision, features.shape[1], features)


def root_of_rows(
    rows: Callable[[], Iterable[torch.Tensor]],
    prior_precision: float,
    n_dimensions: int,
    like: torch.Tensor,
) -> torch.Tensor:
    """Return a root (N, N) of the inverse of lambda I + sum E^T E, over chunks E (., N) of rows.

    By Cholesky, and where the prior is nearly lost in the sum by orthogonal triangularisation of
    the rows themselves, which keeps twice as many digits: ``rows()`` is iterated over twice at
    most. Raises ValueError if the sum overflows.
    """
    return _inverse_transpose(_factor_of_rows(rows, prior_precision, n_dimensions, like))


def _factor_of_rows(
    rows: Callable[[], Iterable[torch.Tensor]],
    prior_precision: float,
    n_dimensions: int,
    like: torch.Tensor,
) -> torch.Tensor:
    precision = prior_precision * torch.eye(n_dimensions, dtype=like.dtype, device=like.device)
    for block in rows():
        precision.addmm_(block.T, block)
    if not torch.isfinite(precision).all():
        raise ValueError(
            "X is too large: products of the features overflow. Scale the features, e.g. with "
            "StandardScaler."
        )
    return accurate_factor(precision, rows, prior_precision)


def accurate_factor(
    total: torch.Tensor, rows: Callable[[], Iterable[torch.Tensor]], prior_precision: float
) -> torch.Tensor:
    """Return the lower triangular L in lambda I + sum E^T E = L L^T, given this total (N, N).

    By Cholesky, and by orthogonal triangularisation of the rows E (., N) where that has few digits
    left. The diagonal of L is positive. Warns (LinAlgWarning) if the rows have too few digits, too.
    """
    factor, failed = torch.linalg.cholesky_ex(total)
    pivots = factor.diagonal()
    epsilon = torch.finfo(pivots.dtype).eps
    # the sum holds squares: at this share of the largest pivot half of the digits are lost
    if failed or not pivots.min() > epsilon**0.25 * pivots.max():
        upper = prior_precision**0.5 * torch.eye(len(total), dtype=total.dtype, device=total.device)
        for block in rows():
            upper = triangle_of_rows(torch.cat([upper, block]))
        factor = upper.T
        pivots = factor.diagonal()
        if not pivots.min() > epsilon * pivots.max():
            _warn_of_a_lost_prior("even among their square roots")
    return factor


def triangle_of_rows(rows: torch.Tensor) -> torch.Tensor:
    """Return the upper triangular U (N, N) with U^T U = E^T E, by orthogonal triangularisation.

    E is (n, N), n >= N. No diagonal is negative, which makes U unique: it does not depend on the
    machine.
    """
    upper = torch.linalg.qr(rows, mode="r").R
    return torch.where(upper.diagonal() < 0, -1.0, 1.0).to(upper)[:, None] * upper


def root_of_precision(precision: torch.Tensor) -> torch.Tensor:
    """Return roots (G, N, N) of the inverses of precision matrices (G, N, N).

    Raises ValueError if one is not positive definite in its dtype; warns (LinAlgWarning) if fewer
    than two digits are left of its smallest eigenvalue.
    """
    factor, failed = torch.linalg.cholesky_ex(precision)
    if failed.any():
        raise ValueError(
            "prior_precision is lost beside the features: a posterior precision is singular to "
            f"working accuracy (its diagonal reaches {float(precision.abs().max()):.3g}). Scale "
            "the features, e.g. with StandardScaler, or raise prior_precision."
        )
    squares = factor.diagonal(dim1=-2, dim2=-1).square()
    if (squares.amin(dim=-1) < 100 * torch.finfo(squares.dtype).eps * squares.amax(dim=-1)).any():
        _warn_of_a_lost_prior("in sums of squares")
    return _inverse_transpose(factor)


def _warn_of_a_lost_prior(where: str) -> None:
    warn_user(
        f"prior_precision is lost beside the features {where}: the uncertainty where there are no "
        "data is wrong. Scale the features, e.g. with StandardScaler, or raise prior_precision.",
        LinAlgWarning,
    )


def precision_of_root(root: torch.Tensor) -> torch.Tensor:
    """Return the precisions R^-T R^-1 (G, N, N)."""
    inverse = torch.linalg.inv(root)
    return inverse.mT @ inverse


def _inverse_transpose(factor: torch.Tensor) -> torch.Tensor:
    """Return L^-T, a root of (L L^T)^-1."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False).mT
