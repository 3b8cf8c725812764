"""Active learning against labels that are known, as an experiment."""

import contextlib
import itertools
import numbers
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv, train_test_split
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _num_samples, check_consistent_length
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from laplace_al._common.typing import Instances, Path, RandomState
from laplace_al.experiments.results import ResultsFile
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.labels import as_labels, like_known
from laplace_al.loop.learner import ActiveLearner, RefitEvery
from laplace_al.loop.stopping import StoppingRule
from laplace_al.storage.digests import data_digest, fingerprint
from laplace_al.strategies.base import QueryStrategy

Stopping: TypeAlias = StoppingRule | Sequence[StoppingRule] | None
Scoring: TypeAlias = str | Callable[..., Any] | Iterable[str] | Mapping[str, Any] | None
_Kind: TypeAlias = Literal["estimator", "strategy"]


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
        Number of labels to query, not counting the initial ones. None: all, unless ``stopping``
        ends the run.
    n_instances : int, default=1
        Labels per query. With 1, each label is learnt before the next query.
    score_every : int, default=None
        Number of labels between scores. None: after every query.
    n_initial : int, default=0
        Number of instances drawn at random from the pool whose labels are known from the start.
    X_initial, y_initial : array-like, default=None
        Labelled instances outside the pool, to start from.
    classes : array-like of shape (n_classes,), default=None
        All labels that may occur. None: the ``classes`` of the estimator, if it has such a
        parameter and it is set, else those of ``y_pool`` and ``y_initial``.
    refit_every : int, "auto" or None, default="auto"
        See :class:`ActiveLearner`.
    stopping : stopping rule or list of them, default=None
        The run ends when one of these rules says so. Clones of them are evaluated before each
        query. See :mod:`laplace_al.loop.stopping`.
    scoring : str, callable, list, tuple, set or dict, default=None
        A scorer of scikit-learn, or several, as in
        :func:`sklearn.model_selection.cross_validate`. None: the estimator's own ``score``.
    random_state : int, RandomState instance or None, default=None
        Draws the initial labels and seeds the strategy. It does not seed the estimator, which may
        have a ``random_state`` of its own.
    verbose : int, default=0
        If positive, shows a progress bar.

    Returns
    -------
    DataFrame
        A row for the start, one for each score and one for the end. ``n_labels`` is the number of
        all known labels. ``score``, or ``score_NAME`` for each of several scorers, is NaN while
        there is no model. ``query_seconds`` is the time since the row before that queries and
        stopping rules took, and ``teach_seconds`` the time that learning took, refits included.

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
        curve.teach(initial, y_pool[initial])
    curve.score()
    bounds = [*range(0, budget, n_instances), budget]
    steps = list(itertools.pairwise(bounds))
    for asked, known in tqdm(steps) if verbose else steps:  # tqdm starts a thread
        if curve.is_stopped_by(rules):
            break
        positions = curve.query(known - asked)
        curve.teach(positions, y_pool[positions])
        if known // score_every > asked // score_every:
            curve.score()
    curve.score_the_end()
    return curve.frame()


