"""When to stop asking for labels."""

from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.metrics import cohen_kappa_score
from sklearn.utils._param_validation import Interval, StrOptions

from laplace_al._common.typing import Instances
from laplace_al.loop.learner import ActiveLearner
from laplace_al.model.pool_state import PoolState
from laplace_al.strategies import scores
from laplace_al.strategies._view import LearnerView
from laplace_al.strategies.expected_error_reduction import ExpectedErrorReduction


class StoppingRule(ABC, BaseEstimator):
    """Base of the rules that decide when an active-learning loop has enough labels.

    A rule watches one run. It keeps statistics of it in attributes that end in an underscore, and
    ``sklearn.base.clone`` makes a rule without them. A subclass decides in ``is_enough(learner)``
    whether to stop. If it compares rounds, it updates its statistics in ``on_new_model(learner)``,
    which is called once for each new model.

    Attributes
    ----------
    n_changes_ : int
        Labels, corrections and refits of the learner when it was last seen.

    Examples
    --------
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.loop.stopping import Budget
    >>> from laplace_al.strategies import RandomSampling
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0], [1.0]])
    >>> rule = Budget(2)
    >>> while not rule.should_stop(learner):
    ...     position = learner.query()
    ...     learner = learner.teach(position, ["cat"])
    >>> len(learner.labels_)
    2
    """

    _parameter_constraints: dict[str, Any] = {}

    def should_stop(self, learner: ActiveLearner) -> bool:
        """Return whether the learner has enough labels. The learner is not changed.

        Repeated calls without new labels give the same answer. It is False until the estimator is
        fitted (except for :class:`Budget`), and True once nothing in the pool is left to query.

        Parameters
        ----------
        learner : ActiveLearner

        Returns
        -------
        bool

        Raises
        ------
        ValueError
            If a parameter is invalid, or the rule has watched another learner before.
        TypeError
            If the learner's estimator lacks what the rule needs.

        Examples
        --------
        >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
        >>> from laplace_al.loop.stopping import Budget
        >>> from laplace_al.strategies import RandomSampling
        >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0]])
        >>> Budget(1).should_stop(learner), Budget(1).should_stop(learner.teach(0, "cat"))
        (False, True)
        """
        self._validate_params()
        n_changes = int((~learner.history_.action.isin(["skip", "unskip", "extend"])).sum())
        n_before = getattr(self, "n_changes_", -1)
        if n_changes < n_before:
            raise ValueError(
                f"{type(self).__name__} has seen {n_before} labels, more than the {n_changes} of "
                "this learner: it has watched another run. Pass sklearn.base.clone(rule)."
            )
        if n_changes > n_before and learner.is_fitted:
            self.on_new_model(learner)
        self.n_changes_ = n_changes
        return not is_open(learner).any() or bool(self.is_enough(learner))

    def on_new_model(self, learner: ActiveLearner) -> None:
        """Update the statistics of the rule with a new model; the base has none.

        Parameters
        ----------
        learner : ActiveLearner
            It is fitted, and not changed.
        """

    @abstractmethod
    def is_enough(self, learner: ActiveLearner) -> bool:
        """Return whether to stop, by the statistics so far.

        Parameters
        ----------
        learner : ActiveLearner
            It need not be fitted, and is not changed.

        Returns
        -------
        bool
        """


class Budget(StoppingRule):
    """Stop at a number of labels.

    Parameters
    ----------
    max_labels : int
        Number of taught labels to stop at. ``X_initial`` does not count; the ``n_initial`` labels
        of :func:`~laplace_al.simulate` do. The last batch may overshoot.

    Examples
    --------
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.loop.stopping import Budget
    >>> from laplace_al.strategies import RandomSampling
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), RandomSampling(), [[2.0], [-1.0], [1.0]])
    >>> Budget(2).should_stop(learner.teach([0, 1], ["cat", "dog"]))
    True
    """

    _parameter_constraints: dict[str, Any] = {
        "max_labels": [Interval(Integral, 0, None, closed="left")]
    }

    def __init__(self, max_labels: int) -> None:
        self.max_labels = max_labels

    def is_enough(self, learner: ActiveLearner) -> bool:
        """Return whether ``max_labels`` labels have been taught."""
        return len(learner.labels_) >= self.max_labels


