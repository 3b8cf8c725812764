"""Products with the features of a pool, which are never copied whole to another dtype."""

from collections.abc import Callable

import torch

from laplace_al.model.fitted_model import FittedModel, with_constant

_ROWS_AT_ONCE = 1024


def in_chunks(function: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
    """Return what a function makes of rows, some at a time: a large pool is never copied whole."""
    return torch.cat([function(part) for part in rows.split(_ROWS_AT_ONCE)])


def variance_at_prior(model: FittedModel, features: torch.Tensor) -> torch.Tensor:
    """Return the variance of each logit under the prior, phi^T phi / lambda, (n,)."""
    lengths = squared_lengths(features).to(model.posterior.prior_mean)
    return lengths.add_(model.has_intercept).div_(model.posterior.prior_precision)


def squared_lengths(rows: torch.Tensor) -> torch.Tensor:
    """Return the square of the length of each row, (n,), without a copy of them."""
    return torch.linalg.vector_norm(rows, dim=1).square_()


def phi_of(model: FittedModel, features: torch.Tensor) -> torch.Tensor:
    """Return phi of features (n, n_features), in the dtype of the posterior."""
    features = features.to(model.posterior.prior_mean)
    return with_constant(features, has_intercept=model.has_intercept)


def product(features: torch.Tensor, matrix: torch.Tensor, *, has_constant: bool) -> torch.Tensor:
    """Return Phi times a matrix (D, m), computed in the dtype of the features."""
    weights, constant = (matrix[:-1], matrix[-1]) if has_constant else (matrix, None)
    # columns that are contiguous: up to five times as fast where they are few
    columns = weights.T.to(features).contiguous().T
    found = (features @ columns).to(matrix)
    return found if constant is None else found.add_(constant)
