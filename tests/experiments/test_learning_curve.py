import itertools
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import load_digits

from laplace_al import LaplaceUpdateClassifier, simulate
from laplace_al.experiments.learning_curve import LearningCurveDisplay, _holm
from laplace_al.strategies import RandomSampling

matplotlib.use("agg")
import matplotlib.pyplot as plt

N_LABELS = np.array([5, 10, 20, 40])
SEEDS = range(8)


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


def frame(arms=("random", "margin", "entropy"), estimators=("laplace",), data=("iris",)):
    """As compare returns it; the later an arm, the better."""
    rng = np.random.default_rng(0)
    rows = []
    for d, estimator, (rank, arm) in itertools.product(data, estimators, enumerate(arms)):
        for seed in SEEDS:
            scores = 0.5 + 0.01 * N_LABELS + 0.005 * rank + 0.01 * rng.standard_normal(4)
            names = {"data": d, "estimator": estimator, "strategy": arm, "seed": seed}
            rows += [
                names | {"n_labels": n, "score": score, "score_f1": score / 2}
                for n, score in zip(N_LABELS, scores, strict=True)
            ]
    return pd.DataFrame(rows)


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


class TestCurves:
    def test_arms_of_a_later_data_set_are_in_the_legend(self):
        curves = pd.concat([frame(["A", "B"]), frame(["A", "C"], data=["wine"])])
        display = LearningCurveDisplay.from_simulation(curves)
        assert legend_of(display.ax_[0]) == ["A", "B", "C"]

    def test_short_names_of_properties(self):
        display = LearningCurveDisplay.from_simulation(frame(), line_kw={"lw": 3, "c": "red"})
        assert {line.get_linewidth() for line in display.lines_} == {3}
        assert {line.get_color() for line in display.lines_} == {"red"}

    def test_means_and_t_intervals(self):
        curves = frame()
        display = LearningCurveDisplay.from_simulation(curves, level=0.9)
        for line, band, arm in zip(
            display.lines_, display.fill_between_, ["random", "margin", "entropy"], strict=True
        ):
            scores = curves[curves.strategy == arm].pivot(
                index="n_labels", columns="seed", values="score"
            )
            np.testing.assert_array_equal(line.get_xdata(), N_LABELS)
            np.testing.assert_allclose(line.get_ydata(), scores.mean(axis=1))
            low, high = stats.t.interval(
                0.9, 7, scores.mean(axis=1), scores.std(axis=1) / np.sqrt(8)
            )
            corners = band.get_paths()[0].vertices
            for n, bounds in zip(N_LABELS, zip(low, high, strict=True), strict=True):
                np.testing.assert_allclose(np.unique(corners[corners[:, 0] == n, 1]), bounds)

    def test_names(self):
        display = LearningCurveDisplay.from_simulation(frame())
        assert legend_of(display.ax_) == ["random", "margin", "entropy"]
        assert display.ax_.get_legend().get_title().get_text() == "mean of 8 seeds, 95 % band"
        assert display.ax_.get_xlabel() == "Number of labels"
        assert display.ax_.get_ylabel() == "Score"
        assert display.figure_ is display.ax_.figure

    @pytest.mark.parametrize(
        ("column", "name"),
        [("score_f1", "F1"), ("score_neg_log_loss", "Negative log loss"), ("score", "Score")],
    )
    def test_names_of_scores(self, column, name):
        curves = frame().assign(score_neg_log_loss=-1.0)
        display = LearningCurveDisplay.from_simulation(curves, score=column)
        assert display.ax_.get_ylabel() == name
        assert display.lines_[0].get_ydata()[0] == pytest.approx(
            curves[(curves.n_labels == 5) & (curves.strategy == "random")][column].mean()
        )

    def test_arms_are_called_by_what_tells_them_apart(self):
        display = LearningCurveDisplay.from_simulation(frame(("a",), ("laplace", "logistic")))
        assert legend_of(display.ax_) == ["laplace", "logistic"]
        display = LearningCurveDisplay.from_simulation(frame(("a", "b"), ("x", "y")))
        assert legend_of(display.ax_) == ["x, a", "x, b", "y, a", "y, b"]

    def test_arms_look_different(self):
        display = LearningCurveDisplay.from_simulation(frame([f"arm {i}" for i in range(15)]))
        looks = {(line.get_color(), line.get_linestyle()) for line in display.lines_}
        assert len(looks) == 15

    def test_the_baseline_is_grey(self):
        display = LearningCurveDisplay.from_simulation(frame(), baseline="margin")
        assert [line.get_color() == "0.55" for line in display.lines_] == [False, True, False]

    def test_a_panel_for_each_data_set(self):
        display = LearningCurveDisplay.from_simulation(frame(data=("iris", "wine")))
        assert [ax.get_title() for ax in display.ax_] == ["iris", "wine"]
        assert len(display.lines_) == 6
        figure, axes = plt.subplots(2)
        display.plot(axes)
        assert display.figure_ is figure
        with pytest.raises(ValueError, match="as many axes as there are data sets, 2; got 1"):
            display.plot(axes[0])

    def test_a_single_simulation(self):
        digits, y = load_digits(n_class=3, return_X_y=True)
        curve = simulate(
            LaplaceUpdateClassifier(),
            RandomSampling(),
            digits[::2],
            y[::2],
            digits[1::2],
            y[1::2],
            budget=10,
            random_state=0,
        )
        display = LearningCurveDisplay.from_simulation(curve)
        np.testing.assert_array_equal(display.lines_[0].get_ydata(), curve.score[1:])
        assert display.fill_between_ == []
        assert display.ax_.get_legend() is None
        assert display.summary().columns.tolist() == ["n_seeds", "area", "area_se"]

    def test_a_curve_ends_where_its_first_run_stops(self):
        curves = frame()
        stops = (curves.strategy == "margin") & (curves.seed == 3) & (curves.n_labels > 10)
        display = LearningCurveDisplay.from_simulation(curves[~stops])
        assert [line.get_xdata().max() for line in display.lines_] == [40, 10, 40]

    def test_given_axes_and_styles(self):
        _, ax = plt.subplots()
        display = LearningCurveDisplay(frame()).plot(
            ax, score_name="accuracy", line_kw={"linewidth": 7}, fill_between_kw={"alpha": 0.5}
        )
        assert display.ax_ is ax
        assert ax.get_ylabel() == "accuracy"
        assert display.lines_[1].get_linewidth() == 7
        assert display.fill_between_[1].get_alpha() == 0.5

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"curves": frame().drop(columns="n_labels")}, "must have the columns n_labels and"),
            ({"score": "f1"}, r"must have the columns n_labels and f1"),
            ({"baseline": "nobody"}, r"one of \['entropy', .* 'random'\]; got 'nobody'"),
            ({"curves": frame().drop(columns="seed")}, "got several at 5"),
            ({"curves": frame().assign(score=np.nan)}, "no row with a number"),
            ({"level": 95}, "level == 95, must be < 1"),
        ],
    )
    def test_wrong_arguments(self, kwargs, match):
        with pytest.raises(ValueError, match=match):
            LearningCurveDisplay.from_simulation(**{"curves": frame()} | kwargs)
        assert not plt.get_fignums()


