"""Labels and their weights, as a user gives them, to arrays."""

import numbers
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

# Kinds of NumPy dtypes that hold nothing but labels: boolean, integer, text.
_DISCRETE = "biuUS"
# Kinds of labels that compare with each other; a boolean is a number, too, and so comes first.
_KINDS = (
    ("text", str),
    ("bytes", bytes),
    ("booleans", bool | np.bool_),
    ("numbers", numbers.Number),
)
_LARGEST_WEIGHT = 1e15


ClassWeight: TypeAlias = Mapping[Any, float] | Literal["balanced"] | None


def check_labels(
    y: ArrayLike | None, sample_weight: ArrayLike | None, n_samples: int
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Validate labels and the weights of their instances.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
    sample_weight : array-like of shape (n_samples,), float or None
        None is 1 for all.
    n_samples : int

    Returns
    -------
    y : ndarray of shape (n_samples,)
    sample_weight : ndarray of shape (n_samples,), float64

    Raises
    ------
    ValueError
        If a length differs, the labels are not discrete, or a weight is negative, NaN or
        infinite, or all are zero.

    Examples
    --------
    >>> check_labels(["a", "b"], None, 2)
    (array(['a', 'b'], dtype='<U1'), array([1., 1.]))
    """
    if y is None:
        raise ValueError(
            "The classifier requires y to be passed, but the target y is None. Pass the labels of "
            "X, shape (n_samples,)."
        )
    if not (type(y) is np.ndarray and y.ndim == 1 and y.dtype.kind in _DISCRETE):
        y = column_or_1d(y, warn=True)
        missing = y[pd.isna(y)]
        if len(missing):
            raise ValueError(
                f"y must hold a label for each row of X; got {missing[0]}. Leave out rows that "
                "have none: Input y contains NaN."
            )
        check_classification_targets(y)
    if len(y) != n_samples:
        raise ValueError(f"y must have one label per row of X: {n_samples}; got {len(y)}.")
    return y, _check_weights(sample_weight, n_samples)


def _check_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    if sample_weight is None:
        return np.ones(n_samples)
    if isinstance(sample_weight, numbers.Real):
        sample_weight = np.full(n_samples, sample_weight)
    weights = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
    )
    if weights.shape != (n_samples,):
        raise ValueError(
            f"sample_weight must have shape ({n_samples},), one weight per row of X; got "
            f"{weights.shape}."
        )
    if weights.min() < 0:
        raise ValueError(
            f"sample_weight must be >= 0; got {weights.min():g}. Drop instances or give them "
            "weight 0."
        )
    if weights.max() > _LARGEST_WEIGHT:
        raise ValueError(
            f"sample_weight must be at most {_LARGEST_WEIGHT:g}, since float64 loses all else "
            f"beside larger weights; got {weights.max():g}. Divide all weights by a constant."
        )
    if not weights.any():
        raise ValueError(
            "sample_weight is zero for every instance, which leaves nothing to learn; at least "
            "one must be positive."
        )
    return weights


def distinct_classes(classes: ArrayLike) -> NDArray[Any]:
    """Sorted distinct labels, at least two.

    Parameters
    ----------
    classes : array-like of shape (n,)

    Returns
    -------
    ndarray of shape (n_classes,)

    Raises
    ------
    ValueError
        If there are fewer than two, or one is missing (NaN, None).

    Examples
    --------
    >>> distinct_classes([2, 1, 2])
    array([1, 2])
    """
    classes = column_or_1d(np.asarray(classes))
    _check_none_is_missing("classes", classes)
    distinct = np.unique(classes)
    if len(distinct) < 2:
        raise ValueError(f"classes must hold at least 2 labels; got {distinct.tolist()}.")
    return distinct


def _check_none_is_missing(name: str, labels: NDArray[Any]) -> None:
    missing = labels[pd.isna(labels)]
    if len(missing):
        raise ValueError(
            f"{name} must hold labels; got {missing[0]}, which no instance can have. Leave it out."
        )


def order_of_outputs(classes: ArrayLike, known: NDArray[Any]) -> NDArray[np.int64]:
    """Positions among the sorted classes of the classes in the order in which they were given.

    Parameters
    ----------
    classes : array-like of shape (n,)
        Repeated ones count where they first occur.
    known : ndarray of shape (n_classes,)
        The sorted distinct ones of these.

    Returns
    -------
    ndarray of shape (n_classes,)

    Examples
    --------
    >>> order_of_outputs(["cow", "ant", "cow"], np.array(["ant", "cow"]))
    array([1, 0])
    """
    places = class_indices(column_or_1d(np.asarray(classes)), known)
    return np.array([*dict.fromkeys(places.tolist())], dtype=np.int64)


def is_in_natural_order(classes: NDArray[Any]) -> bool:
    """Whether sorted classes are where a reader looks for them: texts sort "10" before "2".

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    bool

    Examples
    --------
    >>> is_in_natural_order(np.array(["a10", "a2"])), is_in_natural_order(np.array([2, 10]))
    (False, True)
    """
    texts = [label.decode("latin-1") if isinstance(label, bytes) else label for label in classes]
    if not all(isinstance(text, str) for text in texts):
        return True
    parts = [re.split(r"([0-9]+)", text) for text in texts]  # at odd places the numbers
    keys = [[(int(p), "") if i % 2 else (0, p) for i, p in enumerate(split)] for split in parts]
    return keys == sorted(keys)


def widened_classes(classes: NDArray[Any], labels: ArrayLike) -> NDArray[Any]:
    """Sorted classes with new ones among them.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    labels : label or array-like of shape (n_labels,)
        New ones, distinct.

    Returns
    -------
    ndarray of shape (n_classes + n_labels,)
        Of dtype object if the classes are, else of one that holds both.

    Raises
    ------
    ValueError
        If a label is known, given twice, missing, or of another kind than the classes.

    Examples
    --------
    >>> widened_classes(np.array([1, 3]), 2)
    array([1, 2, 3])
    >>> widened_classes(np.array(["ant", "cat"], dtype=object), "bee")  # as pandas gives them
    array(['ant', 'bee', 'cat'], dtype=object)
    """
    labels = column_or_1d(np.atleast_1d(labels))
    _check_none_is_missing("labels", labels)
    kinds, known_kinds = _kinds(labels), _kinds(classes)
    if len(kinds | known_kinds) > 1:
        raise ValueError(
            "labels must be of the kind of the classes so far, "
            f"{' and '.join(sorted(known_kinds))}; got {' and '.join(sorted(kinds))}: "
            f"{labels.tolist()}."
        )
    if labels.dtype.kind == "O" != classes.dtype.kind:
        labels = np.array(labels.tolist())  # else the classes would become objects
    widened = np.unique(np.concatenate([classes, labels]))
    if len(widened) < len(classes) + len(labels) or not len(labels):
        raise ValueError(
            f"labels must be new and distinct; got {labels.tolist()}, known are {classes.tolist()}."
        )
    return widened


def _kinds(labels: NDArray[Any]) -> set[str]:
    """Kinds of labels by their values: the dtype object says nothing of them."""
    values = labels if labels.dtype.kind == "O" else labels[:1]
    return {
        next((name for name, kind in _KINDS if isinstance(value, kind)), type(value).__name__)
        for value in values
    }


def class_indices(y: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    """Position of each label among the sorted classes.

    Parameters
    ----------
    y : ndarray of shape (n,)
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If a label is not among them.

    Examples
    --------
    >>> class_indices(np.array(["b", "a"]), np.array(["a", "b", "c"]))
    array([1, 0])
    """
    same_kind = classes.dtype.kind == y.dtype.kind != "O"
    if same_kind:
        indices = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        unknown = classes[indices] != y
    else:
        unknown = ~np.isin(y, classes)
    if unknown.any():
        raise ValueError(
            f"y has labels that are not among the classes: {np.unique(y[unknown]).tolist()}; "
            f"known are {classes.tolist()}. Declare every label that may occur with classes=, open "
            "new ones with add_classes, or fit again."
        )
    return indices if same_kind else np.searchsorted(classes, y)


def weighted_by_class(
    sample_weight: NDArray[np.float64],
    class_weight: ClassWeight,
    indices: NDArray[np.int64],
    classes: NDArray[Any],
) -> NDArray[np.float64]:
    """Weights of instances times those of their classes.

    ``"balanced"`` gives each class the same total weight, and all together what they had: weight k
    counts as k instances, and a class without weight as none.

    Parameters
    ----------
    sample_weight : ndarray of shape (n,)
        Valid ones, see :func:`check_labels`.
    class_weight : dict, "balanced" or None
        A class that a dict lacks has weight 1.
    indices : ndarray of shape (n,)
        Positions of the labels among the classes.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If a product is not what a weight may be, the weights of all classes are 0, or a dict has
        keys that are no classes in place of some that are.

    Examples
    --------
    >>> indices, classes = np.array([0, 1, 1]), np.array(["a", "b"])
    >>> weighted_by_class(np.ones(3), {"a": 2.0}, indices, classes)
    array([2., 1., 1.])
    >>> weighted_by_class(np.array([1.0, 1.0, 2.0]), "balanced", indices, classes)
    array([2.        , 0.66666667, 1.33333333])
    """
    if class_weight is None:
        return sample_weight
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
        if class_weight == "balanced":
            totals = np.bincount(indices, sample_weight, minlength=len(classes))
            share = totals.sum() / np.count_nonzero(totals)
            of_classes = np.divide(share, totals, out=np.zeros_like(totals), where=totals > 0)
        else:
            of_classes = _from_dict(class_weight, classes.tolist())
        weights = sample_weight * of_classes[indices]
    if not ((weights >= 0) & (weights <= _LARGEST_WEIGHT)).all() or not of_classes.any():
        raise ValueError(
            "class_weight must be >= 0 and not 0 for all, and its products with sample_weight at "
            f"most {_LARGEST_WEIGHT:g}; got {class_weight!r}, with products between "
            f"{weights.min():g} and {weights.max():g}. Give classes finite weights near 1."
        )
    return weights


def _from_dict(class_weight: Mapping[Any, float], classes: list[Any]) -> NDArray[np.float64]:
    lacking = [label for label in classes if label not in class_weight]
    if lacking and len(class_weight) > len(classes) - len(lacking):
        raise ValueError(
            f"class_weight must have classes as its keys; got {class_weight!r}, without "
            f"{lacking} of the classes {classes}. Give keys the type of the labels in y."
        )
    try:
        return np.array([class_weight.get(label, 1.0) for label in classes], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"class_weight must hold numbers >= 0; got {class_weight!r}: {error}."
        ) from error
