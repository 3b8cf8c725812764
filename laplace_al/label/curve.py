"""How good the model was after each label, from the labels alone."""

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, clone

from laplace_al._common.typing import Instances
from laplace_al.inputs.blocks import rows_at
from laplace_al.loop.learner import ActiveLearner
from laplace_al.strategies import RandomSampling

_Point = TypeVar("_Point")

# Labels over which the share of right guesses is taken.
WINDOW = 20
_FIRST = 5  # labels; of fewer there is hardly anything to leave out
_GROWTH = 1.1
_GROWTH_OF_THE_PAST = 1.5
_MAX_POINTS = 200


class Curve:
    """Two learning curves, neither of which needs labels of its own.

    The share of labels that the model had guessed right before it learnt them, the last 20 at a
    time (prequential accuracy); and the leave-one-out accuracy of a model fitted on all labels so
    far, see :class:`laplace_al.classifier.LooScore`. Both are about instances that were chosen,
    by most strategies because they are hard: accuracy on the rest of the pool tends to be higher.

    The fits run in a thread of their own, for they may take longer than a person does to label.

    Parameters
    ----------
    learner : ActiveLearner
        Of which it takes the unfitted estimator and the pool.

    Attributes
    ----------
    guesses : dict from position to label
        What the model said of instances before it learnt them.
    estimates : dict from number of labels to float
        Leave-one-out accuracy.
    aliases : dict from label to label
        What classes are called now, see :func:`renamed_classes`.

    References
    ----------
    Dawid, *Present position and potential developments: some personal views. Statistical theory:
    the prequential approach*, Journal of the Royal Statistical Society A 147, 1984.

    Examples
    --------
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0], [3.0]])
    >>> curve = Curve(learner.teach([0, 1], ["yes", "no"]))
    >>> curve.guessed(2, "yes")
    >>> curve.prequential(learner.teach(2, "yes").labels_)
    [[3, 1.0]]
    """

    def __init__(self, learner: ActiveLearner) -> None:
        self.guesses: dict[int, Any] = {}
        self.estimates: dict[int, float] = {}
        self.aliases: dict[Any, Any] = {}
        self._estimator, self._X_pool = learner.estimator, learner.X_pool
        self._lock = threading.Lock()
        self._n_estimated = 0
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def prequential(self, labels: pd.DataFrame) -> list[list[float]]:
        """Share of the last 20 guesses that were right, after each label that was guessed.

        Parameters
        ----------
        labels : DataFrame with columns position, label
            In the order of teaching.

        Returns
        -------
        list of [number of labels, accuracy]
        """
        with self._lock:
            is_guessed = labels.position.isin(list(self.guesses)).to_numpy()
        guessed = list(
            zip(np.flatnonzero(is_guessed) + 1, self.hits(labels[is_guessed]), strict=True)
        )
        hits = np.cumsum([0, *(hit for _, hit in guessed)])
        return [
            [int(n), float((hits[i] - hits[max(i - WINDOW, 0)]) / min(i, WINDOW))]
            for i, (n, _) in enumerate(guessed, start=1)
        ]

    def hits(self, labels: pd.DataFrame) -> list[bool]:
        """Whether guesses were right, for each label that was guessed before it was learnt.

        Parameters
        ----------
        labels : DataFrame with columns position, label

        Returns
        -------
        list of bool
        """
        with self._lock:
            return [
                bool(self._guess(position) == label)
                for position, label in zip(labels.position, labels.label, strict=True)
                if position in self.guesses
            ]

    def _guess(self, position: int) -> Any:
        guess = self.guesses[position]
        return self.aliases.get(guess, guess)

    def leave_one_out(self) -> list[list[float]]:
        """Estimates so far.

        Returns
        -------
        list of [number of labels, accuracy]
        """
        with self._lock:
            return [list(point) for point in sorted(self.estimates.items())]

    @property
    def is_busy(self) -> bool:
        """Whether there is an estimate on its way."""
        return self._thread is not None and self._thread.is_alive()

    def guessed(self, position: int, label: Any) -> None:
        """Keep what the model says of an instance that it is about to learn.

        Parameters
        ----------
        position : int
        label : label
        """
        with self._lock:
            self.guesses[position] = label

    def corrected(self) -> None:
        """Let the next estimate be due at once: a label was wrong."""
        self._n_estimated = 0

    def estimate(self, labels: pd.DataFrame, *, is_last: bool = False) -> None:
        """Start a fit for the leave-one-out accuracy, if labels are a tenth more than at the last.

        Parameters
        ----------
        labels : DataFrame with columns position, label
        is_last : bool, default=False
            Whether no label will follow: then it is due if there is any new one.
        """
        labels = labels.dropna(subset="position")
        growth = 1 if is_last else _GROWTH
        n = len(labels)
        is_due = n >= max(_FIRST, self._n_estimated + 1, growth * self._n_estimated)
        if is_due and labels.label.nunique() > 1 and not self.is_busy:
            self._n_estimated = n
            self._start(self._estimate, labels, [n])

    def rebuild(self, labels: pd.DataFrame, history: pd.DataFrame) -> None:
        """Start to find out what was said of labels that are known already.

        All are learnt once more in their order. Leave-one-out estimates come at fewer points than
        they did at the time.

        Parameters
        ----------
        labels, history : DataFrame
            See :class:`ActiveLearner`.
        """
        labels = labels.dropna(subset="position")
        if labels.label.nunique() > 1:
            self._n_estimated = len(labels)
            self._start(self._rebuild, labels, history)

    def close(self) -> None:
        """End the thread, after the fit that it is at."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        self._thread = threading.Thread(target=work, args=args, name="learning curve")
        self._thread.start()

    def _estimate(self, labels: pd.DataFrame, sizes: Iterable[int]) -> None:
        positions = labels.position.to_numpy(dtype=np.int64)
        y = np.array(labels.label.tolist())
        for n in sizes:
            if self._stopped.is_set() or n < _FIRST or len(np.unique(y[:n])) < 2:
                continue
            estimator = clone(self._estimator)
            estimator.fit(rows_at(self._X_pool, positions[:n]), y[:n])
            with self._lock:
                self.estimates[n] = float(estimator.loo_score_.accuracy)

    def _rebuild(self, labels: pd.DataFrame, history: pd.DataFrame) -> None:
        n = len(labels)
        self._estimate(labels, [n])
        n_steps = int(np.log(n) / np.log(_GROWTH_OF_THE_PAST))
        for position, guess in replayed(self._estimator, self._X_pool, history):
            with self._lock:
                self.guesses.setdefault(position, guess)
            if self._stopped.is_set():
                return
        self._estimate(labels, [int(n / _GROWTH_OF_THE_PAST**k) for k in range(n_steps, 0, -1)])


def replayed(
    estimator: BaseEstimator, X_pool: Instances, history: pd.DataFrame
) -> Iterator[tuple[int, Any]]:
    """Guesses of labels, each before it is learnt.

    Parameters
    ----------
    estimator : classifier
    X_pool : array-like of shape (n_pool, ...)
    history : DataFrame with columns action, position, label
        Of an :class:`ActiveLearner`.

    Yields
    ------
    position : int
    guess : label

    Examples
    --------
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> X = [[2.0], [-1.0], [3.0]]
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X)
    >>> learner = learner.teach([0, 1], ["yes", "no"]).teach(2, "no")
    >>> list(replayed(LaplaceUpdateClassifier(), X, learner.history_))
    [(2, 'yes')]
    """
    # refits are events
    twin = ActiveLearner(estimator, RandomSampling(), X_pool, refit_every=None)
    for event in history.itertuples():
        if event.action == "refit":
            if twin.is_fitted and twin.history_.action.iloc[-1] != "refit":
                twin.refit()
        elif pd.isna(event.position):
            continue
        elif event.action == "relabel":
            twin.relabel(event.position, event.label)
        elif event.action == "unlabel":
            twin.unlabel(event.position)
        elif event.action == "label":
            if twin.is_fitted:
                row = rows_at(X_pool, [event.position])
                yield int(event.position), twin.predict(row)[0].item()
            twin.teach(event.position, event.label)


def renamed_classes(history: pd.DataFrame) -> dict[Any, Any]:
    """Classes that no label has any more because all that had it got one and the same other.

    Parameters
    ----------
    history : DataFrame with columns action, label, row
        Of an :class:`ActiveLearner`.

    Returns
    -------
    dict from label to label

    Examples
    --------
    >>> history = pd.DataFrame(
    ...     {"action": ["label", "label", "relabel"], "label": ["cta", "cat", "cat"],
    ...      "row": [0, 1, 0]})
    >>> renamed_classes(history)
    {'cta': 'cat'}
    """
    now: dict[int, Any] = {}
    others: dict[Any, set[Any]] = {}
    for action, label, row in zip(history.action, history.label, history.row, strict=True):
        if action == "relabel":
            others.setdefault(now[row], set()).add(label)
        if action in ("label", "relabel"):
            now[row] = label
        elif action == "unlabel":
            del now[row]
    known = set(now.values())
    aliases = {old: new for old, (new, *more) in others.items() if old not in known and not more}
    for old in aliases:  # which may have been renamed again
        seen = {old}
        while aliases[old] in aliases and aliases[old] not in seen:
            seen.add(aliases[old])
            aliases[old] = aliases[aliases[old]]
    return aliases


def thinned(points: list[_Point]) -> list[_Point]:
    """At most 200 points at even distances, the last one among them.

    Parameters
    ----------
    points : list

    Returns
    -------
    list

    Examples
    --------
    >>> len(thinned(list(range(5000)))), thinned(list(range(5000)))[-1]
    (200, 4999)
    """
    if len(points) <= _MAX_POINTS:
        return points
    chosen = np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int)
    return [points[i] for i in chosen]
