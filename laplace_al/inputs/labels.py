"""Labels and their weights, as a user gives them, to arrays."""

import enum
import numbers
import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, column_or_1d

from laplace_al._common.devices import as_array
from laplace_al.inputs.blocks import check_unmasked

# Kinds of labels that compare with each other; a boolean is a number, too, and so comes first.
_KINDS = {str: "text", bool: "booleans", int: "numbers", float: "numbers"}
_KINDS_OF_DTYPES = {"U": "text", "O": "text", "b": "booleans"}  # all others: numbers
_INTEGERS = range(-(2**63), 2**63)  # of int64
_EXACT = range(-(2**53), 2**53 + 1)  # those that float64 tells from each other
_LARGEST_WEIGHT = 1e15


ClassWeight: TypeAlias = Mapping[Any, float] | Literal["balanced"] | None


def as_labels(
    values: Any,
    name: str = "y",
    *,
    or_one: bool = False,
    if_missing: str = "Leave out what has none.",
) -> NDArray[Any]:
    """Labels of one kind as an array, looked at before NumPy joins them.

    Every label of a user comes this way, wherever it enters.

    Parameters
    ----------
    values : array-like of shape (n_labels,)
        Texts, booleans, integers or floats without fraction. A member of an Enum whose members are
        texts or integers counts as that text or integer.
    name : str, default="y"
        Of the argument, for errors.
    or_one : bool, default=False
        Whether a label alone is taken for an array of one.
    if_missing : str
        What to do about a missing label, for errors.

    Returns
    -------
    ndarray of shape (n_labels,)
        Booleans, integers that int64 holds, floats of at most 64 bits, or text, whose dtype is
        object if the values had it.

    Raises
    ------
    ValueError
        If a label is missing (None, NaN, NA, NaT or masked), or is of another kind than these or
        than another one, or ``values`` have no order.

    Examples
    --------
    >>> as_labels(["b", "a"])
    array(['b', 'a'], dtype='<U1')
    >>> as_labels(pd.Series([True, None], dtype="boolean"))
    Traceback (most recent call last):
        ...
    ValueError: y must hold labels; got <NA> at position 1. Leave out what has none.
    >>> as_labels([0, "a"])
    Traceback (most recent call last):
        ...
    ValueError: y must hold labels of one kind; got numbers and text, such as 0 and 'a'. Give...
    """
    if type(values) is np.ndarray and values.ndim == 1 and values.dtype.kind in "biU":
        if values.dtype.kind == "U":
            check_utf8(name, values.tolist())
        return values
    if isinstance(values, np.ma.MaskedArray) and values.mask.any():
        raise _missing(name, "a masked label", int(np.flatnonzero(values.mask)[0]), if_missing)
    labels = _column(values, name, or_one)
    kind = labels.dtype.kind
    if kind == "f":
        return _without_fraction(labels, name, if_missing)
    if kind == "u":
        _check_integers(name, [int(labels.max(initial=0))], _INTEGERS)
        return labels.astype(np.int64) if labels.dtype.itemsize == 8 else labels
    if kind == "U":
        check_utf8(name, labels.tolist())
    if kind in "biU":
        return labels
    joined = _joined(list(labels), name, if_missing)
    is_text_as_objects = joined.dtype.kind == "U" and hasattr(values, "__array__")
    return joined.astype(object) if is_text_as_objects else joined


def _column(values: Any, name: str, or_one: bool) -> NDArray[Any]:
    """Labels as they are: of dtype object unless they were joined before."""
    if isinstance(values, Sequence) and not isinstance(values, str | bytes):
        labels = np.fromiter(values, dtype=object, count=len(values))
        kinds = set(map(type, values))
        if any(issubclass(kind, list | tuple | np.ndarray) for kind in kinds):
            labels = np.array(list(values), dtype=object)
    elif hasattr(values, "__array__"):
        labels = np.asarray(as_array(values))
    elif or_one and (isinstance(values, str | bytes) or not isinstance(values, Iterable)):
        labels = np.fromiter([values], dtype=object)
    else:
        raise ValueError(
            f"{name} must be an array-like of labels in their order; got {values!r} of type "
            f"{type(values).__name__}. Pass a list or an array."
        )
    if or_one and labels.ndim == 0:
        labels = labels.reshape(1)
    if labels.ndim == 2 and labels.shape[1] == 1:
        return column_or_1d(labels, warn=name.startswith("y"))  # as scikit-learn warns of y
    if labels.ndim != 1:
        raise ValueError(
            f"{name} should be a 1d array of labels, got an array of shape {labels.shape} instead."
        )
    return labels


