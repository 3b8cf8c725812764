import numpy as np
import pandas as pd
import pytest
import torch
from learners import X, X_pool, assert_unchanged, state, y_pool
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from torch.utils import data

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.loop.journal import Journal
from laplace_al.loop.stopping import StablePredictions
from laplace_al.strategies import CoreSet, MarginSampling, RandomSampling

FIRST, REST = X_pool[::2], X_pool[1::2]
Y = np.r_[y_pool[::2], y_pool[1::2]]
LABELLED = [0, 20, 21, 45, 60]


def make(estimator=None, pool=FIRST, strategy=None, **settings):
    estimator = estimator or LaplaceUpdateClassifier()
    return ActiveLearner(
        estimator, strategy or MarginSampling(), pool, **{"random_state": 0} | settings
    )


def learnt(learner):
    return learner.teach(LABELLED, Y[LABELLED])


class TestALongerPool:
    def test_positions_and_the_model_stay(self):
        learner = learnt(make())
        before, labels = learner.predict_proba(X), learner.labels_
        learner.skip(3).extend_pool(REST)
        assert len(learner.X_pool) == len(X_pool)
        np.testing.assert_array_equal(learner.X_pool, np.r_[FIRST, REST])
        np.testing.assert_array_equal(learner.predict_proba(X), before)
        pd.testing.assert_frame_equal(learner.labels_, labels)
        n_open = len(X_pool) - len(LABELLED) - 1
        assert set(learner.query(n_open)) == set(range(len(X_pool))) - {3, *LABELLED}
        last = learner.history_.iloc[-1]
        assert (last.action, last.position) == ("extend", len(X_pool) - 1)

    @pytest.mark.parametrize("extractor", [None, np.tanh])
    @pytest.mark.parametrize("strategy", [MarginSampling(), CoreSet(random_state=0)])
    def test_queries_are_those_of_a_pool_that_was_so_long_from_the_start(self, extractor, strategy):
        estimator = LaplaceUpdateClassifier(extractor, prior_precision=1.0)
        grown = learnt(make(estimator, strategy=strategy))
        whole = learnt(make(estimator, np.r_[FIRST, REST], strategy))
        grown.query(3)  # the pool is scored
        grown.extend_pool(REST[:30]).teach(11, 1).extend_pool(REST[30:])
        whole.teach(11, 1)
        np.testing.assert_array_equal(grown.query(9), whole.query(9))
        new = [70, 100]
        later = [learner.teach(new, Y[new]) for learner in (grown, whole)]
        np.testing.assert_allclose(*(each.predict_proba(X) for each in later), atol=1e-12)
        np.testing.assert_array_equal(grown.query(9), whole.query(9))

    @pytest.mark.parametrize("is_scored", [False, True])
    def test_only_new_instances_are_extracted(self, is_scored):
        seen = []

        def extract(inputs):
            seen.append(len(inputs))
            return np.asarray(inputs)

        learner = learnt(make(LaplaceUpdateClassifier(extract, prior_precision=1.0)))
        if is_scored:
            learner.query()
        seen.clear()
        learner.extend_pool(REST)
        learner.query()
        assert sum(seen) == len(REST) + (0 if is_scored else len(FIRST))

    def test_scores_are_those_of_the_whole_pool(self):
        learner = learnt(make())
        learner.query()
        learner.extend_pool(REST)
        kept = learner.pool_.state_under(learner.estimator_)
        anew = learner.estimator_.pool_state(learner.X_pool)
        for name in ("logits", "variance", "predictive_variance", "features"):
            torch.testing.assert_close(getattr(kept, name), getattr(anew, name))

    @pytest.mark.parametrize(
        "kind",
        [
            np.asarray,
            lambda rows: rows.tolist(),
            pd.DataFrame,
            lambda rows: torch.tensor(rows),
            lambda rows: data.Subset(torch.tensor(rows), range(len(rows))),
        ],
    )
    def test_containers(self, kind):
        learner = learnt(make(pool=kind(FIRST)))
        learner.query()
        learner.extend_pool(kind(REST))
        assert isinstance(learner.X_pool, data.Dataset | type(kind(FIRST)))
        twin = learnt(make()).extend_pool(REST)
        np.testing.assert_array_equal(learner.query(5), twin.query(5))
        np.testing.assert_array_equal(
            learner.teach(70, 1).predict_proba(X), twin.teach(70, 1).predict_proba(X)
        )

    def test_sparse_pools(self):
        first, rest = map(sparse.csr_matrix, (FIRST, REST))
        learner = learnt(make(LogisticRegression(), first)).extend_pool(rest).teach(70, 1)
        assert learner.X_pool.shape == X_pool.shape
        twin = learnt(make(LogisticRegression())).extend_pool(REST).teach(70, 1)
        np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=1e-4)

    def test_before_there_is_a_model(self):
        learner = make().extend_pool(REST)
        assert learner.query(len(X_pool)).max() == len(X_pool) - 1
        # so that the model does not depend on when the pool has grown
        prior_precision = learnt(make()).estimator_.prior_precision_
        assert learnt(learner).estimator_.prior_precision_ == prior_precision

    def test_nothing_is_added(self):
        learner = learnt(make())
        n_events = len(learner.history_)
        assert len(learner.extend_pool(REST[:0]).history_) == n_events

    def test_stable_predictions_compare_what_both_models_saw(self):
        learner, rule = learnt(make()), StablePredictions()
        rule.should_stop(learner)
        assert not rule.should_stop(learner.extend_pool(REST))
        assert not hasattr(rule, "kappas_") or not rule.kappas_  # the model is the same
        rule.should_stop(learner.teach(70, 1))
        assert len(rule.kappas_) == 1
        assert len(rule.predictions_) == len(X_pool)


