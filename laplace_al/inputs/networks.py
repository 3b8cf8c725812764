"""Run a frozen network, see inside it, and check the features that come out."""

import contextlib
import functools
import hashlib
import itertools
import operator
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
_VALUES = operator.methodcaller("values")
_VERSION = operator.attrgetter("_version")  # counts writes in place

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
        Empty for the module itself.

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
    names = layers_of(network)
    if layer and layer not in names:
        raise ValueError(
            f"layer={layer!r} is not a layer of {type(network).__name__}. Its layers are: {names}; "
            "layer='' is its output."
        )
    return layer


def layers_of(network: nn.Module) -> list[str]:
    """Names of the layers of a module.

    Parameters
    ----------
    network : nn.Module

    Returns
    -------
    list of str

    Examples
    --------
    >>> layers_of(nn.Sequential(nn.ReLU(), nn.Linear(2, 1)))
    ['0', '1']
    """
    return [name for name, _ in network.named_modules() if name]


def held_still(
    network: nn.Module | None,
    call: Callable[[], _Result],
    watch: Mapping[str, Callable[[Any, Any], Any]] | None = None,
) -> _Result:
    """Call a function without gradients while a module is in eval mode and its layers are watched.

    Whatever happens, a signal at any instant included, nothing of this is left afterwards.

    Parameters
    ----------
    network : nn.Module or None
        No other thread runs it meanwhile. None: there is none.
    call : callable
    watch : dict of str to callable, default=None
        What is called, after each call of a layer, with its first input and its output. It may
        return another output to go on with.

    Returns
    -------
    object
        What the function returns.

    Examples
    --------
    >>> network, seen = nn.Sequential(nn.Dropout(), nn.Flatten()), []
    >>> watch = {"0": lambda *both: seen.append(both)}
    >>> held_still(network, lambda: network(torch.ones(1, 1)), watch)
    tensor([[1.]])
    >>> seen, network.training
    ([(tensor([[1.]]), tensor([[1.]]))], True)
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
    torch.set_grad_enabled(False)
    return call()


def _hook(then: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return then(next(iter((*args, *kwargs.values())), None), output)

    return hook


def _remove(layer: nn.Module, hook: Callable[..., Any]) -> None:
    """Remove a hook, whether or not its handle was ever returned."""
    for key in [key for key, value in layer._forward_hooks.items() if value is hook]:
        layer._forward_hooks_with_kwargs.pop(key, None)
        layer._forward_hooks.pop(key, None)


def copied(value: Any) -> Any:
    """A tensor as it is now, for a later layer may work in place; anything else as it is.

    Parameters
    ----------
    value : object

    Returns
    -------
    object

    Examples
    --------
    >>> value = torch.ones(1)
    >>> copied(value) is value, copied("text")
    (False, 'text')
    """
    return value.clone() if isinstance(value, torch.Tensor) else value


class Cast(NamedTuple):
    """What numbers become before a module is called with them.

    Parameters
    ----------
    keeps_integers : bool
        Whether integers become int64, and not floating.
    floating : torch.dtype
    """

    keeps_integers: bool
    floating: torch.dtype


def find_cast(network: nn.Module, batch: Batch, run: Callable[[Cast], object]) -> Cast:
    """Find out by trial what a module takes.

    Integers are tokens or numbers, which only the module knows; in one of mixed precision,
    floating numbers go into a layer of any of its dtypes.

    Parameters
    ----------
    network : nn.Module
    batch : ndarray, or dict of ndarrays
        A few inputs.
    run : callable
        Runs the module on them.

    Returns
    -------
    Cast
        The first to run. Integers are tried as such first where the module has an embedding, or
        gets arrays by name, and wide dtypes before narrow ones.

    Raises
    ------
    Exception
        Of the module, if it runs with none.

    Examples
    --------
    >>> tokens, network = np.array([[1]]), nn.Sequential(nn.LayerNorm(2), nn.Embedding(5, 2))[1:]
    >>> find_cast(network, tokens, lambda cast: network(as_input(network, tokens, cast)))
    Cast(keeps_integers=True, floating=torch.float32)
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
    """Numbers as tensors on the device of a module.

    Parameters
    ----------
    network : nn.Module
    batch : ndarray, or dict of ndarrays
    cast : Cast

    Returns
    -------
    Tensor, or dict of Tensors
        Copies.

    Examples
    --------
    >>> as_input(nn.ReLU(), np.array([[1]]), Cast(False, torch.float32))
    tensor([[1.]])
    >>> as_input(nn.ReLU(), {"ids": np.array([[1]])}, Cast(True, torch.float32))
    {'ids': tensor([[1]])}
    """
    tensor = next(iter([*network.parameters(), *network.buffers()]), torch.empty(0))

    def converted(array: NDArray[Any]) -> torch.Tensor:
        dtype = cast.floating
        if cast.keeps_integers and array.dtype.kind in "iu":
            dtype = torch.int64
        elif cast.keeps_integers and array.dtype.kind == "b":
            dtype = torch.bool
        kind, n_bytes = array.dtype.kind, array.dtype.itemsize
        # torch has numbers in the order of bytes of the machine, of at most 8 bytes
        native = f"{kind}{min(n_bytes, 8)}" if kind in "biuf" else array.dtype
        return torch.as_tensor(np.array(array, dtype=native)).to(tensor.device, dtype)

    if isinstance(batch, dict):
        return {name: converted(array) for name, array in batch.items()}
    return converted(batch)


