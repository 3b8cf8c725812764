"""Gaussian logits to the logits of a prediction.

m (n, C) are the mean logits, v (n,) or (n, C) their variances. A likelihood turns the result
into probabilities.
"""

import math

import torch


def plug_in(mean, variance):
    """Prediction at the mean: the variance is ignored.

    Parameters
    ----------
    mean : Tensor of shape (n, C)
    variance : Tensor of shape (n,) or (n, C)

    Returns
    -------
    Tensor of shape (n, C)

    Examples
    --------
    >>> import torch
    >>> plug_in(torch.tensor([[1.0, -1.0]]), torch.tensor([9.0]))
    tensor([[ 1., -1.]])
    """
    return mean


def mean_field(mean, variance):
    """Mean-field (probit) approximation: m / sqrt(1 + pi / 8 v).

    MacKay, *The evidence framework applied to classification networks*, Neural Computation
    4(5), 1992; arXiv 2210.06112.

    Parameters
    ----------
    mean : Tensor of shape (n, C)
    variance : Tensor of shape (n,) or (n, C)
        One variance for all logits of a row, or one each.

    Returns
    -------
    Tensor of shape (n, C)

    Examples
    --------
    >>> import math, torch
    >>> mean_field(torch.tensor([[2.0, -2.0]]), torch.tensor([24 / math.pi]))
    tensor([[ 1., -1.]])
    """
    if variance.ndim == 1:
        variance = variance[:, None]
    return mean / torch.sqrt(1 + math.pi / 8 * variance)
