import copy

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from learners import POOL, START, X, X_pool, assert_unchanged, make, state, y, y_pool
from sklearn.datasets import load_iris
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torch.utils import data

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import (
    BADGE,
    CoreSet,
    EntropySampling,
    MarginSampling,
    PowerSampling,
    Preselection,
    RandomSampling,
    UncertaintyHerding,
)


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
    @pytest.mark.parametrize(
        "estimator", [LaplaceUpdateClassifier(prior_precision=1.0), GaussianNB()]
    )
    def test_labels_are_learnt_by_updates(self, estimator):
        learner = make(estimator).teach([5, 60], y_pool[[5, 60]]).teach(90, y_pool[90])
        twin = estimator.fit(X[START], y[START]).partial_fit(X_pool[[5, 60]], y_pool[[5, 60]])
        twin.partial_fit(X_pool[[90]], y_pool[[90]])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    @pytest.mark.parametrize(
        "estimator", [LaplaceUpdateClassifier(prior_precision=1.0), LogisticRegression()]
    )
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
        columns = ["position", "label", "time", "annotator", "weight", "confidence"]
        assert make().labels_.columns.tolist() == columns
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
        fitted = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[START], y[START])
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
        twin = make(LaplaceUpdateClassifier(), EntropySampling(), refit_every="auto")
        for _ in range(5):
            position = learner.query(2)
            np.testing.assert_array_equal(position, twin.query(2))
            learner.teach(position, y_pool[position])
            twin.teach(position, y_pool[position])
        np.testing.assert_allclose(
            learner.refit().predict_proba(convert(X)), twin.refit().predict_proba(X)
        )

    def test_a_dataset_of_inputs(self):
        class Rows(data.Dataset):
            def __len__(self):
                return len(X_pool)

            def __getitem__(self, i):
                return torch.as_tensor(X_pool[i])

        estimator = LaplaceUpdateClassifier(nn.Linear(4, 3, dtype=torch.float64))
        learner = ActiveLearner(estimator, MarginSampling(), Rows(), random_state=0)
        twin = ActiveLearner(estimator, MarginSampling(), X_pool, random_state=0)
        for _ in range(10):
            position = learner.query()
            np.testing.assert_array_equal(position, twin.query())
            for each in (learner, twin):
                each.teach(position, y_pool[position])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_text_labels_and_a_network(self):
        names = load_iris().target_names
        network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
        learner = make(LaplaceUpdateClassifier(network), y_initial=names[y[START]])
        learner.teach([0, 50], names[y_pool[[0, 50]]])
        assert learner.estimator_.feature_extractor is network
        assert set(learner.predict(X)) <= set(names)


class TestByValue:
    def test_instances_from_outside_the_pool_are_learnt(self):
        learner = make().teach(X=X_pool[[5, 60]] + 0.1, y=[0, 1]).teach(7, y_pool[7])
        twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(X[START], y[START])
        twin.partial_fit(X_pool[[5, 60]] + 0.1, [0, 1]).partial_fit(X_pool[[7]], y_pool[[7]])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert learner.labels_.position.isna().tolist() == [True, True, False]
        rows = np.concatenate([X[START], X_pool[[5, 60]] + 0.1, X_pool[[7]]])
        np.testing.assert_array_equal(learner.instances_, rows)
        labels = np.concatenate([y[START], [0, 1], y_pool[[7]]])
        np.testing.assert_array_equal(
            learner.refit().predict_proba(X), twin.fit(rows, labels).predict_proba(X)
        )

    @pytest.mark.parametrize("extractor", [None, np.tanh])
    def test_in_the_order_of_teaching(self, extractor):
        """The order counts where an estimator remembers the newest."""
        estimator = LaplaceUpdateClassifier(extractor, memory_size=4, prior_precision=1.0)
        learner = make(estimator)
        learner.query()
        learner.teach(3, 0).teach(X=X[:2], y=[0, 0]).teach([90, 50], y_pool[[90, 50]])
        learner.teach(X=X[-1:], y=[2]).refit()
        rows = np.concatenate([X[START], X_pool[[3]], X[:2], X_pool[[90, 50]], X[-1:]])
        np.testing.assert_array_equal(learner.instances_, rows)
        labels = np.r_[y[START], 0, 0, 0, y_pool[[90, 50]], 2]
        twin = estimator.fit(rows, labels)
        np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), rtol=1e-7)

    def test_either_indices_or_instances(self):
        for wrong in ({}, {"indices": [0], "X": X[:1]}):
            with pytest.raises(ValueError, match="one of indices and X"):
                make().teach(**wrong, y=[0])


def test_another_strategy():
    learner = make(random_state=0)
    margin = learner.query(3)
    strategy = CoreSet()
    learner.strategy = strategy
    assert learner.strategy is strategy
    assert learner.query(3).tolist() == make(strategy=CoreSet(), random_state=0).query(3).tolist()
    with pytest.raises(TypeError, match="strategy must have a method query"):
        learner.strategy = "margin"
    learner.strategy = MarginSampling()
    assert learner.query(3).tolist() == margin.tolist()


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (LaplaceUpdateClassifier(), UncertaintyHerding),
        (make_pipeline(StandardScaler(), LaplaceUpdateClassifier()), UncertaintyHerding),
        (LogisticRegression(), MarginSampling),
        (make_pipeline(TfidfVectorizer(), LogisticRegression()), MarginSampling),
    ],
)
def test_without_a_strategy(estimator, expected):
    is_text = "tfidfvectorizer" in getattr(estimator, "named_steps", {})
    pool = [f"text {i % 7} {i}" for i in range(30)] if is_text else X_pool
    learner = ActiveLearner(estimator, X_pool=pool, random_state=0)
    assert type(learner.strategy) is expected
    chosen = learner.query(2)
    twin = ActiveLearner(estimator, expected(), pool, random_state=0)
    assert chosen.tolist() == twin.query(2).tolist()
    learner.teach(chosen, [0, 1])
    assert learner.query(3).tolist() == twin.teach(chosen, [0, 1]).query(3).tolist()
    learner.strategy = RandomSampling()
    learner.strategy = None
    assert type(learner.strategy) is expected


