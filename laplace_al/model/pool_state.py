"""A pool of unlabelled instances whose predictions follow each label at the price of one pass."""

import copy
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from laplace_al._common.typing import Projection
from laplace_al.model.fitted_model import FittedModel
from laplace_al.model.likelihoods import Likelihood
from laplace_al.model.pool_features import in_chunks, phi_of, product, variance_at_prior
from laplace_al.model.posterior import PerClassPosterior, Posterior, SharedPosterior
from laplace_al.model.posterior.effects import Effect
from laplace_al.model.posterior.full import common_shift
from laplace_al.model.predictive import NUMBERS_AT_ONCE, sampled_probabilities
from laplace_al.model.updates import ExpectedUpdate

_COLUMNS_AT_ONCE = 16  # a pass over the features serves so many

_Rows: TypeAlias = slice | Sequence[int] | NDArray[np.integer] | torch.Tensor


class PoolScores(NamedTuple):
    """Logits (n, C) and variances (n,) or (n, C) of a pool, and the variances for predictions."""

    logits: torch.Tensor
    variance: torch.Tensor
    predictive_variance: torch.Tensor

    def part(self, positions: _Rows) -> "PoolScores":
        """Return the scores of some instances."""
        variance = self.variance[positions]
        if self.predictive_variance is self.variance:
            return PoolScores(self.logits[positions], variance, variance)
        return PoolScores(self.logits[positions], variance, self.predictive_variance[positions])

    def joined(self, more: "PoolScores") -> "PoolScores":
        """Return the scores of these instances and of others behind them."""
        logits, variance, predictive = (torch.cat(pair) for pair in zip(self, more, strict=True))
        is_one = self.predictive_variance is self.variance
        return PoolScores(logits, variance, variance if is_one else predictive)

    def after(self, effects: Sequence[Effect], project: Projection) -> "PoolScores":
        """Return the scores after the effects of labels; ``project`` multiplies by Phi."""
        return self.after_columns(effects, _projected(effects, project))

    def after_columns(
        self, effects: Sequence[Effect], columns: Iterable[torch.Tensor]
    ) -> "PoolScores":
        """Return the scores after effects whose C = Phi U are known."""
        logits, variance, contrasts = self
        has_contrasts = contrasts is not variance

        def ours(tensor: torch.Tensor) -> torch.Tensor | None:
            """Return what the first effect has made, which the next ones may write to."""
            return None if any(tensor is one for one in self) else tensor

        for effect, c in zip(effects, columns, strict=True):
            logits = effect.logits_after(c, logits, out=ours(logits))
            if has_contrasts:
                contrast = c - common_shift(c)
                contrasts = effect.variance_after(contrast, contrasts, out=ours(contrasts))
            variance = effect.variance_after(c, variance, out=ours(variance))
        return PoolScores(logits, variance, contrasts if has_contrasts else variance)

    def with_outputs(
        self, positions: NDArray[np.integer], n_outputs: int, at_prior: torch.Tensor
    ) -> "PoolScores":
        """Return the scores of :meth:`Posterior.with_outputs`, without contrasts.

        A single logit stands for two, as in :meth:`Posterior.as_two_outputs`. ``at_prior`` (n,) are
        the variances under the prior, which new outputs have unless all share one.
        """
        logits, variance, _ = self
        if logits.shape[1] == 1:
            logits = torch.cat([-logits, logits], dim=1) / 2
        wide = logits.new_zeros(len(logits), n_outputs)
        wide[:, positions] = logits
        if variance.ndim == 2:
            present, variance = variance, at_prior[:, None].repeat(1, n_outputs)
            variance[:, positions] = present
        return PoolScores(wide, variance, variance)


