import contextlib
import copy
import enum
import pickle
import re
import sqlite3
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import (
    LinearDiscriminantAnalysis,
    QuadraticDiscriminantAnalysis,
)
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn
from torch.utils import data

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, strategies
from laplace_al.loop.journal import Journal
from laplace_al.loop.learner import _MAX_DRIFT
from laplace_al.strategies import (
    BADGE,
    BALD,
    CoreSet,
    EntropySampling,
    MarginSampling,
    PowerSampling,
    Preselection,
    RandomSampling,
    TypiClust,
)

X, y = load_iris(return_X_y=True)
START = np.r_[0:3, 50:53, 100:103]
POOL = np.setdiff1d(np.arange(150), START)
X_pool, y_pool = X[POOL], y[POOL]


def make(estimator=None, strategy=None, **kwargs):
    settings = {
        "X_initial": X[START],
        "y_initial": y[START],
        "refit_every": None,
        "random_state": 0,
    } | kwargs
    return ActiveLearner(
        estimator or LaplaceUpdateClassifier(prior_precision=1.0),
        strategy or MarginSampling(),
        X_pool,
        **settings,
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


class TestSkipAndRelabel:
    def test_skipped_instances_are_not_asked_for(self):
        learner = make()
        first = learner.query(5)
        assert not set(learner.skip(first).query(136)) & set(first.tolist())
        with pytest.raises(ValueError, match="size of the pool, 136; got 137"):
            learner.query(137)
        assert learner.labels_.empty
        learner.teach(first[:2], y_pool[first[:2]])
        assert learner.labels_.position.tolist() == first[:2].tolist()

    def test_skipping_what_has_a_label(self):
        with pytest.raises(ValueError, match=r"to be skipped; labelled: \[4\]"):
            make().teach(4, 0).skip([3, 4])

    @pytest.mark.parametrize(
        "estimator", [LaplaceUpdateClassifier(prior_precision=1.0), GaussianNB()]
    )
    def test_a_corrected_label_counts_as_if_it_had_been_right(self, estimator):
        learner = make(estimator).teach([5, 60], [2, 2]).relabel([60, 5], y_pool[[60, 5]])
        rows = np.r_[START, POOL[[5, 60]]]
        twin = estimator.fit(X[rows], y[rows])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert learner.labels_.label.tolist() == y_pool[[5, 60]].tolist()
        assert learner.history_.action.tolist() == [*["label"] * 2, *["relabel"] * 2, "refit"]

    def test_relabelling_what_has_no_label(self):
        learner = make().teach(5, 0)
        before = state(learner)
        with pytest.raises(ValueError, match=r"have a label, to relabel it; without: \[6\]"):
            learner.relabel([5, 6], [1, 1])
        assert_unchanged(learner, before)

    def test_an_estimator_that_came_fitted_forgets_nothing(self):
        known = LaplaceUpdateClassifier().fit(X[START], y[START])
        learner = make(known, X_initial=None, y_initial=None).teach([5, 60], [2, 1])
        learner.relabel(5, 0)
        twin = known.partial_fit(X_pool[[5, 60]], [0, 1])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))


class TestTakingBack:
    @pytest.mark.parametrize(
        "estimator", [LaplaceUpdateClassifier(prior_precision=1.0), GaussianNB()]
    )
    def test_a_withdrawn_label_counts_as_if_it_had_never_been_given(self, estimator):
        learner = make(estimator).teach([5, 60, 90], y_pool[[5, 60, 90]]).unlabel([90, 5])
        rows = np.r_[START, POOL[[60]]]
        twin = estimator.fit(X[rows], y[rows])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert learner.labels_.position.to_dict() == {1: 60}
        assert {5, 90} <= set(learner.query(140).tolist())
        history = learner.history_
        assert history.action.tolist() == [*["label"] * 3, *["unlabel"] * 2, "refit"]
        assert history.position.tolist() == [5, 60, 90, 90, 5, pd.NA]
        assert history.row.tolist() == [0, 1, 2, 2, 0, pd.NA]

    def test_it_can_be_taught_again(self):
        learner = make().teach([5, 60], [2, 1]).unlabel(5).teach(5, 0)
        assert learner.labels_.label.to_dict() == {1: 1, 2: 0}
        twin = make().teach(60, 1).refit().teach(5, 0)
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_all_of_them(self):
        learner = make().teach([5, 60], [2, 1])
        learner.unlabel(learner.labels_.position)
        assert learner.labels_.empty
        np.testing.assert_array_equal(learner.predict_proba(X), make().predict_proba(X))

    def test_a_skipped_instance_is_asked_for_again(self):
        learner = make().teach(3, 0)
        model = learner.estimator_
        learner.skip([4, 5]).unskip(4, annotator="bob")
        assert learner.estimator_ is model
        assert set(range(141)) - set(learner.query(139).tolist()) == {3, 5}
        assert learner.history_.action.tolist() == ["label", "skip", "skip", "unskip"]
        assert learner.history_.annotator.tolist()[-1] == "bob"

    def test_skips_do_not_come_back_with_a_label(self):
        learner = make().skip(4).teach(4, 0).unlabel(4)
        assert learner._record.is_open[4]

    def test_rows_of_what_was_taught_by_value(self):
        learner = make().teach(X=X_pool[[5, 60]] + 0.1, y=[2, 2]).teach(7, 0)
        learner.relabel(rows=[1, 0], y=[1, 0], annotator="bob")
        assert learner.labels_.label.tolist() == [0, 1, 0]
        assert learner.labels_.annotator.tolist() == ["bob", "bob", None]
        rows = np.concatenate([X[START], X_pool[[5, 60]] + 0.1, X_pool[[7]]])
        np.testing.assert_array_equal(learner.instances_, rows)
        twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(rows, [*y[START], 0, 1, 0])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        learner.unlabel(rows=[0])
        np.testing.assert_array_equal(learner.instances_, np.delete(rows, len(START), axis=0))
        twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(
            learner.instances_, [*y[START], 1, 0]
        )
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_rows_of_the_pool_are_their_positions(self):
        by_row, by_position = (make().teach([5, 60, 7], [0, 2, 2]) for _ in range(2))
        by_row.relabel(rows=[1], y=[1]).unlabel(rows=by_row.labels_.index[[2]])
        by_position.relabel(60, 1).unlabel(7)
        columns = ["position", "label"]
        pd.testing.assert_frame_equal(by_row.labels_[columns], by_position.labels_[columns])
        np.testing.assert_array_equal(by_row.predict_proba(X), by_position.predict_proba(X))

    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), GaussianNB()])
    def test_a_fitted_estimator_is_as_it_came(self, estimator):
        known = clone(estimator).fit(X[START], y[START])
        learner = make(known, X_initial=None, y_initial=None).teach([5, 60], [2, 1])
        learner.unlabel([5, 60])
        assert learner.is_fitted
        np.testing.assert_array_equal(learner.predict_proba(X), known.predict_proba(X))
        learner.teach(5, 0)
        known.partial_fit(X_pool[[5]], [0])
        np.testing.assert_array_equal(learner.predict_proba(X), known.predict_proba(X))

    def test_an_estimator_that_came_fitted_and_learns_by_refits(self):
        known = LogisticRegression().fit(X[START], y[START])
        with pytest.warns(UserWarning, match=r"what it has learnt is lost.* X_initial"):
            learner = make(known, X_initial=None, y_initial=None, refit_every=1)
        learner.teach([5, 60], [0, 1]).unlabel([5, 60])
        np.testing.assert_array_equal(learner.predict_proba(X), known.predict_proba(X))

    @pytest.mark.parametrize("classes", [None, [0, 1, 2]])
    def test_without_any_label_it_waits(self, classes):
        learner = make(X_initial=None, y_initial=None, classes=classes)
        learner.teach([5, 60], [0, 1]).unlabel([5, 60])
        assert not learner.is_fitted
        learner.query()
        learner.teach([5, 60], [0, 1])
        twin = make(X_initial=None, y_initial=None, classes=classes).teach([5, 60], [0, 1])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_with_one_class_left_it_waits(self):
        learner = make(X_initial=None, y_initial=None).teach([5, 6, 60], [0, 0, 1]).unlabel(60)
        assert not learner.is_fitted
        learner.unlabel(5).teach(60, 1)
        twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(X_pool[[6, 60]], [0, 1])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    @pytest.mark.parametrize(
        ("act", "match"),
        [
            (lambda one: one.unlabel(4), r"have a label, to unlabel it; without: \[4\]"),
            (lambda one: one.unlabel([3, 141]), r"between 0 and 140.*\[141\]"),
            (lambda one: one.unlabel([3, 3]), "indices must be distinct positions"),
            (lambda one: one.unlabel([]), "distinct positions in X_pool, at least one"),
            (lambda one: one.unlabel(), r"unlabel\(rows=rows\): pass one of indices and rows"),
            (lambda one: one.unlabel(3, rows=0), "one of indices and rows"),
            (lambda one: one.unlabel(rows=[0, 2]), r"index of labels_.* not there: \[2\]"),
            (lambda one: one.unlabel(rows=-1), r"not there: \[-1\]"),
            (lambda one: one.unlabel(rows=[0, 0]), "rows must be distinct rows of labels_"),
            (lambda one: one.unlabel(rows=[True, False]), "integer rows of labels_"),
            (lambda one: one.relabel(rows=[0, 1, 7], y=[0, 0, 0]), r"not there: \[7\]"),
            (lambda one: one.relabel(rows=[0, 1], y=[0]), "one label per row"),
            (lambda one: one.relabel(3), r"got None .*unlabel to withdraw one"),
            (lambda one: one.relabel(y=[0]), r"relabel\(rows=rows\): pass one of indices and rows"),
            (lambda one: one.relabel(rows=1, y="cat"), "of the same kind as those so far"),
            (lambda one: one.unskip([8, 4]), r"are skipped.*; not skipped: \[4\]"),
            (lambda one: one.unskip(3), r"not skipped: \[3\]\. To withdraw a label call unlabel"),
            (lambda one: one.unskip(0.5), "integer positions"),
            (lambda one: one.skip(3), r"labelled: \[3\]\. To withdraw a label call unlabel"),
        ],
    )
    def test_what_is_refused_changes_nothing(self, act, match, tmp_path):
        path = tmp_path / "labels.sqlite"
        learner = make(journal=path).teach(3, 0).teach(X=X[:1], y=[0]).skip(8)
        before = state(learner)
        written = path.read_bytes()
        with pytest.raises(ValueError, match=match):
            act(learner)
        assert_unchanged(learner, before)
        assert path.read_bytes() == written
        learner.close()


