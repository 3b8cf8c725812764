"""Learn a new label in closed form: Laplace last layers and active learning for scikit-learn."""

from laplace_al.classifier import LaplaceUpdateClassifier
from laplace_al.experiments.comparison import compare
from laplace_al.experiments.learning_curve import LearningCurveDisplay
from laplace_al.experiments.reliability import ReliabilityDisplay
from laplace_al.experiments.simulation import simulate
from laplace_al.inputs.features import TorchFeatures
from laplace_al.loop.learner import ActiveLearner

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
