"""Features of the items: given, embedded, or as plain as can be."""

import contextlib
import functools
import importlib
import io
import json
import pathlib
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from tqdm.auto import tqdm

from laplace_al._common.typing import Path
from laplace_al.inputs.networks import check_features as extracted_features
from laplace_al.label.images import UnreadableImageError, small_pixels
from laplace_al.label.items import (
    Items,
    Table,
    check_fields,
    leave_out_unreadable,
    read_numbers,
    separator_of,
)
from laplace_al.storage.archive import replace_file
from laplace_al.storage.digests import data_digest

_BATCH = 64  # items that are embedded at once
_N_PIXELS = 16  # in height and width
_N_TOPICS = 100
# What NumPy and pandas raise of files that are none, cut short or changed.
_DAMAGED = (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


class EmbeddingError(Exception):
    """The callable of the user failed."""


def given_features(path: Path, n_items: int) -> NDArray[Any]:
    """Features from a file.

    Parameters
    ----------
    path : str or path-like
        ``.npy``; ``.npz`` with one array, or one that is called ``features``; or ``.csv`` with
        numbers only, below a line of names. The index that pandas writes, a column without a name
        that counts the rows, is none of them.
    n_items : int

    Returns
    -------
    ndarray of shape (n_items, n_features)

    Raises
    ------
    ValueError
        If the file holds anything but finite numbers, one row for each item.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(folder + "/x.npy", np.eye(2))
    ...     given_features(folder + "/x.npy", 2).shape
    (2, 2)
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv}
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in readers:
        raise ValueError(f"Features come from .npy, .npz or .csv; got {str(path)!r}.")
    try:
        features = readers[suffix](path)
    except _DAMAGED as error:
        reason = str(error).rstrip(".\n")
        raise ValueError(f"{str(path)!r} cannot be read as features: {reason}.") from error
    return check_features(features, n_items, str(path))


def _read_npy(path: Path) -> NDArray[Any]:
    with open(path, "rb") as file:
        return np.load(file, allow_pickle=False)


def _read_npz(path: Path) -> NDArray[Any]:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        names = archive.files
        if not names:
            raise ValueError("it holds no array")
        name = "features" if "features" in names else names[0]
        if len(names) > 1 and name != "features":
            raise ValueError(f"it holds several arrays, {', '.join(names)}; call one 'features'")
        return archive[name]


def _read_csv(path: Path) -> NDArray[Any]:
    content = pathlib.Path(path).read_text("utf-8-sig")
    separator = separator_of(content)
    check_fields(pd.read_csv(io.StringIO(content), dtype=str, nrows=1, sep=separator))
    table = read_numbers(content, separator)
    index = [name for name in table if name.startswith("Unnamed: ") and _counts_rows(table[name])]
    return table.drop(columns=index).to_numpy()


def embed(items: Items, target: str) -> NDArray[Any]:
    r"""Features that a callable of the user makes.

    Parameters
    ----------
    items : ImageFolder or Table
    target : str
        ``module:callable``. It gets up to 64 items at a time, see :func:`inputs`, and returns an
        array with a row for each.

    Returns
    -------
    ndarray of shape (n_items, n_features)
        Items whose image cannot be read get the mean of the others.

    Raises
    ------
    ValueError
        If there is no such callable, or it returns anything else.
    EmbeddingError
        If it fails, from its own exception.

    Examples
    --------
    >>> from laplace_al.label.items import Table
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "t.csv").write_text("a\n1\n2\n")
    ...     embed(Table(folder + "/t.csv"), "pandas:DataFrame")
    array([[1.],
           [2.]])
    """
    module, _, name = target.partition(":")
    try:
        imported: Any = importlib.import_module(module)
        embedding = functools.reduce(getattr, name.split("."), imported)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--embed must be MODULE:CALLABLE, of a module that can be imported from here; got "
            f"{target!r}: {error}."
        ) from error
    leave_out_unreadable(items, whole=True)
    given = inputs(items)
    positions = [i for i in range(len(items)) if i not in items.unreadable]
    blocks: list[NDArray[Any]] = []
    for start in tqdm(range(0, len(positions), _BATCH), "Embedding", delay=1, unit="batch"):
        block = positions[start : start + _BATCH]
        where = f"the {len(block)} {items.noun} from {items.names[block[0]]!r} on"
        try:
            made = embedding([given[i] for i in block])
        except Exception as error:
            raise EmbeddingError(f"{target} failed on {where}") from error
        try:
            rows = extracted_features(made, start, start + len(block))
        except ValueError as error:
            reason = str(error).replace("feature_extractor", "it")
            raise ValueError(f"--embed {target}, on {where}: {reason}") from error
        if rows.shape[1:] != (blocks or [rows])[0].shape[1:]:
            raise ValueError(
                f"--embed {target} must make each row from one item, whatever is beside it: got "
                f"{rows.shape[1]} columns for {where}, {blocks[0].shape[1]} before."
            )
        blocks.append(rows)
    return _filled(np.concatenate(blocks), positions, len(items))


def _filled(features: NDArray[Any], positions: Sequence[int], n_items: int) -> NDArray[Any]:
    """Features of all items: the mean of the others where there are none."""
    if len(positions) == n_items:
        return features
    mean = features.mean(axis=0)  # (n_features,)
    filled = np.tile(mean, (n_items, 1)).astype(np.result_type(features, mean))
    filled[positions] = features
    return filled


def inputs(items: Items) -> list[Any]:
    """What an embedding is called with.

    Parameters
    ----------
    items : ImageFolder or Table

    Returns
    -------
    list of Path, of str or of dict
        Paths of images if there are any, else texts, else rows: column to value.
    """
    if items.paths is not None:
        return list(items.paths)
    if items.text is not None:
        return items.shown[items.text].tolist()
    return items.parsed.to_dict("records")


def cached(path: Path | None, items: Items, target: str) -> NDArray[Any]:
    """Embedded features from a file if it is there; else they are made and written to it.

    Behind the array, where ``numpy.load`` does not look, the file says what it was made of.

    Parameters
    ----------
    path : str, path-like or None
        Ends in ``.npy``. None: they are made.
    items : ImageFolder or Table
    target : str
        See :func:`embed`.

    Returns
    -------
    ndarray of shape (n_items, n_features)

    Raises
    ------
    ValueError
        If the file is of other items or another target, or its folder does not exist.
    """
    if path is None:
        return embed(items, target)
    given, path = path, pathlib.Path(path)
    if path.suffix != ".npy":
        raise ValueError(f"--cache must end in .npy; got {str(given)!r}.")
    if not path.parent.is_dir():
        raise ValueError(
            f"--cache {str(path)!r}: the folder {str(path.parent)!r} does not exist; make it first."
        )
    made_of = {"embed": target, "items": _digest(items)}
    if path.exists():
        with path.open("rb") as file:
            with contextlib.suppress(ValueError, EOFError):  # of what is no array at all
                np.load(file, allow_pickle=False)
            _check_made_of(file.read(), made_of, items, path)
        return given_features(path, len(items))
    features = embed(items, target)
    content = io.BytesIO()
    np.save(content, features)
    content.write(json.dumps(made_of | {"unreadable": items.unreadable}).encode())
    replace_file(path, content.getvalue())
    return features


def _check_made_of(
    content: bytes, expected: dict[str, str], items: Items, path: pathlib.Path
) -> None:
    """Refuse what was made of something else; take over which items could not be read."""
    refused = f"--cache {str(path)!r} was not made by --embed {expected['embed']} of these items"
    cure = "Delete it to embed anew, name another file, or give it as --features."
    try:
        made_of = json.loads(content)
        found = {name: made_of[name] for name in expected}
        unread = {int(position): str(why) for position, why in made_of["unreadable"].items()}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{refused}: it does not say what it was made of. {cure}") from error
    if found["embed"] != expected["embed"]:
        raise ValueError(f"{refused}, but by --embed {found['embed']}. {cure}")
    if found != expected:
        raise ValueError(f"{refused}, but of others: their names or contents differ. {cure}")
    items.unreadable |= unread


def _digest(items: Items) -> str:
    """What tells the inputs of an embedding from others; of images their names and sizes."""
    kind = items.text if isinstance(items, Table) else None
    sizes = [path.stat().st_size if path.exists() else -1 for path in items.paths or []]
    return data_digest([str(kind), *items.contents, *map(str, sizes)])


def plain_features(items: Items, columns: Sequence[str] | None = None) -> tuple[NDArray[Any], str]:
    r"""Features without an embedding, and what they are.

    Parameters
    ----------
    items : ImageFolder or Table
    columns : list of str, default=None
        Numeric columns of a table that are the features. None: its images, else its text, else
        all numeric columns.

    Returns
    -------
    features : ndarray of shape (n_items, n_features)
    note : str

    Raises
    ------
    ValueError
        If a column is not numeric, or there is nothing to make features of.

    Examples
    --------
    >>> from laplace_al.label.items import Table
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "t.csv").write_text("a,b\n1,x\n3,y\n")
    ...     plain_features(Table(folder + "/t.csv"))
    (array([[-1.],
           [ 1.]]), 'the numeric columns, standardised: a')
    """
    if columns is not None:
        if not isinstance(items, Table):
            raise ValueError("--columns names columns of a CSV file; these items are images.")
        return numeric_columns(items, columns)
    if items.paths is not None:
        paths = {i: path for i, path in enumerate(items.paths) if i not in items.unreadable}
        features, found = pixels(paths)
        items.unreadable |= found
        positions = [i for i in paths if i not in found]
        return _filled(_centred(features), positions, len(items)), (
            f"pixels at {_N_PIXELS} x {_N_PIXELS}, a poor fallback: an embedding learns from far "
            "fewer labels (see --help)"
        )
    if items.text is not None:
        return _centred(words(items.shown[items.text])), (
            "the words of the text (tf-idf), a plain fallback: an embedding learns from fewer "
            "labels (see --help)"
        )
    return numeric_columns(items)


def _centred(features: NDArray[Any]) -> NDArray[Any]:
    """Features around their mean, where an intercept has the least to do."""
    return features - features.mean(axis=0)


def pixels(
    paths: Mapping[int, pathlib.Path],
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Images at 16 x 16 pixels, of one channel if all are grey.

    Parameters
    ----------
    paths : dict from position to pathlib.Path

    Returns
    -------
    features : ndarray of shape (n_images, 256 or 768), float32
        From 0 to 1, on white where an image is transparent. White is 65535 in grey images of 16 or
        32 bits, 1 in those of floats.
    unreadable : dict from position to str
        What is wrong with images that cannot be read; they have no row.

    Raises
    ------
    ValueError
        If Pillow is missing or no image can be read.
    """
    images, found = [], {}
    for position, path in tqdm(paths.items(), "Reading images", delay=1):
        try:
            images.append(small_pixels(path, _N_PIXELS))
        except UnreadableImageError as error:
            found[position] = str(error)
    if not images:
        raise ValueError(f"None of the images can be read. The first: {min(found.items())[1]}")
    stacked = np.stack(images)  # (n, 16, 16, 3)
    if not np.ptp(stacked, axis=3).any():
        stacked = stacked[..., :1]
    return stacked.reshape(len(stacked), -1).astype(np.float32) / np.float32(255), found


