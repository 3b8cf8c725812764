"""Fingerprints of values, the same in every process."""

import contextlib
import datetime
import pathlib
import types
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from joblib.hashing import Hasher
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import _num_samples
from torch import nn

from laplace_al._common.typing import Instances
from laplace_al.inputs.blocks import rows_at

_N_SAMPLED = 1000  # rows of a pool that tell it from others, so that a journal opens at once
_PLAIN = (str, bytes, bool, int, float, type(None))
# pickle writes these differently in other versions of Python and pandas; journals outlive those
_TEXTUAL = (
    *(pathlib.PurePath, datetime.date, datetime.time, datetime.timedelta),
    *(pd.Interval, pd.Period, type(pd.NA), type(pd.NaT)),
)
_NO_ARRAY = (TypeError, ValueError, RuntimeError, OverflowError)  # ragged rows, tensors with grad


def fingerprint(value: object) -> str:
    """Return 16 hexadecimal digits that depend on all that a value holds, and on nothing else.

    Values are hashed as by :func:`joblib.hash`: estimators by their parameters and what they have
    learnt, networks by their weights, arrays, frames and sparse matrices by their entries, whatever
    their layout in memory. The body of a function is not read: functions and classes are known by
    module and qualified name, lambdas and local functions also by the values that they hold.

    Raises
    ------
    TypeError
        If the value holds what cannot be pickled, such as a lock or a connection.
    """
    try:
        return str(_ValueHasher("sha256").hash(value))[:16]
    except Exception as error:  # any, of code that is not ours
        raise TypeError(f"{type(value).__name__} has no fingerprint: {error}") from error


def sample_digest(X: Instances, n: int | None = None) -> str:
    """Return the fingerprint of up to 1000 of the first n rows of a pool, at even distances.

    None stands for all rows. It is equal for equal numbers or texts in any container and dtype; but
    a sparse matrix differs from a dense one. Of rows without a fingerprint, only the type counts.
    """
    n = _num_samples(X) if n is None else n
    rows = np.unique(np.linspace(0, n - 1, min(n, _N_SAMPLED)).astype(int))
    if sparse.issparse(X):
        return fingerprint(cast(Any, X).tocsr()[rows].astype(np.float64))
    values = _as_array(rows_at(X, rows) if n else [])
    if values.dtype.kind in "biuf":
        return fingerprint(values.astype(np.float64))
    return fingerprint(list(map(_fingerprint_or_type, values.tolist())))


def _as_array(rows: Any) -> NDArray[Any]:
    """Return the entries of rows as an array, or an array of the rows if their shapes differ."""
    if isinstance(rows, pd.DataFrame):
        rows = rows.to_numpy()
    with contextlib.suppress(*_NO_ARRAY):
        return np.asarray(rows)
    return np.fromiter(rows, dtype=object)


def _fingerprint_or_type(row: object) -> str:
    try:
        return fingerprint(row)
    except TypeError:
        return type(row).__name__


class _ValueHasher(Hasher):
    """joblib's hasher, for which neither identity nor layout in memory counts."""

    def save(self, value: Any) -> None:
        """Write all of a value wherever it occurs, but for a reference within itself."""
        is_within_itself = id(value) in self.memo
        super().save(value)
        if not is_within_itself:
            self.memo.pop(id(value), None)

    def reducer_override(self, value: Any) -> Any:
        """Return what is hashed in place of a value, as ``__reduce__`` does: kind, parts, state."""
        kind = type(value)
        if kind in _PLAIN or kind in (list, tuple):
            return NotImplemented
        if isinstance(value, _TEXTUAL):
            return str, (kind.__name__, repr(value))
        if isinstance(value, types.FunctionType):
            return str, (value.__module__, value.__qualname__), _held(value)
        if isinstance(value, type):
            is_local = "<locals>" in value.__qualname__
            return (str, (value.__module__, value.__qualname__)) if is_local else NotImplemented
        if isinstance(value, nn.Module):
            return kind, (dict(value.state_dict()), _text(value))
        if isinstance(value, np.dtype):
            return np.dtype, (str(value),)
        if hasattr(kind, "get_params") and hasattr(value, "module_"):  # skorch, with its times
            return kind, (value.get_params(deep=False), value.module_)
        parts = self._parts_of_data(value)
        if parts is not None:
            return str, parts
        if isinstance(value, dict):
            return kind, (), sorted(value.items(), key=lambda item: _order(item[0]))
        if isinstance(value, set | frozenset):
            return kind, (sorted(value, key=_order),)
        return NotImplemented

    def _parts_of_data(self, value: Any) -> tuple[Any, ...] | None:
        """Return what tells data from others, or None if a value holds none."""
        kind = type(value)  # asked in place of the value, which may pass on what it is asked
        if kind in (np.ndarray, np.memmap):
            return str(value.dtype), value.shape, self._entries(value)
        if isinstance(value, torch.Tensor):  # NumPy does not know all of its dtypes
            held = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            return str(value.dtype), tuple(value.shape), held
        if sparse.issparse(value):
            return ("sparse", *_canonical_parts(value))
        if isinstance(value, pd.DataFrame):
            columns = [value.iloc[:, i] for i in range(value.shape[1])]
            return "frame", value.columns.tolist(), columns
        if isinstance(value, pd.Series):
            return "column", value.dtype, value.to_numpy()
        if hasattr(kind, "get_columns"):  # polars
            return "frame", value.columns, [column.to_numpy() for column in value.get_columns()]
        if isinstance(value, np.ndarray | np.generic):
            return None
        is_like_an_array = hasattr(kind, "__array__") or hasattr(kind, "__array_interface__")
        return ("like an array", np.asarray(value)) if is_like_an_array else None

    def _entries(self, array: NDArray[Any]) -> list[Any]:
        """Hash the bytes of an array, or return its entries if the bytes hold addresses or gaps."""
        if array.dtype.kind in "OVT":
            return array.ravel().tolist()
        self._hash.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return []


def _order(value: object) -> str:
    """Return what sorts keys and elements of sets, the same in every process."""
    return repr(value) if type(value) in _PLAIN else fingerprint(value)


def _held(function: types.FunctionType) -> list[Any] | None:
    """Return the defaults and the closure of a function that no name leads to."""
    if "<" not in function.__qualname__:  # <lambda>, <locals>
        return None
    held: list[Any] = [function.__defaults__, function.__kwdefaults__]
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # of a variable that has no value yet
            held.append(cell.cell_contents)
    return held


def _text(value: object) -> str:
    """Return the ``repr``, or nothing if it shows an address."""
    text = repr(value)
    return "" if " at 0x" in text else text


def _canonical_parts(X: Any) -> list[NDArray[Any]]:
    """Return shape, row pointers, columns and values of what is not 0, however X is stored."""
    X = X.tocsr(copy=True)  # what follows is in place
    X.sum_duplicates()
    X.eliminate_zeros()
    integers = [np.asarray(part, dtype=np.int64) for part in (X.shape, X.indptr, X.indices)]
    return [*integers, X.data]
