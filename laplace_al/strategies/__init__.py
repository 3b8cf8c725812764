"""Query strategies: frozen parameters and one method, ``query``."""

from laplace_al.strategies._base import QueryStrategy
from laplace_al.strategies.badge import BADGE
from laplace_al.strategies.bait import BAIT
from laplace_al.strategies.bald import BALD
from laplace_al.strategies.batch_bald import BatchBALD
from laplace_al.strategies.core_set import CoreSet
from laplace_al.strategies.entropy import EntropySampling
from laplace_al.strategies.epig import EPIG
from laplace_al.strategies.expected_error_reduction import ExpectedErrorReduction
from laplace_al.strategies.least_confident import LeastConfidentSampling
from laplace_al.strategies.look_ahead import LookAhead
from laplace_al.strategies.margin import MarginSampling
from laplace_al.strategies.max_herding import MaxHerding
from laplace_al.strategies.most_probable import MostProbable
from laplace_al.strategies.power import PowerSampling
from laplace_al.strategies.preselection import Preselection
from laplace_al.strategies.prob_cover import ProbCover
from laplace_al.strategies.query_by_committee import QueryByCommittee
from laplace_al.strategies.random import RandomSampling
from laplace_al.strategies.sequential_batch import SequentialBatch
from laplace_al.strategies.typi_clust import TypiClust
from laplace_al.strategies.uncertainty_herding import UncertaintyHerding
from laplace_al.strategies.variance import VarianceSampling

__all__ = [
    "BADGE",
    "BAIT",
    "BALD",
    "EPIG",
    "BatchBALD",
    "CoreSet",
    "EntropySampling",
    "ExpectedErrorReduction",
    "LeastConfidentSampling",
    "LookAhead",
    "MarginSampling",
    "MaxHerding",
    "MostProbable",
    "PowerSampling",
    "Preselection",
    "ProbCover",
    "QueryByCommittee",
    "QueryStrategy",
    "RandomSampling",
    "SequentialBatch",
    "TypiClust",
    "UncertaintyHerding",
    "VarianceSampling",
]