class _Curve:
    """A learner whose seconds are counted and whose scores are written down."""

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
        # those of a function that gives several are known once there is a model
        self._score_names = ["score"]
        if isinstance(scoring, Mapping | list | tuple):
            self._score_names = [f"score_{name}" for name in scoring]
        self._scorer = scorer
        self._test = X_test, y_test
        self._rows: list[dict[str, Any]] = []
        self._seconds = dict.fromkeys(_SECONDS, 0.0)

    def query(self, n_instances: int) -> NDArray[np.int64]:
        with self._counted("query_seconds"):
            return self._learner.query(n_instances)

    def teach(self, positions: NDArray[np.int64], labels: NDArray[Any]) -> None:
        with self._counted("teach_seconds"):
            self._learner.teach(positions, labels)

    def is_stopped_by(self, rules: Iterable[StoppingRule]) -> bool:
        with self._counted("query_seconds"):
            answers = [rule.should_stop(self._learner) for rule in rules]  # all see each round
        return any(answers)

    def score(self) -> None:
        self._rows.append({"n_labels": self._n_labels, **self._scores(), **self._seconds})
        self._seconds = dict.fromkeys(_SECONDS, 0.0)

    def score_the_end(self) -> None:
        if self._rows[-1]["n_labels"] < self._n_labels:
            self.score()

    def frame(self) -> pd.DataFrame:
        frame = pd.DataFrame(self._rows)
        found = [name for name in frame if name not in ("n_labels", *_SECONDS)]
        scores = found or self._score_names
        return frame.reindex(columns=["n_labels", *scores, *_SECONDS])

    @property
    def _n_labels(self) -> int:
        y_initial = self._learner.y_initial
        return len(self._learner.labels_) + (0 if y_initial is None else _num_samples(y_initial))

    def _scores(self) -> dict[str, float]:
        if not self._learner.is_fitted:
            return {}
        X, y = self._test
        if self._keeps_features:
            X = self._learner.kept_inputs(X)
        score = self._scorer(_with_classes_of(y, self._learner.estimator_), X, y)
        if isinstance(score, Mapping):
            return {f"score_{name}": _number(value) for name, value in score.items()}
        return {"score": _number(score)}

    @contextlib.contextmanager
    def _counted(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[phase] += time.perf_counter() - start


_SECONDS = ("query_seconds", "teach_seconds")


class _WithMoreClasses(ClassifierMixin, BaseEstimator):
    """A fitted classifier that gives classes it has not seen a probability of 0."""

    def __init__(self, estimator: BaseEstimator, classes_: NDArray[Any]) -> None:
        self.estimator = estimator
        self.classes_ = classes_

    def predict(self, X: Instances) -> NDArray[Any]:
        return self.estimator.predict(X)

    def predict_proba(self, X: Instances) -> NDArray[np.floating]:
        seen = self.estimator.predict_proba(X)
        proba = np.zeros((len(seen), len(self.classes_)), dtype=seen.dtype)
        proba[:, np.searchsorted(self.classes_, self.estimator.classes_)] = seen
        return proba


def _with_classes_of(y: ArrayLike, estimator: BaseEstimator) -> BaseEstimator:
    """An estimator for scorers of probabilities, which need a column for each class of y."""
    seen = getattr(estimator, "classes_", y)
    if np.isin(y, seen).all() or not hasattr(estimator, "predict_proba"):
        return estimator
    return _WithMoreClasses(estimator, np.union1d(seen, y))


def _number(score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise ValueError(f"scoring must give numbers; got {score!r}.") from error


def _in_order(scoring: Scoring) -> Scoring:
    """Names of scorers in an order that is the same in every process."""
    return sorted(scoring) if isinstance(scoring, set | frozenset) else scoring


def _is_named(scoring: Scoring) -> bool:
    """Whether all scorers are scikit-learn's, which predict X and do nothing else with it."""
    if isinstance(scoring, Mapping):
        scoring = list(scoring.values())
    names = scoring if isinstance(scoring, list | tuple | set) else [scoring]
    return all(name is None or isinstance(name, str) for name in names)


def _check_budget(budget: int | None, n_pool: int, n_initial: int) -> int:
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
    """Rules that have seen nothing yet."""
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


def compare(
    estimators: BaseEstimator | Sequence[Any] | Mapping[str, Any],
    strategies: QueryStrategy | Sequence[Any] | Mapping[str, Any],
    X: Instances | Mapping[str, tuple[Any, ...]],
    y: ArrayLike | None = None,
    *,
    n_repeats: int | None = None,
    test_size: float | None = None,
    cv: Any = None,
    budget: int | None = None,
    n_instances: int = 1,
    score_every: int | None = None,
    n_initial: int = 0,
    classes: ArrayLike | None = None,
    refit_every: RefitEvery = "auto",
    stopping: Stopping = None,
    scoring: Scoring = None,
    random_state: RandomState = None,
    n_jobs: int | None = None,
    results: Path | None = None,
    verbose: int = 0,
) -> pd.DataFrame:
    """Run every strategy with every estimator on every data set, repeatedly and in pairs.

    Runs with the same data set and seed share the split into pool and test set and the initial
    labels. The run with seed s equals ``simulate(..., random_state=s)`` on

        train_test_split(X, y, test_size=test_size, stratify=y, random_state=s)

    Each run always computes on one thread, so that ``n_jobs`` changes the time, but not the
    results.

    Parameters
    ----------
    estimators : classifier, list or dict of them
        The keys of a dict name the estimators; otherwise the names of their classes do. In place
        of an estimator, a dict ``{"estimator": ..., "refit_every": 1}`` gives it settings of its
        own: ``budget``, ``n_instances``, ``score_every``, ``refit_every`` or ``stopping``.
        Estimators are cloned: what a fitted one has learnt is not used, unlike in
        :func:`simulate`.
    strategies : QueryStrategy, list or dict of them
        As ``estimators``, with dicts ``{"strategy": ..., "n_instances": 10}``. If an estimator and
        a strategy both have the same setting, that of the estimator is used.
    X : array-like of shape (n_samples, ...) or dict
        A dict names several data sets. Each is a pair (X, y), to be split, or a split (X_pool,
        y_pool, X_test, y_test).
    y : array-like of shape (n_samples,), default=None
        None if X is a dict.
    n_repeats : int, default=None
        Number of seeds. None: 10, or the number of splits of ``cv``.
    test_size : float or int, default=None
        Share or number of instances in the test set; the others are the pool. None: one half.
    cv : int, cross-validation generator or iterable, default=None
        Makes the splits, in place of ``n_repeats`` and ``test_size``: the pool is what
        :func:`sklearn.model_selection.cross_validate` trains on.
    budget, n_instances, score_every, n_initial, classes, refit_every, stopping, scoring
        See :func:`simulate`.
    random_state : int, RandomState instance or None, default=None
        The first seed; the others follow it, each larger by 1. A RandomState or None draws the
        first.
    n_jobs : int, default=None
        Number of processes, see :class:`joblib.Parallel`. None is 1, unless in a
        :func:`joblib.parallel_config`.
    results : str or path-like, default=None
        CSV file to which each finished run is appended at once. Runs already in it are read, not
        repeated, so that calling again resumes an interrupted experiment; strategies and repeats
        may be added if the data are identical. It is locked meanwhile.
    verbose : int, default=0
        If positive, shows a progress bar.

    Returns
    -------
    DataFrame
        Columns ``data``, ``estimator``, ``strategy``, ``seed`` and those of :func:`simulate`, in
        the order of the arguments. A single data set is named "data".

    Raises
    ------
    ValueError
        If names are not distinct, an argument is invalid, or ``results`` is a file of something
        else or has runs of these names that were made with other settings or data.
    TypeError
        If an estimator has no method ``fit`` or a strategy no method ``query``, or ``results`` is
        given and the data, an estimator, a strategy or a setting contains an object that has no
        reproducible fingerprint, such as an instance of your own class in X, a lock or a
        connection.
    RuntimeError
        If another call uses ``results``.

    See Also
    --------
    LearningCurveDisplay.from_simulation : Draws the curves and tests their differences.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import LaplaceUpdateClassifier, compare
    >>> from laplace_al.strategies import MarginSampling, RandomSampling
    >>> X, y = load_iris(return_X_y=True)
    >>> curves = compare(LaplaceUpdateClassifier(), [RandomSampling(), MarginSampling()], X, y,
    ...                  budget=10, n_initial=5, n_repeats=3, random_state=0)
    >>> curves.groupby("strategy").score.count().tolist()
    [33, 33]
    """
    if results is not None and not isinstance(random_state, numbers.Integral):
        raise ValueError(
            "results needs an integer random_state, so that a later call repeats the same runs; "
            f"got random_state={random_state!r}."
        )
    first_seed = random_state
    if not isinstance(random_state, numbers.Integral):
        first_seed = int(check_random_state(random_state).randint(2**31))
    if isinstance(cv, Iterator):  # it is asked for the splits of each data set
        cv = list(cv)
    common = {
        "budget": budget,
        "n_instances": n_instances,
        "score_every": score_every,
        "n_initial": n_initial,
        "classes": classes,
        "refit_every": refit_every,
        "stopping": stopping,
        "scoring": _in_order(scoring),
    }
    splits = {
        name: (data_set, _splits(data_set, n_repeats, test_size, cv, first_seed))
        for name, data_set in _data_sets(X, y).items()
    }
    unfitted = [arm._replace(content=clone(arm.content)) for arm in _arms(estimators, "estimator")]
    runs = _planned(unfitted, _arms(strategies, "strategy"), splits, common)
    with contextlib.nullcontext() if results is None else ResultsFile(results, _KEYS) as kept:
        curves = _curves(runs, kept, n_jobs, verbose)
    names = [run.name for run in sorted(runs, key=lambda run: run.arm)]
    return pd.concat([_tidy(name, curves[name]) for name in names], ignore_index=True)


class _Arm(NamedTuple):
    """An estimator or a strategy of an experiment, with settings that hold for it alone."""

    name: str
    content: Any
    settings: dict[str, Any]


class _Split(NamedTuple):
    """Rows of the pool and of the test set; None where the data come split."""

    seed: int
    pool: NDArray[np.int64] | None = None
    test: NDArray[np.int64] | None = None


class _Run(NamedTuple):
    """One run of an experiment."""

    name: tuple[str, str, str, int]  # data, estimator, strategy, seed
    arm: tuple[int, int, int]  # which data set, estimator and strategy, counted
    estimator: Any
    strategy: Any
    data_set: tuple[Any, ...]
    split: _Split
    settings: dict[str, Any]


_KEYS = ("data", "estimator", "strategy", "seed")
_OF_AN_ARM = ("budget", "n_instances", "score_every", "refit_every", "stopping")


def _arms(given: Any, kind: _Kind) -> list[_Arm]:
    """Estimators or strategies by name."""
    if isinstance(given, Mapping):
        named = list(given.items())
    elif isinstance(given, list | tuple):
        named = [(_class_name(content, kind), content) for content in given]
    else:
        named = [(_class_name(given, kind), given)]
    names = [_check_name(name, kind) for name, _ in named]
    if not names:
        raise ValueError(f"There must be at least one {kind}; got {given!r}.")
    if len(set(names)) < len(names):
        raise ValueError(
            f"Names of {_PLURAL[kind]} must be distinct; got {names}. Name them by a dict "
            f"{{name: {kind}}}."
        )
    return [_Arm(name, *_split_off_settings(content, kind)) for name, content in named]


_PLURAL = {"estimator": "estimators", "strategy": "strategies", "data": "data sets"}
_METHOD = {"estimator": "fit", "strategy": "query"}


def _split_off_settings(content: Any, kind: _Kind) -> tuple[Any, dict[str, Any]]:
    settings = {}
    if isinstance(content, Mapping):
        settings = {name: value for name, value in content.items() if name != kind}
        content = content.get(kind)
        if not settings.keys() <= set(_OF_AN_ARM):
            raise ValueError(
                f"A dict in place of a {kind} may hold {kind!r} and any of {list(_OF_AN_ARM)}; got "
                f"also {sorted(settings.keys() - set(_OF_AN_ARM))}."
            )
    if not hasattr(content, _METHOD[kind]) or isinstance(content, type):
        raise TypeError(
            f"{_PLURAL[kind]} must be objects with a method {_METHOD[kind]}, or dicts "
            f"{{{kind!r}: object, ...}}; got {content!r}."
        )
    return content, settings


def _class_name(content: Any, kind: _Kind) -> str:
    return type(content.get(kind) if isinstance(content, Mapping) else content).__name__


def _check_name(name: Any, kind: _Kind | Literal["data"]) -> str:
    if not isinstance(name, str) or "\n" in name or "\r" in name:
        raise ValueError(f"Names of {_PLURAL[kind]} must be texts of one line; got {name!r}.")
    return name


def _data_sets(X: Any, y: Any) -> dict[str, tuple[Any, ...]]:
    """Data sets by name, as given or as pairs (X, y)."""
    if not isinstance(X, Mapping):
        if y is None:
            raise ValueError("y is missing: pass compare(estimators, strategies, X, y, ...).")
        X = {"data": (X, y)}
    elif y is not None:
        raise ValueError("y must be None if X is a dict of data sets, which have their own y.")
    if not X:
        raise ValueError("X must be a dict of at least one data set; got {}.")
    for name, data_set in X.items():
        _check_name(name, "data")
        if not isinstance(data_set, tuple) or len(data_set) not in (2, 4):
            raise ValueError(
                f"Data set {name!r} must be a tuple (X, y) or (X_pool, y_pool, X_test, y_test); "
                f"got {type(data_set).__name__}"
                f"{f' of length {len(data_set)}' if hasattr(data_set, '__len__') else ''}."
            )
        check_consistent_length(*data_set[:2])
        check_consistent_length(*data_set[2:])
    return {name: _with_labels(data_set, name) for name, data_set in X.items()}


def _with_labels(data_set: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """A data set whose labels are arrays."""
    y_name = f"y of {name!r}"
    pairs = zip(data_set[::2], data_set[1::2], strict=True)
    return tuple(itertools.chain(*((X, as_labels(y, y_name)) for X, y in pairs)))


def _splits(
    data_set: tuple[Any, ...], n_repeats: int | None, test_size: float | None, cv: Any, first: int
) -> list[_Split]:
    """A split of a data set for each seed."""
    if cv is not None and (n_repeats, test_size) != (None, None):
        raise ValueError(
            "cv makes the splits: leave n_repeats and test_size out, or set them in cv, e.g. "
            "StratifiedShuffleSplit(20, test_size=0.5, random_state=0)."
        )
    is_split = len(data_set) == 4
    if is_split and (test_size, cv) != (None, None):
        raise ValueError(
            "Data sets (X_pool, y_pool, X_test, y_test) are split already: leave test_size and cv "
            "out, or pass pairs (X, y)."
        )
    n_repeats = 10 if n_repeats is None else n_repeats
    check_scalar(n_repeats, "n_repeats", numbers.Integral, min_val=1)
    if is_split:
        return [_Split(first + i) for i in range(n_repeats)]
    X, y = data_set
    if cv is not None:
        pairs = check_cv(cv, y, classifier=True).split(X, y)
        return [_Split(first + i, pool, test) for i, (pool, test) in enumerate(pairs)]
    return [_halves(y, test_size, first + i) for i in range(n_repeats)]


def _halves(y: Any, test_size: float | None, seed: int) -> _Split:
    pool, test = train_test_split(
        np.arange(_num_samples(y)),
        test_size=0.5 if test_size is None else test_size,
        stratify=y,
        random_state=seed,
    )
    return _Split(seed, pool, test)


def _planned(
    estimators: list[_Arm],
    strategies: list[_Arm],
    splits: dict[str, tuple[tuple[Any, ...], list[_Split]]],
    common: dict[str, Any],
) -> list[_Run]:
    """All runs of an experiment, in the order in which they are to be run."""
    return [
        _Run(
            (data, estimator.name, strategy.name, split.seed),
            (i, j, k),
            estimator.content,
            strategy.content,
            data_set,
            split,
            common | strategy.settings | estimator.settings,
        )
        for i, (data, (data_set, splits_of_data)) in enumerate(splits.items())
        for split in splits_of_data
        for j, estimator in enumerate(estimators)
        for k, strategy in enumerate(strategies)
    ]


def _curves(
    runs: list[_Run], kept: ResultsFile | None, n_jobs: int | None, verbose: int
) -> dict[tuple[Any, ...], pd.DataFrame]:
    """Curve of each run by its name: as kept in a file, or run now."""
    prints, curves = {}, {}
    if kept is not None:
        prints = _fingerprints(runs)
        curves = {name: kept.get(name, prints[name]) for name in prints if name in kept}
    missing = [run for run in runs if run.name not in curves]
    # one at a time, so that no finished run waits for others to be kept
    pid = os.getpid()
    parallel = Parallel(n_jobs, return_as="generator_unordered", batch_size=1)
    with _one_thread():
        new = parallel(delayed(_numbered_curve)(i, run, pid) for i, run in enumerate(missing))
        if verbose:  # tqdm starts a thread
            new = tqdm(new, initial=len(curves), total=len(runs))
        for i, curve in new:
            name = missing[i].name
            curves[name] = curve
            if kept is not None:
                kept.append(name, prints[name], curve)
    return curves


def _fingerprints(runs: list[_Run]) -> dict[tuple[Any, ...], str]:
    """A digest of all that each run depends on, by its name."""
    known = {}  # what many runs have in common, by its id

    def digest_of(part: Any, digest: Callable[[Any], str]) -> str:
        if id(part) not in known:
            known[id(part)] = digest(part)
        return known[id(part)]

    return {
        run.name: fingerprint(
            [
                *(digest_of(part, fingerprint) for part in (run.estimator, run.strategy)),
                *(digest_of(X, data_digest) for X in run.data_set[::2]),
                *(digest_of(y, data_digest) for y in run.data_set[1::2]),
                run.settings,
                run.split,
            ]
        )
        for run in runs
    }


def _numbered_curve(i: int, run: _Run, caller: int) -> tuple[int, pd.DataFrame]:
    (X_pool, y_pool), (X_test, y_test) = _pool_and_test(run)
    # threads of one process share all other limits, which are set before they start
    is_elsewhere = os.getpid() != caller
    try:
        with _one_thread() if is_elsewhere else threadpool_limits(1, user_api="openmp"):
            curve = simulate(
                run.estimator,
                run.strategy,
                X_pool,
                y_pool,
                X_test,
                y_test,
                random_state=run.split.seed,
                **run.settings,
            )
    except Exception as error:
        keys = zip(_KEYS, run.name, strict=True)
        error.add_note("In the run " + ", ".join(f"{key}={value!r}" for key, value in keys) + ".")
        raise
    return i, curve


def _pool_and_test(run: _Run) -> Sequence[Sequence[Any]]:
    pool, test = run.split.pool, run.split.test
    if pool is None or test is None:
        return run.data_set[:2], run.data_set[2:]
    return [[rows_at(part, rows) for part in run.data_set] for rows in (pool, test)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The order of sums, and so the last digits, depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _tidy(name: tuple[Any, ...], curve: pd.DataFrame) -> pd.DataFrame:
    keys = pd.DataFrame([name] * len(curve), columns=list(_KEYS))
    return pd.concat([keys, curve], axis=1)
