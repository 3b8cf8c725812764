"""Digests of data and of parameters, the same in every process."""

import contextlib
import datetime
import hashlib
import inspect
import json
import math
import numbers
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from laplace_al.typing import Instances

_N_DIGESTED = 1000  # rows of a pool that tell it from others


def sample_digest(X: Instances, *, of_objects: bool = True) -> str:
    """A fingerprint of a pool: of up to 1000 of its rows, at even distances.

    A journal is to open at once, however large its pool. What has to tell all data apart is
    :func:`data_digest`.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_pool, ...)
        Of objects that :func:`data_digest` refuses, no more is seen than their type.
    of_objects : bool, default=True
        Whether to look at what is no array of numbers or texts: times, paths, missing values,
        dicts, images of several sizes. False is what the digest was in files of journals before.

    Returns
    -------
    str
        Equal for equal numbers or texts, whatever the container and the width of its dtype; but a
        sparse matrix is not equal to a dense one.

    Examples
    --------
    >>> one = sample_digest([[1, 2]])
    >>> one == sample_digest(np.array([[1.0, 2.0]])) != sample_digest([[1, 3]])
    True
    """
    n = _num_samples(X)
    rows = np.unique(np.linspace(0, n - 1, min(n, _N_DIGESTED)).astype(int))
    if sparse.issparse(X):
        *places, held = _canonical_parts(cast(Any, X).tocsr()[rows])
        parts = [*places, held.astype(np.float64)]
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()
    some = _safe_indexing(X, rows) if n else []
    values = _values(some)
    if values.dtype.kind in "biuf":
        content = np.ascontiguousarray(values, dtype=np.float64).tobytes()
    elif values.dtype.kind in "US" or all(map(_is_plain, values.ravel().tolist())):
        content = json.dumps(values.tolist(), default=str).encode()
    elif of_objects:
        content = json.dumps(list(map(_form_or_type, values.ravel().tolist()))).encode()
    else:
        content = b""
    return hashlib.sha256(content).hexdigest()


def _values(rows: Any) -> NDArray[Any]:
    """An array of what rows hold, or of the rows themselves if they differ in shape."""
    if isinstance(rows, pd.DataFrame):
        rows = rows.to_numpy()
    with contextlib.suppress(*_NO_NUMBERS):
        return np.asarray(rows)
    return np.fromiter(rows, dtype=object)


def _form_or_type(value: object) -> Any:
    try:
        return _form(value)
    except TypeError:
        return [type(value).__name__]


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
    *(pd.Interval, pd.Period, type(None), type(pd.NA), type(pd.NaT)),
)
# What NumPy and torch raise of rows that are no numbers, or not of one shape.
_NO_NUMBERS = (TypeError, ValueError, RuntimeError, OverflowError)


def _content(X: Any) -> Iterator[bytes | memoryview]:
    """All that X holds, piece by piece; each begins with what and how much it is."""
    if sparse.issparse(X):
        X = X.tocsr()
        yield _header("sparse", X.dtype, X.shape)
        for start in range(0, X.shape[0], _BLOCK_ROWS):
            yield from (part.data for part in _canonical_parts(X[start : start + _BLOCK_ROWS]))
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
        with contextlib.suppress(*_NO_NUMBERS):
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


def _canonical_parts(X: Any) -> list[NDArray[Any]]:
    """Shape, row pointers, columns and values of what is not 0, however a matrix is stored."""
    X = X.tocsr(copy=True)  # what follows is in place
    X.sum_duplicates()
    X.eliminate_zeros()
    integers = [np.asarray(part, dtype=np.int64) for part in (X.shape, X.indptr, X.indices)]
    return [*integers, X.data]


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | numbers.Number)


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
