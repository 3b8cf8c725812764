"""Features of the items from a file, or as plain ones as can be had without an embedding."""

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
from laplace_al.label.csv_files import parse, separator_of
from laplace_al.label.images import UnreadableImageError, small_pixels
from laplace_al.label.items import Items, Table, readable_paths

_N_PIXELS = 16  # in height and width
_N_TOPICS = 100
# What NumPy and pandas raise of files that are none, cut short or changed.
_DAMAGED = (ValueError, OSError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)


def given_features(path: Path, n_items: int) -> NDArray[Any]:
    """Return the features (n_items, n_features) in a file of finite numbers, one row for each item.

    ``.npy``; ``.npz`` with one array, or one that is called ``features``; or ``.csv`` with numbers
    only, below a line of names. The index that pandas writes, a column without a name that counts
    the rows, is none of them.
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
    table = parse(content, separator_of(content))
    index = [name for name in table if name.startswith("Unnamed: ") and _counts_rows(table[name])]
    return table.drop(columns=index).to_numpy()


def check_features(features: NDArray[Any], n_items: int, source: str) -> NDArray[Any]:
    """Return features; refuse those that are not one row of finite numbers for each item."""
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


def plain_features(items: Items, columns: Sequence[str] | None = None) -> tuple[NDArray[Any], str]:
    """Return features (n_items, n_features) without an embedding, and a note of what they are.

    They come from the numeric ``columns`` that are named, else from images, else from the text,
    else from all numeric columns.
    """
    if columns is not None:
        if not isinstance(items, Table):
            raise ValueError("--columns names columns of a CSV file; these items are images.")
        return numeric_columns(items, columns)
    if items.paths is not None:
        paths = readable_paths(items)
        features, found = pixels(paths)
        items.unreadable |= found
        positions = [i for i in paths if i not in found]
        return fill_with_mean(_centred(features), positions, len(items)), (
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
    """Return features around their mean, where an intercept has the least to do."""
    return features - features.mean(axis=0)


def fill_with_mean(features: NDArray[Any], positions: Sequence[int], n_items: int) -> NDArray[Any]:
    """Return features of all items: those given at ``positions``, their mean elsewhere."""
    if len(positions) == n_items:
        return features
    mean = features.mean(axis=0)  # (n_features,)
    filled = np.tile(mean, (n_items, 1)).astype(np.result_type(features, mean))
    filled[positions] = features
    return filled


def pixels(
    paths: Mapping[int, pathlib.Path],
) -> tuple[NDArray[np.float32], dict[int, str]]:
    """Return images at 16 x 16 pixels from 0 to 1, and what is wrong with those without a row.

    The features have shape (n_images, 768), or (n_images, 256) if all are grey.
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
    """Return the words of texts, weighted by tf-idf: (n_texts, at most 100 dimensions)."""
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
    """Return numeric columns, standardised (n_rows, n_columns), and a note of what they are.

    Without ``columns`` all are taken but the one that names the rows and those that count them. A
    missing or infinite value counts as the mean of its column.
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
    """Return whether a column is 0, 1, 2, ... or 1, 2, 3, ...: where a row is, not what it is."""
    counted = np.arange(len(column))
    return column.dtype.kind in "iu" and (
        np.array_equal(column, counted) or np.array_equal(column, counted + 1)
    )


def _beside(numbers: Sequence[str]) -> str:
    """Return what a message says of columns that are not learnt from."""
    return f", beside what numbers the rows, {', '.join(numbers)}" if numbers else ""
