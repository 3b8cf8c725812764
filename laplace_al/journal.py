"""A journal of labels on disk: acknowledged labels survive whatever happens to the process."""

import contextlib
import datetime
import itertools
import json
import pathlib
import sqlite3
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import _num_samples

from laplace_al.devices import as_array
from laplace_al.digests import sample_digest
from laplace_al.locks import locked
from laplace_al.record import Event, Record
from laplace_al.typing import Instances, Path

_VERSION = 2
# what labels are read back as, by the kind of the first one written; bytes only by old versions
_TYPES = {"b": bool, "i": int, "u": int, "f": float, "U": str, "S": bytes}
_KINDS = {bool: "b", int: "i", float: "f", str: "U"}
# what JSON, NumPy, pandas and polars raise of values that they have no form for
_NO_FORM = (TypeError, ValueError, OverflowError)
_PATIENCE = 30  # seconds, for readers to finish
_COLUMNS = ("batch", "action", "position", "key", "label", "time", "annotator", "instance", "row")
_LABELS = """
CREATE VIEW labels AS
    SELECT row, position, key, label, time, annotator, instance FROM events
    WHERE action != 'unlabel' AND id IN (
        SELECT MAX(id) FROM events WHERE row IS NOT NULL GROUP BY row
    )
    ORDER BY id;
"""
_SCHEMA = f"""
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
    instance TEXT,
    row INTEGER
);
{_LABELS}"""
# version 1 had no rows: a label was told by its position, and what had none stayed as it was; its
# digest of the pool was the same for all objects
_UPGRADE = f"""
ALTER TABLE events ADD COLUMN row INTEGER;
DROP VIEW IF EXISTS labels;
{_LABELS}"""


