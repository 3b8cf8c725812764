"""How honest are the probabilities of few labels, without a validation set?

``python examples/study/calibration.py [--data FOLDER] [--seeds 10] [--sets digits ...]``

A last layer is fitted to a few random labels. Each row holds the negative log-likelihood of
the test labels over that of the bound, which is the plug-in prediction at the temperature fitted to
the very test set, the Brier score and the expected calibration error (ECE, 15 bins of the largest
probability); means over the seeds. The honest rival is a temperature fitted by five-fold
cross-validation: ``CalibratedClassifierCV(LogisticRegression(), method="temperature")``.

A second table compares the closed forms with the average over 2000 drawn weights, by the
total variation of the test predictions, uncalibrated. A third holds labels chosen by margin
sampling, which are harder than those of the test set.

Without ``--data`` only digits is run; see ``datasets.py`` for the files.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
import torch
from datasets import DATA_SETS, load
from joblib import Parallel, delayed
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling

PREDICTIVES = ("plug_in", "mean_field", "monte_carlo", "bridge")
PRIOR_PRECISIONS = (0.01, 0.1, 1.0, 10.0)
LABELS_PER_CLASS = (3, 5, 20)
N_TEST = 1500
N_DRAWS = 300
N_BINS = 15


def ece(proba, correct):
    """Mean distance of accuracy to confidence over bins of the confidence."""
    confidence = proba.max(axis=1)
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = np.bincount(bins, confidence - correct, minlength=N_BINS)
    return np.abs(gaps).sum() / len(proba)


def scores(proba, y):
    """Negative log-likelihood in nats, Brier score and ECE."""
    likelihood = proba[np.arange(len(y)), y]
    return {
        "nll": -np.log(np.maximum(likelihood, 1e-300)).mean(),
        "brier": np.mean((proba**2).sum(axis=1) - 2 * likelihood + 1),
        "ece": ece(proba, proba.argmax(axis=1) == y),
    }


def at_best_temperature(logits, y):
    """Probabilities at the temperature of the largest likelihood of these very labels."""

    def loss(log_temperature):
        log_proba = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -log_proba[np.arange(len(y)), y].mean()

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded")
    return softmax(logits / np.exp(best.x), axis=1)


def cross_validated(X, y, X_test, n_classes, prior_precision):
    """Temperature scaling by five folds; None where a class has fewer labels than folds."""
    if np.bincount(y, minlength=n_classes).min() < 5:
        return None
    model = LogisticRegression(C=1 / prior_precision, max_iter=2000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rival = CalibratedClassifierCV(model, method="temperature", cv=5, ensemble=False)
        return rival.fit(X, y).predict_proba(X_test)


def plain_logits(clf, X):
    """Logits at the mean of the weights."""
    return X @ clf.coef_.T + clf.intercept_


def random_labels(X, y, n_labels, prior_precision, seed):
    """Scores of every method with labels drawn at random."""
    torch.set_num_threads(1)
    rows = np.random.default_rng(seed).permutation(len(y))
    train, test = rows[:n_labels], rows[-N_TEST:]
    n_classes = y.max() + 1
    base = LaplaceUpdateClassifier(
        prior_precision=prior_precision, classes=np.arange(n_classes), n_samples=N_DRAWS
    )
    found = {}
    for predictive in PREDICTIVES:
        for calibration in (None, "loo"):
            clf = clone(base).set_params(predictive=predictive, calibration=calibration)
            found[predictive, calibration] = clf.fit(X[train], y[train]).predict_proba(X[test])
    logits = plain_logits(clf, X[test])
    found["bound", "the test set"] = at_best_temperature(logits, y[test])
    rival = cross_validated(X[train], y[train], X[test], n_classes, prior_precision)
    if rival is not None:
        found["LogisticRegression", "five folds"] = rival
    return as_rows(found, y[test], seed)


def chosen_labels(X, y, n_labels, prior_precision, seed):
    """Scores of the default with labels chosen by margin sampling, a third of them at random."""
    torch.set_num_threads(1)
    rows = np.random.default_rng(seed).permutation(len(y))
    initial, pool, test = rows[: n_labels // 3], rows[n_labels // 3 : 2000], rows[-N_TEST:]
    clf = LaplaceUpdateClassifier(prior_precision=prior_precision, classes=np.unique(y))
    learner = ActiveLearner(
        clf,
        MarginSampling(),
        X[pool],
        X_initial=X[initial],
        y_initial=y[initial],
        random_state=seed,
    )
    n_batches = 10
    for batch in np.array_split(np.arange(n_labels - len(initial)), n_batches):
        positions = learner.query(len(batch))
        learner.teach(positions, y[pool][positions])
    stream = learner.estimator_
    found = {("mean_field", "updates"): stream.predict_proba(X[test])}
    logits = plain_logits(stream, X[test])
    found["plug_in", "updates, uncalibrated"] = softmax(logits, axis=1)
    found["bound", "the test set"] = at_best_temperature(logits, y[test])
    refitted = learner.refit().estimator_
    found["mean_field", "refit"] = refitted.predict_proba(X[test])
    return as_rows(found, y[test], seed)


def as_rows(found, y, seed):
    return [
        {"method": method, "calibration": str(calibration), "seed": seed} | scores(proba, y)
        for (method, calibration), proba in found.items()
    ]


def against_drawn_weights(X, y, n_labels, prior_precision, seed):
    """TV of uncalibrated closed forms to the average over many weights."""
    torch.set_num_threads(1)
    rows = np.random.default_rng(seed).permutation(len(y))
    train, test = rows[:n_labels], rows[-N_TEST:]
    base = LaplaceUpdateClassifier(
        prior_precision=prior_precision,
        classes=np.unique(y),
        calibration=None,
        n_samples=2000,
        random_state=seed,
    )
    proba = {
        predictive: clone(base)
        .set_params(predictive=predictive)
        .fit(X[train], y[train])
        .predict_proba(X[test])
        for predictive in PREDICTIVES
    }
    truth = proba["monte_carlo"]
    return {name: np.abs(p - truth).sum(axis=1).mean() / 2 for name, p in proba.items()}


def in_parallel(function, n_seeds, *args):
    return Parallel(-1)(delayed(function)(*args, seed) for seed in range(n_seeds))


def summarised(runs):
    """Means over the seeds, the likelihood over that of the bound."""
    table = pd.DataFrame([row for run in runs for row in run])
    table = table.groupby(["method", "calibration"], sort=False)[["nll", "brier", "ece"]].mean()
    table.insert(1, "of bound", table["nll"] / table["nll"]["bound", "the test set"])
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the files of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(DATA_SETS), choices=DATA_SETS)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    default, everything = ("mean_field", "loo"), []
    for data, (X, y) in load(arguments.sets, arguments.data).items():
        n_classes = y.max() + 1
        for per_class in LABELS_PER_CLASS:
            for prior_precision in PRIOR_PRECISIONS:
                setting = X, y, per_class * n_classes, prior_precision
                table = summarised(in_parallel(random_labels, arguments.seeds, *setting))
                print(f"\n{data}, {per_class} labels a class, prior precision {prior_precision}")
                print(table.round(3).to_string(), flush=True)
                everything.append(table.loc[default].to_dict() | {"data": data})
                everything[-1] |= {"labels": per_class, "prior precision": prior_precision}
                bound = table.loc["bound", "the test set"]
                everything[-1]["ece of bound"] = bound["ece"]
        for prior_precision in PRIOR_PRECISIONS[:3]:
            setting = X, y, 5 * n_classes, prior_precision
            table = summarised(in_parallel(chosen_labels, arguments.seeds, *setting))
            print(f"\n{data}, 5 labels a class, two thirds chosen, {prior_precision}")
            print(table.round(3).to_string(), flush=True)
            if n_classes <= 26:
                few = min(arguments.seeds, 3)
                found = pd.DataFrame(in_parallel(against_drawn_weights, few, *setting)).mean()
                print(f"TV to the average over 2000 weights\n{found.round(4).to_string()}")
    print("\nThe default with random labels")
    columns = ["data", "labels", "prior precision", "of bound", "ece", "ece of bound"]
    print(pd.DataFrame(everything)[columns].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
