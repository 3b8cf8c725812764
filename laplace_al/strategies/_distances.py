"""Distances between the rows of a matrix, in blocks: never all pairs at once."""

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import pairwise_distances_argmin

from laplace_al._common.typing import Mask


def paired_distances(
    rows: NDArray[np.floating], others: NDArray[np.floating], pairs: NDArray[np.integer]
) -> NDArray[np.float64]:
    """Return the distance (n,) of each row (n, D) to its pair among others (m, D).

    It is the norm of the difference, so that equal rows are exactly 0 apart.
    """
    squared = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        block = slice(start, start + _ROWS_AT_ONCE)
        difference = rows[block] - others[pairs[block]]
        squared[block] = np.einsum("nd,nd->n", difference, difference)
    return np.sqrt(squared, out=squared)


def distances_to_nearest(
    rows: NDArray[np.floating], others: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the distance (n,) of each row to the nearest of others, infinity if there is none."""
    if not len(others):
        return np.full(len(rows), np.inf)
    others = others.astype(rows.dtype, copy=False)
    return paired_distances(rows, others, _nearest_of_others(rows, others))


def _nearest_of_others(
    rows: NDArray[np.floating], others: NDArray[np.floating]
) -> NDArray[np.intp]:
    """Find which of the others is nearest to each row, (n,), by ``|x|² + |y|² - 2 x·y``.

    Rows are centred, in float64: beside the squares of an offset, distances are lost.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    centred, nearest = others - mean, np.empty(len(rows), dtype=np.intp)
    step = max(1, _NUMBERS_AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        nearest[block] = pairwise_distances_argmin(rows[block] - mean, centred)
    return nearest


def covering_radius(features: NDArray[np.floating], n_balls: int) -> float:
    """Return the radius of balls around the rows (n, D) of which so many may hold them all.

    It is the median distance to the k-th nearest other row, with ``k = clip(round(n / n_balls), 1,
    n - 1)``, over 250 evenly spread rows, or all if there are fewer; 0 for a single row.

    Examples
    --------
    >>> round(covering_radius(np.array([[0.0], [1.0], [2.0], [3.0]]), n_balls=4), 3)
    1.0
    """
    n = len(features)
    if n < 2:
        return 0.0
    k = min(max(1, round(n / n_balls)), n - 1)
    rows = np.linspace(0, n - 1, min(n, _MAX_ROWS)).astype(np.int64)
    for dtype in (np.float32, np.float64):
        bounds = LowerBounds(features, dtype)
        squared = np.empty(len(rows))
        for block in blocks(len(rows), n):  # a row is nearest to itself
            squared[block] = np.partition(bounds.squared(rows[block]), k, axis=1)[:, k]
        median = float(np.median(squared))
        if median >= bounds.resolution:
            return bounds.scale * median**0.5
    return float(np.median(Neighborhoods(features).nearest_distances(k, rows)[:, -1]))


class Neighborhoods:
    """Distances within a matrix of features (n, D), in the memory of a copy or two of it.

    Products in float32, with a bound on their rounding, find what may be near, and in float64 where
    that is too coarse to find the nearest; differences of the rows as they were given decide.

    Examples
    --------
    >>> Neighborhoods(np.array([[0.0], [1.0], [3.0]])).nearest_distances(2)
    array([[1., 3.],
           [1., 2.],
           [2., 3.]])
    """

    def __init__(self, features: NDArray[np.floating]) -> None:
        self.features = features
        self._single = LowerBounds(features, np.float32)

    @functools.cached_property
    def _double(self) -> "LowerBounds":
        return LowerBounds(self.features, np.float64)

    def nearest_distances(
        self, n_neighbors: int, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Return the distances (m, n_neighbors) of rows to their nearest others, ascending.

        ``rows`` are m positions, or None for all. If there are fewer others, it takes all of them.
        """
        n_neighbors = min(n_neighbors, len(self.features) - 1)
        rows = np.arange(len(self.features)) if rows is None else rows
        nearest = np.empty((len(rows), n_neighbors))
        for block in blocks(len(rows), len(self.features)):
            nearest[block], is_sure = self._nearest(rows[block], n_neighbors, self._single)
            unsure = block.start + np.flatnonzero(~is_sure)
            if len(unsure):
                nearest[unsure], _ = self._nearest(rows[unsure], n_neighbors, self._double)
        return nearest

    def balls(self, radius: float, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which rows are at most a radius from each of some, (m, n).

        Examples
        --------
        >>> Neighborhoods(np.array([[0.0], [1.0], [3.0]])).balls(1.0, np.array([1]))
        array([[ True,  True, False]])
        """
        balls = np.empty((len(rows), len(self.features)), dtype=bool)
        for block in blocks(*balls.shape):
            balls[block], is_unsure = self._single.within(rows[block], radius)
            first, second = np.nonzero(is_unsure)
            is_near = self._distances(rows[block][first], second) <= radius
            balls[block.start + first, second] = is_near
        return balls

    def _nearest(
        self, rows: NDArray[np.int64], n_neighbors: int, bounds: "LowerBounds"
    ) -> tuple[NDArray[np.float64], Mask]:
        """Distances, ascending, and for which rows no other can be among these neighbours."""
        n_found = min(n_neighbors + _SPARE, len(self.features) - 1)
        found, others = bounds.lowest(rows, n_found)
        distances = self._distances(np.repeat(rows, n_found), found.ravel()).reshape(found.shape)
        distances.sort(axis=1)
        is_sure = distances[:, :n_neighbors].max(axis=1, initial=0) <= others
        return distances[:, :n_neighbors], is_sure | (n_found == len(self.features) - 1)

    def _distances(
        self, first: NDArray[np.int64], second: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        distances = np.empty(len(first))
        for start in range(0, len(first), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            distances[block] = paired_distances(
                self.features[first[block]], self.features, second[block]
            )
        return distances


class LowerBounds:
    """Lower bounds of squared distances, ``(1 - e) (|x|² + |y|²) - 2 x·y``, in some precision.

    Rounding changes ``|x|² + |y|² - 2 x·y`` by at most ``e (|x|² + |y|²)``: each x·y is a sum of D
    rounded products. The rows are centred, for small norms, and scaled, against overflow. A squared
    distance of ``resolution`` times the squared ``scale`` is known to 2 %.
    """

    def __init__(self, features: NDArray[np.floating], dtype: type[np.floating]) -> None:
        centred = features.astype(np.result_type(features, dtype))
        centred -= features.mean(axis=0, dtype=np.float64).astype(centred.dtype)
        largest = max(centred.max(initial=0), -centred.min(initial=0))
        self.scale = float(largest) * features.shape[1] ** 0.5 or 1.0
        centred /= self.scale
        self.rows = centred.astype(dtype, copy=False)  # |x| <= 1
        self.slack = (features.shape[1] + 8) * float(np.finfo(dtype).eps)  # e
        self.resolution = 100 * self.slack
        self.norms = np.einsum("nd,nd->n", self.rows, self.rows) * dtype(1 - self.slack)

    def squared(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        """Squared distances (m, n) of some rows to all, over the squared scale.

        They are 0 if they may be, so that equal rows are no distance apart.
        """
        squared = self._squared(rows)
        squared += self.norms[rows][:, None]
        may_be_equal = squared <= 0
        rounding = self.norms * np.float32(self.slack / (1 - self.slack))
        squared += rounding
        squared += rounding[rows][:, None]
        squared[may_be_equal] = 0
        return squared

    def lowest(
        self, rows: NDArray[np.int64], n_lowest: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Others of the lowest bounds, (m, n_lowest), and a bound of the distance of the rest."""
        squared = self._squared(rows)
        squared[np.arange(len(rows)), rows] = np.inf
        values, others = torch.from_numpy(squared).topk(n_lowest, dim=1, largest=False)
        rest = values[:, -1:].numpy().max(axis=1, initial=-np.inf) + self.norms[rows]
        return others.numpy(), self.scale * np.sqrt(np.maximum(rest, 0, dtype=np.float64))

    def within(self, rows: NDArray[np.int64], radius: float) -> tuple[Mask, Mask]:
        """Return which are surely within a radius of some rows, (m, n), and which may be."""
        limit = min(radius / self.scale, 4.0) ** 2  # no two are farther than 2
        squared, norms = self._squared(rows), self.norms[rows][:, None]
        may_be = squared <= (limit - norms).astype(squared.dtype)
        squared += 3 * self.slack * self.norms
        squared += (1 + 3 * self.slack) * norms
        is_sure = squared <= limit
        return is_sure, may_be & ~is_sure

    def _squared(self, rows: NDArray[np.int64]) -> NDArray[np.floating]:
        squared = (-2 * self.rows[rows]) @ self.rows.T
        squared += self.norms
        return squared


def blocks(n_rows: int, n: int) -> list[slice]:
    """Return slices of rows that are few enough for a matrix of each with n columns."""
    step = max(1, _NUMBERS_AT_ONCE // n)
    return [slice(start, start + step) for start in range(0, n_rows, step)]


_ROWS_AT_ONCE = 256  # a block of differences stays in the cache
_NUMBERS_AT_ONCE = 2**23
_SPARE = 8  # rounding seldom moves a neighbour by more ranks
_MAX_ROWS = 250  # half of them are within 3.2 % of the ranks of half of the pool
