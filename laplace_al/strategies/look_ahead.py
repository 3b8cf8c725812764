"""The batch that would help most, if its labels were known: an upper baseline."""

import numbers
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import MiniBatchKMeans
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_consistent_length

from laplace_al._common.devices import on_device
from laplace_al._common.typing import Choice, Instances, Mask, RandomState, Rng
from laplace_al.inputs.classes import class_indices
from laplace_al.inputs.labels import as_labels
from laplace_al.model.pool_state import PoolState
from laplace_al.model.posterior.base import prior_variance
from laplace_al.model.updates import MapUpdate, NewtonUpdate
from laplace_al.strategies import scores
from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies._ranking import best
from laplace_al.strategies._view import PoolView

_NUMBERS_AT_ONCE = 2**23


class LookAhead(QueryStrategy):
    """Try many batches with their true labels, and choose the one that leaves the lowest loss.

    It cheats by design: it knows the labels of the pool and of an evaluation set. It is therefore
    of no use with an annotator; the paper uses it as an upper baseline for strategies that are.

    ``search="batches"`` tries whole batches, as the paper does. One third of ``n_batches`` is drawn
    at random, one third takes an instance from each of as many clusters of the features as a batch
    has instances, and one third is drawn from the least certain instances; ``candidates`` add a
    batch each. The updates of all batches run together. With the kernel K = Phi Sigma Phi^T of a
    batch, alpha (b, C) and G (b, b) determine the new mean W + Sigma Phi^T alpha and covariance
    Sigma - Sigma Phi^T G Phi Sigma. With g = e_t - G K e_t, label t changes them by
    alpha <- alpha + g a^T and G <- G + h / (1 + h v) g g^T.

    ``search="greedy"`` builds one batch: each next label is that of all instances which lowers the
    loss most, given the true labels before it. It finds what no hundred batches contain.

    Needs a LaplaceUpdateClassifier with ``covariance="shared"``, ``"low_rank"`` or ``"per_class"``.

    Parameters
    ----------
    X_eval : array-like of shape (n_eval, ...)
        Inputs on which the loss is measured.
    y_eval : array-like of shape (n_eval,)
        Their labels.
    y_pool : array-like of shape (n_pool,)
        The labels of the pool.
    search : {"batches", "greedy"}, default="batches"
        Whether to try whole batches, or every instance as the next of a batch.
    n_batches : int, default=100
        Number of random, diverse and uncertain batches to try.
    candidates : sequence of QueryStrategy, default=()
        Strategies that propose a further batch each, such as ``[BAIT(), MarginSampling()]``: the
        loss after the chosen batch is then at most that after any of theirs. Their own
        ``random_state`` is not used. Only for ``search="batches"``.
    loss : {"log_loss", "zero_one"}, default="log_loss"
        Loss to average over the evaluation set after the update.
    random_state : int, RandomState instance or None, default=None
        Draws the batches and breaks ties.

    Notes
    -----
    The loss on the evaluation set is that after updates, and not after a refit.

    ``search="greedy"`` keeps the covariance of each candidate and each evaluation point: as many
    numbers as the product of both, times the number of classes unless ``covariance="shared"``. For
    a large pool, use ``Preselection(LookAhead(..., search="greedy"), n_candidates=1000)``.

    References
    ----------
    Huseljic et al., *Efficient Bayesian Updates for Deep (Active) Learning via Laplace
    Approximations*, arXiv 2210.06112.

    Examples
    --------
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> from laplace_al.strategies import LookAhead
    >>> clf = LaplaceUpdateClassifier().fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1])
    >>> pool, y_pool = [[9.0, 0.0], [0.0, 2.0], [0.0, -2.0]], [1, 1, 0]
    >>> ahead = LookAhead([[0.0, 3.0], [0.0, -3.0]], [1, 0], y_pool, random_state=0)
    >>> ahead.query(clf, pool)[0] in (1, 2)
    True
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "X_eval": "no_validation",
        "y_eval": ["array-like"],
        "y_pool": ["array-like"],
        "search": [StrOptions({"batches", "greedy"})],
        "n_batches": [Interval(numbers.Integral, 1, None, closed="left")],
        "candidates": ["array-like"],
        "loss": [StrOptions({"log_loss", "zero_one"})],
    }

    def __init__(
        self,
        X_eval: Instances,
        y_eval: ArrayLike,
        y_pool: ArrayLike,
        *,
        search: Literal["batches", "greedy"] = "batches",
        n_batches: int = 100,
        candidates: Sequence[QueryStrategy] = (),
        loss: Literal["log_loss", "zero_one"] = "log_loss",
        random_state: RandomState = None,
    ) -> None:
        super().__init__(random_state=random_state)
        self.X_eval = X_eval
        self.y_eval = y_eval
        self.y_pool = y_pool
        self.search = search
        self.n_batches = n_batches
        self.candidates = candidates
        self.loss = loss

    def utilities(self, view: PoolView, rng: Rng) -> NDArray[np.float64]:
        """Return minus the loss after each instance alone, (n_pool,)."""
        return -self.losses(view, np.arange(len(view))[:, None])

    def choose(self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng) -> Choice:
        """Choose the batch after which the loss is lowest.

        The utility of an instance is minus the lowest loss of the batches that contain it, and
        -inf if none does; in a greedy search it is minus the loss after its label alone.
        """
        if self.search == "greedy":
            return self._choose_greedily(view, n_instances, candidates, rng)
        view.posterior_state(self)
        batches = self._batches(view, n_instances, candidates, rng)
        losses = self.losses(view, batches)
        if np.isnan(losses).any():
            raise FloatingPointError("the loss after some batch is not a number")
        utilities = np.full(len(view), -np.inf)
        np.maximum.at(utilities, batches, -losses[:, None])
        ties = np.flatnonzero(losses == losses.min())
        return batches[rng.choice(ties)], utilities

    def losses(self, view: PoolView, batches: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the loss on the evaluation set after learning each batch with its true labels.

        ``batches`` (n_batches, b) are positions in the view, learnt from left to right.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> from laplace_al.strategies._view import LearnerView
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> view = LearnerView(clf, [[0.0], [2.0]])
        >>> LookAhead([[3.0]], [1], [0, 1]).losses(view, np.array([[0], [1]])).argmin()
        np.int64(1)
        """
        state, evaluation, targets, eval_targets = self._known(view)
        n_points, n_outputs = evaluation.logits.shape
        n_groups, size = state.variance.numel() // len(state), batches.shape[1]
        numbers_each = n_groups * size * (n_points + size) + n_points * n_outputs
        at_once = max(1, _NUMBERS_AT_ONCE // numbers_each)
        return np.concatenate(
            [
                self._losses(state, evaluation, some, targets, eval_targets)
                for some in np.split(batches, range(at_once, len(batches), at_once))
            ]
        )

    def _known(self, view: PoolView) -> tuple[PoolState, PoolState, torch.Tensor, torch.Tensor]:
        """States of the pool and of the evaluation points, and the targets (n, C) of both."""
        state = view.posterior_state(self)
        if not hasattr(state.model.update_rule, "at_once"):
            raise TypeError(
                f"{type(self).__name__} simulates posteriors with covariance='shared', "
                "'low_rank' or 'per_class'; got covariance='full'. Use one of these."
            )
        y_pool, places = as_labels(self.y_pool, "y_pool"), view.places
        n_needed = len(view) if places is None else places.max() + 1
        if len(y_pool) < n_needed or (places is None and len(y_pool) > n_needed):
            raise ValueError(
                f"y_pool must have a label for each of the {n_needed} rows of X_pool; got "
                f"{len(y_pool)}."
            )
        check_consistent_length(self.X_eval, self.y_eval)
        evaluation = view.state_of(self.X_eval)
        targets = _encoded(state, y_pool if places is None else y_pool[places], "y_pool")
        return state, evaluation, targets, _encoded(state, self.y_eval, "y_eval")

    def _losses(
        self,
        state: PoolState,
        evaluation: PoolState,
        batches: NDArray[np.int64],
        targets: torch.Tensor,
        eval_targets: torch.Tensor,
    ) -> NDArray[np.float64]:
        rule = state.model.update_rule
        assert isinstance(rule, NewtonUpdate | MapUpdate)  # logits that do not covary
        n_batches, size = batches.shape
        rows = state.rows(batches.ravel())
        eval_rows = evaluation.rows(slice(None))
        batched = rows.reshape(n_batches, size, -1)
        kernels, crosses = [], []
        for directions in state.posterior.covariances(rows):  # (D, M b)
            crosses.append((eval_rows @ directions).reshape(-1, n_batches, size).transpose(0, 1))
            kernels.append(batched @ directions.reshape(-1, n_batches, size).transpose(0, 1))
        kernel = torch.stack(kernels)  # (G, M, b, b)
        cross = torch.stack(crosses)  # (G, M, E, b)
        logits = (rows @ state.posterior.mean).reshape(n_batches, size, -1)  # (M, b, C)
        learnt = state.likelihood.labels(targets[batches].flatten(0, 1))  # (M b,)
        weights = targets.new_tensor(state.model.class_weights)[learnt]
        alpha, shrunk = _learn_together(
            rule,
            kernel,
            logits,
            targets[batches],
            weights.reshape(n_batches, size),
            prior_variance(rows, state.posterior.prior_precision).reshape(n_batches, size),
        )
        # G = 1 serves every output, else each has its own
        moved = torch.einsum("gmeb,mbgc->megc", cross, _grouped(alpha, len(cross)))
        after = eval_rows @ state.posterior.mean + moved.flatten(start_dim=2)  # (M, E, C)
        variance = state.posterior.variance(eval_rows).reshape(len(eval_rows), -1)  # (E, G)
        less = torch.einsum("gmeb,gmbc,gmec->meg", cross, shrunk, cross)
        return self._mean_losses(state, after, variance - less, eval_targets)

    def _mean_losses(
        self, state: PoolState, logits: torch.Tensor, variance: torch.Tensor, targets: torch.Tensor
    ) -> NDArray[np.float64]:
        """Mean losses (M,) of E points with logits (M, E, C) and variances (M, E, G)."""
        variance = variance.clamp_min(0)  # below which rounding may carry it
        calibrated = state.model.calibrated(logits.flatten(0, 1), variance.flatten(0, 1))
        targets = targets.repeat(len(logits), 1)
        if self.loss == "log_loss":
            losses = state.likelihood.negative_log_likelihood(calibrated, targets)
        else:
            predicted = state.likelihood.log_probabilities(calibrated).argmax(dim=1)
            losses = (predicted != state.likelihood.labels(targets)).double()
        return losses.reshape(len(logits), -1).mean(dim=1).numpy(force=True)

    def _choose_greedily(
        self, view: PoolView, n_instances: int, candidates: Mask, rng: Rng
    ) -> Choice:
        state, evaluation, targets, eval_targets = self._known(view)
        places = np.flatnonzero(candidates)
        y = state.classes_[state.likelihood.labels(targets[places]).numpy(force=True).astype(int)]
        ahead = _Ahead(state.part(places), evaluation, targets[places])
        is_open, chosen = np.ones(len(places), dtype=bool), np.empty(0, dtype=np.int64)
        utilities = np.full(len(view), -np.inf)
        while len(chosen) < n_instances:
            left = np.flatnonzero(is_open)
            losses = np.concatenate(
                [
                    self._mean_losses(state, logits, variance, eval_targets)
                    for logits, variance in ahead.after_each(left)
                ]
            )
            if not len(chosen):
                utilities[places] = -losses
            best_place = left[best(-losses, 1, rng)[0]]
            is_open[best_place] = False
            chosen = np.append(chosen, best_place)
            if len(chosen) < n_instances:
                ahead.learn(best_place, y[best_place])
        return places[chosen], utilities

    def _batches(self, view: PoolView, size: int, candidates: Mask, rng: Rng) -> NDArray[np.int64]:
        """Positions (n, size) of random, diverse and uncertain batches, and of the candidates'."""
        places = np.flatnonzero(candidates)
        n_random, n_diverse = -(-self.n_batches // 3), self.n_batches // 3
        batches = [rng.permutation(places)[:size] for _ in range(n_random)]
        if n_diverse:
            clusters = _clusters(view.rows(places), size, rng)
            batches += [_one_of_each(places, clusters, size, rng) for _ in range(n_diverse)]
        margins = scores.margin(view.predict_proba()[places])
        n_uncertain = self.n_batches - len(batches)
        for number in range(n_uncertain):
            # from the very least certain to five times as many
            n_least = min(len(places), size + 4 * size * number // max(n_uncertain - 1, 1))
            least = places[np.argsort(-margins, kind="stable")[:n_least]]
            batches.append(rng.permutation(least)[:size])
        for strategy in self.candidates:
            strategy._validate_params()
            batches.append(strategy.choose(view, size, candidates, rng)[0])
        return np.stack(batches)


class _Ahead:
    """A pool and evaluation points that learn labels of the pool, and what each would change.

    ``targets`` (n, C) are those of the pool. Covariances c_im = phi_i^T Sigma_g phi_m of instances
    and points, (G, n, E), are kept, and follow each label as the scores of a pool do.
    """

    def __init__(self, state: PoolState, evaluation: PoolState, targets: torch.Tensor) -> None:
        self.state, self.evaluation, self.targets = state, evaluation, targets
        self.covariances = self._covariances()

    def _covariances(self) -> torch.Tensor:
        directions = self.state.posterior.covariances(self.evaluation.rows(slice(None)))
        return torch.stack([self.state.project(each) for each in directions])  # G times (D, E)

    def after_each(self, places: NDArray[np.int64]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield logits (M, E, C) and variances (M, E, G) of the points after single labels."""
        state, (n_points, n_outputs) = self.state, self.evaluation.logits.shape
        rule = state.model.update_rule
        assert isinstance(rule, NewtonUpdate | MapUpdate)  # logits that do not covary
        before = self.evaluation.variance.reshape(n_points, -1)
        for some in torch.from_numpy(places).split(max(1, 2**20 // (n_points * n_outputs))):
            targets, variance = self.targets[some], state.variance[some].reshape(len(some), -1)
            weights = targets.new_tensor(state.model.class_weights)
            coefficients, curvature = rule.at_once(
                state.logits[some],
                variance,
                targets,
                weights[state.likelihood.labels(targets)][:, None],
                prior_variance(state.rows(some), state.posterior.prior_precision)[:, None],
            )
            shrinkage = curvature / (1 + curvature * variance)
            c = self.covariances[:, some].permute(1, 2, 0)  # (M, E, G), eq-look-ahead
            yield (
                self.evaluation.logits + c * coefficients[:, None],
                before - c.square() * shrinkage[:, None],
            )

    def learn(self, place: int, label: Any) -> None:
        """Learn the label of an instance."""
        effects = self.state.learn([place], [label], [1.0])
        if effects is None:
            self.evaluation = PoolState(self.state.model, self.evaluation.features)
            self.covariances = self._covariances()
            return
        for effect in effects:
            if effect.shrinkage is not None:
                shrinkage = on_device(effect.shrinkage, self.covariances)
                pool, points = (
                    each.project(effect.directions).T for each in (self.state, self.evaluation)
                )  # (G, n) and (G, E)
                scaled = pool * shrinkage.reshape(-1, 1)
                self.covariances.baddbmm_(scaled[:, :, None], points[:, None, :], alpha=-1)
        self.evaluation = self.evaluation.affected(effects)


def _learn_together(
    update: NewtonUpdate | MapUpdate,
    kernel: torch.Tensor,
    logits: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor,
    prior_variance: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha (M, b, C) and G (G, M, b, b) after the labels of each batch, one after the other.

    Takes kernels (G, M, b, b), logits (M, b, C) before the first label, targets (M, b, C), weights
    (M, b) and prior variances (M, b).
    """
    n_groups, _, size, _ = kernel.shape
    alpha = torch.zeros_like(logits)
    shrunk = torch.zeros_like(kernel)
    for t in range(size):
        row = kernel[:, :, t]  # (G, M, b)
        projected = torch.einsum("gmij,gmj->gmi", shrunk, row)
        direction = -projected
        direction[:, :, t] += 1
        variance = row[:, :, t] - (row * projected).sum(dim=2)  # (G, M)
        shift = torch.einsum("gmb,mbgc->mgc", row, _grouped(alpha, n_groups)).flatten(start_dim=1)
        a, h = update.at_once(
            logits[:, t] + shift,
            variance.T,
            targets[:, t],
            weights[:, t, None],
            prior_variance[:, t, None],
        )
        step = torch.einsum("gmb,mgc->mbgc", direction, _grouped(a, n_groups))
        alpha = alpha + step.flatten(start_dim=2)  # eq-batches
        scale = (h / (1 + h * variance.T)).T[:, :, None, None]  # (G, M, 1, 1)
        shrunk = shrunk + scale * direction[..., :, None] * direction[..., None, :]
    return alpha, shrunk


def _grouped(outputs: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Reshape (..., C) to (..., G, C / G)."""
    return outputs.reshape(*outputs.shape[:-1], n_groups, -1)


def _encoded(state: PoolState, labels: ArrayLike, name: str) -> torch.Tensor:
    """Targets (n, C) of labels."""
    places = class_indices(as_labels(labels, name), state.classes_, name)
    return state.likelihood.encode(torch.from_numpy(places).to(state.logits))


def _clusters(features: NDArray[np.floating], n_clusters: int, rng: Rng) -> NDArray[np.integer]:
    seed = rng.randint(2**31)
    n_clusters = min(n_clusters, len(np.unique(features, axis=0)))
    return MiniBatchKMeans(n_clusters, n_init=1, random_state=seed).fit_predict(features)


def _one_of_each(
    places: NDArray[np.int64], clusters: NDArray[np.integer], size: int, rng: Rng
) -> NDArray[np.int64]:
    """Draw an instance of each cluster, and fill up at random."""
    order = rng.permutation(len(places))
    _, first = np.unique(clusters[order], return_index=True)
    chosen = places[order[first]]
    rest = rng.permutation(np.setdiff1d(places, chosen))[: size - len(chosen)]
    return rng.permutation(np.concatenate([chosen, rest]))[:size]
