"""One person's labelling of a pool: what is done, and what is shown of it. Knows no HTTP."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from laplace_al._common.typing import Path, RandomState
from laplace_al.inputs.blocks import rows_at
from laplace_al.label.items import Items
from laplace_al.label.learner import open_learner
from laplace_al.label.learning_curve import WINDOW, LearningCurve, renamed_classes, thinned
from laplace_al.label.random_items import (
    EVERY,
    MIN_GUESSES,
    Accuracy,
    drawn_before,
    is_due,
    random_order,
)
from laplace_al.label.results import labels_csv
from laplace_al.label.texts import check_annotator, check_label, is_similar
from laplace_al.loop.stopping import is_open
from laplace_al.strategies import QueryStrategy

_N_GUESSES = 3
_N_RECENT = 12


class AlreadyLabelledError(ValueError):
    """An item has a label, which somebody gave it in the meantime."""


class Session:
    """The items, the learner that asks for their labels, and a lock around it.

    ``features`` (n_items, n_features) are what ``note`` says to the page. ``classes`` are labels to
    choose from at the start; others may follow. The session goes on where the journal, an SQLite
    file, ends. Raises ``ValueError`` if a class is no label, the annotator's name is not UTF-8, or
    the journal is of other items or holds labels that are no texts; ``RuntimeError`` if somebody
    else uses the journal.
    """

    def __init__(
        self,
        items: Items,
        features: ArrayLike,
        journal: Path,
        *,
        strategy: QueryStrategy | None = None,
        classes: Sequence[str] = (),
        annotator: str | None = None,
        note: str = "",
        random_state: RandomState = 0,
    ) -> None:
        self.items = items
        self.journal = journal
        self.note = note
        self._given_classes = list(dict.fromkeys(check_label(label) for label in classes))
        self._lock = threading.Lock()
        self._learner = open_learner(
            items,
            journal,
            features,
            strategy,
            annotator=check_annotator(annotator),
            random_state=random_state,
        )
        self._order = random_order(len(items))
        self._curve = LearningCurve(self._learner)
        try:
            self._check_texts()
            history = self._learner.history_
            never = set(items.unreadable) - set(history.position.dropna().tolist())
            self._random = drawn_before(history, self._order.tolist(), never)
            self._choose_next()
        except BaseException:
            self._learner.close()
            raise
        self._curve.rebuild(self._labels, self._history)

    def state(self) -> dict[str, Any]:
        """Return everything that the page shows, as values for JSON.

        ``item``, the next to be labelled, or None at the end; ``upcoming``, the position of the
        item that is likely to follow, or None; ``is_random``, whether the item was drawn at random;
        ``guess``, its most probable labels; ``classes`` and ``counts`` of items; ``accuracy`` and
        ``curve``, see :class:`LearningCurve`; ``recent``, the items of the last actions.
        """
        with self._lock:
            labels, history, asked, drawn = self._labels, self._history, self._asked, self._drawn
            n_random = len(self._random)
            self._curve.estimate(labels, is_last=not asked)
            guess = self._guess(asked[0]) if asked else []
        labelled = dict(zip(labels.position, labels.label, strict=True))
        last = history.dropna(subset="position").groupby("position").action.last()
        prequential = self._curve.prequential(labels)
        estimates = self._curve.leave_one_out()
        leave_one_out = [[n, share] for n, share in estimates if n <= len(labels)]  # not withdrawn
        random = self.accuracy()
        return {
            "item": self._describe(asked[0], labelled) if asked else None,
            "upcoming": asked[1] if len(asked) > 1 else None,
            "is_random": bool(asked) and asked[0] == drawn,
            "guess": guess,
            "classes": self._classes(labels, history),
            "counts": {
                "total": len(self.items) - self._n_left_out,
                "labelled": len(labels),
                "skipped": int((last == "skip").sum()),
            },
            "accuracy": {
                "leave_one_out": leave_one_out[-1] if leave_one_out else None,
                "prequential": prequential[-1] if prequential else None,
                "n_guessed": len(prequential),
                "random": None if random is None else random._asdict(),
                "n_random": n_random,
                "random_every": EVERY,
                "window": WINDOW,
            },
            "curve": {
                "leave_one_out": thinned(leave_one_out),
                "prequential": thinned(prequential),
            },
            "is_busy": self._curve.is_busy,
            "recent": self._recent(history, labelled),
            "note": self.note,
            "noun": self.items.noun,
            "journal": str(self.journal),
        }

    def accuracy(self) -> Accuracy | None:
        """Return the share of right guesses of the last 20 items drawn at random; None before five.

        Each guess was made before its label was learnt. The other items were chosen, by most
        strategies because they are hard, so that accuracy on them says little of the rest.
        """
        with self._lock:
            labels, random = self._labels, self._random
        hits = self._curve.hits(labels[labels.position.isin(random)])[-WINDOW:]
        return Accuracy.of(hits) if len(hits) >= MIN_GUESSES else None

    def label(self, position: int, label: str) -> None:
        """Learn the label of an item that has none. It is on disk when this returns.

        Raises ``LookupError`` if there is no such item, ``AlreadyLabelledError`` if it has a label.
        """
        label = check_label(label)
        with self._lock:
            self._check_unlabelled(position)
            guess = self._guess(position)
            self._learner.teach(position, label)
            if position == self._drawn:
                self._random = [*self._random, position]
            if guess:
                self._curve.add_guess(position, guess[0]["label"])
            self._choose_next()

    def relabel(self, position: int, label: str) -> None:
        """Correct the label of an item that has one. It is on disk when this returns."""
        label = check_label(label)
        self._check_exists(position)
        with self._lock:
            self._learner.relabel(position, label)
            self._curve.make_due()
            self._choose_next()

    def rename(self, label: str, new: str) -> None:
        """Give all items of a class another label: a new one, or one that others have."""
        new = check_label(new)
        with self._lock:
            rows = self._rows_of(label)
            if len(rows) and new != label:
                self._learner.relabel(rows=rows, y=[new] * len(rows))
                self._curve.make_due()
            renamed = [new if given == label else given for given in self._given_classes]
            self._given_classes = list(dict.fromkeys(renamed))
            self._choose_next()

    def withdraw(self, label: str) -> None:
        """Take back all labels of a class: its items will be asked for again."""
        with self._lock:
            rows = self._rows_of(label)
            if len(rows):
                self._learner.unlabel(rows=rows)
                self._curve.make_due()
            self._given_classes = [given for given in self._given_classes if given != label]
            self._choose_next()

    def similar(self, label: str) -> list[str]:
        """Return the classes that a new label may be a slip for; none if the label is known."""
        label = check_label(label)
        with self._lock:
            known = [each["label"] for each in self._classes(self._labels, self._history)]
        return [] if label in known else [each for each in known if is_similar(label, each)]

    def skip(self, position: int) -> None:
        """Do not ask for an item without a label again."""
        with self._lock:
            self._check_unlabelled(position)
            self._learner.skip(position)
            self._choose_next()

    def describe(self, position: int) -> dict[str, Any]:
        """Return an item with its label, if any, and its guess, as in :meth:`state`."""
        self._check_exists(position)
        with self._lock:
            labels, guess = self._labels, self._guess(position)
        labelled = dict(zip(labels.position, labels.label, strict=True))
        return {"item": self._describe(position, labelled), "guess": guess}

    def image(self, position: int) -> tuple[str, bytes]:
        """Return the media type and the bytes of the image of an item.

        Raises ``LookupError`` if it has none, ``OSError`` if its file has gone.
        """
        self._check_exists(position)
        return self.items.image(position)

    def export(self) -> str:
        """Return all labels as a CSV file, see :func:`labels_csv`."""
        with self._lock:
            return labels_csv(self.items, self._labels)

    def close(self) -> int:
        """Let others use the journal, once all is done; return the number of labels."""
        with self._lock:
            self._learner.close()
        self._curve.close()
        return len(self._labels)

    def _check_texts(self) -> None:
        """Refuse a journal of numbers, which takes no other labels: the page gives texts."""
        known = self._learner.labels_.label
        number = next((label for label in known if not isinstance(label, str)), None)
        if number is not None:
            raise ValueError(
                f"journal={str(self.journal)!r} holds labels that are no texts, such as "
                f"{number!r}, beside which it takes none of the page's. Go on with them in an "
                "ActiveLearner, see laplace_al.label.open_learner, or name another journal."
            )

    def _choose_next(self) -> None:
        """Choose the next two items, or fewer at the end, by what is known now."""
        self._labels, self._history = self._learner.labels_, self._learner.history_
        open_now, unreadable = is_open(self._learner), self.items.unreadable
        self._n_left_out = int(open_now[list(unreadable)].sum())
        n_open = int(open_now.sum())
        asked = []
        if n_open > self._n_left_out:
            asked = self._learner.query(min(2 + self._n_left_out, n_open)).tolist()
        asked = [position for position in asked if position not in unreadable]
        self._drawn = None
        if asked and is_due(self._history):
            open_now[list(unreadable)] = False
            self._drawn = int(self._order[open_now[self._order]][0])
            asked = [self._drawn, *(position for position in asked if position != self._drawn)]
        self._asked = asked[:2]
        self._curve.aliases = renamed_classes(self._history)

    def _guess(self, position: int) -> list[dict[str, Any]]:
        """Return the most probable labels of an item and their probabilities, best first."""
        if not self._learner.is_fitted:
            return []
        row = rows_at(self._learner.X_pool, [position])
        probabilities = self._learner.predict_proba(row)[0]
        classes = self._learner.estimator_.classes_
        return [
            {"label": classes[k].item(), "probability": float(probabilities[k])}
            for k in np.argsort(-probabilities, kind="stable")[:_N_GUESSES]
        ]

    def _rows_of(self, label: str) -> NDArray[np.int64]:
        """Return the rows of the labels of a class."""
        if not isinstance(label, str):
            raise ValueError(f"A label must be a text; got {label!r}.")
        rows = self._labels.index[self._labels.label == label].to_numpy()
        if not len(rows) and label not in self._given_classes:
            raise LookupError(f"There is no label {label!r}.")
        return rows

    def _classes(self, labels: pd.DataFrame, history: pd.DataFrame) -> list[dict[str, Any]]:
        """Return each class and its count, in the order they came up in: keys stay where they are.

        One that no label has any more was a slip, unless it was given at the start.
        """
        counts = labels.label.value_counts()
        seen = history.label[history.action.isin(["label", "relabel"])]
        seen = seen[seen.isin(counts.index)]
        classes = dict.fromkeys([*self._given_classes, *seen])
        return [{"label": label, "count": int(counts.get(label, 0))} for label in classes]

    def _recent(self, history: pd.DataFrame, labelled: dict[int, Any]) -> list[dict[str, Any]]:
        touched = history.position.dropna()
        last = touched[~touched.duplicated(keep="last")].iloc[: -_N_RECENT - 1 : -1]
        return [self._describe(position, labelled) for position in last.tolist()]

    def _describe(self, position: int, labelled: dict[int, Any]) -> dict[str, Any]:
        return {
            "position": int(position),
            "label": labelled.get(position),
            **self.items.describe(position),
        }

    def _check_exists(self, position: int) -> None:
        if not 0 <= position < len(self.items):
            raise LookupError(
                f"There is no item {position}; positions go from 0 to {len(self.items) - 1}."
            )

    def _check_unlabelled(self, position: int) -> None:
        self._check_exists(position)
        known = self._labels.label[self._labels.position == position]
        if len(known):
            raise AlreadyLabelledError(
                f"{self.items.names[position]!r} already has the label {known.iloc[0]!r}, perhaps "
                "given in another window. Correct it if it is wrong."
            )
