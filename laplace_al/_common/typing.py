"""Names for the types that many signatures share; the shapes stand in the docstrings."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray


class SupportsShape(Protocol):
    """Anything that tells its shape: a sparse matrix, a memory map, an array on disk."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Numbers of rows, columns and so on."""


Instances: TypeAlias = ArrayLike | Sequence[Any] | SupportsShape
"""Inputs of a learner, a row each: an array, a frame, a sparse matrix, a list of whatever."""

Inputs: TypeAlias = Instances | Iterable[Any]
"""Instances, or blocks of them: an iterator, a ``DataLoader``, a Dask array."""

Features: TypeAlias = torch.Tensor | NDArray[np.floating]
"""Features of inputs, a row each, on the device or on the host."""

RandomState: TypeAlias = int | np.random.RandomState | None
"""A seed, a generator or None, as :func:`sklearn.utils.check_random_state` takes them."""

Rng: TypeAlias = np.random.RandomState
"""The generator that a random state has become."""

Mask: TypeAlias = NDArray[np.bool_]
"""Which instances are meant, (n,)."""

Path: TypeAlias = str | os.PathLike[str]
"""Where a file is."""

Vector: TypeAlias = NDArray[np.float64]
"""The few numbers of one instance, in NumPy wherever the features live."""

Method = TypeVar("Method", bound=Callable[..., Any])
"""A method that a decorator gives back with its signature."""

Numbers = TypeVar("Numbers", Vector, torch.Tensor)
"""Numbers of one instance, or of many, by functions that take either."""

Choice: TypeAlias = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Positions in a pool, best first, and the utilities of the whole pool."""

Link: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Means and variances of logits to logits of a prediction, see :mod:`laplace_al.model.links`."""

Projection: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""The product of features, which it knows, with a matrix."""


class UpdateRule(Protocol):
    """The change of a posterior by one label, see :mod:`laplace_al.model.updates`."""

    def __call__(
        self, logits: Any, variance: Any, target: Any, weight: Any, prior_variance: Any, /
    ) -> tuple[Any, Any]:
        """Coefficients and curvature; :class:`Vector`, or tensors where outputs are coupled."""
