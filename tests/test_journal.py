import contextlib
import datetime
import pathlib
import sqlite3
import subprocess
import sys

import numpy as np
import pandas as pd
import PIL.Image
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.digests import sample_digest
from laplace_al.journal import Journal
from laplace_al.record import Event
from laplace_al.strategies import RandomSampling

X = np.arange(12.0).reshape(6, 2)
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.sqlite"


def reopened(journal, X_pool=X):
    journal.close()
    return Journal(journal.path, X_pool)


@pytest.mark.parametrize("labels", [["cat", "hôtel 'x'"], [3, -1], [True, False], [0.5, 2.0]])
def test_events_come_back_as_they_were(path, labels):
    batches = [
        [Event("label", 4, labels[0], NOW, "ann"), Event("label", 0, labels[1], NOW)],
        [Event("skip", 5, time=NOW)],
        [Event("relabel", 0, labels[0], NOW), Event("refit", time=NOW)],
        [Event("unlabel", 4, None, NOW, row=0), Event("unskip", 5, time=NOW)],
    ]
    journal = Journal(path, X)
    for batch in batches:
        journal.append(batch)
    journal = reopened(journal)
    assert journal.batches() == batches
    journal.append([Event("label", 1, labels[0], NOW)])
    again = reopened(journal).batches()
    assert again[4] == [Event("label", 1, labels[0], NOW)]
    assert [type(event.label) for event in again[0]] == [type(label) for label in labels]


@pytest.mark.parametrize(
    ("pool", "row"),
    [
        (X, np.array([[0.1, np.nan]])),
        (X.astype(np.float32), np.array([[0.1, 2.0]], dtype=np.float32)),
        (pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pd.DataFrame({"a": [3], "b": ["z"]})),
        (pl.DataFrame({"a": [1, 2], "b": ["x", "y"]}), pl.DataFrame({"a": [3], "b": ["z"]})),
        (["one text", "another"], ["a third"]),
        (np.zeros((2, 3, 2)), np.arange(6.0).reshape(1, 3, 2)),
        # of another kind than the pool
        (np.array([[0, 1]]), np.array([[0.6, 1.9]])),
        (X.astype(np.float32), np.array([[0.1, 2.0]])),
        (np.array(["one", "two"]), np.array(["a longer text"])),
        (pd.DataFrame({"a": [1, 2]}), pd.DataFrame({"a": [0.6]})),
        (pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"b": [3], "a": [4]})),
        (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1], "b": ["x"]})),
        (pd.Series(["one", "two"]), pd.Series(["a third"])),
        (np.array(["one", "two"], dtype=object), np.array(["a third"], dtype=object)),
    ],
)
def test_instances_from_outside_the_pool(path, pool, row):
    journal = Journal(path, pool)
    journal.append([Event("label", None, "x", NOW, None, row)])
    ((event,),) = reopened(journal, pool).batches()
    instance = event.instance
    assert type(instance) is type(row)
    if isinstance(row, list):
        assert instance == row
    elif isinstance(row, np.ndarray):
        assert instance.dtype == row.dtype
        np.testing.assert_array_equal(instance, row)
    else:
        assert instance.equals(row)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_tensors_from_outside_the_pool(path, dtype):
    pool = torch.tensor(X, dtype=dtype)
    row = (pool[:1] + 2).requires_grad_(dtype.is_floating_point)
    journal = Journal(path, pool)
    journal.append([Event("label", None, "x", NOW, None, row)])
    ((event,),) = reopened(journal, pool).batches()
    assert event.instance.dtype == dtype
    assert torch.equal(event.instance, row)


@pytest.mark.parametrize(
    ("pool", "row"),
    [
        (pl.DataFrame({"a": [1]}), pl.DataFrame({"a": [1], "b": [2]})),
        (X, np.array([[1j, 0.0]])),
        ([{"a": 1}], [{"a": object()}]),
    ],
)
def test_what_would_come_back_as_something_else_is_refused(path, pool, row):
    journal = Journal(path, pool)
    with pytest.raises(ValueError, match="Put it into the pool and teach it by position"):
        journal.append([Event("label", None, "x", NOW, None, row)])
    assert reopened(journal, pool).batches() == []


