"""Pictures of experiments and of calibration, as displays of scikit-learn. Needs matplotlib."""

import itertools
import numbers
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, check_consistent_length, check_scalar

from laplace_al._common.typing import Instances
from laplace_al.inputs.labels import as_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D

_Arm: TypeAlias = tuple[str, str]  # estimator, strategy
_RunsOfArms: TypeAlias = dict[_Arm, dict[Any, pd.Series]]

# Okabe and Ito's colours, which people of any colour vision tell apart, without the faint yellow.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_BASELINE_COLOUR = "0.55"
_MARKERS = "osD^vPX"
_LINE_STYLES = ("-", "--", ":")
_MAX_MARKED = 20  # points of a curve that are worth markers
_MAX_INSIDE = 6  # arms whose legend finds room between the curves
_LEGEND: dict[str, Any] = {
    "fontsize": "small",
    "title_fontsize": "small",
    "framealpha": 0.8,
    "edgecolor": "none",
}


class LearningCurveDisplay:
    """Learning curves of experiments: mean over the seeds, with a confidence band.

    Create it with :meth:`from_simulation`. An arm is a pair of estimator and strategy. Its curve is
    drawn where all of its runs have a score, so that every point is a mean over the same runs: if
    some runs stop early, the curve ends there.

    Parameters
    ----------
    curves : DataFrame
        Result of :func:`~laplace_al.simulate` or :func:`~laplace_al.compare`.
    baseline : str, default=None
        See :meth:`from_simulation`.
    score : str, default="score"
        Column to draw.
    level : float, default=0.95
        Confidence level of the bands, in (0, 1).

    Attributes
    ----------
    ax_ : Axes, or ndarray of Axes
        One for each data set.
    figure_ : Figure
    lines_ : list of Line2D
        One for each arm and data set.
    fill_between_ : list of PolyCollection
        The confidence bands, for arms with at least two seeds.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import LaplaceUpdateClassifier, LearningCurveDisplay, compare
    >>> from laplace_al.strategies import MarginSampling, RandomSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> curves = compare(LaplaceUpdateClassifier(), [RandomSampling(), MarginSampling()], X, y,
    ...                  budget=10, n_initial=5, n_repeats=3, random_state=0)
    >>> display = LearningCurveDisplay.from_simulation(curves, baseline="RandomSampling")
    >>> display.summary().strategy.tolist()
    ['RandomSampling', 'MarginSampling']
    >>> plt.close(display.figure_)
    """

    def __init__(
        self,
        curves: pd.DataFrame,
        *,
        baseline: str | None = None,
        score: str = "score",
        level: float = 0.95,
    ) -> None:
        self.curves = curves
        self.baseline = baseline
        self.score = score
        self.level = level
        self._runs = _runs(curves, score)
        self._labels = _labels(list(dict.fromkeys(itertools.chain(*self._runs.values()))))
        names = sorted(set(itertools.chain(*self._labels)))
        if baseline is not None and baseline not in names:
            raise ValueError(
                f"baseline must be a strategy or estimator of the curves, one of {names}; got "
                f"{baseline!r}."
            )
        check_scalar(
            level, "level", numbers.Real, min_val=0, max_val=1, include_boundaries="neither"
        )

    @classmethod
    def from_simulation(
        cls,
        curves: pd.DataFrame,
        *,
        baseline: str | None = None,
        score: str = "score",
        level: float = 0.95,
        ax: "Axes | ArrayLike | None" = None,
        score_name: str | None = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curves of experiments.

        Parameters
        ----------
        curves : DataFrame
            Result of :func:`~laplace_al.simulate` (a single curve) or :func:`~laplace_al.compare`.
        baseline : str, default=None
            Name of the strategy, or else of the estimator, with which the others are compared
            within the same data set, all else equal. It is drawn in grey.
        score : str, default="score"
            Column to draw; with several scorers, ``"score_NAME"``.
        level : float, default=0.95
            Confidence level of the bands: t intervals of the mean over the seeds.
        ax, score_name, line_kw, fill_between_kw
            See :meth:`plot`.

        Returns
        -------
        LearningCurveDisplay

        Raises
        ------
        ValueError
            If a column is missing or the baseline is not in the frame.
        ImportError
            If matplotlib is not installed.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> from laplace_al import LearningCurveDisplay
        >>> curve = pd.DataFrame({"n_labels": [5, 15], "score": [0.5, 0.75]})
        >>> display = LearningCurveDisplay.from_simulation(curve)
        >>> display.lines_[0].get_ydata()
        array([0.5 , 0.75])
        >>> plt.close(display.figure_)
        """
        _pyplot(f"{cls.__name__}.from_simulation")
        display = cls(curves, baseline=baseline, score=score, level=level)
        return display.plot(
            ax, score_name=score_name, line_kw=line_kw, fill_between_kw=fill_between_kw
        )

    def plot(
        self,
        ax: "Axes | ArrayLike | None" = None,
        *,
        score_name: str | None = None,
        line_kw: dict[str, Any] | None = None,
        fill_between_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the curves.

        Parameters
        ----------
        ax : Axes or array-like of Axes, default=None
            One for each data set. None creates a figure.
        score_name : str, default=None
            Label of the vertical axis. None: derived from the name of the column.
        line_kw, fill_between_kw : dict, default=None
            Keyword arguments of matplotlib's ``plot`` and ``fill_between``.

        Returns
        -------
        LearningCurveDisplay
            This object.

        Raises
        ------
        ValueError
            If there are not as many axes as data sets.

        Examples
        --------
        >>> import matplotlib.pyplot as plt
        >>> figure, ax = plt.subplots()
        >>> curve = pd.DataFrame({"n_labels": [5, 15], "score": [0.5, 0.75]})
        >>> display = LearningCurveDisplay(curve).plot(ax, score_name="accuracy")
        >>> display.ax_.get_ylabel()
        'accuracy'
        >>> plt.close(figure)
        """
        plt = _pyplot(f"{type(self).__name__}.plot")
        n_panels = len(self._runs)
        is_outside = ax is None and len(self._labels) > _MAX_INSIDE
        if ax is None:
            width = 6.4 if n_panels == 1 else 4.2 * n_panels
            size = (width + 2 * is_outside, 4)
            _, ax = plt.subplots(1, n_panels, figsize=size, layout="constrained")
        axes = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        if len(axes) != n_panels:
            raise ValueError(
                f"ax must hold as many axes as there are data sets, {n_panels}; got {len(axes)}."
            )
        self.lines_: list[Line2D] = []
        self.fill_between_: list[PolyCollection] = []
        for panel, (data, runs_of_arms) in zip(axes, self._runs.items(), strict=True):
            self._draw(panel, runs_of_arms, line_kw or {}, fill_between_kw or {})
            panel.set(xlabel="Number of labels", title=data if n_panels > 1 else panel.get_title())
            _tidy_axes(panel)
        axes[0].set_ylabel(_score_name(self.score) if score_name is None else score_name)
        if any(self._labels.values()):
            place = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if is_outside else {}
            # of all panels: a later one may have arms that the first has not
            labelled = ((str(line.get_label()), line) for line in self.lines_)
            lines = {label: line for label, line in labelled if not label.startswith("_")}
            axes[-1 if is_outside else 0].legend(
                lines.values(), lines, title=self._legend_title(), **_LEGEND, **place
            )
        self.ax_ = axes if n_panels > 1 else axes[0]
        self.figure_ = axes[0].figure
        return self

    def summary(self) -> pd.DataFrame:
        """Areas under the curves, and tests of their differences to the baseline.

        The area under the curve of a run is taken between scores joined by lines, over the range of
        labels that all runs of the data set share, and divided by the length of this range. It is
        thus a mean score. Differences are between runs of the same seed. The p-values are those of
        the two-sided Wilcoxon signed-rank test, with Holm's correction over all of them.

        Returns
        -------
        DataFrame
            A row for each arm: its names as in ``curves``, ``n_seeds``, the mean ``area`` and its
            standard error ``area_se``. With a baseline, also the mean ``difference`` to it, its
            standard error ``difference_se``, the number ``n_higher`` of seeds with a larger area,
            and the ``p_value``. Areas are in units of the score.

        Raises
        ------
        ValueError
            If the runs of a data set have no range of labels in common.

        Examples
        --------
        >>> from laplace_al import LearningCurveDisplay
        >>> frame = pd.DataFrame({"strategy": ["A", "A", "B", "B"], "n_labels": [5, 15, 5, 15],
        ...                       "score": [0.5, 0.75, 0.5, 1.0]})
        >>> LearningCurveDisplay(frame, baseline="A").summary()[["strategy", "area", "difference"]]
          strategy   area  difference
        0        A  0.625         NaN
        1        B  0.750       0.125
        """
        rows = []
        for data, runs_of_arms in self._runs.items():
            areas = _areas(data, runs_of_arms)
            for arm, area in areas.items():
                names = dict(zip(_NAMES, (data, *arm), strict=True))
                row: dict[str, Any] = {
                    name: text for name, text in names.items() if name in self.curves
                }
                row |= {"n_seeds": len(area), "area": area.mean(), "area_se": area.sem()}
                if self.baseline is not None:
                    other = areas.get(self._baseline_of(arm))
                    row |= _difference(area, None if other is area else other)
                rows.append(row)
        frame = pd.DataFrame(rows)
        if self.baseline is not None:
            frame["p_value"] = _holm(frame["p_value"].to_numpy())
        return frame

    def _baseline_of(self, arm: _Arm) -> _Arm:
        """The arm that an arm is compared with."""
        assert self.baseline is not None
        estimator, strategy = arm
        strategies = {strategy for _, strategy in self._labels}
        return (
            (estimator, self.baseline) if self.baseline in strategies else (self.baseline, strategy)
        )

    def _draw(
        self,
        ax: "Axes",
        runs_of_arms: _RunsOfArms,
        line_kw: dict[str, Any],
        fill_between_kw: dict[str, Any],
    ) -> None:
        for arm, style in self._styles().items():
            if arm not in runs_of_arms:
                continue
            mean, half_width = _mean_and_half_width(runs_of_arms[arm], self.level)
            marker = style.pop("marker") if len(mean) <= _MAX_MARKED else None
            style |= {"marker": marker, "markersize": 4, "label": self._labels[arm] or None}
            (line,) = ax.plot(mean.index, mean, **(style | _without_aliases(line_kw)))
            self.lines_.append(line)
            if len(runs_of_arms[arm]) > 1:
                band = {"color": line.get_color(), "alpha": 0.18, "linewidth": 0} | fill_between_kw
                self.fill_between_.append(
                    ax.fill_between(mean.index, mean - half_width, mean + half_width, **band)
                )

    def _styles(self) -> dict[_Arm, dict[str, Any]]:
        """Colour, line and marker of each arm; those of the baseline are grey."""
        looks = itertools.product(_LINE_STYLES, zip(_COLOURS, _MARKERS, strict=True))
        looks, greys = itertools.cycle(looks), itertools.cycle(_LINE_STYLES)
        styles = {}
        for arm in self._labels:
            if self.baseline is not None and self._baseline_of(arm) == arm:
                style = next(greys), (_BASELINE_COLOUR, "o")
            else:
                style = next(looks)
            styles[arm] = {"linestyle": style[0], "color": style[1][0], "marker": style[1][1]}
        return styles

    def _legend_title(self) -> str | None:
        counts = {len(runs) for arms in self._runs.values() for runs in arms.values()}
        if counts == {1}:
            return None
        seeds = f" of {counts.pop()} seeds" if len(counts) == 1 else ""
        return f"mean{seeds}, {100 * self.level:g} % band"


_NAMES = ("data", "estimator", "strategy")


def _areas(data: str, runs_of_arms: _RunsOfArms) -> dict[_Arm, pd.Series]:
    """Mean score of each run over the labels common to all, a Series over seeds for each arm."""
    runs = [run for runs in runs_of_arms.values() for run in runs.values()]
    first, last = max(run.index[0] for run in runs), min(run.index[-1] for run in runs)
    if first > last:
        raise ValueError(
            f"The runs{f' of {data!r}' if data else ''} have no number of labels in common: one "
            f"begins at {first}, another ends at {last}. Compare only runs that overlap."
        )
    return {
        arm: pd.Series({seed: _mean_score(run, first, last) for seed, run in runs.items()})
        for arm, runs in runs_of_arms.items()
    }


def _mean_score(run: pd.Series, first: int, last: int) -> float:
    """Area under a curve (n_labels -> score) from first to last, divided by the range."""
    n_labels = np.union1d(run.index[(run.index > first) & (run.index < last)], [first, last])
    scores = np.interp(n_labels, run.index, run)
    return scores[0] if first == last else np.trapezoid(scores, n_labels) / (last - first)


def _difference(area: pd.Series, baseline: pd.Series | None) -> dict[str, float]:
    """Mean difference over the seeds of both, its standard error and Wilcoxon's p-value."""
    if baseline is None:
        return dict.fromkeys(["difference", "difference_se", "n_higher", "p_value"], np.nan)
    gain = (area - baseline).dropna()
    return {
        "difference": gain.mean(),
        "difference_se": gain.sem(),
        "n_higher": (gain > 0).sum(),
        "p_value": _signed_rank_p_value(gain),
    }


def _signed_rank_p_value(differences: pd.Series) -> float:
    if not len(differences):
        return np.nan
    return stats.wilcoxon(differences).pvalue if differences.any() else 1.0


def _holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's correction of p-values (n,): S. Holm, Scand. J. Statist. 6, 1979; NaN stay NaN."""
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(p_values), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def _mean_and_half_width(runs: dict[Any, pd.Series], level: float) -> tuple[pd.Series, pd.Series]:
    """Mean over the runs where all have a score, and half the width of its t interval."""
    scores = pd.DataFrame(runs).dropna()  # (n_labels, n_seeds)
    quantile = stats.t.ppf((1 + level) / 2, scores.shape[1] - 1)
    return scores.mean(axis=1), quantile * scores.sem(axis=1)


def _runs(curves: pd.DataFrame, score: str) -> dict[str, _RunsOfArms]:
    """Scores by the number of labels, for each data set, arm (estimator, strategy) and seed."""
    missing = {"n_labels", score} - set(curves)
    if missing:
        raise ValueError(
            f"curves must have the columns n_labels and {score}, as simulate and compare return "
            f"them; got the columns {list(curves)}. Name the column of a scorer by score=."
        )
    runs: dict[str, _RunsOfArms] = {}
    names = [curves[name] if name in curves else [""] * len(curves) for name in _NAMES]
    seeds = curves["seed"] if "seed" in curves else [0] * len(curves)
    for key, rows in curves.groupby(
        [*map(np.asarray, names), np.asarray(seeds)], sort=False, dropna=False
    ):
        data, estimator, strategy, seed = key
        run = rows.set_index("n_labels")[score].dropna().sort_index()
        if run.index.has_duplicates:
            raise ValueError(
                f"curves must have one score for each number of labels of a run; got several at "
                f"{run.index[run.index.duplicated()][0]}. The columns data, estimator, strategy "
                "and seed must distinguish runs."
            )
        if len(run):
            runs.setdefault(data, {}).setdefault((estimator, strategy), {})[seed] = run
    if not runs:
        raise ValueError(f"curves has no row with a number in the column {score}.")
    return runs


def _labels(arms: list[_Arm]) -> dict[_Arm, str]:
    """What the arms (estimator, strategy) are called in a legend: by what tells them apart."""
    varies = [len(set(names)) > 1 for names in zip(*arms, strict=True)]
    return {
        arm: ", ".join(name for name, does_vary in zip(arm, varies, strict=True) if does_vary)
        for arm in arms
    }


def _score_name(column: str) -> str:
    """Name of a score for people, as scikit-learn's displays call it."""
    name = column.removeprefix("score_").replace("_", " ")
    return (f"Negative {name[4:]}" if name.startswith("neg ") else name).capitalize()


class ReliabilityDisplay:
    """Reliability diagram, accuracy against confidence, for any number of classes.

    The confidence of a prediction is the largest of the class probabilities. In each bin of
    confidences, the mean confidence is compared with the share of correct predictions. The expected
    calibration error is the mean distance of the two,
    ``sum_b n_b / n |accuracy_b - confidence_b|``. Create the display with :meth:`from_estimator` or
    :meth:`from_predictions`.

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
        _pyplot(f"{cls.__name__}.from_estimator")
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
        _pyplot(f"{cls.__name__}.from_predictions")
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
        plt = _pyplot(f"{type(self).__name__}.plot")
        if ax is None:
            _, ax = plt.subplots(figsize=(4.8, 4.8), layout="constrained")
        drawn = [line for line in ax.get_lines() if line.get_gid() == _RELIABILITY]
        if ref_line and _REFERENCE not in [line.get_label() for line in ax.get_lines()]:
            ax.plot([0, 1], [0, 1], ":", color="0.4", linewidth=1, label=_REFERENCE)
        name = self.name if name is None else name
        ece = f"ECE = {self.ece:.3f}"
        style: dict[str, Any] = {"color": _COLOURS[len(drawn) % len(_COLOURS)], "linewidth": 1.2}
        style |= {"label": ece if name is None else f"{name} ({ece})", "gid": _RELIABILITY}
        some = self.counts > 0
        confidence, accuracy = self.confidence[some], self.accuracy[some]
        self.line_: Line2D
        (self.line_,) = ax.plot(confidence, accuracy, **(style | _without_aliases(kwargs)))
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
        _tidy_axes(ax)
        ax.legend(title="bars: density of confidences", **_LEGEND)
        self.ax_, self.figure_ = ax, ax.figure
        return self


_RELIABILITY, _REFERENCE = "reliability", "perfectly calibrated"
_TALLEST_BAR = 0.2


def _top_label(
    y_true: ArrayLike, y_proba: ArrayLike, labels: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of each prediction, and whether it is right, both (n,)."""
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
    check_scalar(n_bins, "n_bins", numbers.Integral, min_val=1)
    if strategy == "uniform":
        return np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        return np.unique(np.quantile(confidence, np.linspace(0, 1, n_bins + 1)))
    raise ValueError(f"strategy must be 'uniform' or 'quantile'; got {strategy!r}.")


def _reliability(
    confidence: NDArray[np.float64], is_right: NDArray[np.bool_], edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], float]:
    """Mean confidence, accuracy, count and edges of the bins, and the ECE."""
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


def _without_aliases(style: dict[str, Any]) -> dict[str, Any]:
    """Properties of a line by their full names: ``linewidth`` for ``lw``."""
    from matplotlib import cbook, lines

    return dict(cbook.normalize_kwargs(style, lines.Line2D))


def _tidy_axes(ax: "Axes") -> None:
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


def _pyplot(caller: str) -> ModuleType:
    """matplotlib.pyplot, imported when something is drawn."""
    try:
        import matplotlib.pyplot
    except ImportError as error:
        raise ImportError(
            f"{caller} requires matplotlib. You can install matplotlib with `pip install "
            "matplotlib`."
        ) from error
    return matplotlib.pyplot
