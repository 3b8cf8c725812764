"""Notice that a network has other weights than before."""

import hashlib
import itertools
import operator
from typing import Any

import torch
from torch import nn

_VALUES = operator.methodcaller("values")
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32}  # by bytes; of more, pairs of int64
_VERSION = operator.attrgetter("_version")  # counts writes in place


class Weights:
    """The weights of a module as they were, to notice at little cost that they have changed."""

    def __init__(self, network: nn.Module) -> None:
        self._digest = _digest(network)
        self._note(network)

    def __getstate__(self) -> dict[str, Any]:
        # addresses mean nothing elsewhere
        return {"_digest": self._digest, "_parts": [], "_places": []}

    def check(self, network: nn.Module | None) -> None:
        """Refuse a module that has other weights; None has none."""
        if network is not None and not self.are_those_of(network):
            raise RuntimeError(
                f"The network {type(network).__name__} has other weights than when features were "
                "computed with it: it was trained further, cast or replaced. What was learnt on "
                "the old features means nothing on new ones. Fit again; make a new ActiveLearner, "
                "with the same journal if it has one; or load the old weights."
            )

    def are_those_of(self, network: nn.Module) -> bool:
        """Return whether a module has these weights.

        True if each tensor is where it was, unwritten and with the same number in its middle, or
        else if all have the same digest. Fused optimisers, batch norms and writes to
        ``.data`` do not count as writing.
        """
        if self._is_untouched(network):
            return True
        if _digest(network) != self._digest:
            return False
        self._note(network)
        return True

    def _is_untouched(self, network: nn.Module) -> bool:
        """Return whether each tensor is where it was, unwritten, with the number in its middle."""
        now = [network, *itertools.chain.from_iterable(map(_VALUES, self._places))]
        return (
            len(now) == len(self._parts)
            and all(map(operator.is_, now, self._parts))
            and [*map(torch.Tensor.data_ptr, self._tensors)] == self._addresses
            and [*map(_VERSION, self._tensors)] == self._versions
            and all(torch.equal(torch.cat(numbers), then) for numbers, then in self._middles)
        )

    def _note(self, network: nn.Module) -> None:
        """Remember what the module is made of, and share the memory of a number of each tensor."""
        places: list[Any] = [  # dicts, or what scripted modules have for them
            place
            for module in network.modules()
            for place in (module._modules, module._parameters, module._buffers)
            if place
        ]
        self._places = places
        self._parts = [network, *itertools.chain.from_iterable(map(_VALUES, places))]
        tensors = [part for part in self._parts if _is_weight(part)]
        self._tensors = [tensor for tensor in tensors if not tensor.is_inference()]
        self._addresses = [tensor.data_ptr() for tensor in self._tensors]
        self._versions = [*map(_VERSION, self._tensors)]
        by_kind: dict[Any, list[torch.Tensor]] = {}
        for tensor in tensors:
            if tensor.numel():
                middle = tensor.detach()[tuple(size // 2 for size in tensor.shape)].view(1)
                by_kind.setdefault((tensor.device, tensor.dtype), []).append(middle)
        self._middles = [(middles, torch.cat(middles)) for middles in by_kind.values()]


def _is_weight(part: object) -> bool:
    """Return whether features depend on it, other than on numbers of calls."""
    return isinstance(part, nn.Parameter) or (
        isinstance(part, torch.Tensor) and part.is_floating_point()
    )


def _digest(network: nn.Module) -> bytes:
    """Digest the kinds of layers, and dtype, shape, sum and eight numbers of each tensor.

    The sum is that of the bits of all numbers, read as integers.
    """
    layers = [(name, type(module).__qualname__) for name, module in network.named_modules()]
    digest = hashlib.sha256(repr(layers).encode())
    for tensor in filter(_is_weight, [*network.parameters(), *network.buffers()]):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 8)].cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(some.view(torch.uint8).numpy().data)
        bits = flat.view(_INTEGERS.get(tensor.itemsize, torch.int64))
        digest.update(str(int(bits.sum(dtype=torch.int64))).encode())
    return digest.digest()
