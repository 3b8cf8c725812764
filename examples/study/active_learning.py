"""Which strategy needs the fewest labels, and do updates within a batch help?

``python examples/study/active_learning.py [--data FOLDER] [--sets digits ...] [--batches 10 50]
[--strategies margin ...] [--modes top-b sampled] [--seeds 30] [--results FOLDER] [--quick]``

All runs of a seed start from the same random labels, and choose from the same instances: in a set
whose name ends in ``-K`` or ``-cold``, from a pool of up to 2000, with a classifier as it comes. It
starts from as many random labels as there are classes, or from none; before there is a label,
strategies that need a model choose at random. In a set with ``imbalanced`` in its name, the rarest
class has a twentieth of the instances of the most frequent one, and the balanced accuracy counts.
In all other sets, the t-th queries choose from 1000 candidates drawn at random from the pool, less
what the run has labelled. The last layer is fitted anew to all labels after each batch. A batch is
chosen

- ``top-b``: at once;
- ``sampled``: label by label, with updates by labels that are drawn from the predictions;
- ``predicted``: label by label, with updates by the most probable labels;
- ``expected``: label by label, with updates that only know that there will be a label;
- ``updates``: label by label, with updates by the true labels;
- ``refits``: label by label, fitted anew to the true labels.

The last two need an annotator who answers one label at a time. With batches of 1 all modes are the
same. Strategies that look at features only choose the same batch in all modes, and BatchBALD label
by label is BALD. ``look-ahead`` knows all labels: the upper line. It chooses among 100 batches,
``look-ahead mixed`` also among the batches of eight strategies, and ``look-ahead greedy`` searches.

A row of ``active_learning_SET_BATCH.csv`` is one run: its accuracies at the start and after each
batch, the area under that curve (their mean) and the seconds its queries took, updates and refits
within a batch included. The strategy ``all labels`` has the accuracy of a fit to the whole pool,
for the first 5 seeds. Finished runs are not run again.
"""

import argparse
import time
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import load
from protocol import Rows, add_arguments, record_command
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from tqdm.auto import tqdm

from laplace_al import LaplaceUpdateClassifier, strategies
from laplace_al.strategies import SequentialBatch

N_TEST, N_EVALUATION, N_TARGETS = 2000, 500, 100
N_BATCHES = {1: 100, 10: 20, 50: 10}
N_SEEDS_OF_ALL_LABELS = 5
RAREST = 1 / 20  # of the most frequent class, in an imbalanced pool


class Setting(NamedTuple):
    """What a run of a set starts from and chooses from."""

    data: str
    n_initial: int
    params: dict[str, Any] = {}
    n_candidates: int = 2000
    n_pool: int = 2000
    is_imbalanced: bool = False


N_CLASSES = {"digits": 10, "mnist": 10, "letter": 26, "letter-mlp": 26, "banking77": 77}
SETTINGS = {
    f"{data}{kind}-{start}": Setting(data, n_initial, is_imbalanced=kind != "")
    for data, n_classes in N_CLASSES.items()
    for kind in ("", "-imbalanced")
    for start, n_initial in (("K", n_classes), ("cold", 0))
    if kind == "" or data in ("digits", "banking77")
}
SETTINGS |= {
    data: Setting(data, n_initial, params, n_candidates=1000, n_pool=20_000)
    for data, n_initial, params in (
        ("digits", 20, {"prior_precision": 0.1}),
        ("mnist", 20, {"prior_precision": 0.1}),
        ("letter", 50, {"prior_precision": 0.1}),
        ("letter-mlp", 50, {"prior_precision": 0.1}),
        (
            *("banking77", 100),
            {"prior_precision": 0.02, "covariance": "shared", "calibration": None},
        ),
    )
}
MODES = ("top-b", "sampled", "predicted", "expected", "updates", "refits")
ONE_MODE = (
    *("random", "BatchBALD", "core-set", "typi-clust", "prob-cover", "max herding"),
    *("look-ahead", "look-ahead mixed", "look-ahead greedy"),
)


