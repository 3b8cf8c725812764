"""Learn a new label in closed form: Laplace last layers and active learning for scikit-learn."""

from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.features import TorchFeatures
from laplace_al.learner import ActiveLearner
from laplace_al.plotting import LearningCurveDisplay, ReliabilityDisplay
from laplace_al.simulation import compare, simulate

__version__ = "0.1.0"

__all__ = [
    "ActiveLearner",
    "LaplaceUpdateClassifier",
    "LearningCurveDisplay",
    "ReliabilityDisplay",
    "TorchFeatures",
    "compare",
    "simulate",
]
