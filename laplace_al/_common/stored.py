"""Tensors as NumPy arrays, to be kept: in pickles, skops files and archives.

How dimensions lie in memory is kept as well: products round by it, and what comes back is to
compute bit for bit the same.
"""

from dataclasses import fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray


class Stored(NamedTuple):
    """A tensor as an array.

    Parameters
    ----------
    array : ndarray
        C-contiguous, its dimensions from the slowest to the fastest in memory.
    order : tuple of int
        Which dimension of the tensor each of these is.
    device : str

    Examples
    --------
    >>> stored = Stored.of(torch.ones(2, 3).mT)
    >>> stored.array.shape, stored.order, stored.device
    ((2, 3), (1, 0), 'cpu')
    >>> stored.tensor().stride()
    (1, 3)
    """

    array: NDArray[Any]
    order: tuple[int, ...]
    device: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Self:
        """What stands for a tensor.

        Parameters
        ----------
        tensor : Tensor

        Returns
        -------
        Stored
        """
        stride = tensor.stride()
        order = tuple(sorted(range(tensor.ndim), key=lambda i: -stride[i]))
        array = np.ascontiguousarray(tensor.permute(order).numpy(force=True))
        return cls(array.reshape([tensor.shape[i] for i in order]), order, str(tensor.device))

    def tensor(self) -> torch.Tensor:
        """The tensor, with memory of its own.

        Returns
        -------
        Tensor
        """
        inverse = sorted(range(self.array.ndim), key=self.order.__getitem__)
        return torch.tensor(self.array, device=self.device).permute(inverse)


class StoredState:
    """Dataclasses whose pickles hold their fields, tensors as arrays, and no cached results."""

    def __getstate__(self) -> dict[str, Any]:
        own = fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return {field.name: _stored(getattr(self, field.name)) for field in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _restored(value) for name, value in state.items()})


def _stored(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return Stored.of(value)
    return type(value)(*map(_stored, value)) if hasattr(value, "_fields") else value


def _restored(value: Any) -> Any:
    if isinstance(value, Stored):
        return value.tensor()
    return type(value)(*map(_restored, value)) if hasattr(value, "_fields") else value
