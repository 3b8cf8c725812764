"""Work for other processes, which import it by this name."""

import pathlib
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_info

from laplace_al import LaplaceUpdateClassifier


def learn_and_predict(clf, X, y, X_test):
    """Probabilities after further labels, computed where this runs."""
    return clf.partial_fit(X, y).predict_proba(X_test)


def n_threads(X, y):
    """Threads that torch, BLAS and OpenMP take where this runs."""
    LaplaceUpdateClassifier().fit(X, y).predict_proba(X)
    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]


def peak_of_a_call(call, covariance, n, n_features, n_classes):
    """Bytes that a call takes at its peak, beside its arguments. On Linux."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, n_features)), np.arange(n) % n_classes
    warnings.simplefilter("ignore", ConvergenceWarning)
    clf = LaplaceUpdateClassifier(covariance=covariance, max_iter=2)
    few = slice(0, 2 * n_classes)
    LaplaceUpdateClassifier().fit(X[few, :5], y[few]).partial_fit(X[few, :5], y[few]).predict(
        X[few, :5]
    )
    if call != "fit":
        clf.partial_fit(X[few], y[few], classes=range(n_classes))
    arguments = (X,) if call == "predict_proba" else (X, y)
    status = pathlib.Path("/proc/self/status")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak so far is now
    before = _peak(status)
    getattr(clf, call)(*arguments)
    return _peak(status) - before


def _peak(status):
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])
