"""Which strategy needs the fewest labels, and do updates within a batch help?

``python examples/study/active_learning.py [--data FOLDER] [--sets digits ...] [--batches 10 50]
[--strategies margin ...] [--modes top-b sampled] [--seeds 30] [--results FOLDER] [--quick]``

All runs of a seed start from the same random labels, and their t-th queries choose from the same
1000 candidates, drawn at random from the pool, less what the run has labelled. The last layer is
fitted anew to all labels after each batch. A batch is chosen

- ``top-b``: at once;
- ``sampled``: label by label, with updates by labels that are drawn from the predictions;
- ``predicted``: label by label, with updates by the most probable labels;
- ``updates``: label by label, with updates by the true labels;
- ``refits``: label by label, fitted anew to the true labels.

The last two need an annotator who answers one label at a time. With batches of 1 all modes are the
same. Strategies that look at features only choose the same batch in all modes, and BatchBALD label
by label is BALD. ``look-ahead`` knows all labels: the upper line.

A row of ``active_learning_SET_BATCH.csv`` is one run: its accuracies at the start and after each
batch, the area under that curve (their mean) and the seconds its queries took, updates and refits
within a batch included. The strategy ``all labels`` has the accuracy of a fit to the whole pool,
for the first 5 seeds. Finished runs are not run again.
"""

import argparse
import time
from types import SimpleNamespace

import numpy as np
import torch
from datasets import load
from protocol import Rows, add_arguments, record_command
from sklearn.base import clone
from tqdm.auto import tqdm

from laplace_al import LaplaceUpdateClassifier, strategies
from laplace_al.strategies import SequentialBatch

N_TEST, N_EVALUATION, N_CANDIDATES, N_TARGETS = 2000, 500, 1000, 100
N_INITIAL = {"digits": 20, "mnist": 20, "letter": 50, "letter-mlp": 50, "banking77": 100}
N_BATCHES = {1: 100, 10: 20, 50: 10}
N_SEEDS_OF_ALL_LABELS = 5
MODELS = {
    "digits": {"prior_precision": 0.1},
    "mnist": {"prior_precision": 0.1},
    "letter": {"prior_precision": 0.1},
    "letter-mlp": {"prior_precision": 0.1},
    "banking77": {"prior_precision": 0.02, "covariance": "shared", "calibration": None},
}
MODES = ("top-b", "sampled", "predicted", "updates", "refits")
ONE_MODE = ("random", "BatchBALD", "core-set", "typi-clust", "prob-cover", "look-ahead")


def strategy_named(name, X_target, X_eval, y_eval, y_candidates):
    """A strategy; those that need data get them."""
    power = strategies.PowerSampling(strategies.MarginSampling())
    return {
        "random": lambda: strategies.RandomSampling(),
        "least confident": lambda: strategies.LeastConfidentSampling(),
        "margin": lambda: strategies.MarginSampling(),
        "entropy": lambda: strategies.EntropySampling(),
        "variance": lambda: strategies.VarianceSampling(),
        "BALD": lambda: strategies.BALD(n_samples=50),
        "BatchBALD": lambda: strategies.BatchBALD(n_samples=50, max_configurations=500),
        "BADGE": lambda: strategies.BADGE(),
        "BAIT": lambda: strategies.BAIT(),
        "core-set": lambda: strategies.CoreSet(),
        "typi-clust": lambda: strategies.TypiClust(),
        "prob-cover": lambda: strategies.ProbCover(),
        "EPIG": lambda: strategies.EPIG(X_target, n_samples=30),
        "expected error": lambda: strategies.ExpectedErrorReduction(X_target, max_candidates=50),
        "power of margin": lambda: power,
        "committee": lambda: strategies.QueryByCommittee(),
        "look-ahead": lambda: strategies.LookAhead(X_eval, y_eval, y_candidates),
    }[name]()


STRATEGIES = (
    *("random", "least confident", "margin", "entropy", "variance", "BALD", "BatchBALD", "BADGE"),
    *("BAIT", "core-set", "typi-clust", "prob-cover", "EPIG", "expected error", "power of margin"),
    *("committee", "look-ahead"),
)


def split(y, seed):
    """Rows of the pool, for the evaluation of look-ahead, and for the test."""
    rows = np.random.default_rng(seed).permutation(len(y))
    n_test, n_held = (N_TEST, N_TEST + N_EVALUATION) if len(y) >= 2 * N_TEST else (500, 800)
    return rows[:-n_held], rows[-n_held:-n_test], rows[-n_test:]