def _projected(effects: Sequence[Effect], project: Projection) -> Iterator[torch.Tensor]:
    """Yield C = Phi U of each effect (eq-pool), computed for several at once."""
    width = max((effect.directions.shape[1] for effect in effects), default=1)
    at_once = max(1, _COLUMNS_AT_ONCE // width)
    for start in range(0, len(effects), at_once):
        directions = [effect.directions for effect in effects[start : start + at_once]]
        columns = project(torch.cat(directions, dim=1))
        yield from columns.split([part.shape[1] for part in directions], dim=1)


class _Known(NamedTuple):
    """The model and the scores of a pool state, replaced as one."""

    model: FittedModel
    scores: PoolScores


class PoolState:
    """Logits and variances of a pool, updated label by label.

    A label at phi changes the posterior along u = Sigma phi, and the pool along c = Phi_pool u:
    Z <- Z + c a^T and v <- v - h / (1 + h v_i) c^2, with the a and h of the update. This takes one
    pass over the features, which are never copied to another dtype. The result equals that of
    rescoring the whole pool under the updated posterior.

    Parameters
    ----------
    model : FittedModel
        Model before any label of the pool. It is not changed.
    features : Tensor of shape (n_pool, n_features)
        Features without the constant 1; read only.
    scores : PoolScores, default=None
        Logits and variances of the pool under the model. None: they are computed.

    Attributes
    ----------
    logits : Tensor of shape (n_pool, n_outputs)
    variance : Tensor of shape (n_pool,) or (n_pool, n_outputs)
    predictive_variance : Tensor of shape (n_pool,) or (n_pool, n_outputs)
        Variance used for predictions; equal to ``variance`` except for ``covariance="full"``.
    model : FittedModel
        Model that has learnt all labels observed so far.
    posterior : Posterior
        That of ``model``.
    classes_ : ndarray of shape (n_classes,)

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
        self, model: FittedModel, features: torch.Tensor, scores: PoolScores | None = None
    ) -> None:
        self.features = features
        self._known = _Known(model, _scores_under(model, features) if scores is None else scores)

    @property
    def model(self) -> FittedModel:  # noqa: D102  # see Attributes
        return self._known.model

    @property
    def scores(self) -> PoolScores:  # noqa: D102
        return self._known.scores

    @property
    def posterior(self) -> Posterior:  # noqa: D102
        return self._known.model.posterior

    @property
    def likelihood(self) -> Likelihood:  # noqa: D102
        return self._known.model.likelihood

    @property
    def classes_(self) -> NDArray[Any]:  # noqa: D102
        return self._known.model.classes

    @property
    def logits(self) -> torch.Tensor:  # noqa: D102
        return self._known.scores.logits

    @property
    def variance(self) -> torch.Tensor:  # noqa: D102
        return self._known.scores.variance

    @property
    def predictive_variance(self) -> torch.Tensor:  # noqa: D102
        return self._known.scores.predictive_variance

    def __len__(self) -> int:
        return len(self.features)

    def copy(self) -> Self:
        """Return a copy that can observe other labels; the features are shared.

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
        return copy.copy(self)  # what it knows is replaced, never changed

    def part(self, positions: NDArray[np.integer]) -> Self:
        """Return the state of some instances of the pool.

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
        known = self._known
        return type(self)(known.model, self.features[positions], known.scores.part(positions))

    def elsewhere(self, features: torch.Tensor) -> Self:
        """Return the state of other instances under the same posterior.

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
        return type(self)(self.model, features)

    def observe(self, index: int, target: Any, weight: float = 1.0) -> Self:
        """Learn the label of one instance of the pool, and rescore all others.

        Parameters
        ----------
        index : int
            Position in the pool, as an integer or an array of one; -1 is the last.
        target : label, ndarray of shape (n_classes,) or None
            An array has the probabilities of the classes. None learns only that there will be some
            label: no mean moves, but variances shrink.
        weight : float, default=1.0
            Weight s >= 0, multiplied by that of the class. A label of weight 0 changes nothing.

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
        known, _ = self._after_label(self._known, index, target, weight)
        self._known = known
        return self

    def learn(
        self,
        indices: Sequence[int] | NDArray[np.integer],
        targets: Iterable[Any],
        weights: Iterable[float],
    ) -> list[Effect] | None:
        """Observe several labels, and return their effects on instances outside this pool.

        Parameters
        ----------
        indices : sequence of int of shape (n,)
            Positions in the pool.
        targets : sequence of labels of shape (n,)
        weights : sequence of float of shape (n,)
            Weights s >= 0, multiplied by those of the classes. A label of weight 0 changes nothing.

        Returns
        -------
        list of Effect or None
            For :meth:`affected` of other pools whose posterior is the one before these labels.
            None where these are to be scored anew, as ``covariance="low_rank"`` has it after every
            64 labels.

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
        known, effects, is_told = self._known, list[Effect](), True
        for index, target, weight in zip(indices, targets, weights, strict=True):
            known, more = self._after_label(known, index, target, weight)
            effects += more or ()
            is_told = is_told and more is not None
        self._known = known
        return effects if is_told else None

    def affected(self, effects: Sequence[Effect]) -> Self:
        """Return the state after labels learnt elsewhere; its ``posterior`` is not updated.

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
        model, scores = self._known
        return type(self)(model, self.features, scores.after(effects, self.project))

    def _after_label(
        self, known: _Known, index: int, target: Any, weight: float
    ) -> tuple[_Known, Sequence[Effect] | None]:
        """Return what is known after one more label, and its effects, if they tell all."""
        model, scores = known
        index = _position(index, len(self))
        if not weight >= 0:
            raise ValueError(f"weight must be a number, 0 or larger; got {weight!r}.")
        update = ExpectedUpdate(model.update_rule) if target is None else model.update_rule
        features = phi_of(model, self.features[index][None])
        if isinstance(target, np.ndarray) and target.ndim == 1:
            parts = target * model.class_weights
            count = parts.sum()
            share = torch.from_numpy(parts / count if count else target).to(features.dtype)
            targets = model.likelihood.soft(share[None])
        else:
            place = 0 if target is None else _place(target, model.classes)
            count = 1.0
            if model.rules.class_weights is not None:
                count = model.class_weights[place]
                if target is None:
                    count = self._probabilities(known, [index])[0] @ model.class_weights
            targets = model.likelihood.encode(torch.tensor([place], dtype=features.dtype))
        weights = torch.tensor([weight * count], dtype=features.dtype)
        columns: list[torch.Tensor] = []
        posterior, effects = model.posterior.condition_with_effects(
            features, targets, weights, update, lambda u: columns.append(self.project(u))
        )
        model = replace(model, posterior=posterior)
        if effects is None:
            later = _scores_under(model, self.features)
        elif columns:
            later = scores.after_columns(effects, columns)
        else:
            later = scores.after(effects, self.project)
        return _Known(model, later), effects

    def with_classes(self, classes: NDArray[Any]) -> Self:
        """Return the state of the model with more classes, which start from the prior.

        Parameters
        ----------
        classes : ndarray of shape (n_classes,)
            The present classes and further ones, sorted.

        Returns
        -------
        PoolState

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], ["ant", "cat"])
        >>> wider = clf.pool_state([[2.0]]).with_classes(np.array(["ant", "bee", "cat"]))
        >>> wider.predict_proba().argmax()
        np.int64(2)
        """
        model, scores = self._known
        later = model.with_classes(classes)
        if not takes_new_classes(model):
            return type(self)(later, self.features)
        positions = np.searchsorted(classes, model.classes)
        at_prior = variance_at_prior(model, self.features)
        scores = scores.with_outputs(positions, len(classes), at_prior)
        return type(self)(later, self.features, scores)

    def rows(self, positions: _Rows) -> torch.Tensor:
        """Return features with the constant 1, in the dtype of the posterior.

        Parameters
        ----------
        positions : slice or array-like of int

        Returns
        -------
        Tensor of shape (n, D)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.pool_state([[2.0], [3.0]]).rows([1])
        tensor([[3., 1.]], dtype=torch.float64)
        """
        return phi_of(self.model, self.features[positions])

    def project(self, matrix: torch.Tensor) -> torch.Tensor:
        """Multiply Phi (n_pool, D) by a matrix, computed in the dtype of the features.

        Parameters
        ----------
        matrix : Tensor of shape (D, m)

        Returns
        -------
        Tensor of shape (n_pool, m)
            Product in the dtype of the matrix.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> pool = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).pool_state([[2.0]])
        >>> bool(pool.project(pool.posterior.mean) == pool.logits)
        True
        """
        return product(self.features, matrix, has_constant=self.model.has_intercept)

    def predict_proba(self, rows: _Rows = slice(None)) -> NDArray[np.floating]:
        """Predict calibrated probabilities of the pool.

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
        return self._probabilities(self._known, rows)

    def sample_proba(self, n_samples: int) -> NDArray[np.floating]:
        """Predict calibrated probabilities under weights drawn from the posterior.

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
        return self._probabilities_under(self.model.drawn_weights(n_samples), n_samples)

    def scores_of_draws(
        self,
        n_samples: int,
        score: Callable[[NDArray[np.floating]], NDArray[np.float64]],
        positions: NDArray[np.integer] | None = None,
    ) -> NDArray[np.float64]:
        """Score :meth:`sample_proba`, of which only some rows at a time are in memory.

        Parameters
        ----------
        n_samples : int
        score : callable
            From probabilities (n_samples, m, n_classes) of some instances to (m,).
        positions : ndarray of int of shape (n,), default=None
            Positions of instances in the pool. None: all.

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
        weights = self.model.drawn_weights(n_samples)
        if positions is None and len(self) <= size:
            return score(self._probabilities_under(weights, n_samples))
        weights = list(weights)
        positions = np.arange(len(self)) if positions is None else positions
        blocks = [positions[i : i + size] for i in range(0, len(positions), size)]
        return np.concatenate(
            [score(self.part(rows)._probabilities_under(weights, n_samples)) for rows in blocks]
        )

    def _probabilities(self, known: _Known, rows: _Rows) -> NDArray[np.floating]:
        model, scores = known
        logits = model.calibrated(scores.logits[rows], scores.predictive_variance[rows])
        return model.likelihood.probabilities(logits).numpy(force=True)

    def _probabilities_under(
        self, weights: Iterable[torch.Tensor], n_samples: int
    ) -> NDArray[np.floating]:
        draws = sampled_probabilities(weights, n_samples, self.project, self.likelihood)
        return draws.numpy(force=True)


