"""Which prior precision, when nothing is tuned by hand?

``python examples/study/prior.py [--data FOLDER] [--sets digits ...] [--seeds 10] [--results FOLDER]
[--quick]``

Fits to 10 to 1000 random labels with ``prior_precision`` 1, ``"scale"``, ``"evidence"`` and
``"loo"``, and with shares of the total variance of all features, the test labels known: the best of
those is the hindsight that no rule has. iris, wine and cancer, bundled with scikit-learn, were not
looked at when 0.01 was chosen for ``"scale"``. A row of ``prior_SET.csv`` is one fit: its accuracy,
its log loss at the mean of the weights, its prior precision and milliseconds. Finished fits are not
run again.
"""

import argparse
import time
import warnings

import numpy as np
import torch
from datasets import load
from protocol import Rows, add_arguments, record_command
from sklearn.datasets import load_breast_cancer, load_iris, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from laplace_al import LaplaceUpdateClassifier

SIZES = {
    "digits": (10, 30, 100, 300, 1000),
    "mnist": (10, 30, 100, 300, 1000),
    "mnist-cnn": (10, 30, 100, 300, 1000),
    "letter-mlp": (30, 100, 300, 1000),
    "banking77": (100, 300, 1000),
    "letter": (100, 300),
    "transfer": (10, 30, 100, 300),
    "iris": (10, 30, 100),
    "wine": (10, 30, 100),
    "cancer": (10, 30, 100, 300),
}
BUNDLED = {"iris": load_iris, "wine": load_wine, "cancer": load_breast_cancer}
RULES = (1.0, "scale", "evidence", "loo")
SHARES = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
N_TEST = 1000


def problem(name, folder):
    """Features (n, D), of tables in units of their deviations, and labels (n,)."""
    if name == "transfer":
        return transferred()
    if name not in BUNDLED:
        return load(name, folder)
    X, y = BUNDLED[name](return_X_y=True)
    return StandardScaler().fit_transform(X), y


def transferred():
    """64 features of the digits 5 to 9 from a perceptron that was trained on the digits 0 to 4."""
    X, y = load("digits", None)
    network = MLPClassifier(64, max_iter=500, random_state=0).fit(X[y < 5], y[y < 5])
    hidden = X[y >= 5] @ network.coefs_[0] + network.intercepts_[0]
    return np.maximum(hidden, 0), y[y >= 5] - 5


def fit(X, y, train, test, prior_precision):
    """Measures of one fit."""
    clf = LaplaceUpdateClassifier(
        prior_precision=prior_precision,
        classes=np.unique(y),
        covariance="shared",
        curvature="categorical",
        predictive="plug_in",
        calibration=None,
    )
    start = time.perf_counter()
    with warnings.catch_warnings():  # of a bound: part of what is measured
        warnings.simplefilter("ignore", ConvergenceWarning)
        clf.fit(X[train], y[train])
    seconds = time.perf_counter() - start
    probabilities = clf.predict_proba(X[test])
    found = clf.classes_[probabilities.argmax(axis=1)]
    return {
        "accuracy": np.mean(found == y[test]),
        "nll": log_loss(y[test], probabilities, labels=clf.classes_),
        "prior precision": clf.prior_precision_,
        "ms": 1000 * seconds,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, seeds=10)
    parser.add_argument("--sets", nargs="+", default=["digits"], choices=SIZES)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sizes, seeds = (lambda name: SIZES[name]), args.seeds
    if args.quick:
        args.sets, seeds, sizes = ["digits"], 2, lambda _: (10, 100)
    record_command(args.results / "prior.json")
    for name in args.sets:
        X, y = problem(name, args.data)
        n_test = min(N_TEST, len(y) // 3)
        total_variance = X.var(axis=0).sum()
        precisions = {str(rule): rule for rule in RULES}
        precisions |= {f"share {share}": share * total_variance for share in SHARES}
        rows = Rows(args.results / f"prior_{name}.csv", ["labels", "seed", "arm"])
        cells = [(n, seed) for n in sizes(name) for seed in range(seeds)]
        for n, seed in tqdm(cells, desc=name):
            order = np.random.default_rng(seed).permutation(len(y))
            for arm, precision in precisions.items():
                if (n, seed, arm) not in rows:
                    key = {"labels": n, "seed": seed, "arm": arm}
                    rows.append([key | fit(X, y, order[:n], order[-n_test:], precision)])


if __name__ == "__main__":
    main()
