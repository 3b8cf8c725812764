"""Gaussian posteriors over the last layer: values that are conditioned, never changed."""

from laplace_al.model.posterior.base import Posterior
from laplace_al.model.posterior.full import FullPosterior
from laplace_al.model.posterior.low_rank import LowRankPosterior
from laplace_al.model.posterior.per_class import PerClassPosterior
from laplace_al.model.posterior.shared import SharedPosterior

__all__ = ["FullPosterior", "LowRankPosterior", "PerClassPosterior", "Posterior", "SharedPosterior"]
