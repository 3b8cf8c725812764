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


class Share(NamedTuple):
    """How many of several guesses were right.

    Parameters
    ----------
    share, low, high : float
        With a 95 % interval (Wilson's).
    n_guesses : int

    Examples
    --------
    >>> one = Share.of([True, True, True, False, True, False])
    >>> one.n_guesses, round(one.share, 2), round(one.low, 2), round(one.high, 2)
    (6, 0.67, 0.3, 0.9)
    """

    share: float
    low: float
    high: float
    n_guesses: int

    @classmethod
    def of(cls, hits: Sequence[bool]) -> Self:
        """From single guesses.

        Parameters
        ----------
        hits : sequence of bool
            At least one.

        Returns
        -------
        Share
        """
        n = len(hits)
        interval = stats.binomtest(sum(hits), n).proportion_ci(method="wilson")
        return cls(sum(hits) / n, float(interval.low), float(interval.high), n)


def random_order(n_items: int) -> NDArray[np.int64]:
    """The order in which items are drawn, the same in every session.

    Parameters
    ----------
    n_items : int

    Returns
    -------
    ndarray of shape (n_items,)
        Positions.

    Examples
    --------
    >>> sorted(random_order(3).tolist())
    [0, 1, 2]
    """
    return np.random.default_rng(_SEED).permutation(n_items)


def is_due(history: pd.DataFrame) -> bool:
    """Whether the next question is about an item drawn at random.

    Parameters
    ----------
    history : DataFrame with column action

    Returns
    -------
    bool

    Examples
    --------
    >>> is_due(pd.DataFrame({"action": ["label"] * 9 + ["skip"]}))
    True
    """
    return int((history.action == "label").sum()) % EVERY == EVERY - 1


def drawn_before(
    history: pd.DataFrame, order: Sequence[int], left_out: Collection[int]
) -> list[int]:
    """Positions of labelled items that had been drawn at random, by what happened.

    Parameters
    ----------
    history : DataFrame with columns action, position
        Of an :class:`ActiveLearner`.
    order : sequence of int
        See :func:`random_order`.
    left_out : collection of int
        Positions that are never asked for.

    Returns
    -------
    list of int

    Examples
    --------
    >>> history = pd.DataFrame({"action": ["label"] * 10, "position": range(10)})
    >>> drawn_before(history, [3, 9, 10], []), drawn_before(history, [3, 10, 9], [])
    ([9], [])
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
