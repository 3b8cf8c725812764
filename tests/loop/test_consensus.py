"""Several annotators: each label is kept, what they come to is learnt."""

import numpy as np
import pandas as pd
import pytest
from learners import X, X_pool, assert_unchanged, make, state, y_pool
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from laplace_al.loop.journal import Journal
from laplace_al.strategies import CoreSet

COLD = {"X_initial": None, "y_initial": None, "refit_every": "auto"}
ROWS = [0, 1, 50, 51, 100, 101]


def cold(estimator=None, **settings):
    return make(estimator, **COLD | settings)


def taught(learner):
    """Two annotators, who disagree about position 51."""
    return learner.teach(ROWS, [0, 0, 1, 1, 2, 2], annotator="ann").teach(
        [0, 50, 51], [0, 1, 2], annotator="bob"
    )


class TestWhatIsKept:
    def test_each_label_and_what_they_come_to(self):
        learner = taught(cold())
        labels = learner.labels_
        assert labels.position.tolist() == [*ROWS, 0, 50, 51]
        assert labels.annotator.tolist() == ["ann"] * 6 + ["bob"] * 3
        consensus = learner.consensus_
        assert consensus.position.tolist() == ROWS
        assert consensus.label.tolist() == [0, 0, 1, 1, 2, 2]
        assert consensus.confidence.tolist() == [1, 1, 1, 0.5, 1, 1]
        assert consensus.n_labels.tolist() == [2, 1, 2, 2, 1, 1]
        assert consensus.weight.tolist() == [1] * 6

    def test_votes_and_agreement(self):
        learner = taught(cold()).teach(X=X[:1], y=[0], annotator="bob")
        votes = learner.votes_
        assert votes.columns.tolist() == ["ann", "bob"]
        assert votes.loc[51].tolist() == [1, 2]
        assert votes.loc[1].isna().tolist() == [False, True]
        agreement = learner.agreement_
        assert agreement.n_labels.to_dict() == {"ann": 6, "bob": 3}
        assert agreement.n_shared.to_dict() == {"ann": 3, "bob": 3}
        np.testing.assert_allclose(agreement.agreement, 2 / 3)

    def test_nobody_yet(self):
        learner = cold()
        for found in (learner.labels_, learner.consensus_, learner.votes_, learner.agreement_):
            assert found.empty


