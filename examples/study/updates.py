"""How close does an update come to retraining, and what does it cost?

``python examples/study/updates.py [--data FOLDER] [--sets digits ...] [--priors evidence 1.0]
[--seeds 10] [--results FOLDER] [--quick]``

A last layer is fitted to some labels and learns 1, 10 or 100 new ones: drawn at random, or chosen
by their margins under that very model, from a pool of 1000. The prior precision is the one that the
evidence of the initial labels picks, or 1. All arms start from the same initial labels:

- ``base``: no update;
- ``default``: ours, ``partial_fit`` with nothing set, no label kept;
- ``memory 50``: the same with the newest 50 labels kept;
- ``refit when due``: the same, and a refit where the update has drifted more than one posterior
  standard deviation from it, as ``ActiveLearner(refit_every="auto")`` does;
- ``paper, 10``: the paper's own method with its step size of 10;
- ``paper, tuned``: the step size of 1, 3, 5, 10, 20 that cross-validation picks;
- ``paper, hindsight``: of these, the one that comes closest to retraining in that very run: an
  upper line, nobody can choose it;
- ``first order``: one step W + rate phi (y - p)^T for each label;
- ``reweighting``: 300 weights drawn from the paper's posterior, weighted with the likelihood of the
  new labels; its predictions are averaged. ``reweighting, mean``: those at the mean of the weights;
- ``SGD on new``, ``SGD on all``: 10 epochs on the new labels, or on all (with the prior), in
  batches of 32 with momentum 0.9, the rate falling to 0;
- ``warm refit``: the default fitted to all labels, from where it was (``warm_start``);
- ``retrained``: the default fitted to all labels from zero, what all others are measured against.

Step sizes of the paper and learning rates (0.003 to 10, half decades) are chosen for each number of
new labels by cross-validation on the initial labels: of five parts, three are fitted, the first
labels of the fourth, as many as there will be new ones, are the update, and the smallest
negative log-likelihood of the fifth wins, over five turns. Its time does not count, nor that of
drawing the weights.

A row of ``updates_SET.csv`` is one arm in one run: ``accuracy``, ``nll`` (nats), ``brier`` and
``ece`` (15 bins) on 1500 test instances, ``tv`` and ``flips`` (total variation to the retrained,
share of other decisions), all at the mean of the weights, so that updates are compared and not
predictives; ``nll_shipped`` to ``tv_shipped`` are the same for what ``predict_proba`` says, on 500
of them (the paper's: mean field, uncalibrated); ``seconds`` of the update, ``lambda``, and
``setting``: the step size or learning rate, the drift of ``refit when due``, the effective number of
the weights that are reweighted. Finished runs are not run again. ``updates.json`` has commands,
versions and machines.

The table is over all initial sizes. The share of the gain that is recovered is a ratio of
means, (accuracy - base) / (retrained - base), and is left out where the mean gain is within two
standard errors of zero. p-values are of paired Wilcoxon tests of the default against the paper's,
over seeds and initial sizes, after Holm's correction over all that is tested on a data set.

Cut, to take about an hour on one core: see ``SIZES`` and ``TOO_SLOW``. Without ``--data`` only
digits is run; see ``datasets.py`` for the files.
"""

import argparse
import copy
import datetime
import json
import os
import pathlib
import platform
import sys
import time
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy
import sklearn
import torch
from active_learning import holm
from calibration import scores
from datasets import DATA_SETS, VARIANTS, load
from joblib import Parallel, delayed
from scipy.special import log_softmax, softmax
from scipy.stats import wilcoxon
from sklearn.base import clone
from tqdm.auto import tqdm

import laplace_al
from laplace_al import LaplaceUpdateClassifier
from laplace_al.results import ResultsFile, fingerprint

STEP_SIZES = (1, 3, 5, 10, 20)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
N_DRAWS = 300
N_EPOCHS, BATCH_SIZE, MOMENTUM = 10, 32, 0.9
N_FOLDS = 5
MAX_DRIFT = 1.0  # posterior standard deviations
N_TEST, N_SHIPPED, N_POOL = 1500, 500, 1000