def test_no_label_is_not_a_label():
    learner = make()
    before = state(learner)
    with pytest.raises(ValueError, match=r"got None at position 0\. Call skip for instances"):
        learner.teach(0, None)
    assert_unchanged(learner, before)


class TestTooFewClassesLeft:
    """A correction may take the only label of the second class."""

    def test_it_waits_for_a_second_class(self):
        learner = ActiveLearner(
            LaplaceUpdateClassifier(prior_precision=1.0), MarginSampling(), X_pool, random_state=0
        )
        learner.teach([0, 1, 2], ["cat", "cat", "cta"])
        assert learner.relabel(2, "cat") is learner
        assert not learner.is_fitted
        assert learner.labels_.label.tolist() == ["cat"] * 3
        assert learner.query()[0] not in {0, 1, 2}
        learner.teach([3], ["dog"])
        anew = LaplaceUpdateClassifier(prior_precision=1.0).fit(
            X_pool[:4], ["cat", "cat", "cat", "dog"]
        )
        np.testing.assert_allclose(learner.predict_proba(X), anew.predict_proba(X))

    @pytest.mark.parametrize("n_events", [2, 3])
    def test_a_journal_goes_on_there(self, tmp_path, n_events):
        settings = LaplaceUpdateClassifier(), MarginSampling(), X_pool
        path = tmp_path / "labels.sqlite"
        with ActiveLearner(*settings, journal=path) as learner:
            learner.teach([0, 1], ["cat", "cta"]).relabel(1, "cat")
            if n_events == 3:
                learner.teach([2], ["dog"])
        with ActiveLearner(*settings, journal=path) as again:
            assert again.is_fitted == learner.is_fitted == (n_events == 3)
            pd.testing.assert_frame_equal(again.history_, learner.history_)
            if again.is_fitted:
                np.testing.assert_array_equal(again.predict_proba(X), learner.predict_proba(X))

    def test_a_refit_by_hand_says_what_is_missing(self):
        learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X_pool)
        learner.teach([0, 1], ["cat", "cta"]).relabel(1, "cat")
        with pytest.raises(ValueError, match="at least 2 classes"):
            learner.refit()

    def test_declared_classes_need_no_second_one(self):
        learner = ActiveLearner(
            LaplaceUpdateClassifier(), MarginSampling(), X_pool, classes=["cat", "dog"]
        )
        learner.teach([0, 1], ["cat", "dog"]).relabel(1, "cat")
        assert learner.is_fitted


class TestColdStart:
    COLD = {"X_initial": None, "y_initial": None}

    @pytest.mark.parametrize(
        ("estimator", "refit_every"),
        [
            (LaplaceUpdateClassifier(prior_precision=1.0), None),
            (GaussianNB(), None),
            (LogisticRegression(), 1),
            (make_pipeline(StandardScaler(), LaplaceUpdateClassifier(prior_precision=1.0)), 1),
        ],
    )
    def test_labels_wait_until_there_are_two_classes(self, estimator, refit_every):
        learner = make(estimator, refit_every=refit_every, **self.COLD)
        for position in (0, 1):
            learner.query()
            learner.teach(position, 0)
            assert not learner.is_fitted
        learner.relabel(1, 1).relabel(1, 0) if learner.is_fitted else learner.relabel(1, 0)
        learner.teach(50, 1)
        assert learner.is_fitted
        twin = estimator.fit(X_pool[[0, 1, 50]], [0, 0, 1])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert learner.history_.action.tolist()[-2:] == ["label", "refit"]
        learner.query()

    @pytest.mark.parametrize("strategy", [CoreSet(random_state=0), TypiClust(random_state=0)])
    @pytest.mark.parametrize("extractor", [None, np.tanh])
    def test_strategies_that_look_at_features_choose_from_the_start(self, strategy, extractor):
        learner = make(LaplaceUpdateClassifier(extractor), strategy, **self.COLD)
        features = X_pool if extractor is None else extractor(X_pool)
        expected = strategy.query(None, features, 4)
        np.testing.assert_array_equal(learner.query(4), expected)

    def test_new_classes_open(self):
        learner = make(**self.COLD).teach([0, 50], [0, 1]).teach(100, 2)
        twin = LaplaceUpdateClassifier(prior_precision=1.0).fit(X_pool[[0, 50]], [0, 1])
        twin.add_classes(2).partial_fit(X_pool[[100]], [2])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        assert learner.history_.action.tolist() == ["label", "label", "refit", "label"]
        assert learner.query(3).shape == (3,)
        assert learner.refit().predict_proba(X).shape == (150, 3)

    @pytest.mark.parametrize("dtype", [object, "category", None])
    def test_new_classes_open_beside_text_from_pandas(self, dtype):
        names = load_iris().target_names
        rows = START[:6]
        series = pd.Series(names[y[rows]], index=rows, dtype=dtype)
        learner = make(X_initial=X[rows], y_initial=series)
        learner.teach(100, "virginica").teach([101, 3], pd.Series(["virginica", "setosa"]))
        twin = make(X_initial=X[rows], y_initial=names[y[rows]])
        twin.teach(100, "virginica").teach([101, 3], ["virginica", "setosa"])
        assert learner.estimator_.classes_.tolist() == names.tolist()
        np.testing.assert_array_equal(learner.predict(X), twin.predict(X))
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        np.testing.assert_array_equal(learner.refit().predict(X), twin.refit().predict(X))

    @pytest.mark.parametrize("label", [2, 2.0, np.uint8(2)])
    @pytest.mark.parametrize("dtype", [float, int, np.float32])
    def test_new_classes_open_for_numbers_of_any_kind(self, label, dtype):
        rows = START[:6]
        learner = make(X_initial=X[rows], y_initial=y[rows].astype(dtype)).teach(100, label)
        twin = make(X_initial=X[rows], y_initial=y[rows]).teach(100, 2)
        assert learner.estimator_.classes_.tolist() == [0, 1, 2]
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_new_classes_of_an_estimator_that_cannot_open_them(self):
        learner = make(GaussianNB(), **self.COLD).teach([0, 1, 50, 51], [0, 0, 1, 1])
        learner.teach([100, 101], [2, 2])
        twin = GaussianNB().fit(X_pool[[0, 1, 50, 51, 100, 101]], [0, 0, 1, 1, 2, 2])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_labels_of_another_kind(self):
        learner = make(**self.COLD).teach(0, "cat")
        with pytest.raises(ValueError, match="same kind as those so far, such as 'cat'; got"):
            learner.teach(1, 3)
        with pytest.raises(ValueError, match="of the same kind as those so far"):
            make(y_initial=y[START]).teach(0, "cat")


