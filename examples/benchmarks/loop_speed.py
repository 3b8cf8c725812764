"""How long from a label to the next question? Ratios, interleaved in one process.

``python examples/benchmarks/loop_speed.py [--quick]``

A learner with a pool of 50,000 x 384 features and 10 classes learns one label and chooses the next
instance; against the least that this takes, one pass over the features (their product with the
directions of the update) and one ``partial_fit``, and against the loop without a kept pool, which
scores it anew. Every row prints the medians and their ratio.
"""

import argparse
import tempfile

import numpy as np
import torch
from pool_speed import clustered
from update_speed import interleaved, report

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import EntropySampling, LeastConfidentSampling, MarginSampling

N_POOL, N_FEATURES, N_CLASSES, N_INITIAL = 50_000, 384, 10, 500


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    repeats = 11 if parser.parse_args().quick else 51
    for covariance in ("shared", "per_class"):
        for strategy in (MarginSampling(), LeastConfidentSampling(), EntropySampling()):
            label_to_query(covariance, strategy, repeats)
    label_to_query("shared", MarginSampling(), repeats, dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        label_to_query("shared", MarginSampling(), repeats, journal=f"{folder}/labels.sqlite")


if __name__ == "__main__":
    main()
