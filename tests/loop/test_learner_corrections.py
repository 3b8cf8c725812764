import numpy as np
import pandas as pd
import pytest
from learners import POOL, START, X, X_pool, assert_unchanged, make, state, y, y_pool
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.loop.stopping import is_open
from laplace_al.strategies import MarginSampling


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
        assert is_open(learner)[4]

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
