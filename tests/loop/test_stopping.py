import itertools

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from sklearn.naive_bayes import GaussianNB

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.loop.stopping import (
    Budget,
    ExpectedGain,
    StablePredictions,
    StoppingRule,
    is_open,
)
from laplace_al.strategies import MarginSampling, RandomSampling

X, y = load_iris(return_X_y=True)
START = [0, 1, 50, 51, 100, 101]
RULES = [Budget(30), StablePredictions(), ExpectedGain(0.1)]


def make(estimator=None, strategy=None, **kwargs):
    settings = {"X_initial": X[START], "y_initial": y[START], "random_state": 0} | kwargs
    return ActiveLearner(
        estimator or LaplaceUpdateClassifier(prior_precision=1.0),
        strategy or MarginSampling(),
        X,
        **settings,
    )


def teach(learner, n_labels, n_instances=1):
    for _ in range(n_labels):
        positions = learner.query(n_instances)
        learner.teach(positions, y[positions])
        yield learner


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
class TestEveryRule:
    def test_it_ends_a_loop(self, rule):
        learner, rule = make(), clone(rule)
        while not rule.should_stop(learner):
            next(teach(learner, 1))
        assert 0 < len(learner.labels_) < 100

    def test_the_learner_stays_as_it_is(self, rule):
        learner, rule = make(), clone(rule)
        for _ in teach(learner, 5):
            before, proba = learner._state.now, learner.predict_proba(X)
            rule.should_stop(learner)
            assert learner._state.now == before
            np.testing.assert_array_equal(learner.predict_proba(X), proba)

    def test_asked_twice_nothing_has_happened(self, rule):
        learner, often, once = make(), clone(rule), clone(rule)
        for _ in teach(learner, 6):
            answers = {often.should_stop(learner) for _ in range(3)}
            assert answers == {once.should_stop(learner)}
        assert str(vars(often)) == str(vars(once))

    def test_skipping_is_no_round(self, rule):
        learner, rule = make(), clone(rule)
        for _ in teach(learner, 3):
            rule.should_stop(learner)
        before = str(vars(rule))
        rule.should_stop(learner.skip(learner.query(5)))
        assert str(vars(rule)) == before

    def test_not_before_there_is_a_model(self, rule):
        learner = make(LogisticRegression(), refit_every=1, X_initial=None, y_initial=None)
        rule = clone(rule)
        for position in range(10):  # one class only
            assert not rule.should_stop(learner)
            learner.teach(position, y[position])

    def test_nothing_left_to_ask_for(self, rule):
        learner = make().skip(np.arange(2, 150)).teach([0], y[:1])
        assert not clone(rule).should_stop(learner)
        assert clone(rule).should_stop(learner.skip(1))

    def test_another_run_is_refused(self, rule):
        rule = clone(rule)
        rule.should_stop(make().teach([0, 1], y[:2]))
        with pytest.raises(ValueError, match=r"2 labels, more than the 0 of .*clone\(rule\)"):
            rule.should_stop(make())
        clone(rule).should_stop(make())

    def test_scikit_learn_object(self, rule):
        watched = clone(rule)
        watched.should_stop(make())
        fresh = clone(watched)
        assert vars(fresh) == fresh.get_params()
        assert repr(watched) == repr(rule)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (Budget(-1), "max_labels"),
        (StablePredictions(0), "threshold"),
        (StablePredictions(1.1), "threshold"),
        (StablePredictions(n_rounds=0), "n_rounds"),
        (ExpectedGain(0), "cost"),
        (ExpectedGain(1, loss="hinge"), "loss"),
        (ExpectedGain(1, n_predictions=0), "n_predictions"),
        (ExpectedGain(1, n_rounds=0), "n_rounds"),
        (ExpectedGain(1, max_candidates=0), "max_candidates"),
    ],
)
def test_a_wrong_parameter(rule, name):
    with pytest.raises(ValueError, match=f"The '{name}' parameter"):
        rule.should_stop(make())
    assert vars(rule) == rule.get_params()


def test_a_rule_of_ones_own():
    class AtLeastOneOfEach(StoppingRule):
        def is_enough(self, learner):
            return set(learner.labels_.label) == {0, 1, 2}

    learner = make()
    assert not AtLeastOneOfEach().should_stop(learner.teach([0, 60], [0, 1]))
    assert AtLeastOneOfEach().should_stop(learner.teach(110, 2))


def test_open_instances():
    learner = make().teach([3, 5], y[[3, 5]]).skip(9).relabel(3, 1).teach(X=X[:1], y=y[:1])
    assert np.flatnonzero(~is_open(learner)).tolist() == [3, 5, 9]
    learner.unlabel(3).unskip(9).skip(11)
    assert np.flatnonzero(~is_open(learner)).tolist() == [5, 11]


class TestBudget:
    def test_stops_at_the_number(self):
        learner, rule = make(), Budget(4)
        answers = [rule.should_stop(learner) for _ in teach(learner, 5)]
        assert answers == [False, False, False, True, True]

    def test_none_at_all(self):
        assert Budget(0).should_stop(make())


