"""Learn a new label in closed form: Laplace last layers and active learning for scikit-learn."""

__version__ = "0.1.0"
