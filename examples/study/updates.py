"""How close does an update come to retraining, and what does it cost?

``python examples/study/updates.py [--data FOLDER] [--sets digits ...] [--priors evidence 1.0]
[--sizes 10 50 ...] [--seeds 10] [--results FOLDER] [--quick]``

A last layer is fitted to some labels and learns 1, 10 or 100 new ones: drawn at random, or chosen
by their margins under that very model, from a pool of 1000. The prior precision is the one that the
evidence of the initial labels picks, or 1, the default. All arms start from the same fit:

- ``base``: no update;
- ``default``: ours, ``partial_fit`` with nothing set, no label kept;
- ``refit when due``: the same, and a refit where the update has drifted more than one posterior
  standard deviation from it, as ``ActiveLearner(refit_every="auto")`` does;
- ``paper 10``: the paper's own method with its step size of 10;
- ``paper tuned``: the step size of 1, 3, 5, 10, 20 that cross-validation picks;
- ``paper hindsight``: of these, the one that comes closest to retraining in that very run: an
  upper line, nobody can choose it;
- ``first order``: one step W + rate phi (y - p)^T for each label;
- ``reweighting``: 300 weights drawn from the paper's posterior, weighted with the likelihood of the
  new labels; its predictions are averaged;
- ``SGD on new``, ``SGD on all``: 10 epochs on the new labels, or on all (with the prior), in
  batches of 32 with momentum 0.9, the rate falling to 0;
- ``warm refit``: the default fitted to all labels, from where it was (``warm_start``);
- ``retrained``: the default fitted to all labels from zero, what all others are measured against.

Step sizes of the paper and learning rates (0.003 to 10, half decades) are chosen for each number of
new labels by cross-validation on the initial labels: of five parts, three are fitted, the first
labels of the fourth, as many as there will be new ones, are the update, and the smallest
negative log-likelihood of the fifth wins, over five turns. Its time does not count, nor that of
drawing the weights.

A row of ``updates_SET_PRIOR.csv`` is one arm in one run: ``accuracy``, ``nll`` (nats), ``brier``
and ``ece`` (15 bins) on 1500 test instances, ``tv`` and ``flips`` (total variation to the
retrained, share of other decisions), all at the mean of the weights, so that updates are compared
and not predictives; ``ms`` of the update; and ``setting``: the prior precision of ``base``, the
step size or learning rate, the drift of ``refit when due``, the effective number of the weights
that are reweighted. Finished runs are not run again.
"""

import argparse
import copy
import time
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from datasets import DATA_SETS, load
from heads import (
    augmented,
    first_order,
    negative_log_likelihood,
    sgd,
    shares_of,
    weights_of,
)
from measures import scores, total_variation
from protocol import Rows, add_arguments, record_command
from scipy.special import softmax
from sklearn.base import clone
from tqdm.auto import tqdm

from laplace_al import LaplaceUpdateClassifier

STEP_SIZES = (1, 3, 5, 10, 20)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
N_DRAWS = 300
N_FOLDS = 5
MAX_DRIFT = 1.0  # posterior standard deviations
N_TEST, N_POOL = 1500, 1000
N_NEW = (1, 10, 100)
SIZES = {  # initial labels
    "digits": (10, 50, 200),
    "mnist": (10, 50, 200, 1000),
    "mnist-cnn": (10, 50, 200, 1000),
    "letter": (30, 100, 300),
    "letter-mlp": (30, 100, 300, 1000),
    "banking77": (100, 300),
}


class Outcome(NamedTuple):
    """What an arm makes of new labels: weights (D + 1, C), and how."""

    weights: np.ndarray
    seconds: float = 0.0
    setting: float = np.nan
    shares: np.ndarray | None = None  # of drawn weights, whose predictions are averaged


