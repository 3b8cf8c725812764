"""Batches drawn at random, useful instances more often."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Choice, Mask, RandomState, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView


class PowerSampling(QueryStrategy):
    """Draw a batch without replacement, with odds that are a power of another strategy's utility.

    The instances with the largest ``exponent log u_i + g_i`` are chosen, with standard Gumbel noise
    g: each is drawn from those left with probability u_i^exponent / sum_j u_j^exponent.
    The most useful instances are often near-duplicates; drawing at random avoids that at no extra
    cost. Only positive utilities, such as entropies, margins and information, give such odds;
    instances with a utility of 0 or less come last, in random order.

    Parameters
    ----------
    strategy : QueryStrategy
        Computes the utility of each instance on its own.
    exponent : float, default=1.0
        0 draws uniformly among instances of positive utility; the larger, the closer the choice is
        to that of the strategy.
    random_state : int, RandomState instance or None, default=None
        Draws the noise. The ``random_state`` of the strategy is not used.

    References
    ----------
    Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron and Gal, *Stochastic batch
    acquisition: A simple baseline for deep active learning*, TMLR 2023.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from laplace_al.strategies import MarginSampling
    >>> from laplace_al.strategies import PowerSampling
    >>> learner = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    >>> strategy = PowerSampling(MarginSampling(), exponent=200.0, random_state=0)
    >>> strategy.query(learner, [[0.0], [0.45], [1.5]], n_instances=2)
    array([1, 0])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "strategy": [QueryStrategy],
        "exponent": [Interval(Real, 0, None, closed="left")],
    }

    def __init__(
        self, strategy: QueryStrategy, *, exponent: float = 1.0, random_state: RandomState = None
    ) -> None:
        self.strategy = strategy
        self.exponent = exponent
        self.random_state = random_state

    @property
    def is_pointwise(self) -> bool:  # type: ignore[override]  # the others' is a constant
        """True if the strategy scores each instance on its own."""
        return self.strategy.is_pointwise

    @property
    def reads_probabilities(self) -> bool:  # type: ignore[override]  # the others' is a constant
        """True if the strategy needs probabilities."""
        return self.strategy.reads_probabilities

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.floating]:
        """Return the utilities of the strategy, (n_pool,)."""
        return self.strategy.utilities(view, rng)

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Draw from the candidates: best first only on average."""
        self.strategy._validate_params()
        return view.top(self.strategy, n_instances, candidates, rng, self._priorities)

    def _priorities(
        self, utilities: NDArray[np.float64], noise: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Perturbed logarithms of the utilities."""
        useful = utilities > 0
        gumbel = -np.log(-np.log(np.maximum(noise[useful], 2.0**-54)))
        first = np.full(len(utilities), -np.inf)
        first[useful] = self.exponent * np.log(utilities[useful]) + gumbel
        return first, noise
