"""Rows of inputs, in blocks or by position, of whatever holds them."""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples
from torch.utils import data

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Method

_Answer: TypeAlias = NDArray[Any] | tuple[NDArray[Any], ...]

# Rows of a memory map that are read at once.
_BLOCK_SIZE = 4096


def is_by_name(X: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether inputs are arrays by name, as a tokenizer returns them.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool

    Examples
    --------
    >>> is_by_name({"ids": [[1], [2]]}), is_by_name(sparse.dok_array((2, 1)))  # a dict as well
    (True, False)
    """
    return isinstance(X, Mapping) and not sparse.issparse(X)


def n_rows(X: Any) -> int:
    """Number of inputs, which a dict of arrays has one of in each row of all of them.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...), or dict of such

    Returns
    -------
    int

    Examples
    --------
    >>> n_rows([[1.0], [2.0]]), n_rows({"ids": [[1], [2], [3]]})
    (2, 3)
    """
    return int(_num_samples(next(iter(X.values()), ()) if is_by_name(X) else X))


def is_stream(X: object) -> bool:
    """Whether inputs come in blocks and cannot be indexed.

    Parameters
    ----------
    X : object
        An iterable that can neither be indexed nor has a shape is one, as iterators and
        ``DataLoader`` are, and so is a Dask array.

    Returns
    -------
    bool

    Examples
    --------
    >>> is_stream(iter([np.ones((2, 1))])), is_stream([[1.0], [1.0]])
    (True, False)
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
    """Whether inputs are a stream, or a memory map of more rows than are read at once.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool

    Examples
    --------
    >>> comes_in_blocks(iter([np.ones((2, 1))])), comes_in_blocks(np.ones((9999, 1)))
    (True, False)
    """
    return is_stream(X) or (isinstance(X, np.memmap) and X.ndim > 0 and len(X) > _BLOCK_SIZE)


def check_whole(X: Any) -> None:
    """Refuse inputs that come in blocks, where all are needed at once.

    Parameters
    ----------
    X : object

    Raises
    ------
    TypeError
        If they are a stream, or a torch ``Dataset`` that has more than inputs.

    Examples
    --------
    >>> check_whole(np.ones((2, 1)))
    >>> check_whole(iter([np.ones((2, 1))]))
    Traceback (most recent call last):
        ...
    TypeError: X must be whole, an array or what the feature extractor takes; got list_iterator...
    """
    if is_stream(X) or has_targets(X):
        raise TypeError(
            "X must be whole, an array or what the feature extractor takes; got "
            f"{type(X).__name__}. Only predictions take blocks, as a DataLoader gives them. Put "
            "its inputs into one array, or call partial_fit with one block after the other."
        )


def check_unmasked(X: Any, name: str = "X") -> None:
    """Refuse masked arrays, of which NumPy would take what lies under the mask.

    Parameters
    ----------
    X : object
    name : str, default="X"
        For the error.

    Raises
    ------
    ValueError
        If it is a masked array, or a list or tuple of some, with a value that is masked.

    Examples
    --------
    >>> check_unmasked(np.ma.array([1.0, 2.0], mask=[False, False]))
    >>> check_unmasked(np.ma.array([1.0, 2.0], mask=[False, True]))
    Traceback (most recent call last):
        ...
    ValueError: X has masked values, 1 of 2. Leave these rows out, or fill them: X.filled(value).
    """
    rows = X if isinstance(X, list | tuple) else [X]
    n_masked = sum(int(np.sum(row.mask)) for row in rows if isinstance(row, np.ma.MaskedArray))
    if n_masked:
        raise ValueError(
            f"{name} has masked values, {n_masked} of {np.size(X)}. Leave these rows out, or fill "
            f"them: {name}.filled(value)."
        )


