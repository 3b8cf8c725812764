import copy
import enum

import modAL.models
import numpy as np
import pandas as pd
import pytest
from modAL.disagreement import (
    consensus_entropy_sampling,
    max_std_sampling,
    vote_entropy,
)
from modal_learners import NEW, POOL, START, X, X_pool, make, make_committee, y, y_pool
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, SGDClassifier, SGDRegressor
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import laplace_al
from laplace_al import LaplaceUpdateClassifier, strategies
from laplace_al.integrations.modal import ActiveLearner, Committee
from laplace_al.strategies import (
    MarginSampling,
)


class TestOurStrategiesInModal:
    @pytest.mark.parametrize("name", ["BADGE", "BALD", "CoreSet", "MarginSampling", "TypiClust"])
    def test_a_loop(self, name):
        strategy = getattr(strategies, name)(random_state=0)
        learner, twin = (
            make(strategy=strategy),
            LaplaceUpdateClassifier(prior_precision=1.0).fit(X[START], y[START]),
        )
        left = np.arange(len(X_pool))
        for _ in range(5):
            places, instances = learner.query(X_pool[left], n_instances=2)
            expected = strategy.query(learner, X_pool[left], 2)
            np.testing.assert_array_equal(places, expected)
            np.testing.assert_array_equal(instances, X_pool[left[places]])
            learner.teach(instances, y_pool[left[places]])
            twin.partial_fit(instances, y_pool[left[places]])
            left = np.delete(left, places)
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert len(learner.X_training) == len(learner.y_training) == len(START) + 10

    def test_they_see_the_posterior_and_the_labelled_instances(self):
        learner = make()
        for strategy in (strategies.BALD(random_state=0), strategies.CoreSet(random_state=0)):
            ours = laplace_al.ActiveLearner(
                LaplaceUpdateClassifier(prior_precision=1.0),
                strategy,
                X_pool,
                X_initial=X[START],
                y_initial=y[START],
            )
            np.testing.assert_array_equal(strategy(learner, X_pool, 5), ours.query(5))

    @pytest.mark.parametrize("name", ["BADGE", "CoreSet", "EntropySampling", "TypiClust"])
    def test_in_a_committee(self, name):
        committee = make_committee(query_strategy=getattr(strategies, name)(random_state=0))
        places, instances = committee.query(X_pool, n_instances=3)
        assert len(set(places)) == 3
        committee.teach(instances, y_pool[places])

    def test_a_committee_has_no_posterior(self):
        committee = make_committee(query_strategy=strategies.BALD())
        with pytest.raises(TypeError, match=r"BALD needs the posterior.*got Committee"):
            committee.query(X_pool)


