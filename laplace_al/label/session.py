"""A person labels the items of a pool: what happens, and what is shown of it. Knows no HTTP."""

import csv
import re
import threading
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Path, RandomState
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import rows_at
from laplace_al.label.curve import WINDOW, Curve, renamed_classes, thinned
from laplace_al.label.features import check_features
from laplace_al.label.items import ImageFolder, Items, Table, is_utf8, open_items
from laplace_al.label.sample import (
    EVERY,
    MIN_GUESSES,
    Share,
    drawn_before,
    is_due,
    random_order,
)
from laplace_al.loop.learner import ActiveLearner
from laplace_al.loop.stopping import is_open
from laplace_al.strategies import MarginSampling
from laplace_al.strategies.base import QueryStrategy

_MAX_LABEL_LENGTH = 200
_N_GUESSES = 3
_N_RECENT = 12


class AlreadyLabelledError(ValueError):
    """An item has a label, which somebody gave it in the meantime."""


class Session:
    r"""The items, the learner that asks for their labels, and a lock around it.

    Parameters
    ----------
    items : ImageFolder or Table
    features : array-like of shape (n_items, n_features)
    journal : str or path-like
        SQLite file with the labels; the session goes on where it ends. It is bound to the names
        and texts of the items, not to their features: better ones may be brought later.
    strategy : QueryStrategy, default=None
        None: :class:`MarginSampling`.
    classes : sequence of str, default=()
        Labels to choose from at the start; others may follow.
    annotator : str, default=None
    note : str, default=""
        What the features are, for the page.
    random_state : int, RandomState instance or None, default=0

    Raises
    ------
    ValueError
        If a class is no label, the annotator's name is not UTF-8, or the journal is of other items
        or holds labels that are no texts.
    RuntimeError
        If somebody else uses the journal.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from laplace_al.label.items import Table
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "mails.csv")
    >>> _ = path.write_text("subject\nWin!\nLunch?\nWin a prize!\n")
    >>> features = np.array([[1.0], [-1.0], [2.0]])
    >>> session = Session(Table(path, text="subject"), features, path.with_name("labels.sqlite"))
    >>> session.label(0, "spam")
    >>> session.label(1, "ham")
    >>> session.state()["guess"][0]["label"]
    'spam'
    >>> session.close()
    2
    >>> folder.cleanup()
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
        self._curve = Curve(self._learner)
        try:
            self._check_texts()
            history = self._learner.history_
            never = set(items.unreadable) - set(history.position.dropna().tolist())
            self._random = drawn_before(history, self._order.tolist(), never)
            self._look()
        except BaseException:
            self._learner.close()
            raise
        self._curve.rebuild(self._labels, self._history)

    def state(self) -> dict[str, Any]:
        """Everything that the page shows, as values for JSON.

        Returns
        -------
        dict
            ``item``, the next to be labelled, or None at the end; ``upcoming``, the position of
            the item that is likely to follow, or None; ``is_random``, whether the item was drawn
            at random; ``guess``, the most probable labels of the item; ``classes`` with their
            counts; ``counts`` of items; ``accuracy``, see :meth:`accuracy` and
            :class:`laplace_al.label.curve.Curve`, as ``curve`` and ``is_busy``; ``recent``, the
            last actions; ``note``, ``noun`` and ``journal``.
        """
        with self._lock:
            labels, history, positions = self._labels, self._history, self._asked
            is_random = bool(positions) and positions[0] == self._drawn
            n_random = len(self._random)
            self._curve.estimate(labels, is_last=not positions)
            guess = self._guess(positions[0]) if len(positions) else []
        labelled = dict(zip(labels.position, labels.label, strict=True))
        last = history.dropna(subset="position").groupby("position").action.last()
        prequential = self._curve.prequential(labels)
        estimates = self._curve.leave_one_out()
        leave_one_out = [[n, share] for n, share in estimates if n <= len(labels)]  # not withdrawn
        random = self.accuracy()
        return {
            "item": self._describe(positions[0], labelled) if len(positions) else None,
            "upcoming": positions[1] if len(positions) > 1 else None,
            "is_random": is_random,
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

    def accuracy(self) -> Share | None:
        """How many of the last 20 items drawn at random the model had guessed right.

        Each tenth question is about such an item. The others were chosen, by most strategies
        because they are hard, so that accuracy on them says little of the rest.

        Returns
        -------
        Share or None
            Each guess was made before its label was learnt. None: there are fewer than five.
        """
        with self._lock:
            labels, random = self._labels, self._random
        hits = self._curve.hits(labels[labels.position.isin(random)])[-WINDOW:]
        return Share.of(hits) if len(hits) >= MIN_GUESSES else None

    def label(self, position: int, label: str) -> None:
        """Learn the label of an item that has none. It is on disk when this returns.

        Parameters
        ----------
        position : int
        label : str

        Raises
        ------
        AlreadyLabelledError
            If it has one.
        LookupError
            If there is no such item.
        ValueError
            If the label is not valid.
        """
        label = check_label(label)
        with self._lock:
            self._check_unlabelled(position)
            guess = self._guess(position)
            self._learner.teach(position, label)
            if position == self._drawn:
                self._random = [*self._random, position]
            if guess:
                self._curve.guessed(position, guess[0]["label"])
            self._look()

    def relabel(self, position: int, label: str) -> None:
        """Correct the label of an item. It is on disk when this returns.

        Parameters
        ----------
        position : int
        label : str

        Raises
        ------
        LookupError
            If there is no such item.
        ValueError
            If it has no label, or the new one is not valid.
        """
        label = check_label(label)
        self._check_exists(position)
        with self._lock:
            self._learner.relabel(position, label)
            self._curve.corrected()
            self._look()

    def rename(self, label: str, new: str) -> None:
        """Give all items of a class another label: a new one, or one that others have.

        Parameters
        ----------
        label, new : str

        Raises
        ------
        LookupError
            If there is no such class.
        ValueError
            If the new label is not valid.
        """
        new = check_label(new)
        with self._lock:
            rows = self._rows_of(label)
            if len(rows) and new != label:
                self._learner.relabel(rows=rows, y=[new] * len(rows))
                self._curve.corrected()
            renamed = [new if given == label else given for given in self._given_classes]
            self._given_classes = list(dict.fromkeys(renamed))
            self._look()

    def withdraw(self, label: str) -> None:
        """Take back all labels of a class: its items will be asked for again.

        Parameters
        ----------
        label : str

        Raises
        ------
        LookupError
            If there is no such class.
        """
        with self._lock:
            rows = self._rows_of(label)
            if len(rows):
                self._learner.unlabel(rows=rows)
                self._curve.corrected()
            self._given_classes = [given for given in self._given_classes if given != label]
            self._look()

    def similar(self, label: str) -> list[str]:
        """Classes that a new label may be meant for, see :func:`is_similar`.

        Parameters
        ----------
        label : str

        Returns
        -------
        list of str
            None if the label is known.
        """
        label = check_label(label)
        with self._lock:
            known = [each["label"] for each in self._classes(self._labels, self._history)]
        return [] if label in known else [each for each in known if is_similar(label, each)]

    def skip(self, position: int) -> None:
        """Do not ask for an item again.

        Parameters
        ----------
        position : int

        Raises
        ------
        AlreadyLabelledError
            If it has a label.
        LookupError
            If there is no such item.
        """
        with self._lock:
            self._check_unlabelled(position)
            self._learner.skip(position)
            self._look()

    def describe(self, position: int) -> dict[str, Any]:
        """An item, with its label if it has one.

        Parameters
        ----------
        position : int

        Returns
        -------
        dict
            ``item`` and ``guess``, as in :meth:`state`.

        Raises
        ------
        LookupError
            If there is no such item.
        """
        self._check_exists(position)
        with self._lock:
            labels, guess = self._labels, self._guess(position)
        labelled = dict(zip(labels.position, labels.label, strict=True))
        return {"item": self._describe(position, labelled), "guess": guess}

    def image(self, position: int) -> tuple[str, bytes]:
        """Media type and bytes of the image of an item.

        Parameters
        ----------
        position : int

        Returns
        -------
        media_type : str
        content : bytes

        Raises
        ------
        LookupError
            If there is no such item or it has no image.
        OSError
            If its file has gone.
        """
        self._check_exists(position)
        return self.items.image(position)

    def export(self) -> str:
        """All labels as a CSV file, see :func:`labels_csv`.

        Returns
        -------
        str
        """
        with self._lock:
            return labels_csv(self.items, self._labels)

    def close(self) -> int:
        """Let others use the journal, once what is under way is done.

        Returns
        -------
        int
            Number of labels.
        """
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

    def _look(self) -> None:
        """See what is known now and which items come next, two at most."""
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
        """The most probable labels of an item and their probabilities, best first."""
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
        """Rows of the labels of a class."""
        if not isinstance(label, str):
            raise ValueError(f"A label must be a text; got {label!r}.")
        rows = self._labels.index[self._labels.label == label].to_numpy()
        if not len(rows) and label not in self._given_classes:
            raise LookupError(f"There is no label {label!r}.")
        return rows

    def _classes(self, labels: pd.DataFrame, history: pd.DataFrame) -> list[dict[str, Any]]:
        """Each class and its count, in the order they came up in: keys stay where they are.

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


