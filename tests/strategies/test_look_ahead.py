import enum

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, zero_one_loss

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import (
    BADGE,
    BAIT,
    LookAhead,
    MarginSampling,
    MaxHerding,
    Preselection,
    QueryStrategy,
    TypiClust,
    UncertaintyHerding,
)
from laplace_al.strategies._view import LearnerView


class Letter(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    A, B, C = "a", "b", "c"


def problem(n_classes=3, **params):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 4))
    y = np.clip(np.floor(X @ np.ones(4) / 2 + rng.normal(size=200) / 3 + n_classes / 2), 0, 2)
    y = np.array(list("abc"))[np.minimum(y, n_classes - 1).astype(int)]
    clf = LaplaceUpdateClassifier(**{"prior_precision": 1.0} | params).fit(X[:20], y[:20])
    return clf, X[20:80], y[20:80], X[80:], y[80:]


def updated(clf, X, y):
    """A copy that has really learnt, and keeps its calibration."""
    twin = clone(clf)
    vars(twin).update(vars(clf))
    twin.calibration = None
    return twin.partial_fit(X, y)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
@pytest.mark.parametrize("update", ["map", "newton"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("loss", ["log_loss", "zero_one"])
@pytest.mark.parametrize("class_weight", [None, {"a": 3.0, "b": 0.2, "c": 1.0}])
def test_losses_are_those_of_really_updated_copies(
    covariance, update, n_classes, loss, class_weight
):
    params = {"covariance": covariance, "update": update, "class_weight": class_weight}
    params["prior_precision"] = 0.1
    clf, X, y, X_eval, y_eval = problem(n_classes, **params)
    strategy = LookAhead(X_eval, y_eval, y, loss=loss)
    batches = np.random.default_rng(1).permuted(np.tile(np.arange(60), (7, 1)), axis=1)[:, :5]
    ours = strategy.losses(LearnerView(clf, X), batches)
    for batch, value in zip(batches, ours, strict=True):
        twin = updated(clf, X[batch], y[batch])
        if loss == "log_loss":
            expected = log_loss(y_eval, twin.predict_proba(X_eval), labels=clf.classes_)
        else:
            expected = zero_one_loss(y_eval, twin.predict(X_eval))
        assert value == pytest.approx(expected, abs=1e-9)


def test_many_batches_are_cut_into_parts(monkeypatch):
    clf, X, y, X_eval, y_eval = problem()
    strategy, view = LookAhead(X_eval, y_eval, y), LearnerView(clf, X)
    batches = np.arange(60).reshape(20, 3)
    whole = strategy.losses(view, batches)
    monkeypatch.setattr("laplace_al.strategies.look_ahead._NUMBERS_AT_ONCE", 1)
    np.testing.assert_allclose(strategy.losses(view, batches), whole)


def test_the_best_of_all_single_instances_is_found():
    clf, X, y, X_eval, y_eval = problem()
    strategy = LookAhead(X_eval, y_eval, y, n_batches=1000, random_state=0)
    losses = strategy.losses(LearnerView(clf, X), np.arange(60)[:, None])
    chosen, utilities = strategy.query(clf, X, return_utilities=True)
    assert losses[chosen[0]] == losses.min()
    np.testing.assert_allclose(utilities, -losses)


def test_it_is_better_than_chance():
    clf, X, y, X_eval, y_eval = problem()
    ahead = LookAhead(X_eval, y_eval, y, random_state=0).query(clf, X, 6)
    losses = LookAhead(X_eval, y_eval, y).losses(
        LearnerView(clf, X), np.stack([ahead, *np.arange(60).reshape(10, 6)])
    )
    assert losses[0] < losses[1:].min()


def test_batches_of_all_kinds_are_distinct_candidates():
    clf, X, y, X_eval, y_eval = problem()
    mask = np.arange(60) % 2 == 0
    strategy = LookAhead(X_eval, y_eval, y, n_batches=31, random_state=0)
    batches = strategy._batches(LearnerView(clf, X), 8, mask, np.random.RandomState(0))
    assert batches.shape == (31, 8)
    for batch in batches:
        assert len(set(batch)) == 8
        assert mask[batch].all()


def test_members_of_an_enum():
    clf, X, y, X_eval, y_eval = problem()
    members = [[Letter(label) for label in labels] for labels in (y_eval, y)]
    expected = LookAhead(X_eval, y_eval, y, n_batches=5, random_state=0).query(clf, X, 3)
    found = LookAhead(X_eval, *members, n_batches=5, random_state=0).query(clf, X, 3)
    np.testing.assert_array_equal(found, expected)


def test_wrong_labels():
    clf, X, y, X_eval, y_eval = problem()
    with pytest.raises(ValueError, match="y_eval must hold labels; got None at position 1"):
        LookAhead(X_eval[:2], ["a", None], y).query(clf, X)
    with pytest.raises(ValueError, match="y_pool must have a label for each of the 60 rows"):
        LookAhead(X_eval, y_eval, y[:-1]).query(clf, X)
    with pytest.raises(ValueError, match=r"y_eval has labels .* not among the classes: \['z'\]"):
        LookAhead(X_eval[:2], ["a", "z"], y).query(clf, X)


def test_learners_that_cannot_be_simulated():
    clf, X, y, X_eval, y_eval = problem(covariance="full")
    with pytest.raises(TypeError, match="got covariance='full'"):
        LookAhead(X_eval, y_eval, y).query(clf, X)
    with pytest.raises(TypeError, match="LookAhead needs the posterior"):
        LookAhead(X_eval, y_eval, y).query(LogisticRegression().fit(X, y), X)


def test_among_candidates_labels_are_those_of_their_rows():
    clf, X, y, X_eval, y_eval = problem()
    ahead = LookAhead(X_eval, y_eval, y, random_state=0)
    chosen = Preselection(ahead, MarginSampling(), n_candidates=15, random_state=0).query(clf, X, 1)
    candidates = np.sort(MarginSampling().query(clf, X, 15))
    losses = ahead.losses(LearnerView(clf, X), candidates[:, None])
    assert chosen[0] in candidates
    assert losses[np.flatnonzero(candidates == chosen[0])] == losses.min()
    with pytest.raises(ValueError, match=r"y_pool must have a label for each of the \d+ rows"):
        Preselection(LookAhead(X_eval, y_eval, y[:5]), n_candidates=15).query(clf, X, 1)


class Fixed(QueryStrategy):
    """Proposes a batch that is known."""

    def __init__(self, batch, *, random_state=None):
        super().__init__(random_state=random_state)
        self.batch = batch

    def utilities(self, view, rng):
        return np.zeros(len(view))

    def choose(self, view, n_instances, candidates, rng):
        return np.array(self.batch), np.zeros(len(view))


def test_the_batches_of_other_strategies_are_tried():
    clf, X, y, X_eval, y_eval = problem()
    view = LearnerView(clf, X)
    tried = LookAhead(X_eval, y_eval, y, n_batches=1)
    greedy = LookAhead(X_eval, y_eval, y, search="greedy").query(clf, X, 4)
    batches = np.stack([greedy, MarginSampling(random_state=0).query(clf, X, 4)])
    losses = tried.losses(view, batches)
    for worse in range(2):
        both = [Fixed(batches[worse].tolist()), Fixed(batches[1 - worse].tolist())]
        mixed = LookAhead(X_eval, y_eval, y, n_batches=1, candidates=both, random_state=0)
        chosen, utilities = mixed.query(clf, X, 4, return_utilities=True)
        assert tried.losses(view, chosen[None]) == losses.min()
        assert (utilities[batches].min(axis=1) >= -losses - 1e-12).all()
    wrong = [Preselection(MarginSampling(), n_candidates=0)]
    with pytest.raises(ValueError, match="'n_candidates' parameter"):
        LookAhead(X_eval, y_eval, y, candidates=wrong).query(clf, X, 4)


@pytest.mark.parametrize("covariance", ["shared", "per_class"])
@pytest.mark.parametrize("update", ["map", "newton"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("class_weight", [None, {"a": 3.0, "b": 0.0, "c": 1.0}])
def test_greedy_is_the_best_next_label_of_really_updated_copies(
    covariance, update, n_classes, class_weight
):
    params = {"covariance": covariance, "update": update, "class_weight": class_weight}
    clf, X, y, X_eval, y_eval = problem(n_classes, prior_precision=0.1, **params)
    X, y, mask = X[:24], y[:24], np.arange(24) % 4 > 0
    truth = np.arange(len(y_eval)), np.searchsorted(clf.classes_, y_eval)
    greedy = LookAhead(X_eval, y_eval, y, search="greedy", random_state=0)
    found, utilities = greedy.query(clf, X, 4, candidates=mask, return_utilities=True)
    chosen, places = [], np.flatnonzero(mask)
    for t in range(4):
        losses = []
        for place in places:
            batch = [*chosen, place]
            twin = updated(clf, X[batch], y[batch])
            losses.append(-twin.predict_log_proba(X_eval)[truth].mean())
        if t == 0:
            np.testing.assert_allclose(-utilities[mask], losses, atol=1e-9)
            assert np.isneginf(utilities[~mask]).all()
        assert losses[np.flatnonzero(places == found[t])[0]] <= min(losses) + 1e-9
        chosen.append(found[t])
        places = places[places != found[t]]


def test_greedy_counts_errors_if_asked_to():
    clf, X, y, X_eval, y_eval = problem()
    strategy = LookAhead(X_eval, y_eval, y, search="greedy", loss="zero_one", random_state=0)
    view = LearnerView(clf, X)
    chosen = strategy.query(clf, X, 2)
    alone = strategy.losses(view, np.arange(60)[:, None])
    assert alone[chosen[0]] == alone.min()
    then = strategy.losses(view, np.stack([np.full(60, chosen[0]), np.arange(60)], axis=1))
    assert then[chosen[1]] == np.delete(then, chosen[0]).min()


@pytest.mark.parametrize("n_instances", [5, 60])
def test_greedy_is_ahead_of_a_hundred_batches(n_instances):
    clf, X, y, X_eval, y_eval = problem()
    greedy = LookAhead(X_eval, y_eval, y, search="greedy").query(clf, X, n_instances)
    assert len(set(greedy)) == n_instances
    batches = LookAhead(X_eval, y_eval, y, random_state=0).query(clf, X, n_instances)
    losses = LookAhead(X_eval, y_eval, y).losses(LearnerView(clf, X), np.stack([greedy, batches]))
    if n_instances < 60:
        assert losses[0] < losses[1]


def test_greedy_goes_on_after_imagined_labels_and_among_candidates():
    clf, X, y, X_eval, y_eval = problem()
    greedy = LookAhead(X_eval, y_eval, y, search="greedy", random_state=0)
    view = LearnerView(clf, X)
    later = view.after([7], view.state.copy().observe(7, y[7]))
    mask = np.arange(60) != 7
    chosen, _ = greedy.choose(later, 1, mask, np.random.RandomState(0))
    pairs = np.stack([np.full(60, 7), np.arange(60)], axis=1)
    losses = greedy.losses(view, pairs)
    assert losses[chosen[0]] == pytest.approx(losses[mask].min(), abs=1e-9)
    among = Preselection(greedy, MarginSampling(), n_candidates=15, random_state=0)
    candidates = np.sort(MarginSampling().query(clf, X, 15))
    alone = greedy.losses(view, candidates[:, None])
    assert among.query(clf, X, 1)[0] == candidates[alone.argmin()]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 10])
def test_greedy_is_above_every_strategy_in_batches(batch):
    """Its mean accuracy over a run, in points, on digits that no strategy has seen."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    n_batches, areas = 60 // batch, {}
    others = [MaxHerding(), UncertaintyHerding(), MarginSampling(), BAIT(), BADGE(), TypiClust()]
    for seed in range(3):
        rows = np.random.default_rng(seed).permutation(len(y))
        pool, evaluation, test = rows[:500], rows[500:1000], rows[1000:]
        data = (X[evaluation], y[evaluation], y[pool])
        oracles = {
            "greedy": LookAhead(*data, search="greedy"),
            "mixed": LookAhead(*data, n_batches=30, candidates=others),
        }
        for name, strategy in {repr(other): other for other in others}.items() | oracles.items():
            learner = ActiveLearner(
                LaplaceUpdateClassifier(prior_precision=1.0, covariance="shared"),
                strategy,
                X[pool],
                X_initial=X[rows[:20]],
                y_initial=y[rows[:20]],
                classes=range(10),
                random_state=seed,
            )
            scores = []
            for _ in range(n_batches):
                chosen = learner.query(batch)
                learner.teach(chosen, y[pool][chosen]).refit()
                scores.append(learner.score(X[test], y[test]))
            areas.setdefault(name, []).append(np.mean(scores))
    means = {name: np.mean(scores) for name, scores in areas.items()}
    greedy, mixed = means.pop("greedy"), means.pop("mixed")
    assert greedy > max(means.values())
    assert mixed > np.mean(list(means.values()))
