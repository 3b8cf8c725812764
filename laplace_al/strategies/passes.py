"""One pass over a pool that comes in blocks, which keeps the first ones of what it has seen."""

import functools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from laplace_al.inputs.blocks import blocks_of, is_stream
from laplace_al.strategies.checks import (
    candidates_of_block,
    check_candidates,
    check_n_instances,
)
from laplace_al.strategies.ranking import Leaders, draw_seed
from laplace_al.strategies.view import PoolView

if TYPE_CHECKING:  # which imports this module
    from laplace_al.strategies.base import QueryStrategy


def reads_in_blocks(strategy: "QueryStrategy", learner: Any, X_pool: Any) -> bool:
    """Whether a strategy is to read a pool block by block.

    Parameters
    ----------
    strategy : QueryStrategy
    learner : object
        One that keeps this very pool has no need to.
    X_pool : object

    Returns
    -------
    bool

    Examples
    --------
    >>> from laplace_al.strategies import CoreSet
    >>> reads_in_blocks(CoreSet(), None, [[0.0]])
    False
    """
    if is_stream(X_pool):
        return True
    is_kept = getattr(getattr(learner, "pool_", None), "X", None) is X_pool
    return isinstance(X_pool, np.memmap) and strategy.reads_blocks and not is_kept


def choose_from_blocks(
    strategy: "QueryStrategy",
    learner: Any,
    X_pool: Any,
    n_instances: int,
    candidates: ArrayLike | None,
    with_utilities: bool,
) -> tuple[NDArray[np.int64], NDArray[np.float64] | None]:
    """See :meth:`QueryStrategy.query`.

    Parameters
    ----------
    strategy : QueryStrategy
    learner : object
    X_pool : memory map or stream
    n_instances : int
    candidates : array-like of bool of shape (n_pool,) or None
    with_utilities : bool

    Returns
    -------
    positions : ndarray of shape (n_instances,)
    utilities : ndarray of shape (n_pool,) or None

    Examples
    --------
    >>> from laplace_al.strategies import RandomSampling
    >>> pool = (np.zeros((n, 1)) for n in (2, 3))
    >>> positions, _ = choose_from_blocks(RandomSampling(), None, pool, 5, None, False)
    >>> sorted(positions.tolist())
    [0, 1, 2, 3, 4]
    """
    ranking, limit, with_rows = strategy.shortlist(check_n_instances(n_instances, math.inf))
    ranking._validate_params()
    if isinstance(X_pool, np.ndarray):  # whose size is known before the pass
        is_open = check_candidates(candidates, len(X_pool))
        check_n_instances(n_instances, int(is_open.sum()))
    rng = check_random_state(strategy.random_state)
    seed = draw_seed(rng)
    leaders: Leaders | None = None
    n_pool, n_candidates, parts = 0, 0, []
    for block in blocks_of(X_pool):
        is_open = candidates_of_block(candidates, n_pool, _num_samples(block))
        some, utilities = leaders_of_block(
            ranking,
            PoolView(learner, block),
            is_open,
            limit,
            seed,
            start=n_pool,
            rows=block if with_rows else None,
        )
        leaders = some if leaders is None else leaders + some
        n_pool += len(utilities)
        n_candidates += int(is_open.sum())
        if with_utilities:
            parts.append(utilities)
    n_instances = check_n_instances(n_instances, n_candidates)
    check_candidates(candidates, n_pool)
    assert leaders is not None  # there are candidates, so there was a block
    view_of = functools.partial(PoolView, learner)
    positions, own = strategy.settle(view_of, leaders, n_instances, rng)
    if not with_utilities:
        return positions, None
    if own is None:
        return positions, np.concatenate(parts)
    utilities = np.full(n_pool, -np.inf)
    utilities[leaders.positions] = own
    return positions, utilities


def leaders_of_block(
    ranking: "QueryStrategy",
    view: PoolView,
    candidates: NDArray[np.bool_],
    limit: int,
    seed: int,
    *,
    start: int,
    rows: Any = None,
) -> tuple[Leaders, NDArray[np.float64]]:
    """The first ones of a block, and the utilities of its rows.

    Parameters
    ----------
    ranking : QueryStrategy
        That scores each instance on its own.
    view : PoolView
        Of the block, n rows.
    candidates : ndarray of bool of shape (n,)
    limit : int
    seed : int
        Of the order of ties.
    start : int
        Position of the first row in the pool.
    rows : array-like of shape (n, ...), default=None
        Inputs, if the leaders are to keep theirs.

    Returns
    -------
    leaders : Leaders
    utilities : ndarray of shape (n,)

    Examples
    --------
    >>> from laplace_al.strategies import RandomSampling
    >>> block = [[5.0], [6.0]]
    >>> leaders, _ = leaders_of_block(
    ...     RandomSampling(), PoolView(None, block), np.array([False, True]), 1, 0, start=10,
    ...     rows=block)
    >>> leaders.positions, leaders.rows
    (array([11]), [[6.0]])
    """
    nothing_to_draw = np.random.RandomState(0)  # what scores each on its own draws nothing
    utilities = ranking.candidate_utilities(view, candidates, nothing_to_draw)
    leaders = ranking.leaders(utilities, candidates, limit, seed, start=start, rows=rows)
    return leaders, utilities
