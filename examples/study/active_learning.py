"""Which strategy needs the fewest labels, and do updates within a batch help?

``python examples/study/active_learning.py [--data FOLDER] [--sets digits ...] [--batches 10 50]
[--modes top-b sampled] [--seeds 20] [--results FOLDER]``

All runs of a seed start from the same random labels, and their t-th queries choose from the same
1000 candidates, drawn at random from the pool, less what the run has labelled. The last layer is
fitted anew to all labels after each batch. A batch is chosen

- ``top-b``: at once;
- ``sampled``: label by label, with updates by labels that are drawn from the predictions;
- ``predicted``: label by label, with updates by the most probable labels;
- ``updates``: label by label, with updates by the true labels;
- ``refits``: label by label, fitted anew to the true labels.

The last two need an annotator who answers one label at a time. Strategies that look at features
only choose the same batch in all modes, and BatchBALD label by label is BALD. ``look-ahead`` knows
all labels: the upper line. ``TOO_SLOW`` names what is left out, minutes a query.

A row of ``active_learning_SET.csv`` is one run: its accuracies at the start and after each batch,
the area under that curve (their mean) and the seconds its queries took. Runs that the file holds
are not run again. Then the table is printed: areas, and differences in points of accuracy to random
labels and to top-b of the same strategy, with standard errors over the seeds and p-values of the
paired Wilcoxon test after Holm's correction, over all that is compared on a data set.

Without ``--data`` only digits is run; see ``datasets.py`` for the files.
"""

import argparse
import pathlib
import time
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from datasets import DATA_SETS, load
from joblib import Parallel, delayed
from scipy.stats import wilcoxon
from sklearn.base import clone
from sklearn.decomposition import PCA
from tqdm.auto import tqdm

from laplace_al import LaplaceUpdateClassifier, strategies
from laplace_al.strategies import SequentialBatch

N_TEST, N_EVALUATION, N_CANDIDATES, N_TARGETS = 2000, 500, 1000, 100
N_INITIAL = {"digits": 20, "mnist": 20, "letter": 50, "banking77": 100}
N_BATCHES = {1: 100, 10: 20, 50: 10}
N_COMPONENTS = {"banking77": 128}  # principal ones, for speed
MODELS = {
    "digits": {"prior_precision": 0.1},
    "mnist": {"prior_precision": 0.1},
    "letter": {"prior_precision": 0.1, "covariance": "shared", "calibration": None},
    "banking77": {"prior_precision": 0.02, "covariance": "shared", "calibration": None},
}
MODES = ("top-b", "sampled", "predicted", "updates", "refits")
ONE_MODE = ("random", "BatchBALD", "core-set", "typi-clust", "prob-cover", "look-ahead")
TOO_SLOW = [  # data set, batch, strategy, mode
    ("banking77", 10, "EPIG", "sampled"),
    ("banking77", 50, "EPIG", "sampled"),
    ("banking77", 50, "BatchBALD", "top-b"),
]


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