class TestWhatIsLearnt:
    @pytest.mark.parametrize("estimator", [None, LogisticRegression(C=1.0)])
    def test_the_shares_of_the_votes(self, estimator):
        learner = taught(cold(estimator))
        rows = [*ROWS, 51]
        labels, weights = [0, 0, 1, 1, 2, 2, 2], [1, 1, 1, 0.5, 1, 1, 0.5]
        twin = learner.estimator if estimator is None else LogisticRegression(C=1.0)
        twin.fit(X_pool[rows], labels, weights)
        atol = 0.02 if estimator is None else 1e-4  # leave-one-out leaves out copies one by one
        np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), atol=atol)

    def test_they_are_those_of_probabilities(self):
        learner = taught(cold())
        P = np.eye(3)[[0, 0, 1, 1, 2, 2]]
        P[3] = [0, 0.5, 0.5]
        twin = cold(classes=[0, 1, 2]).teach(ROWS, P).refit()
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))

    def test_a_second_label_that_agrees_changes_nothing(self):
        learner = cold().teach(ROWS, [0, 0, 1, 1, 2, 2], annotator="ann")
        before = learner.predict_proba(X)
        learner.teach(ROWS[:3], [0, 0, 1], annotator="bob")
        np.testing.assert_array_equal(learner.predict_proba(X), before)
        assert learner.history_.action.tolist().count("refit") == 1

    def test_a_majority_is_learnt_where_no_weights_are(self):
        learner = taught(cold(KNeighborsClassifier(1), classes=[0, 1, 2]))
        assert learner.predict(X_pool[[51]]) == 1
        learner.teach(51, 2, annotator="cat")
        assert learner.predict(X_pool[[51]]) == 2

    def test_weights_are_learnt(self):
        weights = [1.0, 2.0, 0.5, 1.0, 3.0, 1.0]
        learner = cold().teach(ROWS, [0, 0, 1, 1, 2, 2], sample_weight=weights)
        twin = learner.estimator.fit(X_pool[ROWS], [0, 0, 1, 1, 2, 2], weights)
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        learner = cold(refit_every=None).teach(ROWS, [0, 0, 1, 1, 2, 2])
        twin = learner.estimator.fit(X_pool[ROWS], [0, 0, 1, 1, 2, 2])
        learner.query()
        learner.teach([60, 70], [1, 1], sample_weight=[2.0, 0.5])
        twin.partial_fit(X_pool[[60, 70]], [1, 1], sample_weight=[2.0, 0.5])
        np.testing.assert_array_equal(learner.predict_proba(X), twin.predict_proba(X))
        np.testing.assert_allclose(
            learner.pool_.state_under(learner.estimator_).predict_proba(),
            twin.predict_proba(X_pool),
        )
        assert learner.labels_.weight.tolist() == [1] * 6 + [2.0, 0.5]

    def test_a_vote_of_more_weight_counts_more(self):
        learner = cold().teach(ROWS, [0, 0, 1, 1, 2, 2], annotator="ann")
        learner.teach(51, 2, annotator="bob", sample_weight=3.0)
        one = learner.consensus_.set_index("position").loc[51]
        assert (one.label, one.confidence, one.weight) == (2, 0.75, 2.0)

    def test_probabilities_are_an_update(self):
        learner = cold(refit_every=None).teach(ROWS, [0, 0, 1, 1, 2, 2])
        twin = learner.estimator.fit(X_pool[ROWS], [0, 0, 1, 1, 2, 2])
        learner.teach([60], [[0.1, 0.7, 0.2]]).teach(X=X[:1], y=[[0.5, 0.5, 0.0]])
        twin.partial_fit(X_pool[[60]], [[0.1, 0.7, 0.2]]).partial_fit(X[:1], [[0.5, 0.5, 0.0]])
        np.testing.assert_allclose(learner.predict_proba(X), twin.predict_proba(X), rtol=1e-9)
        assert learner.labels_.confidence.tolist()[-2:] == [0.7, 0.5]
        assert learner.labels_.label.tolist()[-2:] == [1, 0]

    def test_probabilities_open_classes(self):
        learner = cold().teach(ROWS[:4], ["a", "a", "b", "b"])
        learner.teach(100, pd.DataFrame({"b": [0.2], "c": [0.8]}))
        assert learner.estimator_.classes_.tolist() == ["a", "b", "c"]

    def test_strategies_that_look_at_labelled_instances(self):
        learner = taught(cold(strategy=CoreSet(random_state=0)))
        twin = cold(strategy=CoreSet(random_state=0)).teach(ROWS, [0, 0, 1, 1, 2, 2])
        np.testing.assert_array_equal(learner.query(5), twin.query(5))


class TestCorrections:
    def test_each_annotator_corrects_their_own(self):
        learner = taught(cold()).relabel(51, 1, annotator="bob")
        assert learner.consensus_.confidence.min() == 1
        learner.unlabel(50, annotator="ann")
        assert learner.labels_[learner.labels_.position == 50].annotator.tolist() == ["bob"]
        assert 50 not in learner.query(len(X_pool) - 6)
        assert 50 in learner.unlabel(50).query(len(X_pool) - 5)

    @pytest.mark.parametrize(
        ("act", "match"),
        [
            (lambda one: one.teach(51, 0, annotator="bob"), r"labelled already: \[51\].* relabel"),
            (
                lambda one: one.relabel(51, 0, annotator="cat"),
                r"labels of \['ann', 'bob'\], got 'c",
            ),
            (lambda one: one.unlabel(51), r"labels of \['ann', 'bob'\], got None"),
            (
                lambda one: one.relabel(rows=3, y=0, annotator="bob"),
                "has another label of position",
            ),
            (lambda one: one.teach(60, 0, sample_weight=-1), "sample_weight must be >= 0; got -1"),
            (lambda one: one.teach(60, 0, sample_weight=0), "sample_weight"),
            (lambda one: one.teach([60, 61], [0, 1], sample_weight=[0, 1]), "must be > 0; got 0"),
            (lambda one: one.teach(60, [[0.5, 0.1, 0.1]]), "sum to 1 in each row"),
            (lambda one: one.teach(60, [[0, 0, 1]]), "of whole numbers"),
            (lambda one: one.teach(60, [[0.5, 0.5]]), "2 columns of probabilities for the 3 class"),
            (lambda one: one.teach([60, 61], [[0.5, 0.5, 0]]), "a row for each instance, 2; got 1"),
        ],
    )
    def test_refused(self, act, match, tmp_path):
        learner = taught(cold(journal=tmp_path / "labels.sqlite"))
        before = state(learner)
        with pytest.raises(ValueError, match=match):
            act(learner)
        assert_unchanged(learner, before)
        learner.close()

    def test_estimators_that_take_no_weights(self):
        learner = taught(cold(KNeighborsClassifier(1), classes=[0, 1, 2]))
        before = state(learner)
        for act in (
            lambda: learner.teach(60, 0, sample_weight=2.0),
            lambda: learner.teach(60, [[0.5, 0.5, 0.0]]),
        ):
            with pytest.raises(TypeError, match="KNeighborsClassifier takes no sample_weight"):
                act()
            assert_unchanged(learner, before)

    def test_classes_that_are_not_known(self):
        with pytest.raises(ValueError, match="of classes that are not known yet"):
            cold().teach(0, [[0.5, 0.5]])


