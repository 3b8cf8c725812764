"""What does a query over a large pool cost? Curves over items, features, classes and workers.

``python examples/benchmarks/scaling.py [--quick]``

Blocks are float32 and come from memory: no disk is timed. Each point is the median of its repeats,
the points of a curve taking turns. At the end, the constants of

    seconds = n (a + b D C + c D² G)

by least squares of relative errors, with n items, D features, C outputs and G covariances, and how
far they are off.
"""

import argparse
import time

import numpy as np
import torch

from laplace_al import LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling

BLOCK = 4096
WORKER_ITEMS, WORKER_FEATURES = 400_000, 256
# glibc keeps freed memory up to these sizes, in bytes, instead of asking for new pages again.
KEEPING = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
}


def problem(n_features, n_classes, covariance):
    """A fitted classifier and a block of a pool."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5 * n_classes, n_features)).astype(np.float32)
    clf = LaplaceUpdateClassifier(covariance=covariance, calibration=None, curvature="categorical")
    clf.fit(X, np.arange(len(X)) % n_classes)
    return clf, rng.normal(size=(BLOCK, n_features)).astype(np.float32)


def seconds_of_query(clf, block, n_items):
    """One margin query of ten over so many items."""
    sizes = [BLOCK] * (n_items // BLOCK) + [n_items % BLOCK]
    begun = time.perf_counter()
    MarginSampling(random_state=0).query(clf, (block[:size] for size in sizes), 10)
    return time.perf_counter() - begun


def points(quick):
    """(items, features, classes, covariance, repeats) of each curve."""
    largest = 6 if quick else 7
    yield "items", [(10**k, 64, 10, "shared", 3 if k < 6 else 1) for k in range(4, largest + 1)]
    features = (64, 256) if quick else (64, 128, 256, 512, 1024)
    yield "features", [(40_000, d, 10, "shared", 3) for d in features]
    classes = (2, 10, 100) if quick else (2, 10, 100, 1000)
    yield "classes", [(40_000, 64, c, "shared", 3) for c in classes]
    yield "classes, per_class", [(40_000, 64, c, "per_class", 3) for c in (3, 10, 30)]


def curve(name, settings):
    """Median seconds of each point, the repeats taking turns."""
    found = [[] for _ in settings]
    problems = [problem(d, c, covariance) for _, d, c, covariance, _ in settings]
    for turn in range(max(repeats for *_, repeats in settings)):
        for i, (n, *_, repeats) in enumerate(settings):
            if turn < repeats:
                found[i].append(seconds_of_query(*problems[i], n))
    rows = []
    for (n, d, c, covariance, _), seconds in zip(settings, found, strict=True):
        median = float(np.median(seconds))
        rows.append((n, d, 1 if c == 2 else c, c if covariance == "per_class" else 1, median))
        print(
            f"{name:20}{n:>10} items{d:>6} features{c:>6} classes  {covariance:10}"
            f"{median:9.3f} s{1e6 * median / n:9.2f} us an item"
        )
    return rows


def constants(rows):
    """a, b, c of the model and its relative errors."""
    n, d, c, g, seconds = np.array(rows, dtype=float).T
    terms = n[:, None] * np.column_stack([np.ones_like(d), d * c, d**2 * g])
    found, *_ = np.linalg.lstsq(terms / seconds[:, None], np.ones(len(rows)), rcond=None)
    error = terms @ found / seconds - 1
    print(
        f"\nnanoseconds an item: {1e9 * found[0]:.0f} + {1e9 * found[1]:.3f} D C + "
        f"{1e9 * found[2]:.4f} D² G; relative errors {error.min():+.0%} to {error.max():+.0%}"
    )


def rescoring(quick):
    """One label of a pool that is kept, against one pass over its features."""
    n, d = 200_000 if quick else 1_000_000, 256
    clf, _ = problem(d, 10, "shared")
    X = np.random.default_rng(1).standard_normal((n, d), dtype=np.float32)
    pool, vector = clf.pool_state(X), torch.ones(d, 1)
    label, reading = [], []
    for i in range(9):
        for seconds, act in (
            (label, lambda i=i: pool.observe(i, 0)),
            (reading, lambda: pool.features @ vector),
        ):
            begun = time.perf_counter()
            act()
            seconds.append(time.perf_counter() - begun)
    label, reading = np.median(label), np.median(reading)
    print(
        f"\na label, {n} x {d}: {1000 * label:.1f} ms, one pass {1000 * reading:.1f} ms "
        f"({4e-9 * n * d / reading:.1f} GB/s), ratio {label / reading:.2f}"
    )


def workers(quick):
    """The same query over blocks: without Dask, on one and on two processes of one thread each.

    Once with Dask's own setting of the workers' malloc, which hands freed memory back to the system
    at once, and once with ``KEEPING``.
    """
    import dask
    import dask.array as da
    from dask.distributed import Client, LocalCluster, wait

    from laplace_al.integrations import dask as on_cluster

    clf, _ = problem(WORKER_FEATURES, 10, "shared")
    n = WORKER_ITEMS // (4 if quick else 1)
    blocks = np.random.default_rng(0).standard_normal(
        (n // 10_000, 10_000, WORKER_FEATURES), dtype=np.float32
    )
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    seconds = median_seconds(lambda: MarginSampling(random_state=0).query(clf, iter(blocks), 10))
    torch.set_num_threads(n_threads)
    print(
        f"\n{n} items in blocks of 10,000, {WORKER_FEATURES} features, 10 classes, shared\n"
        f"without Dask, one thread {seconds:8.3f} s"
    )
    for name, environment in (("Dask's malloc", {}), ("memory kept", KEEPING)):
        for n_workers in (1, 2):
            with (
                dask.config.set(environment),
                LocalCluster(
                    n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
                ) as cluster,
                Client(cluster),
            ):
                pool = da.from_array(blocks.reshape(n, -1), chunks=(10_000, -1)).persist()
                wait(pool)
                seconds = median_seconds(
                    lambda: on_cluster.query(MarginSampling(random_state=0), clf, pool, 10)
                )
            print(f"{name}, workers {n_workers} {seconds:8.3f} s")


def median_seconds(act, repeats=5):
    """Of so many calls after a first, which imports."""
    seconds = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return float(np.median(seconds[1:]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small points, to see it run")
    quick = parser.parse_args().quick
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    constants([row for name, settings in points(quick) for row in curve(name, settings)])
    rescoring(quick)
    workers(quick)


if __name__ == "__main__":
    main()
