import datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from laplace_al.loop.event import Event
from laplace_al.loop.history import History

NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


@given(st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 3)), max_size=20))
def test_the_valid_labels_are_the_last_ones(wanted):
    """Against a dictionary, the slow and obvious twin. No label: it is withdrawn, or skipped."""
    history, known, rows, skipped, n_rows = History.empty(6), {}, {}, set(), 0
    for position, label in wanted:
        if label is not None:
            action = "relabel" if position in known else "label"
            if action == "label":
                rows[position], n_rows = n_rows, n_rows + 1
            known[position] = label
            skipped -= {position}
        elif position in known:
            action = "unlabel"
            del known[position], rows[position]
        else:
            action = "unskip" if position in skipped else "skip"
            skipped ^= {position}
        history = history.add([Event(action, position, label, NOW)])
    frame = history.labels_frame()
    assert frame.position.to_dict() == {row: position for position, row in rows.items()}
    assert frame.label.tolist() == [known[position] for position in frame.position]
    assert frame.index.tolist() == sorted(rows.values())
    np.testing.assert_array_equal(np.flatnonzero(history.is_labelled), sorted(known))
    np.testing.assert_array_equal(np.flatnonzero(history.is_skipped), sorted(skipped))
    np.testing.assert_array_equal(history.is_open, ~history.is_labelled & ~history.is_skipped)
    assert history.events_frame().position.tolist() == [position for position, _ in wanted]


def test_labels_of_the_same_instance_are_told_by_their_rows():
    events = [Event("label", None, label, NOW, instance=[[0.5]]) for label in "ab"]
    history = History.empty(1).add(events).add([Event("relabel", None, "c", NOW, row=0)])
    assert history.labels.tolist() == ["c", "b"]
    history = history.add([Event("unlabel", time=NOW, row=0)])
    assert history.labels_frame().label.to_dict() == {1: "b"}
    assert history.add(events).labels_frame().label.to_dict() == {1: "b", 2: "a", 3: "b"}
    assert history.events_frame().row.tolist() == [0, 1, 0, 0]


def test_a_history_is_a_value():
    empty = History.empty(3)
    empty.add([Event("label", 1, "a", NOW), Event("skip", 2, time=NOW)])
    assert empty.is_open.all()
    assert empty.events == []


def test_skipped_instances_can_be_labelled():
    history = History.empty(2).add([Event("skip", 0, time=NOW)])
    assert history.is_open.tolist() == [False, True]
    assert not history.is_labelled.any()
    assert history.add([Event("label", 0, 1, NOW)]).is_labelled.tolist() == [True, False]


def test_events_of_one_call_stay_together():
    history = (
        History.empty(3).add([Event("label", 0, 1), Event("label", 1, 0)]).add([Event("skip", 2)])
    )
    assert [len(batch) for batch in history.batches] == [2, 1]


@pytest.mark.parametrize("labels", [["b", "a"], [True, False], [2, 1], [0.5, 1.0]])
def test_labels_keep_their_kind(labels):
    events = [Event("label", i, label, NOW) for i, label in enumerate(labels)]
    history = History.empty(2).add(events)
    assert history.labels.dtype == np.array(labels).dtype
    assert history.labels_frame().label.tolist() == labels


def test_frames():
    history = History.empty(3).add(
        [Event("label", None, "x", NOW, "ann"), Event("refit", time=NOW)]
    )
    labels, events = history.labels_frame(), history.events_frame()
    columns = ["position", "label", "time", "annotator", "weight", "confidence"]
    assert labels.columns.tolist() == columns
    assert labels.position.isna().tolist() == [True]
    assert labels.annotator.tolist() == ["ann"]
    assert labels.time.tolist() == [pd.Timestamp(NOW)]
    assert events.action.tolist() == ["label", "refit"]
    assert events.columns.tolist() == ["action", "position", "label", "time", "annotator", "row"]
    assert events.label.tolist() == ["x", None]
    assert events.row.tolist() == [0, pd.NA]
    assert History.empty(3).labels_frame().index.dtype == np.int64


@given(st.lists(st.lists(st.integers(0, 5), unique=True, max_size=3), max_size=4))
def test_batches_at_once_are_batches_one_by_one(wanted):
    one = History.empty(30)
    for i, positions in enumerate(wanted):
        one = one.add([Event("label", 6 * i + position, "a", NOW) for position in positions])
    together = History.empty(30).add_all(
        [[event._replace(row=None) for event in batch] for batch in one.batches]
    )
    assert together.batches == one.batches
    assert together.labelled == one.labelled
    assert together.n_rows == one.n_rows
    np.testing.assert_array_equal(together.status, one.status)


@pytest.mark.parametrize(
    "event",
    [
        Event("label", 1, "b", NOW),
        Event("label", 2, "b", NOW, row=7),
        Event("label", 5, "b", NOW),
        Event("label", -1, "b", NOW),
        Event("skip", 1, None, NOW),
        Event("skip", None, None, NOW),
        Event("unskip", 2, None, NOW),
        Event("relabel", 2, "b", NOW),
        Event("relabel", 2, "b", NOW, row=0),
        Event("unlabel", 1, None, NOW, row=1),
        Event("refit", 2, None, NOW),
        Event("refit", None, None, NOW, row=3),
        Event("lavel", 2, "b", NOW),
    ],
)
def test_what_cannot_have_happened(event):
    history = History.empty(5).add([Event("label", 1, "a", NOW)])
    with pytest.raises(ValueError, match=f"event 3 cannot follow those before it: {event.action}"):
        history.add([Event("skip", 0, None, NOW), event])
    assert len(history.events) == 1
