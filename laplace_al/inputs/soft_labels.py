"""Labels that are not certain: the probabilities of the classes for each instance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from laplace_al._common.devices import as_array
from laplace_al.inputs.blocks import check_unmasked
from laplace_al.inputs.classes import class_indices
from laplace_al.inputs.labels import as_labels


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Probabilities (n, n_columns) of classes, which a frame names by its columns."""

    probabilities: NDArray[np.float64]
    columns: NDArray[Any] | None = None

    def __len__(self) -> int:
        """Return the number of instances."""
        return len(self.probabilities)

    def __getitem__(self, rows: Any) -> "SoftLabels":
        """Return the labels of some instances."""
        return SoftLabels(self.probabilities[rows], self.columns)

    def among(self, classes: NDArray[Any], declared: Any = None, name: str = "y") -> NDArray[Any]:
        """Return the probabilities (n, n_classes) of sorted classes.

        Raises ValueError if the columns are others, or might be in the order in which the classes
        are ``declared``, which is another one.
        """
        n_columns, known = self.probabilities.shape[1], classes.tolist()
        if self.columns is not None:
            places = class_indices(self.columns, classes, f"The columns of {name}")
            whole = np.zeros((len(self), len(classes)))
            whole[:, places] = self.probabilities
            return whole
        if n_columns != len(classes):
            raise ValueError(
                f"{name} has {n_columns} columns of probabilities for the {len(classes)} classes "
                f"{known}. Pass a column for each of them, in their order."
            )
        order = known if declared is None else [*dict.fromkeys(as_labels(declared).tolist())]
        if order != known:
            raise ValueError(
                f"{name} has columns of probabilities that may be in the order of classes={order} "
                f"or in that of classes_, {known}. Pass a DataFrame with the classes as its "
                "columns, or sort classes."
            )
        return self.probabilities


def is_matrix(y: Any) -> bool:
    """Return whether labels come in several columns."""
    shape = getattr(y, "shape", None)
    if shape is None and isinstance(y, Sequence) and len(y) and not isinstance(y, str | bytes):
        is_row = isinstance(y[0], list | tuple) or getattr(y[0], "ndim", 0) == 1
        shape = (len(y), len(y[0])) if is_row else None
    return shape is not None and len(shape) == 2 and shape[1] > 1


def soft_labels(y: Any, name: str = "y") -> SoftLabels:
    """Return labels in several columns (n, n_columns), if they are probabilities.

    They are floats >= 0 whose rows sum to 1 within the square root of the rounding of their dtype.
    Integers are refused, for they are one-hot codes or tell which of several labels apply.

    Examples
    --------
    >>> soft_labels([[0.25, 0.75]]).probabilities
    array([[0.25, 0.75]])
    >>> soft_labels([[0, 1], [1, 0]])
    Traceback (most recent call last):
        ...
    ValueError: y should be a 1d array of labels, got an array of shape (2, 2) instead, of whole ...
    """
    check_unmasked(y, name)
    columns = None
    if hasattr(y, "columns"):
        columns = None if isinstance(y.columns, pd.RangeIndex) else as_labels(list(y.columns), name)
        y = y.to_numpy()
    values = np.asarray(as_array(y))
    if values.dtype.kind == "O":
        types = {type(value) for value in values.ravel()}
        is_number = all(issubclass(kind, int | float | np.number) for kind in types)
        is_whole = all(issubclass(kind, int | np.integer) for kind in types)
        values = values.astype(np.int64 if is_whole else np.float64) if is_number else values
    if values.dtype.kind != "f":
        what = "whole numbers" if values.dtype.kind in "biu" else f"dtype {values.dtype}"
        raise ValueError(
            f"{name} should be a 1d array of labels, got an array of shape {values.shape} instead, "
            f"of {what}. Of one-hot codes pass the labels, classes[{name}.argmax(axis=1)]; of "
            f"classes that are uncertain the probabilities, as floats. Several labels of one "
            "instance (multilabel) cannot be learnt: fit a classifier for each."
        )
    tolerance = float(np.spacing(values.dtype.type(1))) ** 0.5
    probabilities = values.astype(np.float64)
    sums = probabilities.sum(axis=1)
    is_wrong = ~((probabilities >= 0).all(axis=1) & (abs(sums - 1) <= tolerance))
    if is_wrong.any():
        row = int(is_wrong.argmax())
        raise ValueError(
            f"{name} must hold probabilities >= 0 that sum to 1 in each row, where it has several "
            f"columns; got {values[row].tolist()} in row {row}, with the sum {sums[row]:g}. Divide "
            f"each row by its sum, {name} / {name}.sum(axis=1, keepdims=True); leave out instances "
            "of which nothing is known."
        )
    return SoftLabels(probabilities / sums[:, None], columns)