def has_targets(X: Any) -> bool:
    """Whether inputs are a torch ``Dataset`` that has more than an input at each position.

    Parameters
    ----------
    X : object

    Returns
    -------
    bool

    Examples
    --------
    >>> import torch
    >>> has_targets(data.TensorDataset(torch.ones(2, 1))), has_targets(np.ones((2, 1)))
    (True, False)
    """
    is_map = isinstance(X, data.Dataset) and not is_stream(X)
    return is_map and _num_samples(X) > 0 and isinstance(X[0], tuple)


def blocks_of(X: Any) -> Iterator[Any]:
    """Blocks of rows in their order, of which none is empty.

    Parameters
    ----------
    X : memory map, iterable of blocks, DataLoader or Dask array
        A batch of a ``DataLoader`` that is a tuple or list stands for its first part.

    Yields
    ------
    array-like of shape (n_rows, ...)

    Raises
    ------
    TypeError
        If a block has no rows that could be counted.
    ValueError
        If a ``DataLoader`` shuffles or drops rows, so that a position means nothing: unless its
        dataset is an iterable, its sampler must be a plain ``SequentialSampler``.

    Examples
    --------
    >>> [block.shape for block in blocks_of(iter([np.ones((3, 1)), np.ones((2, 1))]))]
    [(3, 1), (2, 1)]
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


def in_blocks(method: Method) -> Method:
    """Make a method of an estimator take inputs that come in blocks, one block at a time.

    Parameters
    ----------
    method : callable
        From ``(self, X)`` to an array with a row for each row of X, or a tuple of such.

    Returns
    -------
    callable

    Examples
    --------
    >>> class Doubler:
    ...     @in_blocks
    ...     def double(self, X):
    ...         return 2 * X
    >>> Doubler().double(iter([np.ones(2), np.ones(1)]))
    array([2., 2., 2.])
    """

    @functools.wraps(method)
    def over_blocks(self: Any, X: Any) -> Any:
        if not comes_in_blocks(X):
            return method(self, X)
        answers = (method(self, block) for block in blocks_of(X))
        joined = _filled(answers, len(X)) if isinstance(X, np.ndarray) else _joined(answers)
        if joined is None:
            raise ValueError(f"X has no rows: {type(X).__name__} gave no block. Is it used up?")
        return joined

    return cast(Method, over_blocks)


def _joined(answers: Iterable[_Answer]) -> _Answer | None:
    answers = list(answers)
    if not answers:
        return None
    if isinstance(answers[0], tuple):
        return tuple(map(np.concatenate, zip(*answers, strict=True)))
    return np.concatenate(answers)


def _filled(answers: Iterable[_Answer], n_rows: int) -> _Answer:
    """Answers joined in an array whose length is known before: they are never held twice."""
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
    """Rows of inputs, in the order of the positions.

    Parameters
    ----------
    X : array-like, frame, sparse matrix, list, Dataset, array in a file, or dict of such
        An array that is not NumPy's, as of HDF5 or Zarr, is only asked for slices: it need not take
        positions in any order.
    positions : slice or array-like of int of shape (n,)

    Returns
    -------
    array-like of shape (n, ...), or dict of such
        Of the kind of X; an ndarray for arrays in files, a list for a torch ``Dataset``.

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


def _is_array_elsewhere(X: Any) -> bool:
    """Whether it is no array of NumPy, torch, pandas, polars or the array API, but like one."""
    return (
        hasattr(X, "shape")
        and hasattr(X, "dtype")
        and not isinstance(X, np.ndarray | torch.Tensor)
        and not sparse.issparse(X)
        and not any(hasattr(X, name) for name in ("to_numpy", "__array_namespace__"))
    )


def concatenated(parts: Sequence[Any]) -> Any:
    """Rows of several blocks, one after the other.

    Parameters
    ----------
    parts : list of ndarray, tensor, list, frame of pandas or polars, Series or sparse matrix
        All of one kind, or dicts of such.

    Returns
    -------
    array-like
        Of that kind; an ndarray for tensors and whatever else NumPy takes.

    Raises
    ------
    TypeError
        If it is another kind.

    Examples
    --------
    >>> concatenated([["a"], ["b", "c"]])
    ['a', 'b', 'c']
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