class TestTeach:
    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), GaussianNB()])
    @pytest.mark.parametrize("only_new", [False, True])
    def test_labels_are_learnt_by_updates(self, estimator, only_new):
        learner, twin = make(clone(estimator)), clone(estimator).fit(X[START], y[START])
        for rows in ([5, 60], [100]):
            learner.teach(X_pool[rows], y_pool[rows], only_new=only_new)
            twin.partial_fit(X_pool[rows], y_pool[rows])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        np.testing.assert_array_equal(learner.X_training, np.r_[X[START], X_pool[NEW]])
        np.testing.assert_array_equal(learner.y_training, np.r_[y[START], y_pool[NEW]])

    def test_estimators_without_updates_are_fitted_anew(self):
        learner = make(LogisticRegression())
        learner.teach(X_pool[NEW], y_pool[NEW])
        twin = LogisticRegression().fit(np.r_[X[START], X_pool[NEW]], np.r_[y[START], y_pool[NEW]])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        learner.teach(X_pool[NEW], y_pool[NEW], only_new=True)
        twin.fit(X_pool[NEW], y_pool[NEW])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert len(learner.X_training) == len(START) + 6

    def test_weights_of_the_new_labels(self):
        learner, twin = make(), LaplaceUpdateClassifier(prior_precision=1.0).fit(X[START], y[START])
        learner.teach(X_pool[NEW], y_pool[NEW], sample_weight=[1, 2, 3])
        twin.partial_fit(X_pool[NEW], y_pool[NEW], sample_weight=[1, 2, 3])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_from_nothing(self):
        learner = ActiveLearner(LaplaceUpdateClassifier(classes=[0, 1, 2], prior_precision=1.0))
        learner.teach(X[:1], y[:1])
        learner.teach(X[50:52], y[50:52])
        twin = LaplaceUpdateClassifier(classes=[0, 1, 2], prior_precision=1.0).fit(X[:1], y[:1])
        twin.partial_fit(X[50:52], y[50:52])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_an_estimator_that_comes_fitted_goes_on(self):
        fitted = LaplaceUpdateClassifier().fit(X[START], y[START])
        twin = copy.copy(fitted).partial_fit(X_pool[NEW], y_pool[NEW])
        learner = ActiveLearner(fitted)
        learner.teach(X_pool[NEW], y_pool[NEW])
        assert learner.estimator is fitted
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_a_new_class_opens(self):
        rows = START[:6]
        learner, twin = (
            make(rows=rows),
            LaplaceUpdateClassifier(prior_precision=1.0).fit(X[rows], y[rows]),
        )
        learner.teach(X[[100, 3]], y[[100, 3]])
        twin.add_classes(2).partial_fit(X[[100, 3]], y[[100, 3]])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    @pytest.mark.parametrize("known", [np.asarray, pd.Series])
    @pytest.mark.parametrize("new", [list, np.asarray, pd.Series])
    def test_a_new_class_opens_beside_text_from_pandas(self, known, new):
        names = load_iris().target_names
        rows = START[:6]
        learner = ActiveLearner(
            LaplaceUpdateClassifier(), X_training=X[rows], y_training=known(names[y[rows]])
        )
        learner.teach(X[[100, 3]], new(names[y[[100, 3]]]))
        twin = LaplaceUpdateClassifier().fit(X[rows], names[y[rows]])
        twin.add_classes("virginica").partial_fit(X[[100, 3]], names[y[[100, 3]]])
        np.testing.assert_array_equal(learner.predict(X), twin.predict(X))
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_a_new_class_where_none_can_be_opened_refits(self):
        learner = make(SGDClassifier(random_state=0), rows=START[:6])
        learner.teach(X[[100]], y[[100]])
        rows = [*START[:6], 100]
        twin = SGDClassifier(random_state=0).fit(X[rows], y[rows])
        np.testing.assert_array_equal(learner.estimator.coef_, twin.coef_)

    def test_declared_classes_are_all(self):
        learner = make(LaplaceUpdateClassifier(classes=[0, 1]), rows=START[:6])
        with pytest.raises(ValueError, match="not among the classes"):
            learner.teach(X[[100]], y[[100]])
        assert learner.estimator.classes_.tolist() == [0, 1]
        assert len(learner.y_training) == 6

    def test_a_regressor(self):
        learner = make(SGDRegressor(random_state=0), max_std_sampling)
        twin = SGDRegressor(random_state=0).fit(X[START], y[START])
        learner.teach(X_pool[NEW], y_pool[NEW] + 0.5)
        twin.partial_fit(X_pool[NEW], y_pool[NEW] + 0.5)
        np.testing.assert_array_equal(learner.predict(X), twin.predict(X))

    @pytest.mark.parametrize("estimator", [MultinomialNB(), LogisticRegression()])
    @pytest.mark.parametrize(
        ("convert", "convert_labels"),
        [
            (lambda A: A.tolist(), lambda b: b.tolist()),
            (lambda A: pd.DataFrame(A, columns=list("abcd")), pd.Series),
            (lambda A: pd.DataFrame(A, columns=list("abcd")), np.asarray),
            (sparse.csr_matrix, np.asarray),
        ],
        ids=["list", "frame and series", "frame and array", "sparse"],
    )
    def test_containers(self, estimator, convert, convert_labels):
        learner = ActiveLearner(clone(estimator))
        learner.fit(convert(X[START]), convert_labels(y[START]))
        twin = make(clone(estimator))
        for each, A, b in (
            (learner, convert(X_pool[NEW]), convert_labels(y_pool[NEW])),
            (twin, X_pool[NEW], y_pool[NEW]),
        ):
            each.teach(A, b)
        np.testing.assert_allclose(learner.predict(convert(X)), twin.predict(X))
        assert type(learner.X_training) is type(convert(X))
        together = learner.X_training
        together = together.toarray() if sparse.issparse(together) else np.asarray(together)
        np.testing.assert_array_equal(together, twin.X_training)
        np.testing.assert_array_equal(learner.y_training, twin.y_training)

    def test_fit_forgets(self):
        learner = make().fit(X_pool[NEW], y_pool[NEW])
        twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(X_pool[NEW], y_pool[NEW])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert len(learner.X_training) == 3

    def test_missing_values_where_they_are_allowed(self):
        A = np.full((2, 4), np.nan)
        with pytest.raises(ValueError, match="NaN"):
            make(GaussianNB()).teach(A, [0, 1])
        learner = make(GaussianNB(), force_all_finite=False)
        with pytest.raises(ValueError, match="GaussianNB does not accept missing values"):
            learner.teach(A, [0, 1])


