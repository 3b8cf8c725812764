"""How fast is a pool rescored, and the future looked at? Ratios, interleaved in one process.

``python examples/benchmarks/pool_speed.py [--quick]``

Features are synthetic. Every row times our side and the other in turn and prints the medians and
their ratio, other over ours. scikit-activeml is timed if it can be imported.
"""

import argparse
import copy
import importlib.util
import time
import tracemalloc
import warnings
from types import SimpleNamespace

import numpy as np
import torch
from update_speed import interleaved, report

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model.pool_state import PoolState
from laplace_al.strategies import BADGE, ExpectedErrorReduction, LookAhead

N_POOL, N_FEATURES, N_CLASSES = 50_000, 384, 10


def clustered(n, n_features, n_classes, seed=0):
    """Unit vectors (n, n_features) around the centres of their classes, and labels (n,)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(n_classes, n_features))
    y = rng.permutation(np.arange(n) % n_classes)
    X = centres[y] + 1.5 * rng.normal(size=(n, n_features))
    return X / np.linalg.norm(X, axis=1, keepdims=True), y


def rescoring(repeats):
    X, y = clustered(N_POOL, N_FEATURES, N_CLASSES)
    for covariance in ("shared", "per_class"):
        clf = LaplaceUpdateClassifier(covariance=covariance, prior_precision=0.1)
        pool = clf.fit(X[:500], y[:500]).pool_state(X)
        vector = torch.ones(N_FEATURES, 1 if covariance == "shared" else N_CLASSES).double()
        places = iter(range(N_POOL))

        def observe(pool=pool, places=places):
            index = next(places)
            pool.observe(index, y[index])

        def one_pass(pool=pool, vector=vector):
            return pool.features @ vector

        def anew(pool=pool):
            return PoolState(pool.model, pool.features)

        seconds = interleaved(observe, one_pass, repeats=repeats)
        report(
            f"a label, {covariance}, {N_POOL} x {N_FEATURES}: the product with its directions",
            seconds,
            ">= 1/2",
            f"({seconds[0] / seconds[1]:.1f}x of it)",
        )
        seconds = interleaved(observe, anew, repeats=repeats, their_repeats=5)
        report(f"a label, {covariance}: scoring the pool anew", seconds, ">= 30x")


def expected_errors(repeats, n_labels):
    X, y = clustered(1000, N_FEATURES, N_CLASSES)
    for covariance in ("shared", "per_class"):
        clf = LaplaceUpdateClassifier(covariance=covariance, prior_precision=0.1)
        clf.fit(*clustered(200, N_FEATURES, N_CLASSES, seed=1))
        strategy = ExpectedErrorReduction(random_state=0)

        def one_by_one(clf=clf):
            for position in range(n_labels):
                twin = copy.deepcopy(clf)
                twin.partial_fit(X[[position]], [position % N_CLASSES]).predict_proba(X)

        seconds = interleaved(
            lambda clf=clf, strategy=strategy: strategy.query(clf, X),
            one_by_one,
            repeats=repeats,
            their_repeats=3,
        )
        seconds[1] *= 1000 * N_CLASSES / n_labels
        what = f"expected error, {covariance}, 1000 x 10 x 1000"
        report(f"{what}: a partial_fit each", seconds, ">= 50x")
        if importlib.util.find_spec("skactiveml"):
            seconds = seconds[0], refitting_peer(X, y, n_candidates=3)
            report(f"{what}: scikit-activeml", seconds, ">= 1000x", "(theirs from 3 candidates)")


def refitting_peer(X, y, n_candidates):
    """Seconds of scikit-activeml's MonteCarloEER for all candidates, from a few of them."""
    from skactiveml.classifier import SklearnClassifier
    from skactiveml.pool import MonteCarloEER
    from sklearn.linear_model import LogisticRegression

    X_train, y_train = clustered(200, N_FEATURES, N_CLASSES, seed=1)
    X_all = np.concatenate([X_train, X])
    y_all = np.concatenate([y_train, np.full(len(X), np.nan)])
    model = SklearnClassifier(LogisticRegression(C=10.0), classes=np.arange(N_CLASSES))
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MonteCarloEER(random_state=0).query(
            X_all, y_all, model, candidates=np.arange(200, 200 + n_candidates)
        )
    return (time.perf_counter() - start) * len(X) / n_candidates


def looking_ahead(repeats):
    X, y = clustered(2000, N_FEATURES, N_CLASSES)
    X_eval, y_eval = clustered(1000, N_FEATURES, N_CLASSES, seed=2)
    for covariance in ("shared", "per_class"):
        clf = LaplaceUpdateClassifier(covariance=covariance, prior_precision=0.1)
        clf.fit(*clustered(100, N_FEATURES, N_CLASSES, seed=1))
        strategy = LookAhead(X_eval, y_eval, y, n_batches=100, random_state=0)

        def one_by_one(clf=clf):
            for start in range(3):
                twin = copy.deepcopy(clf)
                rows = slice(10 * start, 10 * start + 10)
                twin.partial_fit(X[rows], y[rows]).predict_proba(X_eval)

        seconds = interleaved(
            lambda clf=clf, strategy=strategy: strategy.query(clf, X, 10),
            one_by_one,
            repeats=repeats,
        )
        seconds[1] *= 100 / 3
        report(f"look-ahead, {covariance}, 100 batches of 10: a partial_fit each", seconds, "> 1x")


def memory_of_badge():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 768)).astype(np.float32)
    proba = rng.dirichlet(np.ones(100), size=len(X)).astype(np.float32)
    tracemalloc.start()
    BADGE(random_state=0).query(SimpleNamespace(predict_proba=lambda X: proba), X, 100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"BADGE, 100 of 20,000, C = 100, D = 768: {peak / 2**20:.0f} MB beside pool and "
        "probabilities   goal < 500 MB"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few repeats, to see it run")
    quick = parser.parse_args().quick
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    rescoring(repeats=5 if quick else 50)
    expected_errors(repeats=2 if quick else 5, n_labels=20 if quick else 100)
    looking_ahead(repeats=2 if quick else 5)
    memory_of_badge()


if __name__ == "__main__":
    main()