def _joined(labels: list[Any], name: str, if_missing: str) -> NDArray[Any]:
    """Objects as an array, if all are labels of one kind."""
    plain: list[Any] = labels
    if not set(map(type, labels)) <= {str, bool, int}:
        for i, label in enumerate(labels):
            if label is np.ma.masked or pd.isna(label) is True:
                raise _missing(name, str(label), i, if_missing)
        plain = [_plain(label, name) for label in labels]
    first = {_KINDS[type(label)]: label for label in reversed(plain)}  # of each kind
    if len(first) > 1:
        kinds = sorted(first)
        raise ValueError(
            f"{name} must hold labels of one kind; got {' and '.join(kinds)}, such as "
            f"{' and '.join(repr(first[kind]) for kind in kinds)}. Give all of them the same type, "
            f"e.g. [str(label) for label in {name}]."
        )
    if "text" in first:
        check_utf8(name, plain)
        _check_ends(name, plain)
        return np.array(plain)
    if "booleans" in first:
        return np.array(plain)
    integers = [label for label in plain if type(label) is int]
    if integers and len(integers) == len(plain):
        _check_integers(name, integers, _INTEGERS)
        return np.array(plain, dtype=np.int64)
    _check_integers(name, integers, _EXACT, " beside floats")
    return _without_fraction(np.array(plain, dtype=np.float64), name, if_missing)


def _plain(label: Any, name: str) -> str | bool | int | float:
    """A label as the plain value that it is."""
    if isinstance(label, str):
        return str.__str__(label)  # of a member of an Enum, str() may give its name
    if isinstance(label, bool | np.bool_):
        return bool(label)
    if isinstance(label, numbers.Integral) and not isinstance(label, np.timedelta64):
        return operator.index(label)
    if isinstance(label, float | np.floating) and float(label) == label:
        return float(label)
    is_of_none = getattr(label, "ndim", None) == 0 and hasattr(label, "__array__")
    if is_of_none and not isinstance(label, np.generic):  # an array or tensor
        return _plain(np.asarray(as_array(label))[()], name)
    cure = f"[str(label) for label in {name}]"
    if isinstance(label, bytes):
        cure = f"[label.decode() for label in {name}]"
    elif isinstance(label, enum.Enum):
        cure = f"[label.name for label in {name}]"
    raise ValueError(
        f"{name} must hold labels that are text, integers or booleans; got {label!r} of type "
        f"{type(label).__name__}. Pass what tells them apart, e.g. {cure}."
    )


def _without_fraction(
    labels: NDArray[np.floating], name: str, if_missing: str
) -> NDArray[np.floating]:
    """Floats of at most 64 bits that stand for classes."""
    if np.isnan(labels).any():
        place = int(np.flatnonzero(np.isnan(labels))[0])
        raise _missing(name, "nan", place, if_missing)
    if np.isinf(labels).any():
        raise ValueError(
            f"{name} must hold labels: Input {name} contains infinity or a value too large for "
            f"{labels.dtype}. Leave it out."
        )
    fractions = labels[labels != np.trunc(labels)]
    if len(fractions):
        raise ValueError(
            f"{name} must hold labels of classes; got {fractions[0]}. Unknown label type: "
            "continuous. Use a regressor, or make classes of the numbers, e.g. with numpy.digitize."
        )
    if labels.dtype.itemsize <= 8:
        return labels
    with np.errstate(over="ignore"):  # what comes of it is refused
        narrowed = labels.astype(np.float64)
    if (narrowed != labels).any():
        raise ValueError(
            f"{name} must hold labels that float64 holds; got {labels[narrowed != labels][0]} of "
            f"{labels.dtype}. Pass them as text, {name}.astype(str)."
        )
    return narrowed


def _check_integers(name: str, labels: list[int], held: range, beside: str = "") -> None:
    """Refuse integers that an array holds only as floats, where some become equal."""
    too_large = [label for label in labels if label not in held]
    if too_large:
        raise ValueError(
            f"{name} must hold integers from {held.start} to {held.stop - 1}{beside}; got "
            f"{too_large[0]}. Pass them as text, e.g. [str(label) for label in {name}]."
        )


