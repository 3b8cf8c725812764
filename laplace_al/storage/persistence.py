"""A fitted classifier as a file: numbers and plain parameters, no code and no training data."""

import contextlib
import dataclasses
import hashlib
import math
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from laplace_al._common.typing import Path
from laplace_al._common.warn import warn_user
from laplace_al.inputs.classes import distinct_classes
from laplace_al.inputs.features import FeatureSource, TorchFeatures
from laplace_al.inputs.input_format import InputFormat
from laplace_al.inputs.known import weights_of
from laplace_al.inputs.labels import as_labels
from laplace_al.inputs.networks import Cast, check_layer, network_of
from laplace_al.inputs.weighted_labels import class_weight_keys
from laplace_al.model.calibration import Calibration
from laplace_al.model.fitted_model import FitReport, FittedModel, LooScore, Rules
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.memory import Memory
from laplace_al.model.posterior import LowRankPosterior, Posterior
from laplace_al.model.posterior.axes import Axes
from laplace_al.model.posterior.per_class import Pending
from laplace_al.model.posterior.whitened import Whitened
from laplace_al.model.priors import GaussianPrior, IsotropicPrior
from laplace_al.model.structures import STRUCTURES
from laplace_al.storage.archive import read_archive, write_archive
from laplace_al.storage.digests import fingerprint

_Tensors: TypeAlias = dict[str, torch.Tensor]

