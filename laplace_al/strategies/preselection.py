"""Candidates that fit in memory, for strategies that compare instances with each other."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Choice, Mask, RandomState, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView
from laplace_al.strategies.random import RandomSampling


class Preselection(QueryStrategy):
    """Choose among the instances of a large pool that another strategy ranks first.

    Strategies that compare instances with each other, for diversity or one after the other, need
    the pool in memory, and their cost grows with its size. Here, a strategy that scores each
    instance on its own passes over the pool once, in blocks if necessary, and keeps the best
    ``n_candidates``. The wrapped strategy chooses among these as if they were the pool.

    Parameters
    ----------
    strategy : QueryStrategy
        Chooses among the candidates. Its own ``random_state`` is not used.
    by : QueryStrategy, default=None
        Ranks the pool; it must score each instance on its own. None: :class:`RandomSampling`, whose
        candidates are representative of the pool. With an uncertainty strategy, the wrapped
        strategy sees only the most uncertain instances. Its own ``random_state`` is not used.
    n_candidates : int, default=10000
        How many instances to keep; raised to ``n_instances`` if that is larger.
    random_state : int, RandomState instance or None, default=None
        Seeds both strategies.

    Notes
    -----
    ``query(..., return_utilities=True)`` gives the wrapped strategy's utilities of the candidates,
    and -inf for all others.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import BADGE, MarginSampling, Preselection
    >>> learner = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> blocks = (np.array(block) for block in ([[9.0], [0.5]], [[0.4], [-8.0]]))
    >>> strategy = Preselection(BADGE(), MarginSampling(), n_candidates=2, random_state=0)
    >>> sorted(strategy.query(learner, blocks, n_instances=2).tolist())
    [1, 2]
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "strategy": [QueryStrategy],
        "by": [QueryStrategy, None],
        "n_candidates": [Interval(Integral, 1, None, closed="left")],
    }
    reads_blocks = True

    def __init__(
        self,
        strategy: QueryStrategy,
        by: QueryStrategy | None = None,
        *,
        n_candidates: int = 10_000,
        random_state: RandomState = None,
    ) -> None:
        super().__init__(random_state=random_state)
        self.strategy = strategy
        self.by = by
        self.n_candidates = n_candidates

    @property
    def reads_probabilities(self) -> bool:  # type: ignore[override]  # the others' is a constant
        """True if one of the two strategies needs probabilities."""
        return any(part.reads_probabilities for part in (self.strategy, self.by) if part)

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.floating]:
        """Return the utilities of the wrapped strategy if all were candidates, (n_pool,)."""
        return self.strategy.utilities(view, rng)

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Let the strategy choose among those that ``by`` ranks first."""
        by = RandomSampling() if self.by is None else self.by
        if not by.is_pointwise:
            raise ValueError(
                "by must score each instance on its own, as MarginSampling or RandomSampling do; "
                f"got {by!r}. Set it as the strategy that chooses among the candidates."
            )
        for part in (by, self.strategy):
            part._validate_params()
        limit = max(self.n_candidates, n_instances)  # or as many as there are
        first, utilities = by.choose(view, limit, candidates, rng)
        kept = np.sort(first)
        everyone = np.ones(len(kept), dtype=bool)
        positions, own = self.strategy.choose(view.part(kept), n_instances, everyone, rng)
        if len(utilities):  # a pass over blocks may keep none
            utilities = np.full(len(utilities), -np.inf)
            utilities[kept] = own
        return kept[positions], utilities
