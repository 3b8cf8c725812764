from functools import partial

import numpy as np
import pandas as pd
import pytest
from modAL.batch import uncertainty_batch_sampling
from modAL.density import information_density
from modAL.disagreement import (
    KL_max_disagreement,
    consensus_entropy_sampling,
    max_disagreement_sampling,
    max_std_sampling,
    vote_entropy_sampling,
)
from modAL.uncertainty import (
    classifier_uncertainty,
    entropy_sampling,
    margin_sampling,
    uncertainty_sampling,
)
from modAL.utils.combination import make_product, make_query_strategy
from modAL.utils.selection import multi_argmax
from modal_learners import START, X, X_pool, make, make_committee, y, y_pool
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from torch import nn

import laplace_al
from laplace_al import LaplaceUpdateClassifier, simulate
from laplace_al.integrations.modal import ModalStrategy
from laplace_al.strategies import (
    EntropySampling,
    LeastConfidentSampling,
    MarginSampling,
    PowerSampling,
    QueryByCommittee,
    SequentialBatch,
)


def learner_of_ours(strategy, estimator=None, **kwargs):
    return laplace_al.ActiveLearner(
        estimator or LaplaceUpdateClassifier(),
        strategy,
        X_pool,
        **{"X_initial": X[START], "y_initial": y[START], "random_state": 0} | kwargs,
    )


SAME = [
    (margin_sampling, MarginSampling),
    (entropy_sampling, EntropySampling),
    (uncertainty_sampling, LeastConfidentSampling),
]