class TestKeptPool:
    @pytest.mark.parametrize("strategy", [MarginSampling(), BALD(n_samples=20), CoreSet()])
    @pytest.mark.parametrize(
        "estimator",
        [LaplaceUpdateClassifier(), LaplaceUpdateClassifier(np.tanh, memory_size=None)],
    )
    def test_choices_are_those_of_a_pool_scored_anew(self, strategy, estimator):
        learner = make(estimator, strategy.set_params(random_state=0))
        for step in range(6):
            is_open = learner._record.is_open
            expected = strategy.query(
                SimpleNamespace(
                    estimator=learner.estimator_, query=None, instances_=learner.instances_
                ),
                X_pool,
                3,
                candidates=is_open,
            )
            chosen = learner.query(3)
            np.testing.assert_array_equal(chosen, expected)
            learner.teach(chosen[0], y_pool[chosen[0]])
            if step == 2:
                learner.relabel(chosen[0], 1)
            if step == 3:
                learner.teach(X=X[:1], y=y[:1])
            if step == 4:
                learner.refit()

    def test_an_extractor_sees_each_instance_of_the_pool_once(self):
        seen = []

        def extract(rows):
            seen.append(len(rows))
            return np.tanh(rows)

        learner = make(LaplaceUpdateClassifier(extract), refit_every=4)
        learner.query()
        seen.clear()
        for _ in range(10):
            position = learner.query()
            learner.teach(position, y_pool[position])
        assert sum(seen) == len(START)  # the initial ones, at the first refit

    def test_pipelines_transform_the_pool_anew_after_each_fit(self):
        learner = make(make_pipeline(StandardScaler(), LaplaceUpdateClassifier()), refit_every=1)
        for _ in range(3):
            position = learner.query()
            direct = MarginSampling().query(learner.estimator_, X_pool, 141, return_utilities=True)
            direct[1][learner.labels_.position] = -1
            assert direct[1][position[0]] == direct[1].max()
            learner.teach(position, y_pool[position])


class TestAutomaticRefits:
    def test_it_refits_when_the_decrement_says_so(self):
        learner = make(LaplaceUpdateClassifier(prior_precision=0.01), refit_every="auto")
        n_refits, order = 0, np.random.default_rng(0).permutation(141)
        for n_labels, position in enumerate(order, start=1):
            before = copy.deepcopy(learner.estimator_)
            learner.teach(position, y_pool[position])
            before.partial_fit(X_pool[[position]], y_pool[[position]])
            rows = np.r_[START, POOL[order[:n_labels]]]
            is_far = before.newton_decrement(X[rows], y[rows]) > _MAX_DRIFT
            n_refits += is_far
            twin = clone(before).fit(X[rows], y[rows]) if is_far else before
            np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=1e-6)
        assert 1 <= n_refits < 100
        assert (learner.history_.action == "refit").sum() == n_refits

    @pytest.mark.parametrize(
        ("estimator", "n_refits"),
        [
            (GaussianNB(), 0),
            (LaplaceUpdateClassifier(forgetting=0.9), 0),
            (LogisticRegression(), 3),
            (make_pipeline(StandardScaler(), LaplaceUpdateClassifier()), 3),
            (SGDClassifier(loss="log_loss", class_weight="balanced"), 3),
            (LaplaceUpdateClassifier(class_weight="balanced"), 3),
        ],
    )
    def test_estimators_that_cannot_tell_their_drift(self, estimator, n_refits):
        learner = make(estimator, refit_every="auto")
        for i in range(3):
            learner.teach(i, y_pool[i])
        assert (learner.history_.action == "refit").sum() == n_refits

    def test_it_is_the_default(self):
        assert ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X).refit_every == "auto"

    @pytest.mark.parametrize("strategy", [RandomSampling(), MarginSampling()])
    def test_the_network_sees_each_instance_once(self, strategy):
        n_seen = []

        def tanh(rows):
            n_seen.append(len(rows))
            return np.tanh(rows)

        learner = ActiveLearner(
            LaplaceUpdateClassifier(tanh, prior_precision=1.0), strategy, X, random_state=0
        )
        learner.teach([0, 60, 120], y[[0, 60, 120]])
        n_fit = sum(n_seen)
        for i in range(1, 20):
            learner.teach(i, y[i])
        assert sum(n_seen) - n_fit <= 3 + 19


class TestHistory:
    def test_all_that_happened(self):
        start = pd.Timestamp.now(tz="UTC")
        learner = make(annotator="ann").teach([3, 4], [0, 1]).skip(7, annotator="bob")
        history = learner.relabel(4, 0, annotator="bob").history_
        columns = ["action", "position", "label", "time", "annotator", "row"]
        assert history.columns.tolist() == columns
        assert history.action.tolist() == ["label", "label", "skip", "relabel", "refit"]
        assert history.position.tolist() == [3, 4, 7, 4, pd.NA]
        assert history.row.tolist() == [0, 1, pd.NA, 1, pd.NA]
        assert history.label.tolist() == [0, 1, None, 0, None]
        assert history.annotator.tolist() == ["ann", "ann", "bob", "bob", "ann"]
        assert history.time.between(start, pd.Timestamp.now(tz="UTC")).all()
        assert learner.labels_.annotator.tolist() == ["ann", "bob"]


