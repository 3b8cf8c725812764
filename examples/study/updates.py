"""How close does an update come to retraining?

``python examples/study/updates.py [--data FOLDER] [--seeds 10] [--sets digits ...]``

A last layer is fitted to some labels and updated with new ones, once at each prior precision. A row
holds the total variation (TV) of its test predictions to those of a model retrained on all labels,
and the share of the retrained model's gain in accuracy that is recovered; means over the seeds. The
predictions are those at the mean of the weights (plug-in). Rows of "ours" keep no data unless they
say so. The paper's step size and the learning rate of the first-order step are also chosen with
hindsight, the best TV of those listed in ``STEP_SIZES`` and ``LEARNING_RATES``.

Without ``--data`` only digits is run; see ``datasets.py`` for the files.
"""

import argparse

import numpy as np
import pandas as pd
import torch
from datasets import DATA_SETS, load
from joblib import Parallel, delayed
from scipy.special import softmax
from scipy.stats import wilcoxon
from sklearn.base import clone

from laplace_al import LaplaceUpdateClassifier

STEP_SIZES = (1, 3, 5, 10, 20)
LEARNING_RATES = (0.01, 0.1, 1.0)
N_SAMPLES = 300
N_TEST = 1500
PRIOR_PRECISIONS = ("evidence", 0.01, 0.1, 1.0, 10.0)
SIZES = {  # initial labels, new labels
    "digits": [(20, 10), (50, 20), (100, 1), (50, 200), (200, 100)],
    "mnist": [(50, 20), (200, 100)],
    "letter": [(130, 50), (500, 100)],
    "banking77": [(200, 50), (800, 100)],
}
OURS = {
    "ours: shared": {"covariance": "shared", "curvature": "categorical"},
    "ours: per class": {"covariance": "per_class", "curvature": "categorical"},
    "ours: default": {},
    "ours: 50 remembered": {"memory_size": 50},
    "ours: all remembered": {"memory_size": None},
}


def first_order(clf, X, y, classes, rate):
    """Weights after one step along the gradient for each label."""
    phi = np.c_[X, np.ones(len(X))]
    weights = np.c_[clf.coef_, clf.intercept_].T
    for row, label in zip(phi, y, strict=True):
        weights = weights + rate * np.outer(row, (classes == label) - softmax(row @ weights))
    return weights


def reweighted(clf, X, y, X_test, seed):
    """Mean prediction under drawn weights, each weighted with the likelihood of the new labels."""
    draws = clf.posterior_.sample(N_SAMPLES, torch.Generator().manual_seed(seed)).numpy()
    logits = np.c_[X, np.ones(len(X))] @ draws
    log_proba = logits - np.logaddexp.reduce(logits, axis=2, keepdims=True)
    log_weights = log_proba[:, np.arange(len(y)), np.searchsorted(clf.classes_, y)].sum(axis=1)
    test = np.c_[X_test, np.ones(len(X_test))]
    return sum(
        weight * softmax(test @ draw, axis=1)
        for weight, draw in zip(softmax(log_weights), draws, strict=True)
        if weight > 1e-6
    )


def one_run(X, y, n_initial, n_new, prior_precision, seed):
    """TV to the retrained model and accuracy of each method: (method, tv, accuracy)."""
    torch.set_num_threads(1)
    rows = np.random.default_rng(seed).permutation(len(y))
    initial, new = rows[:n_initial], rows[n_initial : n_initial + n_new]
    both, test = rows[: n_initial + n_new], rows[-N_TEST:]
    classes = np.unique(y)
    plain = LaplaceUpdateClassifier(
        prior_precision=prior_precision, classes=classes, predictive="plug_in", calibration=None
    )
    base = clone(plain).fit(X[initial], y[initial])
    plain.set_params(prior_precision=base.prior_precision_)
    retrained = clone(plain).fit(X[both], y[both]).predict_proba(X[test])
    predictions = {"base": base.predict_proba(X[test]), "retrained": retrained}
    for step_size in STEP_SIZES:
        paper = clone(plain).set_params(
            covariance="shared", curvature="gaussian", update="newton", step_size=step_size
        )
        paper.fit(X[initial], y[initial])
        if step_size == STEP_SIZES[0]:
            predictions["reweighted samples"] = reweighted(paper, X[new], y[new], X[test], seed)
        paper.partial_fit(X[new], y[new])
        predictions[f"paper, {step_size}"] = paper.predict_proba(X[test])
    for rate in LEARNING_RATES:
        weights = first_order(base, X[new], y[new], classes, rate)
        logits = np.c_[X[test], np.ones(len(test))] @ weights
        predictions[f"first order, {rate}"] = softmax(logits, axis=1)
    for name, params in OURS.items():
        clf = clone(plain).set_params(**params).fit(X[initial], y[initial])
        predictions[name] = clf.partial_fit(X[new], y[new]).predict_proba(X[test])
    return [
        {
            "method": method,
            "tv": np.abs(proba - retrained).sum(axis=1).mean() / 2,
            "accuracy": np.mean(classes[proba.argmax(axis=1)] == y[test]),
            "lambda": base.prior_precision_,
            "seed": seed,
        }
        for method, proba in predictions.items()
    ]


