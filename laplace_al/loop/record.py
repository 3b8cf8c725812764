"""What happened in a loop of active learning, and what has a label because of it."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Action: TypeAlias = Literal["label", "skip", "relabel", "unlabel", "unskip", "refit"]

_OPEN, _SKIPPED, _LABELLED = 0, 1, 2
# of the position that an action is about
_STATUS = {
    "label": _LABELLED,
    "relabel": _LABELLED,
    "unlabel": _OPEN,
    "skip": _SKIPPED,
    "unskip": _OPEN,
}


class Event(NamedTuple):
    """One thing that happened.

    Parameters
    ----------
    action : {"label", "skip", "relabel", "unlabel", "unskip", "refit"}
    position : int or None, default=None
        In the pool; None for a refit, and for an instance from elsewhere.
    label : object, default=None
        A plain text or number; None where the action gives none.
    time : datetime, default=None
        With its time zone.
    annotator : str or None, default=None
    instance : container of one row, default=None
        An instance from outside the pool.
    row : int, default=None
        Number of the label that is given, corrected or withdrawn, in the order of teaching. None:
        a :class:`Record` finds it, for a label of the pool by its position.

    Examples
    --------
    >>> Event("label", 3, "cat").label
    'cat'
    """

    action: Action
    position: int | None = None
    label: Any = None
    time: datetime.datetime | None = None
    annotator: str | None = None
    instance: Any = None
    row: int | None = None


@dataclass(frozen=True, eq=False)
class Record:
    """All events so far, and the labelled instances that follow from them.

    A value: :meth:`add` returns a new record.

    Parameters
    ----------
    batches : tuple of tuple of Event
        What happened at once.
    status : ndarray of int8 of shape (n_pool,)
        Open, skipped or labelled.
    labelled : tuple of Event
        The valid label of each labelled instance, in the order of their first labels.
    n_rows : int
        Number of labels that were given, those that are withdrawn included.

    Examples
    --------
    >>> record = Record.empty(4).add([Event("label", 2, "cat"), Event("skip", 0)])
    >>> record.is_open
    array([False,  True, False,  True])
    >>> record.add([Event("relabel", 2, "dog")]).labels
    array(['dog'], dtype='<U3')
    >>> record.add([Event("unlabel", 2), Event("unskip", 0)]).is_open
    array([ True,  True,  True,  True])
    """

    batches: tuple[tuple[Event, ...], ...]
    status: NDArray[np.int8]
    labelled: tuple[Event, ...]
    n_rows: int

    @classmethod
    def empty(cls, n_pool: int) -> Self:
        """Nothing has happened.

        Parameters
        ----------
        n_pool : int

        Returns
        -------
        Record

        Examples
        --------
        >>> len(Record.empty(3).labels)
        0
        """
        return cls((), np.zeros(n_pool, dtype=np.int8), (), 0)

    def add(self, events: Sequence[Event]) -> "Record":
        """With what happened next.

        Parameters
        ----------
        events : sequence of Event
            At once.

        Returns
        -------
        Record
            Whose last batch is these events, each with its row.
        """
        return self.add_all([events])

    def add_all(self, batches: Iterable[Sequence[Event]]) -> "Record":
        """With all that happened next, as if each batch were added: in one pass.

        Parameters
        ----------
        batches : iterable of sequence of Event

        Returns
        -------
        Record

        Raises
        ------
        ValueError
            If an event cannot follow those before it, such as a second label of a position.

        Examples
        --------
        >>> record = Record.empty(4).add_all([[Event("label", 2, "cat")], [Event("skip", 0)]])
        >>> len(record.batches), record.is_open.tolist()
        (2, [False, True, False, True])
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
                n_rows += event.action == "label"
                if event.action in ("label", "relabel"):
                    labelled[event.row] = event
                elif event.action == "unlabel":
                    del labelled[event.row]
                if event.position is not None:
                    status[event.position] = _STATUS[event.action]
            added.append(tuple(batch))
        return Record(tuple(added), status, tuple(labelled.values()), n_rows)

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which instances of the pool have neither a label nor been skipped, (n_pool,)."""
        return self.status == _OPEN

    @property
    def is_skipped(self) -> NDArray[np.bool_]:
        """Which instances of the pool are not to be asked for, without a label, (n_pool,)."""
        return self.status == _SKIPPED

    @property
    def is_labelled(self) -> NDArray[np.bool_]:
        """Which instances of the pool have a label, (n_pool,)."""
        return self.status == _LABELLED

    @property
    def labels(self) -> NDArray[Any]:
        """Valid labels, (n_labelled,), in the order of teaching."""
        return np.array([event.label for event in self.labelled])

    @property
    def events(self) -> list[Event]:
        """All events, in the order of time."""
        return [event for batch in self.batches for event in batch]

    def labels_frame(self) -> pd.DataFrame:
        """A row for each labelled instance.

        Returns
        -------
        DataFrame with columns position, label, time, annotator
            Indexed by the rows of the labels: those of others stay when one is withdrawn.

        Examples
        --------
        >>> record = Record.empty(3).add([Event("label", 2, 1), Event("label", 0, 1)])
        >>> record.add([Event("unlabel", 2)]).labels_frame().position.to_dict()
        {1: 0}
        """
        labels = pd.Series([event.label for event in self.labelled])
        frame = _frame(self.labelled).assign(label=labels).drop(columns=["action", "row"])
        return frame.set_axis(pd.Index([event.row for event in self.labelled], dtype=np.int64))

    def history_frame(self) -> pd.DataFrame:
        """A row for each event.

        Returns
        -------
        DataFrame with columns action, position, label, time, annotator, row

        Examples
        --------
        >>> Record.empty(3).add([Event("skip", 2)]).history_frame().action.tolist()
        ['skip']
        """
        return _frame(self.events)


def _with_row(event: Event, labelled: Mapping[int | None, Event], n_rows: int) -> Event:
    """An event with the row of its label, if it is about one and does not say which."""
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
    """Whether it is possible where so much has happened."""
    if event.position is not None and not 0 <= event.position < len(status):
        return False
    before = None if event.position is None else status[event.position]
    if event.action == "label":
        return before != _LABELLED and event.row == n_rows
    if event.action in ("relabel", "unlabel"):
        return event.row in labelled and labelled[event.row].position == event.position
    allowed = {"skip": (_OPEN, _SKIPPED), "unskip": (_SKIPPED,), "refit": (None,)}
    return event.row is None and before in allowed.get(event.action, ())


def _frame(events: Sequence[Event]) -> pd.DataFrame:
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
