"""How much faster is an update than what it replaces?

``python examples/study/speed.py [--repeats 5] [--results FOLDER] [--quick]``

Labels b are learnt by ``LaplaceUpdateClassifier.partial_fit`` after a fit to n others, with D
features of C classes: unit vectors around a centre for each class. Around n = 1000, D = 384,
C = 77 and b = 10, one of them is varied at a time. The rivals learn the same labels:

- ``RAdam``: a last layer trained from zero for 200 epochs on all n + b labels, in batches of 64, as
  the paper retrains; 200 / 4 times the median of 4 epochs;
- ``LogisticRegression``: fitted to all n + b labels, from zero (``cold``) or from the fit to n
  (``warm``), until it is as good as it comes;
- ``refit``: our own ``fit`` to all n + b labels, from zero or from the update;
- ``SGDClassifier`` and ``river`` (softmax regression, ``learn_one``): a step for each new label,
  which has no posterior;
- ``laplace-torch``: a Laplace fit (``kron``) around a head that is trained already, where it is
  installed.

Both sides are timed in turn, in one process on one thread; each call is made twice and the second
one counts, but for rivals that take seconds. A row of ``speed.csv`` has the medians in milliseconds
and their ratio, theirs over ours, with ``covariance="shared"`` or the default ``"auto"``. Rows that
are there are not run again.
"""

import argparse
import importlib.util
import itertools
import time
import warnings

import numpy as np
import torch
from heads import radam
from protocol import Rows, add_arguments, record_command
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, SGDClassifier
from tqdm.auto import tqdm

from laplace_al import LaplaceUpdateClassifier

BASE = {"n": 1000, "D": 384, "C": 77, "b": 10}
VARIED = {
    "b": (1, 10, 100),
    "n": (100, 300, 1000, 3000),
    "D": (64, 128, 384, 1024),
    "C": (2, 10, 77),
}
PRIOR_PRECISION = 0.1
N_EPOCHS, N_EPOCHS_TIMED = 200, 4
HAS_LAPLACE_TORCH = importlib.util.find_spec("laplace") is not None
N_SLOW = 2  # turns of rivals that take seconds


def embeddings(n, n_features, n_classes):
    """Unit vectors (n, n_features) around the centres of their classes, and labels (n,).

    The first n_classes have a label each.
    """
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n_classes, n_features))
    y = np.arange(n) % n_classes
    y[n_classes:] = rng.permutation(y[n_classes:])
    X = centres[y] + 1.5 * rng.normal(size=(n, n_features))
    return X / np.linalg.norm(X, axis=1, keepdims=True), y


def interleaved(ours, theirs, n_turns, *, slow):
    """Median milliseconds of two functions called in turn.

    Each is called twice and the second call counts, but for rivals that take so long that the
    first call makes no difference.
    """
    times = [], []
    for _ in range(n_turns):
        for function, seconds in zip((ours, theirs), times, strict=True):
            if function is ours or not slow:
                function()
            start = time.perf_counter()
            function()
            seconds.append(time.perf_counter() - start)
    return [1000 * np.median(seconds) for seconds in times]


