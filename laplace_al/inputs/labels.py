"""Labels, as a user gives them, to arrays."""

import enum
import numbers
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning

from laplace_al._common.devices import as_array
from laplace_al._common.warn import warn_user

# Kinds of labels that compare with each other; a boolean is a number, too, and so comes first.
_KINDS = {str: "text", bool: "booleans", int: "numbers", float: "numbers"}
_KINDS_OF_DTYPES = {"U": "text", "O": "text", "b": "booleans"}  # all others: numbers
_INTEGERS = range(-(2**63), 2**63)  # of int64
_EXACT = range(-(2**53), 2**53 + 1)  # those that float64 tells from each other


def as_labels(
    values: Any,
    name: str = "y",
    *,
    or_one: bool = False,
    if_missing: str = "Leave out what has none.",
) -> NDArray[Any]:
    """Return labels of one kind as an array, looked at before NumPy joins them.

    Every label of a user comes this way, wherever it enters: texts, booleans, integers or floats
    without fraction, and members of an Enum whose members are texts or integers. The array is of
    booleans, integers that int64 holds, floats of at most 64 bits, or text, of dtype object if the
    values had it. Errors name the argument and tell what to do about a missing label. A label
    alone (``or_one``) is taken for an array of one.

    Examples
    --------
    >>> as_labels(["b", "a"])
    array(['b', 'a'], dtype='<U1')
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
    """Return labels as they are: of dtype object unless they were joined before."""
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
        if name.startswith("y"):  # in scikit-learn's words
            warn_user(
                f"A column-vector {name} was passed when a 1d array was expected. Please change "
                f"the shape of {name} to (n_samples,), for example using ravel().",
                DataConversionWarning,
            )
        return labels.ravel()
    if labels.ndim != 1:
        raise ValueError(
            f"{name} should be a 1d array of labels, got an array of shape {labels.shape} instead."
        )
    return labels


def _joined(labels: list[Any], name: str, if_missing: str) -> NDArray[Any]:
    """Return objects as an array, if all are labels of one kind."""
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
    """Return a label as the plain value that it is."""
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
    """Return floats of at most 64 bits that stand for classes."""
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


def is_utf8(text: str) -> bool:
    """Return whether a text has no lone surrogates, which stand for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_utf8(name: str, texts: list[str]) -> None:
    """Refuse text that cannot be written to a file."""
    if not is_utf8("".join(texts)):
        found = next(text for text in texts if not is_utf8(text))
        raise ValueError(
            f"{name} must be text that UTF-8 has a form for; got {found!r}. Decode it with its own "
            "encoding."
        )


def _check_ends(name: str, texts: list[str]) -> None:
    """Refuse text whose end NumPy drops."""
    cut = [text for text in texts if text.endswith("\0")]
    if cut:
        raise ValueError(
            f"{name} must hold text that does not end with the character NUL, which NumPy drops; "
            f"got {cut[0]!r}. Pass it without, e.g. by rstrip('\\0')."
        )


def _missing(name: str, label: str, place: int, cure: str) -> ValueError:
    """Return the error that names a missing label."""
    told = f" Input {name} contains NaN." if label == "nan" else ""  # as scikit-learn tells it
    return ValueError(f"{name} must hold labels; got {label} at position {place}. {cure}{told}")


def like_known(labels: NDArray[Any], known: NDArray[Any], name: str = "y") -> NDArray[Any]:
    """Return labels in the type of known ones, which may be none, if that can hold them."""
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
    """Return what labels compare with: "text", "booleans" or "numbers"."""
    return _KINDS_OF_DTYPES.get(labels.dtype.kind, "numbers")