SETS = ("digits", "mnist-cnn", "letter", "letter-mlp", "banking77")
SIZES = {  # initial labels
    "digits": (10, 50, 200),
    "mnist": (10, 50, 200, 1000),
    "mnist-cnn": (10, 50, 200, 1000),
    "letter": (30, 100, 300, 1000),
    "letter-mlp": (30, 100, 300, 1000),
    "banking77": (100, 300, 1000),
}
N_NEW = (1, 10, 100)
CHOICES = ("random", "margin")
TOO_SLOW = [("banking77", 1000, "1.0")]  # data set, initial labels, prior

KEYS = ["data", "prior", "initial", "new", "chosen", "arm", "seed"]
PAPER = ("paper, 10", "paper, tuned")
HINDSIGHT = "paper, hindsight"
ARMS = (
    *("base", "default", "memory 50", "refit when due", *PAPER, HINDSIGHT, "first order"),
    *("reweighting", "reweighting, mean", "SGD on new", "SGD on all", "warm refit", "retrained"),
)


class Run(NamedTuple):
    """What is fitted once and updated in many ways."""

    data: str
    prior: str
    initial: int
    seed: int

    def names(self, n_new):
        """Its rows in the file."""
        return [
            (self.data, self.prior, str(self.initial), str(n), chosen, arm, self.seed)
            for n in n_new
            for chosen in CHOICES
            for arm in ARMS
        ]


class Outcome(NamedTuple):
    """What an arm makes of new labels: weights (D + 1, C), or a classifier that has them."""

    weights: np.ndarray
    seconds: float
    setting: float = np.nan
    classifier: LaplaceUpdateClassifier | None = None
    shares: np.ndarray | None = None  # of drawn weights

    def __repr__(self):
        return f"Outcome(seconds={self.seconds:.3g}, setting={self.setting:g})"


def augmented(X):
    """Features phi (n, D + 1), a constant 1 last."""
    return np.c_[X, np.ones(len(X))]


def weights_of(clf):
    """Mean of the weights (D + 1, C), the intercept last."""
    return np.vstack([clf.coef_.T, clf.intercept_])


# --- baselines, from weights (D + 1, C) ---------------------------------------------------------


def first_order(weights, phi, y, rates):
    """Weights after one step along the gradient for each label, at each rate: (R, D + 1, C)."""
    stepped = np.repeat(weights[None], len(rates), axis=0)
    rates = np.asarray(rates)[:, None, None]
    for row, label in zip(phi, y, strict=True):
        residual = -softmax(row @ stepped, axis=1)  # (R, C)
        residual[:, label] += 1
        stepped += rates * row[:, None] * residual[:, None, :]
    return stepped


