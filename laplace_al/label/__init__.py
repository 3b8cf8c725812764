"""A local page to label the items of a pool on: ``python -m laplace_al.label --help``."""