class Journal:
    """Events of a learner in an SQLite file, for one process at a time.

    The table ``events`` has a row for each event, with the columns ``id``, ``batch`` (number of the
    call that wrote it), ``action``, ``position`` in the pool, ``key`` (the index of its row in a
    DataFrame), ``label``, ``time`` (UTC, ISO 8601), ``annotator``, ``instance`` (values of an
    instance from outside the pool, as JSON, with its columns or dtype if they differ from the
    pool's) and ``row`` (of ``labels_``: which label is given, corrected or withdrawn). The view
    ``labels`` has only the valid labels. Other programs may read both at any time.

    A file of version 1, which has no column ``row``, can still be opened. The next event that is
    written upgrades it; then only versions of laplace_al that know version 2 can open it.

    A second file, ``<path>.lock``, holds the lock that prevents use by a second learner. The lock
    is released when the process that took it ends, in whatever way. The file may be deleted when
    nobody uses the journal.

    Parameters
    ----------
    path : str or path-like
        File; created if it does not exist. Its folder must exist.
    X_pool : array-like of shape (n_pool, ...)
        The pool to which the positions refer.

    Raises
    ------
    ValueError
        If the file is not a journal, is of a newer version or belongs to another pool.
    RuntimeError
        If another learner uses it.
    OSError
        If it cannot be opened or created.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> journal = Journal(folder.name + "/labels.sqlite", [[0.0], [1.0]])
    >>> now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    >>> journal.append([Event("label", 1, "cat", now, "ann")])
    >>> journal.batches()[0][0].label
    'cat'
    >>> journal.close()
    >>> folder.cleanup()
    """

    def __init__(self, path: Path, X_pool: Instances) -> None:
        self.path = pathlib.Path(path)
        self._X_pool = X_pool
        self._lock = locked(self.path, "journal", "ActiveLearner")
        try:
            self._connection: sqlite3.Connection | None = self._opened()
            self._n_batches = self._last("batch")
        except BaseException:
            self._lock.close()
            raise

    def append(self, events: Sequence[Event]) -> None:
        """Write the events of one call durably: all of them or none.

        Parameters
        ----------
        events : sequence of Event

        Raises
        ------
        ValueError
            If the journal is closed, or a label or instance would not come back as it is. A label
            must be text, a boolean, a float or an integer of 64 bits, of the type of the first one.
        sqlite3.Error
            If the events cannot be written, for example because the disk is full.
        """
        connection = self._opened_connection()
        rows = [(self._n_batches + 1, *self._row(event)) for event in events]
        kind = self._checked_kind([event.label for event in events if event.label is not None])
        try:
            connection.execute("BEGIN IMMEDIATE")
            self._upgrade(connection)
            if kind is not None:
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('label_kind', ?)", [kind])
            connection.executemany(
                f"INSERT INTO events ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._n_batches += 1

    def holds(self, n_batches: int) -> bool:
        """Whether the file itself has at least this number of batches.

        Parameters
        ----------
        n_batches : int

        Returns
        -------
        bool
        """
        if self._connection is None:
            return False
        self._n_batches = self._last("batch")
        return self._n_batches >= n_batches

    def batches(self) -> list[list[Event]]:
        """All events, in one list for each call that wrote them.

        Returns
        -------
        list of list of Event
        """
        meta = dict(self._opened_connection().execute("SELECT name, value FROM meta"))
        columns = _COLUMNS if meta["version"] > 1 else (*_COLUMNS[:-1], "NULL")
        rows = self._opened_connection().execute(
            f"SELECT {', '.join(columns)} FROM events ORDER BY id"
        )
        return [
            [self._event(row, meta.get("label_kind")) for row in batch]
            for _, batch in itertools.groupby(rows, lambda row: row[0])
        ]

    def close(self) -> None:
        """Close the file and release its lock. Closing it twice is no error."""
        if self._connection is not None:
            self._connection.close()
            self._lock.close()
        self._connection = None

    def __getstate__(self) -> NoReturn:
        raise TypeError(
            f"The journal {str(self.path)!r} is a file that one learner has open, so neither of "
            "them can be copied or pickled. Make another ActiveLearner with a journal of its own."
        )

    def _opened(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
        except sqlite3.OperationalError as error:
            raise OSError(f"journal={str(self.path)!r} cannot be opened: {error}.") from error
        try:
            connection.execute("PRAGMA synchronous=EXTRA")  # durable even if the power fails
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if not tables:
                self._create(connection)
            self._check(connection, tables)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise ValueError(
                f"journal={str(self.path)!r} is not a journal: {error}. Name another file."
            ) from error
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        entries = {
            "version": _VERSION,
            "n_pool": _num_samples(self._X_pool),
            "digest": sample_digest(self._X_pool),
        }
        connection.execute("BEGIN IMMEDIATE")
        _execute(connection, _SCHEMA)
        connection.executemany("INSERT INTO meta VALUES (?, ?)", entries.items())
        connection.execute("COMMIT")

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Bring a file of version 1 up to date, in the transaction that is open."""
        ((version,),) = connection.execute("SELECT value FROM meta WHERE name = 'version'")
        if version == _VERSION:
            return
        record = Record.empty(_num_samples(self._X_pool))
        for batch in self.batches():
            record = record.add(batch)
        ids = connection.execute("SELECT id FROM events ORDER BY id").fetchall()
        rows = [(event.row, id_) for event, (id_,) in zip(record.events, ids, strict=True)]
        _execute(connection, _UPGRADE)
        connection.executemany("UPDATE events SET row = ? WHERE id = ?", rows)
        changed = {"version": _VERSION, "digest": sample_digest(self._X_pool)}
        connection.executemany(
            "UPDATE meta SET value = :value WHERE name = :name",
            [{"name": name, "value": value} for name, value in changed.items()],
        )

    def _check(self, connection: sqlite3.Connection, tables: set[str]) -> None:
        if tables and not {"meta", "events"} <= tables:
            raise ValueError(
                f"journal={str(self.path)!r} is a database of something else, with the tables "
                f"{sorted(tables)}. Name another file."
            )
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        if meta["version"] > _VERSION:
            raise ValueError(
                f"journal={str(self.path)!r} is of version {meta['version']}, newer than "
                f"{_VERSION}, the newest that this laplace_al reads. Upgrade laplace_al."
            )
        n_pool = _num_samples(self._X_pool)
        digest = sample_digest(self._X_pool, of_objects=meta["version"] > 1)
        if (meta["n_pool"], meta["digest"]) != (n_pool, digest):
            differs = (
                f"of {meta['n_pool']} instances; X_pool has {n_pool}"
                if meta["n_pool"] != n_pool
                else f"of as many instances, {n_pool}, but with other values than X_pool has now"
            )
            raise ValueError(
                f"journal={str(self.path)!r} is of another pool, {differs}. Its positions mean "
                "nothing here. Pass the pool that it was made with, in the same order and with the "
                "same values, or name another file. The labels in it are its view 'labels'."
            )

    def _opened_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            raise ValueError(
                f"journal={str(self.path)!r} is closed. Make a new ActiveLearner with it to go on."
            )
        return self._connection

    def _last(self, column: str) -> int:
        return (
            self._opened_connection().execute(f"SELECT MAX({column}) FROM events").fetchone()[0]
            or 0
        )

    def _checked_kind(self, labels: Sequence[Any]) -> str | None:
        """Kind of the first label ever, as which these come back the same; None before it."""
        stored = self._opened_connection().execute(
            "SELECT value FROM meta WHERE name = 'label_kind'"
        )
        labels = [_plain(label) for label in labels]
        kinds = [*(kind for (kind,) in stored), *(_KINDS[type(label)] for label in labels)]
        for label in labels:
            read = _TYPES[kinds[0]]
            if type(label) is not read:
                raise ValueError(
                    f"journal={str(self.path)!r} has labels of the kind of its first one, "
                    f"{read.__name__}, withdrawn or not; got {label!r}. Name another file for "
                    "labels of another kind."
                )
        return kinds[0] if kinds else None

    def _row(self, event: Event) -> tuple[Any, ...]:
        key = None
        if event.position is not None and isinstance(self._X_pool, pd.DataFrame):
            key = str(self._X_pool.index[event.position])
        instance = None if event.instance is None else _as_json(event.instance, self._X_pool)
        label = None if event.label is None else _plain(event.label)
        label = int(label) if isinstance(label, bool) else label  # as SQLite holds them
        position = None if event.position is None else int(event.position)
        time = event.time.isoformat()  # type: ignore[union-attr]  # a learner's events have one
        return event.action, position, key, label, time, event.annotator, instance, event.row

    def _event(self, row: tuple[Any, ...], kind: Any) -> Event:
        _, action, position, _, label, time, annotator, instance, number = row
        return Event(
            action,
            position,
            label if label is None else _TYPES[kind](label),
            datetime.datetime.fromisoformat(time),
            annotator,
            instance if instance is None else _like(json.loads(instance), self._X_pool),
            number,
        )


def _execute(connection: sqlite3.Connection, statements: str) -> None:
    """Execute statements in the transaction that is open."""
    for statement in statements.split(";\n")[:-1]:
        connection.execute(statement)


def _plain(label: Any) -> bool | int | float | str:
    """A label as it comes back from SQLite, which writes others as bytes or as nothing."""
    value = label.item() if isinstance(label, np.generic) else label
    is_held = (
        type(value) in _KINDS
        and value == value  # NaN would be NULL
        and not (isinstance(value, int) and not -(2**63) <= value < 2**63)
    )
    if not is_held:
        raise ValueError(
            "A journal holds labels that are text, booleans, floats or integers of 64 bits; got "
            f"{label!r} of type {type(label).__name__}. Pass str(label)."
        )
    return value


def _as_json(instance: Any, X: Any) -> str:
    """The row of a container of one row; with its kind where that is not the kind of X.

    Raises ValueError if what would be read back is another instance.
    """
    instance = as_array(instance)  # of a tensor
    if isinstance(instance, list):
        row = instance[0]
    else:
        rows = instance.to_numpy() if hasattr(instance, "to_numpy") else np.asarray(instance)
        row = rows[0]
    row = row.tolist() if isinstance(row, np.ndarray | np.generic) else row
    is_of_polars = hasattr(instance, "schema")
    is_like_x = not is_of_polars or list(instance.columns) == list(getattr(X, "columns", ()))
    forms: list[Any] = [row] if is_like_x else []
    if isinstance(instance, pd.DataFrame):
        dtypes = [str(dtype) for dtype in instance.dtypes]
        forms.append({"columns": list(instance.columns), "dtypes": dtypes, "row": row})
    elif isinstance(instance, np.ndarray | list):
        forms.append({"dtype": np.asarray(instance).dtype.str, "row": row})
    for form in forms:
        with contextlib.suppress(*_NO_FORM):
            text = json.dumps(form)
            if _is_same(_like(json.loads(text), X), instance):
                return text
    raise ValueError(
        f"A journal holds instances from outside the pool as JSON, but {row!r} cannot be written "
        "as JSON. Put it into the pool and teach it by position."
    )


def _like(row: Any, X: Any) -> Any:
    """A container of one row, of the kind of X or of its own."""
    if isinstance(row, dict) and set(row) == {"columns", "dtypes", "row"}:
        frame = pd.DataFrame([row["row"]], columns=row["columns"])
        return frame.astype(dict(zip(row["columns"], row["dtypes"], strict=True)))
    if isinstance(row, dict) and set(row) == {"dtype", "row"}:
        return np.array([row["row"]], dtype=row["dtype"])
    if isinstance(X, pd.DataFrame):
        return pd.DataFrame([row], columns=X.columns).astype(X.dtypes)
    if isinstance(X, pd.Series):
        return pd.Series([row], dtype=X.dtype)
    if isinstance(X, list):
        return [row]
    if hasattr(X, "schema"):  # polars
        return type(X)([row], schema=X.schema, orient="row")
    if isinstance(X, torch.Tensor):
        return torch.tensor([row], dtype=X.dtype, device=X.device)
    return np.array([row], dtype=getattr(X, "dtype", None))


def _is_same(one: Any, other: Any) -> bool:
    """Whether containers of one row have the same columns and values."""
    if list(getattr(one, "columns", ())) != list(getattr(other, "columns", ())):
        return False
    values = [np.asarray(as_array(part), dtype=object).ravel().tolist() for part in (one, other)]
    return len(values[0]) == len(values[1]) and all(
        a == b or (a != a and b != b) for a, b in zip(*values, strict=True)
    )
