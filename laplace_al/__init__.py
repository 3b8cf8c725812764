"""Learn a new label in closed form: Laplace last layers and active learning for scikit-learn."""

from laplace_al.features import TorchFeatures

__version__ = "0.1.0"

__all__ = ["TorchFeatures"]
