"""Checks that a pool can be learnt from, before anybody labels it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from sklearn.utils import check_array, get_tags
from sklearn.utils.validation import _num_samples
from torch.utils import data

from laplace_al._common.devices import as_array
from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.inputs.blocks import check_unmasked, has_targets, is_by_name, is_stream, rows_at
from laplace_al.model.fitted_model import largest_feature

# They leave missing values as they are, for what follows to refuse.
_SCALERS = (
    *(MaxAbsScaler, MinMaxScaler, PowerTransformer),
    *(QuantileTransformer, RobustScaler, StandardScaler),
)
_NUMBERS_AT_ONCE = 2**20
_N_NAMED = 10  # rows in a message


def check_container(X_pool: Any, name: str = "X_pool") -> None:
    """Refuse a pool that has no row at each position, or masked values."""
    kind = type(X_pool).__name__
    must = f"{name} must have an instance at each position; got a {kind}"
    if _is_lazy(X_pool):
        raise TypeError(f"{must} that is yet to be computed. Pass {name}.compute().")
    if hasattr(X_pool, "collect_schema") and not hasattr(X_pool, "__array__"):
        raise TypeError(f"{must} that is yet to be computed. Pass {name}.collect().")
    if is_by_name(X_pool):
        raise TypeError(
            f"{must}. Extract the features first: "
            f"{name}=TorchFeatures(module).fit_transform(X), for an estimator without "
            "feature_extractor."
        )
    if is_stream(X_pool) or isinstance(X_pool, data.IterableDataset):
        raise TypeError(
            f"{must}, which can only be iterated over. Pass a Dataset of inputs alone, or an array "
            "or list of them."
        )
    if sparse.issparse(X_pool) and X_pool.format in ("bsr", "coo", "dia"):
        raise TypeError(f"{must}, which has no rows to take. Pass {name}.tocsr().")
    if type(X_pool).__module__.startswith("pyarrow") and hasattr(X_pool, "schema"):
        raise TypeError(f"{must}, which holds columns. Pass {name}.to_pandas().")
    check_unmasked(X_pool, name)
    if has_targets(X_pool):
        raise TypeError(
            f"{name} must hold inputs alone; got a {kind} with a tuple of {len(X_pool[0])} at each "
            "position. Pass [item[0] for item in dataset], or a Dataset that returns inputs only."
        )


def _is_lazy(X: Any) -> bool:
    """Return whether it is a collection of Dask; an array of xarray need not be one."""
    return hasattr(X, "__dask_graph__") and X.__dask_graph__() is not None


def check_numbers(X_pool: Any, estimator: Any, name: str = "X_pool") -> None:
    """Refuse a pool (n_pool, ...) with numbers that no fit of an estimator would take.

    These are NaN, infinity and what is too large; and whatever is no number, for the features of a
    :class:`LaplaceUpdateClassifier`. What a ``feature_extractor`` makes of the pool is checked when
    that is done, and what comes before a classifier may accept anything: then nothing is checked
    here.
    """
    largest = _largest_accepted(estimator)
    if largest is None or isinstance(X_pool, data.Dataset):
        return
    try:
        rows, is_finite = _wrong_rows(
            X_pool, isinstance(estimator, LaplaceUpdateClassifier), largest, name
        )
    except (ValueError, TypeError):
        if isinstance(estimator, LaplaceUpdateClassifier):
            raise
        return  # no table of numbers: an affair of the estimator
    if not len(rows):
        return
    more = ", ..." if len(rows) > _N_NAMED else ""
    named = f"{', '.join(map(str, rows[:_N_NAMED]))}{more}"
    what, cure = (
        ("too large a number", "Scale the features, e.g. with StandardScaler.")
        if is_finite
        else (
            "NaN or infinity",
            "Mend these rows or leave them out of the pool, or put an imputer before the "
            "classifier, e.g. make_pipeline(SimpleImputer(), classifier).",
        )
    )
    raise ValueError(
        f"{name} has {what} in {len(rows)} of its {_num_samples(X_pool)} rows: [{named}], which "
        f"{type(estimator).__name__} cannot learn from. {cure}"
    )


def _largest_accepted(estimator: Any) -> float | None:
    """Return the largest number that an estimator takes, if it is known to take no NaN."""
    if isinstance(estimator, LaplaceUpdateClassifier):
        if estimator.feature_extractor is not None:
            return None
        return largest_feature(getattr(torch, estimator.dtype))
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if step not in (None, "passthrough")]
        first = next((step for step in steps if not isinstance(step, _SCALERS)), None)
        known = None if first is None else _largest_accepted(first)
        is_scaled = bool(steps) and first is not steps[0]
        return np.finfo(np.float64).max if is_scaled and known is not None else known
    if hasattr(estimator, "estimator"):  # which is searched, calibrated, repeated
        return _largest_accepted(estimator.estimator)
    if isinstance(estimator, ColumnTransformer | FeatureUnion):
        return None
    if not type(estimator).__module__.startswith("sklearn."):  # few others tell what they accept
        return None
    tags = get_tags(estimator)
    accepts = tags.input_tags.allow_nan or tags.input_tags.string or tags.no_validation
    return None if accepts else np.finfo(np.float64).max


def _wrong_rows(
    X: Any, is_table: bool, largest: float, name: str
) -> tuple[NDArray[np.int64], bool]:
    """Return rows of a pool with numbers out of bounds, and whether all numbers are finite."""
    wrong, is_finite = [np.empty(0, dtype=np.int64)], True
    for start, block in _numbers(X, is_table, name):
        if not _is_within(block, largest):
            wrong.append(start + _wrong_rows_of_block(block, largest))
            is_finite &= bool(np.isfinite(_values(block)).all())
    return np.concatenate(wrong), is_finite


def _numbers(X: Any, is_table: bool, name: str) -> Iterator[tuple[int, Any]]:
    """Yield blocks of a pool as arrays or sparse matrices of numbers, each with its start."""
    if sparse.issparse(X):
        X = X.tocsr()
    n = _num_samples(X)
    width = max(1, int(np.prod(np.shape(X)[1:]))) if hasattr(X, "shape") else 1
    step = max(1, _NUMBERS_AT_ONCE // width)
    for start in range(0, n, step):
        block = as_array(rows_at(X, slice(start, start + step)))
        yield (
            start,
            check_array(
                block,
                accept_sparse=not is_table,
                ensure_all_finite=False,
                allow_nd=not is_table,
                input_name=name,
            ),
        )


def _values(block: Any) -> NDArray[Any]:
    """Return the numbers of a block, of a sparse one those that are stored."""
    return block.data if sparse.issparse(block) else block


def _is_within(block: Any, largest: float) -> bool:
    """Return whether all numbers are within bounds, of which there are none for NaN."""
    values = _values(block)
    return not values.size or (float(values.max()) <= largest and float(values.min()) >= -largest)


def _wrong_rows_of_block(block: Any, largest: float) -> NDArray[np.int64]:
    """Return rows of a block with numbers out of bounds."""
    values = _values(block)
    bound = np.float64(largest)  # a number of Python would become one of a narrow dtype
    is_wrong = ~((values <= bound) & (values >= -bound))
    if sparse.issparse(block):
        return np.unique(block.tocoo().row[is_wrong])
    return np.flatnonzero(is_wrong.reshape(len(block), -1).any(axis=1))
