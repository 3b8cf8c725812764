"""Diverse and uncertain batches by the gradients of the last layer."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplace_al._common.typing import Choice, Mask, Rng
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._ranking import best
from laplace_al.strategies._view import PoolView


class BADGE(QueryStrategy):
    """Choose instances whose gradients for the predicted label are large and diverse.

    The gradient of the loss in the last layer's weights is ``g = (p - e) φᵀ`` with ``e`` the
    indicator of the most probable class. Centres are chosen as k-means++ does: first the largest
    ``|g|``, then each instance with probability proportional to its squared distance to the
    nearest centre. Once all distances are 0, the rest is chosen at random.

    The utility is ``|g|² = |p - e|² |φ|²``. Gradients are never built: with ``a = p - e`` and a
    centre c, ``|g_i - g_c|² = |a_i|² |φ_i - φ_c|² + |a_i - a_c|² |φ_c|²
    + 2 a_i·(a_i - a_c) (φ_i - φ_c)·φ_c``, which is exactly 0 for equal instances. This takes n C
    numbers and, for each choice, one pass over the features. Needs a learner with
    ``predict_proba``; φ are its features without the intercept's constant, or X itself.

    Parameters
    ----------
    random_state : int, RandomState instance or None, default=None
        Draws the instances and breaks ties.

    Notes
    -----
    The authors' code draws in the same way; scikit-activeml's ``Badge`` counts the origin as a
    further centre, which gives small gradients smaller distances.

    References
    ----------
    Ash, Zhang, Krishnamurthy, Langford and Agarwal, *Deep batch active learning by diverse,
    uncertain gradient lower bounds*, ICLR 2020.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import BADGE
    >>> learner = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
    >>> BADGE(random_state=0).query(learner, [[0.5], [2.0], [2.0]], n_instances=2)
    array([1, 0])
    """

    reads_probabilities = True

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return the squared norm of each gradient, (n_pool,)."""
        return squared_norms(residuals(view.predict_proba())) * squared_norms(view.features)

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Draw centres by k-means++ in the space of the gradients."""
        utilities = self.candidate_utilities(view, candidates, rng)
        coefficients, features = residuals(view.predict_proba()), view.features
        positions = np.empty(n_instances, dtype=np.int64)
        positions[0] = best(utilities, 1, rng)[0]
        distances = np.where(candidates, np.inf, 0.0)  # (n_pool,), squared; 0: not to be drawn
        free = candidates.copy()
        for i in range(1, n_instances):
            centre = positions[i - 1]
            free[centre] = False
            moved = squared_gradient_distances(coefficients, features, centre)
            distances = np.where(free, np.minimum(distances, moved), 0.0)
            total = distances.sum()
            if total > 0:
                positions[i] = rng.choice(len(distances), p=distances / total)
            else:
                positions[i] = rng.choice(np.flatnonzero(free))
        return positions, utilities


def residuals(probabilities: ArrayLike) -> NDArray[np.floating]:
    """Return a = p - e, probabilities (n, K) minus the indicator of the largest."""
    a = np.array(probabilities)
    a[np.arange(len(a)), a.argmax(axis=1)] -= 1
    return a


def squared_norms(rows: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the squared Euclidean norm of each row, (n,), in float64."""
    return np.einsum("nd,nd->n", rows, rows).astype(np.float64)


def squared_gradient_distances(
    coefficients: NDArray[np.floating], features: NDArray[np.floating], centre: int
) -> NDArray[np.float64]:
    """Return the squared distances (n,) of the matrices ``a_i φ_iᵀ`` to that of the centre.

    They are never negative, and 0 for an instance equal to the centre.
    """
    own, phi = coefficients[centre], features[centre]
    squared = np.empty(len(features))
    for start in range(0, len(features), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        a = coefficients[rows]
        a_moved, moved = a - own, features[rows] - phi
        squared[rows] = (
            squared_norms(a) * squared_norms(moved)
            + squared_norms(a_moved) * float(phi @ phi)
            + 2 * np.einsum("nk,nk->n", a, a_moved) * np.einsum("nd,d->n", moved, phi)
        )
    return np.maximum(squared, 0, out=squared)  # the cross term may round below zero


_ROWS_AT_ONCE = 256  # a block of differences stays in the cache
