"""How honest are the probabilities of few labels, and do they know what they have not seen?

``python examples/study/calibration.py [--data FOLDER] [--sets digits ...] [--priors 0.1 1.0]
[--parts random chosen ood] [--seeds 10] [--results FOLDER] [--quick]``

A last layer is fitted to 5 or 20 labels a class, drawn at random or, two thirds of them, chosen by
margin sampling in ten batches and learnt by updates. No method sees a validation set.

- ``plug-in``, ``mean field``, ``Monte Carlo``, ``bridge``: the predictives of the library, with and
  without ``calibration="loo"``; ``mean field`` with it is the default;
- ``LogisticRegression`` at a temperature fitted by five-fold cross-validation;
- ``MLP``: one hidden layer of 128 on the same features; its ``dropout`` (50 passes at 0.5); and an
  ``ensemble`` of 5;
- ``laplace-torch``: its last-layer posterior (``kron``, and ``full`` where C D < 1000), with the
  prior precision that its marginal likelihood picks, by probit; if it can be imported;
- ``bound``: plug-in at the temperature fitted to the very test set.

A row of ``calibration_SET.csv`` has the accuracy, the negative log-likelihood (nats), the Brier
score and the expected calibration error (ECE, 15 bins) of a method on 1500 test instances;
``reliability_SET.csv`` has those bins for a prior precision of 1 and 5 labels a class.

For ``ood_SET.csv`` the last fifth of the classes is left out. A row is the area under the ROC curve
(AUROC) with which an uncertainty tells instances of these ``unseen classes``, or ``other data``
(see ``datasets.py``), from test instances of the others: ``total``, the entropy of the prediction,
or ``epistemic``, the mutual information of label and weights.

Finished runs are not run again; those of ``laplace-torch`` are added where it is installed.
"""

import argparse
import importlib.util
import warnings

import numpy as np
import pandas as pd
import torch
from datasets import load, other_data
from measures import N_BINS, scores
from protocol import Rows, add_arguments, record_command
from rivals import ensemble, laplace_torch
from scipy.optimize import minimize_scalar
from scipy.special import entr, log_softmax, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling

PREDICTIVES = {
    "plug-in": "plug_in",
    "mean field": "mean_field",
    "Monte Carlo": "monte_carlo",
    "bridge": "bridge",
}
LABELS_PER_CLASS = {
    "digits": (5, 20),
    "mnist-cnn": (5, 20),
    "letter-mlp": (5, 20),
    "banking77": (5,),
}
N_TEST, N_OTHER, N_DRAWS, N_BATCHES = 1500, 500, 300, 10
HAS_LAPLACE_TORCH = importlib.util.find_spec("laplace") is not None


def classifier(y, prior, **params):
    return LaplaceUpdateClassifier(
        prior_precision=prior, classes=np.unique(y), n_samples=N_DRAWS, **params
    )


def at_best_temperature(logits, y):
    """Probabilities at the temperature of the largest likelihood of these very labels."""

    def loss(log_temperature):
        log_proba = log_softmax(logits / np.exp(log_temperature), axis=1)
        return -log_proba[np.arange(len(y)), y].mean()

    best = minimize_scalar(loss, bounds=(-5, 5), method="bounded")
    return softmax(logits / np.exp(best.x), axis=1)