def check_utf8(name: str, texts: list[str]) -> None:
    r"""Refuse text that cannot be written to a file.

    Parameters
    ----------
    name : str
        Of the argument, for the error.
    texts : list of str

    Raises
    ------
    ValueError
        If one has lone surrogates, which stand for bytes that are not UTF-8.

    Examples
    --------
    >>> check_utf8("y", ["Zoë"])
    >>> check_utf8("y", ["Zo\udceb"])
    Traceback (most recent call last):
        ...
    ValueError: y must be text that UTF-8 has a form for; got 'Zo\udceb'. Decode it with its own...
    """
    try:
        "".join(texts).encode()
    except UnicodeEncodeError as error:
        found = next(text for text in texts if any("\ud800" <= c <= "\udfff" for c in text))
        raise ValueError(
            f"{name} must be text that UTF-8 has a form for; got {found!r}. Decode it with its own "
            "encoding."
        ) from error


def _check_ends(name: str, texts: list[str]) -> None:
    """Refuse text whose end NumPy drops."""
    cut = [text for text in texts if text.endswith("\0")]
    if cut:
        raise ValueError(
            f"{name} must hold text that does not end with the character NUL, which NumPy drops; "
            f"got {cut[0]!r}. Pass it without, e.g. by rstrip('\\0')."
        )


def _missing(name: str, label: str, place: int, cure: str) -> ValueError:
    told = f" Input {name} contains NaN." if label == "nan" else ""  # as scikit-learn tells it
    return ValueError(f"{name} must hold labels; got {label} at position {place}. {cure}{told}")


def like_known(labels: NDArray[Any], known: NDArray[Any], name: str = "y") -> NDArray[Any]:
    """Labels in the type of known ones.

    Parameters
    ----------
    labels : ndarray of shape (n_labels,)
        As of :func:`as_labels`.
    known : ndarray of shape (n_known,)
        Likewise; none of them is no condition.
    name : str, default="y"
        Of the labels, for errors.

    Returns
    -------
    ndarray of shape (n_labels,)

    Raises
    ------
    ValueError
        If they are of another kind, or their type cannot hold them.

    Examples
    --------
    >>> like_known(np.array([1.0, 2.0]), np.array([7]))
    array([1, 2])
    """
    if not len(known) or not len(labels):
        return labels
    like = labels
    if (
        kind_of(labels) == kind_of(known) == "numbers"
        and "f" in labels.dtype.kind + known.dtype.kind
    ):
        with np.errstate(invalid="ignore"):  # what comes of it is refused
            like = labels.astype(np.float64 if known.dtype.kind == "f" else np.int64)
    # as Python's numbers, which compare without rounding
    if kind_of(labels) != kind_of(known) or like.tolist() != labels.tolist():
        raise ValueError(
            f"{name} must hold labels of the same kind as those so far, such as "
            f"{known.tolist()[0]!r}; got {labels.tolist()[0]!r}."
        )
    return like


def kind_of(labels: NDArray[Any]) -> str:
    """What labels are and what they compare with: "text", "booleans" or "numbers".

    Parameters
    ----------
    labels : ndarray of shape (n_labels,)
        As of :func:`as_labels`.

    Returns
    -------
    str

    Examples
    --------
    >>> kind_of(np.array([1.0]))
    'numbers'
    """
    return _KINDS_OF_DTYPES.get(labels.dtype.kind, "numbers")


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
        If a length differs, :func:`as_labels` refuses the labels, or a weight is masked, negative,
        NaN or infinite, or all are zero.

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
    y = as_labels(y, if_missing="Leave out rows that have none.")
    if len(y) != n_samples:
        raise ValueError(f"y must have one label per row of X: {n_samples}; got {len(y)}.")
    return y, _check_weights(sample_weight, n_samples)