def words(texts: Iterable[str]) -> NDArray[np.float64]:
    """Word counts of texts, weighted by tf-idf, in at most 100 dimensions.

    Parameters
    ----------
    texts : sequence of str

    Returns
    -------
    ndarray of shape (n_texts, n_features)

    Raises
    ------
    ValueError
        If there is no word.

    Examples
    --------
    >>> words(["to be", "to do"]).shape  # be, do, to
    (2, 3)
    """
    # single letters and signs are words too: what else is there in "?" and "ok :)"
    counts = TfidfVectorizer(token_pattern=r"\w+|[^\w\s]", sublinear_tf=True)
    try:
        weighted = counts.fit_transform(texts)
    except ValueError as error:
        raise ValueError(f"The texts make no features: {error}.") from error
    if weighted.shape[1] <= _N_TOPICS:
        return weighted.toarray()
    return TruncatedSVD(_N_TOPICS, random_state=0).fit_transform(weighted)


def numeric_columns(table: Table, columns: Sequence[str] | None = None) -> tuple[NDArray[Any], str]:
    """Numeric columns of a table, standardised.

    Parameters
    ----------
    table : Table
    columns : list of str, default=None
        None: all that are numeric, but the one that names the rows and those that count them.

    Returns
    -------
    features : ndarray of shape (n_rows, n_columns)
        A value that is missing or infinite is the mean of the others in its column.
    note : str

    Raises
    ------
    ValueError
        If one is not numeric, has no finite value, or there is none.
    """
    numeric = table.parsed.select_dtypes(["number", "bool"]).replace([np.inf, -np.inf], np.nan)
    numeric = numeric.dropna(axis=1, how="all")
    numbers = []
    if columns is None:
        numbers = [name for name in numeric if name == table.key or _counts_rows(numeric[name])]
        columns = numeric.columns.drop(numbers).tolist()
        if not columns:
            texts = ", ".join(table.shown.columns)
            raise ValueError(
                f"{str(table.path)!r} has no numeric column to learn from{_beside(numbers)}. Name "
                f"its text by --text COLUMN (it has {texts}), or give --embed or --features."
            )
    table.check_columns("--columns", columns)
    others = [column for column in columns if column not in numeric]
    if others:
        raise ValueError(
            f"--columns must be numeric, with a finite value; {', '.join(others)} is not."
        )
    values = numeric[columns].astype(np.float64)
    n_missing = int(values.isna().sum().sum())
    deviation = values.std(ddof=0).replace(0, 1)
    features = ((values - values.mean()) / deviation).fillna(0).to_numpy()
    missing = f" ({n_missing} missing or infinite values count as the mean)" if n_missing else ""
    names = ", ".join(columns)
    note = f"the numeric columns, standardised: {names}{missing}{_beside(numbers)}"
    return check_features(features, len(table), "--columns"), note


