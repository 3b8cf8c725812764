"""Learners that train the network: features are always those of the network in use."""

import itertools

import numpy as np
import pytest
import small_nets
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from small_nets import small_net, weights

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, simulate
from laplace_al.strategies import BADGE, CoreSet, MarginSampling, SequentialBatch

DIGITS, LABELS = small_nets.X, small_nets.y
POOL, OUTSIDE, TEST = slice(0, 300), slice(300, 320), slice(320, 800)
X, y = DIGITS[POOL], LABELS[POOL]
TEST_INPUTS = DIGITS[TEST]
ROUNDING = 1e-5  # of float32 features, which depends on what else is in a batch


def classifier(**params):
    net = small_net(max_epochs=params.pop("max_epochs", 4))
    return LaplaceUpdateClassifier(net, train_extractor=True, **params)


def learner(strategy=None, estimator=None, **kwargs):
    settings = {
        "X_initial": DIGITS[OUTSIDE],
        "y_initial": LABELS[OUTSIDE],
        "classes": range(10),
        "random_state": 0,
    }
    strategy = MarginSampling() if strategy is None else strategy
    estimator = classifier() if estimator is None else estimator
    return ActiveLearner(estimator, strategy, X, **settings | kwargs)


def network(learner):
    return learner.estimator_.extractor_.feature_extractor


def assert_of_one_network(learner):
    """The pool, what it predicts, and kept inputs are what the network in use makes of them."""
    fitted, pool = learner.estimator_, learner.pool_
    features = fitted.transform(X)
    np.testing.assert_allclose(pool.features_under(fitted), features, rtol=1e-6)
    state = pool.state_under(fitted)
    np.testing.assert_allclose(state.predict_proba(), fitted.predict_proba(X), atol=ROUNDING)
    kept = learner.kept_inputs(TEST_INPUTS)
    np.testing.assert_array_equal(kept.features, fitted.transform(TEST_INPUTS))


class TestRefits:
    @pytest.mark.parametrize("refit_every", [1, 4, "auto", None])
    @pytest.mark.parametrize("strategy", [MarginSampling(), BADGE(), SequentialBatch(BADGE())])
    def test_a_query_sees_features_of_the_network_in_use(self, refit_every, strategy):
        loop = learner(strategy, refit_every=refit_every)
        networks = [network(loop)]
        for _ in range(4):
            positions = loop.query(2)
            loop.teach(positions, y[positions])
            networks.append(network(loop))
            assert_of_one_network(loop)
        changes = [one is not other for one, other in itertools.pairwise(networks)]
        expected = {1: [True] * 4, 4: [False, True] * 2, None: [False] * 4}
        assert changes == expected.get(refit_every, changes)
        loop.refit()
        assert network(loop) is not networks[-1]
        assert_of_one_network(loop)

    def test_a_refit_is_a_fit_on_all_labels(self):
        loop = learner(refit_every=None, estimator=classifier(prior_precision=0.1))
        loop.teach([5, 3], y[[5, 3]]).teach(X=DIGITS[[900]], y=LABELS[[900]]).refit()
        inputs = np.concatenate([DIGITS[OUTSIDE], X[[5, 3]], DIGITS[[900]]])
        labels = np.concatenate([LABELS[OUTSIDE], y[[5, 3]], LABELS[[900]]])
        alone = classifier(prior_precision=0.1, classes=range(10)).fit(inputs, labels)
        np.testing.assert_array_equal(
            loop.predict_proba(TEST_INPUTS), alone.predict_proba(TEST_INPUTS)
        )

    def test_the_prior_is_by_the_scale_of_the_pool_under_the_new_network(self):
        loop = learner()
        for _ in range(2):
            fitted = loop.estimator_
            expected = loop.pool_.prior_precision_by_scale(fitted)
            assert fitted.prior_precision_ == expected
            loop.teach([len(loop.labels_)], y[[len(loop.labels_)]]).refit()
            assert loop.estimator_.prior_precision_ != expected

    def test_other_corrections_train_too(self):
        loop = learner(refit_every=None).teach([0, 1], y[:2])
        before = network(loop)
        loop.relabel(0, (y[0] + 1) % 10)
        assert network(loop) is not before
        before = network(loop)
        loop.unlabel(0)
        assert network(loop) is not before
        assert_of_one_network(loop)

    @pytest.mark.parametrize("strategy", [MarginSampling(), CoreSet()])
    def test_it_starts_without_labels(self, strategy):
        loop = learner(strategy, X_initial=None, y_initial=None, classes=None)
        with pytest.raises(NotFittedError):
            loop.predict(X)
        for positions in ([0], [1], [2, 3]):
            assert len(loop.query(3)) == 3
            loop.teach(positions, y[positions])
        assert loop.is_fitted
        assert_of_one_network(loop)

    def test_a_fitted_estimator_goes_on_with_its_network(self):
        start = classifier(classes=range(10)).fit(DIGITS[OUTSIDE], LABELS[OUTSIDE])
        loop = learner(estimator=start, X_initial=None, y_initial=None, refit_every=1)
        loop.teach([0, 1], y[:2]).refit()
        assert network(loop) is start.extractor_.feature_extractor
        assert_of_one_network(loop)

    def test_a_training_that_fails_changes_nothing(self):
        loop = learner(refit_every=None)
        state = loop._state.now
        loop.estimator_.set_params(feature_extractor__lr=1e30)
        with pytest.raises(ValueError, match="diverged"):
            loop.teach([0], y[:1]).refit()
        assert len(loop.labels_) == 1
        assert loop.estimator_.fitted_.inputs is state.trained.estimator.fitted_.inputs
        assert_of_one_network(loop)

    def test_the_estimator_that_was_passed_stays_untrained(self):
        estimator = classifier()
        learner(estimator=estimator).teach([0], y[:1]).refit()
        assert not hasattr(estimator, "classes_")
        assert not hasattr(estimator.feature_extractor, "module_")

    def test_progress_is_shown(self, capsys):
        loop = learner(estimator=classifier(verbose=1), verbose=1)
        capsys.readouterr()
        loop.teach([0], y[:1]).refit().query()
        shown = capsys.readouterr()
        assert "fitting LaplaceUpdateClassifier on 21 labels" in shown.out
        assert "features" in shown.err