# Devices that torch itself knows: of others it imports a module by the name.
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,3})?")
# Labels no longer than this may be in an array that is wider than they are.
_WIDTH = 2**16
# Far above what labels make of a prior of standard deviation 1; beyond, numbers could overflow.
_LARGEST = {"prior_mean": 1e12, "stored_mean": 1e12, "mean": 1e12, "stored_root": 1e3, "root": 1e3}
# Kinds of NumPy dtypes that labels may have in a file, besides object: no longer than 8 bytes each.
_NUMERIC = "biuf"
_FLOATING = {
    str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


def save(
    path: Path,
    params: dict[str, Any],
    inputs: InputFormat,
    model: FittedModel,
    *,
    with_memory: bool,
) -> None:
    """Write the parameters of a classifier, and what it has learnt, to a file."""
    tensors = {
        "calibration.summed": torch.from_numpy(model.calibration.scores),
        **_tensors("posterior", model.posterior),
    }
    report, names = model.report, inputs.feature_names_in
    fitted = {
        "classes": _plain_labels(model.classes),
        "covariance": model.structure.name,
        "prior_precision": model.posterior.prior_precision,
        "variance_scale": model.calibration.variance_scale,
        "sampling_seed": model.seed,
        "has_intercept": model.has_intercept,
        "n_features_in": inputs.n_features_in,
        "feature_names_in": None if names is None else names.tolist(),
        "report": report._replace(loo_proba=None)._asdict(),
    }
    memory = model.memory if params["memory_size"] != 0 else None
    if memory is not None:
        if len(memory.features) and not with_memory:
            raise ValueError(
                f"memory_size={params['memory_size']}: {len(memory.features)} labelled instances "
                "are remembered, and their features would be in the file. Pass "
                "with_memory=True to write them, or set memory_size=0 to go on without them."
            )
        tensors |= _tensors("memory", memory) | _tensors("memory.prior", memory.prior)
    extractor = inputs.extractor
    document = {
        "params": _plain_params(params),
        "fitted": fitted,
        "extractor": None if extractor is None else _described(extractor)._asdict(),
    }
    write_archive(path, document, tensors)


class Saved:
    """A file of :func:`save`, read: the parameters of a classifier, and what it had learnt.

    ``name`` is that of its class, and ``device`` the one to use instead of that at saving.
    """

    def __init__(self, path: Path, name: str, device: str | torch.device | None) -> None:
        self._path, self._name = path, name
        self._document, self._tensors = read_archive(path)
        with self.checked():
            self.params = _params(self._document["params"], with_device=device is None)
            if device is not None:
                self.params["device"] = device
            described = self._document["extractor"]
            self._described = None if described is None else _Description(**described)
            self._cast = None if self._described is None else _cast(self._described)

    @contextlib.contextmanager
    def checked(self) -> Iterator[None]:
        """Say of which file it is that something in it is not as it must be."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise ValueError(
                f"path={str(self._path)!r} does not hold a {self._name} that this laplace_al can "
                f"read: {error!r}. Upgrade laplace_al, or save it again."
            ) from error

    def model(self, device: torch.device) -> FittedModel:
        """Return the model on a device; those who learn or predict give it their rules."""
        with self.checked():
            fitted = self._document["fitted"]
            classes = _labels(fitted["classes"])
            _check("classes", np.array_equal(distinct_classes(classes), classes))
            names = {name.split(".")[0] for name in self._tensors}
            unknown = names - {"calibration", "posterior", "memory"}
            _check(f"an array of {sorted(unknown)}", not unknown)
            seed = int(fitted["sampling_seed"])
            _check("sampling_seed", 0 <= seed < 2**31)
            tensors = {name: tensor.to(device) for name, tensor in self._tensors.items()}
            prior_precision = _positive(fitted, "prior_precision")
            posterior = _posterior(
                STRUCTURES[fitted["covariance"]].posterior,
                _part(tensors, "posterior"),
                prior_precision,
                likelihood_of(len(classes)).n_outputs,
            )
            memory = None
            if _part(tensors, "memory"):
                memory = _memory(tensors, posterior, len(classes))
            _check("has_intercept", isinstance(fitted["has_intercept"], bool))
            return FittedModel(
                posterior,
                classes,
                Rules(),
                _calibration(_part(self._tensors, "calibration"), fitted),
                fitted["has_intercept"],
                seed,
                memory,
                _report(fitted["report"]),
            )

    def inputs(self, extractor: TorchFeatures | None, model: FittedModel) -> InputFormat:
        """Return the format of the inputs, with the extractor that was passed made ready."""
        with self.checked():
            fitted, described = self._document["fitted"], self._described
            n_features_in, names = fitted["n_features_in"], fitted["feature_names_in"]
            if n_features_in is not None:
                _check("n_features_in", isinstance(n_features_in, int) and n_features_in >= 1)
            width = n_features_in if described is None else described.n_features
            _check("number of features", width == model.n_features)
            if names is not None:
                names = np.array(names, dtype=object)
                _check("feature_names_in", names.shape == (n_features_in,))
                _check("feature_names_in", all(isinstance(name, str) for name in names))
        if (described is None) != (extractor is None):
            pass_it = f"with a feature_extractor; pass it: {self._name}.load(path, ...)."
            leave_out = "without a feature_extractor: X are the features. Leave it out."
            raise ValueError(
                f"path={str(self._path)!r} was saved {leave_out if described is None else pass_it}"
            )
        if described is not None and extractor is not None:
            _attach(extractor, described, self._cast)
        return InputFormat(extractor, n_features_in, names)


def _calibration(tensors: _Tensors, fitted: dict[str, Any]) -> Calibration:
    """Return a calibration from its sums, if they may be sums of log probabilities."""
    _check_tensors(tensors, {"summed": Calibration().summed.shape}, torch.float64)
    calibration = Calibration(tensors["summed"].numpy(), _positive(fitted, "variance_scale"))
    _check("calibration", bool((calibration.scores <= 1e-6).all()))
    with np.errstate(all="ignore"):  # of sums that overflow
        _check("calibration", 0.01 <= calibration.variance_scale <= 100)
        _check("calibration", 0 < calibration.temperature < math.inf)
    return calibration


def _report(plain: dict[str, Any]) -> FitReport:
    """Return what a fit had found out."""
    report = FitReport(**plain)
    n_iter, score = report.n_iter, report.loo_score
    _check("n_iter", n_iter is None or (isinstance(n_iter, int) and n_iter >= 0))
    for value in (report.log_evidence, report.evidence_slope):
        _check("log_evidence", value is None or math.isfinite(float(value)))
    if score is not None:
        score = LooScore(*map(float, score))
        _check("loo_score", all(map(math.isfinite, score)))
    _check("loo_proba", report.loo_proba is None)
    return report._replace(loo_score=score)


class _Description(NamedTuple):
    """Describes an extractor: one that is equal in all of it makes the same features."""

    kind: str  # name of its class
    layer: str | None
    layer_in_use: str | None
    n_features: int
    weights: str | None  # SHA-256 of those of a network
    cast: tuple[bool, str] | None  # of what a network is called with
    content: str | None = None  # fingerprint of what is no network, where one can be had


def _check(name: str, is_right: bool) -> None:
    if not is_right:
        raise ValueError(f"{name} is not what a fit gives")


def _positive(fitted: dict[str, Any], name: str) -> float:
    value = float(fitted[name])
    _check(name, 0 < value < math.inf)
    return value


def _plain_params(params: dict[str, Any]) -> dict[str, Any]:
    params = {name: value for name, value in params.items() if name != "feature_extractor"}
    if isinstance(params["random_state"], np.random.RandomState):
        raise ValueError(
            "random_state is a RandomState, whose stream cannot continue in another process. Set "
            "an integer: set_params(random_state=0)."
        )
    if params["classes"] is not None:
        params["classes"] = _plain_labels(as_labels(params["classes"], "classes"))
    if isinstance(params["class_weight"], dict):
        weights = params["class_weight"]
        params["class_weight"] = {
            "labels": _plain_labels(class_weight_keys(weights)),
            "weights": [float(weight) for weight in weights.values()],
        }
    params["device"] = str(params["device"])
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in params.items()
    }


def _params(plain: dict[str, Any], *, with_device: bool) -> dict[str, Any]:
    params = dict(plain)
    device = params.get("device", "cpu")
    if with_device and not _DEVICE.fullmatch(device):
        raise ValueError(f"device={device!r}; load(..., device='cpu') takes another one")
    if params.get("classes") is not None:
        params["classes"] = _labels(params["classes"])
    if isinstance(params.get("class_weight"), dict):
        labels = _labels(params["class_weight"]["labels"]).tolist()
        weights = params["class_weight"]["weights"]
        _check("class_weight", all(0 <= float(weight) < math.inf for weight in weights))
        params["class_weight"] = dict(zip(labels, weights, strict=True))
    return params


def _plain_labels(labels: NDArray[Any]) -> dict[str, Any]:
    """Labels as JSON holds them, with their dtype."""
    return {"dtype": labels.dtype.str, "values": labels.tolist()}


def _labels(plain: dict[str, Any]) -> NDArray[Any]:
    dtype, values = np.dtype(plain["dtype"]), plain["values"]
    if dtype.kind not in _NUMERIC + "UO" or not all(
        isinstance(value, str | int | float) for value in values
    ):
        raise ValueError(f"labels of {dtype}")
    if dtype.itemsize > max(_WIDTH, np.array(values).dtype.itemsize):
        raise ValueError(f"labels of {dtype}, longer than they are")
    return as_labels(np.array(values, dtype=dtype))


def _tensors(prefix: str, value: Any) -> _Tensors:
    """Fields of a dataclass or named tuple that are tensors or hold some, by dotted name."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    else:
        fields = value._asdict()
    found = {f"{prefix}.{n}": v for n, v in fields.items() if isinstance(v, torch.Tensor)}
    for name, part in fields.items():
        if isinstance(part, Pending | Whitened | Axes):
            found |= _tensors(f"{prefix}.{name}", part)
    return found


def _part(tensors: _Tensors, prefix: str) -> _Tensors:
    """Tensors by what follows the prefix in their names."""
    return {
        name.removeprefix(prefix + "."): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix + ".")
    }


