"""modAL's query strategies, for the learners of this package."""

import contextlib
import inspect
import numbers
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
from modAL.models.base import BaseCommittee, BaseLearner
from numpy.typing import NDArray
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import Interval

from laplace_al._common.typing import Instances, RandomState
from laplace_al.inputs.blocks import rows_at
from laplace_al.model.pool_state import PoolState
from laplace_al.strategies import QueryStrategy
from laplace_al.strategies._view import PoolView


class ModalStrategy(QueryStrategy):
    """Choose instances by a query strategy of modAL.

    The strategy sees the candidates only. The committee that strategies of ``modAL.disagreement``
    need consists of weights drawn from the posterior of a
    :class:`~laplace_al.LaplaceUpdateClassifier`, as in
    :class:`~laplace_al.strategies.QueryByCommittee`.

    modAL returns which instances it chooses, not how useful each is: several are in modAL's order,
    the utilities that ``query`` can return are 1 for these and 0 for the others, and
    :class:`~laplace_al.strategies.PowerSampling`, which needs utilities, cannot wrap the strategy.

    Parameters
    ----------
    query_strategy : callable
        ``query_strategy(learner, X_pool, n_instances=k, **kw_args)``, e.g.
        ``modAL.batch.uncertainty_batch_sampling``. A strategy without ``n_instances``, e.g. of
        ``modAL.utils.combination.make_query_strategy``, must return as many as are asked for.
    kw_args : dict, default=None
        Keyword arguments passed to ``query_strategy``.
    n_members : int, default=10
        Size of the committee, at least 2.
    on_transformed : bool, default=False
        Whether the strategy computes distances and densities from extracted features, not from
        the instances themselves.
    random_state : int, RandomState instance or None, default=None
        Seeds NumPy's global generator, from which modAL draws, for the duration of a query.

    References
    ----------
    Danka and Horvath, *modAL: A modular active learning framework for Python*, arXiv 1805.00979.

    Examples
    --------
    >>> from modAL.batch import uncertainty_batch_sampling
    >>> from laplace_al import ActiveLearner, LaplaceUpdateClassifier
    >>> from laplace_al.integrations.modal import ModalStrategy
    >>> pool = [[0.1, 3.0], [0.1, 3.1], [0.3, -3.0], [5.0, 0.0]]
    >>> learner = ActiveLearner(LaplaceUpdateClassifier(),
    ...                         ModalStrategy(uncertainty_batch_sampling), pool,
    ...                         X_initial=[[-1.0, 0.0], [1.0, 0.0]], y_initial=[0, 1])
    >>> learner.query(2)
    array([1, 2])
    """

    _parameter_constraints: dict[str, Any] = {
        **QueryStrategy._parameter_constraints,
        "query_strategy": [callable],
        "kw_args": [dict, None],
        "n_members": [Interval(numbers.Integral, 2, None, closed="left")],
        "on_transformed": ["boolean"],
    }

    def __init__(
        self,
        query_strategy: Callable[..., Any],
        *,
        kw_args: dict[str, Any] | None = None,
        n_members: int = 10,
        on_transformed: bool = False,
        random_state: RandomState = None,
    ) -> None:
        self.query_strategy = query_strategy
        self.kw_args = kw_args
        self.n_members = n_members
        self.on_transformed = on_transformed
        self.random_state = random_state

    def utilities(self, view: PoolView, rng: np.random.RandomState) -> NoReturn:
        """Refuse with a TypeError: modAL does not say how useful an instance is."""
        raise TypeError(
            f"ModalStrategy has no utilities: modAL's {self._name} says which instances it "
            "chooses, not how useful each is. Use a strategy of laplace_al.strategies."
        )

    def choose(
        self,
        view: PoolView,
        n_instances: int,
        candidates: NDArray[np.bool_],
        rng: np.random.RandomState,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the positions that modAL chooses, (n_instances,), and utilities, (n_pool,)."""
        places = np.flatnonzero(candidates)
        if isinstance(view.learner, BaseLearner | BaseCommittee):
            learner, X = view.learner, rows_at(view.X, places)
        else:
            learner = _ModalLearner(view, places, self)
            X = learner.X
        with _numpy_seed(rng.randint(2**31)):
            chosen = self.query_strategy(learner, X, **self._keywords(n_instances))
        if isinstance(learner, _ModalLearner) and learner.not_fitted is not None:
            raise learner.not_fitted  # modAL takes the first of the pool instead
        positions = places[self._checked(chosen, n_instances, len(places))]
        utilities = np.where(candidates, 0.0, -np.inf)
        utilities[positions] = 1.0
        return positions, utilities

    @property
    def _name(self) -> str:
        """Name of the strategy in errors."""
        return getattr(self.query_strategy, "__name__", repr(self.query_strategy))

    def _keywords(self, n_instances: int) -> dict[str, Any]:
        """Return the keyword arguments of one call of the strategy."""
        keywords = self.kw_args or {}
        if "n_instances" in keywords:
            raise ValueError(
                "kw_args must not hold n_instances; pass it to query instead. Got "
                f"kw_args={self.kw_args}."
            )
        parameters = inspect.signature(self.query_strategy).parameters
        is_told = "n_instances" in parameters or any(
            parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
        )
        return keywords | ({"n_instances": n_instances} if is_told else {})

    def _checked(self, chosen: Any, n_instances: int, n_candidates: int) -> NDArray[np.int64]:
        """Return what the strategy chose as places among the candidates, (n_instances,)."""
        if isinstance(chosen, tuple):  # with instances or metrics, as in other versions of modAL
            chosen = chosen[0]
        chosen = np.atleast_1d(chosen)
        if (
            chosen.shape != (n_instances,)
            or not np.issubdtype(chosen.dtype, np.integer)
            or len(np.unique(chosen)) < n_instances
            or chosen.min() < 0
            or chosen.max() >= n_candidates
        ):
            raise ValueError(
                f"query_strategy must return {n_instances} distinct positions among "
                f"{n_candidates} candidates, as many as n_instances; {self._name} returned "
                f"{chosen!r}. Set up a strategy that takes no n_instances to choose as many."
            )
        return chosen


class _ModalLearner:
    """The learner or committee that modAL's strategies see, which knows the candidates of a pool.

    modAL's strategies catch a NotFittedError; the first one is therefore kept in ``not_fitted``.
    """

    on_transformed = False  # distances are those between X and X_training

    def __init__(self, view: PoolView, places: NDArray[np.int64], strategy: ModalStrategy) -> None:
        self.view, self.places, self.strategy = view, places, strategy
        self.not_fitted = None
        if strategy.on_transformed:
            self.X = view.rows(places)
            self.X_training = view.labelled if len(view.labelled) else None
        else:
            instances = getattr(view.learner, "instances_", None)
            self.X = _array(rows_at(view.X, places))
            self.X_training = None if instances is None else _array(instances)

    def predict_proba(self, X: Instances) -> NDArray[np.floating]:
        """Return the probabilities, (n, n_classes), of the candidates or of other instances."""
        if X is self.X:
            return self._keep_not_fitted(self.view.predict_proba)[self.places]
        if not self.strategy.on_transformed:
            return self._keep_not_fitted(self.view.learner.predict_proba, X)
        raise ValueError(
            "With on_transformed=True a modAL strategy can only ask for predictions of the whole "
            f"pool that it is given, of shape {self.X.shape}; got {np.shape(X)}."
        )

    def vote_proba(self, X: Instances) -> NDArray[np.floating]:
        """Return probabilities under drawn weights, (n, n_members, n_classes)."""
        draws = self._posterior_state().sample_proba(len(self))
        return draws[:, self.places].transpose(1, 0, 2)

    def vote(self, X: Instances) -> NDArray[Any]:
        """Return the most probable labels under drawn weights, (n, n_members)."""
        return self.classes_[self.vote_proba(X).argmax(axis=2)]

    def __len__(self) -> int:
        return self.strategy.n_members

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    @property
    def classes_(self) -> NDArray[Any]:
        return self._posterior_state().classes_

    def _posterior_state(self) -> PoolState:
        """Return the pool under a posterior from which weights can be drawn."""
        return self._keep_not_fitted(self.view.posterior_state, self.strategy)

    def _keep_not_fitted(self, call: Callable[..., Any], *args: Any) -> Any:
        """Call, and keep a NotFittedError."""
        try:
            return call(*args)
        except NotFittedError as error:
            self.not_fitted = error
            raise

    def __getattr__(self, name: str) -> NoReturn:
        not_fitted = vars(self).get("not_fitted")
        if not_fitted is not None:  # which is an AttributeError as well
            raise not_fitted
        raise AttributeError(
            f"A modAL strategy asked the learner for {name!r}, but ModalStrategy offers only "
            "predict_proba, vote, vote_proba, classes_ and X_training. Strategies for regression, "
            "several labels or Bayesian optimisation need modAL's own learners."
        )


@contextlib.contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, and restore it afterwards."""
    state = np.random.get_state()  # noqa: NPY002  modAL draws from nothing else
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def _array(X: Any) -> Any:
    """Return an array, or a sparse matrix as it is."""
    return X if sparse.issparse(X) else np.asarray(X)