def test_a_plain_table_that_others_read_while_it_is_open(path):
    journal = Journal(path, pd.DataFrame(X, index=list("uvwxyz")))
    journal.append(
        [Event("label", 4, "cat", NOW, "ann", row=0), Event("label", 2, "dog", NOW, row=1)]
    )
    journal.append([Event("label", 3, "cat", NOW, row=2), Event("refit", time=NOW)])
    journal.append([Event("relabel", 4, "cow", NOW, "bob", row=0), Event("skip", 5, time=NOW)])
    journal.append([Event("unlabel", 3, None, NOW, row=2)])
    with sqlite3.connect(path) as reader:
        rows = reader.execute(
            "SELECT row, position, key, label, time, annotator FROM labels"
        ).fetchall()
    reader.close()
    time = "2026-01-02T03:04:05.000678+00:00"
    assert rows == [(1, 2, "w", "dog", time, None), (0, 4, "y", "cow", time, "bob")]


def test_one_learner_at_a_time(path):
    journal = Journal(path, X)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in use by another ActiveLearner"):
            Journal(path, X)
    code = (
        "import sys, numpy; from laplace_al.journal import Journal; "
        "Journal(sys.argv[1], numpy.arange(12.0).reshape(6, 2))"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "RuntimeError: journal=" in done.stderr
    assert "in use" in done.stderr
    journal.close()
    journal.close()
    assert subprocess.run(command, check=False).returncode == 0
    Journal(path, X).close()


def test_a_closed_journal(path):
    journal = Journal(path, X)
    journal.close()
    with pytest.raises(ValueError, match="is closed"):
        journal.append([Event("skip", 0, time=NOW)])


@pytest.mark.parametrize(
    "pool",
    [
        [pathlib.Path(name) for name in "abc"],
        [{"text": name} for name in "abc"],
        [[1, 2], [3], [4, 5, 6]],
        [PIL.Image.new("L", (i, 2)) for i in (1, 2, 3)],
    ],
)
def test_a_learner_on_another_order_of_objects(path, pool):
    settings = LaplaceUpdateClassifier(numbers_of), RandomSampling()
    with ActiveLearner(*settings, pool, journal=path) as learner:
        learner.teach([0, 1], ["cat", "dog"])
    with pytest.raises(ValueError, match="is of another pool"):
        ActiveLearner(*settings, pool[::-1], journal=path)
    ActiveLearner(*settings, list(pool), journal=path).close()


def numbers_of(items):
    return np.arange(len(items), dtype=float)[:, None]


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (X[:5], "of 6 instances; X_pool has 5"),
        (X + 1, "of as many instances, 6, but with other values than X_pool has now"),
        (X[::-1], "of as many instances, 6, but with other values"),
    ],
)
def test_another_pool(path, other, differs):
    Journal(path, X).close()
    with pytest.raises(ValueError, match=f"is of another pool, {differs}"):
        Journal(path, other)
    Journal(path, X.tolist()).close()  # the error has given the lock back


def test_files_that_are_no_journals(path):
    path.write_bytes(b"position,label\n" * 100)
    with pytest.raises(ValueError, match="is not a journal: file is not a database"):
        Journal(path, X)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE birds (name)")
    other.close()
    with pytest.raises(ValueError, match=r"database of something else.*birds"):
        Journal(path, X)
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        Journal(path.parent / "nowhere" / "labels.sqlite", X)
    with pytest.raises(OSError, match="cannot be opened"):
        Journal(path.parent, X)


def test_a_newer_version(path):
    Journal(path, X).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE meta SET value = 99 WHERE name = 'version'")
    connection.close()
    with pytest.raises(ValueError, match="version 99, newer than 2"):
        Journal(path, X)


SCHEMA_OF_VERSION_1 = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value);
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    batch INTEGER NOT NULL,
    action TEXT NOT NULL,
    position INTEGER,
    key TEXT,
    label,
    time TEXT NOT NULL,
    annotator TEXT,
    instance TEXT
);
CREATE VIEW labels AS
    SELECT position, key, label, time, annotator, instance FROM events AS event
    WHERE action IN ('label', 'relabel') AND NOT EXISTS (
        SELECT 1 FROM events AS later
        WHERE later.action = 'relabel' AND later.position = event.position AND later.id > event.id
    )
    ORDER BY id;
