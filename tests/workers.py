"""Work for other processes, which import it by this name."""

import torch
from threadpoolctl import threadpool_info

from laplace_al import LaplaceUpdateClassifier


def learn_and_predict(clf, X, y, X_test):
    """Probabilities after further labels, computed where this runs."""
    torch.set_num_threads(1)  # the threads of the parent are not there after a fork
    return clf.partial_fit(X, y).predict_proba(X_test)


def n_threads(X, y):
    """Threads that torch, BLAS and OpenMP take where this runs."""
    LaplaceUpdateClassifier().fit(X, y).predict_proba(X)
    return [torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())]
