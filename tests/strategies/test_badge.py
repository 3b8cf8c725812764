import tracemalloc

import numpy as np
import pytest

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import BADGE
from laplace_al.strategies._ranking import draw_seed


class Learner:
    def __init__(self, probabilities):
        self.probabilities = probabilities

    def predict_proba(self, X):
        return self.probabilities


def gradients(probabilities, features):
    """Explicit embeddings, (n, K D)."""
    a = probabilities - np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]
    return (a[:, :, None] * features[:, None, :]).reshape(len(features), -1)


def k_means_plus_plus(embeddings, n_instances, candidates, rng):
    norms = np.where(candidates, (embeddings**2).sum(axis=1), -np.inf)
    draw_seed(rng)  # of the order of ties
    chosen = [int(norms.argmax())]
    while len(chosen) < n_instances:
        centres = embeddings[chosen]
        squared = ((embeddings[:, None] - centres[None]) ** 2).sum(axis=2).min(axis=1)
        squared[~candidates] = 0
        chosen.append(int(rng.choice(len(embeddings), p=squared / squared.sum())))
    return chosen


@pytest.fixture(params=[2, 5])
def problem(request):
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(request.param), size=300), 3 + rng.normal(size=(300, 6))


@pytest.mark.parametrize("seed", range(5))
def test_equals_k_means_plus_plus_on_explicit_gradients(problem, seed):
    probabilities, features = problem
    candidates = np.random.default_rng(seed).random(300) < 0.7
    expected = k_means_plus_plus(gradients(*problem), 20, candidates, np.random.RandomState(seed))
    positions = BADGE(random_state=seed).query(
        Learner(probabilities), features, 20, candidates=candidates
    )
    assert positions.dtype == np.int64
    np.testing.assert_array_equal(positions, expected)


def test_utility_is_the_squared_norm_of_the_gradient(problem):
    probabilities, features = problem
    _, utilities = BADGE().query(Learner(probabilities), features, return_utilities=True)
    np.testing.assert_allclose(utilities, (gradients(*problem) ** 2).sum(axis=1), rtol=1e-12)


def test_the_first_has_the_largest_gradient(problem):
    positions, utilities = BADGE().query(Learner(problem[0]), problem[1], 5, return_utilities=True)
    assert utilities[positions[0]] == utilities.max()


def test_equal_instances_are_not_chosen_twice_while_others_are_left():
    rng = np.random.default_rng(0)
    probabilities, features = rng.dirichlet(np.ones(3), size=10), rng.normal(size=(10, 4)) + 1e3
    same = np.repeat(np.arange(10), 8)
    positions = BADGE(random_state=0).query(Learner(probabilities[same]), features[same], 10)
    assert sorted(same[positions]) == list(range(10))


@pytest.mark.parametrize("n_classes", [1, 2, 3])
def test_without_any_distance_the_choice_is_random_and_complete(n_classes):
    learner, pool = Learner(np.full((9, n_classes), 1 / n_classes)), np.ones((9, 4))
    orders = {tuple(BADGE(random_state=s).query(learner, pool, 9)) for s in range(10)}
    assert len(orders) == 10
    assert all(sorted(order) == list(range(9)) for order in orders)


def test_single_precision_features_of_a_classifier_are_only_read():
    X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    learner = LaplaceUpdateClassifier().fit(X, np.arange(60) % 3)
    X.flags.writeable = False
    positions = BADGE(random_state=0).query(learner, X, 60)
    assert sorted(positions) == list(range(60))


def test_memory_is_of_the_size_of_the_probabilities():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 256)).astype(np.float32)
    probabilities = rng.dirichlet(np.ones(50), size=4000)
    tracemalloc.start()
    BADGE(random_state=0).query(Learner(probabilities), features, 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * probabilities.nbytes