def one_run(X, y, data_set, batch, strategy, mode, seed):
    """Accuracies (n_batches + 1,) of a run, and the seconds of its queries."""
    torch.set_num_threads(1)
    rows = np.random.default_rng(seed).permutation(len(y))
    test, evaluation = rows[-N_TEST:], rows[-N_TEST - N_EVALUATION : -N_TEST]
    pool = rows[: -N_TEST - N_EVALUATION]
    if len(y) < 2 * N_TEST:  # digits
        test, evaluation, pool = rows[-500:], rows[-800:-500], rows[:-800]
    labelled = list(pool[: N_INITIAL[data_set]])
    targets = np.random.default_rng([seed, 1]).choice(pool, N_TARGETS, replace=False)
    blank = LaplaceUpdateClassifier(classes=np.unique(y), **MODELS[data_set])
    model = clone(blank).fit(X[labelled], y[labelled])
    accuracies, seconds = [model.score(X[test], y[test])], 0.0
    for t in range(N_BATCHES[batch]):
        candidates = np.random.default_rng([seed, 2, t]).choice(pool, N_CANDIDATES, replace=False)
        candidates = candidates[~np.isin(candidates, labelled)]
        chooser = strategy_named(
            strategy, X[targets], X[evaluation], y[evaluation], y[candidates]
        ).set_params(random_state=np.random.RandomState([seed, t]))
        if mode in ("sampled", "predicted"):
            chooser = SequentialBatch(
                chooser.set_params(random_state=None),
                labels=mode,
                random_state=chooser.random_state,
            )
        n_at_once = 1 if mode in ("updates", "refits") else batch
        is_open = np.ones(len(candidates), dtype=bool)
        for _ in range(batch // n_at_once):
            learner = SimpleNamespace(estimator=model, query=None, instances_=X[labelled])
            start = time.perf_counter()
            chosen = chooser.query(learner, X[candidates], n_at_once, candidates=is_open)
            seconds += time.perf_counter() - start
            is_open[chosen] = False
            labelled += list(candidates[chosen])
            if mode == "updates":
                model.partial_fit(X[candidates[chosen]], y[candidates[chosen]])
            elif mode == "refits":
                model = clone(blank).fit(X[labelled], y[labelled])
        model = clone(blank).fit(X[labelled], y[labelled])
        accuracies.append(model.score(X[test], y[test]))
    return {
        "batch": batch,
        "strategy": strategy,
        "mode": mode,
        "seed": seed,
        "area": round(np.mean(accuracies), 6),
        "seconds": round(seconds, 3),
        "accuracies": " ".join(f"{accuracy:.4f}" for accuracy in accuracies),
    }


def run_what_is_missing(X, y, data_set, arms, n_seeds, path, n_jobs):
    """Appends each run to the file as soon as it is done."""
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["seed"])
    done = set()
    if len(known):
        done = set(zip(known.batch, known.strategy, known["mode"], known.seed, strict=True))
    todo = [(*arm, seed) for seed in range(n_seeds) for arm in arms if (*arm, seed) not in done]
    work = (delayed(one_run)(X, y, data_set, *task) for task in todo)
    runs = Parallel(n_jobs, return_as="generator_unordered", batch_size=1)(work)
    for run in tqdm(runs, desc=data_set, total=len(todo), mininterval=10):
        pd.DataFrame([run]).to_csv(path, mode="a", header=not path.exists(), index=False)
    table = pd.read_csv(path)
    return table.sort_values(["batch", "strategy", "mode", "seed"])


def holm(p):
    """p-values after Holm's correction, (n,)."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1)
    return corrected


def summary(table):
    """A row for each batch size, strategy and mode."""
    areas = table.pivot_table(index="seed", columns=["batch", "strategy", "mode"], values="area")
    seconds = table.groupby(["batch", "strategy", "mode"]).seconds.mean()
    rows, tests = [], []
    for batch, strategy, mode in areas.columns:
        area = areas[batch, strategy, mode]
        row = {"batch": batch, "strategy": strategy, "mode": mode, "area": area.mean()}
        row["s/query"] = seconds[batch, strategy, mode] / N_BATCHES[batch]
        for name, other in [
            ("random", (batch, "random", "top-b")),
            ("top-b", (batch, strategy, "top-b")),
        ]:
            if other in areas and other != (batch, strategy, mode):
                difference = 100 * (area - areas[other]).dropna()
                row[f"- {name}"] = difference.mean()
                row[f"se {name}"] = difference.std(ddof=1) / len(difference) ** 0.5
                tests.append((len(rows), f"p {name}", wilcoxon(difference).pvalue))
        rows.append(row)
    corrected = holm(np.array([p for _, _, p in tests]))
    for (row, column, _), p in zip(tests, corrected, strict=True):
        rows[row][column] = p
    columns = ["batch", "strategy", "mode", "area", "- random", "se random", "p random"]
    frame = pd.DataFrame(rows, columns=[*columns, "- top-b", "se top-b", "p top-b", "s/query"])
    return frame.sort_values(["batch", "area"], ascending=[True, False])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="folder with the files of the other data sets")
    parser.add_argument("--sets", nargs="+", default=["digits"], choices=DATA_SETS)
    parser.add_argument("--batches", nargs="+", type=int, default=[10], choices=N_BATCHES)
    parser.add_argument("--modes", nargs="+", default=["top-b", "sampled"], choices=MODES)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES, choices=STRATEGIES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    arms = [
        (batch, strategy, mode)
        for batch in args.batches
        for strategy in args.strategies
        for mode in args.modes
        if mode == "top-b" or strategy not in ONE_MODE
    ]
    for name, (X, y) in load(args.sets, args.data).items():
        if name in N_COMPONENTS:
            X = PCA(N_COMPONENTS[name], random_state=0).fit_transform(X)
        possible = [arm for arm in arms if (name, *arm) not in TOO_SLOW]
        path = args.results / f"active_learning_{name}.csv"
        table = run_what_is_missing(X, y, name, possible, args.seeds, path, args.jobs)
        print(f"\n{name}: {table.seed.nunique()} seeds")
        print(summary(table).round(3).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
