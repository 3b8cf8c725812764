"""Run a frozen network, see inside it, and check the features that come out."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import nn

from laplace_al.devices import as_array

# Hooks and training flags belong to a module that threads may share: one forward at a time.
_FORWARD_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child has no other thread that would give it back
    os.register_at_fork(
        before=_FORWARD_LOCK.acquire,
        after_in_parent=_FORWARD_LOCK.release,
        after_in_child=_FORWARD_LOCK.release,
    )


def network_of(extractor: Any) -> nn.Module | None:
    """The module inside a feature extractor.

    Parameters
    ----------
    extractor : nn.Module, fitted skorch net, object with ``transform``, or callable

    Returns
    -------
    nn.Module or None
        None for a transformer or callable.

    Raises
    ------
    TypeError
        If it is none of the four, or a class instead of an object.
    ValueError
        If it is a skorch net that is not fitted.

    Examples
    --------
    >>> network_of(nn.ReLU())
    ReLU()
    """
    kinds = "an nn.Module, a fitted skorch net, an object with transform, or a callable X -> (n, D)"
    if isinstance(extractor, type):
        raise TypeError(
            f"feature_extractor must be {kinds}; got the class {extractor.__name__}. Pass an "
            "instance of it."
        )
    if isinstance(extractor, nn.Module):
        return extractor
    if hasattr(extractor, "infer") and hasattr(extractor, "module"):  # a skorch net
        if not hasattr(extractor, "module_"):
            raise ValueError(
                f"feature_extractor is a {type(extractor).__name__} that is not fitted. Call its "
                "fit, or initialize to use its initial weights."
            )
        return extractor.module_
    if hasattr(extractor, "transform") or callable(extractor):
        return None
    raise TypeError(f"feature_extractor must be {kinds}; got {type(extractor).__name__}.")


def check_layer(network: nn.Module, layer: str) -> str:
    """The layer's name, if the module has such a layer.

    Parameters
    ----------
    network : nn.Module
    layer : str

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If there is no such layer; lists those that there are.

    Examples
    --------
    >>> check_layer(nn.Sequential(nn.ReLU()), "0")
    '0'
    """
    names = _layers(network)
    if layer not in names:
        raise ValueError(
            f"layer={layer!r} is not a layer of {type(network).__name__}. Its layers are: {names}."
        )
    return layer


@torch.no_grad()
def last_linear(network: nn.Module, forward: Callable[[Any], Any], inputs: Any) -> str:
    """Name of the ``nn.Linear`` that is called last in a forward pass.

    Parameters
    ----------
    network : nn.Module
    forward : callable
        Runs the module on inputs.
    inputs : object

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If none is called; lists the layers that could be named instead.

    Examples
    --------
    >>> network = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> last_linear(network, network, torch.ones(1, 3))
    '2'
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    with frozen(network), captured(network, names, inputs=True) as seen:
        if names:
            forward(inputs)
    if not seen:
        raise ValueError(
            f"feature_extractor {type(network).__name__} calls no nn.Linear whose input could be "
            "the features. Name the layer whose output they are: TorchFeatures(module, "
            f"layer=...), one of {_layers(network)}."
        )
    return seen[0][0]


def _layers(network: nn.Module) -> list[str]:
    return [name for name, _ in network.named_modules() if name]


