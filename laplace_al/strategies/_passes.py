"""Pools in blocks: one pass finds the instances that a strategy ranks first."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples

from laplace_al._common.typing import Choice, Mask, Rng
from laplace_al.inputs.blocks import blocks_of, is_stream, rows_at
from laplace_al.strategies._checks import (
    candidates_of_block,
    check_candidates,
    check_n_instances,
)
from laplace_al.strategies._ranking import (
    Leaders,
    Priorities,
    by_utility,
    draw_seed,
    leaders_among,
)
from laplace_al.strategies._view import LearnerView, PoolView

if TYPE_CHECKING:  # which imports this module
    from laplace_al.strategies._base import QueryStrategy


def reads_in_blocks(strategy: "QueryStrategy", learner: Any, X_pool: Any) -> bool:
    """Return whether a strategy is to read a pool in blocks: not one that the learner keeps."""
    if is_stream(X_pool):
        return True
    is_kept = getattr(getattr(learner, "pool_", None), "X", None) is X_pool
    return isinstance(X_pool, np.memmap) and strategy.reads_blocks and not is_kept


def check_reads_blocks(strategy: "QueryStrategy") -> None:
    """Refuse a strategy that compares instances with each other."""
    if not strategy.reads_blocks:
        raise _needs_whole_pool(strategy)


def _needs_whole_pool(strategy: "QueryStrategy") -> TypeError:
    name = type(strategy).__name__
    return TypeError(
        f"{name} compares the instances of the pool with each other, so it cannot choose "
        "from one that comes in blocks. Let a strategy that scores each on its own pick "
        f"candidates that fit in memory: Preselection({name}(...), MarginSampling())."
    )


@dataclass(frozen=True)
class Ranking:
    """The question of a pass over a pool: which ``limit`` instances come first for a strategy.

    The strategy scores each instance on its own. ``seed`` is that of the noise that breaks ties;
    ``keeps_rows`` says whether to keep the inputs of those that come first.
    """

    strategy: "QueryStrategy"
    limit: int
    seed: int
    priorities: Priorities = by_utility
    keeps_rows: bool = False

    def of_block(
        self, view: PoolView, candidates: Mask, start: int, rows: Any
    ) -> tuple[Leaders, NDArray[np.float64]]:
        """Return the leaders and utilities (n,) of a block of inputs, the first at ``start``."""
        nothing_to_draw = np.random.RandomState(0)  # what scores each on its own draws nothing
        utilities = self.strategy.candidate_utilities(view, candidates, nothing_to_draw)
        leaders = leaders_among(
            utilities,
            candidates,
            self.limit,
            self.seed,
            self.priorities,
            start=start,
            rows=rows if self.keeps_rows else None,
        )
        return leaders, utilities


Pass: TypeAlias = Callable[[Ranking], tuple[Leaders, NDArray[np.float64]]]
"""Leaders of the pool, and all utilities (n_pool,), or (0,) where they are not kept."""


class Blocks:
    """A pool in blocks, given to ``strategy.choose`` in place of a :class:`PoolView`.

    ``run`` makes a pass over the blocks; ``view_of`` makes a view of rows that it has found and of
    their positions. For anything else the pool would have to be in memory.
    """

    def __init__(
        self,
        strategy: "QueryStrategy",
        run: Pass,
        view_of: Callable[[Any, NDArray[np.int64]], PoolView],
    ) -> None:
        self.strategy = strategy
        self.run = run
        self.view_of = view_of
        self.found: Leaders | None = None

    def __getattr__(self, name: str) -> NoReturn:
        raise _needs_whole_pool(self.strategy)

    def __len__(self) -> int:
        raise _needs_whole_pool(self.strategy)

    def top(
        self,
        strategy: "QueryStrategy",
        limit: int,
        candidates: Any,
        rng: Rng,
        priorities: Priorities = by_utility,
    ) -> Choice:
        """See :meth:`PoolView.top`; the candidates are those of the pass."""
        keeps_rows = not self.strategy.is_pointwise  # for the part that it asks for next
        ranking = Ranking(strategy, limit, draw_seed(rng), priorities, keeps_rows)
        self.found, utilities = self.run(ranking)
        return self.found.positions, utilities

    def part(self, positions: NDArray[np.int64]) -> PoolView:
        """View of some of the instances that the last pass has found."""
        assert self.found is not None
        order = np.argsort(self.found.positions)
        places = order[np.searchsorted(self.found.positions, positions, sorter=order)]
        return self.view_of(rows_at(self.found.rows, places), positions)


def choose_in_pass(
    strategy: "QueryStrategy",
    n_instances: int,
    run: Pass,
    view_of: Callable[[Any, NDArray[np.int64]], PoolView],
) -> Choice:
    """Let a strategy choose from what ``run``, a pass over the blocks of a pool, finds."""
    blocks = cast(PoolView, Blocks(strategy, run, view_of))
    everyone = np.empty(0, dtype=bool)  # who the candidates are, the pass knows
    return strategy.choose(blocks, n_instances, everyone, check_random_state(strategy.random_state))


def choose_from_blocks(
    strategy: "QueryStrategy",
    learner: Any,
    X_pool: Any,
    n_instances: int,
    candidates: ArrayLike | None,
    with_utilities: bool,
) -> Choice:
    """Choose from a memory map or a stream, see :meth:`QueryStrategy.query`."""
    n_instances = check_n_instances(n_instances, math.inf)
    check_reads_blocks(strategy)
    if isinstance(X_pool, np.ndarray):  # whose size is known before the pass
        is_open = check_candidates(candidates, len(X_pool))
        check_n_instances(n_instances, int(is_open.sum()))

    def run(ranking: Ranking) -> tuple[Leaders, NDArray[np.float64]]:
        leaders: Leaders | None = None
        n_pool, n_candidates, parts = 0, 0, [np.empty(0)]
        for block in blocks_of(X_pool):
            is_open = candidates_of_block(candidates, n_pool, _num_samples(block))
            some, utilities = ranking.of_block(LearnerView(learner, block), is_open, n_pool, block)
            leaders = some if leaders is None else leaders + some
            n_pool += len(utilities)
            n_candidates += int(is_open.sum())
            if with_utilities:
                parts.append(utilities)
        check_n_instances(n_instances, n_candidates)
        check_candidates(candidates, n_pool)
        assert leaders is not None  # there are candidates, so there was a block
        return leaders, np.concatenate(parts)

    return choose_in_pass(strategy, n_instances, run, functools.partial(LearnerView, learner))
