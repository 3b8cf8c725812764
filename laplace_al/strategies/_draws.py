"""Probabilities of a pool under drawn weights: never all of a large pool at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from laplace_al.model.pool_state import PoolState

Score: TypeAlias = Callable[[NDArray[np.floating]], NDArray[np.float64]]
"""Probabilities (S, m, K) of some instances under drawn weights to their scores (m,)."""


@contextmanager
def progress(name: str, total: int, verbose: int) -> Iterator[Callable[[int], object]]:
    """Yield what is to be called with the number of steps done.

    If ``verbose``, a bar shows them from the second second on.
    """
    if not verbose:  # tqdm starts a thread
        yield lambda n_done: None
        return
    with tqdm(total=total, desc=name, delay=1) as bar:
        yield bar.update


def scores_of_draws(
    state: PoolState, n_samples: int, score: Score, name: str, verbose: int
) -> NDArray[np.float64]:
    """Score a pool (n,), see :meth:`PoolState.scores_of_draws`; the bar bears a name."""
    with progress(name, len(state), verbose) as done:

        def scored(draws: NDArray[np.floating]) -> NDArray[np.float64]:
            scores = score(draws)
            done(len(scores))
            return scores

        return state.scores_of_draws(n_samples, scored)