def cross_validated(X, y, X_test, prior):
    """Temperature scaling by five folds; None where a class has fewer labels than folds."""
    if np.bincount(y).min() < 5:
        return None
    model = LogisticRegression(C=1 / prior, max_iter=2000)
    rival = CalibratedClassifierCV(model, method="temperature", cv=5, ensemble=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the optimiser of the temperature
        return rival.fit(X, y).predict_proba(X_test)


def plain_logits(clf, X):
    """Logits at the mean of the weights."""
    return X @ clf.coef_.T + clf.intercept_


def with_random_labels(X, y, n_labels, prior, seed):
    """Probabilities (n_test, C) of every method, by method and calibration, and the test labels."""
    rows = np.random.default_rng(seed).permutation(len(y))
    train, test = rows[:n_labels], rows[-N_TEST:]
    if HAS_LAPLACE_TORCH:
        return laplace_torch(X[train], y[train], X[test], y.max() + 1, seed), y[test]
    found = {}
    for method, predictive in PREDICTIVES.items():
        for calibration in (None, "loo"):
            clf = classifier(y, prior, predictive=predictive, calibration=calibration)
            proba = clf.fit(X[train], y[train]).predict_proba(X[test])
            found[method, "loo" if calibration else "none"] = proba
    found["bound", "test set"] = at_best_temperature(plain_logits(clf, X[test]), y[test])
    rival = cross_validated(X[train], y[train], X[test], prior)
    if rival is not None:
        found["LogisticRegression", "five folds"] = rival
    members, dropout = ensemble(X[train], y[train], X[test], y.max() + 1, seed)
    found["MLP", "none"] = members[0]
    found["ensemble", "none"] = members.mean(axis=0)
    found["dropout", "none"] = dropout.mean(axis=0)
    return found, y[test]


def with_chosen_labels(X, y, n_labels, prior, seed):
    """The same of the default, two thirds of the labels being chosen by margin sampling."""
    rows = np.random.default_rng(seed).permutation(len(y))
    n_initial, n_test = n_labels // 3, min(N_TEST, len(y) // 3)
    initial, pool, test = rows[:n_initial], rows[n_initial:-n_test][:2000], rows[-n_test:]
    learner = ActiveLearner(
        classifier(y, prior),
        MarginSampling(),
        X[pool],
        X_initial=X[initial],
        y_initial=y[initial],
        refit_every=None,
        random_state=seed,
    )
    for batch in np.array_split(np.arange(n_labels - n_initial), N_BATCHES):
        positions = learner.query(len(batch))
        learner.teach(positions, y[pool][positions])
    updated = learner.estimator_
    logits = plain_logits(updated, X[test])
    return {
        ("mean field, updated", "loo"): updated.predict_proba(X[test]),
        ("plug-in, updated", "none"): softmax(logits, axis=1),
        ("bound", "test set"): at_best_temperature(logits, y[test]),
        ("mean field, refitted", "loo"): learner.refit().estimator_.predict_proba(X[test]),
    }, y[test]


PARTS = {"random": with_random_labels, "chosen": with_chosen_labels}


def bins(proba, y):
    """Count, mean confidence and accuracy of the instances in each bin of confidence, dicts."""
    confidence, correct = proba.max(axis=1), proba.argmax(axis=1) == y
    places = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    frame = pd.DataFrame({"bin": places, "confidence": confidence, "accuracy": correct})
    found = frame.groupby("bin").agg(
        count=("bin", "size"), confidence=("confidence", "mean"), accuracy=("accuracy", "mean")
    )
    return found.reset_index().to_dict("records")


def uncertainties(X, y, X_test, prior, seed):
    """By method and kind, (n_test,) each, larger where less is known. y counts from 0."""
    if HAS_LAPLACE_TORCH:
        proba = laplace_torch(X, y, X_test, y.max() + 1, seed)
        return {(method, "total"): entropy(p) for (method, _), p in proba.items()}
    found = {}
    for calibration in (None, "loo"):
        clf = classifier(y, prior, calibration=calibration).fit(X, y)
        total, _, epistemic = clf.predict_uncertainty(X_test)
        name = f"default, {'loo' if calibration else 'uncalibrated'}"
        found |= {(name, "total"): total, (name, "epistemic"): epistemic}
    _, variance = clf.latent_mean_and_variance(X_test)
    found["logit variance", "epistemic"] = variance.reshape(len(X_test), -1).mean(axis=1)
    found["plug-in", "total"] = entropy(softmax(plain_logits(clf, X_test), axis=1))
    members, dropout = ensemble(X, y, X_test, y.max() + 1, seed)
    found["MLP", "total"] = entropy(members[0])
    for name, samples in (("ensemble", members), ("dropout", dropout)):
        total = entropy(samples.mean(axis=0))
        found[name, "total"] = total
        found[name, "epistemic"] = total - entropy(samples).mean(axis=0)
    return found


def entropy(proba):
    """In nats."""
    return entr(proba).sum(axis=-1)


def out_of_distribution(X, y, X_other, n_labels, prior, seed):
    """Rows of AUROCs."""
    n_seen = (y.max() + 1) * 4 // 5
    rows = np.random.default_rng(seed).permutation(len(y))
    seen, unseen = rows[y[rows] < n_seen], rows[y[rows] >= n_seen]
    train, test = seen[:n_labels], seen[n_labels:][-N_OTHER:]
    foreign = {"unseen classes": X[unseen[:N_OTHER]], "other data": X_other}
    labels = np.unique(y[train], return_inverse=True)[1]  # all of them, but for bad luck
    found = uncertainties(
        X[train], labels, np.concatenate([X[test], *foreign.values()]), prior, seed
    )
    ends = np.cumsum([len(test), *map(len, foreign.values())])
    rows = []
    for (method, kind), values in found.items():
        known, *others = np.split(values, ends[:-1])
        for what, other in zip(foreign, others, strict=True):
            is_foreign = np.r_[np.zeros(len(known)), np.ones(len(other))]
            auroc = roc_auc_score(is_foreign, np.r_[known, other])
            rows.append({"other": what, "method": method, "uncertainty": kind, "auroc": auroc})
    return rows


class Study:
    """The runs of one data set, and the files they go to."""

    def __init__(self, name, args):
        self.name, self.args = name, args
        self.X, self.y = load(name, args.data)
        self.n_classes = self.y.max() + 1
        # rows of laplace-torch have a key of their own, so that they can be added later
        self.by = "laplace-torch" if HAS_LAPLACE_TORCH else "all"
        keys = ["by", "labels", "part", "prior", "seed"]
        self.calibration = self._rows("calibration", keys)
        self.reliability = self._rows("reliability", ["by", "seed"])
        self.ood = self._rows("ood", ["by", "labels", "prior", "seed"])

    def _rows(self, what, keys):
        return Rows(self.args.results / f"{what}_{self.name}.csv", keys)

    def run(self, per_class, prior, seed):
        """What is missing at this setting."""
        for part in ("random", "chosen"):
            is_ours = part == "random" or not HAS_LAPLACE_TORCH
            if part in self.args.parts and is_ours:
                self._run_calibration(part, per_class, prior, seed)
        if "ood" in self.args.parts:
            self._run_ood(per_class, prior, seed)

    def _run_calibration(self, part, per_class, prior, seed):
        key = (self.by, per_class, part, prior, seed)
        if key in self.calibration:
            return
        n_labels = per_class * self.n_classes
        found, y_test = PARTS[part](self.X, self.y, n_labels, prior, seed)
        setting = dict(zip(self.calibration.keys, key, strict=True))
        self.calibration.append(
            [
                setting | {"method": method, "calibration": calibration} | scores(proba, y_test)
                for (method, calibration), proba in found.items()
            ]
        )
        is_drawn = part == "random" and per_class == 5 and prior == 1.0
        if is_drawn and (self.by, seed) not in self.reliability:
            self.reliability.append(
                [
                    {"by": self.by, "seed": seed, "method": method, "calibration": calibration}
                    | row
                    for (method, calibration), proba in found.items()
                    for row in bins(proba, y_test)
                ]
            )

    def _run_ood(self, per_class, prior, seed):
        key = (self.by, per_class, prior, seed)
        if key in self.ood:
            return
        X_other = other_data(self.name, self.args.data, N_OTHER, seed)
        n_labels = per_class * (self.n_classes * 4 // 5)
        rows = out_of_distribution(self.X, self.y, X_other, n_labels, prior, seed)
        setting = dict(zip(self.ood.keys, key, strict=True))
        self.ood.append([setting | row for row in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, seeds=10)
    parser.add_argument("--sets", nargs="+", default=["digits"], choices=LABELS_PER_CLASS)
    parser.add_argument("--priors", nargs="+", type=float, default=[0.1, 1.0])
    parser.add_argument("--parts", nargs="+", default=[*PARTS, "ood"], choices=[*PARTS, "ood"])
    args = parser.parse_args()
    if args.quick:
        args.sets, args.priors, args.seeds = ["digits"], [1.0], 2
    torch.set_num_threads(1)
    record_command(args.results / "calibration.json")
    for name in args.sets:
        study = Study(name, args)
        settings = [
            (per_class, prior, seed)
            for seed in range(args.seeds)
            for per_class in LABELS_PER_CLASS[name][: 1 if args.quick else None]
            for prior in args.priors
        ]
        for setting in tqdm(settings, desc=name, mininterval=10):
            study.run(*setting)


if __name__ == "__main__":
    main()
