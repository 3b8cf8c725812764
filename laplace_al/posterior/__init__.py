"""Gaussian posteriors over the last layer: values that are conditioned, never changed."""

from laplace_al.posterior.shared import SharedPosterior

__all__ = ["SharedPosterior"]
