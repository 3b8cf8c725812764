"""Failures on purpose: at a line of the package, or at an operation of torch."""

import dataclasses
import linecache
import pathlib
import sys

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import laplace_al

ROOT = str(pathlib.Path(laplace_al.__file__).parent)
# What publishes a result is one assignment.
_SPARED = {"publish", "_publish"}


class FailingLine:
    """Raise when so many lines of the package have been run; count them with ``place=None``."""

    def __init__(self, error, place=None):
        self.error, self.place = error, place
        self.n_seen, self.where = 0, None
        self._blocks = set()

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_):
        sys.settrace(self._before)

    def _trace(self, frame, event, argument):
        path = frame.f_code.co_filename
        is_ours = path.startswith(ROOT) and frame.f_code.co_name not in _SPARED
        return self._count if is_ours else None

    def _count(self, frame, event, argument):
        if event == "line" and not self._leaves_a_block(frame):
            if self.n_seen == self.place:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                raise self.error
            self.n_seen += 1
        return self._count

    def _leaves_a_block(self, frame):
        """Whether a line is that of a ``with`` whose end is reached: there no signal comes."""
        place = frame, frame.f_lineno
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        is_with = line.lstrip().startswith("with ")
        was_there = place in self._blocks
        if is_with:
            self._blocks.add(place)
        return is_with and was_there


class FailingOperation(TorchDispatchMode):
    """Raise before or after the operation of torch of that number."""

    def __init__(self, error, place=None, *, after=False):
        super().__init__()
        self.error, self.place, self.after = error, place, after
        self.n_seen, self.where = 0, None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {})) if self.after else None
        if self.n_seen == self.place:
            self.where = str(function)
            raise self.error
        self.n_seen += 1
        return result if self.after else function(*args, **(kwargs or {}))


def state_of(value):
    """All that an object holds, bit for bit, without results that it caches."""
    if isinstance(value, torch.Tensor):
        return "tensor", str(value.dtype), *_content(value.numpy(force=True))
    if isinstance(value, np.ndarray | np.generic):
        return "array", *_content(np.asarray(value))
    if isinstance(value, nn.Module):
        return state_of(value.state_dict()), [module.training for module in value.modules()]
    if isinstance(value, pd.DataFrame):
        return value.to_dict()
    if isinstance(value, dict):
        return {name: state_of(content) for name, content in value.items()}
    if isinstance(value, list | tuple):
        return [type(value), *map(state_of, value)]
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        return type(value), {field.name: state_of(getattr(value, field.name)) for field in fields}
    if type(value).__module__.startswith("laplace_al"):
        return type(value), state_of(vars(value))
    return value


def _content(array):
    content = array.tolist() if array.dtype == object else array.tobytes()
    return str(array.dtype), array.shape, array.strides, content