class Setting:
    """Data of one size and the rivals that learn it, each a function without arguments."""

    def __init__(self, n, D, C, b):
        self.n_classes = C
        X, y = embeddings(n + b, D, C)
        self.X, self.y = X, y
        self.X_old, self.y_old, self.X_new, self.y_new = X[:n], y[:n], X[n:], y[n:]

    def update(self, covariance):
        """The update, from the same posterior each time."""
        clf = self._classifier(covariance).fit(self.X_old, self.y_old)
        state = dict(vars(clf))

        def learn():
            vars(clf).update(state)
            clf.partial_fit(self.X_new, self.y_new)

        return learn

    def _classifier(self, covariance):
        return LaplaceUpdateClassifier(
            prior_precision=PRIOR_PRECISION,
            covariance=covariance,
            classes=np.arange(self.n_classes),
        )

    def rivals(self, covariance):
        """By name: a function, how much it must be multiplied with, and whether it is slow."""
        logistic = LogisticRegression(C=1 / PRIOR_PRECISION, max_iter=1000)
        found = {
            "LogisticRegression cold": (lambda: clone(logistic).fit(self.X, self.y), 1, False),
            "LogisticRegression warm": (self._warm(logistic), 1, False),
            "refit cold": (lambda: self._classifier(covariance).fit(self.X, self.y), 1, True),
            "refit warm": (self._warm_refit(covariance), 1, True),
            "SGDClassifier": (self._sgd(), 1, False),
        }
        if importlib.util.find_spec("river"):
            found["river"] = self._river(), 1, False
        found["RAdam"] = self._radam, N_EPOCHS / N_EPOCHS_TIMED, False
        if HAS_LAPLACE_TORCH:
            found = {"laplace-torch": (self._laplace_torch(), 1, True)}
        return found

    def _radam(self):
        radam(self.X, self.y, self.n_classes, PRIOR_PRECISION, N_EPOCHS_TIMED)

    def _warm(self, logistic):
        """From the fit to the old labels."""
        fitted = clone(logistic).set_params(warm_start=True).fit(self.X_old, self.y_old)
        coef, intercept = fitted.coef_.copy(), fitted.intercept_.copy()

        def fit():
            fitted.coef_, fitted.intercept_ = coef.copy(), intercept.copy()
            fitted.fit(self.X, self.y)

        return fit

    def _warm_refit(self, covariance):
        clf = self._classifier(covariance).fit(self.X_old, self.y_old)
        clf.partial_fit(self.X_new, self.y_new).set_params(warm_start=True)
        state = dict(vars(clf))

        def fit():
            vars(clf).update(state)
            clf.fit(self.X, self.y)

        return fit

    def _sgd(self):
        sgd = SGDClassifier(loss="log_loss").fit(self.X_old, self.y_old)
        return lambda: sgd.partial_fit(self.X_new, self.y_new)

    def _river(self):
        from river import linear_model  # optional

        model = linear_model.SoftmaxRegression()
        labels = [
            (dict(enumerate(row)), int(k)) for row, k in zip(self.X_new, self.y_new, strict=True)
        ]

        def learn():
            for features, label in labels:
                model.learn_one(features, label)

        for features, label in zip(self.X_old, self.y_old, strict=True):
            model.learn_one(dict(enumerate(features)), int(label))
        return learn

    def _laplace_torch(self):
        from laplace import Laplace  # optional

        head = radam(self.X, self.y, self.n_classes, PRIOR_PRECISION, N_EPOCHS_TIMED)
        network = torch.nn.Sequential(torch.nn.Identity(), head)
        data = torch.utils.data.TensorDataset(
            torch.from_numpy(self.X).float(), torch.from_numpy(self.y)
        )
        loader = torch.utils.data.DataLoader(data, batch_size=128)

        def fit():
            approximation = Laplace(
                network,
                "classification",
                subset_of_weights="last_layer",
                hessian_structure="kron",
            )
            approximation.fit(loader)

        return fit


def sizes(quick):
    """Each setting once, the base first."""
    if quick:
        return [{"n": 100, "D": 64, "C": 10, "b": 10}]
    found = [BASE]
    for name, values in VARIED.items():
        found += [BASE | {name: value} for value in values if value != BASE[name]]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, seeds=1)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    record_command(args.results / "speed.json")
    rows = Rows(args.results / "speed.csv", [*BASE, "covariance", "rival"])
    work = list(itertools.product(sizes(args.quick), ("shared", "auto")))
    warnings.simplefilter("ignore")  # of LogisticRegression, that it has not converged
    for size, covariance in tqdm(work):
        if (*size.values(), covariance, "RAdam") in rows and not HAS_LAPLACE_TORCH:
            continue
        setting = Setting(**size)
        update = setting.update(covariance)
        for rival, (function, times, slow) in setting.rivals(covariance).items():
            key = (*size.values(), covariance, rival)
            if key in rows:
                continue
            n_turns = N_SLOW if slow else args.repeats
            ours, theirs = interleaved(update, function, n_turns, slow=slow)
            rows.append(
                [
                    dict(zip(rows.keys, key, strict=True))
                    | {"ours_ms": ours, "theirs_ms": times * theirs}
                    | {"ratio": times * theirs / ours}
                ]
            )


if __name__ == "__main__":
    main()
