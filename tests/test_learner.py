import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import EntropySampling, MarginSampling, RandomSampling

X, y = load_iris(return_X_y=True)
START = np.r_[0:3, 50:53, 100:103]
POOL = np.setdiff1d(np.arange(150), START)
X_pool, y_pool = X[POOL], y[POOL]


def make(estimator=None, strategy=None, **kwargs):
    settings = {"X_initial": X[START], "y_initial": y[START], "random_state": 0} | kwargs
    return ActiveLearner(
        estimator or LaplaceUpdateClassifier(), strategy or MarginSampling(), X_pool, **settings
    )


def state(learner):
    """Attributes as they are bound, and what they predict."""
    return dict(vars(learner)), learner.labels_, learner.predict_proba(X)


def assert_unchanged(learner, before):
    assert vars(learner) == before[0]
    pd.testing.assert_frame_equal(learner.labels_, before[1])
    np.testing.assert_array_equal(learner.predict_proba(X), before[2])


class TestQuery:
    def test_positions_are_those_of_the_whole_pool(self):
        learner = make()
        for _ in range(30):
            position = learner.query()
            direct = MarginSampling().query(learner, X_pool, 141, return_utilities=True)[1]
            taught = learner.labels_.position
            assert position[0] not in set(taught)
            direct[taught] = -1
            assert direct[position[0]] == direct.max()
            learner.teach(position, y_pool[position])

    def test_until_the_pool_is_empty(self):
        learner = make(strategy=RandomSampling())
        first = learner.query(100)
        learner.teach(first, y_pool[first])
        rest = learner.query(41)
        learner.teach(rest, y_pool[rest])
        assert sorted([*first, *rest]) == list(range(141))
        with pytest.raises(ValueError, match="pool is empty"):
            learner.query()

    def test_more_than_are_left(self):
        learner = make().teach([0, 1], y_pool[:2])
        with pytest.raises(ValueError, match=r"between 1 and the size of the pool, 139; got 140"):
            learner.query(140)

    def test_it_changes_nothing(self):
        learner = make()
        before = state(learner)
        learner.query(5)
        assert_unchanged(learner, before)

    def test_random_state_makes_a_run_reproducible(self):
        def run(seed):
            learner = make(strategy=RandomSampling(), random_state=seed)
            for _ in range(5):
                position = learner.query()
                assert learner.query() == position  # nothing has happened in between
                learner.teach(position, y_pool[position])
            return learner.labels_.position.tolist()

        assert run(0) == run(0)
        assert run(0) != run(1)
        assert len(set(run(0))) > 1

    def test_a_strategy_keeps_its_own_random_state(self):
        runs = [
            make(strategy=RandomSampling(random_state=7), random_state=s).query() for s in (0, 1)
        ]
        assert runs[0] == runs[1]

    def test_before_any_label(self):
        learners = [
            make(strategy=strategy, X_initial=None, y_initial=None)
            for strategy in (RandomSampling(), MarginSampling())
        ]
        chosen = [learner.query(3).tolist() for learner in learners]
        assert chosen[0] == chosen[1]


