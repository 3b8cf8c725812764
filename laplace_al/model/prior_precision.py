"""The prior precision: by the scale of the features, or that of the largest score."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from laplace_al.model.likelihoods import Bernoulli
from laplace_al.model.mode import Labelled
from laplace_al.model.rows import Rows, RowsInMemory, squares_around, sum_from

# Prior precisions that are tried, in units of the total variance of the features.
_RANGE = np.logspace(-6, 3, 10)
_SEARCH_TOLERANCE = 0.1  # of log lambda
# Of a head that is fitted, near the best on images, text and tables with 10 to 1000 labels. Around
# a trained one, of 30 networks for digits, none lost a point of accuracy by 50 more random labels,
# where they lost 5 on average with 0.01; 200 labels of images turned by 25 degrees won 3.
_SHARE_OF_VARIANCE = {"fit": 0.01, "pretrained": 4.0}
_LARGEST_RATIO = 30  # of variances to their median; above it, columns differ in unit
_ROUNDING = 8  # units in the last place: a constant that a short sum or product made


class Chosen(NamedTuple):
    """A prior precision, and the end of the range that it is at: "smallest", "largest" or None."""

    value: float
    bound: str | None


def choose_prior_precision(score: Callable[[float], float], unit: float) -> Chosen:
    """Return the prior precision of the largest score: the best power of ten, then a search.

    The range is 1e-6 to 1000 times a unit, the :func:`total_variance` of the features.
    """
    grid = np.log(unit * _RANGE)
    # from strong to weak: each start is close to the next mode
    scores = np.array([score(np.exp(place)) for place in grid[::-1]])[::-1]
    best = int(scores.argmax())
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    search = minimize_scalar(
        lambda place: -score(np.exp(place)),
        bounds=(low, high),
        method="bounded",
        options={"xatol": _SEARCH_TOLERANCE},
    )
    place = search.x if -search.fun > scores[best] else grid[best]
    near = 2 * _SEARCH_TOLERANCE
    bound = "smallest" if place < grid[0] + near else None
    bound = "largest" if place > grid[-1] - near else bound
    return Chosen(float(np.exp(place)), bound)


def prior_precision_by_scale(rows: Rows, centre: torch.Tensor, head: str) -> float:
    """Return the share of the :func:`total_variance` that suits a fitted or a pretrained head.

    Over the data, a logit of a fitted head then varies a priori by a standard deviation of about
    10, whatever the units and the number of features, and one of a pretrained head by about 0.5.
    """
    return _SHARE_OF_VARIANCE[head] * total_variance(rows, centre)


def prior_precision_of_features(features: torch.Tensor, weights: torch.Tensor, head: str) -> float:
    """Return :func:`prior_precision_by_scale` of features (n, D), whose labels do not matter."""
    data = Labelled(features, features[:, :1], weights, Bernoulli())
    return prior_precision_by_scale(RowsInMemory(data), features[weights.argmax()], head)


def total_variance(rows: Rows, centre: torch.Tensor) -> float:
    """Return the total variance of features, in two passes.

    ``centre`` (D,) is some row of positive weight, from which constants do not differ: rounding
    moves their mean.
    """
    weight, apart = rows.total(sum_from, centre)
    around_mean, square = rows.total(squares_around, centre, apart / weight)
    return total_of_moments(around_mean / weight, square / weight, centre.dtype)


def total_of_moments(variance: torch.Tensor, square: torch.Tensor, dtype: torch.dtype) -> float:
    """Return the total of variances (D,), of which none counts more than 30 times the median.

    So the few columns of a table whose unit is small do not rule the others. Constant features do
    not count: neither an intercept, nor those whose deviation from their mean square (D,) is that
    of rounding, a few units in the last place of ``dtype``. Features that do not vary at all, as
    those of a single row, count by their mean squares; if these are 0 as well, the total is 1.
    """
    varying = variance[variance > (_ROUNDING * torch.finfo(dtype).eps) ** 2 * square]
    counting = varying if len(varying) else square[square > 0]
    if not len(counting):
        return 1.0
    return float(counting.clamp(max=_LARGEST_RATIO * counting.median()).sum())
