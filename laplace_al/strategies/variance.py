"""Uncertainty of the weights about an instance, whatever its classes."""

import numpy as np
from numpy.typing import NDArray

from laplace_al._common.typing import Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._view import PoolView


class VarianceSampling(QueryStrategy):
    """Choose the instances whose logits vary most under the posterior.

    The utility is ``phi^T Sigma phi``, averaged over the outputs if each has its own covariance. It
    ignores the probabilities and is largest far from all labelled instances. With a Gaussian
    likelihood the choice would be D-optimal.
    Needs the posterior of a :class:`~laplace_al.LaplaceUpdateClassifier`.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Breaks ties.

    References
    ----------
    MacKay, *Information-based objective functions for active data selection*, Neural
    Computation 4(4), 1992.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import VarianceSampling
    >>> learner = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> VarianceSampling().query(learner, [[0.0], [-4.0], [2.0]], n_instances=2)
    array([1, 2])
    """

    is_pointwise = True
    reads_posterior = False

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.floating]:
        """Return the variance of the logits, (n_pool,)."""
        variance = view.posterior_state(self).variance.numpy(force=True)
        return variance if variance.ndim == 1 else variance.mean(axis=1)