class StablePredictions(StoppingRule):
    """Stop when more labels hardly change the predictions.

    Successive models predict the labels of a stop set. Let p be the share of equal predictions of
    two models, and e the share expected by chance, from how often each predicts each class. The
    agreement of a round is then Cohen's kappa

        kappa = (p - e) / (1 - e),

    or 0 if both predict the same single class, e = 1. The rule stops when the mean of kappa over
    the last ``n_rounds`` rounds reaches ``threshold``.

    A round is what is taught between two calls: batches of ten labels change predictions more
    than single labels. Works with any classifier.

    Parameters
    ----------
    threshold : float, default=0.99
        Mean kappa to stop at, in (0, 1].
    n_rounds : int, default=3
        Number of rounds to average over.
    X_stop : array-like of shape (n_stop, ...), default=None
        The stop set: unlabelled inputs, distributed like those to be predicted later. None: the
        pool. The paper uses 2000 instances.

    Attributes
    ----------
    kappas_ : list of float
        Agreement of each model with its predecessor.

    References
    ----------
    Bloodgood and Vijay-Shanker, *A method for stopping active learning based on stabilizing
    predictions and the need for user-adjustable stopping*, CoNLL 2009.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.loop.stopping import StablePredictions
    >>> from laplace_al.strategies import MarginSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X,
    ...                         X_initial=X[::50], y_initial=y[::50], random_state=0)
    >>> rule = StablePredictions()
    >>> while not rule.should_stop(learner):
    ...     position = learner.query()
    ...     learner = learner.teach(position, y[position])
    >>> len(learner.labels_) < 50
    True
    """

    _parameter_constraints: dict[str, Any] = {
        "threshold": [Interval(Real, 0, 1, closed="right")],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "X_stop": "no_validation",  # whatever the estimator takes
    }

    def __init__(
        self, threshold: float = 0.99, *, n_rounds: int = 3, X_stop: Instances | None = None
    ) -> None:
        self.threshold = threshold
        self.n_rounds = n_rounds
        self.X_stop = X_stop

    def on_new_model(self, learner: ActiveLearner) -> None:
        """Compare the predictions of a new model with those of its predecessor."""
        predictions = _predictions(learner, self.X_stop)
        kappas: list[float] = getattr(self, "kappas_", [])
        if hasattr(self, "predictions_"):
            known = self.predictions_, predictions[: len(self.predictions_)]  # a pool may grow
            is_one_class = len(np.unique(known)) == 1
            kappa = 0.0 if is_one_class else cohen_kappa_score(*known)
            kappas = [*kappas, float(kappa)]
        self.predictions_: NDArray[Any] = predictions
        self.kappas_ = kappas

    def is_enough(self, learner: ActiveLearner) -> bool:
        """Return whether the last rounds agree."""
        last = getattr(self, "kappas_", [])[-self.n_rounds :]
        return len(last) == self.n_rounds and np.mean(last) >= self.threshold


