"""A pool of unlabelled instances whose predictions follow each label at the price of one pass."""

import copy
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from laplace_al._common.transaction import all_or_nothing, on_one_state
from laplace_al._common.typing import Link
from laplace_al.model.calibration import Calibration
from laplace_al.model.likelihoods import Likelihood
from laplace_al.model.posterior import Posterior
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.full import common_shift
from laplace_al.model.predictive import NUMBERS_AT_ONCE, sampled_probabilities, sampled_weights
from laplace_al.model.updates import ExpectedUpdate, Rule

_Rows: TypeAlias = slice | Sequence[int] | NDArray[np.integer] | torch.Tensor


class PoolState:
    """Logits and variances of a pool, updated label by label.

    A label at phi changes the posterior along u = Sigma phi, and the pool along c = Phi_pool u:
    Z <- Z + c a^T and v <- v - h / (1 + h v_i) c^2, with the a and h of the update. This takes one
    pass over the features, which are never copied to another dtype. The result equals that of
    rescoring the whole pool under the updated posterior.

    Parameters
    ----------
    posterior : Posterior
        Posterior before any label of the pool. It is not changed.
    features : Tensor of shape (n_pool, n_features)
        Features without the constant 1; read only.
    likelihood : Bernoulli or Categorical
    update : callable
        Rule of :mod:`laplace_al.model.updates` by which labels are learnt.
    calibration : Calibration
    link : callable
        Function of :mod:`laplace_al.model.links`, from logits and variances to the logits of a
        prediction.
    classes : ndarray of shape (n_classes,)
    fit_intercept : bool
        Whether the last weight of the posterior is that of the constant 1.
    class_weights : ndarray of shape (n_classes,), default=None
        Factors of the weights of labels. None: 1 for all classes.
    random_seed : int, default=0
        Seed of the weights that :meth:`sample_proba` draws.

    Attributes
    ----------
    logits : Tensor of shape (n_pool, n_outputs)
    variance : Tensor of shape (n_pool,) or (n_pool, n_outputs)
    predictive_variance : Tensor of shape (n_pool,) or (n_pool, n_outputs)
        Variance used for predictions; equal to ``variance`` except for ``covariance="full"``.
    posterior : Posterior
        Posterior with all labels observed so far.

    See Also
    --------
    LaplaceUpdateClassifier.pool_state : Makes a PoolState.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> clf = LaplaceUpdateClassifier(calibration=None).fit([[-1.0], [1.0]], ["no", "yes"])
    >>> pool = clf.pool_state([[0.0], [2.0]])
    >>> before = pool.predict_proba()[0, 1]
    >>> bool(pool.observe(1, "yes").predict_proba()[1, 1] > before)
    True
    """

    def __init__(
        self,
        posterior: Posterior,
        features: torch.Tensor,
        likelihood: Likelihood,
        update: Rule,
        calibration: Calibration,
        link: Link,
        classes: NDArray[Any],
        *,
        fit_intercept: bool,
        class_weights: NDArray[np.float64] | None = None,
        random_seed: int = 0,
    ) -> None:
        self.posterior = posterior
        self.features = features
        self.likelihood = likelihood
        self.update = update
        self.calibration = calibration
        self.link = link
        self.classes_ = classes
        self.fit_intercept = fit_intercept
        self.class_weights = np.ones(len(classes)) if class_weights is None else class_weights
        self.random_seed = random_seed
        self._has_contrasts = posterior.has_contrasts
        self.logits = self.project(posterior.mean)
        self.variance, self.predictive_variance = self._fresh_variances()

    def __len__(self) -> int:
        return len(self.features)

    def copy(self) -> Self:
        """A copy that can observe other labels; the features are shared.

        Returns
        -------
        PoolState

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> pool = clf.pool_state([[2.0]])
        >>> other = pool.copy().observe(0, 1)
        >>> bool(other.logits[0] > pool.logits[0])
        True
        """
        return copy.copy(self)  # what it holds is replaced, never changed

    def part(self, positions: NDArray[np.integer]) -> Self:
        """The state of some instances of the pool.

        Parameters
        ----------
        positions : ndarray of int of shape (n,)

        Returns
        -------
        PoolState

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> len(clf.pool_state([[2.0], [3.0]]).part(np.array([1])))
        1
        """
        twin = copy.copy(self)
        twin.features = self.features[positions]
        twin.logits, twin.variance = self.logits[positions], self.variance[positions]
        twin.predictive_variance = (
            self.predictive_variance[positions] if self._has_contrasts else twin.variance
        )
        return twin

    def elsewhere(self, features: torch.Tensor) -> Self:
        """The same posterior on other instances.

        Parameters
        ----------
        features : Tensor of shape (n, n_features)

        Returns
        -------
        PoolState

        Examples
        --------
        >>> import torch
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> pool = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).pool_state([[2.0]])
        >>> pool.elsewhere(torch.zeros(1, 1)).predict_proba()
        array([[0.5, 0.5]])
        """
        twin = copy.copy(self)
        twin.features = features
        twin.logits = twin.project(self.posterior.mean)
        twin.variance, twin.predictive_variance = twin._fresh_variances()
        return twin

    @all_or_nothing
    def observe(self, index: int, target: Any, weight: float = 1.0) -> Self:
        """Learn the label of one instance of the pool, and rescore all others.

        Parameters
        ----------
        index : int
            Position in the pool, as an integer or an array of one; -1 is the last.
        target : label or None
            None learns only that there will be some label: no mean moves, but variances shrink.
        weight : float, default=1.0
            Weight s > 0, multiplied by that of the class.

        Returns
        -------
        PoolState
            This object.

        Raises
        ------
        ValueError
            If ``index`` is no position in the pool, the label is not one of the classes, or the
            weight is negative or NaN. The state is then unchanged.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> pool = clf.pool_state([[2.0], [-2.0]])
        >>> variance = pool.variance.clone()
        >>> bool((pool.observe(0, 1).variance < variance).all())
        True
        """
        self._learn(index, target, weight)
        return self

    @all_or_nothing
    def learn(
        self,
        indices: Sequence[int] | NDArray[np.integer],
        targets: Iterable[Any],
        weights: Iterable[float],
    ) -> list[Effect]:
        """:meth:`observe` labels, and return their effects on instances outside this pool.

        Parameters
        ----------
        indices : sequence of int of shape (n,)
            Positions in the pool.
        targets : sequence of labels of shape (n,)
        weights : sequence of float of shape (n,)
            Weights s >= 0, multiplied by those of the classes. A label of weight 0 changes nothing.

        Returns
        -------
        list of Effect
            For :meth:`affected` of other pools whose posterior is the one before these labels.

        Raises
        ------
        ValueError
            If :meth:`observe` would refuse a label. Then none of them is learnt.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> labelled, others = clf.pool_state([[2.0]]), clf.pool_state([[3.0], [-1.0]])
        >>> later = others.affected(labelled.learn([0], [1], [1.0]))
        >>> (later.logits - others.logits).sign().T
        tensor([[ 1., -1.]], dtype=torch.float64)
        """
        effects: list[Effect] = []
        for index, target, weight in zip(indices, targets, weights, strict=True):
            effects += self._learn(index, target, weight)
        return effects

    def affected(self, effects: Sequence[Effect]) -> Self:
        """The state after labels learnt elsewhere; its ``posterior`` is not updated.

        Parameters
        ----------
        effects : sequence of Effect
            See :meth:`learn`.

        Returns
        -------
        PoolState

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> pool = clf.pool_state([[2.0], [3.0]])
        >>> rest = pool.part(np.array([1])).affected(pool.learn([0], [1], [1.0]))
        >>> torch.allclose(rest.logits, pool.logits[1:])
        True
        """
        return self._after(effects, self._projected(effects))

    def _learn(self, index: int, target: Any, weight: float) -> Sequence[Effect]:
        index = self._position(index)
        if not weight >= 0:
            raise ValueError(f"weight must be a number, 0 or larger; got {weight!r}.")
        update = ExpectedUpdate(self.update) if target is None else self.update
        place = 0 if target is None else self._place(target)
        count = self.class_weights[place]
        if target is None and (self.class_weights != count).any():
            count = self.predict_proba([index])[0] @ self.class_weights
        features = self._completed(self.features[index][None])
        targets = self.likelihood.encode(torch.tensor([place], dtype=features.dtype))
        weights = torch.tensor([weight * count], dtype=features.dtype)
        columns: list[torch.Tensor] = []
        posterior, effects = self.posterior.observe(
            features, targets, weights, update, lambda u: columns.append(self.project(u))
        )
        later = self._after(effects, columns or self._projected(effects))
        self.posterior, self.logits, self.variance = posterior, later.logits, later.variance
        self.predictive_variance = later.predictive_variance
        return effects

    def _projected(self, effects: Sequence[Effect]) -> Iterator[torch.Tensor]:
        """C = Phi U of each effect (eq-pool), of several at once."""
        width = max((effect.directions.shape[1] for effect in effects), default=1)
        at_once = max(1, _COLUMNS_AT_ONCE // width)
        for start in range(0, len(effects), at_once):
            directions = [effect.directions for effect in effects[start : start + at_once]]
            columns = self.project(torch.cat(directions, dim=1))
            yield from columns.split([part.shape[1] for part in directions], dim=1)

    def _after(self, effects: Sequence[Effect], columns: Iterable[torch.Tensor]) -> Self:
        """The state after effects whose C are known, but with the ``posterior`` of before."""
        logits, variance, contrasts = self.logits, self.variance, self.predictive_variance

        def ours(tensor: torch.Tensor) -> torch.Tensor | None:
            """What the first effect has made, for the next ones to write to: half of the time."""
            known = (self.logits, self.variance, self.predictive_variance)
            return None if any(tensor is one for one in known) else tensor

        for effect, c in zip(effects, columns, strict=True):
            logits = effect.logits_after(c, logits, out=ours(logits))
            if self._has_contrasts:
                contrast = c - common_shift(c)
                contrasts = effect.variance_after(contrast, contrasts, out=ours(contrasts))
            variance = effect.variance_after(c, variance, out=ours(variance))
        later = copy.copy(self)
        later.logits, later.variance = logits, variance
        later.predictive_variance = contrasts if self._has_contrasts else variance
        return later

    def rows(self, positions: _Rows) -> torch.Tensor:
        """Features with the constant 1, in the dtype of the posterior.

        Parameters
        ----------
        positions : slice or array-like of int

        Returns
        -------
        Tensor of shape (n, D)
        """
        return self._completed(self.features[positions])

    def project(self, matrix: torch.Tensor) -> torch.Tensor:
        """Phi times a matrix (D, m), computed in the dtype of the features: (n_pool, m).

        Parameters
        ----------
        matrix : Tensor of shape (D, m)

        Returns
        -------
        Tensor of shape (n_pool, m)
            Product in the dtype of the matrix.
        """
        weights, constant = (matrix[:-1], matrix[-1]) if self.fit_intercept else (matrix, None)
        # columns that are contiguous: up to five times as fast where they are few
        columns = weights.T.to(self.features).contiguous().T
        product = (self.features @ columns).to(matrix)
        return product if constant is None else product.add_(constant)

    @on_one_state
    def predict_proba(self, rows: _Rows = slice(None)) -> NDArray[np.floating]:
        """Calibrated probabilities of the pool.

        Parameters
        ----------
        rows : slice or array-like of int, default=slice(None)
            Positions in the pool. By default all.

        Returns
        -------
        ndarray of shape (n_rows, n_classes)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.pool_state([[0.0]]).predict_proba()
        array([[0.5, 0.5]])
        """
        variance = self.predictive_variance[rows]
        logits = self.calibration.apply(self.link, self.logits[rows], variance)
        return self.likelihood.probabilities(logits).numpy(force=True)

    @on_one_state
    def sample_proba(self, n_samples: int) -> NDArray[np.floating]:
        """Calibrated probabilities under weights drawn from the posterior.

        Parameters
        ----------
        n_samples : int

        Returns
        -------
        ndarray of shape (n_samples, n_pool, n_classes)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.pool_state([[0.0], [1.0]]).sample_proba(5).shape
        (5, 2, 2)
        """
        return self._probabilities_under(self._sampled_weights(n_samples), n_samples)

    def scores_of_draws(
        self,
        n_samples: int,
        score: Callable[[NDArray[np.floating]], NDArray[np.float64]],
        positions: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float64]:
        """A score of :meth:`sample_proba`, of which only some rows at a time are in memory.

        Parameters
        ----------
        n_samples : int
        score : callable
            From probabilities (n_samples, m, n_classes) of some instances to (m,).
        positions : ndarray of int of shape (n,), default=None
            Of instances in the pool. None: all.

        Returns
        -------
        ndarray of shape (n,)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> pool = clf.pool_state([[0.0], [1.0]])
        >>> pool.scores_of_draws(5, lambda draws: draws.max(axis=(0, 2))).shape
        (2,)
        """
        size = max(1, NUMBERS_AT_ONCE // (n_samples * len(self.classes_)))
        weights = self._sampled_weights(n_samples)
        if positions is None and len(self) <= size:
            return score(self._probabilities_under(weights, n_samples))
        weights = list(weights)
        positions = np.arange(len(self)) if positions is None else positions
        blocks = [positions[i : i + size] for i in range(0, len(positions), size)]
        return np.concatenate(
            [score(self.part(rows)._probabilities_under(weights, n_samples)) for rows in blocks]
        )

    def _sampled_weights(self, n_samples: int) -> Iterable[torch.Tensor]:
        return sampled_weights(self.posterior, self.calibration, n_samples, self.random_seed)

    def _probabilities_under(
        self, weights: Iterable[torch.Tensor], n_samples: int
    ) -> NDArray[np.floating]:
        draws = sampled_probabilities(weights, n_samples, self.project, self.likelihood)
        return draws.numpy(force=True)

    def _fresh_variances(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the logits, and for predictions."""
        variance = self._of_chunks(self.posterior.variance)
        if not self._has_contrasts:
            return variance, variance
        return variance, self._of_chunks(self.posterior.predictive_variance)

    def _of_chunks(self, variance: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Chunks of features in the posterior's dtype: a large pool is never copied whole."""
        parts = self.features.split(_ROWS_AT_ONCE)
        return torch.cat([variance(self._completed(rows)) for rows in parts])

    def _completed(self, features: torch.Tensor) -> torch.Tensor:
        features = features.to(self.posterior.base)
        return functional.pad(features, (0, 1), value=1.0) if self.fit_intercept else features

    def _position(self, index: Any) -> int:
        """Of an instance, told by an integer or an array of one."""
        try:
            position = operator.index(np.asarray(index).item())
        except (TypeError, ValueError):
            position = len(self)
        if not -len(self) <= position < len(self):
            raise ValueError(
                f"index must be a position in the pool of {len(self)} instances; got {index!r}."
            )
        return position

    def _place(self, target: Any) -> int:
        """Of a label among the classes."""
        if isinstance(target, str):
            target = str.__str__(target)  # of a member of an Enum, NumPy would take the name
        places = np.flatnonzero(self.classes_ == target)
        if len(places) != 1:
            raise ValueError(
                f"target must be one of the classes {self.classes_.tolist()}; got {target!r}."
            )
        return int(places[0])


_ROWS_AT_ONCE = 4096
_COLUMNS_AT_ONCE = 16  # a pass over the features serves so many