def _posterior(
    kind: type[Posterior], parts: _Tensors, prior_precision: float, n_outputs: int
) -> Posterior:
    """A posterior from its tensors, if these are what its structure has."""
    pending = _part(parts, "pending")
    mean = parts["stored_mean"]
    _check("stored_mean", mean.ndim == 2 and mean.numel() > 0)
    n_groups, size = kind.shape_of_root(len(mean), n_outputs)
    expected = {
        "stored_mean": (len(mean), n_outputs),
        "stored_root": (n_groups, size, size),
        "prior_mean": (len(mean), n_outputs),
    }
    optional: dict[str, Any] = {}
    if kind is LowRankPosterior:
        whitened = _part(parts, "whitened")
        optional["whitened"] = _whitened(whitened, len(mean), n_outputs, mean.dtype)
        expected |= {f"whitened.{name}": part.shape for name, part in whitened.items()}
    elif pending:
        optional["pending"] = Pending(**pending)
        n_pending = pending["directions"].shape[-1]
        expected |= {
            "pending.directions": (n_groups, size, n_pending),
            "pending.coupling": (n_groups, n_pending, n_pending),
            "pending.shift": (n_groups, size, 1),
        }
    _check_tensors(parts, expected, mean.dtype)
    posterior = kind(mean, parts["stored_root"], prior_precision, parts["prior_mean"], **optional)
    whole = dataclasses.replace(posterior)  # whose products are not kept
    for name, bound in _LARGEST.items():
        if name == "root" and kind is LowRankPosterior:
            continue  # a matrix for each class, which is nowhere made
        largest = float(torch.linalg.vector_norm(getattr(whole, name), math.inf))
        _check(name, largest * min(1.0, prior_precision**0.5) <= bound)  # not so of NaN
    if n_groups > 1:  # draws divide by the sum of the covariances
        total = (whole.root @ whole.root.mT).sum(dim=0)
        _check("stored_root", bool(torch.linalg.slogdet(total).logabsdet.isfinite()))
    return posterior