def strategy_named(name, X_target, known):
    """A strategy; those that need data get them."""
    if name == "EPIG":
        return strategies.EPIG(X_target)
    if name == "expected error":
        return strategies.ExpectedErrorReduction(X_target, max_candidates=50)
    if name == "look-ahead":
        return strategies.LookAhead(*known)
    if name == "look-ahead greedy":
        return strategies.LookAhead(*known, search="greedy")
    if name == "look-ahead mixed":
        return strategies.LookAhead(*known, candidates=[OF_NO_DATA[other] for other in MIXED])
    return clone(OF_NO_DATA[name])


OF_NO_DATA = {
    "random": strategies.RandomSampling(),
    "least confident": strategies.LeastConfidentSampling(),
    "margin": strategies.MarginSampling(),
    "entropy": strategies.EntropySampling(),
    "variance": strategies.VarianceSampling(),
    "BALD": strategies.BALD(n_samples=50),
    "BatchBALD": strategies.BatchBALD(n_samples=50, max_configurations=500),
    "BADGE": strategies.BADGE(),
    "BAIT": strategies.BAIT(),
    "core-set": strategies.CoreSet(),
    "typi-clust": strategies.TypiClust(),
    "prob-cover": strategies.ProbCover(),
    "max herding": strategies.MaxHerding(),
    "uncertainty herding": strategies.UncertaintyHerding(),
    "power of margin": strategies.PowerSampling(strategies.MarginSampling()),
    "committee": strategies.QueryByCommittee(),
}
MIXED = (
    *("uncertainty herding", "max herding", "BAIT", "BADGE", "typi-clust", "prob-cover"),
    *("margin", "entropy"),
)
STRATEGIES = (
    *OF_NO_DATA,
    *("EPIG", "expected error", "look-ahead", "look-ahead mixed", "look-ahead greedy"),
)


def split(y, seed):
    """Rows of the pool, for the evaluation of look-ahead, and for the test."""
    rows = np.random.default_rng(seed).permutation(len(y))
    n_test, n_held = (N_TEST, N_TEST + N_EVALUATION) if len(y) >= 2 * N_TEST else (500, 800)
    return rows[:-n_held], rows[-n_held:-n_test], rows[-n_test:]


def thinned(rows, y, rng):
    """Rows of which the classes, in random order, keep a share that falls to ``RAREST``."""
    classes = rng.permutation(np.unique(y))
    shares = dict(zip(classes, RAREST ** np.linspace(0, 1, len(classes)), strict=True))
    place = pd.Series(y[rows]).groupby(y[rows]).cumcount().to_numpy()  # within its class
    n_kept = np.array([max(2, round(shares[k] * np.sum(y[rows] == k))) for k in y[rows]])
    return rows[place < n_kept]