def with_hindsight(table, prefix):
    """Of the methods that begin so, the one with the smallest mean TV."""
    names = [name for name in table.index if name.startswith(prefix)]
    return table["tv"][names].idxmin()


def summarised(runs, setting):
    """One row of the result: TV and recovered gain of each method, in one setting."""
    table = runs.groupby("method")[["tv", "accuracy"]].mean()
    gain = table["accuracy"]["retrained"] - table["accuracy"]["base"]
    best = with_hindsight(table, "paper")
    chosen = {
        "base": "base",
        "first order": with_hindsight(table, "first"),
        "reweighted samples": "reweighted samples",
        "paper, 10": "paper, 10",
        "paper, best": best,
        **{name: name for name in OURS},
    }
    per_seed = runs.pivot(index="seed", columns="method", values="tv")
    return {
        **setting,
        "lambda": runs["lambda"].median(),
        "accuracy": f"{table['accuracy']['base']:.3f} -> {table['accuracy']['retrained']:.3f}",
        "best": best.removeprefix("paper, "),
        "p": wilcoxon(per_seed["ours: default"], per_seed[best]).pvalue,
        "tv": {name: table["tv"][method] for name, method in chosen.items()},
        "recovered": {
            name: (table["accuracy"][method] - table["accuracy"]["base"]) / gain
            for name, method in chosen.items()
        },
    }


def report(row):
    """Print one setting."""
    print(
        f"\n{row['data']} {row['initial']} + {row['new']}, prior precision {row['prior']} "
        f"({row['lambda']:.3g}), accuracy {row['accuracy']}, the paper's best step size "
        f"{row['best']}, default against it p = {row['p']:.2g}"
    )
    for name, tv in row["tv"].items():
        ratio = tv / row["tv"]["paper, best"]
        print(f"  {name:<22} TV {tv:.4f}  {ratio:5.2f} of best  rec. {row['recovered'][name]:5.0%}")


def conclude(rows):
    """Print the means over the settings and the worst of them."""
    for what, some in (
        ("the prior precision that the evidence picks", [r for r in rows if r["chosen"]]),
        ("all settings", rows),
    ):
        print(f"\nTV over that of the paper's best step size, {what}: {len(some)} settings")
        for name in some[0]["tv"]:
            ratios = [r["tv"][name] / r["tv"]["paper, best"] for r in some]
            # a gain of less than a point is noise
            recovered = [r["recovered"][name] for r in some if r["gained"] > 0.01]
            print(
                f"  {name:<22} mean {np.mean(ratios):.3f}  worst {np.max(ratios):.2f}  "
                f"recovered {np.mean(recovered):.0%}"
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the files of the data sets")
    parser.add_argument("--sets", nargs="+", default=list(DATA_SETS), choices=DATA_SETS)
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    rows = []
    for data, (X, y) in load(arguments.sets, arguments.data).items():
        for n_initial, n_new in SIZES[data]:
            for prior in PRIOR_PRECISIONS:
                runs = Parallel(-1)(
                    delayed(one_run)(X, y, n_initial, n_new, prior, seed)
                    for seed in range(arguments.seeds)
                )
                runs = pd.DataFrame([row for run in runs for row in run])
                setting = {"data": data, "initial": n_initial, "new": n_new, "prior": prior}
                row = summarised(runs, setting | {"chosen": prior == "evidence"})
                accuracy = runs.groupby("method")["accuracy"].mean()
                row["gained"] = accuracy["retrained"] - accuracy["base"]
                rows.append(row)
                report(row)
    conclude(rows)


if __name__ == "__main__":
    main()
