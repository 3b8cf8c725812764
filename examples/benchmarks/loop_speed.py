"""How long does a loop of active learning take? Ratios, interleaved in one process.

``python examples/benchmarks/loop_speed.py [--quick] [--data EMBEDDINGS.npz]``

First whole loops, from no label to 100, 300 and 1000, one at a time and in tens: a learner with its
defaults against a LogisticRegression that is fitted on all labels after each question and predicts
the whole pool for the next; both ask by margin. Theirs has the same prior precision, and once as it
comes, ``C=1``. Seconds are of the processor, from the first question on; accuracies are those of
test data, the mean along the loop and over the seeds, with its standard error. The features are
synthetic, or those of the file (arrays ``features_train`` (n, D), ``y_train``, ``features_test``
and ``y_test``).

Then a learner with a pool of 50,000 x 384 features and 10 classes learns one label and chooses the
next instance; against the least that this takes, one pass over the features (their product with the
directions of the update) and one ``partial_fit``, and against the loop without a kept pool, which
scores it anew. Every row prints the medians and their ratio.
"""

import argparse
import tempfile
import time
import warnings

import numpy as np
import torch
from pool_speed import clustered
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from update_speed import interleaved, report

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import EntropySampling, LeastConfidentSampling, MarginSampling

N_POOL, N_FEATURES, N_CLASSES, N_INITIAL = 50_000, 384, 10, 500
MARKS = (20, 50, 100, 200, 300, 500, 700, 1000)


class RefittedLoop:
    """The loop as it is written around LogisticRegression."""

    def __init__(self, X, C, seed):
        self.X, self.model, self.is_fitted = X, LogisticRegression(C=C), False
        self.positions, self.y, self.is_open = [], [], np.ones(len(X), dtype=bool)
        self.rng = np.random.default_rng(seed)

    def query(self, n_instances):
        """Return positions of the smallest margins, at random before there are two classes."""
        candidates = np.flatnonzero(self.is_open)
        if not self.is_fitted:
            return self.rng.choice(candidates, n_instances, replace=False)
        second, first = np.partition(self.model.predict_proba(self.X[candidates]), -2)[:, -2:].T
        return candidates[np.argsort(first - second)[:n_instances]]

    def teach(self, positions, y):
        """Fit on these labels and all before."""
        self.is_open[positions] = False
        self.positions += list(positions)
        self.y += list(y)
        if len(set(self.y)) > 1:
            self.model.fit(self.X[self.positions], self.y)
            self.is_fitted = True

    def score(self, X, y):
        """Return the accuracy."""
        return self.model.score(X, y)


def whole_loop(data, covariance, batch_size, n_labels, seeds, C=None):
    """Time a learner and the loop around LogisticRegression in turn, and report both."""
    X, y, X_test, y_test = data
    marks = [mark for mark in MARKS if mark <= n_labels]
    seconds, accuracies = np.zeros((2, len(marks))), np.zeros((2, len(seeds), len(marks)))
    n_refits = 0
    for row, seed in enumerate(seeds):
        estimator = LaplaceUpdateClassifier(covariance=covariance)
        ours = ActiveLearner(estimator, MarginSampling(), X, random_state=seed)
        same = 1 / ours.pool_.prior_precision_by_scale(estimator)
        loops, spent = (ours, RefittedLoop(X, same if C is None else C, seed)), np.zeros(2)
        for n_taught in range(batch_size, n_labels + 1, batch_size):
            for side, loop in enumerate(loops):
                start = time.process_time()
                positions = loop.query(batch_size)
                loop.teach(positions, y[positions])
                spent[side] += time.process_time() - start
                if n_taught in marks:
                    place = marks.index(n_taught)
                    accuracies[side, row, place] = loop.score(X_test, y_test)
                    seconds[side, place] += spent[side] / len(seeds)
        n_refits += (ours.history_.action == "refit").sum() / len(seeds)
    other = "C as ours" if C is None else f"C={C:g}"
    for n in sorted({100, 300, 1000}.intersection(marks)):
        upto = marks.index(n) + 1
        along = accuracies[:, :, :upto].mean(axis=2)
        errors = along.std(axis=1) / max(1, len(seeds) - 1) ** 0.5
        accuracy = " against ".join(
            f"{mean:.3f} +- {error:.3f}"
            for mean, error in zip(along.mean(axis=1), errors, strict=True)
        )
        name = f"{n} labels, {batch_size} at a time: LogisticRegression, {other}"
        report(name, seconds[:, upto - 1], ">= 1x", f"accuracy {accuracy}")
    print(f"    {n_refits:.1f} refits of ours in {n_labels} labels")


