import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, simulate
from laplace_al.strategies import MarginSampling, RandomSampling

X, y = load_iris(return_X_y=True)
HALVES = {"X_pool": X[::2], "y_pool": y[::2], "X_test": X[1::2], "y_test": y[1::2]}


def run(estimator=None, strategy=None, **kwargs):
    settings = HALVES | {"budget": 20, "n_initial": 4, "random_state": 0} | kwargs
    return simulate(
        estimator or LaplaceUpdateClassifier(), strategy or MarginSampling(), **settings
    )


def test_the_table():
    table = run()
    assert table.columns.tolist() == ["n_labels", "score", "query_seconds", "teach_seconds"]
    assert table.n_labels.tolist() == list(range(4, 25))
    assert table.query_seconds[0] == 0
    assert (table.teach_seconds > 0).all()
    assert table.score.iloc[-1] > 0.9


def test_it_is_the_loop_by_hand():
    rng = np.random.RandomState(3)
    initial = rng.permutation(75)[:4]
    learner = ActiveLearner(
        LaplaceUpdateClassifier(),
        MarginSampling(),
        HALVES["X_pool"],
        classes=[0, 1, 2],
        random_state=rng,
    )
    learner.teach(initial, HALVES["y_pool"][initial])
    scores = [learner.score(HALVES["X_test"], HALVES["y_test"])]
    for _ in range(4):
        positions = learner.query(5)
        learner.teach(positions, HALVES["y_pool"][positions])
        scores.append(learner.score(HALVES["X_test"], HALVES["y_test"]))
    assert run(n_instances=5, random_state=3).score.tolist() == scores


@pytest.mark.parametrize(
    ("n_instances", "score_every", "expected"),
    [
        (5, None, [4, 9, 14, 19, 24]),
        (1, 10, [4, 14, 24]),
        (7, None, [4, 11, 18, 24]),
        (3, 10, [4, 16, 24]),
    ],
)
def test_when_it_scores(n_instances, score_every, expected):
    table = run(strategy=RandomSampling(), n_instances=n_instances, score_every=score_every)
    assert table.n_labels.tolist() == expected


def test_the_same_seed_gives_the_same_run_and_the_same_start():
    first, second, other = (run(strategy=RandomSampling(), random_state=s) for s in (0, 0, 1))
    pd.testing.assert_series_equal(first.score, second.score)
    assert not first.score.equals(other.score)
    assert run().score[0] == first.score[0]


def test_initial_labels_outside_the_pool():
    start = {"X_initial": X[1:150:50], "y_initial": y[1:150:50], "n_initial": 0}
    assert run(n_instances=10, **start).n_labels.tolist() == [3, 13, 23]


def test_from_nothing():
    table = run(strategy=RandomSampling(), n_initial=0, n_instances=10)
    assert table.n_labels.tolist() == [10, 20]


def test_any_scorer_and_any_classifier():
    loss = run(LaplaceUpdateClassifier(predictive="plug_in"), scoring="neg_log_loss")
    assert loss.score.iloc[-1] > loss.score[0]
    assert (loss.score < 0).all()
    table = run(LogisticRegression(), refit_every=1, n_initial=30, n_instances=20)
    assert table.score.iloc[-1] > 0.8


def test_refits_follow_their_policy():
    refitted, updated = run(refit_every=20), run()
    assert refitted.score.iloc[:-1].tolist() == updated.score.iloc[:-1].tolist()


@pytest.mark.parametrize("budget", [0, -1, 72])
def test_a_budget_beyond_the_pool(budget):
    with pytest.raises(ValueError, match=rf"budget must be between 1 and 71.*; got {budget}"):
        run(budget=budget)


def test_lengths():
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        run(y_pool=y[:10])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        run(y_test=y[:10])


def test_progress_only_when_verbose(capsys):
    run()
    assert capsys.readouterr().err == ""
    run(verbose=1)
    assert "20/20" in capsys.readouterr().err
