"""A failure at any step leaves every object bit for bit as it was, and as usable."""

import copy

import numpy as np
import pytest
import torch
from faults import FailingLine, FailingOperation, state_of
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, TorchFeatures
from laplace_al.strategies import MarginSampling

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
y = np.array(list("abc"))[np.clip(np.floor(X.sum(axis=1) + 1.5), 0, 2).astype(int)]
ERRORS = [KeyboardInterrupt, MemoryError, RuntimeError("injected"), OSError("injected")]
FAULTS = {
    "line": FailingLine,
    "operation": FailingOperation,
    "after an operation": lambda error, place=None: FailingOperation(error, place, after=True),
}
SETTINGS = [
    {},
    {"covariance": "shared", "calibration": None, "update": "newton"},
    {"covariance": "full", "forgetting": 0.9},
    {"memory_size": 4},
    {"memory_size": None, "prior_precision": "loo", "warm_start": True},
]


class Failing(nn.Module):
    """A network that raises when it is told to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 2, dtype=torch.float64)
        self.dropout = nn.Dropout()
        self.error = None

    def forward(self, inputs):
        if self.error is not None:
            raise self.error
        return self.head(self.dropout(torch.tanh(inputs)))


def fail(objects, call, kind, error, share):
    """Let a call fail at that share of its steps; objects must then be as they were."""
    before = [state_of(each) for each in objects]
    call(copy.copy(objects[0]))  # so that what is cached is
    twin = copy.copy(objects[0])
    with FAULTS[kind](None) as counted:
        call(twin)
    place = min(int(share * counted.n_seen), counted.n_seen - 1)
    if place < 0:
        return twin
    fault = FAULTS[kind](error, place)
    expected = error if isinstance(error, type) else type(error)
    with pytest.raises((expected, ValueError)) as caught, fault:
        call(objects[0])
    # a device that cannot be used is told by a ValueError that names the argument
    assert isinstance(caught.value, expected) or isinstance(caught.value.__cause__, expected)
    assert [state_of(each) for each in objects] == before, fault.where
    assert torch.is_grad_enabled(), fault.where
    return twin


class ClassifierMachine(RuleBasedStateMachine):
    """Calls of a classifier, each of which first fails somewhere and then works."""

    @initialize(params=st.sampled_from(SETTINGS), network=st.booleans())
    def start(self, params, network):
        self.network = Failing() if network else None
        self.clf = LaplaceUpdateClassifier(self.network, **params)
        self.n_classes = 0
        self.data = X.copy(), y.copy()

    def change(self, call, kind, error, share):
        objects = [self.clf, self.network, self.data]
        twin = fail(objects, call, kind, error, share)
        if self.network is not None:
            self.network.error = error
            before = state_of(vars(self.clf))
            if call.__name__ != "open_class":
                with pytest.raises(error if isinstance(error, type) else type(error)):
                    call(self.clf)
            self.network.error = None
            assert state_of(vars(self.clf)) == before
        assert call(self.clf) in (self.clf, None)
        assert state_of(vars(self.clf)) == state_of(vars(twin))
        if hasattr(self.clf, "posterior_"):
            np.testing.assert_array_equal(self.clf.predict_proba(X), twin.predict_proba(X))

    kinds, errors, shares = st.sampled_from([*FAULTS]), st.sampled_from(ERRORS), st.floats(0, 1)

    @rule(n=st.integers(20, 40), kind=kinds, error=errors, share=shares)
    def fit(self, n, kind, error, share):
        self.change(lambda clf: clf.fit(X[:n], y[:n]), kind, error, share)
        self.n_classes = 3

    @rule(n=st.integers(1, 5), start=st.integers(0, 40), kind=kinds, error=errors, share=shares)
    def partial_fit(self, n, start, kind, error, share):
        rows = slice(start, start + n)
        classes = None if self.n_classes else list("abc")
        self.change(
            lambda clf: clf.partial_fit(X[rows], y[rows], classes=classes), kind, error, share
        )
        self.n_classes = max(self.n_classes, 3)

    @precondition(lambda self: 0 < self.n_classes < 6)
    @rule(kind=kinds, error=errors, share=shares)
    def add_classes(self, kind, error, share):
        label = "defgh"[self.n_classes - 3]

        def open_class(clf):
            return clf.add_classes(label)

        self.change(open_class, kind, error, share)
        self.n_classes += 1

    @precondition(lambda self: self.n_classes)
    @rule(kind=kinds, error=errors, share=shares, position=st.integers(0, 19))
    def observe(self, kind, error, share, position):
        state = self.clf.pool_state(X[:20])
        label = y[position]
        twin = fail([state, self.clf], lambda s: s.observe(position, label), kind, error, share)
        state.observe(position, label)
        assert state_of(state) == state_of(twin)


class LearnerMachine(RuleBasedStateMachine):
    """A learner with a journal beside a twin without one, to which nothing happens."""

    @initialize(refit_every=st.sampled_from([None, 3, "auto"]))
    def start(self, refit_every):
        self.path = next(PATHS)
        settings = LaplaceUpdateClassifier(), MarginSampling(), X
        options = {"refit_every": refit_every, "classes": list("abc"), "random_state": 0}
        self.learner = ActiveLearner(*settings, journal=self.path, **options)
        self.twin = ActiveLearner(*settings, **options)

    def teardown(self):
        if hasattr(self, "learner"):
            self.learner.close()

    def what_was_learnt(self, learner):
        trained, _ = learner._state.now
        return [state_of(part) for part in (trained.estimator, trained.n_updates)]

    def labels(self, learner):
        return learner.labels_.drop(columns="time").to_dict()

    def change(self, call, kind, error, place):
        before = self.what_was_learnt(self.learner), self.labels(self.learner)
        n_batches = len(self.learner._state.journal.batches())
        fault = FAULTS[kind](error, place)
        try:
            with fault:
                call(self.learner)
        except (KeyboardInterrupt, MemoryError, RuntimeError, OSError, ValueError):
            assert fault.where is not None
        else:
            assert fault.where is None
        written = len(self.learner._state.journal.batches()) - n_batches
        assert written in (0, 1)
        if not written:  # nothing
            after = self.what_was_learnt(self.learner), self.labels(self.learner)
            assert after == before, fault.where
            call(self.learner)
        call(self.twin)  # all
        assert self.what_was_learnt(self.learner) == self.what_was_learnt(self.twin), fault.where
        assert self.labels(self.learner) == self.labels(self.twin)
        assert self.learner.query().tolist() == self.twin.query().tolist()

    kinds, errors = st.sampled_from([*FAULTS]), st.sampled_from(ERRORS)
    places = st.integers(0, 60) | st.integers(0, 1500)

    def open_positions(self):
        return np.flatnonzero(self.learner._state.now.history.is_open)

    @rule(n=st.integers(1, 3), kind=kinds, error=errors, place=places)
    def teach(self, n, kind, error, place):
        positions = self.open_positions()[:n]
        self.change(lambda one: one.teach(positions, y[positions]), kind, error, place)

    @rule(kind=kinds, error=errors, place=places)
    def teach_by_value(self, kind, error, place):
        self.change(lambda one: one.teach(X=[[0.0, 1.0, 2.0]], y=["c"]), kind, error, place)

    @rule(kind=kinds, error=errors, place=places)
    def skip(self, kind, error, place):
        position = self.open_positions()[-1]
        self.change(lambda one: one.skip(position), kind, error, place)

    @precondition(lambda self: self.learner._state.now.history.is_skipped.any())
    @rule(kind=kinds, error=errors, place=places)
    def unskip(self, kind, error, place):
        position = int(np.flatnonzero(self.learner._state.now.history.is_skipped)[0])
        self.change(lambda one: one.unskip(position), kind, error, place)

    @precondition(lambda self: self.learner._state.now.history.is_labelled.any())
    @rule(kind=kinds, error=errors, place=places)
    def unlabel(self, kind, error, place):
        position = int(np.flatnonzero(self.learner._state.now.history.is_labelled)[0])
        self.change(lambda one: one.unlabel(position), kind, error, place)

    @precondition(lambda self: self.learner._state.now.history.labelled)
    @rule(kind=kinds, error=errors, place=places, label=st.sampled_from("abc") | st.none())
    def change_a_row(self, kind, error, place, label):
        row = int(self.learner.labels_.index[-1])

        def call(one):
            return one.unlabel(rows=row) if label is None else one.relabel(rows=row, y=label)

        self.change(call, kind, error, place)

    @precondition(
        lambda self: self.learner.is_fitted and self.learner._state.now.history.is_labelled.any()
    )
    @rule(kind=kinds, error=errors, place=places, label=st.sampled_from("abc"))
    def relabel(self, kind, error, place, label):
        position = int(np.flatnonzero(self.learner._state.now.history.is_labelled)[0])
        self.change(lambda one: one.relabel(position, label), kind, error, place)

    @precondition(lambda self: self.learner.is_fitted)
    @rule(kind=kinds, error=errors, place=places)
    def refit(self, kind, error, place):
        self.change(lambda one: one.refit(), kind, error, place)


PATHS = iter(())
QUICK = settings(
    max_examples=12, stateful_step_count=6, deadline=None, suppress_health_check=[*HealthCheck]
)
LONG = settings(QUICK, max_examples=40, stateful_step_count=12)


@pytest.mark.parametrize("effort", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)])
@pytest.mark.parametrize("machine", [ClassifierMachine, LearnerMachine])
@pytest.mark.filterwarnings("ignore:prior_precision=.* chose:sklearn.exceptions.ConvergenceWarning")
def test_a_failure_anywhere(machine, effort, tmp_path, monkeypatch):
    paths = (tmp_path / f"{i}.sqlite" for i in range(10**9))
    monkeypatch.setitem(globals(), "PATHS", paths)
    run = machine.TestCase
    run.settings = effort
    run("runTest").runTest()


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_torch_features(kind, share):
    network = Failing().train()
    features = TorchFeatures(network).fit(X)
    fail([features, network], lambda one: one.fit(X[:, :3]), kind, KeyboardInterrupt, share)
    assert features.transform(X).shape == (60, 3)


def test_a_generator_of_the_caller_is_not_drawn_from_in_vain():
    generator = np.random.RandomState(0)
    clf = LaplaceUpdateClassifier(random_state=generator)
    for share in (0.1, 0.5, 0.9):
        before = generator.get_state()[2]
        with FailingLine(None) as counted:
            copy.copy(clf).set_params(random_state=np.random.RandomState(0)).fit(X, y)
        place = int(share * counted.n_seen)
        with pytest.raises(MemoryError), FailingLine(MemoryError, place):
            clf.fit(X, y)
        assert generator.get_state()[2] == before