class TestChangedEstimator:
    """Who learns something beside the learner finds it in the queries."""

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_queries(self, method):
        learner = make(LaplaceUpdateClassifier(), EntropySampling())
        learner.query()
        getattr(learner.estimator_, method)(X[::2], y[::2])
        expected = EntropySampling().query(learner.estimator_, X_pool, 5)
        assert learner.query(5).tolist() == expected.tolist()
        learner.teach([0], y_pool[:1])
        expected = EntropySampling().query(learner.estimator_, X_pool, 5, return_utilities=True)
        assert learner.query(5).tolist() == [p for p in expected[0] if p != 0][:5]

    def test_new_classes(self):
        learner = make()
        learner.query()
        learner.estimator_.add_classes(77)
        assert 77 in learner.teach(3, 77).predict(X_pool[[3]])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_learns_by_itself(copied):
    learner = make().teach(3, 0)
    before = state(learner)
    twin = copied(learner).teach(4, 0).refit()
    assert twin.labels_.position.tolist() == [3, 4]
    assert_unchanged(learner, before)


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

    def test_initial_labels_without_instances(self):
        with pytest.raises(ValueError, match="X_initial and y_initial must be given together"):
            make(X_initial=None)

    @pytest.mark.parametrize(
        ("kind", "match"),
        [
            (data.TensorDataset, r"a TensorDataset with a tuple of 2 .*\[item\[0\] for item in"),
            (lambda *pair: data.Subset(data.TensorDataset(*pair), [3, 4]), "got a Subset with"),
            (lambda *pair: data.DataLoader(data.TensorDataset(*pair)), "got a DataLoader, which"),
            (lambda *_: data.ChainDataset([]), "got a ChainDataset, which can only be iterated"),
        ],
    )
    def test_pools_of_torch_that_are_none(self, tmp_path, kind, match):
        pool = kind(torch.as_tensor(X_pool), torch.as_tensor(y_pool))
        path = tmp_path / "labels.sqlite"
        with pytest.raises(TypeError, match=match):
            ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), pool, journal=path)
        assert not path.exists()

    def test_a_strategy_that_is_none(self):
        with pytest.raises(TypeError, match="strategy must have a method query; got 'margin'"):
            make(strategy="margin")

    def test_a_pool_in_the_place_of_the_strategy(self):
        with pytest.raises(
            TypeError, match=r"(?s)method query; got .{20,40}\. Pass .* and the pool as X_pool"
        ):
            ActiveLearner(LaplaceUpdateClassifier(), X_pool, X_pool)
        for arguments in [(), (MarginSampling(),), (X_pool,)]:
            with pytest.raises(TypeError, match=r"X_pool must be given.*estimator, X_pool=X\)"):
                ActiveLearner(LaplaceUpdateClassifier(), *arguments)


class TestEstimatorsWithoutProbabilities:
    """They are refused before anybody labels, where the strategy needs probabilities."""

    ESTIMATORS = [
        LinearSVC(),
        make_pipeline(StandardScaler(), LinearSVC()),
        RidgeClassifier(),
        Perceptron(),
        SGDClassifier(loss="hinge"),
        GridSearchCV(LinearSVC(), {"C": [1.0]}, cv=2),
        VotingClassifier([("a", LogisticRegression()), ("b", LinearSVC())], voting="hard"),
    ]
    STRATEGIES = [
        MarginSampling(),
        BADGE(),
        PowerSampling(EntropySampling()),
        Preselection(CoreSet(), MarginSampling()),
        Preselection(BADGE()),
    ]

    @pytest.mark.parametrize("estimator", ESTIMATORS)
    def test_when_the_learner_is_made(self, estimator):
        for strategy in self.STRATEGIES:
            with pytest.raises(TypeError, match=r"predict_proba; got .*CalibratedClassifierCV"):
                make(estimator, strategy, refit_every=1, X_initial=None, y_initial=None)
        learner = make(estimator, CoreSet(), refit_every=1, X_initial=None, y_initial=None)
        with pytest.raises(TypeError, match="predict_proba"):
            learner.strategy = MarginSampling()
        positions = learner.query(4)
        assert learner.teach(positions, [0, 1, 0, 1]).predict(X).shape == (150,)

    @pytest.mark.parametrize(
        "estimator",
        [
            GridSearchCV(SGDClassifier(loss="log_loss"), {"alpha": [1.0]}),
            StackingClassifier([("a", LinearSVC())]),
            make_pipeline(StandardScaler(), StackingClassifier([("a", LinearSVC())])),
        ],
    )
    def test_those_that_have_them_once_fitted(self, estimator):
        make(estimator, refit_every=1, X_initial=None, y_initial=None).query()