class TestModalStrategiesInOurs:
    @pytest.mark.parametrize(("theirs", "ours"), SAME)
    @pytest.mark.parametrize("n_instances", [1, 5])
    def test_the_same_formula_chooses_the_same(self, theirs, ours, n_instances):
        """One by one in the same order; of several modAL tells no order."""
        learner = learner_of_ours(ModalStrategy(theirs))
        twin = learner_of_ours(ours())
        for _ in range(10):
            positions, expected = learner.query(n_instances), twin.query(n_instances)
            assert set(positions) == set(expected)
            for each in (learner, twin):
                each.teach(expected, y_pool[expected])

    @pytest.mark.parametrize(("theirs", "ours"), SAME)
    @pytest.mark.parametrize("estimator", [GaussianNB(), LogisticRegression()])
    def test_any_classifier(self, theirs, ours, estimator):
        estimator = clone(estimator).fit(X[START], y[START])
        assert ModalStrategy(theirs).query(estimator, X_pool) == ours().query(estimator, X_pool)

    def test_candidates_are_all_that_it_sees(self):
        mask = np.zeros(len(X_pool), dtype=bool)
        mask[[3, 40, 77, 120]] = True
        learner = LaplaceUpdateClassifier().fit(X[START], y[START])
        strategy = ModalStrategy(uncertainty_batch_sampling)
        positions, utilities = strategy.query(
            learner, X_pool, 3, candidates=mask, return_utilities=True
        )
        assert set(positions) < {3, 40, 77, 120}
        np.testing.assert_array_equal(utilities[positions], 1)
        assert np.isneginf(utilities[~mask]).all()
        assert utilities[mask].sum() == 3

    @pytest.mark.parametrize("kind", [np.asarray, pd.DataFrame, np.ndarray.tolist])
    @pytest.mark.parametrize("strategy", [uncertainty_batch_sampling, margin_sampling])
    def test_a_loop(self, strategy, kind):
        learner = laplace_al.ActiveLearner(
            LaplaceUpdateClassifier(prior_precision=1.0),
            ModalStrategy(strategy),
            kind(X_pool),
            X_initial=kind(X[START]),
            y_initial=y[START],
            refit_every=None,
        )
        twin = make(strategy=strategy)
        left = np.arange(len(X_pool))
        for _ in range(5):
            positions = learner.query(3)
            places, instances = twin.query(X_pool[left], n_instances=3)
            np.testing.assert_array_equal(positions, left[places])
            learner.teach(positions, y_pool[positions])
            twin.teach(instances, y_pool[left[places]])
            left = np.delete(left, places)
        assert learner.score(kind(X), y) > 0.9

    def test_on_features(self):
        extractor = nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3))
        clf = LaplaceUpdateClassifier(extractor)
        raw, transformed = (
            learner_of_ours(ModalStrategy(uncertainty_batch_sampling, on_transformed=value), clf)
            for value in (False, True)
        )
        twin = laplace_al.ActiveLearner(
            LaplaceUpdateClassifier(),
            ModalStrategy(uncertainty_batch_sampling),
            raw.estimator_.transform(X_pool),
            X_initial=raw.estimator_.transform(X[START]),
            y_initial=y[START],
        )
        np.testing.assert_array_equal(transformed.query(8), twin.query(8))
        assert set(transformed.query(8)) != set(raw.query(8))

    def test_densities(self):
        def density(learner, X):
            return information_density(X, "euclidean")

        utility = make_product(classifier_uncertainty, density)
        three = make_query_strategy(utility, partial(multi_argmax, n_instances=3))
        learner = learner_of_ours(ModalStrategy(three))
        expected = classifier_uncertainty(learner, X_pool) * information_density(X_pool)
        assert set(learner.query(3)) == set(np.argsort(expected)[-3:])
        with pytest.raises(ValueError, match=r"must return 2 distinct positions.*returned array"):
            learner.query(2)

    def test_keyword_arguments(self):
        plain, shuffled = (
            ModalStrategy(margin_sampling, kw_args={"random_tie_break": value}, random_state=0)
            for value in (False, True)
        )
        learner = LogisticRegression().fit(X[START], y[START])
        ties = np.repeat(X[:1], 50, axis=0)
        assert plain.query(learner, ties) == plain.query(learner, ties)
        assert shuffled.query(learner, ties) == shuffled.query(learner, ties)
        drawn = {
            int(clone(shuffled).set_params(random_state=i).query(learner, ties)[0])
            for i in range(9)
        }
        assert len(drawn) > 3

    def test_numpys_generator_is_given_back(self):
        strategy = ModalStrategy(
            margin_sampling, kw_args={"random_tie_break": True}, random_state=0
        )
        learner = LogisticRegression().fit(X[START], y[START])
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        strategy.query(learner, X_pool)
        np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

    @pytest.mark.parametrize("strategy", [margin_sampling, uncertainty_batch_sampling])
    def test_before_any_label_it_draws_at_random(self, strategy):
        chosen = [
            learner_of_ours(each, X_initial=None, y_initial=None).query(3).tolist()
            for each in (ModalStrategy(strategy), MarginSampling())
        ]
        assert chosen[0] == chosen[1] != [0, 1, 2]

    def test_in_simulate(self):
        ours, theirs = (
            simulate(
                LaplaceUpdateClassifier(),
                strategy,
                X_pool,
                y_pool,
                X,
                y,
                budget=15,
                n_initial=9,
                random_state=0,
            )
            for strategy in (MarginSampling(), ModalStrategy(margin_sampling))
        )
        assert ours.score.nunique() > 1
        np.testing.assert_array_equal(ours.score, theirs.score)

    def test_label_by_label_it_follows_the_imagined_labels(self):
        learner = LaplaceUpdateClassifier().fit(X[START], y[START])
        ours, theirs = (
            SequentialBatch(strategy, labels="predicted", random_state=0).query(learner, X_pool, 5)
            for strategy in (MarginSampling(), ModalStrategy(margin_sampling))
        )
        np.testing.assert_array_equal(ours, theirs)

    def test_modals_learners_as_they_are(self):
        mask = np.arange(len(X_pool)) % 2 == 0
        for learner, strategy in (
            (make(), uncertainty_batch_sampling),
            (make_committee(), vote_entropy_sampling),
        ):
            direct = strategy(learner, X_pool[mask], n_instances=4)
            wrapped = ModalStrategy(strategy).query(learner, X_pool, 4, candidates=mask)
            np.testing.assert_array_equal(wrapped, np.flatnonzero(mask)[direct])

    def test_scikit_learn_object(self):
        strategy = ModalStrategy(
            margin_sampling, kw_args={"random_tie_break": True}, random_state=3
        )
        assert clone(strategy).get_params() == strategy.get_params()
        assert repr(strategy).startswith("ModalStrategy(")


