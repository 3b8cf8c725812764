"""Tensors in, tensors out, where scikit-learn is told to dispatch by the kind of array."""

import functools
from typing import Any, cast

import numpy as np
import torch
from sklearn import config_context, get_config

from laplace_al._common.typing import Method


def like_tensors(method: Method) -> Method:
    """Make a method of an estimator answer tensors with tensors under ``array_api_dispatch``.

    Without ``sklearn.set_config(array_api_dispatch=True)`` nothing changes. With it, numbers that
    the method returns, alone or in a tuple, come back on the device of X, floating ones in its
    dtype; labels that are no numbers stay an array, and so do fitted attributes. Labels and weights
    may be tensors beside any X.
    """

    @functools.wraps(method)
    def follows(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        given = (X, *args, *kwargs.values())
        has_tensors = any(isinstance(value, torch.Tensor) for value in given)
        if not (has_tensors and get_config()["array_api_dispatch"]):
            return method(self, X, *args, **kwargs)
        args = [_on_the_host(value) for value in (X, *args)]
        kwargs = {name: _on_the_host(value) for name, value in kwargs.items()}
        with config_context(array_api_dispatch=False):
            answer = method(self, *args, **kwargs)
        if not isinstance(X, torch.Tensor):
            return answer
        if isinstance(answer, tuple):
            return tuple(_like(X, part) for part in answer)
        return _like(X, answer)

    return cast(Method, follows)


def _on_the_host(value: Any) -> Any:
    """Return a tensor detached and on the CPU, anything else as it is."""
    return value.detach().cpu() if isinstance(value, torch.Tensor) else value


def _like(X: torch.Tensor, answer: Any) -> Any:
    """Return an array of numbers as a tensor like X."""
    if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "biuf":
        return answer
    tensor = torch.as_tensor(answer, device=X.device)
    both_float = tensor.is_floating_point() and X.is_floating_point()
    return tensor.to(X.dtype) if both_float else tensor