"""


def write_version_1(path, digest):
    """A journal as it was written before labels had rows."""
    entries = {"version": 1, "n_pool": 6, "digest": digest, "label_kind": "U"}
    time = NOW.isoformat()
    events = [
        (1, "label", 4, "cat", time, None),
        (1, "label", None, "cat", time, "[0.5, 1.5]"),
        (1, "label", 2, "dog", time, None),
        (1, "refit", None, None, time, None),
        (2, "skip", 5, None, time, None),
        (3, "relabel", 4, "cow", time, None),
    ]
    with sqlite3.connect(path) as connection:
        connection.executescript(SCHEMA_OF_VERSION_1)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", entries.items())
        connection.executemany(
            "INSERT INTO events (batch, action, position, label, time, instance)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            events,
        )
    connection.close()


class TestVersion1:
    @pytest.fixture
    def old(self, path):
        write_version_1(path, sample_digest(X))
        return path

    def read(self, path, query):
        with sqlite3.connect(path) as reader:
            rows = reader.execute(query).fetchall()
        reader.close()
        return rows

    def test_it_opens_and_stays_as_it_is(self, old):
        before = old.read_bytes()
        journal = Journal(old, X)
        actions = [[event.action for event in batch] for batch in journal.batches()]
        assert actions == [["label", "label", "label", "refit"], ["skip"], ["relabel"]]
        assert {event.row for batch in journal.batches() for event in batch} == {None}
        journal.close()
        assert old.read_bytes() == before

    def test_the_next_event_brings_it_up_to_date(self, old):
        journal = Journal(old, X)
        for _ in range(2):
            journal.append([Event("unlabel", 2, None, NOW, row=2)])
        rows = [event.row for batch in reopened(journal).batches() for event in batch]
        assert rows == [0, 1, 2, None, None, 0, 2, 2]
        assert self.read(old, "SELECT row, position, label FROM labels") == [
            (1, None, "cat"),
            (0, 4, "cow"),
        ]
        assert self.read(old, "SELECT value FROM meta WHERE name = 'version'") == [(2,)]

    def test_what_is_not_written_does_not_bring_it_up_to_date(self, old):
        journal = Journal(old, X)
        with pytest.raises(sqlite3.Error):
            journal.append([Event("skip", 1, time=NOW), Event("skip", 3, None, NOW, ["ann"])])
        journal.close()
        assert self.read(old, "SELECT value FROM meta WHERE name = 'version'") == [(1,)]
        assert len(Journal(old, X).batches()) == 3

    def test_of_objects_it_tells_another_pool_once_it_is_up_to_date(self, path):
        pool = [pathlib.Path(name) for name in "abcdef"]
        write_version_1(path, sample_digest(pool, of_objects=False))
        journal = Journal(path, pool)
        journal.append([Event("unlabel", 2, None, NOW, row=2)])
        reopened(journal, pool).close()
        with pytest.raises(ValueError, match="is of another pool"):
            Journal(path, pool[::-1])

    def test_a_learner_goes_on(self, old):
        settings = LaplaceUpdateClassifier(prior_precision=1.0), RandomSampling(), X
        with ActiveLearner(*settings, journal=old, refit_every=None) as learner:
            assert learner.labels_.label.to_dict() == {0: "cow", 1: "cat", 2: "dog"}
            learner.unlabel(4).relabel(rows=1, y="cow").unskip(5)
        with ActiveLearner(*settings, journal=old) as again:
            assert again.labels_.label.to_dict() == {1: "cow", 2: "dog"}
            np.testing.assert_array_equal(again.predict_proba(X), learner.predict_proba(X))


@pytest.mark.parametrize(
    "event",
    [
        Event("label", 1, (1, 2), NOW),
        Event("label", None, 1, NOW, None, [object()]),
        Event("label", 1, 2**70, NOW),
        Event("label", 1, np.longdouble(2), NOW),
        Event("label", 1, float("nan"), NOW),
        Event("label", 1, 2**63, NOW),
        Event("label", 1, "\ud800", NOW),
        Event("label", 1, b"a", NOW),
        Event("label", 1, True, NOW),
        Event("label", 1, 1.0, NOW),
    ],
)
def test_what_it_cannot_hold_is_refused_whole(path, event):
    journal = Journal(path, X)
    with pytest.raises(ValueError):  # noqa: PT011  each in its own words
        journal.append([Event("label", 0, 1, NOW), event])
    assert journal.batches() == []
    journal.append([Event("label", 0, 1, NOW)])
    assert len(reopened(journal).batches()) == 1


@pytest.mark.parametrize(
    ("first", "other"),
    [(1, "cat"), ("cat", 1), (True, 2), (1, 0.5), (1, 2.0), (2.0, 1), (1, True), (1.5, "2")],
)
def test_labels_of_another_kind_than_the_first(path, first, other):
    journal = Journal(path, X)
    journal.append([Event("label", 0, first, NOW, row=0)])
    journal.append([Event("unlabel", 0, time=NOW, row=0)])
    journal = reopened(journal)
    with pytest.raises(ValueError, match=r"of the kind of its first one, .*Name another file"):
        journal.append([Event("skip", 2, time=NOW), Event("label", 1, other, NOW)])
    assert len(reopened(journal).batches()) == 2


LABELS = st.one_of(
    st.lists(st.text(max_size=3), min_size=2, max_size=4),
    st.lists(st.booleans(), min_size=2, max_size=4),
    st.lists(
        st.integers(-(2**64), 2**64) | st.sampled_from([2**53 + 1, 2**63, -(2**63)]),
        min_size=2,
        max_size=4,
    ),
    st.lists(st.floats(width=32), min_size=2, max_size=4),
    st.lists(st.integers(0, 3), min_size=2, max_size=4),
    st.lists(
        st.integers(0, 3) | st.booleans() | st.sampled_from([1.0, "a", None]),
        min_size=2,
        max_size=4,
    ),
)
KINDS = [
    *("i1", "u1", "u8", "f2", "f8", "longdouble", "bool", "object", "S2", "U2", "M8[D]", "complex"),
    *([None] * 6),
]


@settings(max_examples=60, deadline=None)
@given(labels=LABELS, kind=st.sampled_from(KINDS), one_by_one=st.booleans())
def test_what_is_acknowledged_comes_back(tmp_path_factory, labels, kind, one_by_one):
    """Equal and of the same type, with the same predictions: or it was refused."""
    if kind is not None:
        with contextlib.suppress(ValueError, TypeError, OverflowError), np.errstate(all="ignore"):
            labels = np.array(labels).astype(kind)
    path = tmp_path_factory.mktemp("journal") / "labels.sqlite"
    params = {"covariance": "shared", "prior_precision": 1.0}
    settings = LaplaceUpdateClassifier(**params), RandomSampling(), X
    with ActiveLearner(*settings, journal=path, refit_every=None) as learner:
        positions = [[i] for i in range(len(labels))] if one_by_one else [range(len(labels))]
        for taught in positions:
            with contextlib.suppress(ValueError):
                learner.teach(list(taught), labels[taught[0] : taught[-1] + 1])
    with ActiveLearner(*settings, journal=path, refit_every=None) as again:
        for then, now in zip(learner.labels_.label, again.labels_.label, strict=True):
            assert (then, type(then)) == (now, type(now))
        assert again.is_fitted == learner.is_fitted
        if again.is_fitted:
            np.testing.assert_array_equal(again.predict(X), learner.predict(X))
            np.testing.assert_array_equal(again.predict_proba(X), learner.predict_proba(X))


def test_a_half_written_batch_is_not_there(path):
    """Rows without a COMMIT, as a killed process leaves them, do not count."""
    journal = Journal(path, X)
    journal.append([Event("label", 0, 1, NOW)])
    journal._connection.execute("BEGIN IMMEDIATE")
    journal._connection.execute(
        "INSERT INTO events (batch, action, position, label, time) VALUES (2, 'label', 1, 0, '')"
    )
    assert not journal.holds(3)
    assert len(reopened(journal).batches()) == 1
