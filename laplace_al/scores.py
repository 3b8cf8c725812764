"""Utilities of candidates: pure functions from probabilities (n, K) to (n,), larger is better."""

import numpy as np
from scipy.special import entr


def least_confident(probabilities):
    """One minus the largest probability, ``1 - max_k p_k``.

    Lewis and Gale, *A sequential algorithm for training text classifiers*, SIGIR 1994.

    Parameters
    ----------
    probabilities : array-like of shape (n, K)

    Returns
    -------
    ndarray of shape (n,)
        In [0, 1 - 1/K].

    Examples
    --------
    >>> least_confident([[0.5, 0.5], [1.0, 0.0]])
    array([0.5, 0. ])
    """
    return 1 - np.max(probabilities, axis=1)


def margin(probabilities):
    """One minus the lead of the largest probability over the second, ``1 - (p_(1) - p_(2))``.

    Scheffer, Decomain and Wrobel, *Active hidden Markov models for information extraction*,
    IDA 2001.

    Parameters
    ----------
    probabilities : array-like of shape (n, K)

    Returns
    -------
    ndarray of shape (n,)
        In [0, 1]; 0 for a single class.

    Examples
    --------
    >>> margin([[0.5, 0.5], [0.75, 0.25]])
    array([1. , 0.5])
    """
    probabilities = np.asarray(probabilities)
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    second, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    return 1 - (first - second)


def entropy(probabilities):
    """Entropy of the prediction in nats, ``-sum_k p_k log p_k``.

    Shannon, *A mathematical theory of communication*, 1948.

    Parameters
    ----------
    probabilities : array-like of shape (n, K)

    Returns
    -------
    ndarray of shape (n,)
        In nats, in [0, log K].

    Examples
    --------
    >>> entropy([[0.5, 0.5], [1.0, 0.0]]).round(4)
    array([0.6931, 0.    ])
    """
    return entr(np.asarray(probabilities, dtype=np.float64)).sum(axis=1)