class TestRefused:
    @pytest.mark.parametrize(
        ("X_new", "error", "match"),
        [
            (REST[:, :2], ValueError, r"X_new must have rows of shape \(4,\), as X_pool has; got"),
            (np.full((2, 4), np.nan), ValueError, r"X_new has NaN or infinity in 2 of its 2 rows"),
            (iter(REST), TypeError, "X_new must have an instance at each position"),
        ],
    )
    @pytest.mark.parametrize("is_scored", [False, True])
    def test_what_the_pool_could_not_be(self, X_new, error, match, is_scored, tmp_path):
        learner = learnt(make(journal=tmp_path / "labels.sqlite"))
        if is_scored:
            learner.query()
        before = state(learner)
        with pytest.raises(error, match=match):
            learner.extend_pool(X_new)
        assert_unchanged(learner, before)
        assert len(learner.X_pool) == len(FIRST)
        learner.extend_pool(REST).close()
        make(pool=np.r_[FIRST, REST], journal=tmp_path / "labels.sqlite").close()

    def test_other_columns(self):
        learner = learnt(make(pool=pd.DataFrame(FIRST, columns=list("abcd"))))
        with pytest.raises(ValueError, match="X_new must have the columns of X_pool in the same"):
            learner.extend_pool(pd.DataFrame(REST, columns=list("abdc")))

    def test_features_that_cannot_be_learnt_from(self):
        learner = learnt(make(LaplaceUpdateClassifier(np.sqrt)))
        learner.query()
        before = state(learner)
        with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="NaN"):
            learner.extend_pool(-REST)
        assert_unchanged(learner, before)


class TestJournals:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "labels.sqlite"

    @pytest.mark.parametrize("refit_every", [None, 3, "auto"])
    @pytest.mark.parametrize("estimator", [None, LogisticRegression()])
    def test_what_was_extended_is_resumed(self, path, refit_every, estimator):
        if estimator is not None and refit_every != "auto":
            estimator, refit_every = LaplaceUpdateClassifier(forgetting=0.9), None
        settings = {"estimator": estimator, "journal": path, "refit_every": refit_every}
        learner = make(**settings)
        acts = [
            lambda one: one.extend_pool(REST[:10]),
            lambda one: one.teach([0, 20, 75], Y[[0, 20, 75]]),
            lambda one: one.extend_pool(REST[10:20]).skip(80),
            lambda one: one.teach([81, 40], Y[[81, 40]]),
            lambda one: one.relabel(81, 2),
            lambda one: one.extend_pool(REST[20:]),
            lambda one: one.teach([120, 121], Y[[120, 121]]).unlabel(0),
        ]
        for act in acts:
            before = act(learner)
            pool = before.X_pool
            learner.close()
            learner = make(pool=pool, **settings)
            pd.testing.assert_frame_equal(learner.history_, before.history_)
            pd.testing.assert_frame_equal(learner.labels_, before.labels_)
            if learner.is_fitted:
                np.testing.assert_array_equal(learner.predict_proba(X), before.predict_proba(X))
            np.testing.assert_array_equal(learner.query(3), before.query(3))
        learner.close()

    def test_resumed_with_a_longer_pool(self, path):
        whole = np.r_[FIRST, REST]
        with learnt(make(journal=path)) as learner:
            before = learner.predict_proba(X)
        with make(pool=whole, journal=path) as learner:
            np.testing.assert_array_equal(learner.predict_proba(X), before)
            assert learner.history_.action.tolist()[-1] == "extend"
            assert learner.query(100).max() > len(FIRST)
            learner.teach(len(whole) - 1, Y[-1])
        with make(pool=whole, journal=path) as learner:
            assert learner.labels_.position.iloc[-1] == len(whole) - 1
            assert learner.history_.action.tolist().count("extend") == 1
        with pytest.raises(ValueError, match="is of another pool, of 141 instances; X_pool has 71"):
            make(journal=path)
        with pytest.raises(ValueError, match="than X_pool has in its first 141 instances now"):
            make(pool=np.r_[whole[::-1], REST], journal=path)

    def test_keys_of_frames(self, path):
        first, rest = pd.DataFrame(FIRST, dtype=float), pd.DataFrame(REST)
        rest.index = [f"new {i}" for i in range(len(rest))]
        with make(pool=first, strategy=RandomSampling(), journal=path) as learner:
            learner.extend_pool(rest).teach([3, 71], [0, 1])
        journal = Journal(path, pd.concat([first, rest]))
        keys = journal.check().execute("SELECT key FROM labels").fetchall()
        assert keys == [("3",), ("new 0",)]
        assert journal.n_start == len(FIRST)
        journal.close()

    def test_a_pool_that_cannot_be_written_is_not_extended(self, path, monkeypatch):
        learner = learnt(make(journal=path))
        before = state(learner)

        def fail(*_):
            raise OSError("disk full")

        monkeypatch.setattr(Journal, "append", fail)
        with pytest.raises(OSError, match="disk full"):
            learner.extend_pool(REST)
        assert_unchanged(learner, before)
        assert len(learner.X_pool) == len(FIRST)
        monkeypatch.undo()
        learner.extend_pool(REST).close()
