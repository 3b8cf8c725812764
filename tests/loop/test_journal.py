import collections
import contextlib
import datetime
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile

import numpy as np
import pandas as pd
import PIL.Image
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.loop.event import Event
from laplace_al.loop.history import History
from laplace_al.loop.journal import Journal
from laplace_al.loop.training_data import TrainingData
from laplace_al.strategies import RandomSampling

X = np.arange(12.0).reshape(6, 2)
NOW = datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.sqlite"


def reopened(journal, X_pool=X):
    journal.close()
    return Journal(journal.path, X_pool)


def changed(path, *statement):
    """What another program does to a file."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute(*statement).fetchall()
    connection.close()
    return rows


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
        "import sys, numpy; from laplace_al.loop.journal import Journal; "
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
        (np.r_[X + 1, X], "of as many instances, 6, but .* than X_pool has in its first 6 inst"),
    ],
)
def test_another_pool(path, other, differs):
    Journal(path, X).close()
    with pytest.raises(ValueError, match=f"is of another pool, {differs}"):
        Journal(path, other)
    Journal(path, X.tolist()).close()  # the error has given the lock back


def test_files_that_are_no_journals(path):
    path.write_bytes(b"position,label\n" * 100)
    with pytest.raises(ValueError, match="not a journal: file is not a database"):
        Journal(path, X)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE birds (name)")
    other.close()
    with pytest.raises(ValueError, match=r"database of something else.*birds"):
        Journal(path, X)
    with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
        Journal(path.parent / "nowhere" / "labels.sqlite", X)
    with pytest.raises(OSError, match="cannot be opened for writing"):
        Journal(path.parent, X)


@pytest.mark.parametrize("version", [2, 99, None, "new"])
def test_another_version(path, version):
    Journal(path, X).close()
    changed(path, "UPDATE meta SET value = ? WHERE name = 'version'", [version])
    with pytest.raises(ValueError, match=f"version {version}; this laplace_al reads version 1"):
        Journal(path, X)


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
        Event("skip", 1, None, NOW, ["ann"]),
        Event("skip", 1, None, NOW, 7),
        Event("skip", 1, None, NOW, np.int64(7)),
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


def test_no_events_of_others_come_between(path):
    """What would go to another file than the one that is there now, or be written by a fork."""
    journal = Journal(path, X)
    journal.append([Event("label", 0, 1, NOW)])
    path.rename(path.parent / "elsewhere")
    with pytest.raises(RuntimeError, match=r"labels\.sqlite.* was replaced, renamed or deleted"):
        journal.append([Event("label", 1, 1, NOW)])
    assert not journal.holds(2)
    (path.parent / "elsewhere").rename(path)
    journal.append([Event("label", 1, 1, NOW)])
    assert len(reopened(journal).batches()) == 2


@pytest.mark.parametrize("name", [":memory:", "file:labels?mode=memory", "file:labels", "a?b=c#d"])
def test_names_that_sqlite_reads_otherwise_are_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    journal = Journal(name, X)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    journal.append([Event("label", 0, 1, NOW)])
    journal.close()
    assert sorted(other.name for other in tmp_path.iterdir()) == sorted([name, "folder"])
    assert len(Journal(tmp_path / name, X).batches()) == 1
    with pytest.raises(OSError, match=r"journal=.* cannot be opened for writing"):
        Journal("", X)


def test_a_full_disk(path):
    journal = Journal(path, X)
    journal.append([Event("label", 0, "a", NOW)])
    journal._connection.execute("PRAGMA max_page_count = 5")
    with pytest.raises(OSError, match=r"journal=.*database or disk is full.* Free space"):
        journal.append([Event("label", 1, "b" * 10**5, NOW)])
    journal.append([Event("label", 1, "b", NOW)])
    assert [event.label for batch in reopened(journal).batches() for event in batch] == ["a", "b"]


def test_another_program_at_work(path, monkeypatch):
    monkeypatch.setattr("laplace_al.loop.journal._PATIENCE", 0)
    journal = Journal(path, X)
    other = sqlite3.connect(path)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(OSError, match=r"journal=.*database is locked\. Another program"):
        journal.append([Event("label", 0, 1, NOW)])
    other.rollback()
    other.close()
    journal.append([Event("label", 0, 1, NOW)])
    assert len(reopened(journal).batches()) == 1


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="becomes another user")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_folder_that_may_not_be_written():
    """SQLite needs a file beside it to write, which it makes when it writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "labels.sqlite")
        path.parent.chmod(0o755)
        Journal(path, X).close()
        path.chmod(0o666)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                journal = Journal(path, X)
                with pytest.raises(OSError, match=r"journal=.* be written|journal=.*folder"):
                    journal.append([Event("label", 0, 1, NOW)])
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert Journal(path, X).batches() == []