def takes_new_classes(model: FittedModel) -> bool:
    """Return whether new classes leave all scores of the present ones as they are."""
    return isinstance(model.posterior, SharedPosterior | PerClassPosterior)


def _position(index: Any, n_pool: int) -> int:
    """Return the position of an instance, told by an integer or an array of one."""
    try:
        position = operator.index(np.asarray(index).item())
    except (TypeError, ValueError):
        position = n_pool
    if not -n_pool <= position < n_pool:
        raise ValueError(
            f"index must be a position in the pool of {n_pool} instances; got {index!r}."
        )
    return position


def _place(target: Any, classes: NDArray[Any]) -> int:
    """Return the place of a label among the classes."""
    if isinstance(target, str):
        target = str.__str__(target)  # of a member of an Enum, NumPy would take the name
    places = np.flatnonzero(classes == target)
    if len(places) != 1:
        raise ValueError(f"target must be one of the classes {classes.tolist()}; got {target!r}.")
    return int(places[0])


def _scores_under(model: FittedModel, features: torch.Tensor) -> PoolScores:
    """Return the scores of a pool under a model."""
    posterior = model.posterior

    logits = product(features, posterior.mean, has_constant=model.has_intercept)
    variance = in_chunks(lambda rows: posterior.variance(phi_of(model, rows)), features)
    if not posterior.has_contrasts:
        return PoolScores(logits, variance, variance)
    predictive = in_chunks(
        lambda rows: posterior.predictive_variance(phi_of(model, rows)), features
    )
    return PoolScores(logits, variance, predictive)
