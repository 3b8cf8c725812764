"""Active learning against labels that are known, as an experiment."""

import time
from itertools import pairwise

import numpy as np
import pandas as pd
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state
from sklearn.utils.validation import _num_samples, check_consistent_length
from tqdm.auto import tqdm

from laplace_al.learner import ActiveLearner


def simulate(
    estimator,
    strategy,
    X_pool,
    y_pool,
    X_test,
    y_test,
    *,
    budget,
    n_instances=1,
    score_every=None,
    n_initial=0,
    X_initial=None,
    y_initial=None,
    classes=None,
    refit_every=None,
    scoring=None,
    random_state=None,
    verbose=0,
):
    """Run one active-learning loop against known labels.

    Runs that share ``random_state`` draw the same initial labels: compare them in pairs.

    Parameters
    ----------
    estimator : classifier
    strategy : QueryStrategy
    X_pool : array-like of shape (n_pool, ...)
    y_pool : array-like of shape (n_pool,)
        Labels, seen by the learner only when it asks for them.
    X_test : array-like of shape (n_test, ...)
    y_test : array-like of shape (n_test,)
    budget : int
        Number of labels to ask for, the initial ones not counted.
    n_instances : int, default=1
        Labels per query. 1 learns each label before it chooses the next.
    score_every : int, default=None
        Labels between scores. None: after every query.
    n_initial : int, default=0
        Instances of the pool whose labels are given for a start, drawn at random.
    X_initial, y_initial : array-like, default=None
        Labelled instances outside the pool, to start from.
    classes : array-like of shape (n_classes,), default=None
        All labels that may occur. None: those of ``y_pool`` and ``y_initial``.
    refit_every : int or None, default=None
        See :class:`ActiveLearner`.
    scoring : str, callable or None, default=None
        A scorer of scikit-learn; None is the estimator's own ``score``.
    random_state : int, RandomState instance or None, default=None
        Draws the initial labels and seeds the strategy.
    verbose : int, default=0
        Shows a progress bar if positive.

    Returns
    -------
    DataFrame
        A row for the start and one for each score: ``n_labels`` known in all, ``score``,
        and the seconds since the row before in queries, ``query_seconds``, and in learning,
        ``teach_seconds``.

    Raises
    ------
    ValueError
        If the budget exceeds the pool or lengths differ.

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
    y_pool, n_pool = np.asarray(y_pool), _num_samples(X_pool)
    if not 1 <= budget <= n_pool - n_initial:
        raise ValueError(
            f"budget must be between 1 and {n_pool - n_initial}, the size of the pool less "
            f"n_initial; got {budget}."
        )
    rng = check_random_state(random_state)
    initial = rng.permutation(n_pool)[:n_initial]
    if classes is None:
        classes = np.unique(y_pool if y_initial is None else np.concatenate([y_pool, y_initial]))
    scorer = check_scoring(estimator, scoring)
    score_every = n_instances if score_every is None else score_every
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
    rows = []
    seconds = {"query_seconds": 0.0, "teach_seconds": 0.0}

    def teach(positions):
        start = time.perf_counter()
        learner.teach(positions, y_pool[positions])
        seconds["teach_seconds"] += time.perf_counter() - start

    def record():
        n_known = len(learner.labels_) + (0 if y_initial is None else _num_samples(y_initial))
        score = scorer(learner.estimator_, X_test, y_test)
        rows.append({"n_labels": n_known, "score": score, **seconds})
        seconds.update(query_seconds=0.0, teach_seconds=0.0)

    if n_initial:
        teach(initial)
    if n_initial or y_initial is not None:
        record()
    bounds = [*range(0, budget, n_instances), budget]
    for asked, known in tqdm(pairwise(bounds), total=len(bounds) - 1, disable=not verbose):
        start = time.perf_counter()
        positions = learner.query(known - asked)
        seconds["query_seconds"] += time.perf_counter() - start
        teach(positions)
        if known // score_every > asked // score_every or known == budget:
            record()
    return pd.DataFrame(rows)
