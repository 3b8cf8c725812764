"""What does a label on a cluster cost? A pool that follows it against one that is scored anew.

``python examples/benchmarks/dask_pool_speed.py [--quick]``

Workers are processes of one thread each that keep the same float32 features in four blocks. Ours
teaches a label and asks for the next instance by ``on_cluster.Pool``; theirs by ``partial_fit`` and
``on_cluster.query``. Both sides take turns. Every row prints the medians and their ratio. BALD
draws weights, and their logits cost the same either way.
"""

import argparse
import itertools

import dask
import dask.array as da
import numpy as np
import torch
from dask.distributed import Client, LocalCluster, wait
from scaling import KEEPING, problem
from update_speed import interleaved, report

from laplace_al.integrations import dask as on_cluster
from laplace_al.strategies import BALD, MarginSampling

N_CLASSES, N_BLOCKS = 10, 4


def label_to_query(strategy, covariance, n_items, n_features, goal, n_workers, repeats):
    clf, _ = problem(n_features, N_CLASSES, covariance)
    blocks = da.random.default_rng(0).standard_normal(
        (n_items, n_features), dtype=np.float32, chunks=(n_items // N_BLOCKS, n_features)
    )
    X = blocks.persist()
    wait(X)
    pool = on_cluster.Pool(clf, X)
    is_open = np.ones(n_items, dtype=bool)
    label = itertools.cycle(range(N_CLASSES))
    ours, theirs = pool.query(strategy), on_cluster.query(strategy, clf, X)

    def follow():
        nonlocal ours
        pool.teach(ours, [next(label)])
        ours = pool.query(strategy)

    def score_anew():
        nonlocal theirs
        clf.partial_fit(X[theirs].compute(), [next(label)])
        is_open[theirs] = False
        theirs = on_cluster.query(strategy, clf, X, candidates=is_open)

    seconds = interleaved(follow, score_anew, repeats=repeats, their_repeats=5)
    what = f"{type(strategy).__name__}, {covariance}, {n_items} x {n_features}"
    report(f"{what}, workers {n_workers}", seconds, goal)


def rows(quick):
    """(strategy, covariance, items, features, goal) of each row."""
    margin = MarginSampling(random_state=0)
    n = 20_000 if quick else 100_000
    yield margin, "shared", n, 64, "> 1x"
    yield margin, "shared", n, 256, ">= 3x"
    if not quick:
        yield margin, "shared", n, 1024, ">= 30x"
    yield margin, "per_class", n, 256, ">= 10x"
    yield BALD(random_state=0), "shared", 20_000, 256, ">= 1x"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small pools, to see it run")
    quick = parser.parse_args().quick
    repeats = 3 if quick else 15
    print(f"torch {torch.__version__}, a label and the next query, {N_BLOCKS} blocks\n")
    for n_workers in (1, 2):
        with (
            dask.config.set(KEEPING),
            LocalCluster(
                n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
            ) as cluster,
            Client(cluster),
        ):
            for row in rows(quick):
                label_to_query(*row, n_workers, repeats)


if __name__ == "__main__":
    main()
