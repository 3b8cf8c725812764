"""Slow, obvious twins of the fast code: one instance at a time, direct inverses, no blocks."""

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax


def probabilities(logits):
    """p (C,) of one instance: sigmoid of one logit, else softmax."""
    return 1 / (1 + np.exp(-logits)) if len(logits) == 1 else softmax(logits)


def cross_entropy(logits, target):
    """-log p(y | z) of one instance."""
    if len(logits) == 1:
        return np.logaddexp(0, (1 - 2 * target[0]) * logits[0])
    return -log_softmax(logits) @ target


def curvature(name, p):
    return 1.0 if name == "gaussian" else p.max() * (1 - p.max())


def direct_mode(logits, variance, target, weight):
    """a of ``a = s (y - p(z + v a))``, by a general-purpose minimiser."""

    def objective(a):
        return weight * cross_entropy(logits + variance * a, target) + variance / 2 * a @ a

    def gradient(a):
        return variance * (weight * (probabilities(logits + variance * a) - target) + a)

    start = np.zeros_like(logits)
    return minimize(objective, start, jac=gradient, method="BFGS", options={"gtol": 1e-13}).x


def one_by_one(mean, precision, features, targets, weights, *, update, curve, step_size=1.0):
    """The updates of design section 2, each with the inverse of the summed precision."""
    for phi, y, s in zip(features, targets, weights, strict=True):
        covariance = np.linalg.inv(precision)
        z, v = phi @ mean, phi @ covariance @ phi
        if update == "newton":
            p = probabilities(z)
            h = s * curvature(curve, p)
            precision = precision + h * np.outer(phi, phi)
            step = step_size * s * (y - p)
            mean = mean + np.outer(np.linalg.inv(precision) @ phi, step)
        else:
            a = direct_mode(z, v, y, s)
            h = s * curvature(curve, probabilities(z + v * a))
            precision = precision + h * np.outer(phi, phi)
            mean = mean + np.outer(covariance @ phi, a)
    return mean, precision
