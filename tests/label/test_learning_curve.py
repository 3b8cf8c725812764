import time

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.label.learning_curve import (
    LearningCurve,
    renamed_classes,
    replayed,
    thinned,
)
from laplace_al.strategies import RandomSampling

X, target = load_iris(return_X_y=True)
X_pool = pd.DataFrame(X, columns=list("abcd"))
y = np.array(["setosa", "versicolor", "virginica"])[target]
ORDER = np.random.default_rng(0).permutation(150)[:40].tolist()


def make(n_labels):
    learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool, refit_every=None)
    for position in ORDER[:n_labels]:
        learner.teach(position, y[position])
    return learner


def finished(curve):
    while curve.is_busy:
        time.sleep(0.01)
    return curve


class TestPrequential:
    def test_share_of_the_last_twenty(self):
        labels = make(40).labels_
        curve, hits = LearningCurve(make(0)), {}
        for n, position in enumerate(ORDER, start=1):
            if n > 5:  # the first ones were never guessed
                hits[n] = n % 3 != 0
                curve.add_guess(position, y[position] if hits[n] else "wrong")
        expected = [
            [n, np.mean([hits[k] for k in range(max(6, n - 19), n + 1)])] for n in range(6, 41)
        ]
        np.testing.assert_allclose(curve.prequential(labels), expected)

    def test_a_corrected_label_decides(self):
        learner = make(10)
        curve = LearningCurve(learner)
        curve.add_guess(ORDER[9], "virginica")
        for label, share in {"setosa": 0, "virginica": 1}.items():
            learner.relabel(ORDER[9], label)
            assert curve.prequential(learner.labels_) == [[10, share]]


class TestLeaveOneOut:
    def test_is_that_of_a_fit(self):
        learner = make(30)
        curve = LearningCurve(learner)
        curve.estimate(learner.labels_)
        fitted = LaplaceUpdateClassifier().fit(X_pool.iloc[ORDER[:30]], y[ORDER[:30]])
        assert finished(curve).leave_one_out() == [[30, fitted.loo_score_.accuracy]]

    def test_comes_when_labels_have_grown_by_a_tenth(self):
        learner = make(0)
        curve = LearningCurve(learner)
        for position in ORDER:
            learner.teach(position, y[position])
            curve.estimate(learner.labels_)
            finished(curve)
        sizes = [n for n, _ in curve.leave_one_out()]
        expected = [5]
        while expected[-1] * 1.1 <= 40:
            expected.append(int(np.ceil(expected[-1] * 1.1)))
        assert sizes == expected
        assert 40 not in sizes
        curve.estimate(learner.labels_, is_last=True)
        assert [n for n, _ in finished(curve).leave_one_out()] == [*sizes, 40]

    def test_comes_at_once_after_a_correction(self):
        learner = make(30)
        curve = LearningCurve(learner)
        curve.estimate(learner.labels_)
        before = finished(curve).leave_one_out()
        curve.estimate(learner.labels_)
        assert not curve.is_busy
        learner.relabel(ORDER[:10], np.roll(y[ORDER[:10]], 1))
        curve.make_due()
        curve.estimate(learner.labels_)
        (after,) = finished(curve).leave_one_out()
        assert after[1] < before[0][1]

    def test_one_class_has_none(self):
        learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool)
        learner.teach(range(20), y[:20])
        curve = LearningCurve(learner)
        curve.estimate(learner.labels_)
        curve.rebuild(learner.labels_, learner.history_)
        assert not curve.is_busy
        assert curve.leave_one_out() == []


