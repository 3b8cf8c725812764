"""Items that are asked for at random, by which a model can be judged fairly."""

from collections.abc import Collection, Sequence
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

# Of the questions, one in so many is about an item drawn at random from those without a label.
EVERY = 10
MIN_GUESSES = 5  # of fewer nothing is said
_SEED = 0


class Accuracy(NamedTuple):
    """The share of guesses that were right, with a 95 % interval (Wilson's)."""

    share: float
    low: float
    high: float
    n_guesses: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Self:
        """Return the accuracy of one or more guesses, True if right."""
        n = len(hits)
        interval = stats.binomtest(sum(hits), n).proportion_ci(method="wilson")
        return cls(sum(hits) / n, float(interval.low), float(interval.high), n)


def random_order(n_items: int) -> NDArray[np.int64]:
    """Return the order (n_items,) in which items are drawn, the same in every session."""
    return np.random.default_rng(_SEED).permutation(n_items)


def is_due(history: pd.DataFrame) -> bool:
    """Return whether the next question is about an item drawn at random."""
    return int((history.action == "label").sum()) % EVERY == EVERY - 1


def drawn_before(
    history: pd.DataFrame, order: Sequence[int], left_out: Collection[int]
) -> list[int]:
    """Return the positions of labelled items that had been drawn at random.

    They follow from the history of an :class:`ActiveLearner`, the :func:`random_order` and the
    positions that are never asked for.
    """
    n_labels, closed, found = 0, set(left_out), []
    for action, position in zip(history.action, history.position, strict=True):
        if action == "label":
            n_labels += 1
        if pd.isna(position):
            continue
        if action == "label" and n_labels % EVERY == 0:
            first = next((other for other in order if other not in closed), None)
            found += [int(position)] if position == first else []
        if action in ("unlabel", "unskip"):
            closed.discard(position)
        else:
            closed.add(position)
    return found
