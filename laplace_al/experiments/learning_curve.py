"""Learning curves of experiments as a display of scikit-learn."""

import itertools
import numbers
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from sklearn.utils import check_scalar

from laplace_al.experiments.drawing import (
    COLOURS,
    LEGEND,
    import_pyplot,
    tidy_axes,
    without_aliases,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PolyCollection
    from matplotlib.lines import Line2D

_Arm: TypeAlias = tuple[str, str]  # estimator, strategy
_RunsOfArms: TypeAlias = dict[_Arm, dict[Any, pd.Series]]

_NAMES = ("data", "estimator", "strategy")
_BASELINE_COLOUR = "0.55"
_MARKERS = "osD^vPX"
_LINE_STYLES = ("-", "--", ":")
_MAX_MARKED = 20  # points of a curve that are worth markers
_MAX_INSIDE = 6  # arms whose legend finds room between the curves


class LearningCurveDisplay:
    """Learning curves of experiments: mean over the seeds, with a confidence band.

    Create it with :meth:`from_simulation`. An arm is a pair of estimator and strategy. Its curve is
    drawn where all of its runs have a score, so that every point is a mean over the same runs.

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
        """Create the display and draw the curves.

        Parameters
        ----------
        curves : DataFrame
            Result of :func:`~laplace_al.simulate` (a single curve) or :func:`~laplace_al.compare`.
        baseline : str, default=None
            Name of the strategy, or else of the estimator, that the others are compared with, all
            else equal. It is drawn in grey.
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
        import_pyplot(f"{cls.__name__}.from_simulation")
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
        plt = import_pyplot(f"{type(self).__name__}.plot")
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
            tidy_axes(panel)
        axes[0].set_ylabel(_score_name(self.score) if score_name is None else score_name)
        if any(self._labels.values()):
            place = {"loc": "upper left", "bbox_to_anchor": (1, 1)} if is_outside else {}
            # of all panels: a later one may have arms that the first has not
            labelled = ((str(line.get_label()), line) for line in self.lines_)
            lines = {label: line for label, line in labelled if not label.startswith("_")}
            axes[-1 if is_outside else 0].legend(
                lines.values(), lines, title=self._legend_title(), **LEGEND, **place
            )
        self.ax_ = axes if n_panels > 1 else axes[0]
        self.figure_ = axes[0].figure
        return self

    def summary(self) -> pd.DataFrame:
        """Return areas under the curves, and tests of their differences to the baseline.

        The area under a curve, with scores joined by lines, is taken over the range of labels that
        all runs of the data set share, and divided by its length: it is a mean score. Differences
        are between runs of the same seed. The p-values are those of the two-sided Wilcoxon
        signed-rank test, with Holm's correction over all of them.

        Returns
        -------
        DataFrame
            A row for each arm: its names as in ``curves``, ``n_seeds``, the mean ``area`` and its
            standard error ``area_se``, in units of the score. With a baseline, also the mean
            ``difference`` to it, its standard error ``difference_se``, the number ``n_higher`` of
            seeds with a larger area, and the ``p_value``.

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
        """Return the arm that an arm is compared with."""
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
        """Draw the curves and bands of a data set."""
        for arm, style in self._styles().items():
            if arm not in runs_of_arms:
                continue
            mean, half_width = _mean_and_half_width(runs_of_arms[arm], self.level)
            marker = style.pop("marker") if len(mean) <= _MAX_MARKED else None
            style |= {"marker": marker, "markersize": 4, "label": self._labels[arm] or None}
            (line,) = ax.plot(mean.index, mean, **(style | without_aliases(line_kw)))
            self.lines_.append(line)
            if len(runs_of_arms[arm]) > 1:
                band = {"color": line.get_color(), "alpha": 0.18, "linewidth": 0} | fill_between_kw
                self.fill_between_.append(
                    ax.fill_between(mean.index, mean - half_width, mean + half_width, **band)
                )

    def _styles(self) -> dict[_Arm, dict[str, Any]]:
        """Return colour, line and marker of each arm; those of the baseline are grey."""
        looks = itertools.product(_LINE_STYLES, zip(COLOURS, _MARKERS, strict=True))
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
        """Return the number of seeds and the level of the bands, or None if there is no band."""
        counts = {len(runs) for arms in self._runs.values() for runs in arms.values()}
        if counts == {1}:
            return None
        seeds = f" of {counts.pop()} seeds" if len(counts) == 1 else ""
        return f"mean{seeds}, {100 * self.level:g} % band"


def _areas(data: str, runs_of_arms: _RunsOfArms) -> dict[_Arm, pd.Series]:
    """Return for each arm, by seed, the mean score over the labels common to all runs."""
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
    """Return the area under a curve (n_labels -> score) from first to last, over their distance."""
    n_labels = np.union1d(run.index[(run.index > first) & (run.index < last)], [first, last])
    scores = np.interp(n_labels, run.index, run)
    return scores[0] if first == last else np.trapezoid(scores, n_labels) / (last - first)


def _difference(area: pd.Series, baseline: pd.Series | None) -> dict[str, float]:
    """Return mean, standard error and Wilcoxon's p-value of the differences of common seeds."""
    if baseline is None:
        return dict.fromkeys(["difference", "difference_se", "n_higher", "p_value"], np.nan)
    gain = (area - baseline).dropna()
    p_value = stats.wilcoxon(gain).pvalue if gain.any() else 1.0 if len(gain) else np.nan
    return {
        "difference": gain.mean(),
        "difference_se": gain.sem(),
        "n_higher": (gain > 0).sum(),
        "p_value": p_value,
    }


def _holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values (n,) corrected as by Holm, Scand. J. Statist. 6, 1979; NaN stay NaN."""
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected = np.full(len(p_values), np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected


def _mean_and_half_width(runs: dict[Any, pd.Series], level: float) -> tuple[pd.Series, pd.Series]:
    """Return mean and half-width of its t interval where all runs have a score."""
    scores = pd.DataFrame(runs).dropna()  # (n_labels, n_seeds)
    quantile = stats.t.ppf((1 + level) / 2, scores.shape[1] - 1)
    return scores.mean(axis=1), quantile * scores.sem(axis=1)


def _runs(curves: pd.DataFrame, score: str) -> dict[str, _RunsOfArms]:
    """Return scores by the number of labels, for each data set, arm and seed."""
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
    """Return the names of arms in a legend: of estimator and strategy, those that vary."""
    varies = [len(set(names)) > 1 for names in zip(*arms, strict=True)]
    return {
        arm: ", ".join(name for name, does_vary in zip(arm, varies, strict=True) if does_vary)
        for arm in arms
    }


def _score_name(column: str) -> str:
    """Return the name of a score as scikit-learn's displays show it."""
    name = column.removeprefix("score_").replace("_", " ")
    return (f"Negative {name[4:]}" if name.startswith("neg ") else name).capitalize()
