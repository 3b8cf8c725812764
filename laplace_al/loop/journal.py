"""A journal of labels on disk: acknowledged labels survive whatever happens to the process."""

import contextlib
import datetime
import itertools
import json
import pathlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.utils.validation import _num_samples

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Instances, Path
from laplace_al.loop.event import Event, Events
from laplace_al.storage.digests import sample_digest
from laplace_al.storage.locks import FileLock

_VERSION = 1
# types of labels, by the kind of the first one written
_TYPES = {"b": bool, "i": int, "f": float, "U": str}
_KINDS = {kind: name for name, kind in _TYPES.items()}
# errors of JSON, NumPy, pandas and polars for values that they have no form for
_NO_FORM = (TypeError, ValueError, OverflowError)
_PATIENCE = 30  # seconds, for readers to finish
# cures of the errors of SQLite where the file is right and the system is not
_CURES = {
    sqlite3.SQLITE_PERM: "Give yourself the permission to write it.",
    sqlite3.SQLITE_BUSY: "Another program is at work on it: let that finish, and try again.",
    sqlite3.SQLITE_LOCKED: "Another program is at work on it: let that finish, and try again.",
    sqlite3.SQLITE_READONLY: "Give yourself the permission to write it and its folder.",
    sqlite3.SQLITE_IOERR: "See to the disk, and try again.",
    sqlite3.SQLITE_FULL: "Free space on the disk, and try again.",
    sqlite3.SQLITE_CANTOPEN: "Its folder must be there, and you must be allowed to write to it.",
}
_COLUMNS = (
    "id, batch, action, position, key, label, time, annotator, instance, row, weight, "
    "probabilities, checksum"
)
_SCHEMA = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value)",
    """\
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
    row INTEGER,
    weight REAL,
    probabilities TEXT,
    checksum INTEGER
)""",
    """\
CREATE VIEW labels AS
    SELECT row, position, key, label, time, annotator, instance, weight, probabilities FROM events
    WHERE action != 'unlabel' AND id IN (
        SELECT MAX(id) FROM events WHERE row IS NOT NULL GROUP BY row
    )
    ORDER BY id""",
)