class TestJournals:
    @pytest.mark.parametrize("warm_start", [False, True])
    @pytest.mark.parametrize("refit_every", [None, 2, "auto"])
    def test_a_resumed_learner_has_the_same_network(self, tmp_path, warm_start, refit_every):
        settings = {"journal": tmp_path / "labels.sqlite", "refit_every": refit_every}
        with learner(estimator=classifier(warm_start=warm_start), **settings) as loop:
            for _ in range(3):
                positions = loop.query(2)
                loop.teach(positions, y[positions])
            loop.refit()
            positions = loop.query()
            loop.teach(positions, y[positions])
        with learner(estimator=classifier(warm_start=warm_start), **settings) as resumed:
            np.testing.assert_array_equal(weights(network(resumed)), weights(network(loop)))
            np.testing.assert_allclose(
                resumed.predict_proba(TEST_INPUTS), loop.predict_proba(TEST_INPUTS), atol=ROUNDING
            )
            np.testing.assert_array_equal(resumed.query(3), loop.query(3))
            assert_of_one_network(resumed)

    @pytest.mark.parametrize("trains", [False, True])
    def test_a_new_extractor_on_an_old_journal(self, tmp_path, trains):
        def estimator(n_hidden):
            torch.manual_seed(n_hidden)
            net = small_net(max_epochs=4, module__n_hidden=n_hidden)
            net = net if trains else net.initialize()
            return LaplaceUpdateClassifier(net, train_extractor=trains)

        settings = {"journal": tmp_path / "labels.sqlite", "X_initial": None, "y_initial": None}
        with learner(estimator=estimator(32), **settings) as loop:
            loop.teach(range(40), y[:40])
        with learner(estimator=estimator(16), **settings) as resumed:
            assert resumed.estimator_.transform(X).shape[1] == 16
            assert_of_one_network(resumed)
        del settings["journal"]
        fresh = learner(estimator=estimator(16), **settings).teach(range(40), y[:40])
        np.testing.assert_allclose(resumed.predict_proba(X), fresh.predict_proba(X), atol=ROUNDING)


class TestChangesFromOutside:
    def test_a_network_that_was_trained_further_is_refused(self):
        loop = learner()
        loop.query()
        network(loop).partial_fit(X.astype(np.float32), y)
        for call in (loop.query, lambda: loop.predict(X), lambda: loop.teach([0], y[:1])):
            with pytest.raises(RuntimeError, match=r"other weights .* Fit again"):
                call()
        assert len(loop.labels_) == 0
        loop.refit()  # which trains another one
        assert_of_one_network(loop)

    def test_a_frozen_network_in_its_place_is_refused(self):
        net = small_net().initialize()
        loop = learner(estimator=LaplaceUpdateClassifier(net))
        loop.query()
        loop.estimator_.set_params(feature_extractor=clone(net).initialize())
        with pytest.raises(RuntimeError, match="other weights"):
            loop.query()

    def test_parameters_of_the_net_wait_for_the_next_training(self):
        loop = learner()
        before = weights(network(loop))
        loop.estimator_.set_params(feature_extractor__module__n_hidden=8)
        np.testing.assert_array_equal(weights(network(loop)), before)
        assert_of_one_network(loop)
        assert loop.refit().estimator_.transform(X).shape[1] == 8
        assert_of_one_network(loop)


@pytest.mark.parametrize("refit_every", [10, 1, None])
def test_a_simulation_trains_the_network(refit_every):
    settings = {"refit_every": refit_every, "classes": range(10), "random_state": 0}
    task = X, y, TEST_INPUTS, LABELS[TEST]
    sizes = {"budget": 20, "n_instances": 10, "n_initial": 20}
    curve = simulate(classifier(), MarginSampling(), *task, **sizes, **settings)
    rng = np.random.RandomState(0)
    initial = rng.permutation(len(X))[:20]
    by_hand = ActiveLearner(
        classifier(), MarginSampling(), X, **settings | {"random_state": rng}
    ).teach(initial, y[initial])
    scores = [by_hand.score(TEST_INPUTS, LABELS[TEST])]
    for _ in range(2):
        positions = by_hand.query(10)
        by_hand.teach(positions, y[positions])
        scores.append(by_hand.score(TEST_INPUTS, LABELS[TEST]))
    assert curve.score.tolist() == scores
