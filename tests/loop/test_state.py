import datetime

import numpy as np
import pytest

from laplace_al import LaplaceUpdateClassifier
from laplace_al.loop.event import Event
from laplace_al.loop.history import History
from laplace_al.loop.journal import Journal
from laplace_al.loop.network_trainer import trainer_of
from laplace_al.loop.state import DurableState, State
from laplace_al.loop.training_data import TrainingData

X = np.arange(12.0).reshape(6, 2)
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
LABELS = [Event("label", 0, "a", NOW), Event("label", 5, "b", NOW)]


@pytest.fixture
def trainer():
    estimator = LaplaceUpdateClassifier(prior_precision=1.0)
    return trainer_of(estimator, TrainingData(X, None, None, None, estimator), "auto")


@pytest.fixture
def state(trainer, tmp_path):
    state = DurableState(trainer.start(X), History.empty(len(X)))
    state.resume(tmp_path / "labels.sqlite", X, trainer, None)
    yield state
    state.close()


def learnt(state, trainer, events):
    history = state.now.history.add(events)
    return State(trainer.fitted_or_waiting(state.now.trained, history), history)


def test_what_is_published_is_resumed(state, trainer, tmp_path):
    after = learnt(state, trainer, [*LABELS, Event("refit", time=NOW)])
    state.publish(*after)
    assert state.now == after
    state.close()
    again = DurableState(trainer.start(X), History.empty(len(X)))
    again.resume(tmp_path / "labels.sqlite", X, trainer, None)
    assert again.now.history.events == after.history.events
    np.testing.assert_array_equal(
        again.now.trained.estimator.predict_proba(X), after.trained.estimator.predict_proba(X)
    )
    again.close()


def test_a_fit_that_was_due_is_made_and_written(state, trainer, tmp_path):
    state.publish(state.now.trained, state.now.history.add(LABELS))
    state.close()
    again = DurableState(trainer.start(X), History.empty(len(X)))
    again.resume(tmp_path / "labels.sqlite", X, trainer, "ann")
    assert again.now.trained.is_fitted
    assert [event.action for event in again.now.history.events] == ["label", "label", "refit"]
    assert again.journal.batches()[-1][0].annotator == "ann"
    again.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("is_written", [False, True])
def test_memory_and_journal_agree_after_a_failure(state, trainer, monkeypatch, error, is_written):
    before, after = state.now, learnt(state, trainer, LABELS)
    append = Journal.append

    def failing(self, *args):
        if is_written:
            append(self, *args)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "append", failing)
        with pytest.raises(error):
            state.publish(*after)
    assert state.now == (after if is_written else before)
    assert len(state.journal.batches()) == is_written


def test_without_a_journal(trainer):
    state = DurableState(trainer.start(X), History.empty(len(X)))
    state.check()
    after = learnt(state, trainer, LABELS)
    state.publish(*after)
    state.close()
    assert state.now == after
