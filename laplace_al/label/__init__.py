"""A local page to label the items of a pool on: ``python -m laplace_al.label --help``."""

from laplace_al.label.learner import open_learner

__all__ = ["open_learner"]