@contextlib.contextmanager
def captured(
    network: nn.Module, names: Iterable[str], *, inputs: bool
) -> Iterator[list[tuple[str, Any]]]:
    """Record what last enters or leaves one of the named layers of a module, a tensor as a copy.

    Parameters
    ----------
    network : nn.Module
    names : list of str
    inputs : bool
        Whether to record the first input of the layers, or their output.

    Yields
    ------
    list of (str, object)
        Name of the layer and value; empty before any of them is called.

    Examples
    --------
    >>> network = nn.Sequential(nn.ReLU(), nn.Flatten())
    >>> with captured(network, ["0"], inputs=False) as seen:
    ...     _ = network(torch.tensor([[-1.0, 1.0]]))
    >>> seen
    [('0', tensor([[0., 1.]]))]
    """
    seen: list[tuple[str, Any]] = []

    def record(name: str, value: Any) -> None:
        seen.clear()  # copies of all calls would be large
        seen.append((name, _copy(value)))

    def before(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        return lambda module, args, kwargs: record(name, (*args, *kwargs.values())[0])

    def after(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: record(name, output)

    with contextlib.ExitStack() as stack:
        for name in names:
            layer = network.get_submodule(name)
            if inputs:
                hook = layer.register_forward_pre_hook(before(name), with_kwargs=True)
            else:
                hook = layer.register_forward_hook(after(name))
            stack.callback(hook.remove)
        yield seen


def _copy(value: Any) -> Any:
    """A tensor as it is now, for a later layer may work in place; anything else as it is."""
    return value.clone() if isinstance(value, torch.Tensor) else value


@contextlib.contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Hold a module in eval mode; every training flag is put back, also after an error.

    Parameters
    ----------
    network : nn.Module

    Yields
    ------
    None

    Examples
    --------
    >>> network = nn.Dropout()
    >>> with frozen(network):
    ...     network.training
    False
    >>> network.training
    True
    """
    with _FORWARD_LOCK:
        flags = [(module, module.training) for module in network.modules()]
        try:
            network.eval()
            yield
        finally:
            for module, training in flags:
                module.training = training


def as_input(network: nn.Module, batch: NDArray[Any]) -> torch.Tensor:
    """An array as a tensor in the dtype and on the device of a module.

    Integers stay integers if the first layer with weights is an embedding.

    Parameters
    ----------
    network : nn.Module
    batch : ndarray

    Returns
    -------
    Tensor
        A copy.

    Examples
    --------
    >>> as_input(nn.Linear(1, 1), np.array([[1]])).dtype
    torch.float32
    >>> as_input(nn.Embedding(5, 2), np.array([[1]])).dtype
    torch.int64
    """
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device if tensors else torch.device("cpu")
    floating = (tensor.dtype for tensor in tensors if tensor.is_floating_point())
    dtype = next(floating, torch.get_default_dtype())
    if np.issubdtype(batch.dtype, np.integer) and _starts_with_embedding(network):
        dtype = torch.int64
    return torch.as_tensor(np.array(batch)).to(device, dtype)


def _starts_with_embedding(network: nn.Module) -> bool:
    for module in network.modules():
        if next(module.parameters(recurse=False), None) is not None:
            return isinstance(module, nn.Embedding | nn.EmbeddingBag)
    return False


def check_features(features: Any, start: int, stop: int) -> NDArray[np.floating]:
    """What an extractor returned for the rows ``start`` to ``stop``, as a finite array.

    Parameters
    ----------
    features : Tensor, array-like or sparse matrix
    start, stop : int

    Returns
    -------
    ndarray of shape (stop - start, D)
        float32 or wider.

    Raises
    ------
    ValueError
        If it has another shape, anything but real numbers, or NaN or infinity.

    Examples
    --------
    >>> check_features(torch.ones(1, 2), 0, 1)
    array([[1., 1.]], dtype=float32)
    """
    if isinstance(features, torch.Tensor):
        features = as_array(features)
    elif issparse(features):
        features = features.toarray()
    elif isinstance(features, tuple | dict) or not hasattr(features, "__len__"):
        raise ValueError(
            "feature_extractor must return one array of shape (n, D); got "
            f"{type(features).__name__}. Name a layer that returns one tensor, or wrap the "
            "extractor in a function that picks one."
        )
    features = np.asarray(features)
    if features.ndim != 2 or len(features) != stop - start or features.shape[1] == 0:
        raise ValueError(
            "feature_extractor must return one row of features per input, shape "
            f"({stop - start}, D); got shape {features.shape}. Reshape what it returns "
            "(nn.Flatten, a pooling layer, [:, None]) or name a later layer."
        )
    features = _as_floats(features)
    wrong = ~np.isfinite(features).all(axis=1)
    if wrong.any():
        raise ValueError(
            f"feature_extractor returned NaN or infinity for {wrong.sum()} of {len(wrong)} inputs, "
            f"the first at row {start + wrong.argmax()}. Scale the inputs, or check the weights "
            "and dtype of the network."
        )
    return features


def _as_floats(features: NDArray[Any]) -> NDArray[np.floating]:
    """Real numbers as float32 or wider; objects, as frames of several dtypes give, as float64."""
    if features.dtype == object and not any(isinstance(v, str | bytes) for v in features.flat):
        with contextlib.suppress(TypeError, ValueError):
            features = features.astype(np.float64)
    if not np.can_cast(features.dtype, np.longdouble):
        kinds = sorted({type(value).__name__ for value in features.ravel().tolist()})
        raise ValueError(
            f"feature_extractor must return real numbers; got dtype {features.dtype} with values "
            f"of type {', '.join(kinds)}. Encode texts and categories, as OneHotEncoder does, and "
            "give complex numbers as their real and imaginary parts, side by side."
        )
    return features.astype(np.promote_types(features.dtype, np.float32), copy=False)