def loops(data, covariance, quick):
    """Run the loops in tens and one at a time, these with fewer seeds."""
    n_labels, n_seeds = (100, 1) if quick else (1000, 5)
    for batch_size, seeds in ((10, range(n_seeds)), (1, range(min(n_seeds, 2)))):
        whole_loop(data, covariance, batch_size, n_labels, seeds)
        whole_loop(data, covariance, batch_size, 100, seeds, C=1.0)


def embeddings(path, quick):
    """Features and labels to learn from and to test on: those of a file, or synthetic ones."""
    if path is None and quick:
        X, y = clustered(2_000, 64, 10)
        return X[:1_000], y[:1_000], X[1_000:], y[1_000:]
    if path is None:
        X, y = clustered(13_000, N_FEATURES, 77)
        return X[:10_000], y[:10_000], X[10_000:], y[10_000:]
    with np.load(path) as file:
        names = ("features_train", "y_train", "features_test", "y_test")
        X, y, X_test, y_test = (file[name] for name in names)
    return X.astype(np.float64), y, X_test.astype(np.float64), y_test


def label_to_query(covariance, strategy, repeats, journal=None, dtype=np.float64):
    X, y = clustered(N_POOL, N_FEATURES, N_CLASSES)
    X = X.astype(dtype)
    X_initial, y_initial = clustered(N_INITIAL, N_FEATURES, N_CLASSES, seed=1)
    estimator = LaplaceUpdateClassifier(covariance=covariance, prior_precision=0.1)
    learner = ActiveLearner(
        estimator,
        strategy,
        X,
        X_initial=X_initial.astype(dtype),
        y_initial=y_initial,
        refit_every=None,
        journal=journal,
        random_state=0,
    )
    position = learner.query()
    n_directions = 1 if covariance == "shared" else N_CLASSES
    features = torch.from_numpy(X)
    vector = torch.ones(N_FEATURES, n_directions, dtype=features.dtype)
    bare = LaplaceUpdateClassifier(covariance=covariance, prior_precision=0.1)
    bare.fit(X_initial, y_initial)

    def label_and_query():
        nonlocal position
        learner.teach(position, y[position])
        position = learner.query()

    def pass_and_update():
        bare.partial_fit(X[position].astype(np.float64), y[position])
        return features @ vector

    def scored_anew():
        bare.partial_fit(X[position].astype(np.float64), y[position])
        return strategy.query(bare, X)

    name = f"{type(strategy).__name__}, {covariance}, {np.dtype(dtype)}"
    name += "" if journal is None else ", journal"
    seconds = interleaved(label_and_query, pass_and_update, repeats=repeats)
    ratio = f"({seconds[0] / seconds[1]:.1f}x of it)"
    report(f"{name}: a pass and an update", seconds, ">= 1/3", ratio)
    seconds = interleaved(label_and_query, scored_anew, repeats=repeats, their_repeats=5)
    report(f"{name}: the pool scored anew", seconds, ">= 10x")
    learner.close()


def labels_to_queries(repeats):
    for covariance in ("shared", "per_class"):
        for strategy in (MarginSampling(), LeastConfidentSampling(), EntropySampling()):
            label_to_query(covariance, strategy, repeats)
    label_to_query("shared", MarginSampling(), repeats, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        label_to_query("shared", MarginSampling(), repeats, journal=f"{folder}/labels.sqlite")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--data", help="embeddings to run the loops on, instead of synthetic ones")
    parser.add_argument("--covariance", default="auto", help="that of the loops")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    repeats = 3 if options.quick else 51
    torch.set_num_threads(options.threads)
    with threadpool_limits(options.threads):
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        data = embeddings(options.data, options.quick)
        loops(data, options.covariance, options.quick)
        labels_to_queries(repeats)


if __name__ == "__main__":
    main()