def sgd(weights, phi, y, rates, decay, seed):
    """Weights after ``N_EPOCHS`` of mean cross-entropy + decay / 2 |W|^2: (R, D + 1, C).

    All rates see the same batches.
    """
    phi, labels = torch.from_numpy(phi).float(), torch.from_numpy(y)
    W = torch.from_numpy(weights).float().repeat(len(rates), 1, 1)
    one_hot = torch.nn.functional.one_hot(labels, W.shape[2]).float()
    rates = torch.tensor(rates, dtype=W.dtype)[:, None, None]
    velocity, generator = torch.zeros_like(W), torch.Generator().manual_seed(seed)
    n_steps = N_EPOCHS * -(-len(y) // BATCH_SIZE)
    step = 0
    for _ in range(N_EPOCHS):
        for rows in torch.randperm(len(y), generator=generator).split(BATCH_SIZE):
            batch = phi[rows]
            residual = (batch @ W).softmax(dim=2) - one_hot[rows]  # (R, b, C)
            gradient = batch.T @ residual / len(rows) + decay * W
            velocity = MOMENTUM * velocity + gradient
            W = W - rates * (1 - step / n_steps) * velocity
            step += 1
    return W.double().numpy()


def shares_of(draws, phi, y):
    """Weight of each draw (S, D + 1, C): the likelihood of the labels, the sum being 1."""
    log_proba = log_softmax(phi @ draws, axis=2)  # (S, n, C)
    return softmax(log_proba[:, np.arange(len(y)), y].sum(axis=1).astype(float))


def negative_log_likelihood(weights, phi, y):
    """Mean over the labels in nats, for each of the weights (R, D + 1, C); diverged: inf."""
    with np.errstate(over="ignore", invalid="ignore"):
        log_proba = log_softmax(phi @ weights, axis=2)
    return np.nan_to_num(-log_proba[:, np.arange(len(y)), y].mean(axis=1), nan=np.inf)


# --- a run --------------------------------------------------------------------------------------


class Start:
    """Fits to the initial labels (n, D), (n,), from which the arms go on.

    Arms are methods that take features and labels of new instances and give an :class:`Outcome`.
    """

    def __init__(self, X, y, n_classes, prior, seed):
        self.X, self.y, self.seed = X, y, seed
        classes = np.arange(n_classes)
        self.base = LaplaceUpdateClassifier(prior_precision=prior, classes=classes).fit(X, y)
        self.base.set_params(prior_precision=self.base.prior_precision_)
        self.paper = self._at_the_mode(
            covariance="shared", curvature="gaussian", update="newton", calibration=None
        )
        self.remembering = self._at_the_mode(memory_size=50)
        self.tuned = {}

    @property
    def prior_precision(self):
        return self.base.prior_precision_

    @cached_property
    def weights(self):
        return weights_of(self.base)

    @cached_property
    def draws(self):
        """Weights drawn from the paper's posterior, (S, D + 1, C)."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.paper.posterior_.sample(N_DRAWS, generator).float().numpy()

    def _at_the_mode(self, X=None, y=None, **params):
        """The same with other parameters, or labels; the mode is found from where it was."""
        X, y = (self.X, self.y) if X is None else (X, y)
        return copy.copy(self.base).set_params(warm_start=True, **params).fit(X, y)

    def all_with(self, X, y):
        return np.concatenate([self.X, X]), np.concatenate([self.y, y])

    # arms

    def unchanged(self, X, y):
        return Outcome(self.weights, 0.0, classifier=self.base)

    def partial_fit(self, clf, X, y, setting=np.nan):
        clf = copy.copy(clf)  # an update binds new attributes
        if not np.isnan(setting):
            clf.set_params(step_size=float(setting))
        start = time.perf_counter()
        clf.partial_fit(X, y)
        seconds = time.perf_counter() - start
        return Outcome(weights_of(clf), seconds, setting, clf)

    def refit_when_due(self, X, y):
        clf, (X_all, y_all) = copy.copy(self.base), self.all_with(X, y)
        start = time.perf_counter()
        clf.partial_fit(X, y)
        drift = clf.newton_decrement(X_all, y_all)
        if drift > MAX_DRIFT:
            clf.set_params(warm_start=True).fit(X_all, y_all)
        seconds = time.perf_counter() - start
        return Outcome(weights_of(clf), seconds, drift, clf)

    def refit(self, X, y, *, warm):
        clf = copy.copy(self.base) if warm else clone(self.base)
        X, y = self.all_with(X, y)
        start = time.perf_counter()
        clf.set_params(warm_start=warm).fit(X, y)
        return Outcome(weights_of(clf), time.perf_counter() - start, classifier=clf)

    def first_order(self, X, y):
        rate = self.chosen(len(y))["first order"]
        start = time.perf_counter()
        weights = first_order(self.weights, augmented(X), y, [rate])[0]
        return Outcome(weights, time.perf_counter() - start, rate)

    def sgd_on_new(self, X, y):
        rate = self.chosen(len(y))["SGD on new"]
        start = time.perf_counter()
        weights = sgd(self.weights, augmented(X), y, [rate], 0.0, self.seed)[0]
        return Outcome(weights, time.perf_counter() - start, rate)

    def sgd_on_all(self, X, y):
        rate = self.chosen(len(y))["SGD on all"]
        X, y = self.all_with(X, y)
        start = time.perf_counter()
        decay = self.prior_precision / len(y)
        weights = sgd(self.weights, augmented(X), y, [rate], decay, self.seed)[0]
        return Outcome(weights, time.perf_counter() - start, rate)

    def reweighted(self, X, y):
        draws = self.draws
        start = time.perf_counter()
        shares = shares_of(draws, augmented(X).astype(draws.dtype), y)
        mean = np.tensordot(shares, draws, axes=1)
        seconds = time.perf_counter() - start
        return Outcome(mean, seconds, 1 / np.sum(shares**2), shares=shares)

    # cross-validation

    def chosen(self, n_new):
        """Step size and learning rates with the smallest loss on left-out initial labels."""
        if n_new not in self.tuned:
            losses = [self._losses(fold, n_new) for fold in self._folds]
            self.tuned[n_new] = {
                name: settings[np.sum([loss[name] for loss in losses], axis=0).argmin()]
                for name, settings in (
                    ("paper, tuned", STEP_SIZES),
                    *((name, RATES) for name in ("first order", "SGD on new", "SGD on all")),
                )
            }
        return self.tuned[n_new]

    @cached_property
    def _folds(self):
        """The paper's method fitted to three parts; rows of these, of the fourth and the fifth."""
        part = np.arange(len(self.y)) % N_FOLDS
        folds = []
        for k in range(N_FOLDS):
            held, update = part == k, part == (k + 1) % N_FOLDS
            rest = ~held & ~update
            paper = copy.copy(self.paper).fit(self.X[rest], self.y[rest])
            folds.append((paper, rest, np.flatnonzero(update), held))
        return folds

    def _losses(self, fold, n_new):
        """Sum of the loss over the labels of the fifth part, for each setting of each method."""
        paper, rest, update, held = fold
        update = update[:n_new]
        weights, phi = weights_of(paper), augmented(self.X)
        y, both = self.y, np.r_[np.flatnonzero(rest), update]
        decay = self.prior_precision / len(both)
        candidates = {
            "paper, tuned": np.stack(
                [self.partial_fit(paper, self.X[update], y[update], g).weights for g in STEP_SIZES]
            ),
            "first order": first_order(weights, phi[update], y[update], RATES),
            "SGD on new": sgd(weights, phi[update], y[update], RATES, 0.0, self.seed),
            "SGD on all": sgd(weights, phi[both], y[both], RATES, decay, self.seed),
        }
        return {
            name: held.sum() * negative_log_likelihood(W, phi[held], y[held])
            for name, W in candidates.items()
        }


def updated(start, X, y):
    """Outcome of every arm but hindsight, and of every step size of the paper by its number."""
    steps = {g: start.partial_fit(start.paper, X, y, g) for g in STEP_SIZES}
    reweighted = start.reweighted(X, y)
    return steps, {
        "base": start.unchanged(X, y),
        "default": start.partial_fit(start.base, X, y),
        "memory 50": start.partial_fit(start.remembering, X, y),
        "refit when due": start.refit_when_due(X, y),
        "paper, 10": steps[10],
        "paper, tuned": steps[start.chosen(len(y))["paper, tuned"]],
        "first order": start.first_order(X, y),
        "reweighting": reweighted,
        "reweighting, mean": reweighted._replace(shares=None),
        "SGD on new": start.sgd_on_new(X, y),
        "SGD on all": start.sgd_on_all(X, y),
        "warm refit": start.refit(X, y, warm=True),
        "retrained": start.refit(X, y, warm=False),
    }


def total_variation(proba, other):
    """Half the sum of absolute differences, mean over the rows."""
    return np.abs(proba - other).sum(axis=1).mean() / 2


SHIPPED = ("base", "default", *PAPER, HINDSIGHT, "retrained")


class Test:
    """Test instances, and what each arm says of them."""

    def __init__(self, X, y, start):
        self.X, self.y, self.phi = X, y, augmented(X)
        self.start = start

    @cached_property
    def _under_draws(self):
        """Probabilities under each of the drawn weights, (S, n, C)."""
        return torch.from_numpy(self.phi.astype(np.float32) @ self.start.draws).softmax(2).numpy()

    @cached_property
    def _base_shipped(self):
        return self.start.base.predict_proba(self.X[:N_SHIPPED])

    def probabilities(self, outcome):
        """At the mean of the weights, or averaged over drawn weights."""
        if outcome.shares is None:
            return softmax(self.phi @ outcome.weights, axis=1)
        return np.tensordot(outcome.shares.astype(np.float32), self._under_draws, axes=1)

    def shipped(self, outcome):
        """What ``predict_proba`` says."""
        if outcome.classifier is self.start.base:
            return self._base_shipped
        return outcome.classifier.predict_proba(self.X[:N_SHIPPED])

    def rows(self, steps, outcomes):
        """What is measured of each arm, a dict by its name."""
        proba = {name: self.probabilities(outcome) for name, outcome in outcomes.items()}
        target = proba["retrained"]
        by_step = {g: self.probabilities(outcome) for g, outcome in steps.items()}
        best = min(by_step, key=lambda g: total_variation(by_step[g], target))
        outcomes, proba = outcomes | {HINDSIGHT: steps[best]}, proba | {HINDSIGHT: by_step[best]}
        target_shipped = self.shipped(outcomes["retrained"])
        return {
            name: self._measured(outcomes[name], proba[name], target)
            | self._measured_as_shipped(name, outcomes[name], target_shipped)
            for name in ARMS
        }

    def _measured(self, outcome, proba, target):
        decisions = proba.argmax(axis=1)
        return {
            "accuracy": np.mean(decisions == self.y),
            **scores(proba, self.y),
            "tv": total_variation(proba, target),
            "flips": np.mean(decisions != target.argmax(axis=1)),
            "seconds": outcome.seconds,
            "setting": outcome.setting,
            "lambda": self.start.prior_precision,
        }

    def _measured_as_shipped(self, name, outcome, target):
        found = dict.fromkeys(("nll", "brier", "ece", "tv"), np.nan)
        if name in SHIPPED:
            proba = self.shipped(outcome)
            found |= scores(proba, self.y[:N_SHIPPED])
            if not name.startswith("paper"):  # which predicts otherwise
                found["tv"] = total_variation(proba, target)
        return {f"{measure}_shipped": value for measure, value in found.items()}


def one_run(X, y, run, n_new):
    """What is measured, by the name of the row."""
    torch.set_num_threads(1)
    n_test = min(N_TEST, len(y) // 4)
    rows = np.random.default_rng([run.seed, run.initial]).permutation(len(y))
    test, rest = rows[:n_test], rows[n_test:]
    initial, pool = rest[: run.initial], rest[run.initial : run.initial + N_POOL]
    prior = run.prior if run.prior == "evidence" else float(run.prior)
    start = Start(X[initial], y[initial], y.max() + 1, prior, run.seed)
    tested = Test(X[test], y[test], start)
    top_two = np.sort(softmax(augmented(X[pool]) @ start.weights, axis=1), axis=1)[:, -2:]
    by_margin = pool[np.argsort(top_two[:, 1] - top_two[:, 0], kind="stable")]
    found = {}
    for n in n_new:
        for chosen, new in (("random", pool[:n]), ("margin", by_margin[:n])):
            measured = tested.rows(*updated(start, X[new], y[new]))
            names = [name for name in run.names([n]) if name[4] == chosen]
            found |= {name: measured[name[5]] for name in names}
    return found


def run_what_is_missing(X, y, runs, n_new, path, n_jobs):
    """The table of all rows; each is on disk as soon as its run is done."""
    made_of = fingerprint(
        [X, y, STEP_SIZES, RATES, N_DRAWS, N_EPOCHS, BATCH_SIZE, MOMENTUM, N_FOLDS, MAX_DRIFT]
        + [N_TEST, N_SHIPPED, N_POOL]
    )
    with ResultsFile(path, KEYS) as results:
        for name in [name for run in runs for name in run.names(n_new) if name in results]:
            results.get(name, made_of)  # refuses what was made of something else
        todo = [run for run in runs if not all(name in results for name in run.names(n_new))]
        work = (delayed(one_run)(X, y, run, n_new) for run in todo)
        done = Parallel(n_jobs, return_as="generator_unordered", batch_size=1)(work)
        for found in tqdm(done, desc=path.stem, total=len(todo), mininterval=10):
            for name, measured in found.items():
                if name not in results:
                    row = {measure: round(float(x), 6) for measure, x in measured.items()}
                    results.append(name, made_of, pd.DataFrame([row]))
    return pd.read_csv(path, dtype={"prior": str})


# --- tables -------------------------------------------------------------------------------------


def standard_error(values, strata):
    """Of the mean of values, each stratum having as many in every repetition."""
    values = np.asarray(values, dtype=float)
    strata = pd.Series(np.asarray(strata))
    residuals = values - pd.Series(values).groupby(strata).transform("mean").to_numpy()
    degrees = len(values) - strata.nunique()
    return np.sqrt(np.sum(residuals**2) / degrees / len(values)) if degrees else np.nan


def recovered(accuracy, base, retrained, strata):
    """Ratio of the mean gain to that of the retrained, and its standard error.

    (nan, nan) where the mean gain of the retrained is within two standard errors of zero.
    """
    gain, full = np.asarray(accuracy - base), np.asarray(retrained - base)
    if not full.mean() > 2 * standard_error(full, strata):
        return np.nan, np.nan
    share = gain.mean() / full.mean()
    return share, standard_error(gain - share * full, strata) / full.mean()


def cells(table):
    """Each (prior, chosen, new) with its rows by (initial, seed), a measure and arm a column."""
    for setting, cell in table.groupby(["prior", "chosen", "new"]):
        yield setting, cell.pivot(index=["initial", "seed"], columns="arm").dropna(
            axis=1, how="all"
        )


def summary(table):
    """A row for each setting and arm, over all initial sizes."""
    rows = []
    for (prior, chosen, new), cell in cells(table):
        strata = cell.index.get_level_values("initial")
        accuracy = cell["accuracy"]
        for arm in ARMS:
            share, se_share = recovered(
                accuracy[arm], accuracy["base"], accuracy["retrained"], strata
            )
            means = {m: cell[m, arm].mean() for m in ("nll", "brier", "ece", "flips")}
            shipped = [f"{m}_shipped" for m in ("nll", "ece", "tv")]
            rows.append(
                {"prior": prior, "chosen": chosen, "new": new, "arm": arm}
                | {"accuracy": accuracy[arm].mean(), "se": standard_error(accuracy[arm], strata)}
                | {"recovered": share, "se rec": se_share, **means}
                | {"tv": cell["tv", arm].mean(), "se tv": standard_error(cell["tv", arm], strata)}
                | {m: cell[m, arm].mean() if (m, arm) in cell else np.nan for m in shipped}
                | {"ms": 1000 * cell["seconds", arm].median()}
            )
    return pd.DataFrame(rows)


def tests(table):
    """The default against the paper's: differences of TV and accuracy, p after Holm's."""
    rows, p = [], []
    for (prior, chosen, new), cell in cells(table):
        strata = cell.index.get_level_values("initial")
        for rival in PAPER:
            row = {"prior": prior, "chosen": chosen, "new": new, "against": rival}
            for measure, scale in (("tv", 1), ("accuracy", 100)):
                difference = scale * (cell[measure, "default"] - cell[measure, rival])
                row |= {
                    f"- {measure}": difference.mean(),
                    f"se {measure}": standard_error(difference, strata),
                    f"p {measure}": len(p),
                }
                p.append(wilcoxon(difference).pvalue if difference.any() else 1.0)
            rows.append(row)
    frame, corrected = pd.DataFrame(rows), holm(np.array(p))
    for measure in ("tv", "accuracy"):
        frame[f"p {measure}"] = corrected[frame[f"p {measure}"]]
    return frame


def conclusion(summaries):
    """Over the settings of all data sets, each counting the same."""
    by_setting = summaries.set_index(["data", "prior", "chosen", "new", "arm"])
    ratio = by_setting["tv"].unstack()
    ratio = ratio.div(ratio[HINDSIGHT], axis=0)
    share = by_setting["recovered"].unstack()
    speed = by_setting["ms"].unstack()
    speed = (1 / speed).mul(speed["retrained"], axis=0).drop(columns="base")
    return pd.DataFrame(
        {
            "tv of hindsight's": ratio.mean(),
            "worst": ratio.max(),
            "recovered": share.mean(),
            "of settings": share.count(),
            "times faster": speed.median(),
        }
    ).loc[list(ARMS)]


def record_of_this_command(path, args):
    """Appends the command, the versions and the machine to a JSON list."""
    modules = (laplace_al, np, scipy, sklearn, torch, pd)
    command = ["python", "examples/study/updates.py", "--sets", *args.sets]
    command += ["--priors", *args.priors, "--seeds", str(args.seeds), "--jobs", str(args.jobs)]
    command += ["--quick"] * args.quick + ["--data", "FOLDER"] * (args.data is not None)
    record = {
        "command": " ".join(command),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in modules},
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "threads": torch.get_num_threads(),
        },
    }
    records = json.loads(path.read_text()) if path.exists() else []
    path.write_text(json.dumps([*records, record], indent=1) + "\n")


