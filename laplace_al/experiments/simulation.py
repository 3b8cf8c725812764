"""An active-learning loop against known labels."""

import contextlib
import itertools
import numbers
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import _num_samples, check_consistent_length
from tqdm.auto import tqdm

from laplace_al._common.typing import Instances, RandomState
from laplace_al.inputs.labels import as_labels, like_known
from laplace_al.loop.learner import ActiveLearner
from laplace_al.loop.stopping import StoppingRule
from laplace_al.loop.trainer import RefitEvery
from laplace_al.strategies import QueryStrategy

Stopping: TypeAlias = StoppingRule | Sequence[StoppingRule] | None
Scoring: TypeAlias = str | Callable[..., Any] | Iterable[str] | Mapping[str, Any] | None


def simulate(
    estimator: BaseEstimator,
    strategy: QueryStrategy,
    X_pool: Instances,
    y_pool: ArrayLike,
    X_test: Instances,
    y_test: ArrayLike,
    *,
    budget: int | None = None,
    n_instances: int = 1,
    score_every: int | None = None,
    n_initial: int = 0,
    X_initial: Instances | None = None,
    y_initial: ArrayLike | None = None,
    classes: ArrayLike | None = None,
    refit_every: RefitEvery = "auto",
    stopping: Stopping = None,
    scoring: Scoring = None,
    random_state: RandomState = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Run one active-learning loop on data whose labels are known.

    Runs with the same ``random_state`` draw the same initial labels, so that they can be compared
    in pairs; :func:`compare` does so.

    Parameters
    ----------
    estimator : classifier
    strategy : QueryStrategy
    X_pool : array-like of shape (n_pool, ...)
    y_pool : array-like of shape (n_pool,)
        Labels; the learner sees only those that it queries.
    X_test : array-like of shape (n_test, ...)
    y_test : array-like of shape (n_test,)
    budget : int, default=None
        Number of labels to query, without the initial ones. None: all, unless ``stopping`` ends the
        run.
    n_instances : int, default=1
        Number of labels per query.
    score_every : int, default=None
        Number of labels between scores. None: after every query.
    n_initial : int, default=0
        Number of instances of the pool, drawn at random, whose labels are known from the start.
    X_initial, y_initial : array-like, default=None
        Labelled instances outside the pool, to start from.
    classes : array-like of shape (n_classes,), default=None
        All labels that may occur. None: the ``classes`` of the estimator where that parameter is
        set, else those of ``y_pool`` and ``y_initial``.
    refit_every : int, "auto" or None, default="auto"
        See :class:`ActiveLearner`.
    stopping : stopping rule or list of them, default=None
        Rules of :mod:`laplace_al.loop.stopping`, of which clones are evaluated before each query.
        The run ends when one of them says so.
    scoring : str, callable, list, tuple, set or dict, default=None
        A scorer of scikit-learn, or several, as in
        :func:`sklearn.model_selection.cross_validate`. None: the estimator's own ``score``.
    random_state : int, RandomState instance or None, default=None
        Draws the initial labels and seeds the strategy, but not the estimator.
    verbose : int, default=0
        If positive, shows a progress bar.

    Returns
    -------
    DataFrame
        A row for the start, one for each score and one for the end: the number ``n_labels`` of
        known labels, and ``score``, or ``score_NAME`` for each of several scorers, NaN while there
        is no model. ``query_seconds`` and ``teach_seconds`` are the times since the row before that
        queries with stopping rules, and learning with refits, took.

    Raises
    ------
    ValueError
        If the budget exceeds the pool or lengths differ.
    TypeError
        If a stopping rule has no method ``should_stop``.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import LaplaceUpdateClassifier, simulate
    >>> from laplace_al.strategies import MarginSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> curve = simulate(LaplaceUpdateClassifier(), MarginSampling(), X[::2], y[::2], X[1::2],
    ...                  y[1::2], budget=20, score_every=10, n_initial=3, random_state=0)
    >>> curve.n_labels.tolist()
    [3, 13, 23]
    """
    check_consistent_length(X_pool, y_pool)
    check_consistent_length(X_test, y_test)
    y_pool, y_test = as_labels(y_pool, "y_pool"), as_labels(y_test, "y_test")
    check_scalar(n_initial, "n_initial", numbers.Integral, min_val=0)
    check_scalar(n_instances, "n_instances", numbers.Integral, min_val=1)
    score_every = n_instances if score_every is None else score_every
    check_scalar(score_every, "score_every", numbers.Integral, min_val=1)
    budget = _check_budget(budget, len(y_pool), n_initial)
    rules = _fresh_rules(stopping)
    scoring = _in_order(scoring)
    scorer = check_scoring(estimator, scoring)
    rng = check_random_state(random_state)
    initial = rng.permutation(len(y_pool))[:n_initial]
    if y_initial is not None:
        y_initial = like_known(as_labels(y_initial, "y_initial"), y_pool, "y_initial")
    if classes is None:
        classes = getattr(estimator, "classes", None)
    if classes is None:
        classes = np.unique(y_pool if y_initial is None else np.concatenate([y_pool, y_initial]))
    learner = ActiveLearner(
        estimator,
        strategy,
        X_pool,
        X_initial=X_initial,
        y_initial=y_initial,
        classes=classes,
        refit_every=refit_every,
        random_state=rng,
    )
    curve = _Curve(learner, scorer, X_test, y_test, scoring)
    if n_initial:
        with curve.timed("teach_seconds"):
            learner.teach(initial, y_pool[initial])
    curve.score()
    bounds = [*range(0, budget, n_instances), budget]
    steps = list(itertools.pairwise(bounds))
    for asked, known in tqdm(steps) if verbose else steps:  # tqdm starts a thread
        with curve.timed("query_seconds"):
            answers = [rule.should_stop(learner) for rule in rules]  # every rule sees every round
            if any(answers):
                break
            positions = learner.query(known - asked)
        with curve.timed("teach_seconds"):
            learner.teach(positions, y_pool[positions])
        if known // score_every > asked // score_every:
            curve.score()
    curve.score()
    return curve.frame()


class _Curve:
    """The scores of a learner's models, and the seconds between them."""

    def __init__(
        self,
        learner: ActiveLearner,
        scorer: Callable[..., Any],
        X_test: Instances,
        y_test: ArrayLike,
        scoring: Scoring,
    ) -> None:
        self._learner = learner
        self._keeps_features = _is_named(scoring)
        # a function that returns several scores names them once there is a model
        self._score_names = ["score"]
        if isinstance(scoring, Mapping | list | tuple):
            self._score_names = [f"score_{name}" for name in scoring]
        self._scorer = scorer
        self._test = X_test, y_test
        self._rows: list[dict[str, Any]] = []
        self._seconds = dict.fromkeys(_SECONDS, 0.0)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of a block to those of a phase."""
        start = time.perf_counter()
        yield
        self._seconds[phase] += time.perf_counter() - start

    def score(self) -> None:
        """Add a row for the labels that are known now, unless the last one is that."""
        y_initial = self._learner.y_initial
        n_labels = len(self._learner.labels_)
        n_labels += 0 if y_initial is None else _num_samples(y_initial)
        if not self._rows or self._rows[-1]["n_labels"] < n_labels:
            self._rows.append({"n_labels": n_labels, **self._scores(), **self._seconds})
            self._seconds = dict.fromkeys(_SECONDS, 0.0)

    def frame(self) -> pd.DataFrame:
        """Return all rows, with the columns of the scores even if there was no model."""
        frame = pd.DataFrame(self._rows)
        found = [name for name in frame if name not in ("n_labels", *_SECONDS)]
        scores = found or self._score_names
        return frame.reindex(columns=["n_labels", *scores, *_SECONDS])

    def _scores(self) -> dict[str, float]:
        """Return the scores of the model by the names of their columns."""
        if not self._learner.is_fitted:
            return {}
        X, y = self._test
        if self._keeps_features:
            X = self._learner.kept_inputs(X)
        score = self._scorer(_with_classes_of(y, self._learner.estimator_), X, y)
        if isinstance(score, Mapping):
            return {f"score_{name}": _number(value) for name, value in score.items()}
        return {"score": _number(score)}


_SECONDS = ("query_seconds", "teach_seconds")


class _WithMoreClasses(ClassifierMixin, BaseEstimator):
    """A fitted classifier that gives classes it has not seen a probability of 0."""

    def __init__(self, estimator: BaseEstimator, classes_: NDArray[Any]) -> None:
        self.estimator = estimator
        self.classes_ = classes_

    def predict(self, X: Instances) -> NDArray[Any]:
        """Return the predictions of the classifier."""
        return self.estimator.predict(X)

    def predict_proba(self, X: Instances) -> NDArray[np.floating]:
        """Return probabilities of all classes, (n, n_classes)."""
        seen = self.estimator.predict_proba(X)
        proba = np.zeros((len(seen), len(self.classes_)), dtype=seen.dtype)
        proba[:, np.searchsorted(self.classes_, self.estimator.classes_)] = seen
        return proba


def _with_classes_of(y: ArrayLike, estimator: BaseEstimator) -> BaseEstimator:
    """Return an estimator with a column of probabilities for each class of y."""
    seen = getattr(estimator, "classes_", y)
    if np.isin(y, seen).all() or not hasattr(estimator, "predict_proba"):
        return estimator
    return _WithMoreClasses(estimator, np.union1d(seen, y))


def _number(score: Any) -> float:
    """Return a score as a float, or refuse it."""
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scoring must give numbers; got {score!r}.") from error


def _in_order(scoring: Scoring) -> Scoring:
    """Return scorers in an order that is the same in every process."""
    return sorted(scoring) if isinstance(scoring, set | frozenset) else scoring


def _is_named(scoring: Scoring) -> bool:
    """Return whether all scorers are scikit-learn's, which do nothing with X but predict it."""
    if isinstance(scoring, Mapping):
        scoring = list(scoring.values())
    names = scoring if isinstance(scoring, list | tuple | set) else [scoring]
    return all(name is None or isinstance(name, str) for name in names)


def _check_budget(budget: int | None, n_pool: int, n_initial: int) -> int:
    """Return the number of labels to query, at most what ``n_initial`` leaves of the pool."""
    n_left = n_pool - n_initial
    if n_left < 0:
        raise ValueError(
            f"n_initial must be at most {n_pool}, the size of the pool; got {n_initial}."
        )
    if budget is None:
        return n_left
    check_scalar(budget, "budget", numbers.Integral)
    if not 1 <= budget <= n_left:
        raise ValueError(
            f"budget must be between 1 and {n_left}, the size of the pool less n_initial; got "
            f"{budget}."
        )
    return budget


def _fresh_rules(stopping: Stopping) -> list[StoppingRule]:
    """Return clones of the rules, which have seen nothing yet."""
    if stopping is None:
        return []
    rules = stopping if isinstance(stopping, list | tuple) else [stopping]
    for rule in rules:
        if not hasattr(rule, "should_stop") or isinstance(rule, type):
            raise TypeError(
                f"stopping must be an object with a method should_stop, or a list of such objects; "
                f"got {rule!r}. Pass a rule of laplace_al.loop.stopping, e.g. StablePredictions()."
            )
    return [clone(rule, safe=False) for rule in rules]
