"""Labels with the weights of their instances and of their classes."""

import numbers
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from laplace_al._common.devices import as_array
from laplace_al.inputs.blocks import check_unmasked
from laplace_al.inputs.classes import class_indices
from laplace_al.inputs.labels import as_labels, kind_of
from laplace_al.inputs.soft_labels import SoftLabels, is_matrix, soft_labels

ClassWeight: TypeAlias = Mapping[Any, float] | Literal["balanced"] | None
_LARGEST_WEIGHT = 1e15


def check_labels(
    y: ArrayLike | SoftLabels | None, sample_weight: ArrayLike | None, n_samples: int
) -> tuple[NDArray[Any] | SoftLabels, NDArray[np.float64]]:
    """Return labels and the finite weights >= 0 of their instances, both of length n_samples.

    Labels in several columns are probabilities. One weight is for all; None is 1.
    """
    if y is None:
        raise ValueError(
            "The classifier requires y to be passed, but the target y is None. Pass the labels of "
            "X, shape (n_samples,)."
        )
    if is_matrix(y):
        y = soft_labels(y)
    elif not isinstance(y, SoftLabels):
        y = as_labels(y, if_missing="Leave out rows that have none.")
    if len(y) != n_samples:
        raise ValueError(f"y must have one label per row of X: {n_samples}; got {len(y)}.")
    return y, _check_weights(sample_weight, n_samples)


def _check_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
    """Return a weight for each instance, not zero for all."""
    if sample_weight is None:
        return np.ones(n_samples)
    if isinstance(sample_weight, numbers.Real):
        sample_weight = np.full(n_samples, sample_weight)
    check_unmasked(sample_weight, "sample_weight")
    try:
        weights = np.asarray(as_array(sample_weight))
        if weights.dtype.kind not in "biufO":
            raise TypeError(f"dtype {weights.dtype}")
        weights = check_array(weights.astype(np.float64), ensure_2d=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"sample_weight must hold finite numbers >= 0: {error}") from error
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


def places_of(
    y: NDArray[Any] | SoftLabels, classes: NDArray[Any], declared: Any = None
) -> NDArray[Any]:
    """Return the positions (n,) of labels among sorted classes, or their probabilities (n, K)."""
    return y.among(classes, declared) if isinstance(y, SoftLabels) else class_indices(y, classes)


def weighted(
    sample_weight: NDArray[np.float64],
    class_weight: ClassWeight,
    places: NDArray[Any],
    classes: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return labels and weights (n,), those of the classes included.

    The labels are positions (n,), which stay, or probabilities p (n, K), with the weights c of the
    classes: s p_k c_k is the weight of a copy labelled k, so that the weight is their sum and the
    probability the share of each in it.

    Examples
    --------
    >>> weighted(np.ones(1), {"a": 3.0}, np.array([[0.5, 0.5]]), np.array(["a", "b"]))
    (array([[0.75, 0.25]]), array([2.]))
    """
    weights = weighted_by_class(sample_weight, class_weight, places, classes)
    if class_weight is None or places.ndim == 1:
        return places, weights
    parts = places * _weights_of_classes(sample_weight, class_weight, places, classes)
    sums = parts.sum(axis=1, keepdims=True)
    return np.divide(parts, sums, out=places.copy(), where=sums > 0), weights


def weighted_by_class(
    sample_weight: NDArray[np.float64],
    class_weight: ClassWeight,
    places: NDArray[Any],
    classes: NDArray[Any],
) -> NDArray[np.float64]:
    """Return weights (n,) of instances times those of their classes.

    ``places`` are the positions of their classes (n,), or the probabilities of all (n, K). A class
    that a dict lacks has weight 1; a key may be a class that is yet to be opened.
    ``"balanced"`` gives each class the same total weight, and all together what they had: weight k
    counts as k instances, and a class without weight as none.

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
        of_classes = _weights_of_classes(sample_weight, class_weight, places, classes)
        each = of_classes[places] if places.ndim == 1 else places @ of_classes
        weights = sample_weight * each
    if not ((weights >= 0) & (weights <= _LARGEST_WEIGHT)).all() or not of_classes.any():
        raise ValueError(
            "class_weight must be >= 0 and not 0 for all, and its products with sample_weight at "
            f"most {_LARGEST_WEIGHT:g}; got {class_weight!r}, with products between "
            f"{weights.min():g} and {weights.max():g}. Give classes finite weights near 1."
        )
    return weights


def _weights_of_classes(
    sample_weight: NDArray[np.float64],
    class_weight: ClassWeight,
    places: NDArray[Any],
    classes: NDArray[Any],
) -> NDArray[np.float64]:
    """Return the weight of a label of each class, (K,)."""
    if isinstance(class_weight, Mapping):
        return _from_dict(class_weight, classes)
    if places.ndim == 1:
        totals = np.bincount(places, sample_weight, minlength=len(classes))
    else:
        totals = sample_weight @ places
    share = totals.sum() / np.count_nonzero(totals)
    return np.divide(share, totals, out=np.zeros_like(totals), where=totals > 0)


def class_weight_keys(class_weight: Mapping[Any, float]) -> NDArray[Any]:
    """Return the labels that have a weight."""
    return as_labels(np.fromiter(class_weight, dtype=object), "class_weight")


def check_declared(class_weight: ClassWeight, classes: NDArray[Any]) -> None:
    """Refuse keys that are no classes in place of some that are: a slip that costs a weight.

    All labels that may occur are declared as the classes.
    """
    if isinstance(class_weight, Mapping):
        known = set(classes.tolist())
        others = [key for key in class_weight_keys(class_weight).tolist() if key not in known]
        if others and len(class_weight) - len(others) < len(known):
            raise ValueError(
                f"class_weight must have classes as its keys; got {others[0]!r}, which is not "
                f"among the classes declared, {classes.tolist()}. Leave it out, or declare it."
            )


def _from_dict(class_weight: Mapping[Any, float], classes: NDArray[Any]) -> NDArray[np.float64]:
    """Return the weights of the classes, 1 for those that have none."""
    keys = class_weight_keys(class_weight)
    if len(keys) and (kind_of(keys) == "text") != (kind_of(classes) == "text"):
        raise ValueError(
            f"class_weight must have {kind_of(classes)} as its keys, as the classes "
            f"{classes.tolist()} are; got {keys.tolist()}. Give keys the type of the labels in y."
        )
    of_keys = dict(zip(keys.tolist(), class_weight.values(), strict=True))
    try:
        return np.array([of_keys.get(label, 1.0) for label in classes.tolist()], dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"class_weight must hold numbers >= 0; got {class_weight!r}: {error}."
        ) from error
