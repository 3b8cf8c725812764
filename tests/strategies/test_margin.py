import numpy as np

from laplace_al.strategies import MarginSampling, scores


class Learner:
    def predict_proba(self, X):
        return np.asarray(X)


def test_the_score_ranks_the_pool():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=30)
    positions, utilities = MarginSampling().query(
        Learner(), probabilities, 30, return_utilities=True
    )
    np.testing.assert_array_equal(utilities, scores.margin(probabilities))
    np.testing.assert_array_equal(positions, np.argsort(-utilities))


def test_what_it_prefers():
    pool = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.4, 0.3, 0.3], [0.9, 0.1, 0.0]]
    assert pool[MarginSampling(random_state=0).query(Learner(), pool)[0]] == [0.5, 0.5, 0.0]