class Experiment:
    """A run of one strategy, batch size and mode on one split."""

    def __init__(self, X, y, data_set, batch, strategy, mode, seed):
        self.X, self.y, self.seed = X, y, seed
        self.batch, self.strategy, self.mode = batch, strategy, mode
        self.pool, self.evaluation, self.test = split(y, seed)
        self.targets = np.random.default_rng([seed, 1]).choice(self.pool, N_TARGETS, replace=False)
        self.blank = LaplaceUpdateClassifier(classes=np.unique(y), **MODELS[data_set])
        self.labelled = list(self.pool[: N_INITIAL[data_set]])
        self.seconds = 0.0
        self._fit()

    def _fit(self):
        self.model = clone(self.blank).fit(self.X[self.labelled], self.y[self.labelled])

    def _accuracy(self):
        return self.model.score(self.X[self.test], self.y[self.test])

    def run(self):
        """Its row."""
        accuracies = [self._accuracy()]
        for t in range(N_BATCHES[self.batch]):
            self._learn_a_batch(t)
            self._fit()
            accuracies.append(self._accuracy())
        return {
            "strategy": self.strategy,
            "mode": self.mode,
            "seed": self.seed,
            "area": f"{np.mean(accuracies):.6f}",
            "seconds": self.seconds,
            "accuracies": " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
        }

    def _learn_a_batch(self, t):
        """Choose from the candidates of the t-th query; the model may learn on the way."""
        X, y = self.X, self.y
        n_candidates = min(N_CANDIDATES, len(self.pool))
        rng = np.random.default_rng([self.seed, 2, t])
        candidates = rng.choice(self.pool, n_candidates, replace=False)
        candidates = candidates[~np.isin(candidates, self.labelled)]
        chooser = self._chooser(y[candidates], np.random.RandomState([self.seed, t]))
        n_at_once = 1 if self.mode in ("updates", "refits") else self.batch
        is_open = np.ones(len(candidates), dtype=bool)
        X_candidates = X[candidates]
        for place in range(0, self.batch, n_at_once):
            start = time.perf_counter()
            if place and self.mode == "updates":
                self.model.partial_fit(X[self.labelled[-1:]], y[self.labelled[-1:]])
            elif place and self.mode == "refits":  # the mode is the same from anywhere
                self.model.set_params(warm_start=True).fit(X[self.labelled], y[self.labelled])
            learner = SimpleNamespace(estimator=self.model, query=None, instances_=X[self.labelled])
            chosen = chooser.query(learner, X_candidates, n_at_once, candidates=is_open)
            self.seconds += time.perf_counter() - start
            is_open[chosen] = False
            self.labelled += list(candidates[chosen])

    def _chooser(self, y_candidates, random_state):
        strategy = strategy_named(
            self.strategy,
            self.X[self.targets],
            self.X[self.evaluation],
            self.y[self.evaluation],
            y_candidates,
        )
        if self.mode in ("sampled", "predicted"):
            return SequentialBatch(strategy, labels=self.mode, random_state=random_state)
        return strategy.set_params(random_state=random_state)


def accuracy_of_all_labels(X, y, data_set, seed):
    """The row of a fit to the whole pool."""
    pool, _, test = split(y, seed)
    lean = {"calibration": None, "curvature": "categorical", "covariance": "shared"}  # same mode
    model = LaplaceUpdateClassifier(**{**MODELS[data_set], **lean})
    accuracy = model.fit(X[pool], y[pool]).score(X[test], y[test])
    return {
        "strategy": "all labels",
        "mode": "top-b",
        "seed": seed,
        "area": f"{accuracy:.6f}",
        "seconds": 0.0,
        "accuracies": f"{accuracy:.4f}",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, seeds=30)
    parser.add_argument("--sets", nargs="+", default=["digits"], choices=MODELS)
    parser.add_argument("--batches", nargs="+", type=int, default=[10], choices=N_BATCHES)
    parser.add_argument("--modes", nargs="+", default=["top-b", "sampled"], choices=MODES)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    args = parser.parse_args()
    if args.quick:
        args.sets, args.batches, args.seeds = ["digits"], [10], 2
        args.strategies, args.modes = ("random", "margin"), MODES
    torch.set_num_threads(1)
    record_command(args.results / "active_learning.json")
    arms = [
        (strategy, mode)
        for strategy in args.strategies
        for mode in args.modes
        if mode == "top-b" or strategy not in ONE_MODE
    ]
    for name in args.sets:
        X, y = load(name, args.data)
        for batch in args.batches:
            path = args.results / f"active_learning_{name}_{batch}.csv"
            rows = Rows(path, ["strategy", "mode", "seed"])
            for seed in range(min(args.seeds, N_SEEDS_OF_ALL_LABELS)):
                if ("all labels", "top-b", seed) not in rows:
                    rows.append([accuracy_of_all_labels(X, y, name, seed)])
            runs = [(*arm, seed) for seed in range(args.seeds) for arm in arms]
            todo = [run for run in runs if run not in rows]
            for run in tqdm(todo, desc=f"{name} {batch}", mininterval=10):
                rows.append([Experiment(X, y, name, batch, *run).run()])


if __name__ == "__main__":
    main()
