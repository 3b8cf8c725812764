import copy
import pickle
import sqlite3

import numpy as np
import pandas as pd
import pytest
from learners import START, X, assert_unchanged, make, state, y, y_pool
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.loop.journal import Journal
from laplace_al.strategies import RandomSampling


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
            assert learner.is_fitted == before.is_fitted
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

        def disk_is_full(self, *args):
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

        def interrupted(self, *args):
            append(self, *args)
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


@pytest.mark.parametrize("act", ["relabel", "unlabel"])
def test_a_correction_before_there_was_a_model(tmp_path, act):
    """A learner with initial labels that resumes the journal learns what is valid now."""
    settings = {"journal": tmp_path / "labels.sqlite", "refit_every": None}
    with make(X_initial=None, y_initial=None, **settings) as learner:
        learner.teach([0, 1], [1, 1])
        learner.relabel(0, 1) if act == "unlabel" else learner.relabel([0, 1], [0, 0])
        if act == "unlabel":
            learner.unlabel(1)
    with make(**settings) as learner:
        expected = make(refit_every=1)
        expected.teach(learner.labels_.position, learner.labels_.label.tolist())
        np.testing.assert_array_equal(learner.predict_proba(X), expected.predict_proba(X))
