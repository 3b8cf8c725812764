"""Cholesky factors with an error that a user can act on."""

import torch


def cholesky_factor(precision):
    """Lower Cholesky factor of a precision matrix.

    Parameters
    ----------
    precision : Tensor of shape (D, D)

    Returns
    -------
    Tensor of shape (D, D)

    Raises
    ------
    ValueError
        If the matrix is not positive definite in its dtype.

    Examples
    --------
    >>> import torch
    >>> cholesky_factor(torch.tensor([[4.0]]))
    tensor([[2.]])
    """
    factor, failed = torch.linalg.cholesky_ex(precision)
    if bool(failed) or not bool(torch.isfinite(factor).all()):
        largest = float(precision.diagonal().max()) ** 0.5
        raise ValueError(
            "prior_precision is lost beside the features: the posterior precision is singular "
            f"to working accuracy (weighted feature norms reach {largest:.3g}). Scale the "
            "features, e.g. with StandardScaler, or raise prior_precision."
        )
    return factor
