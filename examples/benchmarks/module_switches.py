"""How many files does a call go through? A measure of how easily it can be read.

``python examples/benchmarks/module_switches.py``

For fits, updates, queries and taught labels on the irises: how many modules and rooms (folders) of
the package have a function that is called, and how often one call comes from another module, or
another room, than the call before it. A call that reads top to bottom has few of all. They depend
on no machine.
"""

import argparse
import itertools
import sys

import numpy as np
from sklearn.datasets import load_iris

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling


def called_modules(function, *args):
    """Modules of the package whose functions are called, in the order of the calls."""
    modules = []

    def profile(frame, event, _):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.split(".")[0] == "laplace_al":
            modules.append(module)

    sys.setprofile(profile)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    return modules


def room(module):
    """Folder of a module, ``classifier`` of ``laplace_al.classifier.fitted``."""
    return [*module.split("."), ""][1]


def n_switches(places):
    return sum(before != after for before, after in itertools.pairwise(places))


def report(name, function, *args):
    modules = called_modules(function, *args)
    rooms = [room(module) for module in modules]
    counts = len(set(modules)), n_switches(modules), len(set(rooms)), n_switches(rooms)
    print(f"{name:<12} " + " ".join(f"{count:>8}" for count in (*counts, len(modules))))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="makes no difference here")
    parser.parse_args()
    X, y = load_iris(return_X_y=True)
    classifier, strategy = LaplaceUpdateClassifier(), MarginSampling(random_state=0)
    columns = ("modules", "switches", "rooms", "switches", "calls")
    print(f"{'call':<12} " + " ".join(f"{column:>8}" for column in columns))
    report("fit", classifier.fit, X, y)
    report("partial_fit", classifier.partial_fit, X[:1], y[:1])
    report("query", strategy.query, classifier, X)
    rows = np.r_[0:3, 50:53, 100:103]
    learner = ActiveLearner(
        LaplaceUpdateClassifier(), strategy, X, X_initial=X[rows], y_initial=y[rows]
    )
    for position in (10, 60):  # the first query also scores the pool
        learner.query()
        learner.teach(position, y[position])
    report("teach", learner.teach, 110, y[110])
    report("next query", learner.query)


if __name__ == "__main__":
    main()
