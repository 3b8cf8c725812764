"""Time of ``fit`` against the refit that it replaces, calibrated and not.

Both sides are fitted one after the other, in one process, and medians are compared:
``LogisticRegression`` as it comes, with ``C = 1 / prior_precision``, and the same calibrated by a
temperature in five folds. Features are embeddings of unit length: clusters that overlap, or rows of
a file with ``features_train`` and ``y_train``::

    python examples/benchmarks/fit_speed.py --threads 1 --sizes 200x384x10 1000x384x77
    python examples/benchmarks/fit_speed.py --data banking77_minilm.npz --sizes 1000 5000
"""

import argparse
import time
import warnings

import numpy as np
import torch
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from laplace_al import LaplaceUpdateClassifier

SIZES = ["200x384x10", "1000x384x77", "3000x768x150", "10000x768x10", "20000x768x100"]


def clusters(n, n_features, n_classes):
    """Return embeddings of unit length and their labels, at least five of each class."""
    rng = np.random.default_rng(0)
    spectrum = (1 + np.arange(n_features)) ** -0.5
    y = np.r_[np.repeat(np.arange(n_classes), 5), rng.integers(n_classes, size=n)][:n]
    X = rng.normal(size=(n_classes, n_features))[y] + 3 * rng.normal(size=(n, n_features))
    X = X * spectrum + rng.normal(size=n_features) * spectrum
    return X / np.linalg.norm(X, axis=1, keepdims=True), y


def rows_of(path, n):
    """Return the first rows of a data set in a random order, of classes with at least five."""
    data = np.load(path)
    rows = np.random.default_rng(0).permutation(len(data["y_train"]))[:n]
    X, y = data["features_train"][rows].astype(float), data["y_train"][rows]
    labels, counts = np.unique(y, return_counts=True)
    often = np.isin(y, labels[counts >= 5])
    return X[often], y[often]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="instances x features x classes")
    parser.add_argument("--data", help="a file .npz; sizes are then numbers of rows")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--prior-precision", type=float, default=0.1)
    parser.add_argument("--covariance", default="auto")
    parser.add_argument("--without-folds", action="store_true", help="leave out the calibrated")
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.sizes, options.data, options.repetitions = ["60x8x3", "90x16x5", "60x80x2"], None, 1
    warnings.simplefilter("ignore", ConvergenceWarning)
    torch.set_num_threads(options.threads)

    peer = LogisticRegression(C=1 / options.prior_precision)
    ours = LaplaceUpdateClassifier(
        prior_precision=options.prior_precision, covariance=options.covariance
    )
    sides = {"fit": ours, "LogisticRegression": peer}
    if not options.without_folds:
        sides["5-fold temperature"] = CalibratedClassifierCV(peer, method="temperature", cv=5)
    print(f"{'size':>16}", *(f"{name:>20}" for name in sides), "  fit / LR  fit / 5-fold")
    for size in options.sizes:
        if options.data:
            X, y = rows_of(options.data, int(size))
            size = "x".join(map(str, (*X.shape, len(np.unique(y)))))
        else:
            X, y = clusters(*map(int, size.split("x")))
        times = {name: [] for name in sides}
        with threadpool_limits(options.threads):
            for _ in range(options.repetitions):
                for name, estimator in sides.items():
                    start = time.perf_counter()
                    estimator.fit(X, y)
                    times[name].append(time.perf_counter() - start)
        fit, *others = (np.median(each) for each in times.values())
        seconds = " ".join(f"{each:18.3f} s" for each in (fit, *others))
        print(f"{size:>16} {seconds}", *(f"{fit / other:9.1f}x" for other in others), flush=True)


if __name__ == "__main__":
    main()