class TestDamage:
    @pytest.fixture
    def whole(self, path):
        journal = Journal(path, X)
        journal.append([Event("label", 0, "cat", NOW, "ann"), Event("label", 1, "dog", NOW)])
        journal.append([Event("skip", 5, time=NOW)])
        journal.close()
        return path

    def read(self, path):
        journal = Journal(path, X)
        try:
            return journal.batches()
        finally:
            journal.close()

    def read_or_error(self, path):
        """Events, or the file that the error names."""
        try:
            return self.read(path)
        except ValueError as error:
            return str(error).split(" is ")[0]

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE events SET label = 'cow' WHERE id = 2",
            "UPDATE events SET label = x'ff' WHERE id = 2",
            "UPDATE events SET label = CAST(x'ff' AS TEXT) WHERE id = 2",
            "UPDATE events SET batch = 3 WHERE id = 2",
            "UPDATE events SET time = '2027-01-01T00:00:00+00:00' WHERE id = 1",
            "UPDATE events SET time = 'noon', checksum = NULL WHERE id = 1",
            "UPDATE events SET checksum = 1 WHERE id = 3",
            "UPDATE events SET id = 9 WHERE id = 3",
            "DELETE FROM events WHERE id = 1",
            "UPDATE meta SET value = 'complex' WHERE name = 'label_kind'",
            "DELETE FROM meta WHERE name = 'label_kind'",
            "DELETE FROM meta WHERE name = 'digest'",
            "DELETE FROM meta",
            "DROP TABLE meta",
            "ALTER TABLE events DROP COLUMN checksum",
            "DROP VIEW labels",
        ],
    )
    def test_what_others_changed(self, whole, change):
        changed(whole, change)
        with pytest.raises(ValueError, match=r"^journal='.*labels\.sqlite'"):
            self.read(whole)

    def test_one_bit(self, whole):
        """Another value of it is an error that names the file, or what nobody reads."""
        content, expected = whole.read_bytes(), self.read(whole)
        rng = np.random.default_rng(0)
        used = np.flatnonzero(np.frombuffer(content, np.uint8))
        for place in rng.choice(used, 300, replace=False):
            damaged = bytearray(content)
            damaged[place] ^= 1 << rng.integers(8)
            whole.write_bytes(damaged)
            assert self.read_or_error(whole) in (expected, f"journal={str(whole)!r}")

    def test_cut_short(self, whole):
        content = whole.read_bytes()
        for size in range(1, len(content), 512):
            whole.write_bytes(content[:size])
            with pytest.raises(ValueError, match=r"^journal='.*labels\.sqlite'"):
                self.read(whole)

    def test_two_labels_of_a_position(self, whole):
        changed(
            whole,
            "INSERT INTO events (id, batch, action, position, label, time, row) VALUES "
            f"(4, 3, 'label', 1, 'cow', '{NOW.isoformat()}', 2)",
        )
        before = whole.read_bytes()
        with pytest.raises(ValueError, match=r"labels\.sqlite' is damaged: event 4 cannot follow"):
            ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X, journal=whole)
        assert whole.read_bytes() == before


@pytest.mark.parametrize("refit_every", [None, "auto", 10**6])
@pytest.mark.parametrize("n_classes", [1, 2])
def test_resuming_takes_a_step_for_each_label(tmp_path, monkeypatch, refit_every, n_classes):
    """Nothing is built, fitted or compared once for each event on all those before it."""
    events = [Event("label", i, i % n_classes, NOW, row=i) for i in range(400)]
    pool = np.random.default_rng(0).normal(size=(400, 2))
    calls = collections.Counter()

    def counted(owner, name):
        function = getattr(owner, name)

        def count(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        monkeypatch.setattr(owner, name, count)

    journal = Journal(tmp_path / "j", pool)
    journal._connection.execute("PRAGMA synchronous=OFF")  # hundreds of fsyncs take seconds
    for event in events:
        journal.append([event])
    journal.close()
    counted(History, "add_all")
    counted(TrainingData, "labels")
    counted(LaplaceUpdateClassifier, "newton_decrement")
    counted(LaplaceUpdateClassifier, "fit")
    settings = LaplaceUpdateClassifier(prior_precision=1.0), RandomSampling(), pool
    options = {"refit_every": refit_every, "classes": [0, 1] if n_classes == 2 else None}
    with ActiveLearner(*settings, journal=tmp_path / "j", **options) as learner:
        assert len(learner.labels_) == 400
    assert max(calls.values()) <= 5, calls
