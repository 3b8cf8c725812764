"""The accuracy of the model after each label, from the labels alone."""

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

WINDOW = 20  # guesses over which the share of right ones is taken
_FIRST = 5  # labels; of fewer there is hardly anything to leave out
_GROWTH = 1.1
_GROWTH_OF_THE_PAST = 1.5
_MAX_POINTS = 200


class LearningCurve:
    """Two learning curves, neither of which needs labels of its own.

    The prequential accuracy is the share of labels that the model had guessed right before it
    learnt them, the last 20 at a time (Dawid, *Statistical theory: the prequential approach*,
    Journal of the Royal Statistical Society A 147, 1984). The leave-one-out accuracy is that of a
    model fitted on all labels so far, see :class:`laplace_al.classifier.LooScore`. Both are about
    instances that were chosen, by most strategies because they are hard: accuracy on the rest of
    the pool tends to be higher.

    The fits run in a thread of their own, for they may take longer than a person does to label.

    ``guesses`` are what the model said of instances, by position; ``estimates`` the leave-one-out
    accuracies, by number of labels; ``aliases`` the present names of classes, see
    :func:`renamed_classes`.
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
        """Return pairs of a number of labels and the share of the last 20 guesses that were right.

        There is a pair for each label that was guessed; labels are in the order of teaching.
        """
        with self._lock:
            is_guessed = labels.position.isin(list(self.guesses)).to_numpy()
        hits = np.cumsum([0, *self.hits(labels[is_guessed])])
        return [
            [int(n), float((hits[i] - hits[max(i - WINDOW, 0)]) / min(i, WINDOW))]
            for i, n in enumerate(np.flatnonzero(is_guessed) + 1, start=1)
        ]

    def hits(self, labels: pd.DataFrame) -> list[bool]:
        """Return whether guesses were right, for each label that was guessed."""
        with self._lock:
            guesses = {i: self.aliases.get(guess, guess) for i, guess in self.guesses.items()}
        pairs = zip(labels.position, labels.label, strict=True)
        return [bool(guesses[i] == label) for i, label in pairs if i in guesses]

    def leave_one_out(self) -> list[list[float]]:
        """Return pairs of a number of labels and the leave-one-out accuracy."""
        with self._lock:
            return [list(point) for point in sorted(self.estimates.items())]

    @property
    def is_busy(self) -> bool:
        """Return whether an estimate is on its way."""
        return self._thread is not None and self._thread.is_alive()

    def add_guess(self, position: int, label: Any) -> None:
        """Keep what the model says of an instance that it is about to learn."""
        with self._lock:
            self.guesses[position] = label

    def make_due(self) -> None:
        """Make the next estimate due at once: a label was wrong."""
        self._n_estimated = 0

    def estimate(self, labels: pd.DataFrame, *, is_last: bool = False) -> None:
        """Start a fit for the leave-one-out accuracy, if labels are a tenth more than at the last.

        If no label will follow (``is_last``), it is due if there is any new one.
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
    """Yield the position and the guess of each label in a learner's history before it is learnt."""
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
    """Return the present name of each class that no label has any more, if it has one.

    It has if all labels of the class in a learner's history got one and the same other.
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
    """Return at most 200 points at even distances, the last one among them."""
    if len(points) <= _MAX_POINTS:
        return points
    chosen = np.linspace(0, len(points) - 1, _MAX_POINTS).round().astype(int)
    return [points[i] for i in chosen]