class TestRebuild:
    def test_is_what_would_have_been_seen(self):
        learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool)
        seen = LearningCurve(learner)
        for n, position in enumerate(ORDER):
            if learner.is_fitted:
                seen.add_guess(position, learner.predict(X_pool.iloc[[position]])[0])
            learner.teach(position, y[position] if n % 7 else "setosa")
            if n == 20:
                learner.relabel(ORDER[7], y[ORDER[7]])
                learner.skip(149 if 149 not in ORDER else 0)
            if n == 30:
                learner.refit()
        curve = LearningCurve(learner)
        curve.rebuild(learner.labels_, learner.history_)
        assert finished(curve).guesses == seen.guesses
        assert len(set(seen.guesses.values())) == 3
        assert curve.prequential(learner.labels_) == seen.prequential(learner.labels_)
        sizes = [n for n, _ in curve.leave_one_out()]
        assert sizes == [5, 7, 11, 17, 26, 40]

    def test_what_was_taught_by_value_is_passed_over(self):
        learner = make(20).teach(X=X_pool.iloc[[0]], y=y[:1])
        curve = LearningCurve(learner)
        curve.rebuild(learner.labels_, learner.history_)
        assert max(finished(curve).estimates) == 20
        assert set(curve.guesses) < set(ORDER[:20])

    def test_only_by_value(self):
        learner = make(0).teach(X=X_pool.iloc[[0, 60]], y=y[[0, 60]]).relabel(rows=0, y="rose")
        assert list(replayed(LaplaceUpdateClassifier(), X_pool, learner.history_)) == []

    def test_what_was_taken_back(self):
        learner = make(20).teach(X=X_pool.iloc[[0]], y=y[:1]).skip(ORDER[30]).unskip(ORDER[30])
        learner.unlabel(rows=20).unlabel(ORDER[19])
        twin = make(19).refit()
        guess = twin.predict(X_pool.iloc[[ORDER[21]]])[0]
        learner.teach(ORDER[21], y[ORDER[21]])
        got = dict(replayed(LaplaceUpdateClassifier(), X_pool, learner.history_))
        assert got[ORDER[21]] == guess
        assert list(got)[-3:] == [ORDER[18], ORDER[19], ORDER[21]]

    def test_it_can_be_ended(self):
        learner = make(40)
        curve = LearningCurve(learner)
        curve.close()
        curve.rebuild(learner.labels_, learner.history_)
        curve.close()
        assert not curve.is_busy
        assert not curve.estimates
        assert len(curve.guesses) <= 1


def test_replayed_guesses_are_those_of_updates_label_by_label():
    learner = make(40)
    got = dict(replayed(LaplaceUpdateClassifier(prior_precision=1.0), X_pool, learner.history_))
    twin, expected = None, {}
    for n, position in enumerate(ORDER):
        row, known = X_pool.iloc[[position]], y[ORDER[: n + 1]]
        if twin is not None:
            expected[position] = twin.predict(row)[0]
            if y[position] not in twin.classes_:
                twin.add_classes(y[position])
            twin.partial_fit(row, y[[position]])
        elif len(set(known)) == 2:
            twin = clone(LaplaceUpdateClassifier(prior_precision=1.0)).fit(
                X_pool.iloc[ORDER[: n + 1]], known
            )
    assert got == expected


@pytest.mark.parametrize("n", [0, 1, 200, 201, 5000])
def test_thinned(n):
    points = thinned(list(range(n)))
    assert len(points) == min(n, 200)
    assert points == sorted(set(points))
    assert points[-1:] == list(range(n))[-1:]


@pytest.mark.parametrize(
    ("relabels", "expected"),
    [
        ({}, {}),
        ({0: "cat"}, {}),  # another is still called so
        ({0: "cat", 1: "cat"}, {"cta": "cat"}),
        ({0: "cat", 1: "dog"}, {}),
        ({0: "b", 1: "b", "again": "c"}, {"cta": "c", "b": "c"}),
    ],
)
def test_renamed_classes(relabels, expected):
    learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool)
    learner.teach([0, 1, 2], ["cta", "cta", "cat"])
    for position, label in relabels.items():
        learner.relabel(
            [0, 1] if position == "again" else position, [label] * (1 + (position == "again"))
        )
    assert renamed_classes(learner.history_) == expected


def test_renamed_in_a_circle():
    learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool)
    learner.teach(0, "a").relabel(0, "b").relabel(0, "a").unlabel(0)
    assert set(renamed_classes(learner.history_)) <= {"a", "b"}