class Start:
    """Fits to the initial labels (n, D), (n,), from which the arms go on.

    Each arm is a method that takes features and labels of new instances and gives an Outcome.
    """

    def __init__(self, X, y, n_classes, prior, seed):
        self.X, self.y, self.seed = X, y, seed
        base = LaplaceUpdateClassifier(prior_precision=prior, classes=np.arange(n_classes))
        self.base = base.fit(X, y)
        self.prior_precision = base.prior_precision_
        base.set_params(prior_precision=self.prior_precision, warm_start=True)
        self.paper = copy.copy(base).set_params(
            covariance="shared", curvature="gaussian", update="newton", calibration=None
        )
        self.paper.fit(X, y)
        self.weights = weights_of(base)

    @cached_property
    def draws(self):
        """Weights drawn from the paper's posterior, (S, D + 1, C)."""
        generator = torch.Generator().manual_seed(self.seed)
        return self.paper.posterior_.sample(N_DRAWS, generator).float().numpy()

    def outcomes(self, X, y):
        """What every arm makes of new labels, by its name; and the paper's by step size."""
        chosen = self.chosen(len(y))
        steps = {size: self._paper_update(self.paper, X, y, size) for size in STEP_SIZES}
        return {
            "base": Outcome(self.weights, setting=self.prior_precision),
            "default": self._default(X, y),
            "refit when due": self._refit_when_due(X, y),
            "paper 10": steps[10],
            "paper tuned": steps[chosen["paper tuned"]],
            "first order": self._first_order(X, y, chosen["first order"]),
            "reweighting": self._reweighting(X, y),
            "SGD on new": self._sgd_on_new(X, y, chosen["SGD on new"]),
            "SGD on all": self._sgd_on_all(X, y, chosen["SGD on all"]),
            "warm refit": self._refit(copy.copy(self.base), X, y),
            "retrained": self._refit(clone(self.base), X, y),
        }, steps

    def _default(self, X, y):
        clf = copy.copy(self.base)  # an update binds new attributes
        seconds = timed(lambda: clf.partial_fit(X, y))
        return Outcome(weights_of(clf), seconds)

    def _refit_when_due(self, X, y):
        clf, everything = copy.copy(self.base), self._all_with(X, y)
        start = time.perf_counter()
        drift = clf.partial_fit(X, y).newton_decrement(*everything)
        if drift > MAX_DRIFT:
            clf.fit(*everything)
        return Outcome(weights_of(clf), time.perf_counter() - start, drift)

    def _paper_update(self, paper, X, y, step_size):
        clf = copy.copy(paper).set_params(step_size=float(step_size))
        seconds = timed(lambda: clf.partial_fit(X, y))
        return Outcome(weights_of(clf), seconds, step_size)

    def _refit(self, clf, X, y):
        everything = self._all_with(X, y)
        seconds = timed(lambda: clf.fit(*everything))
        return Outcome(weights_of(clf), seconds)

    def _first_order(self, X, y, rate):
        start = time.perf_counter()
        weights = first_order(self.weights, augmented(X), y, [rate])[0]
        return Outcome(weights, time.perf_counter() - start, rate)

    def _reweighting(self, X, y):
        draws = self.draws
        start = time.perf_counter()
        shares = shares_of(draws, augmented(X).astype(draws.dtype), y)
        seconds = time.perf_counter() - start
        return Outcome(self.weights, seconds, 1 / np.sum(shares**2), shares)

    def _sgd_on_new(self, X, y, rate):
        start = time.perf_counter()
        weights = sgd(self.weights, augmented(X), y, [rate], 0.0, self.seed)[0]
        return Outcome(weights, time.perf_counter() - start, rate)

    def _sgd_on_all(self, X, y, rate):
        X, y = self._all_with(X, y)
        start = time.perf_counter()
        decay = self.prior_precision / len(y)
        weights = sgd(self.weights, augmented(X), y, [rate], decay, self.seed)[0]
        return Outcome(weights, time.perf_counter() - start, rate)

    def _all_with(self, X, y):
        return np.concatenate([self.X, X]), np.concatenate([self.y, y])

    def chosen(self, n_new):
        """Step size and learning rates with the smallest loss on left-out initial labels."""
        losses = [self._losses(fold, n_new) for fold in self._folds]
        settings = {"paper tuned": STEP_SIZES}
        settings |= dict.fromkeys(("first order", "SGD on new", "SGD on all"), RATES)
        return {
            arm: tried[np.sum([loss[arm] for loss in losses], axis=0).argmin()]
            for arm, tried in settings.items()
        }

    @cached_property
    def _folds(self):
        """The paper's method fitted to three parts; rows of these, of the fourth and the fifth."""
        part = np.arange(len(self.y)) % N_FOLDS
        folds = []
        for k in range(N_FOLDS):
            held, update = part == k, part == (k + 1) % N_FOLDS
            rest = ~held & ~update
            paper = copy.copy(self.paper).fit(self.X[rest], self.y[rest])
            folds.append((paper, *map(np.flatnonzero, (rest, update, held))))
        return folds

    def _losses(self, fold, n_new):
        """Sum of the loss over the labels of the fifth part, for each setting of each arm."""
        paper, rest, update, held = fold
        update = update[:n_new]
        weights, phi, y = weights_of(paper), augmented(self.X), self.y
        both = np.r_[rest, update]
        decay = self.prior_precision / len(both)
        updates = [self._paper_update(paper, self.X[update], y[update], g) for g in STEP_SIZES]
        tried = {
            "paper tuned": np.stack([outcome.weights for outcome in updates]),
            "first order": first_order(weights, phi[update], y[update], RATES),
            "SGD on new": sgd(weights, phi[update], y[update], RATES, 0.0, self.seed),
            "SGD on all": sgd(weights, phi[both], y[both], RATES, decay, self.seed),
        }
        return {
            arm: len(held) * negative_log_likelihood(W, phi[held], y[held])
            for arm, W in tried.items()
        }


