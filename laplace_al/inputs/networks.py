"""Run a frozen network, see inside it, and check the features that come out."""

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import issparse
from torch import nn

from laplace_al._common.devices import as_array

Batch: TypeAlias = NDArray[Any] | dict[str, NDArray[Any]]
_Result = TypeVar("_Result")

# Hooks and training flags belong to a module that threads may share: one forward at a time.
_FORWARD_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # a child has no other thread that would give it back
    os.register_at_fork(
        before=_FORWARD_LOCK.acquire,
        after_in_parent=_FORWARD_LOCK.release,
        after_in_child=_FORWARD_LOCK.release,
    )


def network_of(extractor: Any) -> nn.Module | None:
    """Return the module inside a feature extractor, None for a transformer or callable."""
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
    """Return the name of a layer if the module has such a layer, empty for the module itself."""
    names = layers_of(network)
    if layer and layer not in names:
        raise ValueError(
            f"layer={layer!r} is not a layer of {type(network).__name__}. Its layers are: {names}; "
            "layer='' is its output."
        )
    return layer


def layers_of(network: nn.Module) -> list[str]:
    """Return the names of the layers of a module."""
    return [name for name, _ in network.named_modules() if name]


def held_still(
    network: nn.Module | None,
    call: Callable[[], _Result],
    watch: Mapping[str, Callable[[Any, Any], Any]] | None = None,
) -> _Result:
    """Call a function without gradients while a module is in eval mode and its layers are watched.

    No other thread runs the module meanwhile. After each call of a layer that is watched, its
    function gets the first input and the output, and may return another output to go on with.
    Whatever happens, a signal at any instant included, nothing of this is left afterwards.
    """
    if network is None:
        has_gradients = torch.is_grad_enabled()
        return _before(
            lambda: torch.set_grad_enabled(has_gradients), lambda: _without_gradients(call)
        )
    hooks = {network.get_submodule(n): _hook(then) for n, then in (watch or {}).items()}
    with _FORWARD_LOCK:
        flags = [(module, module.training) for module in network.modules()]
        has_gradients = torch.is_grad_enabled()

        def put_back() -> None:
            for module, training in flags:
                if module.training is not training:
                    module.training = training
            for layer, hook in hooks.items():
                _remove(layer, hook)
            torch.set_grad_enabled(has_gradients)

        def run() -> _Result:
            network.eval()
            for layer, hook in hooks.items():
                layer.register_forward_hook(hook, with_kwargs=True)
            return _without_gradients(call)

        return _before(put_back, run)


def _before(undo: Callable[[], object], call: Callable[[], _Result]) -> _Result:
    """Call a function, then one that undoes: twice, for a signal may interrupt the first time."""
    try:
        try:
            return call()
        finally:
            undo()
    finally:
        undo()


def _without_gradients(call: Callable[[], _Result]) -> _Result:
    """Call a function without gradients, which the caller turns on again."""
    torch.set_grad_enabled(False)
    return call()


def _hook(then: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a forward hook that passes on the first input, however named, and the output."""

    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return then(next(iter((*args, *kwargs.values())), None), output)

    return hook


def _remove(layer: nn.Module, hook: Callable[..., Any]) -> None:
    """Remove a hook, whether or not its handle was ever returned."""
    for key in [key for key, value in layer._forward_hooks.items() if value is hook]:
        layer._forward_hooks_with_kwargs.pop(key, None)
        layer._forward_hooks.pop(key, None)


def copied(value: Any) -> Any:
    """Return a copy of a tensor, on which a later layer may work in place; else the value."""
    return value.clone() if isinstance(value, torch.Tensor) else value


class Cast(NamedTuple):
    """How numbers are cast for a module: integers to int64 or not, others to a floating dtype."""

    keeps_integers: bool
    floating: torch.dtype


def find_cast(network: nn.Module, batch: Batch, run: Callable[[Cast], object]) -> Cast:
    """Return the first cast with which a module runs on a few inputs.

    Integers are tokens or numbers, which only the module knows: they are tried as tokens first
    where it has an embedding, or gets arrays by name. In a module of mixed precision, floating
    numbers go into a layer of any of its dtypes: wide ones are tried first. If none runs, the first
    error is raised.
    """
    casts = _possible_casts(network, batch)
    if len(casts) == 1:
        return casts[0]
    errors = []
    for cast in casts:
        try:
            held_still(network, functools.partial(run, cast))
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            errors.append(error)
        else:
            return cast
    raise errors[0]


def _possible_casts(network: nn.Module, batch: Batch) -> list[Cast]:
    """Return the casts to try, in their order."""
    floating = {tensor.dtype for tensor in network.parameters() if tensor.is_floating_point()}
    floating = floating or {t.dtype for t in network.buffers() if t.is_floating_point()}
    floating = floating or {torch.get_default_dtype()}
    widest_first = sorted(floating, key=lambda dtype: (-torch.finfo(dtype).bits, str(dtype)))
    is_named = isinstance(batch, dict)
    kinds = {a.dtype.kind for a in (batch.values() if isinstance(batch, dict) else [batch])}
    if not kinds & set("iub" if is_named else "iu"):
        return [Cast(False, dtype) for dtype in widest_first]
    embeds = any(isinstance(m, nn.Embedding | nn.EmbeddingBag) for m in network.modules())
    first = is_named or embeds
    return [Cast(keeps, dtype) for keeps in (first, not first) for dtype in widest_first]


def as_input(network: nn.Module, batch: Batch, cast: Cast) -> Any:
    """Return copies of arrays as tensors, cast, on the device of a module."""
    tensor = next(iter([*network.parameters(), *network.buffers()]), torch.empty(0))
    return as_tensors(batch, cast, tensor.device)


def as_tensors(batch: Batch, cast: Cast, device: torch.device | str = "cpu") -> Any:
    """Return copies of arrays as tensors, cast, on a device."""

    def converted(array: NDArray[Any]) -> torch.Tensor:
        dtype = cast.floating
        if cast.keeps_integers and array.dtype.kind in "iu":
            dtype = torch.int64
        elif cast.keeps_integers and array.dtype.kind == "b":
            dtype = torch.bool
        kind, n_bytes = array.dtype.kind, array.dtype.itemsize
        # torch has numbers in the order of bytes of the machine, of at most 8 bytes
        native = f"{kind}{min(n_bytes, 8)}" if kind in "biuf" else array.dtype
        return torch.as_tensor(np.array(array, dtype=native)).to(device, dtype)

    if isinstance(batch, dict):
        return {name: converted(array) for name, array in batch.items()}
    return converted(batch)


def check_features(features: Any, start: int, stop: int) -> NDArray[np.floating]:
    """Return what an extractor made of rows ``start`` to ``stop`` as an array (stop - start, D).

    It must be finite real numbers, and becomes float32 or float64.
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
    """Return real numbers as float32 or float64, objects as frames of several dtypes give too."""
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
    # torch has nothing wider
    dtype = np.float32 if np.can_cast(features.dtype, np.float32) else np.float64
    return features.astype(dtype, copy=False)