class TestJournal:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "labels.sqlite"

    @pytest.mark.parametrize("refit_every", [None, 3, "auto"])
    @pytest.mark.parametrize("cold", [False, True])
    def test_what_was_taken_back_stays_so(self, path, refit_every, cold):
        settings = {"refit_every": refit_every, "journal": path}
        if cold:
            settings |= {"X_initial": None, "y_initial": None}
        learner = make(**settings)
        acts = [
            lambda one: one.teach([5, 60, 61], y_pool[[5, 60, 61]]).skip([7, 8]),
            lambda one: one.teach(X=X[[0, 100]] + 0.1, y=[0, 2]).unskip(7),
            lambda one: one.unlabel(60),
            lambda one: one.relabel(rows=[4, 0], y=[1, 2], annotator="bob"),
            lambda one: one.teach([60, 8], [1, 2]),
            lambda one: one.unlabel(rows=[3, 1 + 4]),
            lambda one: one.teach(9, 0),
            lambda one: one.unlabel(rows=one.labels_.index),
            lambda one: one.teach([9, 70], [0, 1]),
        ]
        for act in acts:
            before = act(learner)
            learner.close()
            learner = make(**settings)
            assert vars(learner)["is_fitted"] == before.is_fitted
            pd.testing.assert_frame_equal(learner.labels_, before.labels_)
            pd.testing.assert_frame_equal(learner.history_, before.history_)
            if learner.is_fitted:
                np.testing.assert_array_equal(learner.predict_proba(X), before.predict_proba(X))
            np.testing.assert_array_equal(learner.query(3), before.query(3))
        learner.close()

    @pytest.mark.parametrize("estimator", [None, GaussianNB(), LogisticRegression()])
    @pytest.mark.parametrize(
        ("settings", "match"),
        [
            ({"X_initial": X[START], "y_initial": y[START]}, "same kind as those so far, such as"),
            ({"classes": [0, 1]}, "labels that are not among the classes: "),
            ({"classes": ["no", "or"]}, r"labels that are not among the classes: \['yes'\]"),
        ],
    )
    def test_labels_of_another_kind_than_elsewhere(self, path, estimator, settings, match):
        """They would become text beside text, or none of the declared classes."""
        cold = {"X_initial": None, "y_initial": None, "refit_every": "auto", "journal": path}
        with make(estimator, **cold) as learner:
            learner.teach([0, 60], ["no", "yes"])
        with pytest.raises(ValueError, match=f"journal=.* {match}"):
            make(estimator, **cold | settings)
        with make(estimator, **cold) as again:
            again.teach(1, "no")

    def test_labels_of_another_kind_than_those_withdrawn(self, path):
        learner = make(journal=path, X_initial=None, y_initial=None)
        learner.teach([0, 60], [0, 1]).unlabel([0, 60])
        with pytest.raises(ValueError, match="of the kind of its first one, int, withdrawn or not"):
            learner.teach([0, 60], ["no", "yes"])
        assert learner.labels_.empty
        learner.close()
        with make(journal=path, X_initial=None, y_initial=None) as again:
            again.teach([0, 60], [0, 1])

    @pytest.mark.parametrize("refit_every", [None, 3, "auto"])
    @pytest.mark.parametrize("cold", [False, True])
    @pytest.mark.parametrize("names", [False, True])
    def test_another_learner_goes_on_where_it_ends(self, path, refit_every, cold, names):
        labels = load_iris().target_names if names else np.arange(3)
        settings = {"refit_every": refit_every, "journal": path}
        if cold:
            settings |= {"X_initial": None, "y_initial": None}
        else:
            settings |= {"y_initial": labels[y[START]]}
        order = np.random.default_rng(0).permutation(141)
        learner = make(**settings)
        for round_, some in enumerate(order[:40].reshape(-1, 2)):
            learner.teach(some, labels[y_pool[some]])
            if round_ % 5 == 1:
                learner.relabel(some[0], labels[0]).skip(order[-round_ - 1])
            if round_ % 5 == 2:
                learner.teach(X=X[:2] + 0.1, y=labels[[0, 1]])
            if round_ % 4 == 3:
                before = learner
                learner.close()
                learner = make(**settings)
                pd.testing.assert_frame_equal(learner.labels_, before.labels_)
                pd.testing.assert_frame_equal(learner.history_, before.history_)
                np.testing.assert_allclose(
                    learner.predict_proba(X), before.predict_proba(X), atol=1e-6
                )
                np.testing.assert_array_equal(learner.query(3), before.query(3))
                np.testing.assert_array_equal(learner.instances_, before.instances_)
        learner.close()

    def test_a_label_that_cannot_be_written_is_not_learnt(self, path, monkeypatch):
        learner = make(journal=path).teach(3, 0).skip(6)
        before = state(learner)

        def disk_is_full(self, events):
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", disk_is_full)
            for act in (
                lambda: learner.teach(4, 0),
                lambda: learner.skip(5),
                lambda: learner.unskip(6),
                lambda: learner.relabel(rows=0, y=1),
                lambda: learner.unlabel(3),
                learner.refit,
            ):
                with pytest.raises(sqlite3.OperationalError, match="full"):
                    act()
                assert_unchanged(learner, before)
        learner.teach(4, 0).close()

    def test_an_interrupt_after_the_commit_keeps_the_label_once(self, path, monkeypatch):
        learner = make(journal=path).teach(3, 0)
        append = Journal.append

        def interrupted(self, events):
            append(self, events)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", interrupted)
            with pytest.raises(KeyboardInterrupt):
                learner.teach(4, 0)
        assert learner.labels_.position.tolist() == [3, 4]
        with pytest.raises(ValueError, match="labelled already"):
            learner.teach(4, 0)
        learner.teach(5, 0).close()
        assert make(journal=path).labels_.position.tolist() == [3, 4, 5]

    def test_one_learner_at_a_time(self, path):
        with make(journal=path) as learner:
            with pytest.raises(RuntimeError, match="in use by another ActiveLearner"):
                make(journal=path)
            learner.teach(1, 0)
        with pytest.raises(ValueError, match="is closed"):
            learner.teach(2, 0)
        assert learner.labels_.position.tolist() == [1]
        learner.query()

    def test_it_is_given_back_when_resuming_fails(self, path):
        with make(journal=path) as learner:
            learner.teach(1, 0)
        with pytest.raises(ValueError, match=r"journal=.* of the same kind as those so far"):
            make(journal=path, y_initial=y[START].astype(str))
        with make(journal=path) as learner:
            assert len(learner.labels_) == 1

    def test_no_copies_of_a_learner_with_a_journal(self, path):
        learner = make(journal=path)
        for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="can be copied or pickled"):
                duplicate(learner)
        twin = copy.deepcopy(make().teach(1, 0))
        assert pickle.loads(pickle.dumps(twin)).labels_.position.tolist() == [1]
        learner.close()


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
            TypeError, match=r"LogisticRegression has no partial_fit.*refit_every='auto' or 1"
        ):
            make(LogisticRegression())

    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier, SGDClassifier])
    @pytest.mark.parametrize("refit_every", [None, 3])
    @pytest.mark.parametrize("cold", [False, True])
    def test_balanced_weights_without_refits(self, tmp_path, estimator, refit_every, cold):
        initial = {"X_initial": None, "y_initial": None} if cold else {}
        settings = {"refit_every": refit_every, "journal": tmp_path / "labels.sqlite"} | initial
        with pytest.raises(
            ValueError, match=r"'balanced' .* Pass refit_every='auto' or 1 .* as a dict"
        ):
            make(estimator(class_weight="balanced"), **settings)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.filterwarnings("ignore::RuntimeWarning:sklearn")  # of classes without labels
    @pytest.mark.parametrize("classes", [None, [0, 1, 2]])
    def test_probabilities_that_updates_make_nan(self, tmp_path, classes):
        """Those of Gaussian naive Bayes, where an update has a single instance."""
        settings = {"X_initial": None, "y_initial": None, "classes": classes}
        settings |= {"refit_every": "auto", "journal": tmp_path / "labels.sqlite"}
        learner = make(GaussianNB(), **settings)
        for position in (0, 1, 60, 2, 120, 61, 121, 3):
            learner.teach(position, y_pool[[position]])
            before = told(learner)
            learner.close()
            learner = make(GaussianNB(), **settings)
            assert told(learner) == before
        assert not np.isnan(learner.predict_proba(X)).any()
        assert learner.score(X, y) > 0.8
        learner.close()

    @pytest.mark.parametrize(
        "setting", [{"class_weight": "balanced"}, {"early_stopping": True, "tol": None}]
    )
    @pytest.mark.parametrize("classes", [None, [0, 1, 2]])
    def test_settings_that_updates_do_not_take(self, setting, classes):
        """A label of one class waits for another one, and each is learnt by a refit."""
        estimator = SGDClassifier(loss="log_loss", random_state=0, **setting)
        settings = {"X_initial": None, "y_initial": None, "classes": classes}
        learner = make(estimator, refit_every="auto", **settings).teach(range(20), [0] * 20)
        assert not learner.is_fitted
        learner.teach(range(60, 80), [1] * 20).teach(80, 1)
        rows = [*range(20), *range(60, 81)]
        twin = clone(estimator).fit(X_pool[rows], [0] * 20 + [1] * 21)
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        with pytest.raises(ValueError, match="needs all labels at once, but updates"):
            make(estimator, refit_every=3, **settings)
        with pytest.raises(ValueError, match="needs all labels at once, but the labels behind"):
            make(twin, refit_every="auto", **settings)

    def test_balanced_weights_with_refits(self):
        estimator = LaplaceUpdateClassifier(class_weight="balanced", prior_precision=1.0)
        learner = make(estimator, refit_every=1).teach([5, 6], [0, 0]).teach(60, 1).unlabel(5)
        rows = np.r_[START, POOL[[6, 60]]]
        twin = estimator.fit(X[rows], y[rows])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        with pytest.raises(
            ValueError, match=r"behind a fitted .* unfitted, with its data as X_initial"
        ):
            make(estimator, refit_every=1, X_initial=None, y_initial=None)
        make(estimator, refit_every=1).teach(5, 0)

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


def test_verbose_tells_of_refits(capsys):
    make(verbose=1).teach([1], [0]).refit()
    assert capsys.readouterr().out.splitlines() == [
        "[ActiveLearner] fitting LaplaceUpdateClassifier on 9 labels",
        "[ActiveLearner] fitting LaplaceUpdateClassifier on 10 labels",
    ]


