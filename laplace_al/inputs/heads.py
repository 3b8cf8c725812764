"""Which layer of a network is its head, and whether the network's output is what the head makes."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from laplace_al._common.warn import warn_user
from laplace_al.inputs.networks import copied, held_still, layers_of

# Relative errors of a product of a layer, with the shortcuts that devices take.
_ERRORS = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Layers before the end of a network that are tried as its head, each by five passes.
_N_TRIED = 16


def main_output(output: Any) -> torch.Tensor:
    """Return the tensor of a network's output that stands for its classes, or its features.

    It is what is named ``logits``, else the first of a tuple, else the only matrix of a dict.
    """
    if isinstance(output, torch.Tensor):
        return output
    is_map = isinstance(output, Mapping)
    named = output.get("logits") if is_map else getattr(output, "logits", None)
    if isinstance(named, torch.Tensor):
        return named
    if isinstance(output, tuple | list) and output:
        return main_output(output[0])
    tensors = {n: v for n, v in output.items() if isinstance(v, torch.Tensor)} if is_map else {}
    matrices = [v for v in tensors.values() if v.ndim == 2 and v.is_floating_point()]
    if len(matrices) == 1:
        return matrices[0]
    got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
    raise ValueError(
        "feature_extractor must return a tensor, a tuple whose first is one, or something with "
        f"logits; got {type(output).__name__}{got and ' with ' + got}. Wrap the module in one "
        "whose forward returns the tensor that you want, or name a layer by "
        "TorchFeatures(module, layer=...)."
    )


def find_head(network: nn.Module, run: Callable[[], Any]) -> str:
    """Return the name of the layer whose input is the features, as runs on a few inputs show.

    It is the ``nn.Linear`` that the whole output of the network comes from, with nothing but affine
    functions, softmax or sigmoid behind it; or a module around several that is affine as a whole,
    as an adapter beside its layer is. The name is empty for a network that is itself an
    ``nn.Linear``, and for one without such a layer, whose output is the features; a warning tells
    if that may be a head of another kind.
    """
    calls, output = _watched(network, run)
    head = next(_heads(network, run, calls, output), None)
    kind = type(network).__name__
    choice = (
        "Name the layer whose output is the features: TorchFeatures(module, layer=...), one of "
        f"{layers_of(network)}, or layer='' for the output of the module."
    )
    if head is not None and isinstance(network.get_submodule(head), _ConvNd):
        raise ValueError(
            f"feature_extractor {kind} has the convolution {head!r} as its head, whose input "
            f"are maps. {choice}"
        )
    if head is not None:
        return head
    leaves = [
        name for name in calls if not any(True for _ in network.get_submodule(name).children())
    ]
    if not leaves:
        raise ValueError(
            f"feature_extractor {kind} calls no layer that can be watched; it is compiled or "
            f"scripted. Pass the module that it was made of. {choice}"
        )
    if not _is_plain_end(network.get_submodule(leaves[-1]), calls[leaves[-1]].made, output):
        warn_user(
            f"feature_extractor {kind} has no nn.Linear that makes its output, of shape "
            f"{tuple(output.shape)}: the output is taken for the features. If it is that of a "
            f"head of another kind, it should not be. {choice}"
        )
    return ""


class _Call(NamedTuple):
    """The first input and the output of a module."""

    given: Any
    made: Any


def _watched(network: nn.Module, run: Callable[[], Any]) -> tuple[dict[str, _Call], torch.Tensor]:
    """Return the last call of each module, in their order, and the output of the network."""
    calls: dict[str, _Call] = {}

    def record(name: str, given: Any, made: Any) -> None:
        calls.pop(name, None)
        calls[name] = _Call(given, copied(made))

    watch = {
        name: functools.partial(record, name)
        for name, module in network.named_modules()
        if not isinstance(module, torch.jit.ScriptModule)  # which calls no hook
    }
    return calls, copied(main_output(held_still(network, run, watch)))


def _heads(
    network: nn.Module, run: Callable[[], Any], calls: dict[str, _Call], output: torch.Tensor
) -> Iterator[str]:
    """Yield the names of the layers that make the output, the most certain first."""
    modules = dict(network.named_modules())
    makers = [name for name in reversed(calls) if isinstance(modules[name], nn.Linear | _ConvNd)]
    yield from (name for name in makers if _is_same(calls[name].made, output))
    yield from (n for n in makers[:_N_TRIED] if _makes_all(network, run, n, calls, makers))
    around = {name.rpartition(".")[0] for name in makers}
    yield from (
        name
        for name in calls
        if name and name in around and _is_same(calls[name].made, output)
        if _is_affine(network, modules[name], calls[name].given)
    )


def _is_same(made: Any, output: torch.Tensor) -> bool:
    """Return whether a layer has made the output, but for its shape and dtype."""
    if not isinstance(made, torch.Tensor) or made.numel() != output.numel():
        return False
    return torch.allclose(made.reshape(output.shape).to(output), output, 0, 0, equal_nan=True)


def _makes_all(
    network: nn.Module,
    run: Callable[[], Any],
    name: str,
    calls: Mapping[str, _Call],
    makers: Sequence[str],
) -> bool:
    """Return whether all of the output comes from a layer, by affine functions but at the end.

    The output of the layer is replaced by rows that are all alike: then those of the network must
    be alike, and not change with the other layers.
    """
    made = calls[name].made
    generator = torch.Generator().manual_seed(0)

    def outputs(row: torch.Tensor, *, disturbed: bool = False) -> torch.Tensor:
        def disturb(_: Any, output: torch.Tensor) -> torch.Tensor:
            return output + torch.randn(output.shape, generator=generator).to(output)

        watch = dict.fromkeys(makers, disturb) if disturbed else {}
        watch |= {name: lambda *_: row.expand_as(made).clone()}
        return main_output(held_still(network, run, watch)).double().cpu()

    one, other = (row.to(made) for row in _probes(made[:1].shape, generator))
    first = outputs(one)
    tolerance = _error_of(made) * float(first.abs().max())
    for twin in (first[:1].expand_as(first), outputs(one, disturbed=True)):
        if not torch.allclose(first, twin, rtol=0, atol=tolerance):
            return False
    rows = [first, *map(outputs, (other, one + other, torch.zeros_like(one)))]
    points = torch.stack([row[0] for row in rows])
    points = points if points.ndim > 1 else points[:, None]
    return any(_is_additive(logits, _error_of(made)) for logits in (points, _as_logits(points)))


def _is_affine(network: nn.Module, module: nn.Module, given: Any) -> bool:
    """Return whether a module is an affine function of its one input, a matrix."""
    if not isinstance(given, torch.Tensor) or given.ndim != 2 or not given.is_floating_point():
        return False
    one, other = (x.to(given) for x in _probes(given.shape, torch.Generator().manual_seed(0)))
    try:
        outputs = [
            held_still(network, functools.partial(module, x)).double()
            for x in (one, other, one + other, torch.zeros_like(one))
        ]
    except Exception:  # of whatever a module does that takes more or other inputs
        return False
    return _is_additive(torch.stack(outputs), _error_of(given))


def _probes(shape: Sequence[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two inputs of which no usual activation of the sum is the sum of activations."""
    one = torch.randn(shape, generator=generator)
    one = one + one.sign()
    return one, -one * (0.3 + 0.4 * torch.rand(shape, generator=generator))