class Journal:
    """Events of a learner in an SQLite file, for one process at a time.

    The table ``events`` has a row for each event, with the columns ``id``, ``batch`` (number of the
    call that wrote it), ``action``, ``position`` in the pool, ``key`` (the index of its row in a
    DataFrame), ``label``, ``time`` (UTC, ISO 8601), ``annotator``, ``instance`` (values of an
    instance from outside the pool, as JSON, with its columns or dtype if they differ from the
    pool's), ``row`` (of ``labels_``: which label is given, corrected or withdrawn), ``weight``,
    ``probabilities`` (of an uncertain label: pairs of label and probability, as JSON) and
    ``checksum`` (CRC-32 of the others, which shows damage; NULL where another program wrote the
    event). The view ``labels`` has only the valid labels. Other programs may read both at any time.

    The file is locked until it is closed, see :class:`laplace_al.storage.locks.FileLock`: by
    whatever name a second learner opens it, it is refused. So is a process that was forked from the
    one which opened it, and writing to a file that was replaced or deleted meanwhile.

    Parameters
    ----------
    path : str or path-like
        File; created if it does not exist. Its folder must exist.
    X_pool : array-like of shape (n_pool, ...)
        The pool to which the positions refer. It may be longer than it was, new instances last.

    Raises
    ------
    ValueError
        If the file is not a journal, is damaged, is of another version or belongs to another pool.
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
        self._name = f"journal={str(self.path)!r}"
        self._X_pool = X_pool
        self._lock = FileLock(self.path, "journal", "ActiveLearner")
        self._connection: sqlite3.Connection | None = None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def check(self) -> sqlite3.Connection:
        """Return the connection by which events can be written.

        Returns
        -------
        sqlite3.Connection

        Raises
        ------
        ValueError
            If the journal is closed.
        RuntimeError
            If this process was forked from the one that opened it, or the file was replaced or
            deleted.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(folder + "/labels.sqlite", [[0.0], [1.0]])
        ...     print(journal.check().execute("SELECT * FROM labels").fetchall())
        ...     journal.close()
        []
        """
        connection = self._opened_connection()
        self._lock.check()
        return connection

    @property
    def n_start(self) -> int:
        """The number of instances of the pool when the journal was made."""
        with self._errors_named():
            meta = "SELECT value FROM meta WHERE name = 'n_start'"
            ((n_start,),) = self._opened_connection().execute(meta)
        return int(n_start)

    def append(self, events: Events, X_pool: Instances | None = None) -> None:
        """Write the events of one call durably: all of them or none.

        Parameters
        ----------
        events : sequence of Event
            With their times. Labels are text, booleans, floats or integers of 64 bits, all of the
            type of the first one ever.
        X_pool : array-like of shape (n_pool, ...), default=None
            The longer pool from then on, if one of the events extends it.

        Raises
        ------
        ValueError
            If a label or instance would not come back as it is, or the journal is closed.
        OSError
            If the events cannot be written, for example because the disk is full.
        RuntimeError
            See :meth:`check`.
        """
        connection = self.check()
        numbered = enumerate(events, start=self._n_events + 1)
        rows = [(i, self._n_batches + 1, *self._row(event)) for i, event in numbered]
        kind = self._checked_kind([event.label for event in events if event.label is not None])
        with self._errors_named(), _transaction(connection):
            if kind is not None:
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('label_kind', ?)", [kind])
            if X_pool is not None:
                changed = [(value, name) for name, value in _pool_entries(X_pool).items()]
                connection.executemany("UPDATE meta SET value = ? WHERE name = ?", changed)
            places = "?, " * _COLUMNS.count(",") + "NULL"
            connection.executemany(f"INSERT INTO events ({_COLUMNS}) VALUES ({places})", rows)
            written = [row for *row, _ in self._rows_after(self._n_events)]
            if written != list(map(list, rows)):
                raise ValueError(f"{self._name} cannot hold {rows}, read back as {written}.")
            connection.executemany(
                "UPDATE events SET checksum = ? WHERE id = ?",
                [(_checksum(row), row[0]) for row in written],
            )
        self._n_batches += 1
        self._n_events += len(rows)
        self._X_pool = self._X_pool if X_pool is None else X_pool

    def holds(self, n_batches: int) -> bool:
        """Return whether the file is still ours and has at least this number of batches.

        Parameters
        ----------
        n_batches : int

        Returns
        -------
        bool

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     journal = Journal(folder + "/labels.sqlite", [[0.0], [1.0]])
        ...     print(journal.holds(0), journal.holds(1))
        ...     journal.close()
        True False
        """
        if self._connection is None or not self._lock.is_held:
            return False
        with self._errors_named():
            self._count()
        return self._n_batches >= n_batches

    def batches(self) -> list[list[Event]]:
        """Return all events, in one list for each call that wrote them.

        Returns
        -------
        list of list of Event

        Raises
        ------
        ValueError
            If an event is damaged or missing, or the journal is closed.
        """
        batches: list[list[Event]] = []
        with self._errors_named():
            meta = dict(self._opened_connection().execute("SELECT name, value FROM meta"))
            rows = enumerate(self._rows_after(0), start=1)
            for _, batch in itertools.groupby(rows, lambda row: row[1][1]):
                batches.append([])
                for i, (*row, checksum) in batch:
                    is_whole = row[0] == i and checksum in (None, _checksum(row))
                    try:
                        if not is_whole:
                            raise ValueError("its checksum or number is not right")
                        batches[-1].append(self._event(tuple(row[1:]), meta.get("label_kind")))
                    except (LookupError, TypeError, ValueError, OverflowError) as error:
                        raise ValueError(
                            f"{self._name} is damaged: event {i} cannot be read: "
                            f"{error}. Take a copy that is whole, or name another file."
                        ) from error
        return batches

    def close(self) -> None:
        """Close the file and release its lock. Closing it twice is no error."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        self._lock.close()

    def _open(self) -> None:
        """Connect to the file, made if it is not there, and check it."""
        with self._errors_named():
            self._connection = connection = sqlite3.connect(
                self._lock.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA synchronous=EXTRA")  # durable even if the power fails
            if self._lock.path.stat().st_size == 0:  # less than a page is empty, to SQLite
                self._create(connection)
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
            if names and not {"meta", "events"} <= set(names):
                raise ValueError(
                    f"{self._name} is a database of something else, with the tables "
                    f"{sorted(names)}. Name another file."
                )
            self._check_file(connection)
            self._count()
        self._lock.check()

    def _create(self, connection: sqlite3.Connection) -> None:
        """Make the tables of an empty file."""
        entries = {
            "version": _VERSION,
            "n_start": _num_samples(self._X_pool),
            **_pool_entries(self._X_pool),
        }
        with _transaction(connection):
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.executemany("INSERT INTO meta VALUES (?, ?)", entries.items())

    def _check_file(self, connection: sqlite3.Connection) -> None:
        """Refuse a file of another version or pool, or that is damaged."""
        meta = dict(connection.execute("SELECT name, value FROM meta"))
        if meta.get("version") != _VERSION:
            raise ValueError(
                f"{self._name} is of version {meta.get('version')}; this laplace_al "
                f"reads version {_VERSION}. Open it with the version that wrote it, or name "
                "another file."
            )
        ((state,),) = connection.execute("PRAGMA integrity_check(1)")
        schema = {sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master")}
        if state != "ok" or not schema.issuperset(_SCHEMA):
            raise sqlite3.DatabaseError(state if state != "ok" else "its tables are others")
        n_pool, n_known = _num_samples(self._X_pool), meta.get("n_pool")
        is_shorter = not isinstance(n_known, int) or n_pool < n_known
        if is_shorter or sample_digest(self._X_pool, n_known) != meta.get("digest"):
            where = "" if n_pool == n_known else f"in its first {n_known} instances "
            differs = (
                f"of {n_known} instances; X_pool has {n_pool}"
                if is_shorter
                else f"of as many instances, {n_known}, but with other values than X_pool has "
                f"{where}now"
            )
            raise ValueError(
                f"{self._name} is of another pool, {differs}. Its positions mean "
                "nothing here. Pass the pool that it was made with, in the same order and with the "
                "same values, new instances behind them, or name another file. The labels in it "
                "are its view 'labels'."
            )

    @contextlib.contextmanager
    def _errors_named(self) -> Iterator[None]:
        """Name the file and the cure in errors of SQLite."""
        try:
            yield
        except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF in _CURES:  # the rest says which of that kind
                cure = _CURES[code & 0xFF]
                raise OSError(f"{self._name} cannot be read or written: {error}. {cure}") from error
            if isinstance(error, sqlite3.InterfaceError | sqlite3.ProgrammingError | OverflowError):
                raise ValueError(f"{self._name} cannot hold this: {error}.") from error
            raise ValueError(
                f"{self._name} is damaged or not a journal: {error}. Take a copy "
                "that is whole, or name another file."
            ) from error

    def _opened_connection(self) -> sqlite3.Connection:
        """Return the connection; ValueError if the journal is closed."""
        if self._connection is None:
            raise ValueError(f"{self._name} is closed. Make a new ActiveLearner with it to go on.")
        return self._connection

    def _count(self) -> None:
        """Count the events and batches of the file."""
        last = "SELECT id, batch FROM events ORDER BY id DESC LIMIT 1"
        counts: tuple[int, int] | None = self._opened_connection().execute(last).fetchone()
        self._n_events, self._n_batches = counts or (0, 0)

    def _rows_after(self, last: int) -> sqlite3.Cursor:
        """Return the rows of the table after one."""
        return self._opened_connection().execute(
            f"SELECT {_COLUMNS} FROM events WHERE id > ? ORDER BY id", [last]
        )

    def _checked_kind(self, labels: Sequence[Any]) -> str | None:
        """Return the kind of the first label ever, None before it; refuse labels of other kinds."""
        with self._errors_named():
            stored = self._opened_connection().execute(
                "SELECT value FROM meta WHERE name = 'label_kind'"
            )
        labels = [_plain(label) for label in labels]
        kinds = [*(kind for (kind,) in stored), *(_KINDS[type(label)] for label in labels)]
        for label in labels:
            read = _TYPES[kinds[0]]
            if type(label) is not read:
                raise ValueError(
                    f"{self._name} has labels of the kind of its first one, "
                    f"{read.__name__}, withdrawn or not; got {label!r}. Name another file for "
                    "labels of another kind."
                )
        return kinds[0] if kinds else None

    def _row(self, event: Event) -> tuple[Any, ...]:
        """Return the columns of an event, from action to row."""
        key = None
        is_of_one = event.position is not None and event.action != "extend"
        if is_of_one and isinstance(self._X_pool, pd.DataFrame):
            key = str(self._X_pool.index[event.position])
        instance = None if event.instance is None else _as_json(event.instance, self._X_pool)
        label = None if event.label is None else _plain(event.label)
        label = int(label) if isinstance(label, bool) else label  # as SQLite holds them
        position = None if event.position is None else int(event.position)
        time = event.time.isoformat()  # type: ignore[union-attr]  # a learner's events have one
        weight, shares = None, None
        if event.action in ("label", "relabel"):
            weight = float(event.weight)
        if event.probabilities is not None:
            shares = json.dumps([(_plain(label), share) for label, share in event.probabilities])
        named = (event.action, position, key, label, time, event.annotator, instance, event.row)
        return *named, weight, shares

    def _event(self, row: tuple[Any, ...], kind: Any) -> Event:
        """Return the event of a row of the table, without its id and checksum."""
        _, action, position, _, label, time, annotator, instance, number, weight, shares = row
        return Event(
            action,
            position,
            label if label is None else _TYPES[kind](label),
            datetime.datetime.fromisoformat(time),
            annotator,
            instance if instance is None else _like(json.loads(instance), self._X_pool),
            number,
            1.0 if weight is None else weight,
            None if shares is None else _shares(json.loads(shares), _TYPES[kind]),
        )


def _pool_entries(X_pool: Instances) -> dict[str, Any]:
    """Return the entries of the table ``meta`` by which a pool is known again."""
    return {"n_pool": _num_samples(X_pool), "digest": sample_digest(X_pool)}


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is executed inside, or roll it back after any exception."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _shares(pairs: list[list[Any]], kind: type) -> tuple[tuple[Any, float], ...]:
    """Return labels with their probabilities, as they were before they became JSON."""
    return tuple((kind(label), float(share)) for label, share in pairs)


def _checksum(row: Sequence[Any]) -> int:
    """Return the CRC-32 of a row of the table."""
    return zlib.crc32(repr(tuple(row)).encode("utf-8", "surrogatepass"))


def _plain(label: Any) -> bool | int | float | str:
    """Return a label as Python's own type; refuse those that SQLite would write as another."""
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
    """Return the row of a container of one row as JSON, with its kind if that is not X's.

    Raises ValueError if another instance would be read back.
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
    """Return a container of one row, of the kind of X or of its own."""
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
    """Return whether containers of one row have the same columns and values."""
    if list(getattr(one, "columns", ())) != list(getattr(other, "columns", ())):
        return False
    values = [np.asarray(as_array(part), dtype=object).ravel().tolist() for part in (one, other)]
    return len(values[0]) == len(values[1]) and all(
        a == b or (a != a and b != b) for a, b in zip(*values, strict=True)
    )
