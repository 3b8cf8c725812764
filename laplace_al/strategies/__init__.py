"""Query strategies: frozen parameters and one method, ``query``."""

from laplace_al.strategies.base import QueryStrategy
from laplace_al.strategies.entropy import EntropySampling
from laplace_al.strategies.least_confident import LeastConfidentSampling
from laplace_al.strategies.margin import MarginSampling
from laplace_al.strategies.random import RandomSampling

__all__ = [
    "EntropySampling",
    "LeastConfidentSampling",
    "MarginSampling",
    "QueryStrategy",
    "RandomSampling",
]
