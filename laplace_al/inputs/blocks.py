"""Rows of inputs, in blocks or by position, of whatever holds them."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples
from torch.utils import data

from laplace_al._common.devices import as_array

_Answer: TypeAlias = NDArray[Any] | tuple[NDArray[Any], ...]

# Rows of a memory map that are read at once.
_BLOCK_SIZE = 4096


def is_by_name(X: object) -> TypeGuard[Mapping[str, Any]]:
    """Return whether inputs are arrays by name, as a tokenizer returns them."""
    return isinstance(X, Mapping) and not sparse.issparse(X)


def n_rows(X: Any) -> int:
    """Return the number of inputs; those of a dict are the rows of its arrays."""
    return int(_num_samples(next(iter(X.values()), ()) if is_by_name(X) else X))


def is_stream(X: object) -> bool:
    """Return whether inputs come in blocks and cannot be indexed.

    Iterators, a ``DataLoader`` and whatever else can be iterated over but has neither items nor a
    shape are such, and so is a Dask array.
    """
    if _is_dask(X):
        return True
    return (
        isinstance(X, Iterable)
        and not hasattr(X, "__getitem__")
        and not hasattr(X, "__array__")
        and not hasattr(X, "shape")
    )


def comes_in_blocks(X: object) -> bool:
    """Return whether inputs are a stream, or a memory map of more rows than are read at once."""
    return is_stream(X) or (isinstance(X, np.memmap) and X.ndim > 0 and len(X) > _BLOCK_SIZE)


def check_whole(X: Any) -> None:
    """Refuse a stream, or a ``Dataset`` with more than inputs, where all are needed at once."""
    if is_stream(X) or has_targets(X):
        raise TypeError(
            "X must be whole, an array or what the feature extractor takes; got "
            f"{type(X).__name__}. Only predictions take blocks, as a DataLoader gives them. Put "
            "its inputs into one array, or call partial_fit with one block after the other."
        )


def check_unmasked(X: Any, name: str = "X") -> None:
    """Refuse masked arrays, or lists of some: NumPy would take what lies under the mask."""
    rows = X if isinstance(X, list | tuple) else [X]
    n_masked = sum(int(np.sum(row.mask)) for row in rows if isinstance(row, np.ma.MaskedArray))
    if n_masked:
        raise ValueError(
            f"{name} has masked values, {n_masked} of {np.size(X)}. Leave these rows out, or fill "
            f"them: {name}.filled(value)."
        )


def has_targets(X: Any) -> bool:
    """Return whether inputs are a torch ``Dataset`` with more than an input at each position."""
    is_map = isinstance(X, data.Dataset) and not is_stream(X)
    return is_map and _num_samples(X) > 0 and isinstance(X[0], tuple)


def blocks_of(X: Any) -> Iterator[Any]:
    """Yield blocks of rows of a memory map or stream in their order, of which none is empty.

    A batch of a ``DataLoader`` that is a tuple or list stands for its first part. One that shuffles
    or drops rows is refused, since a position would mean nothing: unless its dataset is an
    iterable, its sampler must be a plain ``SequentialSampler``.
    """
    for block in _raw_blocks(X):
        block = as_array(block)
        if not (hasattr(block, "__len__") or hasattr(block, "shape")):
            raise TypeError(
                f"A block must be an array-like of rows; got {type(block).__name__}. Pass an "
                "iterator that picks the inputs, e.g. (batch['pixel_values'] for batch in loader)."
            )
        if n_rows(block):
            yield block


def _raw_blocks(X: Any) -> Iterator[Any]:
    """Yield blocks as the container gives them."""
    if isinstance(X, np.ndarray):
        for start in range(0, len(X), _BLOCK_SIZE):
            yield np.asarray(X[start : start + _BLOCK_SIZE])
    elif isinstance(X, data.DataLoader):
        _check_order(X)
        for batch in X:
            yield batch[0] if isinstance(batch, tuple | list) else batch
    elif _is_dask(X):
        X = X.rechunk(dict.fromkeys(range(1, X.ndim), -1))  # it may be cut along its other axes
        for i in range(X.npartitions):
            yield X.partitions[i].compute()
    else:
        yield from X


def _is_dask(X: object) -> bool:
    """Return whether it is an array of Dask."""
    return hasattr(X, "__dask_graph__") and hasattr(X, "rechunk")


def _check_order(loader: data.DataLoader[Any]) -> None:
    """Refuse whatever is not known to keep the order: there is no end of ways to shuffle."""
    sampler = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
    drops_rows = loader.drop_last
    if type(sampler) is data.BatchSampler:
        drops_rows, sampler = sampler.drop_last, sampler.sampler
    # rows of an iterable are in the order in which it gives them
    if not isinstance(loader.dataset, data.IterableDataset) and (
        type(sampler) is not data.SequentialSampler
    ):
        raise ValueError(
            "A DataLoader must go through its rows in their order, so that a position tells which "
            f"row it is; this one draws by {type(sampler).__name__}. Use shuffle=False, without "
            "sampler= and batch_sampler=; for some of the rows, load a "
            "torch.utils.data.Subset."
        )
    if drops_rows:
        raise ValueError("A DataLoader with drop_last=True leaves rows out. Use drop_last=False.")
    if not getattr(loader, "in_order", True):  # torch < 2.6 has no such parameter
        raise ValueError(
            "A DataLoader with in_order=False gives batches as its workers finish them, so that "
            "a position means nothing. Use in_order=True."
        )


def over_blocks(function: Callable[[Any], Any], X: Any) -> Any:
    """Return what a function makes of inputs, which may come in blocks: one block at a time.

    ``function`` goes from inputs to an array with a row for each, or a tuple of such arrays.
    """
    if not comes_in_blocks(X):
        return function(X)
    answers = (function(block) for block in blocks_of(X))
    joined = _filled(answers, len(X)) if isinstance(X, np.ndarray) else _joined(answers)
    if joined is None:
        raise ValueError(f"X has no rows: {type(X).__name__} gave no block. Is it used up?")
    return joined


def _joined(answers: Iterable[_Answer]) -> _Answer | None:
    """Return answers joined, None if there are none."""
    answers = list(answers)
    if not answers:
        return None
    if isinstance(answers[0], tuple):
        return tuple(map(np.concatenate, zip(*answers, strict=True)))
    return np.concatenate(answers)


def _filled(answers: Iterable[_Answer], n_rows: int) -> _Answer:
    """Return answers joined in arrays of known length: they are never held twice."""
    whole: tuple[NDArray[Any], ...] = ()
    start = 0
    for answer in answers:
        parts = answer if isinstance(answer, tuple) else (answer,)
        if not whole:
            whole = tuple(np.empty((n_rows, *part.shape[1:]), part.dtype) for part in parts)
        stop = start + len(parts[0])
        for array, part in zip(whole, parts, strict=True):
            array[start:stop] = part
        start = stop
    return whole if isinstance(answer, tuple) else whole[0]


def rows_at(X: Any, positions: slice | Sequence[int] | NDArray[np.integer]) -> Any:
    """Return rows of inputs, in the order of the positions, in a container of the kind of X.

    An array in a file, as of HDF5 or Zarr, is only asked for slices and becomes NumPy's; the rows
    of a torch ``Dataset`` become a list.

    Examples
    --------
    >>> rows_at(["a", "b", "c"], [2, 0])
    ['c', 'a']
    >>> rows_at({"ids": [[1], [2], [3]]}, slice(1, 3))
    {'ids': [[2], [3]]}
    """
    if is_by_name(X):
        return {name: rows_at(column, positions) for name, column in X.items()}
    if isinstance(X, data.Dataset):
        return [X[i] for i in np.arange(_num_samples(X))[positions].tolist()]
    if type(X).__module__.partition(".")[0] == "pyarrow":
        return X.take(np.arange(_num_samples(X))[positions])
    if not _is_array_elsewhere(X):
        return _safe_indexing(X, positions)
    wanted, places = np.unique(np.arange(_num_samples(X))[positions], return_inverse=True)
    runs = np.split(wanted, np.flatnonzero(np.diff(wanted) > 1) + 1)
    parts = [np.asarray(X[run[0] : run[-1] + 1] if len(run) else X[:0]) for run in runs]
    return np.concatenate(parts)[places]


def rows_between(X: Any, start: int, stop: int) -> Any:
    """Return the rows of inputs from one up to another; those of a torch ``Dataset`` stay one."""
    if isinstance(X, data.Dataset):
        return data.Subset(X, range(start, stop))
    return rows_at(X, slice(start, stop))


def _is_array_elsewhere(X: Any) -> bool:
    """Return whether it is like an array, but of no library that has its rows in memory."""
    return (
        hasattr(X, "shape")
        and hasattr(X, "dtype")
        and not isinstance(X, np.ndarray | torch.Tensor)
        and not sparse.issparse(X)
        and not any(hasattr(X, name) for name in ("to_numpy", "__array_namespace__"))
    )


def concatenated(parts: Sequence[Any]) -> Any:
    """Return the rows of several blocks of one kind one after the other.

    Frames, Series, lists, sparse matrices and dicts of such stay what they are; tensors and
    whatever else NumPy takes become an array.
    """
    parts = [as_array(part) for part in parts]
    first = parts[0]
    if is_by_name(first):
        return {name: concatenated([part[name] for part in parts]) for name in first}
    if isinstance(first, list):
        return [row for part in parts for row in part]
    if isinstance(first, pd.DataFrame | pd.Series):
        return pd.concat(parts)
    if sparse.issparse(first):
        return sparse.vstack(parts, format="csr")
    if hasattr(first, "vstack"):  # polars
        return functools.reduce(lambda above, below: above.vstack(below), parts)
    if hasattr(first, "__array__"):
        return np.concatenate(parts)
    raise TypeError(
        "Rows that are put together must be arrays, lists, frames or sparse matrices; got "
        f"{type(first).__name__}."
    )
