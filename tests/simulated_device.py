"""A device that is not there: its tensors compute on the CPU and are as strict as a GPU's.

Operations on tensors of two devices fail, NumPy cannot look at a tensor, and it is noted when the
host waits for numbers. So code for GPUs can be tested where there is none.
"""

import functools
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "simulated"
# older versions of torch cannot have a device that is written in Python
_register = getattr(
    torch.utils.backend_registration, "_setup_privateuseone_for_python_backend", None
)
IS_SUPPORTED = _register is not None

_aten = torch.ops.aten
_INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default}
# what a GPU takes of tensors on two devices
_OF_TWO_DEVICES = {_aten._to_copy.default, _aten.copy_.default, *_INDEXING}
# what the host waits for to have a number, or a size, or to know that all went well
_WAITS = {
    _aten._linalg_check_errors.default,
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
}


class Wait(NamedTuple):
    """For an operation and how many numbers the host waited."""

    operation: str
    size: int


class SimulatedTensor(torch.Tensor):
    """A tensor of the device; ``host`` has its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, host):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device(NAME, 0),
        )
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func}: the simulated device is not there any more")

    def numpy(self, *, force=False):
        if not force:
            raise TypeError("can't convert simulated:0 device type tensor to numpy. Use .cpu()")
        return self.detach().cpu().numpy()


class SimulatedDevice(TorchDispatchMode):
    """The device, while the context lasts.

    Attributes
    ----------
    waits : list of Wait
        How the host waited for numbers.
    arrivals : list of Wait
        How it waited for the device to take numbers, behind all that is to do there.
    """

    def __init__(self):
        super().__init__()
        _register_once()
        self.waits, self.arrivals = [], []

    def __enter__(self):
        # tensors made of numbers appear on the host and move from there, by an operation
        self._lifted_before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        return super().__enter__()

    def __exit__(self, *exception):
        super().__exit__(*exception)
        torch._C._set_only_lift_cpu_tensors(self._lifted_before)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        here = [tensor for tensor in tensors if isinstance(tensor, SimulatedTensor)]
        if here and func not in _OF_TWO_DEVICES:
            _refuse_two_devices(func, tensors)
        stays = bool(here)
        if kwargs.get("device") is not None:
            stays = torch.device(kwargs["device"]).type == NAME
            kwargs["device"] = torch.device("cpu")
        elif func is _aten.copy_.default:
            stays = isinstance(args[0], SimulatedTensor)
        args, kwargs = tree_map_only(SimulatedTensor, lambda tensor: tensor.host, (args, kwargs))
        found = func(*args, **kwargs)
        if here and (not stays or func in _WAITS or _is_masked(func, tensors)):
            self.waits.append(Wait(str(func), sum(map(_size, tree_leaves(found)))))
        if stays and not here and func is _aten._to_copy.default and not kwargs.get("non_blocking"):
            self.arrivals.append(Wait(str(func), found.numel()))
        if not stays:
            return found
        known = {id(tensor.host): tensor for tensor in here}  # what is changed in place

        def wrapped(tensor):
            return known[id(tensor)] if id(tensor) in known else SimulatedTensor(tensor)

        return tree_map_only(torch.Tensor, wrapped, found)


def _refuse_two_devices(func, tensors):
    for tensor in tensors:
        if not isinstance(tensor, SimulatedTensor) and tensor.dim():
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"simulated:0 and {tensor.device}! ({func})"
            )


def _is_masked(func, tensors):
    return func in _INDEXING and any(tensor.dtype == torch.bool for tensor in tensors)


def _size(value):
    return value.numel() if isinstance(value, torch.Tensor) else 1


@functools.cache
def _register_once():
    _register(rename=NAME)
