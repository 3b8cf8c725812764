"""What does a query that covers a large pool cost, in seconds of one core and in memory?

``OMP_NUM_THREADS=1 python examples/benchmarks/coverage_speed.py [--quick]``

A batch of 50 from 50,000 x 384 features, and one instance from 10,000 x 384, by each strategy; 100
labels are known. Each query runs in a process of its own. A row prints its median seconds of
processor time, against one product of the pool with 512 of its rows, and its peak memory beside
the pool and the model.
"""

import argparse
import multiprocessing
import pathlib
import resource
import time

import numpy as np
from pool_speed import clustered

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MaxHerding, ProbCover, TypiClust, UncertaintyHerding

N_LABELS, N_FEATURES, N_CLASSES = 100, 384, 10


def peak_of(call):
    """Megabytes that a call takes at most, on Linux."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    call()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - pages * 4096 / 2**20


def measure(strategy, n_pool, batch, repeats, results):
    """Put the seconds of a query and of a product, and the megabytes of a query."""
    X, y = clustered(n_pool, N_FEATURES, N_CLASSES)
    X = X.astype(np.float32)
    estimator = LaplaceUpdateClassifier(covariance="shared", prior_precision=0.1)
    learner = ActiveLearner(estimator, strategy, X, refit_every=None, random_state=0)
    learner.teach(range(N_LABELS), y[:N_LABELS]).predict_proba(X[:10])
    above = peak_of(lambda: learner.query(batch))
    seconds, product = [], []
    for _ in range(repeats):
        start = time.process_time()
        learner.query(batch)
        seconds.append(time.process_time() - start)
        start = time.process_time()
        X[:512] @ X.T
        product.append(time.process_time() - start)
    results.put((np.median(seconds), np.median(product), above))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small pools, once")
    args = parser.parse_args()
    sizes, repeats = ((50_000, 50), (10_000, 1)), 5
    if args.quick:
        sizes, repeats = ((2000, 5), (1000, 1)), 1
    print("strategy, pool, batch: s a query, times a product, MB beside the pool")
    context = multiprocessing.get_context("spawn")
    for strategy in (UncertaintyHerding(), MaxHerding(), ProbCover(), TypiClust()):
        for n_pool, batch in sizes:
            results = context.SimpleQueue()
            arguments = strategy, n_pool, batch, repeats, results
            process = context.Process(target=measure, args=arguments)
            process.start()
            process.join()
            seconds, product, above = results.get()
            name = type(strategy).__name__
            print(
                f"{name}, {n_pool}, {batch}: {seconds:.3f} s, "
                f"{seconds / product:.1f}x, {above:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