def cpu_model():
    """Name of the processor, where the system tells it."""
    information = pathlib.Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the files of the other data sets")
    parser.add_argument("--sets", nargs="+", choices=[*DATA_SETS, *VARIANTS])
    parser.add_argument("--priors", nargs="+", default=["evidence", "1.0"], type=prior_named)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--jobs", type=int, default=1, help="more blur the seconds")
    parser.add_argument("--quick", action="store_true", help="digits, 2 seeds, few sizes")
    args = parser.parse_args(arguments)
    if args.quick:
        args.sets, args.seeds = ["digits"], min(args.seeds, 2)
    if args.sets is None:
        args.sets = ["digits"] if args.data is None else list(SETS)
    if args.data is None and args.sets != ["digits"]:
        parser.error(f"--sets {' '.join(args.sets)} needs --data FOLDER")
    return args


def prior_named(text):
    return text if text == "evidence" else str(float(text))


def main(arguments=None):
    args = parsed(arguments)
    torch.set_num_threads(1)
    args.results.mkdir(parents=True, exist_ok=True)
    record_of_this_command(args.results / "updates.json", args)
    summaries = []
    n_new = N_NEW[:2] if args.quick else N_NEW
    for name, (X, y) in load(args.sets, args.data, args.results / "features").items():
        runs = [
            Run(name, prior, initial, seed)
            for seed in range(args.seeds)
            for initial in (SIZES[name][:2] if args.quick else SIZES[name])
            for prior in args.priors
            if (name, initial, prior) not in TOO_SLOW
        ]
        path = args.results / f"updates_{name}.csv"
        table = run_what_is_missing(X, y, runs, n_new, path, args.jobs)
        summaries.append(summary(table).assign(data=name))
        print(f"\n{name}: {table.seed.nunique()} seeds")
        print(summaries[-1].drop(columns="data").round(4).to_string(index=False))
        print(f"\n{name}: the default less the paper's, accuracy in points")
        print(tests(table).round(4).to_string(index=False), flush=True)
    print("\nOver all settings")
    print(conclusion(pd.concat(summaries)).round(2).to_string())


if __name__ == "__main__":
    sys.exit(main())