class Recorder(GaussianNB):
    """Keeps what it is asked to learn."""

    def fit(self, X, y):
        self.asked_ = "fit", np.array(X), np.array(y)
        return super().fit(X, y)

    def partial_fit(self, X, y):
        self.asked_ = "partial_fit", np.array(X), np.array(y)
        return super().partial_fit(X, y)


class TestBootstrap:
    def asked(self, random_state=0, n_before=0, **kwargs):
        learner = make(Recorder(), random_state=random_state)
        for _ in range(n_before):
            learner._fit_to_known(bootstrap=True)
        learner.teach(X_pool, y_pool, bootstrap=True, **kwargs)
        return learner.estimator.asked_

    def test_it_fits_anew_on_a_sample_of_all(self):
        how, A, b = self.asked()
        everything = np.c_[np.r_[X[START], X_pool], np.r_[y[START], y_pool]]
        assert how == "fit"
        assert len(A) == 150
        rows = {tuple(row) for row in everything}
        drawn = {tuple(row) for row in np.c_[A, b]}
        assert drawn < rows
        assert 0.5 * len(rows) < len(drawn) < 0.8 * len(rows)

    def test_of_the_new_ones_alone_it_learns_a_sample(self):
        how, A, b = self.asked(only_new=True)
        assert how == "partial_fit"
        assert len(A) == len(X_pool)
        rows = {tuple(row) for row in np.c_[X_pool, y_pool]}
        assert {tuple(row) for row in np.c_[A, b]} < rows

    def test_random_state(self):
        first, again, other = (self.asked(seed)[1] for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        assert not np.array_equal(first, self.asked(n_before=1)[1])

    def test_the_first_fit(self):
        whole, sampled = make(Recorder()), make(Recorder(), bootstrap_init=True, random_state=0)
        np.testing.assert_array_equal(whole.estimator.asked_[1], X[START])
        assert sampled.estimator.asked_[1].shape == X[START].shape
        assert not np.array_equal(sampled.estimator.asked_[1], X[START])

    def test_frames(self):
        learner = make(Recorder()).fit(pd.DataFrame(X), pd.Series(y), bootstrap=True)
        assert learner.estimator.asked_[1].shape == X.shape


class Fragile(GaussianNB):
    """Changes itself in place before it fails."""

    error = None

    def fit(self, X, y):
        return self._fragile(X, y, super().fit)

    def partial_fit(self, X, y):
        return self._fragile(X, y, super().partial_fit)

    def _fragile(self, X, y, method):
        if self.error is not None:
            self.theta_[:] = 0
            raise self.error
        return method(X, y)


class TestErrors:
    @pytest.mark.parametrize(
        ("A", "b", "error"),
        [
            (X[:2], y[:1], "inconsistent numbers of samples"),
            (X[:2, :3], y[:2], r"X must have rows like those so far, of shape \(4,\); got \(3,\)"),
            (X[0], y[:4], r"X must have rows like those so far, of shape \(4,\); got \(\)"),
            (np.full((1, 4), np.inf), [0], "infinity"),
            (X[:1], [np.nan], "NaN"),
        ],
    )
    @pytest.mark.parametrize("bootstrap", [False, True])
    def test_a_refused_label_changes_nothing(self, A, b, error, bootstrap):
        learner = make(random_state=0)
        before, posterior = dict(vars(learner)), dict(vars(learner.estimator))
        with pytest.raises(ValueError, match=error):
            learner.teach(A, b, bootstrap=bootstrap)
        assert vars(learner) == before
        assert vars(learner.estimator) == posterior

    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
    @pytest.mark.parametrize(
        "act",
        [
            lambda learner: learner.teach(X_pool, y_pool),
            lambda learner: learner.teach(X_pool, y_pool, only_new=True),
            lambda learner: learner.teach(X_pool, y_pool, bootstrap=True),
            lambda learner: learner.fit(X_pool, y_pool),
        ],
    )
    def test_a_failure_while_learning(self, error, act):
        estimator = Fragile()
        learner = make(estimator, random_state=0)
        before, proba = dict(vars(learner)), learner.predict_proba(X)
        estimator.error = error
        with pytest.raises(error):
            act(learner)
        assert vars(learner) == before
        assert learner.estimator is estimator
        np.testing.assert_array_equal(learner.predict_proba(X), proba)

    def test_labels_of_another_kind(self):
        learner = make()
        with pytest.raises(ValueError, match="of the same kind as those so far"):
            learner.teach(X[:1], ["a"])
        assert learner.y_training.dtype == y.dtype

    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier, GaussianNB])
    def test_labels_that_numpy_would_join(self, estimator):
        with pytest.raises(ValueError, match="y_training must hold labels; got None at position 1"):
            ActiveLearner(estimator(), X_training=X[:2], y_training=["a", None])
        learner = ActiveLearner(estimator(), X_training=X[:2], y_training=["a", "b"])
        for labels, match in (
            ([0], "of the same kind as those so far, such as 'a'; got 0"),
            ([np.nan], "y must hold labels; got nan"),
            (np.ma.array(["c"], mask=[True]), "got a masked label"),
        ):
            with pytest.raises(ValueError, match=match):
                learner.teach(X[:1], labels)
        with pytest.raises(ValueError, match="of one kind"):
            learner.fit(X[:2], ["a", 1])
        assert list(learner.y_training) == ["a", "b"]

    @pytest.mark.parametrize("kind", [list, lambda y: pd.Series(y, dtype=object)])
    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier, GaussianNB])
    def test_members_of_an_enum(self, estimator, kind):
        mail = enum.Enum("Mail", {"SPAM": "spam", "HAM": "ham"}, type=str)
        learner = ActiveLearner(estimator(), X_training=X[:2], y_training=kind(list(mail)))
        learner.teach(X[2:3], kind([mail.HAM]))
        assert list(learner.y_training) == ["spam", "ham", "ham"]
        assert learner.estimator.classes_.tolist() == ["ham", "spam"]

    def test_a_class_is_not_left_open(self):
        learner = make(rows=START[:6])
        with pytest.raises(ValueError, match="sample_weight must be >= 0"):
            learner.teach(X[[100]], y[[100]], sample_weight=[-1])
        assert learner.estimator.classes_.tolist() == [0, 1]

    def test_frames_of_other_columns(self):
        frame = pd.DataFrame(X, columns=list("abcd"))
        learner = ActiveLearner(GaussianNB(), X_training=frame, y_training=y)
        with pytest.raises(ValueError, match=r"columns \['d', 'c', 'b', 'a'\] are not \['a'"):
            learner.teach(frame[list("dcba")], y)
        assert len(learner.X_training) == 150

    def test_repr(self):
        assert repr(make()).startswith("ActiveLearner(")