def test_the_prior_by_scale_goes_by_the_pool():
    """The first label has no variance, and an offset of the features says nothing."""
    far = X + 10
    learner = ActiveLearner(
        LaplaceUpdateClassifier(prior_precision="scale"),
        RandomSampling(),
        far,
        classes=np.unique(y),
        random_state=0,
    )
    learner.teach(0, y[0])
    expected = 0.01 * far.var(axis=0).sum()
    assert learner.estimator_.prior_precision_ == pytest.approx(expected, rel=0.2)
    for i in range(1, 5):
        learner.teach(i, y[i])
    before = learner.estimator_.prior_precision_
    assert learner.refit().estimator_.prior_precision_ == before
    assert learner.estimator.prior_precision == "scale"


@pytest.mark.parametrize("refit_every", [None, 1])
def test_a_refit_is_a_fit_where_a_declared_class_has_no_label(refit_every):
    """``partial_fit`` goes over the data once, ``fit`` until it converges."""
    labelled = np.flatnonzero(y < 2)
    learner = make(
        SGDClassifier(loss="log_loss", random_state=0),
        X_initial=X[labelled],
        y_initial=y[labelled],
        classes=[0, 1, 2],
        refit_every=refit_every,
    )
    expected = SGDClassifier(loss="log_loss", random_state=0).fit(X[labelled], y[labelled])
    np.testing.assert_array_equal(learner.estimator_.coef_, expected.coef_)
    learner.teach(X=X[-1:], y=y[-1:])
    expected.fit(np.r_[X[labelled], X[-1:]], np.r_[y[labelled], y[-1]])
    np.testing.assert_array_equal(learner.estimator_.coef_, expected.coef_)


class TestColumns:
    """Features that are extracted before a fit are told by their place alone."""

    frame = pd.DataFrame(X[START], columns=list("abcd"))

    @pytest.mark.parametrize("prior_precision", [1.0, "scale"])
    @pytest.mark.parametrize("columns", ["dcba", "abcx", "abc"])
    def test_initial_instances_have_those_of_the_pool(self, prior_precision, columns):
        initial = self.frame.reindex(columns=list(columns), fill_value=0.0)
        with pytest.raises(ValueError, match=r"X_initial must have the columns of X_pool"):
            ActiveLearner(
                LaplaceUpdateClassifier(prior_precision=prior_precision),
                MarginSampling(),
                self.frame,
                X_initial=initial,
                y_initial=y[START],
            )

    def test_initial_instances_have_their_number(self):
        with pytest.raises(ValueError, match=r"X_initial must have rows of shape \(4,\).*\(3,\)"):
            make(X_initial=X[START, :3])

    @pytest.mark.parametrize("strategy", [CoreSet(), MarginSampling()])
    def test_a_fitted_estimator_knows_them(self, strategy):
        clf = LaplaceUpdateClassifier().fit(self.frame, y[START])
        learner = ActiveLearner(clf, strategy, self.frame[list("dcba")])
        with pytest.raises(ValueError, match="must be in the same order"):
            learner.query()

    def test_a_column_without_a_name(self):
        pool = pd.DataFrame(X, columns=["a", np.nan, "c", "d"])
        rows = {"X_initial": pool[::50], "y_initial": y[::50]}
        learner = ActiveLearner(LogisticRegression(), RandomSampling(), pool, refit_every=1)
        assert not learner.is_fitted
        with pytest.raises(TypeError, match="Feature names"):
            ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), pool, **rows)

    def test_images_of_several_sizes(self):
        pool = np.zeros((9, 4, 4))
        means = LaplaceUpdateClassifier(lambda images: np.array([[i.mean(), 1] for i in images]))
        images = [np.zeros((4, 4)), np.ones((5, 5))]
        learner = ActiveLearner(means, RandomSampling(), pool, X_initial=images, y_initial=[0, 1])
        assert learner.is_fitted

    def test_others_tell_columns_by_name(self):
        by_name = make_column_transformer((StandardScaler(), ["a", "d"]))
        learner = ActiveLearner(
            make_pipeline(by_name, GaussianNB()),
            MarginSampling(),
            self.frame,
            X_initial=self.frame[list("dab")],
            y_initial=y[START],
            refit_every=1,
        )
        assert len(learner.query(2)) == 2


class TestWaiting:
    """What is taken before there is a model can be learnt once there is one."""

    @pytest.mark.parametrize(
        ("wrong", "match"),
        [([[1.0, 2.0]], r"rows of shape \(4,\)"), ([[1.0, 2.0, 3.0, np.nan]], "NaN")],
    )
    def test_instances_that_no_fit_would_take(self, wrong, match, tmp_path):
        settings = {"X_initial": None, "y_initial": None, "journal": tmp_path / "labels.sqlite"}
        with make(**settings) as learner:
            learner.teach(0, "a")
            before = len(learner.history_)
            with pytest.raises(ValueError, match=match):
                learner.teach(X=wrong, y=["a"])
            assert len(learner.history_) == before
            learner.teach(60, "b")
        with make(**settings) as learner:
            assert learner.labels_.label.tolist() == ["a", "b"]

    def test_a_row_of_the_pool_with_nan(self, tmp_path):
        """It is refused before anybody labels, or writes a journal."""
        pool, path = X.copy(), tmp_path / "labels.sqlite"
        pool[3, 1] = np.nan
        with pytest.raises(ValueError, match=r"NaN or infinity in 1 of its 150 rows: \[3\]"):
            ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), pool, journal=path)
        assert not path.exists()

    @pytest.mark.parametrize(
        "strategy", [MarginSampling(), BALD(), BADGE(), CoreSet(), TypiClust()]
    )
    def test_features_with_nan(self, strategy):
        """They are refused at the first query."""
        learner = ActiveLearner(LaplaceUpdateClassifier(np.log), strategy, X - X.min(axis=0) - 0.5)
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="the first at row 0"):
            learner.query()

    def test_initial_instances(self):
        with pytest.raises(ValueError, match="NaN"):
            make(X_initial=np.full((2, 4), np.nan), y_initial=[0, 0])


CLOSEST, CALIBRATED = KNeighborsClassifier(), CalibratedClassifierCV(LogisticRegression(), cv=3)
SEARCH = GridSearchCV(LaplaceUpdateClassifier(), {"prior_precision": [0.1, 1.0]}, cv=3)