def _check_weights(sample_weight: ArrayLike | None, n_samples: int) -> NDArray[np.float64]:
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
        If there are fewer than two, or :func:`as_labels` refuses them.

    Examples
    --------
    >>> distinct_classes([2, 1, 2])
    array([1, 2])
    """
    distinct = np.unique(as_labels(classes, "classes"))
    if len(distinct) < 2:
        raise ValueError(f"classes must hold at least 2 labels; got {distinct.tolist()}.")
    return distinct


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
    places = class_indices(as_labels(classes, "classes"), known)
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
    if not all(isinstance(label, str) for label in classes):
        return True
    parts = [re.split(r"([0-9]+)", text) for text in classes]  # at odd places the numbers
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
    labels = as_labels(labels, "labels", or_one=True)
    if len(labels) and kind_of(labels) != kind_of(classes):
        raise ValueError(
            f"labels must be of the kind of the classes so far, {kind_of(classes)}; got "
            f"{kind_of(labels)}: {labels.tolist()}."
        )
    labels = like_known(labels, classes, "labels")
    if labels.dtype.kind == "O" != classes.dtype.kind:
        labels = labels.astype(str)  # else the classes would become objects
    widened = np.unique(np.concatenate([classes, labels]))
    if len(widened) < len(classes) + len(labels) or not len(labels):
        raise ValueError(
            f"labels must be new and distinct; got {labels.tolist()}, known are {classes.tolist()}."
        )
    return widened


def class_indices(y: NDArray[Any], classes: NDArray[Any], name: str = "y") -> NDArray[np.int64]:
    """Position of each label among the sorted classes.

    Parameters
    ----------
    y : ndarray of shape (n,)
        As of :func:`as_labels`, and so are the classes.
    classes : ndarray of shape (n_classes,)
    name : str, default="y"
        Of the labels, for errors.

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
    if classes.dtype.kind == y.dtype.kind != "O":
        indices = np.minimum(np.searchsorted(classes, y), len(classes) - 1)
        unknown = classes[indices] != y
    else:  # Python compares text of both dtypes, and numbers without rounding
        places = {label: place for place, label in enumerate(classes.tolist())}
        indices = np.array([places.get(label, -1) for label in y.tolist()], dtype=np.int64)
        unknown = indices < 0
    if unknown.any():
        cure = (
            "Declare every label that may occur with classes=, open new ones with add_classes, or "
            "fit again."
        )
        if (kind_of(y) == "text") != (kind_of(classes) == "text"):
            cure = f"Pass {kind_of(classes)}, as the classes are."
        raise ValueError(
            f"{name} has labels that are not among the classes: {np.unique(y[unknown]).tolist()}; "
            f"known are {classes.tolist()}. {cure}"
        )
    return indices


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
        A class that a dict lacks has weight 1. A key may be a class that is yet to be opened.
    indices : ndarray of shape (n,)
        Positions of the labels among the classes.
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    ndarray of shape (n,)

    Raises
    ------
    ValueError
        If a product is not what a weight may be, the weights of all classes are 0, or the keys of
        a dict are no labels of the kind of the classes.

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
            of_classes = _from_dict(class_weight, classes)
        weights = sample_weight * of_classes[indices]
    if not ((weights >= 0) & (weights <= _LARGEST_WEIGHT)).all() or not of_classes.any():
        raise ValueError(
            "class_weight must be >= 0 and not 0 for all, and its products with sample_weight at "
            f"most {_LARGEST_WEIGHT:g}; got {class_weight!r}, with products between "
            f"{weights.min():g} and {weights.max():g}. Give classes finite weights near 1."
        )
    return weights


def class_weight_keys(class_weight: Mapping[Any, float]) -> NDArray[Any]:
    """Labels that have a weight.

    Parameters
    ----------
    class_weight : dict

    Returns
    -------
    ndarray of shape (n_keys,)

    Raises
    ------
    ValueError
        If a key is no label, see :func:`as_labels`.

    Examples
    --------
    >>> class_weight_keys({1: 0.5, 2: 2.0})
    array([1, 2])
    """
    return as_labels(np.fromiter(class_weight, dtype=object), "class_weight")


def check_declared(class_weight: ClassWeight, classes: NDArray[Any]) -> None:
    """Refuse keys that are no classes in place of some that are, where all classes are declared.

    Parameters
    ----------
    class_weight : dict, "balanced" or None
    classes : ndarray of shape (n_classes,)
        All labels that may occur.

    Raises
    ------
    ValueError
        If there is such a key: a slip, which would leave a class without its weight.

    Examples
    --------
    >>> check_declared({"fruad": 10.0}, np.array(["fine", "fraud"]))
    Traceback (most recent call last):
        ...
    ValueError: class_weight must have classes as its keys; got 'fruad', which is not among the...
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