class TestCommittee:
    def test_votes_are_modals(self):
        ours, theirs = make_committee(), modAL.models.Committee(make_committee().learner_list)
        for method in ("vote", "vote_proba", "predict_proba", "predict"):
            np.testing.assert_array_equal(getattr(ours, method)(X), getattr(theirs, method)(X))

    def test_each_learner_is_taught(self):
        committee = make_committee()
        assert committee.teach(X_pool[NEW], y_pool[NEW]) is None
        for i, learner in enumerate(committee):
            rows = START[i::3]
            twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[rows], y[rows])
            twin.partial_fit(X_pool[NEW], y_pool[NEW])
            np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
            assert len(learner.X_training) == 6

    def test_a_loop_gets_better(self):
        committee = make_committee(query_strategy=consensus_entropy_sampling)
        disagreement = vote_entropy(committee, X).mean()
        left = np.arange(len(X_pool))
        for _ in range(10):
            places, instances = committee.query(X_pool[left], n_instances=2)
            committee.teach(instances, y_pool[left[places]])
            left = np.delete(left, places)
        assert vote_entropy(committee, X).mean() < 0.5 * disagreement
        assert committee.score(X, y) > 0.95

    def test_a_new_class(self):
        committee = Committee([make(rows=START[:6]), make(rows=START[1:6])])
        committee.teach(X[[100]], y[[100]])
        assert committee.classes_.tolist() == [0, 1, 2]
        assert committee.vote_proba(X).shape == (150, 2, 3)

    def test_bagging(self):
        learners = [make(GaussianNB(), random_state=i) for i in range(3)]
        committee = Committee(learners).fit(X, y, bootstrap=True)
        means = [learner.estimator.theta_[0, 0] for learner in committee]
        assert len(set(means)) == 3
        committee.teach(X_pool, y_pool, bootstrap=True)
        assert len({learner.estimator.theta_[0, 0] for learner in committee} - set(means)) == 3

    @pytest.mark.parametrize("act", ["fit", "teach"])
    def test_if_one_refuses_none_has_learnt(self, act):
        learners = [make(), make(GaussianNB()), make(Fragile())]
        committee = Committee(learners)
        before, proba = [dict(vars(each)) for each in learners], committee.vote_proba(X)
        learners[-1].estimator.error = MemoryError
        with pytest.raises(MemoryError):
            getattr(committee, act)(X_pool, y_pool)
        assert [vars(each) for each in learners] == before
        np.testing.assert_array_equal(committee.vote_proba(X), proba)

    def test_modals_own_committee_can_be_taught(self):
        committee = modAL.models.Committee([make(), make(GaussianNB())])
        committee.teach(X_pool[NEW], y_pool[NEW])
        committee.teach(X_pool[NEW], y_pool[NEW], only_new=True)
        assert [len(learner.y_training) for learner in committee] == [len(START) + 6] * 2


def test_a_pipeline_is_fitted_anew():
    pipeline = make_pipeline(StandardScaler(), LaplaceUpdateClassifier())
    learner = make(pipeline, MarginSampling(random_state=0))
    places, instances = learner.query(X_pool)
    learner.teach(instances, y_pool[places])
    rows = np.r_[START, POOL[places]]
    twin = make_pipeline(StandardScaler(), LaplaceUpdateClassifier()).fit(X[rows], y[rows])
    np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
