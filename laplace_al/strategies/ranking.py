"""Who comes first: the largest utilities, ties in an order that belongs to the positions."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from laplace_al.inputs.blocks import concatenated, rows_at


class Leaders(NamedTuple):
    """The instances of the largest utilities among those seen so far, best first.

    Leaders of blocks add up to the leaders of the pool, in whatever order they are added.

    Parameters
    ----------
    limit : int
        How many there are at most.
    first, second : ndarray of shape (m,)
        What they are ranked by: the larger, the better; ``second`` where ``first`` is equal.
    positions : ndarray of shape (m,), dtype int64
        In the pool.
    rows : array-like of shape (m, ...) or None
        Their inputs, where these are kept.

    Examples
    --------
    >>> a = Leaders.of(1, np.array([0.5, 0.1]), np.zeros(2), np.array([0, 1]))
    >>> b = Leaders.of(1, np.array([0.7, 0.2]), np.zeros(2), np.array([2, 3]))
    >>> (a + b).positions
    array([2])
    """

    limit: int
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    positions: NDArray[np.int64]
    rows: Any = None

    @classmethod
    def of(
        cls,
        limit: int,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        positions: NDArray[np.int64],
        rows: Any = None,
    ) -> "Leaders":
        """Leaders of instances in any order.

        Parameters
        ----------
        limit : int
        first, second : ndarray of shape (n,)
        positions : ndarray of shape (n,)
        rows : array-like of shape (n, ...), default=None

        Returns
        -------
        Leaders
        """
        chosen = leading(first, second, limit)
        if rows is not None:
            rows = rows_at(rows, chosen)
        return cls(limit, first[chosen], second[chosen], positions[chosen], rows)

    def __add__(self, other: "Leaders") -> "Leaders":  # type: ignore[override]  # no concatenation
        rows = None if self.rows is None else concatenated([self.rows, other.rows])
        return Leaders.of(
            self.limit,
            np.concatenate([self.first, other.first]),
            np.concatenate([self.second, other.second]),
            np.concatenate([self.positions, other.positions]),
            rows,
        )


def leading(first: NDArray[np.floating], second: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    """Places of the n largest, best first.

    Parameters
    ----------
    first, second : ndarray of shape (m,)
        ``second`` decides where ``first`` is equal.
    n : int
        All if there are fewer.

    Returns
    -------
    ndarray of shape (min(n, m),)

    Examples
    --------
    >>> leading(np.array([0.1, 0.3, 0.3]), np.array([0.9, 0.1, 0.2]), 2)
    array([2, 1])
    """
    chosen = np.arange(len(first))
    if n < len(first):
        last = np.partition(first, -n)[-n]
        better, equal = np.flatnonzero(first > last), np.flatnonzero(first == last)
        n_left = n - len(better)
        if n_left < len(equal):
            equal = equal[np.argpartition(second[equal], -n_left)[-n_left:]]
        chosen = np.concatenate([better, equal])
    return chosen[np.lexsort((chosen, -second[chosen], -first[chosen]))]


def draw_seed(rng: np.random.RandomState) -> int:
    """Seed of :func:`tie_breakers`.

    Parameters
    ----------
    rng : RandomState

    Returns
    -------
    int

    Examples
    --------
    >>> draw_seed(np.random.RandomState(0)) == draw_seed(np.random.RandomState(0))
    True
    """
    return int(rng.randint(np.iinfo(np.int64).max))


def tie_breakers(seed: int, start: int, stop: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) that belong to positions of a pool, whoever asks for them.

    Position i always has the i-th number of one stream, so that ties break alike in memory, block
    by block and on a cluster. Salmon, Moraes, Dror and Shaw, *Parallel random numbers: as easy as
    1, 2, 3*, SC 2011.

    Parameters
    ----------
    seed : int
    start, stop : int
        Positions.

    Returns
    -------
    ndarray of shape (stop - start,)

    Examples
    --------
    >>> bool((tie_breakers(0, 0, 9)[3:] == tie_breakers(0, 3, 9)).all())
    True
    """
    source = np.random.Philox(key=seed)
    skipped = start % 4  # each step of the counter makes four numbers
    source.advance(start // 4)
    return np.random.Generator(source).random(stop - start + skipped)[skipped:]


def best(
    utilities: NDArray[np.floating], n_instances: int, rng: np.random.RandomState
) -> NDArray[np.int64]:
    """Positions of the largest utilities, best first, ties in random order.

    Parameters
    ----------
    utilities : ndarray of shape (n,)
    n_instances : int
    rng : RandomState

    Returns
    -------
    ndarray of shape (n_instances,)

    Raises
    ------
    ValueError
        If a utility is NaN.

    Examples
    --------
    >>> best(np.array([0.1, 0.3, 0.2]), 2, np.random.RandomState(0))
    array([1, 2])
    """
    n_unknown = int(np.isnan(utilities).sum())
    if n_unknown:
        raise ValueError(
            f"Utilities are NaN for {n_unknown} of {len(utilities)} instances: features of the "
            "pool are too large or differ too much in scale. Scale them, e.g. with StandardScaler."
        )
    return leading(utilities, tie_breakers(draw_seed(rng), 0, len(utilities)), n_instances)