def timed(function):
    """Seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def probabilities(start, outcome, phi):
    """Of the test instances (n, C): at the mean of the weights, or averaged over drawn weights."""
    if outcome.shares is None:
        return softmax(phi @ outcome.weights, axis=1)
    proba = 0.0
    for share, weights in zip(outcome.shares, start.draws, strict=True):
        if share > 1e-6:
            proba = proba + share * softmax(phi @ weights, axis=1)
    return proba / proba.sum(axis=1, keepdims=True)


def measured(start, X, y, phi, y_test):
    """Outcome of each arm and how far it is from retraining, dicts."""
    outcomes, steps = start.outcomes(X, y)
    target = probabilities(start, outcomes["retrained"], phi)
    outcomes["paper hindsight"] = min(
        steps.values(),
        key=lambda outcome: total_variation(probabilities(start, outcome, phi), target),
    )
    rows = []
    for arm, outcome in outcomes.items():
        proba = probabilities(start, outcome, phi)
        rows.append(
            {"arm": arm}
            | scores(proba, y_test)
            | {
                "tv": total_variation(proba, target),
                "flips": np.mean(proba.argmax(axis=1) != target.argmax(axis=1)),
                "ms": 1000 * outcome.seconds,
                "setting": outcome.setting,
            }
        )
    return rows


def one_run(X, y, initial, prior, n_new, seed):
    """Rows of a run: every arm, with new labels drawn at random and chosen by margin."""
    n_test = min(N_TEST, len(y) // 4)
    rows = np.random.default_rng([seed, initial]).permutation(len(y))
    test, rest = rows[:n_test], rows[n_test:]
    known, pool = rest[:initial], rest[initial : initial + N_POOL]
    start = Start(X[known], y[known], y.max() + 1, prior, seed)
    phi = augmented(X[test])
    top_two = np.sort(softmax(augmented(X[pool]) @ start.weights, axis=1), axis=1)[:, -2:]
    by_margin = pool[np.argsort(top_two[:, 1] - top_two[:, 0], kind="stable")]
    found = []
    for n in n_new:
        for chosen, new in (("random", pool[:n]), ("margin", by_margin[:n])):
            setting = {"initial": initial, "new": n, "chosen": chosen, "seed": seed}
            found += [setting | row for row in measured(start, X[new], y[new], phi, y[test])]
    return found


def prior_named(text):
    return text if text == "evidence" else float(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, seeds=10)
    parser.add_argument("--sets", nargs="+", choices=DATA_SETS, default=["digits"])
    parser.add_argument("--priors", nargs="+", default=["evidence", 1.0], type=prior_named)
    parser.add_argument("--sizes", nargs="+", type=int, help="initial labels; else see SIZES")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record_command(args.results / "updates.json")
    for name in ["digits"] if args.quick else args.sets:
        X, y = load(name, args.data)
        sizes, n_new, n_seeds = args.sizes or SIZES[name], N_NEW, args.seeds
        if args.quick:
            sizes, n_new, n_seeds = sizes[:2], N_NEW[:2], 2
        for prior in args.priors:
            rows = Rows(args.results / f"updates_{name}_{prior}.csv", ["initial", "seed"])
            runs = [(initial, seed) for seed in range(n_seeds) for initial in sizes]
            todo = [run for run in runs if run not in rows]
            for initial, seed in tqdm(todo, desc=f"{name} {prior}", mininterval=10):
                rows.append(one_run(X, y, initial, prior, n_new, seed))


if __name__ == "__main__":
    main()