class TestSummary:
    def test_areas(self):
        curves = frame()
        summary = LearningCurveDisplay(curves).summary()
        for row in summary.itertuples():
            mine = curves[curves.strategy == row.strategy]
            areas = [np.trapezoid(run.score, run.n_labels) / 35 for _, run in mine.groupby("seed")]
            assert row.n_seeds == 8
            assert row.area == pytest.approx(np.mean(areas))
            assert row.area_se == pytest.approx(stats.sem(areas))

    def test_differences_in_pairs(self):
        curves = frame().sample(frac=1, random_state=0)
        summary = LearningCurveDisplay(curves, baseline="random").summary()
        summary = summary.set_index("strategy")
        widths = dict(zip(N_LABELS, [2.5, 7.5, 15, 10], strict=True))
        weighted = curves.assign(area=curves.score * curves.n_labels.map(widths) / 35)
        areas = weighted.groupby(["seed", "strategy"]).area.sum().unstack()
        p_values = {}
        for arm in ("margin", "entropy"):
            gain = areas[arm] - areas["random"]
            assert summary.difference[arm] == pytest.approx(gain.mean())
            assert summary.difference_se[arm] == pytest.approx(stats.sem(gain))
            assert summary.n_higher[arm] == (gain > 0).sum()
            p_values[arm] = stats.wilcoxon(areas[arm], areas["random"]).pvalue
        smaller, larger = sorted(p_values, key=p_values.get)
        assert summary.p_value[smaller] == pytest.approx(2 * p_values[smaller])
        assert summary.p_value[larger] == pytest.approx(
            max(p_values[larger], 2 * p_values[smaller])
        )
        assert summary.loc["random", "difference":].isna().all()

    def test_only_common_seeds_are_paired(self):
        curves = frame()
        curves = curves[(curves.strategy != "random") | (curves.seed < 5)]
        summary = LearningCurveDisplay(curves, baseline="random").summary().set_index("strategy")
        areas = LearningCurveDisplay(curves[curves.seed < 5]).summary().set_index("strategy").area
        assert summary.n_seeds.tolist() == [5, 8, 8]
        assert summary.difference["margin"] == pytest.approx(areas["margin"] - areas["random"])

    def test_areas_are_over_the_range_that_all_have(self):
        n_labels = [4, 8, 12]
        long = pd.DataFrame({"strategy": "long", "n_labels": n_labels, "score": [0.0, 0.4, 1.0]})
        short = pd.DataFrame({"strategy": "short", "n_labels": [6, 10], "score": [0.5, 0.5]})
        summary = LearningCurveDisplay(pd.concat([long, short])).summary().set_index("strategy")
        # of the long one: (6, 0.2), (8, 0.4), (10, 0.7)
        assert summary.area["long"] == pytest.approx((0.3 * 2 + 0.55 * 2) / 4)
        assert summary.area["short"] == pytest.approx(0.5)

    def test_a_single_point_in_common(self):
        long = pd.DataFrame({"strategy": "long", "n_labels": [4, 8], "score": [0.0, 0.4]})
        short = pd.DataFrame({"strategy": "short", "n_labels": [6], "score": [0.5]})
        summary = LearningCurveDisplay(pd.concat([long, short])).summary()
        assert summary.area.tolist() == pytest.approx([0.2, 0.5])

    def test_nothing_in_common(self):
        first = pd.DataFrame({"strategy": "a", "n_labels": [4, 8], "score": 0.5})
        second = first.assign(strategy="b", n_labels=[9, 12])
        display = LearningCurveDisplay.from_simulation(pd.concat([first, second]))
        with pytest.raises(ValueError, match="one begins at 9, another ends at 8"):
            display.summary()

    def test_the_baseline_is_taken_all_else_equal(self):
        curves = frame(("random", "margin"), ("x", "y"), ("iris", "wine"))
        summary = LearningCurveDisplay(curves, baseline="random").summary()
        assert summary[["data", "estimator", "strategy"]].to_numpy().tolist() == [
            [*names] for names in itertools.product(("iris", "wine"), "xy", ("random", "margin"))
        ]
        areas = summary.set_index(["data", "estimator", "strategy"]).area.unstack()
        np.testing.assert_allclose(summary.difference.dropna(), areas["margin"] - areas["random"])
        by_estimator = LearningCurveDisplay(curves, baseline="x").summary()
        assert by_estimator[by_estimator.estimator == "x"].difference.isna().all()
        areas = summary.set_index(["data", "strategy", "estimator"]).area.unstack()
        difference = by_estimator[by_estimator.estimator == "y"].set_index(["data", "strategy"])
        expected = (areas["y"] - areas["x"]).loc[difference.index]
        np.testing.assert_allclose(difference.difference, expected)

    def test_equal_arms(self):
        curves = frame()
        equal = curves[curves.strategy == "random"].assign(strategy="same")
        display = LearningCurveDisplay(pd.concat([curves, equal]), baseline="random")
        assert display.summary().p_value.iloc[-1] == 1

    def test_holm(self):
        p = np.array([0.02, np.nan, 0.01, 0.03, 0.5])
        np.testing.assert_allclose(_holm(p), [0.06, np.nan, 0.04, 0.06, 0.5])
        np.testing.assert_allclose(_holm(np.array([0.6, 0.9])), [1, 1])


def test_a_summary_needs_no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert len(LearningCurveDisplay(frame()).summary()) == 3