class TestStablePredictions:
    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), GaussianNB()])
    @pytest.mark.parametrize("X_stop", [None, X[::7]])
    def test_against_the_definition(self, estimator, X_stop):
        learner = make(estimator, RandomSampling())
        rule = StablePredictions(0.9, n_rounds=2, X_stop=X_stop)
        stop_set = X if X_stop is None else X_stop
        predictions, answers = [], []
        for _ in teach(learner, 12):
            answers.append(rule.should_stop(learner))
            predictions.append(learner.predict(stop_set))
        kappas = [
            cohen_kappa_score(before, after) for before, after in itertools.pairwise(predictions)
        ]
        np.testing.assert_allclose(rule.kappas_, kappas)
        means = [np.mean(kappas[i - 2 : i]) if i >= 2 else 0 for i in range(12)]
        assert answers == [mean >= 0.9 for mean in means]
        assert len(set(answers)) == 2

    def test_images_of_the_pool_are_extracted_once(self):
        calls = []

        def extractor(images):
            calls.append(len(images))
            return np.asarray(images)

        learner = make(LaplaceUpdateClassifier(extractor))
        rule = StablePredictions()
        for _ in teach(learner, 5):
            rule.should_stop(learner)
        assert calls.count(150) == 1

    def test_a_relabel_is_a_new_model(self):
        learner, rule = make().teach([60], [0]), StablePredictions()
        rule.should_stop(learner)
        rule.should_stop(learner.relabel(60, 1))
        assert len(rule.kappas_) == 1
        rule.should_stop(learner.skip(5).unskip(5))
        assert len(rule.kappas_) == 1
        rule.should_stop(learner.unlabel(60))
        assert len(rule.kappas_) == 2

    def test_one_class_throughout_is_no_agreement(self):
        learner = make(DummyClassifier(), X_initial=X[:3], y_initial=[0, 0, 1], refit_every=1)
        rule = StablePredictions()
        rule.should_stop(learner)
        rule.should_stop(learner.teach([60], [0]))
        rule.should_stop(learner.teach([61, 62, 63, 64], [1, 1, 1, 1]))
        assert rule.kappas_ == [0, 0]


class TestExpectedGain:
    @pytest.mark.parametrize("loss", ["zero_one", "log_loss"])
    @pytest.mark.parametrize("X_eval", [None, X[::10]])
    def test_against_learning_each_label(self, loss, X_eval):
        def losses(p):
            return 1 - p.max(axis=1) if loss == "zero_one" else -(p * np.log(p)).sum(axis=1)

        learner = make(
            LaplaceUpdateClassifier(calibration=None, prior_precision=1.0), refit_every=None
        )
        points = X if X_eval is None else X_eval
        now = losses(learner.predict_proba(points)).mean()
        proba = learner.predict_proba(X)
        candidates = np.isin(np.arange(150), [5, 57, 70, 120, 133])
        expected = np.full(150, -np.inf)
        for i in np.flatnonzero(candidates):
            after = [
                losses(
                    make(learner.estimator, refit_every=None).teach(i, k).predict_proba(points)
                ).mean()
                for k in range(3)
            ]
            expected[i] = 40 * (now - proba[i] @ after)
        rule = ExpectedGain(1, X_eval=X_eval, loss=loss, n_predictions=40)
        np.testing.assert_allclose(rule.expected_gains(learner, candidates), expected, atol=1e-9)

    def test_it_stops_when_the_mean_of_the_last_rounds_is_less_than_the_cost(self):
        learner, rule = make(), ExpectedGain(0.6, n_rounds=2)
        answers = [rule.should_stop(learner) for _ in teach(learner, 30)]
        means = [np.mean(rule.gains_[max(0, i - 1) : i + 1]) for i in range(30)]
        assert answers == [i > 0 and mean < 0.6 for i, mean in enumerate(means)]
        assert len(set(answers)) == 2

    def test_what_a_round_keeps_is_the_best_open_gain(self):
        learner = make()
        rule = ExpectedGain(1)
        gains = rule.expected_gains(learner, np.ones(150, dtype=bool))
        best = int(gains.argmax())
        rule.should_stop(learner)
        other = clone(rule)
        other.should_stop(learner.skip(best))
        assert rule.gains_ == [gains[best]]
        assert other.gains_ == [np.delete(gains, best).max()]

    def test_a_prediction_counts_as_often_as_it_is_made(self):
        rules = [ExpectedGain(1), ExpectedGain(1, n_predictions=300)]
        for rule in rules:
            rule.should_stop(make())
        assert rules[1].gains_[0] == pytest.approx(2 * rules[0].gains_[0])

    def test_few_candidates_are_the_most_uncertain(self):
        learner = make().teach([133], [2])
        rule = ExpectedGain(1, max_candidates=10)
        candidates = is_open(learner)
        gains = rule.expected_gains(learner, candidates)
        p = learner.predict_proba(X)
        order = np.argsort((p * np.log(p)).sum(axis=1))
        assert set(np.flatnonzero(np.isfinite(gains))) == set(order[candidates[order]][:10])

    def test_an_estimator_without_a_posterior(self):
        with pytest.raises(TypeError, match=r"got GaussianNB\. Use StablePredictions"):
            ExpectedGain(1).should_stop(make(GaussianNB()))