class ExpectedGain(StoppingRule):
    """Stop when a label costs more than the errors that it is expected to save.

    Let L(p_m) be the expected loss of the current prediction for evaluation point m, and L(p_m^ik)
    that of the prediction once label k of instance i is learnt. The gain of a label is

        gain = n_predictions max_i sum_k p_ik mean_m [L(p_m) - L(p_m^ik)],

    over the instances i that can be queried; :class:`~laplace_al.strategies.ExpectedErrorReduction`
    maximises the same gain. The rule stops when the mean gain of the last ``n_rounds`` rounds is
    less than ``cost``. It looks one label ahead, and so misses labels that pay only together.

    Needs a :class:`~laplace_al.LaplaceUpdateClassifier` with covariance ``"shared"`` or
    ``"per_class"``. The rule is only as good as the calibration of that classifier.

    Parameters
    ----------
    cost : float
        Cost of a label in the units of the loss: for ``"zero_one"`` in errors, for example 0.1 if
        an error costs as much as ten labels; for ``"log_loss"`` in nats.
    X_eval : array-like of shape (n_eval, ...), default=None
        Evaluation points: unlabelled inputs, in the form that the learner takes, on which it should
        predict well. None: the pool.
    loss : {"zero_one", "log_loss"}, default="zero_one"
        Expected loss of a prediction p: 1 - max_k p_k, the probability of an error, or its entropy.
    n_predictions : int, default=None
        Number of predictions that the model will be used for. None: one per evaluation point.
    n_rounds : int, default=3
        Number of rounds to average over.
    max_candidates : int, default=None
        Consider only this many instances, those whose predictions have the largest entropy. None:
        all that can be queried.

    Attributes
    ----------
    gains_ : list of float
        Gain of each round, in the units of ``cost``.

    References
    ----------
    Roy and McCallum, *Toward optimal active learning through sampling estimation of error
    reduction*, ICML 2001; Kapoor, Horvitz and Basu, *Selective supervision: guiding supervised
    learning with decision-theoretic active learning*, IJCAI 2007.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.loop.stopping import ExpectedGain
    >>> from laplace_al.strategies import MarginSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X,
    ...                         X_initial=X[::50], y_initial=y[::50], random_state=0)
    >>> rule = ExpectedGain(cost=0.1)
    >>> while not rule.should_stop(learner):
    ...     position = learner.query()
    ...     learner = learner.teach(position, y[position])
    >>> len(learner.labels_) < 100
    True
    """

    _parameter_constraints: dict[str, Any] = {
        "cost": [Interval(Real, 0, None, closed="neither")],
        "X_eval": "no_validation",  # whatever the estimator takes
        "loss": [StrOptions({"zero_one", "log_loss"})],
        "n_predictions": [Interval(Integral, 1, None, closed="left"), None],
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "max_candidates": [Interval(Integral, 1, None, closed="left"), None],
    }

    def __init__(
        self,
        cost: float,
        *,
        X_eval: Instances | None = None,
        loss: Literal["zero_one", "log_loss"] = "zero_one",
        n_predictions: int | None = None,
        n_rounds: int = 3,
        max_candidates: int | None = None,
    ) -> None:
        self.cost = cost
        self.X_eval = X_eval
        self.loss = loss
        self.n_predictions = n_predictions
        self.n_rounds = n_rounds
        self.max_candidates = max_candidates

    def on_new_model(self, learner: ActiveLearner) -> None:
        """Compute the expected gain of the best label."""
        candidates = is_open(learner)
        if candidates.any():
            gains = self.expected_gains(learner, candidates)
            self.gains_ = [*getattr(self, "gains_", []), float(gains.max())]

    def is_enough(self, learner: ActiveLearner) -> bool:
        """Return whether the expected gains of the last rounds are below the cost of a label."""
        last = getattr(self, "gains_", [])[-self.n_rounds :]
        return len(last) == self.n_rounds and np.mean(last) < self.cost

    def expected_gains(
        self, learner: ActiveLearner, candidates: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return the expected gain of a label of each candidate, (n_pool,), in units of ``cost``.

        Instances that are not considered have -inf. Raises TypeError without a posterior.
        """
        view = LearnerView(learner, learner.X_pool)
        if view.state is None:
            raise TypeError(
                "ExpectedGain needs the posterior of a LaplaceUpdateClassifier; got "
                f"{type(learner.estimator_).__name__}. Use StablePredictions, which takes any "
                "classifier."
            )
        points = view.state if self.X_eval is None else view.state_of(self.X_eval)
        candidates = self._most_uncertain(view.state, candidates)
        nothing_to_draw = np.random.RandomState(0)  # all candidates are scored
        utilities = ExpectedErrorReduction(self.X_eval, loss=self.loss).candidate_utilities(
            view, candidates, nothing_to_draw
        )
        now = _LOSSES[self.loss](points.predict_proba()).mean()
        n_predictions = len(points) if self.n_predictions is None else self.n_predictions
        return n_predictions * (now + utilities)

    def _most_uncertain(self, state: PoolState, candidates: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the ``max_candidates`` candidates of the largest entropy, (n_pool,)."""
        if self.max_candidates is None:
            return candidates
        entropy = np.where(candidates, scores.entropy(state.predict_proba()), -np.inf)
        best = np.argsort(-entropy, kind="stable")[: self.max_candidates]
        return candidates & np.isin(np.arange(len(candidates)), best)


def is_open(learner: ActiveLearner) -> NDArray[np.bool_]:
    """Return whether each instance of the pool has neither a label nor been skipped, (n_pool,)."""
    return learner.is_open


_LOSSES = {"zero_one": scores.least_confident, "log_loss": scores.entropy}


def _predictions(learner: ActiveLearner, X: Instances | None) -> NDArray[Any]:
    """Return the labels that a learner predicts, of its pool if X is None."""
    if X is not None:
        return learner.predict(learner.kept_inputs(X))
    view = LearnerView(learner, learner.X_pool)  # keeps what is extracted
    if view.state is None:
        return learner.predict(learner.X_pool)
    return view.state.classes_[view.predict_proba().argmax(axis=1)]