def check_label(label: object) -> str:
    """A label as it is kept: a text of one line, without spaces around it.

    Parameters
    ----------
    label : str

    Returns
    -------
    str
        In Unicode's composed form, so that equal texts are equal.

    Raises
    ------
    ValueError
        If it is anything else.

    Examples
    --------
    >>> check_label(" cat ")
    'cat'
    """
    if not isinstance(label, str):
        raise ValueError(f"A label must be a text; got {label!r}.")
    text = unicodedata.normalize("NFC", label).strip()
    if not text or len(text) > _MAX_LABEL_LENGTH or any(map(_is_control, text)):
        raise ValueError(
            f"A label must be a text of one line, of 1 to {_MAX_LABEL_LENGTH} characters; got "
            f"{label[:50]!r}."
        )
    return text


def is_similar(one: str, other: str) -> bool:
    """Whether two labels may be meant for one.

    They differ only in case, spaces, hyphens or underscores, or, from four characters on, in one
    letter that is missing, added, changed or swapped with the next. Other digits are meant.

    Parameters
    ----------
    one, other : str

    Returns
    -------
    bool

    Examples
    --------
    >>> is_similar("Blurry", "blurry "), is_similar("blury", "blurry"), is_similar("cat", "cut")
    (True, True, False)
    >>> is_similar("class 10", "class 11")
    False
    """
    one, other = (re.sub(r"[\s_-]+", " ", text.casefold()).strip() for text in (one, other))
    if one == other or one.replace(" ", "") == other.replace(" ", ""):
        return True
    if min(len(one), len(other)) < 4 or re.findall(r"\d", one) != re.findall(r"\d", other):
        return False
    start = _n_common(one, other)
    one, other = one[start:], other[start:]
    end = _n_common(one[::-1], other[::-1])
    one, other = one[: len(one) - end], other[: len(other) - end]
    return max(len(one), len(other)) <= 1 or (len(one) == 2 and one == other[::-1])


