"""How good probabilities are."""

import numpy as np

N_BINS = 15


def ece(proba, correct):
    """Mean distance of accuracy to confidence over bins of the confidence."""
    confidence = proba.max(axis=1)
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, confidence - correct, minlength=N_BINS)
    return np.abs(gaps).sum() / len(proba)


def scores(proba, y):
    """Accuracy, negative log-likelihood in nats, Brier score and ECE."""
    likelihood = proba[np.arange(len(y)), y]
    correct = proba.argmax(axis=1) == y
    return {
        "accuracy": correct.mean(),
        "nll": -np.log(np.maximum(likelihood, 1e-300)).mean(),
        "brier": np.mean((proba**2).sum(axis=1) - 2 * likelihood + 1),
        "ece": ece(proba, correct),
    }


def total_variation(proba, other):
    """Half the sum of absolute differences, mean over the rows."""
    return np.abs(proba - other).sum(axis=1).mean() / 2
