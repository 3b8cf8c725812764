"""What the scripts of the study share: rows on disk, a record of the commands, tests in pairs."""

import datetime
import json
import os
import pathlib
import platform
import sys

import numpy as np
import pandas as pd
import scipy
import sklearn
import torch
from scipy.stats import t as student
from scipy.stats import ttest_1samp, wilcoxon

import laplace_al


class Rows:
    """A tidy CSV file to which runs are appended as soon as they are done.

    A run is known by the columns in ``keys`` and is not run again: to begin anew, delete the file.
    """

    def __init__(self, path, keys):
        self.path, self.keys = path, list(keys)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._done = set()
        if path.exists():
            _drop_unfinished_line(path)
            known = pd.read_csv(path)[self.keys]
            self._done = set(map(_named, known.itertuples(index=False, name=None)))

    def __contains__(self, key):
        return _named(key) in self._done

    def append(self, rows):
        """Write a run, a list of dicts; floats keep four digits."""
        frame = pd.DataFrame(rows)
        text = frame.to_csv(
            index=False, header=not self._done, float_format="%.4g", lineterminator="\n"
        )
        with self.path.open("a") as file:
            file.write(text)
        written = frame[self.keys].itertuples(index=False, name=None)
        self._done |= set(map(_named, written))


def _named(key):
    """The key as texts; a float that is an integer is the same as that."""
    return tuple(part if isinstance(part, str) else f"{part:.4g}" for part in key)


def _drop_unfinished_line(path):
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(b"\n") + 1])


def record_command(path):
    """Add this command, the versions and the machine to a JSON list, once.

    The folder of the data is written as FOLDER.
    """
    arguments = list(sys.argv[1:])
    for place in range(1, len(arguments)):
        if arguments[place - 1] == "--data":
            arguments[place] = "FOLDER"
    modules = (laplace_al, np, scipy, sklearn, torch, pd)
    entry = {
        "command": " ".join(["python", f"examples/study/{path.stem}.py", *arguments]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes"),
        "versions": {"python": platform.python_version()}
        | {module.__name__: module.__version__ for module in modules},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, one thread a process",
    }
    known = json.loads(path.read_text()) if path.exists() else []
    known = [other for other in known if other["command"] != entry["command"]]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*known, entry], indent=1) + "\n")


def add_arguments(parser, seeds):
    """The options that all scripts have."""
    parser.add_argument("--data", type=pathlib.Path, help="folder with the files, see datasets.py")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("results"))
    parser.add_argument("--quick", action="store_true", help="digits alone, few and small runs")


def standard_error(values, strata=None):
    """Of the mean of values (n,), where each stratum has as many in every repetition."""
    values = np.asarray(values, dtype=float)
    strata = pd.Series(np.zeros(len(values)) if strata is None else np.asarray(strata))
    residuals = values - pd.Series(values).groupby(strata).transform("mean").to_numpy()
    degrees = len(values) - strata.nunique()
    return np.sqrt(np.sum(residuals**2) / degrees / len(values)) if degrees > 0 else np.nan


def wilcoxon_p(differences):
    """p-value of the paired Wilcoxon test; 1 if nothing differs."""
    differences = np.asarray(differences, dtype=float)
    return float(wilcoxon(differences).pvalue) if np.any(differences) else 1.0


def equivalence(differences, bound):
    """Of a mean to zero within a bound: p-values of two one-sided t tests, and the 90 % interval.

    The first is for a mean above -bound (not worse), the second, never smaller, for one that is
    below bound too.

    Schuirmann, *A comparison of the two one-sided tests procedure and the power approach for
    assessing the equivalence of average bioavailability*, 1987.
    """
    differences = np.asarray(differences, dtype=float)
    above = ttest_1samp(differences, -bound, alternative="greater").pvalue
    below = ttest_1samp(differences, bound, alternative="less").pvalue
    half = student.ppf(0.95, len(differences) - 1) * standard_error(differences)
    mean = differences.mean()
    return above, max(above, below), mean - half, mean + half


def holm(p):
    """p-values after Holm's correction, (n,)."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1)
    return corrected