def _whitened(parts: _Tensors, size: int, n_outputs: int, dtype: torch.dtype) -> Whitened:
    """Whitened weights from their tensors, if these belong together."""
    axes = _part(parts, "axes")
    n_labels, rank = len(parts["basis"]), axes["directions"].shape[1]
    expected = {
        "axes.directions": (n_outputs, rank, size),
        "axes.variances": (n_outputs, rank),
        "axes.spread": (n_outputs,),
        "basis": (n_labels, size),
        "root": (n_outputs, n_labels, n_labels),
        "gain": (n_outputs, rank, n_labels),
        "rest": (n_outputs, rank, rank),
        "shift": (n_outputs, n_labels),
    }
    _check_tensors(parts, expected, dtype)
    for name in ("axes.variances", "axes.spread"):
        _check(f"whitened.{name}", bool(((parts[name] > 0) & parts[name].isfinite()).all()))
    for name in ("axes.directions", "basis"):
        _check(f"whitened.{name}", bool((parts[name].abs() <= 1 + 1e-3).all()))
    own = {name: part for name, part in parts.items() if name not in expected or "." not in name}
    return Whitened(Axes(**axes), **own)


def _memory(tensors: _Tensors, posterior: Posterior, n_classes: int) -> Memory:
    """Return the memory from its tensors."""
    memory, prior = _part(tensors, "memory"), _part(tensors, "memory.prior")
    stored_mean = tensors["posterior.stored_mean"]
    n = len(memory["features"])
    n_features, n_outputs = stored_mean.shape
    expected = {"features": (n, n_features), "targets": (n, n_outputs), "weights": (n,)}
    if "precision" in prior:
        n_groups = len(posterior.stored_root)
        if isinstance(posterior, LowRankPosterior):
            n_groups = stored_mean.shape[1]
        expected |= {
            "prior.precision": (n_groups, *posterior.stored_root.shape[1:]),
            "prior.reference": tuple(stored_mean.shape),
            "prior.slope": tuple(stored_mean.shape),
        }
        prior = GaussianPrior(**prior)
    else:
        expected |= {"prior.mean": tuple(stored_mean.shape)}
        prior = IsotropicPrior(prior["mean"], posterior.prior_precision)
    _check_tensors(memory, expected, stored_mean.dtype)
    targets = memory["targets"]
    sums = targets.sum(dim=1) if targets.shape[1] > 1 else torch.ones(n)
    _check("memory", bool(((targets >= 0) & (targets <= 1)).all()))
    _check("memory", bool(((sums - 1).abs() <= torch.finfo(targets.dtype).eps ** 0.5).all()))
    _check("memory", bool((memory["weights"] >= 0).all()))
    return Memory(memory["features"], memory["targets"], memory["weights"], prior)