class Weights:
    """The weights of a module as they were, to notice at little cost that they have changed.

    Parameters
    ----------
    network : nn.Module

    Examples
    --------
    >>> network = nn.Linear(2, 1)
    >>> before = Weights(network)
    >>> before.are_those_of(network)
    True
    >>> _ = nn.init.zeros_(network.weight)
    >>> before.are_those_of(network)
    False
    """

    def __init__(self, network: nn.Module) -> None:
        self._digest = _digest(network)
        self._note(network)

    def __getstate__(self) -> dict[str, Any]:
        # addresses mean nothing elsewhere
        return {"_digest": self._digest, "_parts": [], "_places": []}

    def are_those_of(self, network: nn.Module) -> bool:
        """Whether a module has these weights.

        Parameters
        ----------
        network : nn.Module

        Returns
        -------
        bool
            True if each tensor is where it was, unwritten and with the same number in its middle,
            or else if eight numbers of each are the same. Fused optimisers, batch norms and writes
            to ``.data`` do not count as writing.
        """
        if self._is_untouched(network):
            return True
        if _digest(network) != self._digest:
            return False
        self._note(network)
        return True

    def _is_untouched(self, network: nn.Module) -> bool:
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
    """Whether features depend on it, other than on numbers of calls."""
    return isinstance(part, nn.Parameter) or (
        isinstance(part, torch.Tensor) and part.is_floating_point()
    )


def _digest(network: nn.Module) -> bytes:
    """Of the kinds of layers, and of dtype, shape and eight spaced numbers of each tensor."""
    layers = [(name, type(module).__qualname__) for name, module in network.named_modules()]
    digest = hashlib.sha256(repr(layers).encode())
    for tensor in filter(_is_weight, [*network.parameters(), *network.buffers()]):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // 8)].cpu().contiguous()
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(some.view(torch.uint8).numpy().data)
    return digest.digest()


def check_features(features: Any, start: int, stop: int) -> NDArray[np.floating]:
    """What an extractor returned for the rows ``start`` to ``stop``, as a finite array.

    Parameters
    ----------
    features : Tensor, array-like or sparse matrix
    start, stop : int

    Returns
    -------
    ndarray of shape (stop - start, D)
        float32 or float64.

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
    """Real numbers as float32 or float64; objects, which frames of several dtypes give, too."""
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
