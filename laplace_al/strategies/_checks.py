"""Validation of the arguments of a query."""

import numbers
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplace_al._common.typing import Mask


def check_candidates(candidates: ArrayLike | None, n_pool: int) -> Mask:
    """Return the mask (n_pool,) of the instances that may be chosen; None: all."""
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


def candidates_of_block(candidates: ArrayLike | None, start: int, n_rows: int) -> Mask:
    """Return the rows (n_rows,) from ``start`` on of a mask of the pool, which may be longer."""
    if candidates is None:
        return np.ones(n_rows, dtype=bool)
    candidates = np.asarray(candidates)
    if candidates.dtype != bool or candidates.ndim != 1 or len(candidates) < start + n_rows:
        check_candidates(candidates, start + n_rows)
    return candidates[start : start + n_rows]


def check_n_instances(n_instances: int, n_pool: float) -> int:
    """Return the number of instances to query, an int between 1 and the size of the pool."""
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
    """Return positions of instances in a pool, int64, at least one and none of them twice."""
    indices = check_distinct("indices", indices, "positions in X_pool")
    outside = indices[(indices < 0) | (indices >= n_pool)]
    if len(outside):
        raise ValueError(
            f"indices must be between 0 and {n_pool - 1}, positions in X_pool; got "
            f"{outside.tolist()}."
        )
    return indices


def check_distinct(name: str, values: Any, what: str) -> NDArray[np.int64]:
    """Return integers (n,), at least one and none twice; ``what`` they are is for the error.

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