def _counts_rows(column: pd.Series) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ...: where a row is, not what it is."""
    counted = np.arange(len(column))
    return column.dtype.kind in "iu" and (
        np.array_equal(column, counted) or np.array_equal(column, counted + 1)
    )


def _beside(numbers: Sequence[str]) -> str:
    """What a message says of columns that are not learnt from."""
    return f", beside what numbers the rows, {', '.join(numbers)}" if numbers else ""


def check_features(features: NDArray[Any], n_items: int, source: str) -> NDArray[Any]:
    """Refuse what is not one row of finite numbers for each item.

    Parameters
    ----------
    features : ndarray
    n_items : int
    source : str
        For the message.

    Returns
    -------
    ndarray of shape (n_items, n_features)

    Raises
    ------
    ValueError
        If it is anything else.

    Examples
    --------
    >>> check_features(np.eye(2), 2, "x.npy").shape
    (2, 2)
    """
    if features.ndim != 2 or len(features) != n_items or not features.shape[1]:
        raise ValueError(
            f"{source}: features must have shape (n_items, n_features), a row for each of the "
            f"{n_items} items, in their order; got {features.shape}."
        )
    if features.dtype.kind not in "biuf":
        raise ValueError(f"{source}: features must be numbers; got {features.dtype}.")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{source}: features must be finite; NaN or infinite in row {bad[0]}.")
    return features
