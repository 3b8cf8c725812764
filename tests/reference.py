"""Slow, obvious twins of the fast code: one instance at a time, direct inverses, no blocks."""

import math

import numpy as np
from scipy.optimize import root
from scipy.special import expit, softmax


def probabilities(logits):
    """p (C,) of one instance: sigmoid of one logit, else softmax."""
    return expit(logits) if len(logits) == 1 else softmax(logits)


def mean(logits):
    """p and 1 - p, (2, C) of one instance, each a sum of positive numbers."""
    n_outputs = len(logits)
    logits = np.append(logits, 0.0) if n_outputs == 1 else logits  # of the other class
    numbers = list(np.exp(logits - logits.max()))
    others = [math.fsum(numbers[:k] + numbers[k + 1 :]) for k in range(n_outputs)]
    return np.array([numbers[:n_outputs], others]) / math.fsum(numbers)


def hessian(p):
    """Second derivative (C, C) of the cross entropy in the logits."""
    return np.diag(p * (1 - p)) if len(p) == 1 else np.diag(p) - np.outer(p, p)


def curvature(structure, name, p):
    """H (C, C) of one instance as each structure sees it."""
    if name == "gaussian":
        return np.eye(len(p))
    if structure == "shared":
        return p.max() * (1 - p.max()) * np.eye(len(p))
    if structure in ("per_class", "low_rank"):
        return np.diag(p * (1 - p))
    return hessian(p)


def mode_coefficients(logits, covariance, target, weight):
    """a of ``a = s (y - p(z + V a))``, by a general-purpose solver."""

    def equation(a):
        p = probabilities(logits + covariance @ a)
        return a - weight * (target - p), np.eye(len(a)) + weight * hessian(p) @ covariance

    solved = root(equation, np.zeros_like(logits), jac=True, tol=1e-14)
    assert np.abs(equation(solved.x)[0]).max() < 1e-11
    return solved.x


class DensePosterior:
    """Gaussian over all D C weights, W_dk at the place d C + k, by its dense precision."""

    def __init__(self, mean, precision):
        self.mean, self.precision = mean, precision

    @classmethod
    def at_mode(cls, structure, curve, mean, features, weights, prior_precision):
        dense = cls(mean, prior_precision * np.eye(mean.size))
        for phi, s in zip(features, weights, strict=True):
            dense.add(phi, s * curvature(structure, curve, probabilities(phi @ mean)))
        return dense

    @property
    def covariance(self):
        return np.linalg.inv(self.precision)

    def lift(self, phi):
        """phi (x) I, (D C, C): the logits are its transpose times the weights."""
        return np.kron(phi[:, None], np.eye(self.mean.shape[1]))

    def add(self, phi, weight):
        self.precision = self.precision + self.lift(phi) @ weight @ self.lift(phi).T

    def learn(self, structure, curve, update, phi, y, s, step_size=1.0):
        """The updates of the equations, each with inverses of the summed precision."""
        lifted, z = self.lift(phi), phi @ self.mean
        if update == "newton":
            p = probabilities(z)
            self.add(phi, s * curvature(structure, curve, p))
            step = self.covariance @ lifted @ (step_size * s * (y - p))
        else:
            covariance = self.covariance
            v = lifted.T @ covariance @ lifted
            a = mode_coefficients(z, v, y, s)
            step = covariance @ lifted @ a
            self.add(phi, s * curvature(structure, curve, probabilities(z + v @ a)))
        self.mean = self.mean + step.reshape(self.mean.shape)


def herding(pool, labelled, weights, candidates, positions):
    """Gains (n,) before the first of some choices, and how much more others would have gained."""
    n = len(pool)
    squared = ((pool[:, None] - pool[None]) ** 2).sum(axis=2)
    k = min(max(1, round(n / (len(labelled) + len(positions)))), n - 1)
    bandwidth = np.median(np.sort(squared, axis=1)[:, k])
    similarity = np.exp(-squared / bandwidth)
    to_labelled = ((pool[:, None] - labelled[None]) ** 2).sum(axis=2)
    covered = np.exp(-to_labelled / bandwidth).max(axis=1, initial=0)
    gains, lost, is_open = [], [], candidates.copy()
    for chosen in positions:
        gain = weights @ np.maximum(similarity - covered[:, None], 0)
        gains.append(np.where(is_open, gain, -np.inf))
        lost.append(gains[-1].max() - gains[-1][chosen])
        covered = np.maximum(covered, similarity[:, chosen])
        is_open[chosen] = False
    return gains[0], np.array(lost)
