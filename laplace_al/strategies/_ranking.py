"""Rankings: the largest utilities first, ties in an order that belongs to the positions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import Mask, Rng
from laplace_al.inputs.blocks import concatenated, rows_at

Priorities: TypeAlias = Callable[
    [NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], NDArray[np.float64]]
]
"""Utilities (n,) and noise (n,), uniform in [0, 1), to two arrays (n,) to rank by: the larger, the
better; the second where the first is equal."""


def by_utility(
    utilities: NDArray[np.float64], noise: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rank by utility, ties at random."""
    return utilities, noise


@dataclass(frozen=True)
class Leaders:
    """Up to ``limit`` instances that come first among those seen so far, best first.

    ``first`` and ``second`` (m,) are their priorities, ``positions`` (m,) those in the pool, and
    ``rows`` (m, ...) their inputs, where these are kept. Leaders of blocks add up to the leaders of
    the pool, in whatever order they are added.

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
        """Leaders of n >= 0 instances in any order."""
        chosen = leading(first, second, limit)
        if rows is not None:
            rows = rows_at(rows, chosen)
        return cls(limit, first[chosen], second[chosen], positions[chosen], rows)

    def __add__(self, other: "Leaders") -> "Leaders":
        rows = None if self.rows is None else concatenated([self.rows, other.rows])
        return Leaders.of(
            self.limit,
            np.concatenate([self.first, other.first]),
            np.concatenate([self.second, other.second]),
            np.concatenate([self.positions, other.positions]),
            rows,
        )


def leaders_among(
    utilities: NDArray[np.float64],
    candidates: Mask,
    limit: int,
    seed: int,
    priorities: Priorities = by_utility,
    *,
    start: int = 0,
    rows: Any = None,
) -> Leaders:
    """Leaders among the candidates of a pool, or of a block of it whose first row is ``start``.

    ``utilities`` and ``candidates`` are (n,), ``rows`` (n, ...) are inputs to be kept, and ``seed``
    is that of the noise.
    """
    first, second = priorities(utilities, tie_breakers(seed, start, start + len(utilities)))
    places = np.flatnonzero(candidates)
    if rows is not None and len(places) < len(utilities):
        rows = rows_at(rows, places)
    return Leaders.of(limit, first[places], second[places], start + places, rows)


def leading(first: NDArray[np.floating], second: NDArray[np.floating], n: int) -> NDArray[np.int64]:
    """Places of the n largest, best first; ``second`` decides where ``first`` is equal.

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


def draw_seed(rng: Rng) -> int:
    """Draw a seed of :func:`tie_breakers`."""
    return int(rng.randint(np.iinfo(np.int64).max))


def tie_breakers(seed: int, start: int, stop: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) that belong to positions of a pool, whoever asks for them.

    Position i always has the i-th number of one stream, so that ties break alike in memory, block
    by block and on a cluster. Salmon, Moraes, Dror and Shaw, *Parallel random numbers: as easy as
    1, 2, 3*, SC 2011.
    """
    source = np.random.Philox(key=seed)
    skipped = start % 4  # each step of the counter makes four numbers
    source.advance(start // 4)
    return np.random.Generator(source).random(stop - start + skipped)[skipped:]


def best(utilities: NDArray[np.floating], n_instances: int, rng: Rng) -> NDArray[np.int64]:
    """Positions of the largest utilities, best first, ties in random order; NaN is refused."""
    n_unknown = int(np.isnan(utilities).sum())
    if n_unknown:
        raise ValueError(
            f"Utilities are NaN for {n_unknown} of {len(utilities)} instances: features of the "
            "pool are too large or differ too much in scale. Scale them, e.g. with StandardScaler."
        )
    return leading(utilities, tie_breakers(draw_seed(rng), 0, len(utilities)), n_instances)
