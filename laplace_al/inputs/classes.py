"""Classes: distinct labels in their order, and the positions of others among them."""

import re
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplace_al.inputs.labels import as_labels, kind_of, like_known


def distinct_classes(classes: ArrayLike) -> NDArray[Any]:
    """Return the sorted distinct labels, at least two."""
    distinct = np.unique(as_labels(classes, "classes"))
    if len(distinct) < 2:
        raise ValueError(f"classes must hold at least 2 labels; got {distinct.tolist()}.")
    return distinct


def order_of_outputs(classes: ArrayLike, known: NDArray[Any]) -> NDArray[np.int64]:
    """Return positions among the known sorted classes of the classes in the order given.

    Repeated ones count where they first occur.
    """
    places = class_indices(as_labels(classes, "classes"), known)
    return np.array([*dict.fromkeys(places.tolist())], dtype=np.int64)


def is_in_natural_order(classes: NDArray[Any]) -> bool:
    """Return whether sorted classes are in the order a reader expects: not "10" before "2"."""
    if not all(isinstance(label, str) for label in classes):
        return True
    parts = [re.split(r"([0-9]+)", text) for text in classes]  # at odd places the numbers
    keys = [[(int(p), "") if i % 2 else (0, p) for i, p in enumerate(split)] for split in parts]
    return keys == sorted(keys)


def widened_classes(classes: NDArray[Any], labels: ArrayLike) -> NDArray[Any]:
    """Return sorted classes with new distinct labels, or one, among them.

    The dtype is object if that of the classes is, else one that holds both.
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
    """Return the position of each label among the sorted classes."""
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