class TestTeach:
    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), GaussianNB()])
    def test_labels_are_learnt_by_updates(self, estimator):
        learner = make(estimator).teach([5, 60], y_pool[[5, 60]]).teach(90, y_pool[90])
        twin = estimator.fit(X[START], y[START]).partial_fit(X_pool[[5, 60]], y_pool[[5, 60]])
        twin.partial_fit(X_pool[[90]], y_pool[[90]])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), LogisticRegression()])
    def test_every_label_refits_if_so_asked(self, estimator):
        learner = make(estimator, refit_every=1).teach([5, 60], y_pool[[5, 60]])
        rows = np.r_[START, POOL[[5, 60]]]
        twin = estimator.fit(X[rows], y[rows])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_refits_come_after_so_many_labels(self):
        learner, refits = make(refit_every=3), []
        twin = make()
        for position in range(7):
            learner.teach(position, y_pool[position])
            twin.teach(position, y_pool[position])
            refit = not np.array_equal(learner.predict_proba(X), twin.predict_proba(X))
            if refit:
                refits.append(position + 1)
                twin.refit()
        assert refits == [3, 6]

    def test_labels_in_the_order_of_teaching(self):
        learner = make().teach([7, 3], [1, 0]).teach(99, 2)
        expected = pd.DataFrame({"position": [7, 3, 99], "label": [1, 0, 2]})
        expected["position"] = expected["position"].astype("Int64")
        pd.testing.assert_frame_equal(learner.labels_[["position", "label"]], expected)
        assert X_pool[learner.labels_.position].shape == (3, 4)

    def test_no_labels_yet(self):
        assert make().labels_.columns.tolist() == ["position", "label", "time", "annotator"]
        assert make().labels_.empty

    def test_from_no_labels_at_all(self):
        learner = make(
            LaplaceUpdateClassifier(prior_precision=0.01),
            RandomSampling(),
            X_initial=None,
            y_initial=None,
            classes=[0, 1, 2],
        )
        learner.teach(5, y_pool[5])
        assert learner.predict_proba(X).shape == (150, 3)
        for _ in range(40):
            position = learner.query()
            learner.teach(position, y_pool[position])
        assert learner.score(X, y) > 0.85

    def test_classes_reach_estimators_that_take_them_in_partial_fit(self):
        learner = make(
            SGDClassifier(loss="log_loss", random_state=0),
            X_initial=X[:2],
            y_initial=y[:2],
            classes=[0, 1, 2],
        )
        assert learner.teach([60], [1]).predict_proba(X).shape == (150, 3)

    def test_a_fitted_estimator_goes_on_from_what_it_knows(self):
        fitted = LaplaceUpdateClassifier().fit(X[START], y[START])
        learner = make(fitted, X_initial=None, y_initial=None)
        np.testing.assert_array_equal(learner.predict_proba(X), fitted.predict_proba(X))
        learner.teach([5], y_pool[[5]])
        expected = make().teach([5], y_pool[[5]]).predict_proba(X)
        np.testing.assert_array_equal(learner.predict_proba(X), expected)

    def test_the_objects_of_the_caller_stay_as_they_are(self):
        estimator, strategy = LaplaceUpdateClassifier(), MarginSampling()
        make(estimator, strategy, classes=[0, 1, 2]).teach([1], [0])
        assert not hasattr(estimator, "classes_")
        assert estimator.classes is None
        assert strategy.random_state is None

    @pytest.mark.parametrize("kind", [list, pd.DataFrame, pl.DataFrame])
    def test_pools_of_other_kinds(self, kind):
        def convert(A):
            return A.tolist() if kind is list else kind(dict(zip("abcd", A.T, strict=True)))

        learner = ActiveLearner(
            LaplaceUpdateClassifier(),
            EntropySampling(),
            convert(X_pool),
            X_initial=convert(X[START]),
            y_initial=y[START],
            random_state=0,
        )
        twin = make(strategy=EntropySampling())
        for _ in range(5):
            position = learner.query(2)
            np.testing.assert_array_equal(position, twin.query(2))
            learner.teach(position, y_pool[position])
            twin.teach(position, y_pool[position])
        np.testing.assert_allclose(
            learner.refit().predict_proba(convert(X)), twin.refit().predict_proba(X)
        )

    def test_text_labels_and_a_network(self):
        names = load_iris().target_names
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        learner = make(LaplaceUpdateClassifier(network), y_initial=names[y[START]])
        learner.teach([0, 50], names[y_pool[[0, 50]]])
        assert learner.estimator_.feature_extractor is network
        assert set(learner.predict(X)) <= set(names)


class TestErrors:
    @pytest.mark.parametrize(
        ("indices", "labels", "match"),
        [
            ([141], [0], r"between 0 and 140, positions in X_pool; got \[141\]"),
            ([-1], [0], r"got \[-1\]"),
            ([3, 3], [0, 0], "distinct positions"),
            ([2], [0], r"labelled already: \[2\].*relabel"),
            ([0.5], [0], "integer positions"),
            ([True], [0], "integer positions"),
            ([[3]], [0], "integer positions"),
            ([3, 4], [0], "one label per row of X: 2; got 1"),
            ([3], [9], "labels that are not among the classes"),
            ([3], [np.nan], "y|NaN"),
        ],
    )
    @pytest.mark.parametrize("refit_every", [None, 1])
    def test_a_refused_label_is_not_recorded(self, indices, labels, match, refit_every):
        learner = make(refit_every=refit_every, classes=[0, 1, 2]).teach([2], y_pool[[2]])
        before = state(learner)
        with pytest.raises(ValueError, match=match):
            learner.teach(indices, labels)
        assert_unchanged(learner, before)

    @pytest.mark.parametrize("refit_every", [None, 1])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
    def test_a_failure_while_learning(self, monkeypatch, refit_every, error):
        learner = make(GaussianNB(), refit_every=refit_every)
        before = state(learner)

        def spoil_and_fail(self, *_):
            self.theta_[:] = 0  # an estimator that changes itself before it fails
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(GaussianNB, "partial_fit", spoil_and_fail)
            patch.setattr(GaussianNB, "fit", spoil_and_fail)
            with pytest.raises(error):
                learner.teach([1], y_pool[[1]])
        assert_unchanged(learner, before)

    def test_nothing_to_refit(self):
        learner = make(X_initial=None, y_initial=None)
        with pytest.raises(ValueError, match="no label to fit on yet"):
            learner.refit()

    @pytest.mark.parametrize("wrong", [0, -1, 1.5, "always", True])
    def test_refit_every(self, wrong):
        with pytest.raises(ValueError, match="refit_every must be None, 'auto' or an integer >= 1"):
            make(refit_every=wrong)

    def test_an_estimator_that_cannot_update(self):
        with pytest.raises(
            TypeError, match=r"LogisticRegression has no partial_fit.*refit_every=1"
        ):
            make(LogisticRegression())

    def test_initial_labels_without_instances(self):
        with pytest.raises(ValueError, match="X_initial and y_initial must be given together"):
            make(X_initial=None)

    def test_a_strategy_that_is_none(self):
        with pytest.raises(TypeError, match="strategy must have a method query; got 'margin'"):
            make(strategy="margin")


def test_verbose_tells_of_refits(capsys):
    make(verbose=1).teach([1], [0]).refit()
    assert capsys.readouterr().out.splitlines() == [
        "[ActiveLearner] fitting LaplaceUpdateClassifier on 9 labels",
        "[ActiveLearner] fitting LaplaceUpdateClassifier on 10 labels",
    ]
