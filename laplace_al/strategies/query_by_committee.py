"""Disagreement of weights drawn from the posterior."""

from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.utils._param_validation import Interval, StrOptions

from laplace_al._common.typing import RandomState, Rng
from laplace_al.strategies import scores
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._draws import scores_of_draws
from laplace_al.strategies._view import PoolView


class QueryByCommittee(QueryStrategy):
    """Choose the instances that a committee of drawn weights disagrees about most.

    Each member s predicts p_s. Its vote goes to its most probable class, and ``"vote_entropy"`` is
    ``-sum_k V_k log V_k`` of the shares V of the votes. ``"kl_divergence"`` is
    ``mean_s KL(p_s || mean_s p_s)``, the utility of :class:`~laplace_al.strategies.bald.BALD` with
    as many samples as members.
    Needs the posterior of a :class:`~laplace_al.LaplaceUpdateClassifier`, whose ``random_state``
    seeds the drawn weights.

    Parameters
    ----------
    n_members : int, default=10
        Size of the committee, at least 2.
    disagreement : {"vote_entropy", "kl_divergence"}, default="vote_entropy"
    random_state : int, RandomState instance or None, default=None
        Breaks ties, which are frequent with vote entropy.
    verbose : int, default=0
        If positive, show a progress bar where a query takes more than a second.

    References
    ----------
    Seung, Opper and Sompolinsky, *Query by committee*, COLT 1992.

    McCallum and Nigam, *Employing EM and pool-based active learning for text classification*,
    ICML 1998.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import QueryByCommittee
    >>> learner = LaplaceUpdateClassifier().fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> QueryByCommittee(random_state=0).query(learner, [[9.0, 0.0], [0.0, 4.0]])
    array([1])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "n_members": [Interval(Integral, 2, None, closed="left")],
        "disagreement": [StrOptions({"vote_entropy", "kl_divergence"})],
        "verbose": ["verbose"],
    }

    is_pointwise = True

    def __init__(
        self,
        *,
        n_members: int = 10,
        disagreement: Literal["vote_entropy", "kl_divergence"] = "vote_entropy",
        random_state: RandomState = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(random_state=random_state)
        self.n_members = n_members
        self.disagreement = disagreement
        self.verbose = verbose

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the disagreement of the members in nats, (n_pool,)."""
        score = scores.mutual_information
        if self.disagreement == "vote_entropy":
            score = _vote_entropy
        state = view.posterior_state(self)
        return scores_of_draws(state, self.n_members, score, "QueryByCommittee", self.verbose)


def _vote_entropy(draws: NDArray[np.floating]) -> NDArray[np.float64]:
    votes = draws.argmax(axis=2)[:, :, None] == np.arange(draws.shape[2])
    return scores.entropy(votes.mean(axis=0))
