"""Results of experiments on disk, so that finished runs are not repeated."""

import csv
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pandas as pd

from laplace_al._common.typing import Path
from laplace_al.storage.locks import FileLock


class ResultsFile:
    """Tables of finished runs in a CSV file, which is locked while it is open.

    A line is a row of a table, after the name of its run (the columns ``keys``, the last one of
    integers) and before a column ``run``: a fingerprint of all that the run depends on, and which
    row of how many this is. What follows the last whole run of a file is dropped on opening.
    """

    def __init__(self, path: Path, keys: Sequence[str]) -> None:
        self.path = pathlib.Path(path)
        self.keys = list(keys)
        self._header: list[str] | None = None
        # fingerprint and table of each run
        self._tables: dict[tuple[Any, ...], tuple[str, pd.DataFrame]] = {}

    def __enter__(self) -> Self:
        self._lock = FileLock(self.path, "results", "call")
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
        """Return the table of a run, or raise ValueError if its fingerprint is another one."""
        kept, table = self._tables[name]
        if kept != fingerprint:
            raise ValueError(
                f"results={str(self.path)!r} has the run {self._described(name)}, but made with "
                "other settings or data. Name another file, or delete this one to repeat all runs."
            )
        return table

    def append(self, name: tuple[Any, ...], fingerprint: str, table: pd.DataFrame) -> None:
        """Write the table of a run, of numbers and at least one row, to the disk before returning.

        Raises ValueError if the table has other columns than those before, RuntimeError if the file
        was replaced or deleted meanwhile or this process was forked, OSError if writing fails.
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
        self._lock.check()
        size = self._lock.path.stat().st_size
        try:
            with self._lock.path.open("ab") as file:
                file.write(lines.getvalue().encode())
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.truncate(self._lock.path, size)  # else the next run would follow half a line
            raise
        self._header = header
        self._tables[name] = fingerprint, table

    def _read(self) -> None:
        """Read all whole runs and drop the rest."""
        content = self._lock.path.read_bytes()
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
            os.truncate(self._lock.path, size)

    def _read_runs(self, lines: list[bytes]) -> int:
        """Read all whole runs and return the number of bytes that they take."""
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
        """Return the name and the table of a run."""
        frame = pd.DataFrame(rows, columns=header[:-1])
        *name, number = rows[0][: len(self.keys)]
        return (*name, int(number)), frame.drop(columns=self.keys)

    def _described(self, name: tuple[Any, ...]) -> str:
        return ", ".join(f"{key}={part!r}" for key, part in zip(self.keys, name, strict=True))


def _text(number: Any) -> str:
    """Return a number as text that is read back to the last bit, integers as integers."""
    return "" if np.isnan(number) else repr(number.item() if hasattr(number, "item") else number)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text) if text else np.nan
