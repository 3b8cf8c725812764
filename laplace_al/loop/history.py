"""The events of an active-learning loop, and the labels that they leave."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from laplace_al.inputs.labels import check_utf8
from laplace_al.strategies._checks import check_distinct, check_positions

Action: TypeAlias = Literal["label", "skip", "relabel", "unlabel", "unskip", "extend", "refit"]

_OPEN, _SKIPPED, _LABELLED = 0, 1, 2
# the status of a position after an action
_STATUS = {
    "label": _LABELLED,
    "relabel": _LABELLED,
    "unlabel": _OPEN,
    "skip": _SKIPPED,
    "unskip": _OPEN,
}


class Event(NamedTuple):
    """One action on one instance, an extension of the pool, or a refit.

    ``position`` is None for a refit and for an instance from outside the pool, which is then in
    ``instance``, a container of one row; of an extension, it is the last one of the longer pool.
    ``label`` is plain text or a number, ``time`` has a time zone. ``row`` numbers the labels in the
    order of teaching: it says which one is given, corrected or withdrawn; where it is None,
    :class:`History` finds it by the position.
    """

    action: Action
    position: int | None = None
    label: Any = None
    time: datetime.datetime | None = None
    annotator: str | None = None
    instance: Any = None
    row: int | None = None


Events: TypeAlias = Sequence[Event]
"""The events of one call."""


@dataclass(frozen=True, eq=False)
class History:
    """The events of each call so far, and what follows from them: a value.

    ``status``, (n_pool,), is open, skipped or labelled. ``labelled`` has the valid label of each
    instance, in the order of their first labels; ``n_rows`` counts withdrawn labels as well.
    """

    batches: tuple[tuple[Event, ...], ...]
    status: NDArray[np.int8]
    labelled: tuple[Event, ...]
    n_rows: int

    @classmethod
    def empty(cls, n_pool: int) -> Self:
        """Return the history of a pool in which nothing has happened."""
        return cls((), np.zeros(n_pool, dtype=np.int8), (), 0)

    def add(self, events: Events) -> "History":
        """Return the history with one more batch: these events, each with its row."""
        return self.add_all([events])

    def add_all(self, batches: Iterable[Events]) -> "History":
        """Return the history with more batches, in one pass.

        Raises ValueError if an event cannot follow those before it, such as a second label of a
        position.
        """
        status, n_rows, added = self.status.copy(), self.n_rows, list(self.batches)
        labelled = {event.row: event for event in self.labelled}
        for events in batches:
            batch: list[Event] = []
            for event in events:
                event = _with_row(event, labelled, n_rows)
                if not _can_follow(event, status, labelled, n_rows):
                    number = sum(map(len, added)) + len(batch) + 1
                    raise ValueError(
                        f"event {number} cannot follow those before it: {event.action} of position "
                        f"{event.position}, row {event.row}"
                    )
                batch.append(event)
                if event.action == "extend":
                    assert event.position is not None
                    n_new = event.position + 1 - len(status)
                    status = np.concatenate([status, np.zeros(n_new, dtype=np.int8)])
                    continue
                n_rows += event.action == "label"
                if event.action in ("label", "relabel"):
                    labelled[event.row] = event
                elif event.action == "unlabel":
                    del labelled[event.row]
                if event.position is not None:
                    status[event.position] = _STATUS[event.action]
            added.append(tuple(batch))
        return History(tuple(added), status, tuple(labelled.values()), n_rows)

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Mask of the pool (n_pool,): neither labelled nor skipped."""
        return self.status == _OPEN

    @property
    def is_skipped(self) -> NDArray[np.bool_]:
        """Mask of the pool (n_pool,): skipped and not labelled."""
        return self.status == _SKIPPED

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Mask of the pool (n_pool,): labelled."""
        return self.status == _LABELLED

    @property
    def labels(self) -> NDArray[Any]:
        """Valid labels in the order of teaching, (n_labelled,)."""
        return np.array([event.label for event in self.labelled])

    @property
    def events(self) -> list[Event]:
        """All events in the order of time."""
        return [event for batch in self.batches for event in batch]

    def find(self, indices: Any, rows: Any, *, method: str) -> list[Event]:
        """Return the valid labels of positions in the pool, or in rows of ``labels_``.

        ``method`` is the name of the method that takes either, for errors.
        """
        if (indices is None) == (rows is None):
            raise ValueError(
                f"{method} takes either positions in the pool, {method}(indices), or rows of "
                f"labels_, {method}(rows=rows): pass one of indices and rows."
            )
        if rows is None:
            must_be = f"that have a label, to {method} it; without"
            cure = "Call teach to give one."
            indices = checked_positions(indices, self.is_labelled, must_be, cure)
            at = {event.position: event for event in self.labelled}
            return [at[position] for position in indices.tolist()]
        rows = check_distinct("rows", rows, "rows of labels_")
        known = {event.row: event for event in self.labelled}
        missing = [row for row in rows.tolist() if row not in known]
        if missing:
            raise ValueError(
                f"rows must be in the index of labels_, which holds the {len(known)} valid labels; "
                f"not there: {missing}."
            )
        return [known[row] for row in rows.tolist()]

    def labels_frame(self) -> pd.DataFrame:
        """Return position, label, time and annotator of each valid label.

        The index holds the rows of the labels: those of others stay when one is withdrawn.
        """
        labels = pd.Series([event.label for event in self.labelled])
        frame = _frame(self.labelled).assign(label=labels).drop(columns=["action", "row"])
        return frame.set_axis(pd.Index([event.row for event in self.labelled], dtype=np.int64))

    def events_frame(self) -> pd.DataFrame:
        """Return action, position, label, time, annotator and row of each event."""
        return _frame(self.events)


def checked_positions(
    indices: Any, is_allowed: NDArray[np.bool_], must_be: str, cure: str
) -> NDArray[np.int64]:
    """Return positions in the pool; refuse others than those where ``is_allowed``, (n_pool,)."""
    indices = check_positions(indices, len(is_allowed))
    refused = indices[~is_allowed[indices]]
    if len(refused):
        raise ValueError(f"indices must be positions {must_be}: {refused.tolist()}. {cure}")
    return indices


def stamped(events: Events, annotator: Any) -> list[Event]:
    """Return events with the time and an annotator."""
    annotator = checked_annotator(annotator)
    now = datetime.datetime.now(datetime.UTC)
    return [event._replace(time=now, annotator=annotator) for event in events]


def checked_annotator(annotator: Any) -> str | None:
    """Return the name of an annotator as plain text, if it is one."""
    if annotator is None:
        return None
    if not isinstance(annotator, str):
        raise TypeError(
            f"annotator must be a text or None; got {annotator!r} of type "
            f"{type(annotator).__name__}. Pass str(annotator)."
        )
    check_utf8("annotator", [annotator])
    return str.__str__(annotator)  # of a member of an Enum, str() may give its name


def _with_row(event: Event, labelled: Mapping[int | None, Event], n_rows: int) -> Event:
    """Return an event with the row of its label, if it is about one and does not say which."""
    if event.row is not None:
        return event
    if event.action == "label":
        return event._replace(row=n_rows)
    if event.action in ("relabel", "unlabel"):
        rows = (row for row, old in labelled.items() if old.position == event.position)
        return event._replace(row=next(rows, None))
    return event


def _can_follow(
    event: Event, status: NDArray[np.int8], labelled: Mapping[int | None, Event], n_rows: int
) -> bool:
    """Return whether an event is possible with these labels and this status of the pool."""
    if event.action == "extend":
        return event.row is None and (event.position or 0) >= len(status)
    if event.position is not None and not 0 <= event.position < len(status):
        return False
    before = None if event.position is None else status[event.position]
    if event.action == "label":
        return before != _LABELLED and event.row == n_rows
    if event.action in ("relabel", "unlabel"):
        return event.row in labelled and labelled[event.row].position == event.position
    allowed = {"skip": (_OPEN, _SKIPPED), "unskip": (_SKIPPED,), "refit": (None,)}
    return event.row is None and before in allowed.get(event.action, ())


def _frame(events: Events) -> pd.DataFrame:
    """Return a row for each event."""
    return pd.DataFrame(
        {
            "action": [event.action for event in events],
            "position": pd.array([event.position for event in events], dtype="Int64"),
            "label": pd.Series([event.label for event in events], dtype=object),
            "time": pd.Series([event.time for event in events], dtype="datetime64[us, UTC]"),
            "annotator": pd.Series([event.annotator for event in events], dtype=object),
            "row": pd.array([event.row for event in events], dtype="Int64"),
        }
    )
