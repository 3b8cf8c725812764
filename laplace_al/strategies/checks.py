"""What a query is asked for, validated."""

import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def check_candidates(candidates: ArrayLike | None, n_pool: int) -> NDArray[np.bool_]:
    """Which instances may be chosen, as a mask over the pool.

    Parameters
    ----------
    candidates : array-like of bool of shape (n_pool,) or None
    n_pool : int

    Returns
    -------
    ndarray of bool of shape (n_pool,)

    Raises
    ------
    ValueError
        If it is not such a mask.

    Examples
    --------
    >>> check_candidates(None, 2)
    array([ True,  True])
    """
    if candidates is None:
        return np.ones(n_pool, dtype=bool)
    candidates = np.asarray(candidates)
    if candidates.dtype != bool or candidates.shape != (n_pool,):
        raise ValueError(
            f"candidates must be a mask of {n_pool} booleans, one for each row of X_pool; got "
            f"{candidates.dtype} of shape {candidates.shape}. Convert positions p to a mask with "
            "numpy.isin(numpy.arange(n_pool), p)."
        )
    return candidates


def candidates_of_block(candidates: ArrayLike | None, start: int, n_rows: int) -> NDArray[np.bool_]:
    """Which rows of a block may be chosen.

    Parameters
    ----------
    candidates : array-like of bool of shape (n_pool,) or None
        Of the pool.
    start : int
        Position of the first row.
    n_rows : int

    Returns
    -------
    ndarray of bool of shape (n_rows,)

    Raises
    ------
    ValueError
        If it is no mask, or too short.

    Examples
    --------
    >>> candidates_of_block(np.array([True, False, True]), 1, 2)
    array([False,  True])
    """
    if candidates is None:
        return np.ones(n_rows, dtype=bool)
    candidates = np.asarray(candidates)
    if candidates.dtype != bool or candidates.ndim != 1 or len(candidates) < start + n_rows:
        check_candidates(candidates, start + n_rows)
    return candidates[start : start + n_rows]


def check_n_instances(n_instances: int, n_pool: float) -> int:
    """Number of instances to query as an int between 1 and the size of the pool.

    Parameters
    ----------
    n_instances : int
    n_pool : int

    Returns
    -------
    int

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is not positive or exceeds the pool, or the pool is empty.

    Examples
    --------
    >>> check_n_instances(2, 10)
    2
    """
    if not isinstance(n_instances, numbers.Integral) or isinstance(n_instances, bool):
        raise TypeError(f"n_instances must be an integer >= 1; got {n_instances!r}.")
    if n_pool == 0:
        raise ValueError("The pool is empty: X_pool has no candidate left to query.")
    if not 1 <= n_instances <= n_pool:
        raise ValueError(
            f"n_instances must be between 1 and the size of the pool, {n_pool}; got {n_instances}."
        )
    return int(n_instances)


def check_positions(indices: Any, n_pool: int) -> NDArray[np.int64]:
    """Positions of instances in a pool, each once.

    Parameters
    ----------
    indices : int or array-like of int of shape (n_instances,)
    n_pool : int

    Returns
    -------
    ndarray of shape (n_instances,), dtype int64

    Raises
    ------
    ValueError
        If one is no integer, not in the pool or given twice, or there is none.

    Examples
    --------
    >>> check_positions(2, 3)
    array([2])
    """
    indices = check_distinct("indices", indices, "positions in X_pool")
    outside = indices[(indices < 0) | (indices >= n_pool)]
    if len(outside):
        raise ValueError(
            f"indices must be between 0 and {n_pool - 1}, positions in X_pool; got "
            f"{outside.tolist()}."
        )
    return indices


def check_distinct(name: str, values: Any, what: str) -> NDArray[np.int64]:
    """Integers, at least one, none of them twice.

    Parameters
    ----------
    name : str
        Of the argument.
    values : int or array-like of int of shape (n,)
    what : str
        What they are.

    Returns
    -------
    ndarray of shape (n,), dtype int64

    Raises
    ------
    ValueError
        If one is no integer or given twice, or there is none.

    Examples
    --------
    >>> check_distinct("rows", [3, 1], "rows of labels_")
    array([3, 1])
    """
    values = np.atleast_1d(values)
    if values.ndim != 1 or not (np.issubdtype(values.dtype, np.integer) or not values.size):
        raise ValueError(f"{name} must be integer {what}; got {values!r}.")
    if not len(values) or len(np.unique(values)) < len(values):
        raise ValueError(f"{name} must be distinct {what}, at least one; got {values.tolist()}.")
    return values.astype(np.int64)
