"""Reliability diagrams as a display of scikit-learn."""

import numbers
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length, check_scalar

from laplace_al._common.typing import Instances
from laplace_al.experiments.drawing import (
    COLOURS,
    LEGEND,
    import_pyplot,
    tidy_axes,
    without_aliases,
)
from laplace_al.inputs.labels import as_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

_RELIABILITY, _REFERENCE = "reliability", "perfectly calibrated"
_TALLEST_BAR = 0.2


class ReliabilityDisplay:
    """Reliability diagram, accuracy against confidence, for any number of classes.

    The confidence of a prediction is the largest of its class probabilities. Each bin of
    confidences compares their mean with the share of correct predictions. The expected calibration
    error is the mean distance of the two, ``sum_b n_b / n |accuracy_b - confidence_b|``. Create the
    display with :meth:`from_estimator` or :meth:`from_predictions`.

    Parameters
    ----------
    confidence, accuracy : ndarray of shape (n_bins,)
        Means over the predictions of each bin; NaN for empty bins.
    counts : ndarray of shape (n_bins,)
        Number of predictions in each bin.
    edges : ndarray of shape (n_bins + 1,)
        Edges of the bins; a confidence on an edge is in the bin below.
    ece : float
        Expected calibration error, in [0, 1].
    name : str, default=None
        Name of the classifier.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure
    line_ : Line2D

    See Also
    --------
    sklearn.calibration.CalibrationDisplay : For the positive one of two classes.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, *On calibration of modern neural networks*, ICML 2017.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import LaplaceUpdateClassifier, ReliabilityDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = LaplaceUpdateClassifier().fit(X[::2], y[::2])
    >>> display = ReliabilityDisplay.from_estimator(classifier, X[1::2], y[1::2])
    >>> 0 < display.ece < 0.1
    True
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        confidence: NDArray[np.float64],
        accuracy: NDArray[np.float64],
        counts: NDArray[np.int64],
        edges: NDArray[np.float64],
        ece: float,
        *,
        name: str | None = None,
    ) -> None:
        self.confidence = confidence
        self.accuracy = accuracy
        self.counts = counts
        self.edges = edges
        self.ece = ece
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: BaseEstimator,
        X: Instances,
        y: ArrayLike,
        *,
        n_bins: int = 10,
        strategy: Literal["uniform", "quantile"] = "uniform",
        name: str | None = None,
        ax: "Axes | None" = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw the reliability of a classifier.

        Parameters
        ----------
        estimator : classifier or ActiveLearner
            Fitted.
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)
            Labels; predictions for a label that the classifier does not know count as errors.
        n_bins, strategy
            See :meth:`from_predictions`.
        name : str, default=None
            Name of the classifier. None: the name of its class.
        ax, ref_line, **kwargs
            See :meth:`plot`.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        TypeError
            If the estimator predicts no probabilities.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from laplace_al import LaplaceUpdateClassifier, ReliabilityDisplay
        >>> classifier = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> display = ReliabilityDisplay.from_estimator(classifier, [[-2.0], [2.0]], [0, 1])
        >>> display.name
        'LaplaceUpdateClassifier'
        >>> plt.close(display.figure_)
        """
        import_pyplot(f"{cls.__name__}.from_estimator")
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                "ReliabilityDisplay needs an estimator with predict_proba; got "
                f"{type(estimator).__name__}. Wrap it in CalibratedClassifierCV."
            )
        classifier = getattr(estimator, "estimator_", estimator)  # of an ActiveLearner
        classes = getattr(estimator, "classes_", getattr(classifier, "classes_", None))
        return cls.from_predictions(
            y,
            estimator.predict_proba(X),
            labels=classes,
            n_bins=n_bins,
            strategy=strategy,
            name=type(classifier).__name__ if name is None else name,
            ax=ax,
            ref_line=ref_line,
            **kwargs,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: ArrayLike,
        y_proba: ArrayLike,
        *,
        labels: ArrayLike | None = None,
        n_bins: int = 10,
        strategy: Literal["uniform", "quantile"] = "uniform",
        name: str | None = None,
        ax: "Axes | None" = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw the reliability of predictions.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
        y_proba : array-like of shape (n_samples, n_classes)
            Probabilities of all classes.
        labels : array-like of shape (n_classes,), default=None
            Classes of the columns. None: the sorted labels in ``y_true``, one for each column.
        n_bins : int, default=10
        strategy : {"uniform", "quantile"}, default="uniform"
            Bins of equal width in [0, 1], or with equal numbers of predictions.
        name, ax, ref_line, **kwargs
            See :meth:`plot`.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ValueError
            If ``y_proba`` does not hold probabilities, or does not match the labels.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from laplace_al import ReliabilityDisplay
        >>> proba = [[0.75, 0.25], [0.75, 0.25], [0.0, 1.0]]
        >>> display = ReliabilityDisplay.from_predictions(["a", "b", "b"], proba)
        >>> display.counts.tolist(), round(display.ece, 3)
        ([0, 0, 0, 0, 0, 0, 0, 2, 0, 1], 0.167)
        >>> plt.close(display.figure_)
        """
        import_pyplot(f"{cls.__name__}.from_predictions")
        confidence, is_right = _top_label(y_true, y_proba, labels)
        edges = _bin_edges(confidence, n_bins, strategy)
        display = cls(*_reliability(confidence, is_right, edges), name=name)
        return display.plot(ax, ref_line=ref_line, **kwargs)

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        name: str | None = None,
        ref_line: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Draw accuracy against confidence, above the distribution of the confidences.

        The more predictions a bin has, the larger is its point.

        Parameters
        ----------
        ax : Axes, default=None
            None creates a figure. Several displays can share the same axes.
        name : str, default=None
            Name in the legend. None: the name of the display.
        ref_line : bool, default=True
            Whether to draw the line on which confidence and accuracy are equal.
        **kwargs : dict
            Keyword arguments of matplotlib's ``plot``.

        Returns
        -------
        ReliabilityDisplay
            This object.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from laplace_al import ReliabilityDisplay
        >>> one_bin = np.array([0.8]), np.array([0.7]), np.array([10]), np.array([0.0, 1.0])
        >>> display = ReliabilityDisplay(*one_bin, 0.1, name="mine").plot()
        >>> display.line_.get_label()
        'mine (ECE = 0.100)'
        >>> plt.close(display.figure_)
        """
        plt = import_pyplot(f"{type(self).__name__}.plot")
        if ax is None:
            _, ax = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
        drawn = [line for line in ax.get_lines() if line.get_gid() == _RELIABILITY]
        if ref_line and _REFERENCE not in [line.get_label() for line in ax.get_lines()]:
            ax.plot([0, 1], [0, 1], ":", color="0.4", linewidth=1, label=_REFERENCE)
        name = self.name if name is None else name
        ece = f"ECE = {self.ece:.3f}"
        style: dict[str, Any] = {"color": COLOURS[len(drawn) % len(COLOURS)], "linewidth": 1.2}
        style |= {"label": ece if name is None else f"{name} ({ece})", "gid": _RELIABILITY}
        some = self.counts > 0
        confidence, accuracy = self.confidence[some], self.accuracy[some]
        self.line_: Line2D
        (self.line_,) = ax.plot(confidence, accuracy, **(style | without_aliases(kwargs)))
        sizes = 4 + 40 * self.counts[some] / self.counts.max()  # points squared
        ax.scatter(confidence, accuracy, sizes, self.line_.get_color())
        density = self.counts / np.maximum(np.diff(self.edges), np.finfo(float).eps)
        heights = _TALLEST_BAR * density / density.max()
        bars: dict[str, Any] = {"color": self.line_.get_color(), "alpha": 0.2, "linewidth": 0}
        ax.stairs(heights, self.edges, fill=True, **bars)
        ax.set(
            xlim=(0, 1),
            ylim=(0, 1.02),
            xlabel="Confidence (probability of the predicted class)",
            ylabel="Accuracy (share of correct predictions)",
        )
        tidy_axes(ax)
        ax.legend(title="bars: density of confidences", **LEGEND)
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _top_label(
    y_true: ArrayLike, y_proba: ArrayLike, labels: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the confidence of each prediction, and whether it is right, both (n,)."""
    y_true = as_labels(y_true, "y_true", if_missing="Leave out rows that have none.")
    proba = check_array(y_proba, dtype=np.float64)
    check_consistent_length(y_true, proba)
    if proba.shape[1] < 2 or (proba < 0).any() or (abs(proba.sum(axis=1) - 1) > 1e-3).any():
        raise ValueError(
            "y_proba must have a column of probabilities for each class, rows adding up to 1; got "
            f"shape {proba.shape}, sums from {proba.sum(axis=1).min():.3g} to "
            f"{proba.sum(axis=1).max():.3g}. For a single column p, pass column_stack([1 - p, p])."
        )
    classes = np.unique(y_true) if labels is None else as_labels(labels, "labels")
    if len(classes) != proba.shape[1]:
        raise ValueError(
            f"y_proba has {proba.shape[1]} columns, but there are {len(classes)} classes. Pass "
            "labels=, the classes of the columns."
        )
    if not np.isin(y_true, classes).any():
        raise ValueError(
            f"y_true has none of the labels {list(classes)}; it has {list(np.unique(y_true)[:5])}."
        )
    return proba.max(axis=1), classes[proba.argmax(axis=1)] == y_true


def _bin_edges(confidence: NDArray[np.float64], n_bins: int, strategy: str) -> NDArray[np.float64]:
    """Return the distinct edges of ``n_bins`` bins of equal width, or with equal numbers."""
    check_scalar(n_bins, "n_bins", numbers.Integral, min_val=1)
    if strategy == "uniform":
        return np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        return np.unique(np.quantile(confidence, np.linspace(0, 1, n_bins + 1)))
    raise ValueError(f"strategy must be 'uniform' or 'quantile'; got {strategy!r}.")


def _reliability(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], float]:
    """Return mean confidence, accuracy, count and edges of the bins, and the ECE."""
    if len(edges) == 1:  # all confidences are the same
        edges = np.array([edges[0], edges[0]])
    n_bins = len(edges) - 1
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    safe = np.where(counts > 0, counts, np.nan)
    mean = np.bincount(bins, confidence, minlength=n_bins) / safe
    accuracy = np.bincount(bins, is_right, minlength=n_bins) / safe
    ece = np.nansum(counts * abs(accuracy - mean)) / counts.sum()
    return mean, accuracy, counts, edges, float(ece)
