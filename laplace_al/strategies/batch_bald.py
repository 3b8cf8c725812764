"""Mutual information of the labels of a batch and the weights."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Choice, Mask, RandomState, Rng
from laplace_al.model.pool_state import PoolState
from laplace_al.strategies import scores
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._draws import Score, progress, scores_of_draws
from laplace_al.strategies._ranking import best
from laplace_al.strategies._view import PoolView


class BatchBALD(QueryStrategy):
    """Choose a batch whose labels together tell most about the weights.

    Greedily maximises the mutual information of all labels of the batch and the weights. By the
    chain rule an instance adds

        I(y; w | Y) = sum_c p(c) H(sum_s w_cs p_s(y)) - mean_s H(p_s(y))

    to it. Here c are the label configurations of the instances already chosen, s the weights drawn
    from the posterior, and w_cs is the probability of s given c. Redundant instances add little,
    which :class:`~laplace_al.strategies.bald.BALD` does not take into account. All configurations
    are enumerated while they are few, else some are drawn from their joint probabilities.
    The utilities before the first choice are those of BALD.
    Needs the posterior of a :class:`~laplace_al.LaplaceUpdateClassifier`, whose ``random_state``
    seeds the drawn weights.

    Parameters
    ----------
    n_samples : int, default=100
        Number of drawn weights S.
    max_configurations : int, default=10_000
        Up to this number M, all label configurations are enumerated; beyond it, M of them are
        drawn. Each further instance then costs M S n_pool n_classes multiplications.
    random_state : int, RandomState instance or None, default=None
        Draws configurations and breaks ties.
    verbose : int, default=0
        If positive, show a progress bar where a query takes more than a second.

    References
    ----------
    Kirsch, van Amersfoort and Gal, *BatchBALD: Efficient and diverse batch acquisition for deep
    Bayesian active learning*, NeurIPS 2019.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import BatchBALD
    >>> learner = LaplaceUpdateClassifier(prior_precision=1.0).fit(
    ...     [[-1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [0, 1])
    >>> pool = [[0.0, 4.0, 0.0], [0.0, 3.9, 0.0], [0.0, 0.0, 3.0]]
    >>> BatchBALD(random_state=0).query(learner, pool, n_instances=2)
    array([0, 2])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "max_configurations": [Interval(Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        n_samples: int = 100,
        max_configurations: int = 10_000,
        random_state: RandomState = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(random_state=random_state)
        self.n_samples = n_samples
        self.max_configurations = max_configurations
        self.verbose = verbose

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the mutual information of a label alone and the weights, (n_pool,)."""
        state = view.posterior_state(self)
        score = scores.mutual_information
        return scores_of_draws(state, self.n_samples, score, "BatchBALD, first", self.verbose)

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Choose each instance given those before it."""
        utilities = self.candidate_utilities(view, candidates, rng)
        positions = best(utilities, 1, rng)
        if n_instances == 1:
            return positions, utilities
        draws = Draws(view.posterior_state(self), self.n_samples)
        left = draws.scores(scores.expected_entropy)
        batch = Configurations(self.n_samples, self.max_configurations)
        remaining = np.flatnonzero(candidates)
        with progress("BatchBALD, others", n_instances - 1, self.verbose) as done:
            while len(positions) < n_instances:
                batch.add(draws.of(positions[-1]), rng)
                remaining = remaining[remaining != positions[-1]]
                gain = draws.scores(batch.expected_entropy, remaining) - left[remaining]
                positions = np.append(positions, remaining[best(np.maximum(gain, 0.0), 1, rng)])
                done(1)
        return positions, utilities


class Draws:
    """Probabilities of a pool under drawn weights: kept if they are few, else computed anew."""

    def __init__(self, state: PoolState, n_samples: int) -> None:
        self.state, self.n_samples = state, n_samples
        is_small = n_samples * len(state) * len(state.classes_) <= _NUMBERS_KEPT
        self._kept = state.sample_proba(n_samples) if is_small else None

    def of(self, position: int) -> NDArray[np.floating]:
        """Return the probabilities of an instance, (n_samples, n_classes)."""
        if self._kept is None:
            return self.state.part(np.array([position])).sample_proba(self.n_samples)[:, 0]
        return self._kept[:, position]

    def scores(
        self, score: Score, positions: NDArray[np.int64] | None = None
    ) -> NDArray[np.float64]:
        """Score the draws of some instances, or of all, see :meth:`PoolState.scores_of_draws`."""
        if self._kept is None:
            return self.state.scores_of_draws(self.n_samples, score, positions)
        return score(self._kept if positions is None else self._kept[:, positions])


class Configurations:
    """Labels that the chosen instances may have together: all of them, or some drawn.

    ``probability`` (M,) holds p(c), for drawn configurations 1 / M; ``weights`` (M, S) holds
    p(s | c), which unlike p(c | s) cannot underflow, however large the batch.

    Examples
    --------
    >>> batch = Configurations(n_draws=2, max_configurations=10)
    >>> batch.add(np.array([[1.0, 0.0], [0.5, 0.5]]), np.random.RandomState(0))
    >>> batch.probability
    array([0.75, 0.25])
    >>> batch.weights.round(2)
    array([[0.67, 0.33],
           [0.  , 1.  ]])
    """

    def __init__(self, n_draws: int, max_configurations: int) -> None:
        self.max_configurations = max_configurations
        self.is_exact = True
        self.probability = np.ones(1)
        self.weights = np.full((1, n_draws), 1 / n_draws)
        self._chosen: list[NDArray[np.floating]] = []

    def add(self, draws: NDArray[np.floating], rng: Rng) -> None:
        """Add an instance with probabilities (S, K) under each of the drawn weights."""
        if not self.is_exact:
            self._draw(draws, rng)
            return
        self._chosen.append(draws)
        n_configurations = len(self.probability) * draws.shape[1]
        if n_configurations > self.max_configurations:
            self._start_drawing(rng)
            return
        joint = self.weights[:, None] * draws.T  # (M, K, S), p(s, y | c)
        probability = (self.probability[:, None] * joint.sum(axis=2)).ravel()
        possible = probability > 0
        self.probability = probability[possible]
        self.weights = _normalised(joint.reshape(n_configurations, -1)[possible])

    def expected_entropy(self, draws: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the entropy of other labels given those of the batch, sum_c p(c) H(y | c), (n,).

        ``draws`` are the probabilities (S, n, K) of the others.
        """
        n_draws, n, n_classes = draws.shape
        at_once = max(1, _NUMBERS_AT_ONCE // (len(self.weights) * n_classes))
        expected = np.empty(n)
        for start in range(0, n, at_once):
            some = draws[:, start : start + at_once].reshape(n_draws, -1)  # (S, n K)
            entropies = self.probability @ scores.negative_p_log_p(self.weights @ some)
            expected[start : start + at_once] = entropies.reshape(-1, n_classes).sum(axis=1)
        return expected

    def _start_drawing(self, rng: Rng) -> None:
        n_draws, size = self.weights.shape[1], self.max_configurations
        self.is_exact = False
        self.probability = np.full(size, 1 / size)
        self.weights = np.full((size, n_draws), 1 / n_draws)
        # The weights that each configuration is drawn under: all as often, as far as possible.
        self._source = rng.permutation(n_draws)[np.arange(size) % n_draws]
        for draws in self._chosen:
            self._draw(draws, rng)

    def _draw(self, draws: NDArray[np.floating], rng: Rng) -> None:
        """Draw a label of the instance for each configuration, y ~ p_s of its own s."""
        cumulative = draws.cumsum(axis=1)[self._source]  # (M, K)
        at = rng.random_sample((len(cumulative), 1)) * cumulative[:, -1:]
        labels = (cumulative <= at).sum(axis=1)
        self.weights = _normalised(self.weights * draws.T[labels])


def _normalised(weights: NDArray[np.floating]) -> NDArray[np.floating]:
    return weights / weights.sum(axis=1, keepdims=True)


_NUMBERS_AT_ONCE = 2**20
_NUMBERS_KEPT = 2**24
