import enum

import matplotlib
import numpy as np
import pytest
from sklearn.calibration import CalibrationDisplay
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.experiments.reliability import ReliabilityDisplay
from laplace_al.strategies import RandomSampling

matplotlib.use("agg")
import matplotlib.pyplot as plt


@pytest.fixture(autouse=True)
def _no_figures_left():
    yield
    plt.close("all")


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


PROBA = np.random.default_rng(0).dirichlet(0.4 * np.ones(4), 300)
TRUTH = np.array([np.random.default_rng(i).choice(4, p=p) for i, p in enumerate(PROBA)])


class Answer(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    NO, YES = "no", "yes"


class TestReliability:
    @pytest.mark.parametrize("strategy", ["uniform", "quantile"])
    @pytest.mark.parametrize("n_bins", [1, 7, 10])
    def test_against_the_definition(self, strategy, n_bins):
        display = ReliabilityDisplay.from_predictions(
            TRUTH, PROBA, n_bins=n_bins, strategy=strategy
        )
        confidence, is_right = PROBA.max(axis=1), PROBA.argmax(axis=1) == TRUTH
        ece = 0
        for b in range(n_bins):
            low, high = display.edges[b : b + 2]
            inside = (confidence > low) & (confidence <= high)
            if strategy == "quantile" and b == 0:
                inside |= confidence == low
            assert display.counts[b] == inside.sum()
            if inside.any():
                assert display.confidence[b] == pytest.approx(confidence[inside].mean())
                assert display.accuracy[b] == pytest.approx(is_right[inside].mean())
                ece += inside.mean() * abs(display.confidence[b] - display.accuracy[b])
            else:
                assert np.isnan(display.confidence[b])
                assert np.isnan(display.accuracy[b])
        assert display.ece == pytest.approx(ece)
        if strategy == "uniform":
            np.testing.assert_allclose(display.edges, np.linspace(0, 1, n_bins + 1))
        else:
            assert np.ptp(display.counts) <= 1

    def test_confident_of_the_right_class_alone(self):
        display = ReliabilityDisplay.from_predictions(
            ["b", "a"], [[0.0, 1.0], [1.0, 0.0]], strategy="quantile"
        )
        assert (display.ece, display.counts.tolist()) == (0, [2])

    def test_two_classes_are_those_of_scikit_learn(self):
        p = np.random.default_rng(0).uniform(0.5, 1, 200)  # always predicts class 1
        truth = (np.random.default_rng(1).uniform(size=200) < p).astype(int)
        theirs = CalibrationDisplay.from_predictions(truth, p, n_bins=10)
        ours = ReliabilityDisplay.from_predictions(truth, np.column_stack([1 - p, p]))
        np.testing.assert_allclose(ours.accuracy[ours.counts > 0], theirs.prob_true)
        np.testing.assert_allclose(ours.confidence[ours.counts > 0], theirs.prob_pred)

    def test_what_is_drawn(self):
        display = ReliabilityDisplay.from_predictions(TRUTH, PROBA, name="mine", color="red")
        some = display.counts > 0
        np.testing.assert_array_equal(display.line_.get_xdata(), display.confidence[some])
        np.testing.assert_array_equal(display.line_.get_ydata(), display.accuracy[some])
        assert display.line_.get_color() == "red"
        assert legend_of(display.ax_) == ["perfectly calibrated", f"mine (ECE = {display.ece:.3f})"]
        assert display.ax_.get_xlabel().startswith("Confidence")
        assert display.ax_.get_ylabel().startswith("Accuracy")
        assert display.figure_ is display.ax_.figure

    def test_short_names_of_properties(self):
        assert ReliabilityDisplay.from_predictions(TRUTH, PROBA, lw=3).line_.get_linewidth() == 3

    def test_members_of_an_enum(self):
        members = [tuple(Answer)[k] for k in (0, 1, 1)]
        proba = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
        for labels in (None, list(Answer)):
            display = ReliabilityDisplay.from_predictions(members, proba, labels=labels, n_bins=1)
            assert display.accuracy == [2 / 3]

    def test_missing_labels(self):
        truth = TRUTH.astype(float)
        truth[:2] = np.nan
        with pytest.raises(ValueError, match="y_true must hold labels; got nan at position 0"):
            ReliabilityDisplay.from_predictions(truth, PROBA, labels=np.arange(PROBA.shape[1]))

    def test_several_on_the_same_axes(self):
        _, ax = plt.subplots()
        displays = [ReliabilityDisplay.from_predictions(TRUTH, PROBA, ax=ax) for _ in range(2)]
        assert legend_of(ax) == ["perfectly calibrated"] + 2 * [f"ECE = {displays[0].ece:.3f}"]
        assert displays[0].line_.get_color() != displays[1].line_.get_color()
        assert displays[0].plot(name="again", ref_line=False).ax_ is not ax
        assert len(displays[0].ax_.get_lines()) == 1

    def test_of_estimators(self):
        X, y = load_digits(n_class=3, return_X_y=True)
        names = np.array(["zero", "one", "two"])[y]
        classifier = LogisticRegression().fit(X[:40, 20:24], names[:40])
        proba = classifier.predict_proba(X[40:, 20:24])
        by_hand = ReliabilityDisplay.from_predictions(
            names[40:], proba, labels=classifier.classes_, n_bins=5, strategy="quantile"
        )
        display = ReliabilityDisplay.from_estimator(
            classifier, X[40:, 20:24], names[40:], n_bins=5, strategy="quantile"
        )
        assert display.ece == by_hand.ece
        assert display.name == "LogisticRegression"

    def test_of_a_learner_and_of_classes_that_it_does_not_know(self):
        X, y = load_digits(n_class=3, return_X_y=True)
        learner = ActiveLearner(
            LaplaceUpdateClassifier(), RandomSampling(), X, X_initial=X[y < 2], y_initial=y[y < 2]
        )
        known, all_of_them = (
            ReliabilityDisplay.from_estimator(learner, X[rows], y[rows]) for rows in (y < 2, y < 3)
        )
        assert known.name == "LaplaceUpdateClassifier"
        assert known.accuracy[-1] > all_of_them.accuracy[-1]

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"y_true": TRUTH[1:]}, "inconsistent numbers of samples"),
            ({"y_proba": PROBA[:, :3]}, "rows adding up to 1"),
            ({"y_proba": PROBA[:, 0]}, "Expected 2D array"),
            ({"y_proba": PROBA[:, :1] ** 0}, r"column_stack\(\[1 - p, p\]\)"),
            ({"y_proba": PROBA * [2, 2, 0, 0] - 1}, "must have a column of probabilities"),
            ({"y_true": TRUTH % 3}, "has 4 columns, but there are 3 classes"),
            ({"labels": [0, 1]}, "has 4 columns, but there are 2 classes"),
            ({"labels": list("abcd")}, "y_true has none of the labels"),
            ({"n_bins": 0}, "n_bins == 0, must be >= 1"),
            ({"strategy": "kmeans"}, "must be 'uniform' or 'quantile'; got 'kmeans'"),
        ],
    )
    def test_wrong_arguments(self, kwargs, match):
        with pytest.raises(ValueError, match=match):
            ReliabilityDisplay.from_predictions(**{"y_true": TRUTH, "y_proba": PROBA} | kwargs)

    def test_no_probabilities(self):
        with pytest.raises(TypeError, match="needs an estimator with predict_proba; got LinearSVC"):
            ReliabilityDisplay.from_estimator(LinearSVC(), PROBA, TRUTH)
