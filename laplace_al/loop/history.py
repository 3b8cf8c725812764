"""The events of an active-learning loop, and the labels that they leave."""

import datetime
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from laplace_al.inputs.labels import check_utf8
from laplace_al.loop.consensus import agreed, shares_of
from laplace_al.loop.event import Event, Events
from laplace_al.strategies._checks import check_distinct, check_positions

_OPEN, _SKIPPED, _LABELLED = 0, 1, 2
# the status of a position after an action
_STATUS = {
    "label": _LABELLED,
    "relabel": _LABELLED,
    "unlabel": _OPEN,
    "skip": _SKIPPED,
    "unskip": _OPEN,
}


@dataclass(frozen=True, eq=False)
class History:
    """The events of each call so far, and what follows from them: a value.

    ``status``, (n_pool,), is open, skipped or labelled. ``labelled`` has the valid labels in the
    order in which they were first given; ``n_rows`` counts withdrawn labels as well. An instance of
    the pool has one label of each annotator at most.
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
        at = {position: {event.row for event in own} for position, own in self._at.items()}
        for events in batches:
            batch: list[Event] = []
            for event in events:
                event = _with_row(event, labelled, n_rows)
                inside = event.position is not None
                own = at.setdefault(event.position, set()) if inside else set()
                others = [labelled[row] for row in own]
                if not _can_follow(event, status, labelled, n_rows, others):
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
                    own.add(event.row)
                elif event.action == "unlabel":
                    del labelled[event.row]
                    own.discard(event.row)
                if event.position is not None and not (event.action == "unlabel" and own):
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

    def is_labelled_by(self, annotator: str | None) -> NDArray[np.bool_]:
        """Return the mask of the pool (n_pool,): labelled by an annotator."""
        mask = np.zeros(len(self.status), dtype=bool)
        own = [event.position for event in self.labelled if event.annotator == annotator]
        mask[[position for position in own if position is not None]] = True
        return mask

    @functools.cached_property
    def _at(self) -> dict[int | None, list[Event]]:
        """The valid labels of each position."""
        at: dict[int | None, list[Event]] = {}
        for event in self.labelled:
            if event.position is not None:
                at.setdefault(event.position, []).append(event)
        return at

    @functools.cached_property
    def consensus(self) -> tuple[Event, ...]:
        """What the valid labels of each instance come to, in the order of their first labels."""
        firsts = {own[0].row: own for own in self._at.values()}
        n_outside = sum(event.position is None for event in self.labelled)
        if len(firsts) + n_outside == len(self.labelled):
            return self.labelled
        return tuple(
            event if event.position is None else agreed(firsts[event.row])
            for event in self.labelled
            if event.position is None or event.row in firsts
        )

    @property
    def places(self) -> NDArray[np.int64]:
        """The place in ``consensus`` of the instance of each valid label, (n_labelled,)."""
        place = {event.row: i for i, event in enumerate(self.consensus)}
        firsts = [self._at.get(event.position, [event])[0] for event in self.labelled]
        return np.array([place[event.row] for event in firsts], dtype=np.int64)

    def earlier(self, event: Event) -> list[Event]:
        """Return the labels of the same instance that were given before one."""
        same = self._at.get(event.position, [])
        return [one for one in same if (one.row or 0) < (event.row or 0)]

    @property
    def labels(self) -> NDArray[Any]:
        """The label of each instance in the order of teaching, (n_instances,)."""
        return np.array([event.label for event in self.consensus])

    @property
    def events(self) -> list[Event]:
        """All events in the order of time."""
        return [event for batch in self.batches for event in batch]

    def find(
        self, indices: Any, rows: Any, annotator: str | None = None, *, method: str
    ) -> list[Event]:
        """Return the valid label of positions in the pool, or in rows of ``labels_``.

        Where a position has several, it is that of the annotator. ``method`` is the name of the
        method that takes either, for errors.
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
            return [self._label_at(position, annotator, method) for position in indices.tolist()]
        rows = check_distinct("rows", rows, "rows of labels_")
        known = {event.row: event for event in self.labelled}
        missing = [row for row in rows.tolist() if row not in known]
        if missing:
            raise ValueError(
                f"rows must be in the index of labels_, which holds the {len(known)} valid labels; "
                f"not there: {missing}."
            )
        return [known[row] for row in rows.tolist()]

    def _label_at(self, position: int, annotator: str | None, method: str) -> Event:
        """Return the label of an annotator at a position, or the only one that is there."""
        given = self._at[position]
        own = given if len(given) == 1 else [one for one in given if one.annotator == annotator]
        if not own:
            raise ValueError(
                f"annotator must be one whose label is there where an instance has several; "
                f"position {position} has labels of {[one.annotator for one in given]}, got "
                f"{annotator!r}. Name one of them, or pass {method}(rows=...), the rows of labels_."
            )
        return own[0]

    def check_owner(self, labelled: Events, annotator: str | None) -> None:
        """Refuse to make an annotator the one who gave labels where there is one of theirs."""
        for event in labelled:
            own = [one for one in self._at.get(event.position, ()) if one.annotator == annotator]
            if own and own[0].row != event.row:
                raise ValueError(
                    f"annotator={annotator!r} has another label of position {event.position}, in "
                    f"row {own[0].row}. Relabel that one, or name the annotator of this one, "
                    f"{event.annotator!r}."
                )

    def labels_frame(self) -> pd.DataFrame:
        """Return position, label, time, annotator, weight and confidence of each valid label.

        The index holds the rows of the labels: those of others stay when one is withdrawn.
        """
        return _labels_frame(self.labelled)

    def consensus_frame(self) -> pd.DataFrame:
        """Return position, label, confidence, weight and number of labels of each instance."""
        frame = _labels_frame(self.consensus)[["position", "label", "confidence", "weight"]]
        return frame.assign(
            n_labels=[len(self._at.get(event.position, [event])) for event in self.consensus]
        )

    def agreement_frame(self) -> pd.DataFrame:
        """Return how often each annotator agrees with what the others come to."""
        found: dict[str | None, list[float]] = {}
        for own in self._at.values():
            for event in own:
                others = [one for one in own if one is not event]
                agreement = found.setdefault(event.annotator, [])
                shares = shares_of(agreed(others)) if others else {}
                agreement.append(
                    sum(p * shares.get(label, 0.0) for label, p in shares_of(event).items())
                    if others
                    else np.nan
                )
        columns = {name: np.array(values) for name, values in found.items()}
        shared = {name: values[~np.isnan(values)] for name, values in columns.items()}
        return pd.DataFrame(
            {
                "n_labels": [len(values) for values in columns.values()],
                "n_shared": [len(values) for values in shared.values()],
                "agreement": [v.mean() if len(v) else np.nan for v in shared.values()],
            },
            index=pd.Index(list(found), dtype=object, name="annotator"),
        )

    def votes_frame(self) -> pd.DataFrame:
        """Return the labels of the pool, a row for each position and a column for each annotator.

        Who gave no label of an instance has NaN there.
        """
        annotators = list(dict.fromkeys(e.annotator for own in self._at.values() for e in own))
        votes = [{event.annotator: event.label for event in own} for own in self._at.values()]
        return pd.DataFrame(
            [[own.get(name, np.nan) for name in annotators] for own in votes],
            index=pd.Index(list(self._at), dtype=np.int64, name="position"),
            columns=pd.Index(annotators, dtype=object),
            dtype=object,
        )

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
    """Return events with the time and an annotator; those that have a time keep both."""
    annotator = checked_annotator(annotator)
    now = datetime.datetime.now(datetime.UTC)
    return [
        event._replace(time=now, annotator=annotator) if event.time is None else event
        for event in events
    ]


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
    event: Event,
    status: NDArray[np.int8],
    labelled: Mapping[int | None, Event],
    n_rows: int,
    others: Events,
) -> bool:
    """Return whether an event is possible with these labels and this status of the pool.

    ``others`` are the labels of the same position.
    """
    if event.action == "extend":
        return event.row is None and (event.position or 0) >= len(status)
    if event.position is not None and not 0 <= event.position < len(status):
        return False
    before = None if event.position is None else status[event.position]
    if event.action == "label":
        return event.row == n_rows and event.annotator not in {one.annotator for one in others}
    if event.action in ("relabel", "unlabel"):
        is_there = event.row in labelled and labelled[event.row].position == event.position
        own = {one.row for one in others if one.annotator == event.annotator}
        return is_there and (event.action == "unlabel" or own <= {event.row})
    allowed = {"skip": (_OPEN, _SKIPPED), "unskip": (_SKIPPED,), "refit": (None,)}
    return event.row is None and before in allowed.get(event.action, ())


def _labels_frame(events: Events) -> pd.DataFrame:
    """Return a row for each label, by its row in ``labels_``."""
    frame = _frame(events).drop(columns=["action", "row"])
    return frame.assign(
        label=pd.Series([event.label for event in events]),
        weight=np.array([event.weight for event in events], dtype=np.float64),
        confidence=np.array([shares_of(event)[event.label] for event in events], dtype=np.float64),
    ).set_axis(pd.Index([event.row for event in events], dtype=np.int64))


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