def _check_tensors(
    tensors: _Tensors, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    """Refuse other names, shapes or dtypes, and numbers that are not finite."""
    if tensors.keys() != shapes.keys() or dtype not in (torch.float32, torch.float64):
        raise ValueError(f"arrays {sorted(tensors)} of {dtype}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != dtype or not tensor.isfinite().all():
            raise ValueError(
                f"array {name} of shape {tuple(tensor.shape)} and {tensor.dtype}, expected finite "
                f"numbers of shape {shape} and {dtype}"
            )


def _described(extractor: TorchFeatures) -> "_Description":
    network, cast = network_of(extractor.feature_extractor), extractor.source_.cast
    return _Description(
        type(extractor.feature_extractor).__name__,
        extractor.layer,
        extractor.layer_,
        int(extractor.source_.n_features),
        None if network is None else _digest_of_weights(network),
        None if cast is None else (cast.keeps_integers, str(cast.floating)),
        None if network is not None else _content(extractor.feature_extractor),
    )


def _content(feature_extractor: Any) -> str | None:
    with contextlib.suppress(TypeError):  # of what cannot be told from others
        return fingerprint(feature_extractor)
    return None


def _cast(described: "_Description") -> Cast | None:
    if described.cast is None:
        _check("cast", described.weights is None)
        return None
    keeps_integers, floating = described.cast
    return Cast(bool(keeps_integers), _FLOATING[floating])


def _attach(extractor: TorchFeatures, described: "_Description", cast: Cast | None) -> None:
    """Make an extractor ready, if it is like the one that was described."""
    network = network_of(extractor.feature_extractor)
    if (network is None) != (described.weights is None) or extractor.layer != described.layer:
        raise ValueError(
            f"feature_extractor must be like the one that it was saved with, {described.kind} "
            f"with layer={described.layer!r}; got "
            f"{type(extractor.feature_extractor).__name__} with layer={extractor.layer!r}. Another "
            "layer is named by TorchFeatures(module, layer=...)."
        )
    if network is not None and described.layer_in_use:
        check_layer(network, described.layer_in_use)
    if network is not None and _digest_of_weights(network) != described.weights:
        warn_user(
            f"feature_extractor {type(network).__name__} has other weights than when the "
            "classifier was saved: it was trained further, cast or reinitialised. The features "
            "differ, and what was learnt on the old ones may mean nothing on these.",
        )
    if described.content is not None and _content(extractor.feature_extractor) != described.content:
        warn_user(
            f"feature_extractor {type(extractor.feature_extractor).__name__} is not what it was "
            "when the classifier was saved: it was fitted on other data, has other settings or "
            "another name, or comes from another module or version of its library or of Python. "
            "If the features differ, what was learnt on the old ones may mean nothing on these; "
            "if they are the same, save the classifier again.",
        )
    extractor.source_ = FeatureSource(
        described.layer_in_use, cast, weights_of(extractor), described.n_features
    )


def _digest_of_weights(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers of a module."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
    return digest.hexdigest()