def _is_additive(points: torch.Tensor, error: float) -> bool:
    """Return whether f(x) + f(y) = f(x + y) + f(0), for points (4, ..., K) in that order."""
    size = float((points - points[3]).abs().max())
    gap = float((points[0] + points[1] - points[2] - points[3]).abs().max())
    return size > 0 and gap <= error * size


def _as_logits(points: torch.Tensor) -> torch.Tensor:
    """Return logits of probabilities (..., K), up to a shift of all."""
    if is_distribution(points):
        points = points.clamp_min(torch.finfo(points.dtype).tiny).log()
    elif points.min() >= 0 and points.max() <= 1:
        points = points.logit(eps=torch.finfo(points.dtype).tiny)
    return points - points.mean(dim=-1, keepdim=True) if points.shape[-1] > 1 else points


def is_distribution(output: torch.Tensor) -> bool:
    """Return whether numbers (..., K) are >= 0 and sum to one."""
    sums = output.sum(dim=-1)
    is_one = torch.allclose(sums, torch.ones_like(sums), rtol=0, atol=0.02)
    return output.shape[-1] > 1 and bool((output >= 0).all()) and is_one


def _is_plain_end(module: nn.Module, made: Any, output: torch.Tensor) -> bool:
    """Return whether a network ends in a layer that is no head, perhaps pooled or normalised."""
    has_matrix = any(weight.ndim > 1 for weight in module.parameters())
    if has_matrix and not isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return False
    if not isinstance(made, torch.Tensor) or made.ndim < 2 or not made.is_floating_point():
        return False
    ends = [made, functional.normalize(made)]
    if made.ndim > 2:  # pooled over places
        ends += [
            made.flatten(2).mean(dim=2),
            made.flatten(1, -2).mean(dim=1),
            made[:, 0],
            made[:, -1],
        ]
    return any(_is_same(end, output) for end in ends)


