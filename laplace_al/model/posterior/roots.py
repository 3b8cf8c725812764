"""Square roots of covariances: made from a precision, and multiplied down by what is learnt.

A covariance is held as a root R with Sigma = R R^T and never formed. A label shrinks it by a
factor, R <- R (I - beta w w^T) with w = R^T phi the whitened features, so that nothing is
subtracted that could lose its sign: Sigma stays positive definite (Potter's square-root filter;
Bierman, *Factorization methods for discrete sequential estimation*, 1977). The rounding errors of
updates add up about as the root of their number: of float32 variances, a share of 2e-6 was wrong
after 1000 and of 1.4e-5 after 100,000. Roots come in batches (G, N, N): G Gaussians that learn from
the same instances.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator

import torch
from scipy.linalg import LinAlgWarning

_CHUNK = 4096


def prior_root(
    n_roots: int, n_dimensions: int, prior_precision: float, like: torch.Tensor
) -> torch.Tensor:
    """Root of the covariance I / lambda.

    Parameters
    ----------
    n_roots : int
        G.
    n_dimensions : int
        N.
    prior_precision : float
        lambda > 0.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    Tensor of shape (G, N, N)

    Examples
    --------
    >>> prior_root(1, 1, 4.0, torch.zeros(1))
    tensor([[[0.5000]]])
    """
    identity = torch.eye(n_dimensions, dtype=like.dtype, device=like.device)
    return (identity / prior_precision**0.5).repeat(n_roots, 1, 1)


def root_of_sum(
    features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> torch.Tensor:
    """Roots of the inverses of lambda I + Phi^T diag(h_g) Phi, for each column h_g.

    Parameters
    ----------
    features : Tensor of shape (n, N)
    curvature : Tensor of shape (n, G)
        h >= 0, sample weights included.
    prior_precision : float
        lambda > 0.

    Returns
    -------
    Tensor of shape (G, N, N)

    Raises
    ------
    ValueError
        If the sum overflows.

    Examples
    --------
    >>> root_of_sum(torch.ones(1, 1), torch.full((1, 1), 3.0), 1.0)
    tensor([[[0.5000]]])
    """
    # made first: results between what is freed would keep the heap from giving it out again
    roots = features.new_empty(curvature.shape[1], features.shape[1], features.shape[1])
    for root, h in zip(roots, curvature.T, strict=True):
        root.copy_(_inverse_transpose(factor_of_sum(features, h, prior_precision)))
    return roots


def factor_of_sum(
    features: torch.Tensor, curvature: torch.Tensor, prior_precision: float
) -> torch.Tensor:
    """Triangular factor L of lambda I + Phi^T diag(h) Phi = L L^T.

    Parameters
    ----------
    features : Tensor of shape (n, N)
    curvature : Tensor of shape (n,)
        h >= 0, sample weights included.
    prior_precision : float
        lambda > 0.

    Returns
    -------
    Tensor of shape (N, N)
        Lower triangular, its diagonal positive.

    Raises
    ------
    ValueError
        If the sum overflows.

    Examples
    --------
    >>> factor_of_sum(torch.ones(1, 1), torch.full((1,), 3.0), 1.0)
    tensor([[2.]])
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
    """Root of the inverse of lambda I + sum E^T E, over chunks E of rows.

    By Cholesky, and where the prior is nearly lost in the sum by orthogonal triangularisation of
    the rows themselves, which keeps twice as many digits.

    Parameters
    ----------
    rows : callable
        ``rows()`` iterates over tensors E of shape (., N); called twice at most.
    prior_precision : float
        lambda > 0.
    n_dimensions : int
        N.
    like : Tensor
        Gives dtype and device.

    Returns
    -------
    Tensor of shape (N, N)

    Raises
    ------
    ValueError
        If the sum overflows.

    Examples
    --------
    >>> root_of_rows(lambda: [torch.ones(3, 1)], 1.0, 1, torch.zeros(1))
    tensor([[0.5000]])
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
    """Triangular factor L of lambda I + sum E^T E = L L^T, which is known already.

    By Cholesky, and by orthogonal triangularisation of the rows where that has few digits left.

    Parameters
    ----------
    total : Tensor of shape (N, N)
    rows : callable
        ``rows()`` iterates over tensors E of shape (., N).
    prior_precision : float
        lambda > 0.

    Returns
    -------
    Tensor of shape (N, N)
        Lower triangular, its diagonal positive.

    Warns
    -----
    LinAlgWarning
        If the rows have too few digits, too.

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> accurate_factor(4 * one, lambda: [3**0.5 * one], 1.0)
    tensor([[2.]])
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
    """Triangular U with U^T U = E^T E, by orthogonal triangularisation of E.

    Parameters
    ----------
    rows : Tensor of shape (n, N)
        E, n >= N.

    Returns
    -------
    Tensor of shape (N, N)
        Upper triangular. No diagonal is negative, which makes it unique: it does not depend on the
        machine.

    Examples
    --------
    >>> triangle_of_rows(torch.tensor([[3.0], [4.0]]))
    tensor([[5.]])
    """
    upper = torch.linalg.qr(rows, mode="r").R
    return torch.where(upper.diagonal() < 0, -1.0, 1.0).to(upper)[:, None] * upper


def root_of_precision(precision: torch.Tensor) -> torch.Tensor:
    """Roots of the inverses of precision matrices.

    Parameters
    ----------
    precision : Tensor of shape (G, N, N)

    Returns
    -------
    Tensor of shape (G, N, N)

    Raises
    ------
    ValueError
        If one is not positive definite in its dtype.

    Warns
    -----
    LinAlgWarning
        If fewer than two digits are left of its smallest eigenvalue.

    Examples
    --------
    >>> root_of_precision(torch.tensor([[[4.0]]]))
    tensor([[[0.5000]]])
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
    warnings.warn(
        f"prior_precision is lost beside the features {where}: the uncertainty where there are no "
        "data is wrong. Scale the features, e.g. with StandardScaler, or raise prior_precision.",
        LinAlgWarning,
        stacklevel=3,
    )


def precision_of_root(root: torch.Tensor) -> torch.Tensor:
    """Precisions R^-T R^-1.

    Parameters
    ----------
    root : Tensor of shape (G, N, N)

    Returns
    -------
    Tensor of shape (G, N, N)

    Examples
    --------
    >>> precision_of_root(torch.tensor([[[0.5]]]))
    tensor([[[4.]]])
    """
    inverse = torch.linalg.inv(root)
    return inverse.mT @ inverse


def _inverse_transpose(factor: torch.Tensor) -> torch.Tensor:
    """L^-T, a root of (L L^T)^-1."""
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, identity.expand_as(factor), upper=False).mT
