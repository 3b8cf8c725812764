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
    """A tensor as an array, to be kept, and how to restore it.

    The array is C-contiguous, its dimensions from the slowest to the fastest in memory; the order
    tells which dimension of the tensor each of these is.
    """

    array: NDArray[Any]
    order: tuple[int, ...]
    device: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Self:
        """Return what stands for a tensor."""
        stride = tensor.stride()
        order = tuple(sorted(range(tensor.ndim), key=lambda i: -stride[i]))
        array = np.ascontiguousarray(tensor.permute(order).numpy(force=True))
        return cls(array.reshape([tensor.shape[i] for i in order]), order, str(tensor.device))

    def tensor(self) -> torch.Tensor:
        """Return the tensor, with memory of its own."""
        inverse = sorted(range(self.array.ndim), key=self.order.__getitem__)
        return torch.tensor(self.array, device=self.device).permute(inverse)


class StoredState:
    """Dataclasses whose pickles hold their fields, tensors as arrays, and no cached results."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # a value

    def __getstate__(self) -> dict[str, Any]:
        own = fields(self)  # type: ignore[arg-type]  # every subclass is a dataclass
        return {field.name: _stored(getattr(self, field.name)) for field in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({name: _restored(value) for name, value in state.items()})


def _stored(value: Any) -> Any:
    """Return tensors as arrays, also those in a named tuple."""
    if isinstance(value, torch.Tensor):
        return Stored.of(value)
    return type(value)(*map(_stored, value)) if hasattr(value, "_fields") else value


def _restored(value: Any) -> Any:
    """Return arrays as the tensors that they stand for."""
    if isinstance(value, Stored):
        return value.tensor()
    return type(value)(*map(_restored, value)) if hasattr(value, "_fields") else value