@pytest.mark.filterwarnings("ignore:The least populated class")
class TestEstimatorsThatNeedMoreLabels:
    """They wait for labels, as all do for those of two classes, and say what for."""

    @pytest.mark.parametrize(
        ("estimator", "n_needed", "n_for_all_classes"),
        [
            (CLOSEST, 5, 5),
            (LinearDiscriminantAnalysis(), 4, 4),
            (CALIBRATED, 8, 9),
            (SEARCH, 7, 7),
            (make_pipeline(PCA(n_components=4), LogisticRegression()), 4, 4),
        ],
    )
    @pytest.mark.parametrize("strategy", [MarginSampling(), CoreSet(), RandomSampling()])
    def test_label_by_label_from_none(
        self, estimator, n_needed, n_for_all_classes, strategy, tmp_path
    ):
        """The journal gives back the same learner wherever it is left."""
        settings = {"X_initial": None, "y_initial": None, "refit_every": 1}
        settings |= {"journal": tmp_path / "labels.sqlite"}
        learner = make(estimator, strategy, **settings)
        for n_labels, position in enumerate([0, 60, 120, 1, 61, 121, 2, 62, 122, 3, 63], start=1):
            learner.query(2)
            waits = n_labels < n_needed
            is_refused = 1 < n_labels < n_for_all_classes
            warns = warns_that_it_waits if is_refused else contextlib.nullcontext
            with warns():
                learner.teach(position, y_pool[[position]])
            assert learner.is_fitted != waits
            assert (learner.history_.action == "refit").any() != waits
            before = told(learner)
            learner.close()
            with warns():
                learner = make(estimator, strategy, **settings)
            assert told(learner) == before

    def test_predictions_before(self):
        learner = make(CLOSEST, X_initial=None, y_initial=None, refit_every=1)
        with warns_that_it_waits():
            learner.teach([0, 60], [0, 1])
        with pytest.raises(NotFittedError, match="waits for more labels") as caught:
            learner.predict(X)
        assert "n_neighbors" in str(caught.value.__cause__)
        assert learner.teach([1, 2, 3], [0, 0, 0]).predict(X[:1]) == [0]

    def test_initial_labels(self):
        with warns_that_it_waits():
            learner = make(CLOSEST, X_initial=X[:60:59], y_initial=[0, 1], refit_every=1)
        assert learner.teach([1, 2, 3], [0, 0, 0]).is_fitted

    def test_a_warning_that_is_an_error(self, tmp_path):
        """Nothing is recorded, and a journal is free for the next one."""
        settings = {"X_initial": None, "y_initial": None, "refit_every": 1}
        learner = make(CLOSEST, journal=tmp_path / "labels.sqlite", **settings).teach(0, 0)
        before = told(learner)
        with pytest.raises(UserWarning, match="waits"):
            learner.teach(60, 1)
        assert told(learner) == before
        with warns_that_it_waits():
            learner.teach(60, 1).close()
        for _ in range(2):
            with pytest.raises(UserWarning, match="waits"):
                make(CLOSEST, journal=tmp_path / "labels.sqlite", **settings)

    @pytest.mark.parametrize(
        "estimator",
        [
            CalibratedClassifierCV(GaussianNB(), cv=3),
            QuadraticDiscriminantAnalysis(reg_param=0.5),
        ],
    )
    def test_a_class_that_appears_late(self, estimator, tmp_path):
        """It is left out of the fit for so long, and labels can still be corrected."""
        settings = {"X_initial": None, "y_initial": None, "refit_every": "auto"}
        settings |= {"journal": tmp_path / "labels.sqlite"}
        known = [*range(6), *range(60, 67)]
        learner = make(estimator, **settings).teach(known, [0] * 6 + [1] * 7)
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner.teach(120, 2)
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner.relabel(66, 0)
        twin = clone(estimator).fit(X_pool[known], [0] * 6 + [1] * 6 + [0])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        before = told(learner)
        learner.close()
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner = make(estimator, **settings)
        assert told(learner) == before
        learner.teach(range(121, 126), [2] * 5)
        assert learner.estimator_.classes_.tolist() == [0, 1, 2]
        with warns_that_it_waits("it knows the classes [0, 1] alone"):
            learner.unlabel(range(120, 125))
        assert learner.labels_.label.tolist() == [0] * 6 + [1] * 6 + [0, 2]

    @pytest.mark.parametrize(
        ("estimator", "match"),
        [
            (make_pipeline(PCA(n_components=5), LogisticRegression()), "n_components=5"),
            (LogisticRegression(C=-1.0), "'C' parameter"),
        ],
    )
    def test_what_no_label_mends_is_refused(self, estimator, match):
        learner = make(estimator, X_initial=None, y_initial=None, refit_every=1).teach(0, 0)
        before = told(learner)
        with pytest.raises(ValueError, match=match):
            learner.teach(60, 1)
        assert told(learner) == before

    def test_bad_instances_are_refused(self):
        learner = make(LogisticRegression(), X_initial=None, y_initial=None, refit_every=1)
        learner.teach(0, 0)
        before = told(learner)
        with pytest.raises(ValueError, match="NaN"):
            learner.teach(X=np.full((1, 4), np.nan), y=[1])
        assert told(learner) == before

    def test_too_few_labels_left_for_a_model_that_is_there(self):
        learner = make(CLOSEST, X_initial=None, y_initial=None, refit_every=1)
        learner.teach([0, 1, 2, 60, 61], [0, 0, 0, 1, 1])
        before = told(learner)
        with pytest.raises(ValueError, match="n_neighbors"):
            learner.unlabel(0)
        assert told(learner) == before

    def test_the_posterior_behind_a_search(self):
        learner = make(SEARCH, X_initial=None, y_initial=None, refit_every=1, strategy=BALD())
        learner.query(3)
        positions = np.r_[0:3, 60:63]
        learner.teach(positions, y_pool[positions])
        assert not set(learner.query(3)) & set(positions)


def told(learner):
    """What a learner says of itself."""
    predictions = learner.predict_proba(X).tolist() if learner.is_fitted else None
    labels = learner.labels_.drop(columns="time").to_numpy().tolist()
    return labels, predictions, learner.query(3).tolist(), len(learner.history_)


