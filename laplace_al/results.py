"""Results of experiments on disk: what is finished is not run again."""

import contextlib
import csv
import datetime
import hashlib
import inspect
import io
import json
import math
import numbers
import os
import pathlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from laplace_al.journal import canonical_parts
from laplace_al.typing import Path


class ResultsFile:
    """Tables of finished runs in a CSV file, each written durably and at once.

    A line is a row of a table, with the name of the run before it and, after it, a column ``run``:
    a fingerprint of all that the run depends on, and which row of how many it is. So a file that
    was cut short shows where its last whole run ends; what follows is dropped when it is opened.

    A second file, ``<path>.lock``, keeps others out while it is open. It may be deleted afterwards.

    Parameters
    ----------
    path : str or path-like
        Made if it does not exist; its folder must.
    keys : sequence of str
        Columns of the names of runs, the last one of integers.

    Raises
    ------
    ValueError
        If the file is of something else or damaged.
    RuntimeError
        If it is open already.
    OSError
        If it cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with ResultsFile(folder + "/results.csv", ["strategy", "seed"]) as results:
    ...         results.append(("random", 0), "a1", pd.DataFrame({"score": [0.5, 0.75]}))
    ...     with ResultsFile(folder + "/results.csv", ["strategy", "seed"]) as results:
    ...         results.get(("random", 0), "a1").score.tolist()
    [0.5, 0.75]
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path = pathlib.Path(path)
        self.keys = list(keys)
        self._header: list[str] | None = None
        # fingerprint and table by the name of a run
        self._tables: dict[tuple[Any, ...], tuple[str, pd.DataFrame]] = {}

    def __enter__(self) -> Self:
        self._lock = _locked(self.path)
        try:
            self._read()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def get(self, name: tuple[Any, ...], fingerprint: str) -> pd.DataFrame:
        """The table of a run.

        Parameters
        ----------
        name : tuple
        fingerprint : str

        Returns
        -------
        DataFrame

        Raises
        ------
        ValueError
            If the run that was kept has another fingerprint.
        """
        kept, table = self._tables[name]
        if kept != fingerprint:
            raise ValueError(
                f"results={str(self.path)!r} has the run {self._described(name)}, but made with "
                "other settings or data. Name another file, or delete it to run all of it anew."
            )
        return table

    def append(self, name: tuple[Any, ...], fingerprint: str, table: pd.DataFrame) -> None:
        """Keep the table of a run: it is on disk when this returns.

        Parameters
        ----------
        name : tuple
        fingerprint : str
            A word of letters and digits.
        table : DataFrame
            Of numbers, at least one row.

        Raises
        ------
        ValueError
            If the table has other columns than those before.
        OSError
            If it cannot be written.
        """
        header = [*self.keys, *table.columns, "run"]
        if self._header not in (None, header):
            raise ValueError(
                f"results={str(self.path)!r} has the columns {self._header}, but the run "
                f"{self._described(name)} has {header}. Name another file."
            )
        rows = [
            [*name, *map(_text, row), f"{fingerprint} {i}/{len(table)}"]
            for i, row in enumerate(table.itertuples(index=False), start=1)
        ]
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows(rows if self._header else [header, *rows])
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(lines.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            if self.path.exists():
                os.truncate(self.path, size)  # else the next run would follow half a line
            raise
        self._header = header
        self._tables[name] = fingerprint, table

    def _read(self) -> None:
        content = self.path.read_bytes() if self.path.exists() else b""
        lines = content.splitlines(keepends=True)
        first, expected = lines[0] if lines else b"", ",".join(self.keys).encode()
        is_whole = first.endswith(b"\n")
        is_ours = first.startswith(expected) or expected.startswith(first)
        if not is_ours or (is_whole and not first.endswith(b",run\n")):
            raise ValueError(
                f"results={str(self.path)!r} is not a file of results: it begins with "
                f"{first[:80]!r}. Name another file."
            )
        size = self._read_runs(lines) if is_whole else 0
        if size < len(content):
            os.truncate(self.path, size)

    def _read_runs(self, lines: list[bytes]) -> int:
        """Keep all whole runs; the number of bytes that they take."""
        self._header = header = next(csv.reader([lines[0].decode()]))
        size = position = len(lines[0])
        rows = []
        for number, line in enumerate(lines[1:], start=2):
            if not line.endswith(b"\n"):
                break
            position += len(line)
            try:
                *row, run = next(csv.reader([line.decode()]))
                fingerprint, i, n = run.replace("/", " ").split()
                rows.append([*row[: len(self.keys)], *map(_number, row[len(self.keys) :])])
                if len(row) != len(header) - 1 or int(i) != len(rows):
                    raise ValueError(f"row {i} in the place of row {len(rows)}")
            except ValueError as error:
                raise ValueError(
                    f"results={str(self.path)!r} is damaged in line {number}. Delete the lines of "
                    "that run, or name another file."
                ) from error
            if i == n:
                name, table = self._table(header, rows)
                self._tables[name] = fingerprint, table
                size, rows = position, []
        return size

    def _table(
        self, header: list[str], rows: list[list[Any]]
    ) -> tuple[tuple[Any, ...], pd.DataFrame]:
        """Name and table of a run."""
        frame = pd.DataFrame(rows, columns=header[:-1])
        *name, number = rows[0][: len(self.keys)]
        return (*name, int(number)), frame.drop(columns=self.keys)

    def _described(self, name: tuple[Any, ...]) -> str:
        return ", ".join(f"{key}={part!r}" for key, part in zip(self.keys, name, strict=True))


def fingerprint(value: object) -> str:
    """A digest that tells parameters apart: of estimators, networks, arrays, texts and numbers.

    Of an object that it does not know, it sees the class, and the ``repr`` unless that has an
    address in it. So it is the same in another process.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
        16 hexadecimal digits.

    Examples
    --------
    >>> from laplace_al.strategies import MarginSampling
    >>> one, other = MarginSampling(random_state=0), MarginSampling(random_state=1)
    >>> fingerprint(one) == fingerprint(MarginSampling(random_state=0)) != fingerprint(other)
    True
    """
    return hashlib.sha256(json.dumps(_plain(value)).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Nested lists of texts."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bytes | numbers.Number):
        return repr(value)
    if isinstance(value, Mapping):
        return [[str(name), _plain(content)] for name, content in value.items()]
    if isinstance(value, set | frozenset):
        return sorted(map(repr, value))
    if isinstance(value, list | tuple):
        return [_plain(content) for content in value]
    if isinstance(value, torch.Tensor):
        value = value.numpy(force=True)
    if isinstance(value, np.ndarray | pd.DataFrame | pd.Series):
        return _plain_array(np.asarray(value))
    if sparse.issparse(value):
        return data_digest(value)
    if inspect.isroutine(value) or isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    return [_plain(type(value)), *_plain_object(value)]


# By skorch nets and by linear models, ours included, that come fitted.
_LEARNT = ("module_", "coef_", "intercept_")


def _plain_array(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind == "O":
        return [str(values.shape), _plain(values.ravel().tolist())]
    content = np.ascontiguousarray(values).tobytes()
    return [str(values.shape), str(values.dtype), hashlib.sha256(content).hexdigest()]


def _plain_object(value: Any) -> list[Any]:
    if hasattr(value, "get_params"):
        learnt = [getattr(value, name, None) for name in _LEARNT]
        return [_plain(value.get_params(deep=False)), _plain(learnt)]
    if hasattr(value, "state_dict"):
        return [_plain(value.state_dict())]
    text = repr(value)
    return [] if " at 0x" in text else [text]


def data_digest(X: Any) -> str:
    """A digest of all that a data set holds, read block by block.

    Parameters
    ----------
    X : array-like, frame, sparse matrix, memory map, tensor or list of whatever
        Rows may be, or hold, numbers, texts, times, paths, arrays, images, lists and dicts.

    Returns
    -------
    str
        The same in another process. Another dtype or container may make another one.

    Raises
    ------
    TypeError
        If X holds objects of which no more is known than their type.

    Examples
    --------
    >>> X = np.zeros((5000, 2))
    >>> before = data_digest(X)
    >>> X[4321, 1] = 1
    >>> data_digest(X) == before
    False
    """
    digest = hashlib.sha256()
    for part in _content(X):
        digest.update(part)
    return digest.hexdigest()


# Of an array or a list, what is looked at at once.
_BLOCK_BYTES, _BLOCK_ROWS = 2**24, 4096
_PLAIN = (
    *(str, bytes, numbers.Number, pathlib.PurePath),
    *(datetime.date, datetime.time, datetime.timedelta),  # and those of pandas
    *(type(None), type(pd.NA), type(pd.NaT)),
)


def _content(X: Any) -> Iterator[bytes | memoryview]:
    """All that X holds, piece by piece; each begins with what and how much it is."""
    if sparse.issparse(X):
        X = X.tocsr()
        yield _header("sparse", X.dtype, X.shape)
        for start in range(0, X.shape[0], _BLOCK_ROWS):
            yield from (part.data for part in canonical_parts(X[start : start + _BLOCK_ROWS]))
    elif isinstance(X, pd.DataFrame):
        yield _header("frame", X.shape, [_form(name) for name in X.columns])
        for i in range(X.shape[1]):
            yield from _content(X.iloc[:, i])
    elif isinstance(X, pd.Series):
        yield _header("column", X.dtype)
        if isinstance(X.dtype, pd.CategoricalDtype):
            yield _header(X.dtype.ordered)
            yield from _content(X.dtype.categories.to_numpy())
        yield from _content(X.to_numpy())
    elif hasattr(X, "get_columns"):  # polars
        yield _header("frame", X.shape, X.schema)
        for column in X.get_columns():
            yield from _content(column.to_numpy())
    elif hasattr(X, "shape") and hasattr(X, "dtype"):
        yield _header("array", X.dtype, tuple(X.shape))
        yield from _content_of_array(X)
    elif _is_like_an_array(X):
        yield from _content(np.asarray(X))
    else:
        yield _header("list", len(X))
        for start in range(0, len(X), _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, len(X))
            yield from _content_of_rows([X[i] for i in range(start, stop)])


def _content_of_array(X: Any) -> Iterator[bytes | memoryview]:
    size = getattr(X.dtype, "itemsize", 1) * math.prod(X.shape[1:])
    step = max(1, _BLOCK_BYTES // max(size, 1))
    for block in (X[i : i + step] for i in range(0, X.shape[0], step)) if X.shape else [X]:
        if isinstance(block, torch.Tensor):  # NumPy does not know all of its dtypes
            block = block.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        values = np.asarray(block)
        if values.dtype.kind in "biufcmMSU":
            yield values.tobytes()
        else:
            yield from map(_header, map(_form, values.ravel().tolist()))


def _content_of_rows(rows: list[Any]) -> Iterator[bytes | memoryview]:
    values = np.empty(0, dtype=object)
    if isinstance(rows[0], numbers.Number | list | tuple):
        # what NumPy and torch raise of rows that are no numbers
        with contextlib.suppress(TypeError, ValueError, RuntimeError, OverflowError):
            values = np.asarray(rows)
    if values.dtype.kind in "biuf":  # at a fraction of the time
        yield from _content(values)
    else:
        yield from map(_header, map(_form, rows))


def _header(*what: Any) -> bytes:
    return json.dumps(what, default=str).encode() + b"\n"


def _form(value: Any) -> Any:
    """An object as nested lists of texts."""
    kind = type(value).__name__
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, _PLAIN) and " at 0x" not in repr(value):
        return [kind, repr(value)]
    if isinstance(value, Mapping):
        return [kind, *([_form(key), _form(part)] for key, part in value.items())]
    if isinstance(value, list | tuple):
        return [kind, *map(_form, value)]
    if isinstance(value, set | frozenset):
        return [kind, *sorted(json.dumps(_form(part)) for part in value)]
    if sparse.issparse(value) or (hasattr(value, "shape") and hasattr(value, "dtype")):
        return [kind, data_digest(value)]
    if _is_like_an_array(value):
        return [kind, data_digest(np.asarray(value))]
    raise TypeError(
        f"results cannot tell data with objects of type {kind} from other data, and so not keep "
        "runs on it. Pass X and y of numbers, texts, arrays or images, or leave results out."
    )


def _is_like_an_array(value: Any) -> bool:
    """As an image of PIL is."""
    return hasattr(value, "__array__") or hasattr(value, "__array_interface__")


def _text(number: Any) -> str:
    """A number as it is read back: integers stay integers, and every bit of a float is kept."""
    return "" if np.isnan(number) else repr(number.item() if hasattr(number, "item") else number)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text) if text else np.nan


def _locked(path: pathlib.Path) -> sqlite3.Connection:
    """A connection to ``<path>.lock`` that nobody else can have at the same time.

    SQLite gives it up when the process ends, however that ends.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"results={str(path)!r}: the folder {str(path.parent)!r} does not exist; make it first."
        )
    lock = sqlite3.connect(path.with_name(path.name + ".lock"), timeout=0, check_same_thread=False)
    try:
        lock.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        lock.close()
        raise RuntimeError(
            f"results={str(path)!r} is in use by another call ({error}). Wait for its end, or name "
            "another file."
        ) from error
    return lock
