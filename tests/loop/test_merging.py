"""Journals of two people become one."""

import numpy as np
import pandas as pd
import pytest
from learners import X, X_pool, make

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import RandomSampling

ROWS = [0, 1, 50, 51, 100, 101]
COLD = {"X_initial": None, "y_initial": None, "refit_every": "auto"}


def cold(**settings):
    return make(**COLD | settings)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.sqlite"


def state_of_cold(learner):
    return learner.labels_.to_dict(), learner.predict_proba(X).tolist()


def test_two_people_are_merged(tmp_path):
    paths = [tmp_path / f"{name}.sqlite" for name in ("ann", "bob")]
    with cold(journal=paths[1], annotator="bob") as bob:
        bob.teach([0, 50, 51], [0, 1, 2]).skip(7).teach(X=X[:1], y=[0]).relabel(50, 1)
        labels = bob.labels_
    with cold(journal=paths[0], annotator="ann") as ann:
        ann.teach(ROWS, [0, 0, 1, 1, 2, 2]).merge(paths[1])
        twin = cold().teach(ROWS, [0, 0, 1, 1, 2, 2], annotator="ann")
        twin.teach([0, 50, 51], [0, 1, 2], annotator="bob").teach(X=X[:1], y=[0])
        merged = ann.labels_
        assert merged.position.tolist() == twin.labels_.position.tolist()
        assert merged.annotator.tolist() == ["ann"] * 6 + ["bob"] * 4
        assert merged.time.tolist()[6:] == labels.time.tolist()
        np.testing.assert_allclose(
            ann.refit().predict_proba(X), twin.refit().predict_proba(X), rtol=1e-9
        )
        n_events = len(ann.history_)
        assert len(ann.merge(paths[1]).history_) == n_events  # a second time
        before = ann.predict_proba(X)
    with cold(journal=paths[0], annotator="ann") as ann:
        np.testing.assert_array_equal(ann.predict_proba(X), before)
        pd.testing.assert_frame_equal(ann.labels_, merged)


def test_names_for_those_without(tmp_path, path):
    with cold(journal=path) as other:
        other.teach([0, 50], [1, 0])
    learner = cold().teach([0, 50], [0, 1])
    before = state_of_cold(learner)
    with pytest.raises(ValueError, match=r"other labels of the same annotators, None, at the "):
        learner.merge(path)
    assert state_of_cold(learner) == before
    learner.merge(path, annotator="bob")
    assert learner.labels_.annotator.tolist() == [None, None, "bob", "bob"]


def test_refused(tmp_path, path):
    with cold(journal=path) as other:
        other.teach([0, 140], [0, 1])
        with pytest.raises(RuntimeError, match="journal"):
            cold().merge(path)
    learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool[::-1])
    with pytest.raises(ValueError, match="is of another pool"):
        learner.merge(path)
    shorter = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), X_pool[:100])
    with pytest.raises(ValueError, match="is of another pool, of 141 instances"):
        shorter.merge(path)
    with pytest.raises(ValueError, match=r"is no file\. Name the journal of a"):
        learner.merge(tmp_path / "none.sqlite")
    assert not (tmp_path / "none.sqlite").exists()
    texts = cold().teach([1, 60], ["a", "b"])
    with pytest.raises(ValueError, match="labels of the same kind"):
        texts.merge(path)
    assert learner.labels_.empty
    assert len(texts.labels_) == 2


def test_a_journal_of_a_shorter_pool(path):
    settings = LaplaceUpdateClassifier(), RandomSampling()
    with ActiveLearner(*settings, X_pool[:70], journal=path) as other:
        other.teach([0, 60], [0, 1])
    learner = ActiveLearner(*settings, X_pool).merge(path)
    assert learner.labels_.position.tolist() == [0, 60]
