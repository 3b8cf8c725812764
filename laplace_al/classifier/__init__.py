"""The estimator: a frozen network with a Bayesian last layer."""

from laplace_al.classifier.classifier import LaplaceUpdateClassifier

__all__ = ["LaplaceUpdateClassifier"]