def _n_common(one: str, other: str) -> int:
    """Length of the beginning that two texts share."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def check_annotator(annotator: str | None) -> str | None:
    """Refuse a name that no journal can hold.

    Parameters
    ----------
    annotator : str or None

    Returns
    -------
    str or None

    Raises
    ------
    ValueError
        If it is not UTF-8.

    Examples
    --------
    >>> check_annotator("Zoë")
    'Zoë'
    """
    if annotator is not None and not is_utf8(annotator):
        raise ValueError(
            f"annotator must be a text that UTF-8 has a form for; got {annotator!r}. Type the name "
            "in a terminal that uses UTF-8, or give another."
        )
    return annotator


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def open_learner(
    items: Items | Path,
    journal: Path,
    features: ArrayLike,
    strategy: QueryStrategy | None = None,
    **settings: Any,
) -> ActiveLearner:
    r"""Open a journal of the labelling page in an :class:`ActiveLearner`.

    Parameters
    ----------
    items : str or path-like
        The folder of images or the CSV file that was labelled.
    journal : str or path-like
        SQLite file of the labels. It is made if it does not exist, and nobody else may use it.
    features : array-like of shape (n_items, n_features)
        A row for each item, such as the array in the file of ``--cache``.
    strategy : QueryStrategy, default=None
        None: :class:`laplace_al.strategies.MarginSampling`.
    **settings : dict
        Other parameters of :class:`ActiveLearner`.

    Returns
    -------
    ActiveLearner
        Its ``X_pool`` is a DataFrame with a row for each item, in the order of ``features``.

    Raises
    ------
    ValueError
        If ``features`` do not have a row for each item, or the journal is of other items.
    RuntimeError
        If somebody else uses the journal.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from laplace_al.label import open_learner
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "mails.csv")
    >>> _ = path.write_text("subject\nWin!\nLunch?\nWin a prize!\n")
    >>> features = np.array([[1.0], [-1.0], [2.0]])
    >>> learner = open_learner(path, path.with_name("labels.sqlite"), features)
    >>> learner.teach([0, 1], ["spam", "ham"]).query()
    array([2])
    >>> learner.close()
    >>> folder.cleanup()
    """
    items = items if isinstance(items, ImageFolder | Table) else open_items(items)
    features = check_features(np.asarray(as_array(features)), len(items), "open_learner")
    return ActiveLearner(
        LaplaceUpdateClassifier(lookup(features), prior_precision="scale"),
        MarginSampling() if strategy is None else strategy,
        pool_of(items),
        journal=journal,
        **settings,
    )


def pool_of(items: Items) -> pd.DataFrame:
    """The pool of a learner: what tells items from each other, under their names.

    Parameters
    ----------
    items : ImageFolder or Table

    Returns
    -------
    DataFrame with columns position, content
    """
    contents = {"position": np.arange(len(items)), "content": items.contents}
    return pd.DataFrame(contents, index=pd.Index(items.names, name="name"))


def lookup(features: NDArray[Any]) -> Callable[[pd.DataFrame], NDArray[Any]]:
    """A feature extractor for :func:`pool_of`, to which all features are known.

    Parameters
    ----------
    features : ndarray of shape (n_items, n_features)

    Returns
    -------
    callable

    Examples
    --------
    >>> lookup(np.array([[5.0], [7.0]]))(pd.DataFrame({"position": [1]}))
    array([[7.]])
    """
    return lambda pool: features[pool["position"].to_numpy()]


def labels_csv(items: Items, labels: pd.DataFrame) -> str:
    """Labels as a CSV file.

    Parameters
    ----------
    items : ImageFolder or Table
    labels : DataFrame with columns position, label, time, annotator

    Returns
    -------
    str
        With the columns position (from 0), name, label, time (UTC) and annotator.
    """
    table = labels.dropna(subset="position")
    table.insert(1, "name", [items.names[position] for position in table.position])
    return csv_text(table)


def csv_text(table: pd.DataFrame) -> str:
    r"""A table as CSV that is read back as it was.

    Parameters
    ----------
    table : DataFrame

    Returns
    -------
    str

    Examples
    --------
    >>> csv_text(pd.DataFrame({"name": ["one\rtwo"]}))
    '"name"\n"one\rtwo"\n'
    """
    # unquoted, a carriage return ends a row for those who read it; csv quotes only line feeds
    has_return = table.map(lambda value: isinstance(value, str) and "\r" in value).to_numpy().any()
    return table.to_csv(
        index=False, quoting=csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    )