class TestAskingAgain:
    def test_disagreement_comes_first(self):
        learner = taught(make())
        assert learner.query_again(1) == [51]
        again = learner.query_again(4)
        assert len(set(again)) == 4
        assert set(again) <= set(ROWS)
        assert len(learner.query_again(100)) == len(ROWS)
        learner.teach(51, 1, annotator="cat").teach(51, 1, annotator="dan")
        assert learner.query_again(1) != [51]

    def test_suspects_have_a_row_for_each_label(self):
        found = taught(make()).suspects(100)
        assert len(found) == 9
        assert found.iloc[0][["position", "annotator"]].tolist() == [51, "bob"]


class TestJournals:
    @pytest.fixture
    def path(self, tmp_path):
        return tmp_path / "labels.sqlite"

    @pytest.mark.parametrize("refit_every", [None, 3, "auto"])
    def test_all_is_resumed(self, path, refit_every):
        settings = {"refit_every": refit_every, "journal": path}
        learner = make(**settings)
        acts = [
            taught,
            lambda one: one.teach([60], [[0.1, 0.7, 0.2]], annotator="ann"),
            lambda one: one.teach([60, 61], [1, 1], annotator="bob", sample_weight=[2.0, 0.5]),
            lambda one: one.relabel(60, [[0.0, 0.5, 0.5]], annotator="ann"),
            lambda one: one.teach([62, 63], [1, 1], annotator="bob"),
            lambda one: one.teach([62], [1], annotator="ann"),
            lambda one: one.unlabel(51, annotator="bob"),
        ]
        for act in acts:
            before = act(learner)
            learner.close()
            learner = make(**settings)
            pd.testing.assert_frame_equal(learner.history_, before.history_)
            pd.testing.assert_frame_equal(learner.labels_, before.labels_)
            pd.testing.assert_frame_equal(learner.consensus_, before.consensus_)
            np.testing.assert_array_equal(learner.predict_proba(X), before.predict_proba(X))
            np.testing.assert_array_equal(learner.query(3), before.query(3))
        learner.close()

    @pytest.mark.parametrize("labels", [["a", "b", "c"], [True, False], [1.0, 2.0]])
    def test_kinds_of_uncertain_labels(self, path, labels):
        frame = pd.DataFrame([np.full(len(labels), 1 / len(labels))], columns=labels)
        with cold(journal=path) as learner:
            learner.teach(range(len(labels)), labels).teach(70, frame)
            before = learner.predict_proba(X)
        with cold(journal=path) as learner:
            np.testing.assert_array_equal(learner.predict_proba(X), before)
        journal = Journal(path, X_pool)
        rows = "SELECT weight, probabilities IS NULL FROM labels ORDER BY row"
        assert journal.check().execute(rows).fetchall()[-1] == (1.0, 0)
        journal.close()


def test_labels_of_the_pool_are_those_of_y():
    """What the tests above call right."""
    assert y_pool[ROWS].tolist() == [0, 0, 1, 1, 2, 2]


def test_what_is_open():
    learner = taught(cold()).skip(7).extend_pool(X_pool[:2])
    closed = [*ROWS, 7]
    assert np.flatnonzero(~learner.is_open).tolist() == sorted(closed)
    learner.unlabel(50, annotator="bob")
    assert not learner.is_open[50]
    assert learner.unlabel(50).is_open[50]
