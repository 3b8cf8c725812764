"""What happened in a loop of active learning, and what has a label because of it."""

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Action: TypeAlias = Literal["label", "skip", "relabel", "refit"]

_OPEN, _SKIPPED, _LABELLED = 0, 1, 2


class Event(NamedTuple):
    """One thing that happened.

    Parameters
    ----------
    action : {"label", "skip", "relabel", "refit"}
    position : int or None, default=None
        In the pool; None for a refit, and for an instance from elsewhere.
    label : object, default=None
        A plain text or number.
    time : datetime, default=None
        With its time zone.
    annotator : str or None, default=None
    instance : container of one row, default=None
        An instance from outside the pool.

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

    Examples
    --------
    >>> record = Record.empty(4).add([Event("label", 2, "cat"), Event("skip", 0)])
    >>> record.is_open
    array([False,  True, False,  True])
    >>> record.add([Event("relabel", 2, "dog")]).labels
    array(['dog'], dtype='<U3')
    """

    batches: tuple[tuple[Event, ...], ...]
    status: NDArray[np.int8]
    labelled: tuple[Event, ...]

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
        return cls((), np.zeros(n_pool, dtype=np.int8), ())

    def add(self, events: Sequence[Event]) -> "Record":
        """With what happened next.

        Parameters
        ----------
        events : sequence of Event
            At once.

        Returns
        -------
        Record
        """
        status = self.status.copy()
        labelled = list(self.labelled)
        for event in events:
            if event.action == "label":
                labelled.append(event)
                if event.position is not None:
                    status[event.position] = _LABELLED
            elif event.action == "relabel":
                labelled[[old.position for old in labelled].index(event.position)] = event
            elif event.action == "skip":
                status[event.position] = _SKIPPED
        return Record((*self.batches, tuple(events)), status, tuple(labelled))

    @property
    def is_open(self) -> NDArray[np.bool_]:
        """Which instances of the pool have neither a label nor been skipped, (n_pool,)."""
        return self.status == _OPEN

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

        Examples
        --------
        >>> Record.empty(3).add([Event("label", 2, 1)]).labels_frame().position.tolist()
        [2]
        """
        labels = pd.Series([event.label for event in self.labelled])
        return _frame(self.labelled).assign(label=labels).drop(columns="action")

    def history_frame(self) -> pd.DataFrame:
        """A row for each event.

        Returns
        -------
        DataFrame with columns action, position, label, time, annotator

        Examples
        --------
        >>> Record.empty(3).add([Event("skip", 2)]).history_frame().action.tolist()
        ['skip']
        """
        return _frame(self.events)


def _frame(events: Sequence[Event]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "action": [event.action for event in events],
            "position": pd.array([event.position for event in events], dtype="Int64"),
            "label": pd.Series([event.label for event in events], dtype=object),
            "time": pd.Series([event.time for event in events], dtype="datetime64[us, UTC]"),
            "annotator": pd.Series([event.annotator for event in events], dtype=object),
        }
    )