class TestCommitteesOfDrawnWeights:
    def test_vote_entropy(self):
        learner = LaplaceUpdateClassifier().fit(X[START], y[START])
        utilities = QueryByCommittee(n_members=7).query(learner, X_pool, return_utilities=True)[1]
        position = ModalStrategy(vote_entropy_sampling, n_members=7).query(learner, X_pool)[0]
        assert utilities[position] == utilities.max() > 0

    def test_largest_divergence(self):
        learner = LaplaceUpdateClassifier().fit(X[START], y[START])
        draws = learner.sample_proba(X_pool, 10)  # (members, pool, classes)
        mean = draws.mean(axis=0)
        divergence = (draws * np.log(draws / mean)).sum(axis=2).max(axis=0)
        strategy = ModalStrategy(max_disagreement_sampling)
        assert strategy.query(learner, X_pool) == divergence.argmax()
        few = np.isin(np.arange(len(X_pool)), np.argsort(divergence)[:20])
        assert strategy.query(learner, X_pool, candidates=few) == np.argsort(divergence)[19]

    def test_the_consensus_is_the_prediction(self):
        learner = LaplaceUpdateClassifier().fit(X[START], y[START])
        position = ModalStrategy(consensus_entropy_sampling).query(learner, X_pool)
        assert position == EntropySampling().query(learner, X_pool)

    def test_names_of_classes(self):
        names = np.array(["a", "b", "c"])
        learner = learner_of_ours(ModalStrategy(vote_entropy_sampling), y_initial=names[y[START]])
        expected = learner_of_ours(ModalStrategy(vote_entropy_sampling)).query(3)
        np.testing.assert_array_equal(learner.query(3), expected)

    def test_before_any_label(self):
        learner = learner_of_ours(
            ModalStrategy(vote_entropy_sampling), X_initial=None, y_initial=None
        )
        assert learner.query(3).tolist() != [0, 1, 2]

    def test_a_custom_strategy_of_a_committee(self):
        def custom(committee, X, n_instances=1):
            assert len(list(committee)) == len(committee) == 10
            return multi_argmax(KL_max_disagreement(committee, X), n_instances)

        learner = LaplaceUpdateClassifier().fit(X[START], y[START])
        expected = ModalStrategy(max_disagreement_sampling).query(learner, X_pool, 3)
        np.testing.assert_array_equal(ModalStrategy(custom).query(learner, X_pool, 3), expected)

    def test_no_posterior(self):
        learner = GaussianNB().fit(X[START], y[START])
        with pytest.raises(TypeError, match="needs the posterior of a LaplaceUpdateClassifier"):
            ModalStrategy(vote_entropy_sampling).query(learner, X_pool)


class TestErrorsOfStrategies:
    def query(self, strategy, n_instances=2, **kwargs):
        learner = LaplaceUpdateClassifier().fit(X[START], y[START])
        return ModalStrategy(strategy, **kwargs).query(learner, X_pool, n_instances)

    @pytest.mark.parametrize(
        "chosen", [[0], [3, 3], [0, 999], [-1, 0], [0.5, 1.0], [[0, 1]], [True, False]]
    )
    def test_positions_that_are_none(self, chosen):
        with pytest.raises(ValueError, match=r"must return 2 distinct positions among 141 cand"):
            self.query(lambda learner, X, n_instances=1: np.array(chosen))

    def test_positions_with_instances(self):
        """As strategies of modAL before 0.4 return them."""
        positions = self.query(lambda learner, X, n_instances=1: (np.array([7, 2]), X[[7, 2]]))
        assert positions.tolist() == [7, 2]

    def test_one_position_as_a_number(self):
        assert self.query(lambda learner, X: X[:, 0].argmax(), 1) == X_pool[:, 0].argmax()

    def test_strategies_that_need_modals_learners(self):
        with pytest.raises(AttributeError, match=r"asked the learner for 'predict'.*regression"):
            self.query(max_std_sampling)

    def test_predictions_of_others_than_the_pool(self):
        def others(learner, X, n_instances=1):
            assert learner.predict_proba(X[:5]).shape == (5, 3)
            return np.arange(n_instances)

        assert self.query(others).tolist() == [0, 1]
        with pytest.raises(ValueError, match=r"of shape \(141, 4\); got \(5, 4\)"):
            self.query(others, on_transformed=True)

    def test_utilities(self):
        with pytest.raises(TypeError, match="margin_sampling says which instances it chooses"):
            PowerSampling(ModalStrategy(margin_sampling)).query(GaussianNB().fit(X, y), X_pool)

    @pytest.mark.parametrize(
        ("params", "match"),
        [
            ({"kw_args": {"n_instances": 3}}, "kw_args must not hold n_instances"),
            ({"kw_args": 3}, "'kw_args' parameter"),
            ({"n_members": 1}, "'n_members' parameter"),
        ],
    )
    def test_parameters(self, params, match):
        with pytest.raises(ValueError, match=match):
            self.query(margin_sampling, **params)
        with pytest.raises(ValueError, match="'query_strategy' parameter"):
            self.query("margin")