def _error_of(*tensors: torch.Tensor) -> float:
    """Return the largest relative error of products of these dtypes."""
    return max(_ERRORS.get(tensor.dtype, 1e-3) for tensor in tensors)


def difference(
    features: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, output: torch.Tensor
) -> str | None:
    """Tell what a network's output is instead of the logits of its head; None if it is these.

    The head has weight (K, D), bias (K,) or None and features (n, D) of the same inputs. The output
    is that of the head if it is its logits up to a shift of all classes, or what softmax or, for
    one output, sigmoid make of them, within the rounding of the coarsest dtype.

    Examples
    --------
    >>> weight, features = torch.eye(3), torch.tensor([[1.0, 2.0, 4.0]])
    >>> difference(features, weight, None, torch.softmax(features, 1))
    >>> difference(features, weight, None, -features)
    '-1 times'
    """
    error = _error_of(features, weight, output)
    phi, w, z = (tensor.double().cpu() for tensor in (features, weight, output))
    b = torch.zeros(len(w)).double() if bias is None else bias.double().cpu()
    logits = phi @ w.T + b
    if z.numel() != logits.numel():
        return f"of shape {tuple(output.shape)} in place of {tuple(logits.shape)} from"
    z = z.reshape(logits.shape)
    # of sums of random signs, as those of rounding are
    size = (phi.square() @ w.T.square() + b.square()).sqrt().amax(dim=1, keepdim=True)
    floor = math.log(torch.finfo(output.dtype).tiny)

    def is_equal(ours: torch.Tensor, theirs: torch.Tensor, by: float = 1.0) -> bool:
        return bool(((ours - theirs).abs() <= 2 * error * (1e-3 + by * size)).all())

    if is_equal(_centred(logits), _centred(z)):  # also logits that look like probabilities
        return None
    if z.shape[1] == 1:
        chance = z.clamp(0, 1)
        log_chance = functional.logsigmoid(logits)
        if bool((z == chance).all()) and is_equal(
            log_chance.clamp_min(floor), chance.log().clamp_min(floor)
        ):
            return None
    elif is_distribution(z):
        theirs = z.log().clamp_min(floor)
        if is_equal(functional.log_softmax(logits, dim=1).clamp_min(floor), theirs):
            return None
        z = theirs
    ours, theirs = _centred(logits), _centred(z)
    if z.shape[1] > 1 and is_equal(logits.sigmoid(), z, by=0.0):
        return "a sigmoid for each class on its own of"
    slope = float((ours * theirs).sum() / ours.square().sum())
    if is_equal(slope * ours, theirs, by=max(1.0, abs(slope))):
        return f"{slope:.3g} times"
    same = [
        [j for j in range(len(w)) if is_equal(ours[:, j : j + 1], one[:, None])] for one in theirs.T
    ]
    if all(same) and len({found[0] for found in same}) == len(w):
        return f"in another order, {[found[0] for found in same]}, than"
    return f"off by up to {float((ours - theirs).abs().max()):.2g} from"


def _centred(logits: torch.Tensor) -> torch.Tensor:
    """Return logits (n, K) without a shift of all classes, which changes no probability."""
    return logits - logits.mean(dim=1, keepdim=True) if logits.shape[1] > 1 else logits
