"""Strategies and estimators side by side, on the same data, splits and initial labels."""

import contextlib
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import check_cv, train_test_split
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_consistent_length
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from laplace_al._common.typing import Instances, Path, RandomState
from laplace_al.experiments.results import ResultsFile
from laplace_al.experiments.simulation import Scoring, Stopping, simulate
from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.labels import as_labels
from laplace_al.loop.trainer import RefitEvery
from laplace_al.storage.digests import fingerprint
from laplace_al.strategies import QueryStrategy

_Kind: TypeAlias = Literal["estimator", "strategy"]


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

    Each run computes on one thread, so that ``n_jobs`` does not change the results.

    Parameters
    ----------
    estimators : classifier, list or dict of them
        The keys of a dict name the estimators; otherwise their classes do. In place of an
        estimator, a dict ``{"estimator": ..., "refit_every": 1}`` gives it settings of its own:
        ``budget``, ``n_instances``, ``score_every``, ``refit_every`` or ``stopping``. Estimators
        are cloned: unlike in :func:`simulate`, what a fitted one has learnt is not used.
    strategies : QueryStrategy, list or dict of them
        As ``estimators``, with dicts ``{"strategy": ..., "n_instances": 10}``. A setting of the
        estimator precedes that of the strategy.
    X : array-like of shape (n_samples, ...) or dict
        A dict names several data sets, each a pair (X, y), to be split, or a split (X_pool, y_pool,
        X_test, y_test). A single data set is named "data".
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
        The first of consecutive seeds. A RandomState or None draws it.
    n_jobs : int, default=None
        Number of processes, see :class:`joblib.Parallel`.
    results : str or path-like, default=None
        CSV file to which each finished run is appended at once; it is locked meanwhile. Calling
        again reads the runs in it and makes those that are missing, so that an interrupted
        experiment resumes, and estimators, strategies, data sets and repeats can be added. The key
        of a run is its names and its seed. A run of the same key, but with other parameters,
        settings or data, compared by :func:`joblib.hash`, is refused. The body of a function is not
        compared: after changing it, use another name or file.
    verbose : int, default=0
        If positive, shows a progress bar.

    Returns
    -------
    DataFrame
        Columns ``data``, ``estimator``, ``strategy``, ``seed`` and those of :func:`simulate`, in
        the order of the arguments.

    Raises
    ------
    ValueError
        If names are not distinct, an argument is invalid, or ``results`` is a file of something
        else or has runs of these names with other parameters, settings or data.
    TypeError
        If an estimator has no method ``fit`` or a strategy no method ``query``, or ``results`` is
        given and the data, an estimator, a strategy or a setting holds what cannot be pickled, such
        as a lock or a connection.
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
        "scoring": scoring,
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
    """An estimator or a strategy, with settings that hold for it alone."""

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
    """Return estimators or strategies with their names and settings."""
    if isinstance(given, Mapping):
        named = list(given.items())
    else:
        contents = given if isinstance(given, list | tuple) else [given]
        named = [(_class_name(content, kind), content) for content in contents]
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
    """Return an estimator or a strategy, and the settings beside it."""
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
    """Return the name of the class of an estimator or a strategy, as given or in a dict."""
    return type(content.get(kind) if isinstance(content, Mapping) else content).__name__


def _check_name(name: Any, kind: _Kind | Literal["data"]) -> str:
    """Return a name, or refuse it."""
    if not isinstance(name, str) or "\n" in name or "\r" in name:
        raise ValueError(f"Names of {_PLURAL[kind]} must be texts of one line; got {name!r}.")
    return name


def _data_sets(X: Any, y: Any) -> dict[str, tuple[Any, ...]]:
    """Return data sets by name, as given or as pairs (X, y), their labels as arrays."""
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
    return {
        name: tuple(
            as_labels(part, f"y of {name!r}") if i % 2 else part for i, part in enumerate(data_set)
        )
        for name, data_set in X.items()
    }


def _splits(
    data_set: tuple[Any, ...], n_repeats: int | None, test_size: float | None, cv: Any, first: int
) -> list[_Split]:
    """Return a split of a data set for each seed."""
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
    rows, test_size = np.arange(len(y)), 0.5 if test_size is None else test_size
    return [
        _Split(seed, *train_test_split(rows, test_size=test_size, stratify=y, random_state=seed))
        for seed in range(first, first + n_repeats)
    ]


def _planned(
    estimators: list[_Arm],
    strategies: list[_Arm],
    splits: dict[str, tuple[tuple[Any, ...], list[_Split]]],
    common: dict[str, Any],
) -> list[_Run]:
    """Return all runs, in the order in which they are to be made."""
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
    """Return the curve of each run by its name: as kept in a file, or made now."""
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
    """Return the fingerprint of all that each run depends on, by its name."""
    known: dict[int, str] = {}  # of what many runs have in common, by its id

    def of(part: Any) -> str:
        if id(part) not in known:
            known[id(part)] = fingerprint(part)
        return known[id(part)]

    try:
        return {
            run.name: fingerprint(
                [*map(of, (run.estimator, run.strategy, *run.data_set)), run.settings, run.split]
            )
            for run in runs
        }
    except TypeError as error:
        raise TypeError(
            "results= cannot be used here: what an estimator, a strategy, a data set or a setting "
            f"holds has no reproducible fingerprint ({error}), so finished runs cannot be matched "
            "to it. Use what can be pickled, without locks, files or connections, or leave results "
            "out."
        ) from error


def _numbered_curve(i: int, run: _Run, caller: int) -> tuple[int, pd.DataFrame]:
    """Return i and the curve of a run, made on one thread in any process."""
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
    """Return (X, y) of the pool and of the test set."""
    pool, test = run.split.pool, run.split.test
    if pool is None or test is None:
        return run.data_set[:2], run.data_set[2:]
    return [[rows_at(part, rows) for part in run.data_set] for rows in (pool, test)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: the order of sums, and so the last digits, depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def _tidy(name: tuple[Any, ...], curve: pd.DataFrame) -> pd.DataFrame:
    """Return a curve after columns with the name of its run."""
    keys = pd.DataFrame([name] * len(curve), columns=list(_KEYS))
    return pd.concat([keys, curve], axis=1)