class Experiment:
    """A run of one strategy, batch size and mode on one split."""

    def __init__(self, X, y, setting, batch, strategy, mode, seed):
        self.X, self.y, self.setting, self.seed = X, y, setting, seed
        self.batch, self.strategy, self.mode = batch, strategy, mode
        self.pool, self.evaluation, self.test = split(y, seed)
        if setting.is_imbalanced:
            self.pool = thinned(self.pool, y, np.random.default_rng([seed, 3]))
        self.pool = self.pool[: setting.n_pool]
        self.targets = np.random.default_rng([seed, 1]).choice(self.pool, N_TARGETS, replace=False)
        self.blank = LaplaceUpdateClassifier(classes=np.unique(y), **setting.params)
        self.labelled = list(self.pool[: setting.n_initial])
        self.seconds = 0.0
        self._fit()

    def _fit(self):
        self.model = clone(self.blank)
        if self.labelled:
            self.model.fit(self.X[self.labelled], self.y[self.labelled])

    def _accuracy(self):
        if not self.labelled:
            return 1 / len(self.blank.classes)
        predicted, y = self.model.predict(self.X[self.test]), self.y[self.test]
        score = balanced_accuracy_score if self.setting.is_imbalanced else accuracy_score
        return score(y, predicted)

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
        n_candidates = min(self.setting.n_candidates, len(self.pool))
        rng = np.random.default_rng([self.seed, 2, t])
        candidates = rng.choice(self.pool, n_candidates, replace=False)
        candidates = candidates[~np.isin(candidates, self.labelled)]
        chooser = self._chooser(y[candidates], np.random.RandomState([self.seed, t]))
        n_at_once = 1 if self.mode in ("updates", "refits") else self.batch
        is_open = np.ones(len(candidates), dtype=bool)
        X_candidates = X[candidates]
        for place in range(0, self.batch, n_at_once):
            start = time.perf_counter()
            if place and self.mode == "updates" and is_fitted(self.model):
                self.model.partial_fit(X[self.labelled[-1:]], y[self.labelled[-1:]])
            elif place:  # the mode is the same from anywhere
                self.model.set_params(warm_start=True).fit(X[self.labelled], y[self.labelled])
            learner = SimpleNamespace(estimator=self.model, query=None, instances_=X[self.labelled])
            chosen = query(chooser, learner, X_candidates, n_at_once, is_open)
            self.seconds += time.perf_counter() - start
            is_open[chosen] = False
            self.labelled += list(candidates[chosen])

    def _chooser(self, y_candidates, random_state):
        known = self.X[self.evaluation], self.y[self.evaluation], y_candidates
        strategy = strategy_named(self.strategy, self.X[self.targets], known)
        if self.mode in ("sampled", "predicted", "expected"):
            return SequentialBatch(strategy, labels=self.mode, random_state=random_state)
        return strategy.set_params(random_state=random_state)


def is_fitted(model):
    return hasattr(model, "classes_")


def query(strategy, learner, X, n_instances, is_open):
    """Choose by a strategy, or at random if it needs a model and there is none yet."""
    try:
        return strategy.query(learner, X, n_instances, candidates=is_open)
    except NotFittedError:
        at_random = strategies.RandomSampling(random_state=strategy.random_state)
        return at_random.query(learner, X, n_instances, candidates=is_open)


def accuracy_of_all_labels(X, y, setting, seed):
    """The row of a fit to the whole pool."""
    run = Experiment(X, y, setting, 1, "random", "top-b", seed)
    lean = {"calibration": None, "curvature": "categorical", "covariance": "shared"}  # same mode
    run.blank.set_params(**lean)
    run.labelled = list(run.pool)
    run._fit()
    accuracy = run._accuracy()
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
    parser.add_argument("--sets", nargs="+", default=["digits-K"], choices=SETTINGS)
    parser.add_argument("--batches", nargs="+", type=int, default=[10], choices=N_BATCHES)
    parser.add_argument("--modes", nargs="+", default=["top-b", "sampled"], choices=MODES)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    args = parser.parse_args()
    if args.quick:
        args.sets, args.batches, args.seeds = ["digits-imbalanced-cold"], [10], 2
        args.strategies, args.modes = ("random", "margin", "uncertainty herding"), MODES
    torch.set_num_threads(1)
    record_command(args.results / "active_learning.json")
    arms = [
        (strategy, mode)
        for strategy in args.strategies
        for mode in args.modes
        if mode == "top-b" or strategy not in ONE_MODE
    ]
    for name in args.sets:
        setting = SETTINGS[name]
        X, y = load(setting.data, args.data)
        for batch in args.batches:
            path = args.results / f"active_learning_{name}_{batch}.csv"
            rows = Rows(path, ["strategy", "mode", "seed"])
            for seed in range(min(args.seeds, N_SEEDS_OF_ALL_LABELS)):
                if ("all labels", "top-b", seed) not in rows:
                    rows.append([accuracy_of_all_labels(X, y, setting, seed)])
            runs = [(*arm, seed) for seed in range(args.seeds) for arm in arms]
            todo = [run for run in runs if run not in rows]
            for run in tqdm(todo, desc=f"{name} {batch}", mininterval=10):
                rows.append([Experiment(X, y, setting, batch, *run).run()])


if __name__ == "__main__":
    main()
