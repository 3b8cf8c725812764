"""CSV files as spreadsheets of many countries write them: separators, encodings, decimal commas."""

import contextlib
import csv
import io
import itertools
import pathlib

import pandas as pd

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_N_LINES = 100  # from which the separator is guessed
# UTF-8, with or without the byte order mark that Excel writes
_ENCODING = "utf-8-sig"
# of rows that have more fields than the header, or a quotation mark that nothing closes
_CURE = (
    "Quote texts that hold commas, tabs or quotation marks; remove the comma at the end of each "
    "row; or add the names of columns that have none."
)


def read_table(path: pathlib.Path, encoding: str | None) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Return the rows of a file as texts and as pandas parses them, and the separator."""
    content = _decoded(path, encoding)
    separator = "\t" if path.suffix.lower() == ".tsv" else separator_of(content)
    try:
        parsed = parse(content, separator)
        file = io.StringIO(content, newline="")
        shown = pd.read_csv(file, sep=separator, dtype=str, keep_default_na=False)
    except pd.errors.ParserError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {str(error).strip()}. {_CURE}") from error
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{str(path)!r} is empty: it has no header.") from error
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    return shown, parsed, separator


def parse(content: str, separator: str) -> pd.DataFrame:
    """Return the rows of a CSV file; between semicolons, numbers may have decimal commas."""
    _check_fields(content, separator)
    parsed = pd.read_csv(io.StringIO(content, newline=""), sep=separator)
    if separator != ";":
        return parsed
    commas = pd.read_csv(io.StringIO(content, newline=""), sep=separator, decimal=",")
    texts = parsed.select_dtypes(exclude="number").columns
    numbers = commas.select_dtypes("number")
    return parsed.assign(**numbers[numbers.columns.intersection(texts)])


def _check_fields(content: str, separator: str) -> None:
    """Refuse rows with more fields than the header: pandas takes their first ones for an index."""
    # as text, for an index of whole numbers may look like none
    row = pd.read_csv(io.StringIO(content, newline=""), sep=separator, dtype=str, nrows=1)
    if not isinstance(row.index, pd.RangeIndex):
        n_names = len(row.columns)
        raise ValueError(
            f"its first row has {n_names + row.index.nlevels} fields, its header {n_names}; rows "
            f"may not have more fields than the header. {_CURE}"
        )


def separator_of(content: str) -> str:
    """Return the likeliest separator of the fields of a CSV file.

    Among those that divide the header, it is the one that divides most of the first lines into as
    many fields as the header, and into most fields; a comma if none divides it.
    """
    fits = {}
    for separator in SEPARATORS:
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator)
        lengths: list[int] = []
        with contextlib.suppress(csv.Error):  # of a text that is very long
            lengths.extend(len(row) for row in itertools.islice(filter(None, rows), _N_LINES))
        n_fields = max(lengths[:1], default=1)
        fits[separator] = (lengths.count(n_fields), n_fields) if n_fields > 1 else (0, 1)
    return max(fits, key=fits.__getitem__)


def _decoded(path: pathlib.Path, encoding: str | None) -> str:
    """Return the text of a file."""
    try:
        return path.read_bytes().decode(_ENCODING if encoding is None else encoding)
    except LookupError as error:
        raise ValueError(
            f"--encoding must be one that Python knows, such as latin-1; got {encoding!r}."
        ) from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{str(path)!r} is not in {encoding or 'UTF-8'}: byte "
            f"0x{error.object[error.start]:02x} in line {line}. Give its encoding by --encoding, "
            "such as latin-1 or utf-16, or save it as UTF-8."
        ) from error


def csv_text(table: pd.DataFrame) -> str:
    """Return a table as CSV that is read back as it was, carriage returns included."""
    # unquoted, a carriage return ends a row for those who read it; csv quotes only line feeds
    has_return = table.map(lambda value: isinstance(value, str) and "\r" in value).to_numpy().any()
    return table.to_csv(
        index=False, quoting=csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    )
