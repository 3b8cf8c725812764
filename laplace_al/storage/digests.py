"""Digests of data and of parameters, the same in every process."""

import contextlib
import copyreg
import datetime
import dis
import hashlib
import inspect
import itertools
import json
import math
import numbers
import operator
import pathlib
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.utils.validation import _num_samples

from laplace_al._common.typing import Instances
from laplace_al.inputs.blocks import rows_at

_N_DIGESTED = 1000  # rows of a pool that tell it from others


def sample_digest(X: Instances) -> str:
    """A fingerprint of a pool: of up to 1000 of its rows, at even distances.

    A journal is to open at once, however large its pool. What has to tell all data apart is
    :func:`data_digest`.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n_pool, ...)
        Of objects that :func:`data_digest` refuses, no more is seen than their type.

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
    some = rows_at(X, rows) if n else []
    values = _values(some)
    if values.dtype.kind in "biuf":
        content = np.ascontiguousarray(values, dtype=np.float64).tobytes()
    elif values.dtype.kind in "US" or all(map(_is_plain, values.ravel().tolist())):
        content = json.dumps(values.tolist(), default=str).encode()
    else:
        content = json.dumps(list(map(_form_or_type, values.ravel().tolist()))).encode()
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
        f"results= cannot be used with this data: objects of type {kind} have no reproducible "
        "fingerprint, so finished runs cannot be matched to their data. Convert X and y to "
        "numbers, texts, arrays or images, or leave results out."
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
    """A digest that tells parameters apart: of estimators, networks, callables, arrays and texts.

    The same in another process and after pickling. Of an estimator it sees the parameters and all
    that it has learnt, of a network the weights, of other objects what pickle would write. Of a
    class it sees the name, of a function that a module has the name and the code, and of others,
    those of ``__main__`` too, the code, the closure, the defaults and the globals in use.

    Parameters
    ----------
    value : object

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    TypeError
        If it is, or holds, what cannot be told from others: a lock, a file, a connection.

    Examples
    --------
    >>> from laplace_al.strategies import MarginSampling
    >>> one, other = MarginSampling(random_state=0), MarginSampling(random_state=1)
    >>> fingerprint(one) == fingerprint(MarginSampling(random_state=0)) != fingerprint(other)
    True
    """
    return hashlib.sha256(_print(value, {}).encode()).hexdigest()[:16]


def _print(value: Any, known: dict[int, tuple[object, str]]) -> str:
    """A text of one's own for a value.

    Those of objects are known by id, beside the object itself so that no other can get its place;
    within itself, an object is known by how many came before it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, str | bytes | numbers.Number):
        return repr(value)
    if id(value) not in known:
        known[id(value)] = value, f"number {len(known)}"
        prints = [_print(part, known) for part in _parts(value)]
        if isinstance(value, set | frozenset):
            prints.sort()
        known[id(value)] = value, hashlib.sha256(json.dumps(prints).encode()).hexdigest()
    return known[id(value)][1]


def _parts(value: Any) -> Iterable[Any]:
    """What an object consists of."""
    if isinstance(value, Mapping):
        return itertools.chain.from_iterable(value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return value
    if isinstance(value, torch.Tensor) or sparse.issparse(value):
        return [data_digest(value)]
    if isinstance(value, np.ndarray | pd.DataFrame | pd.Series):
        return _parts_of_array(np.asarray(value))
    if isinstance(value, type):
        return [value.__module__, value.__qualname__]
    if isinstance(value, types.ModuleType):
        return [value.__name__]
    if isinstance(value, types.MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, types.FunctionType):
        return _parts_of_function(value)
    if isinstance(value, types.CodeType):
        return [value.co_code, value.co_names, value.co_consts]
    if hasattr(value, "get_params"):
        return [type(value), value.get_params(deep=False), _learnt(value)]
    if hasattr(value, "state_dict"):
        return [type(value), value.state_dict(), _text(value)]
    return _pickled(value)


def _parts_of_array(values: NDArray[Any]) -> list[Any]:
    if values.dtype.kind in "OV":  # bytes of which are addresses, or between the fields
        return [values.shape, *values.ravel().tolist()]
    return [data_digest(values)]


def _parts_of_function(function: types.FunctionType) -> list[Any]:
    if _is_of_a_module(function):
        code = inspect.unwrap(function).__code__
        return [function.__module__, function.__qualname__, code]
    return [
        *(function.__code__, function.__defaults__, function.__kwdefaults__),
        *_contents(function.__closure__ or ()),
        _globals_in_use(function),
    ]


def _is_of_a_module(function: types.FunctionType) -> bool:
    """Whether an import gives the function, as it does in another process; a script is none."""
    if function.__module__ == "__main__":
        return False
    with contextlib.suppress(AttributeError):
        found = operator.attrgetter(function.__qualname__)(sys.modules.get(function.__module__))
        return found is function
    return False


def _contents(cells: tuple[types.CellType, ...]) -> Iterator[Any]:
    """Of the variables of a closure; those that have no value yet count as none."""
    for cell in cells:
        with contextlib.suppress(ValueError):
            yield cell.cell_contents


def _globals_in_use(function: types.FunctionType) -> dict[str, Any]:
    names = sorted(_global_names(function.__code__))
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


def _global_names(code: types.CodeType) -> set[str]:
    """Names of globals that the code, or functions within it, read."""
    steps = dis.get_instructions(code)
    within = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return {step.argval for step in steps if step.opname == "LOAD_GLOBAL"}.union(
        *map(_global_names, within)
    )


def _learnt(estimator: Any) -> Any:
    """All that an estimator has besides its parameters; of a skorch net, which has times, less."""
    if hasattr(estimator, "module_"):
        return estimator.module_
    attributes, params = vars(estimator), estimator.get_params(deep=False)
    return {name: attributes[name] for name in sorted(attributes.keys() - params.keys())}


def _text(value: object) -> str:
    """The ``repr``, unless it has an address in it."""
    text = repr(value)
    return "" if " at 0x" in text else text


def _pickled(value: Any) -> list[Any]:
    """What pickle would write of an object."""
    reduce = copyreg.dispatch_table.get(type(value), operator.methodcaller("__reduce_ex__", 4))
    try:
        reduced = reduce(value)
    except Exception as error:  # any, of code that is not ours
        raise TypeError(
            f"results= cannot be used here: an object of type {type(value).__name__} in an "
            f"estimator, a strategy or a setting has no reproducible fingerprint ({error}), so "
            "finished runs cannot be matched to their settings. Use numbers, texts, arrays, "
            "networks, estimators or objects that can be pickled, without locks, files or "
            "connections, or leave results out."
        ) from error
    if isinstance(reduced, str):  # a name
        return [getattr(value, "__module__", ""), reduced, getattr(value, "__wrapped__", None)]
    make, arguments, state, *items = (*reduced, None, None, None)[:5]
    return [make, arguments, state, *(list(part or ()) for part in items)]