@pytest.mark.parametrize(
    "strategy", [MarginSampling(), CoreSet(), BALD(), Preselection(BADGE(), n_candidates=30)]
)
@pytest.mark.parametrize("extractor", [None, np.square])
def test_a_pool_in_a_file_is_as_one_in_memory(strategy, extractor, tmp_path):
    """HDF5 takes positions in increasing order only; other arrays in files take only slices."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "X.h5", "w") as file:
        pools = file.create_dataset("X", data=X_pool), X_pool
        seen = []
        for pool in pools:  # the second one resumes the journal of the first
            settings = LaplaceUpdateClassifier(extractor), strategy, pool
            path = tmp_path / "labels.sqlite"
            with ActiveLearner(*settings, random_state=0, journal=path) as learner:
                positions = learner.query(5)
                learner.teach(positions, y_pool[positions]).teach(X=pool[:2], y=[0, 1])
                learner.relabel(positions[:1], [2]).unlabel(positions[1])
                seen.append(learner.query(5).tolist())
                assert len(learner.instances_) == len(learner.labels_)
        with ActiveLearner(*settings[:2], pools[0], random_state=0, journal=path) as learner:
            assert learner.query(5).tolist() == seen[1]


def warns_that_it_waits(until_then=""):
    match = f"so few labels and waits for more; until then {re.escape(until_then)}"
    return pytest.warns(UserWarning, match=match)


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


class TestInitialLabels:
    @pytest.mark.parametrize("kind", [pd.DataFrame, lambda column: column])
    def test_a_column(self, kind):
        with pytest.warns(DataConversionWarning, match="column-vector"):
            learner = make(y_initial=kind(y[START][:, None])).teach([0], y_pool[:1])
        expected = make().teach([0], y_pool[:1])
        np.testing.assert_array_equal(learner.predict_proba(X), expected.predict_proba(X))

    def test_missing_ones(self):
        with pytest.raises(ValueError, match="y_initial must hold labels; got None at position 8"):
            make(y_initial=["a"] * 8 + [None])

    @pytest.mark.parametrize("none", [[], np.empty((0, 4))])
    def test_none(self, none):
        with pytest.raises(ValueError, match="X_initial has no rows"):
            make(X_initial=none, y_initial=[])

    def test_outside_the_classes(self):
        with pytest.raises(ValueError, match=r"not among the classes: \[2\]"):
            make(SGDClassifier(loss="log_loss"), classes=[0, 1])


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


class TestTensorPools:
    @pytest.mark.parametrize("kind", ["bfloat16", "gradient", "float32"])
    @pytest.mark.parametrize("strategy", [MarginSampling(), CoreSet(), TypiClust()])
    @pytest.mark.parametrize("prior_precision", [1.0, "scale"])
    def test_as_the_classifier_takes_them(self, kind, strategy, prior_precision):
        pool = torch.tensor(X_pool, dtype=torch.float32)
        pool = pool.bfloat16() if kind == "bfloat16" else pool
        pool = pool.requires_grad_() if kind == "gradient" else pool
        learner = ActiveLearner(
            LaplaceUpdateClassifier(prior_precision=prior_precision),
            strategy,
            pool,
            random_state=0,
        )
        learner.teach([0, 50, 100], [0, 1, 2]).query(2)
        learner.teach(X=pool[:1] * 2, y=[1])
        assert len(learner.query(2)) == 2


@pytest.mark.parametrize("strategy", [BADGE(), CoreSet()])
def test_frames_as_output_are_no_frames_inside(strategy):
    extractor = StandardScaler().fit(X)

    def queried():
        learner = make(LaplaceUpdateClassifier(extractor, prior_precision="scale"), strategy)
        return learner.teach([0, 60], y_pool[[0, 60]]).query(3).tolist()

    expected = queried()
    with config_context(transform_output="pandas"):
        assert queried() == expected


def test_initial_labels_of_one_class_wait_for_a_second():
    learner = ActiveLearner(
        LaplaceUpdateClassifier(prior_precision=1.0),
        MarginSampling(),
        X,
        X_initial=X[:3],
        y_initial=y[:3],
    )
    assert not learner.is_fitted
    learner.teach(3, y[3]).teach(60, y[60])
    assert learner.is_fitted
    expected = LaplaceUpdateClassifier(prior_precision=1.0).fit(
        X[[0, 1, 2, 3, 60]], y[[0, 1, 2, 3, 60]]
    )
    np.testing.assert_array_equal(learner.predict_proba(X), expected.predict_proba(X))


def test_a_sparse_pool_without_rows():
    with pytest.raises(TypeError, match=r"coo_matrix, which has no rows to take. Pass X_pool.toc"):
        ActiveLearner(LogisticRegression(), MarginSampling(), sparse.coo_matrix(X), refit_every=1)


def test_a_sparse_pool():
    pool = sparse.csr_matrix(X)
    learner = ActiveLearner(
        LogisticRegression(),
        MarginSampling(),
        pool,
        X_initial=pool[START],
        y_initial=y[START],
        refit_every=1,
    )
    for i in (10, 70):
        learner.teach(i, y[i])
    learner.teach(X=pool[[20]], y=[0]).relabel(10, 1).refit()
    assert sparse.issparse(learner.instances_)
    rows = [*START, 10, 70, 20]
    labels = np.r_[y[START], 1, y[70], 0]
    expected = LogisticRegression().fit(pool[rows], labels)
    np.testing.assert_allclose(learner.predict_proba(X), expected.predict_proba(X), atol=1e-8)


class Passes(nn.Module):
    """A network that writes down how many inputs each pass has."""

    def __init__(self):
        super().__init__()
        self.sizes, self.head = [], nn.Linear(4, 3).double()

    def forward(self, X):
        self.sizes.append(len(X))
        return self.head(X)


def test_what_is_taught_by_value_is_extracted_once():
    network = Passes()
    learner = make(LaplaceUpdateClassifier(network, prior_precision=1.0))
    learner.query()
    learner.teach(X=X[10:20], y=y[10:20])
    network.sizes.clear()
    learner.refit().teach(X=X[20:24], y=y[20:24])
    learner.refit().refit()
    assert sorted(network.sizes) == [4, len(START)]
    rows = [*START, *range(10, 24)]
    twin = LaplaceUpdateClassifier(network, prior_precision=1.0).fit(X[rows], y[rows])
    np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("name", ["ExpectedErrorReduction", "EPIG", "LookAhead"])
def test_points_of_a_strategy_are_extracted_once(name):
    network, points = Passes(), X[::10].copy()
    given = (points, y[::10], y_pool) if name == "LookAhead" else (points,)
    learner = make(LaplaceUpdateClassifier(network), getattr(strategies, name)(*given))
    learner.query()
    assert network.sizes.count(len(points)) == 1
    learner.teach(0, y_pool[0])
    network.sizes.clear()
    learner.query()
    assert not network.sizes


def test_kept_inputs():
    learner = make(LaplaceUpdateClassifier(np.square))
    np.testing.assert_array_equal(learner.kept_inputs(X).features, X**2)
    assert make().kept_inputs(X) is X  # there is nothing to extract
    stream = iter([X])
    assert learner.kept_inputs(stream) is stream
    waiting = ActiveLearner(LaplaceUpdateClassifier(np.square), MarginSampling(), X)
    assert waiting.kept_inputs(X) is X


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_a_missing_label_is_refused(missing):
    learner = make(X_initial=None, y_initial=None)
    before = dict(vars(learner))
    for labels in (["cat", "dog", missing], pd.Series(["cat", "dog", missing], dtype=object)):
        with pytest.raises(ValueError, match=r"y must hold labels; got.* at position 2. Call skip"):
            learner.teach([0, 1, 2], labels)
    assert vars(learner) == before


class Mail(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    SPAM = "spam"
    HAM = "ham"
    NEWS = "news"


@pytest.mark.parametrize("missing", [np.ma.array([0, 1, 9], mask=[0, 0, 1]), [0, 1, np.ma.masked]])
def test_a_masked_label_is_refused(missing):
    learner = make(X_initial=None, y_initial=None)
    with pytest.raises(ValueError, match=r"y must hold labels; got .* at position 2. Call skip"):
        learner.teach([0, 1, 2], missing)
    with pytest.raises(ValueError, match=r"y_initial must hold labels; got .* at position 2"):
        make(X_initial=X[:3], y_initial=missing)
    assert learner.labels_.empty


class TestKindsOfLabels:
    COLD = {"X_initial": None, "y_initial": None}

    @pytest.mark.parametrize("estimator", [LaplaceUpdateClassifier(), GaussianNB()])
    def test_members_of_an_enum(self, estimator):
        learner = make(estimator, refit_every=1, **self.COLD).teach([0, 50, 100], list(Mail))
        twin = make(estimator, refit_every=1, **self.COLD).teach(
            [0, 50, 100], [*map(str.__str__, Mail)]
        )
        learner.teach(1, Mail.SPAM).relabel(1, Mail.HAM)
        assert learner.labels_.label.tolist() == ["spam", "ham", "news", "ham"]
        assert {type(label) for label in learner.labels_.label} == {str}
        twin.teach(1, "ham")
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        labels = np.array(list(Mail), dtype=object)[y]
        assert learner.score(X, labels) == twin.score(X, [*map(str.__str__, labels)]) > 0.3

    @pytest.mark.parametrize(
        "settings",
        [
            {"classes": list(Mail)},
            {"X_initial": X[START], "y_initial": [list(Mail)[k] for k in y[START]]},
        ],
    )
    def test_members_of_an_enum_from_the_start(self, settings):
        learner = make(**(self.COLD | settings)).teach([0, 50], [Mail.SPAM, Mail.HAM])
        assert learner.estimator_.classes_.tolist() == ["ham", "news", "spam"]

    @pytest.mark.parametrize(
        "classes",
        [["a", None], ["a", np.nan], ["a", 1], [b"a", b"b"], {"a", "b"}, iter("ab"), [1, 1.5]],
    )
    def test_classes_are_looked_at_before_anybody_works(self, classes):
        with pytest.raises(ValueError, match="classes must"):
            make(classes=classes, **self.COLD)

    @pytest.mark.parametrize(
        ("first", "then", "expected"),
        [(1, 2.0, 2), (1.0, 2, 2.0), (np.float32(1), np.uint8(2), 2.0), (True, np.False_, False)],
    )
    def test_labels_are_of_the_type_of_the_first(self, first, then, expected, tmp_path):
        settings = self.COLD | {"journal": tmp_path / "labels.sqlite"}
        with make(**settings) as learner:
            label = learner.teach(0, first).teach(50, then).labels_.label.tolist()[1]
        assert (label, type(label)) == (expected, type(expected))
        with make(**settings) as again:
            assert type(again.labels_.label.tolist()[1]) is type(expected)

    @pytest.mark.parametrize(
        ("first", "other"), [(1, True), (True, 0), ("1", 1), (1.0, 2**53 + 1), (1, 1e300)]
    )
    def test_another_kind_than_the_first(self, first, other):
        learner = make(**self.COLD).teach(0, first)
        with pytest.raises(ValueError, match="of the same kind as those so far"):
            learner.teach(1, other)
        assert learner.labels_.label.tolist() == [first]

    def test_labels_are_the_declared_ones(self):
        learner = make(classes=[0, 1], **self.COLD).teach([0, 50], [True, False])
        assert [type(label) for label in learner.labels_.label] == [int, int]

    def test_another_kind_than_the_fitted_estimator_knows(self):
        fitted = LaplaceUpdateClassifier().fit(X[START], y[START])
        with pytest.raises(
            ValueError, match="of the same kind as those so far, such as 0; got 'a'"
        ):
            make(fitted, **self.COLD).teach(0, "a")

    @pytest.mark.parametrize("labels", [[0, "a"], [True, 2], [b"a", b"b"], [1.5, 2], {0, 1}, "ab"])
    def test_what_is_refused_is_not_recorded(self, labels):
        learner = make(**self.COLD)
        with pytest.raises(ValueError, match="y must"):
            learner.teach([0, 50], labels)
        assert learner.history_.empty


class TestAnnotators:
    @pytest.mark.parametrize("annotator", [5, np.int64(5), b"ann", 1.5, ["ann"]])
    def test_other_than_text(self, annotator):
        with pytest.raises(TypeError, match=r"annotator must be a text or None; got .* Pass str"):
            make(annotator=annotator)
        learner = make()
        for act in (
            lambda: learner.teach(0, 0, annotator=annotator),
            lambda: learner.skip(0, annotator=annotator),
        ):
            with pytest.raises(TypeError, match="annotator must be a text or None"):
                act()
        assert learner.history_.empty

    def test_text_that_no_file_can_hold(self):
        with pytest.raises(ValueError, match="annotator must be text that UTF-8 has a form for"):
            make(annotator="ann\udcff")

    def test_members_of_an_enum(self):
        (name,) = make(annotator=Mail.SPAM).teach(0, 0).labels_.annotator
        assert (name, type(name)) == ("spam", str)


@pytest.mark.parametrize(
    "give",
    [
        lambda X: ActiveLearner(GaussianNB(), RandomSampling(), X, refit_every=1),
        lambda X: make(X_initial=X, y_initial=y),
        lambda X: make().teach(X=X[:2], y=[0, 1]),
    ],
)
def test_masked_instances_are_refused(give):
    give(np.ma.array(X))  # where none is masked
    with pytest.raises(ValueError, match=r"^X\w* has masked values, .* fill them: X\w*.filled"):
        give(np.ma.array(X, mask=X[0, 0] == X))


class TestWeightsOfClassesToCome:
    def test_they_wait(self):
        weighted = LaplaceUpdateClassifier(class_weight={"fraud": 10}, prior_precision=1.0)
        settings = {"X_initial": None, "y_initial": None, "refit_every": None}
        learner = make(weighted, **settings).teach([0, 50], ["fine", "odd"])
        learner.teach(100, "fraud")
        twin = LaplaceUpdateClassifier(prior_precision=1.0)
        twin.fit(X_pool[[0, 50]], ["fine", "odd"]).add_classes("fraud")
        twin.partial_fit(X_pool[[100]], ["fraud"], sample_weight=[10])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        twin.fit(X_pool[[0, 50, 100]], ["fine", "odd", "fraud"], [1, 1, 10])
        np.testing.assert_array_equal(learner.refit().predict_proba(X), twin.predict_proba(X))

    def test_a_slip_where_classes_are_declared(self):
        weighted = LaplaceUpdateClassifier(class_weight={"fruad": 10})
        with pytest.raises(
            ValueError, match="got 'fruad', which is not among the classes declared"
        ):
            make(weighted, X_initial=None, y_initial=None, classes=["fine", "fraud"])

    def test_keys_of_another_kind(self):
        with pytest.raises(ValueError, match="class_weight must have numbers as its keys"):
            make(LaplaceUpdateClassifier(class_weight={"1": 10}))


def test_a_label_of_a_class_without_weight_is_recorded():
    learner = make(LaplaceUpdateClassifier(class_weight={2: 0.0}))
    learner.query()
    before = learner.predict_proba(X)
    learner.teach(100, 2)
    assert learner.labels_.label.tolist() == [2]
    np.testing.assert_array_equal(learner.predict_proba(X), before)
    state = learner.pool_.state_under(learner.estimator_)
    np.testing.assert_allclose(state.predict_proba(), learner.predict_proba(X_pool))


@pytest.mark.parametrize(
    ("estimator", "refit_every"),
    [
        (LogisticRegression(), 1),
        (make_pipeline(StandardScaler(), LaplaceUpdateClassifier(prior_precision=1.0)), 1),
        (SGDClassifier(loss="log_loss", random_state=0), 1),
        (SGDClassifier(loss="log_loss", random_state=0), None),
        (LaplaceUpdateClassifier(class_weight="balanced", prior_precision=1.0), 1),
        (LaplaceUpdateClassifier(prior_precision=1.0), 1),
    ],
)
def test_a_journal_of_other_settings(tmp_path, estimator, refit_every):
    """What updates have learnt is fitted on where the settings ask for it."""
    path = tmp_path / "labels.sqlite"
    rows = [0, 60, 1, 61, 100, 101, 2]
    with ActiveLearner(
        LaplaceUpdateClassifier(), RandomSampling(), X, refit_every=None, journal=path
    ) as learner:
        for i in rows:
            learner.teach(i, y[i])
    with ActiveLearner(
        estimator, RandomSampling(), X, journal=path, refit_every=refit_every
    ) as learner:
        assert learner.labels_.position.tolist() == rows
        expected = clone(estimator).fit(X[rows], y[rows])
        np.testing.assert_allclose(learner.predict_proba(X), expected.predict_proba(X))
        learner.teach(3, y[3])
        answers, history = learner.predict_proba(X), learner.history_
    with ActiveLearner(
        estimator, RandomSampling(), X, journal=path, refit_every=refit_every
    ) as learner:
        np.testing.assert_array_equal(learner.predict_proba(X), answers)
        pd.testing.assert_frame_equal(learner.history_, history)


def test_an_array_pool_beside_initial_frames():
    frame = pd.DataFrame(X[START], columns=list("abcd"))
    learner = make(LogisticRegression(), X_initial=frame, refit_every=1)
    learner.teach(3, y_pool[3])
    expected = LogisticRegression().fit(np.r_[X[START], X_pool[[3]]], np.r_[y[START], y_pool[[3]]])
    named = pd.DataFrame(X, columns=list("abcd"))
    np.testing.assert_allclose(learner.predict_proba(named), expected.predict_proba(X))


def test_the_pool_of_a_prior_by_scale_is_extracted_once():
    network = Passes()
    learner = ActiveLearner(
        LaplaceUpdateClassifier(network, prior_precision="scale"),
        MarginSampling(),
        X_pool,
        classes=range(3),
        random_state=0,
    )
    for _ in range(5):
        i = learner.query()[0]
        learner.teach(i, y_pool[i])
    learner.refit().query()
    assert network.sizes.count(len(X_pool)) == 1
    assert sum(network.sizes) <= len(X_pool) + 10  # and a few rows to look at


@pytest.mark.parametrize("extractor", [None, nn.Linear(4, 3).double()])
def test_tensors_are_taught_by_value(extractor):
    tensors = torch.from_numpy(X)
    learner = ActiveLearner(
        LaplaceUpdateClassifier(extractor, prior_precision=1.0),
        MarginSampling(),
        tensors[POOL],
        X_initial=tensors[START],
        y_initial=y[START],
    )
    learner.query()
    learner.teach(X=tensors[10:13], y=y[10:13]).refit()
    rows = [*START, 10, 11, 12]
    twin = LaplaceUpdateClassifier(extractor, prior_precision=1.0).fit(X[rows], y[rows])
    np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=1e-12)
    assert len(learner.instances_) == len(rows)


class TestNetworkThatChanges:
    @pytest.mark.parametrize("call", ["query", "teach", "relabel", "refit", "predict"])
    def test_it_is_noticed(self, call):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        learner = ActiveLearner(
            LaplaceUpdateClassifier(network, prior_precision=1.0),
            MarginSampling(),
            X[POOL],
            X_initial=X[START],
            y_initial=y[START],
            refit_every=None,
        )
        for _ in range(2):
            i = learner.query()[0]
            learner.teach(i, y[POOL][i])
        calls = {
            "query": lambda: learner.query(),
            "teach": lambda: learner.teach([20], [1]),
            "relabel": lambda: learner.relabel([i], [2]),
            "refit": lambda: learner.refit(),
            "predict": lambda: learner.predict(X),
        }
        before, labels = copy.deepcopy(network.state_dict()), learner.labels_
        expected = learner.query(5)
        torch.optim.Adam(network.parameters(), fused=True).step()  # without gradients: no change
        np.testing.assert_array_equal(learner.query(5), expected)
        network(torch.ones(2, 4).double()).sum().backward()
        torch.optim.Adam(network.parameters(), fused=True).step()
        with pytest.raises(RuntimeError, match=r"other weights .* make a new ActiveLearner"):
            calls[call]()
        pd.testing.assert_frame_equal(learner.labels_, labels)
        network.load_state_dict(before)
        np.testing.assert_array_equal(learner.query(5), expected)
        calls[call]()


def test_a_trained_head_with_classes_in_the_order_of_its_outputs():
    torch.manual_seed(0)
    network = nn.Linear(4, 3).double()
    names = np.array(["virginica", "setosa", "versicolor"])
    learner = ActiveLearner(
        LaplaceUpdateClassifier(
            network, head="pretrained", prior_precision=1e9, predictive="plug_in", calibration=None
        ),
        MarginSampling(),
        X[POOL],
        classes=names,
    )
    learner.teach([0, 50], names[y[POOL][[0, 50]]])
    outputs = network(torch.from_numpy(X)).detach().numpy().argmax(axis=1)
    np.testing.assert_array_equal(learner.predict(X), names[outputs])
