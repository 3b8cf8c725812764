"""A fitted classifier as a file: numbers and plain parameters, no code and no training data."""

import contextlib
import dataclasses
import hashlib
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import nn

from laplace_al._common.devices import available_device
from laplace_al._common.transaction import on_one_state
from laplace_al._common.typing import Path
from laplace_al.inputs.features import TorchFeatures, weights_of
from laplace_al.inputs.labels import as_labels, class_weight_keys, distinct_classes
from laplace_al.inputs.networks import Cast, check_layer, network_of
from laplace_al.model.calibration import Calibration
from laplace_al.model.fitting import LooScore
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.memory import Memory
from laplace_al.model.posterior import Posterior
from laplace_al.model.posterior.per_class import Pending
from laplace_al.model.priors import GaussianPrior, IsotropicPrior
from laplace_al.model.structures import STRUCTURES
from laplace_al.storage.archive import read_archive, write_archive
from laplace_al.storage.digests import fingerprint

_Tensors: TypeAlias = dict[str, torch.Tensor]

# Numbers beside the arrays: the type of each, and what it may be.
_OTHERS: dict[str, tuple[type, Callable[[Any], bool]]] = {
    "n_features_in_": (int, lambda number: number >= 1),
    "n_iter_": (int, lambda number: number >= 0),
    "log_marginal_likelihood_value_": (float, math.isfinite),
    "_evidence_slope": (float, math.isfinite),
    "_has_intercept": (bool, lambda value: True),
}
# Devices that torch itself knows: of others it imports a module by the name.
_DEVICE = re.compile(r"(cpu|cuda|mps|xpu)(:\d{1,3})?")
# Labels no longer than this may be in an array that is wider than they are.
_WIDTH = 2**16
# Far above what labels make of a prior of standard deviation 1; beyond, numbers could overflow.
_LARGEST = {"prior_mean": 1e12, "base_mean": 1e12, "mean": 1e12, "base": 1e3, "root": 1e3}
# Kinds of NumPy dtypes that labels may have in a file, besides object: no longer than 8 bytes each.
_NUMERIC = "biuf"
_FLOATING = {
    str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
}


class SaveLoadMixin:
    """``save`` and ``load`` of a :class:`laplace_al.LaplaceUpdateClassifier`."""

    # what that one has
    classes_: NDArray[Any]
    covariance_: str
    device: str | torch.device
    extractor_: TorchFeatures | None
    feature_names_in_: NDArray[np.object_]
    loo_score_: LooScore
    fit_intercept: bool
    memory_size: int | None
    n_features_in_: int
    posterior_: Posterior
    prior_precision_: float
    _calibration: Calibration
    _check_params: Callable[[], tuple[Any, ...]]
    _make_extractor: Callable[[], TorchFeatures | None]
    _has_intercept: bool
    _memory: Memory | None
    _passed_params: tuple[Any, ...]
    _sampling_seed: int

    @on_one_state
    def save(self, path: Path, *, with_memory: bool = False) -> None:
        """Write what was learnt to a file that can be read without running code from it.

        The file is a safetensors file, with posterior and calibration as arrays, and parameters and
        classes as JSON. It is written durably and atomically: a crash leaves either the previous
        file or the new one. A previous file keeps its permissions, and its owner where the system
        allows it. The file does not contain the ``feature_extractor``, nor ``loo_proba_``,
        which has a row for each training instance.

        Parameters
        ----------
        path : str or path-like
            Its folder must exist; a file of that name is replaced. What is no file, such as a pipe
            or ``/dev/stdout``, is written to.
        with_memory : bool, default=False
            Whether to write the features and labels of the instances that ``memory_size`` keeps,
            which are training data.

        Raises
        ------
        ValueError
            If instances are kept in the memory and ``with_memory`` is not set, or a parameter or
            label is of a kind that JSON cannot hold.
        OSError
            If the file cannot be written. A previous file is then unchanged.

        See Also
        --------
        load : Reads the file.

        Examples
        --------
        >>> import tempfile
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], ["no", "yes"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.save(folder + "/clf.safetensors")
        ...     LaplaceUpdateClassifier.load(folder + "/clf.safetensors").predict([[3.0]])
        array(['yes'], dtype='<U3')
        """
        check_is_fitted(self)
        tensors = {
            "calibration.read": torch.from_numpy(self._calibration.scores),
            **_tensors("posterior", self.posterior_),
        }
        fitted = {
            "classes": _plain_labels(self.classes_),
            "covariance": self.covariance_,
            "prior_precision": self.prior_precision_,
            "variance_scale": self._calibration.variance_scale,
            "sampling_seed": self._sampling_seed,
            "feature_names_in": getattr(self, "feature_names_in_", np.empty(0)).tolist(),
            "loo_score": getattr(self, "loo_score_", None),
            "others": {name: getattr(self, name) for name in _OTHERS if hasattr(self, name)},
        }
        memory = self._memory if self.memory_size != 0 else None
        if memory is not None:
            if len(memory.features) and not with_memory:
                raise ValueError(
                    f"memory_size={self.memory_size}: {len(memory.features)} labelled instances "
                    "are remembered, and their features would be in the file. Pass "
                    "with_memory=True to write them, or set memory_size=0 to go on without them."
                )
            tensors |= _tensors("memory", memory) | _tensors("memory.prior", memory.prior)
        document = {
            "params": _plain_params(self),
            "fitted": fitted,
            "extractor": None if self.extractor_ is None else _described(self.extractor_)._asdict(),
        }
        write_archive(path, document, tensors)

    @classmethod
    def load(
        cls, path: Path, feature_extractor: Any = None, *, device: str | torch.device | None = None
    ) -> Self:
        """Read a classifier from a file of :meth:`save`; nothing in the file is executed.

        On the same machine, it predicts bit for bit as the saved classifier. What both then learn
        may differ in the last digit of the temperature: it depends on when labels are read.

        Parameters
        ----------
        path : str or path-like
        feature_extractor : object, default=None
            The extractor that the classifier was fitted with: the same weights and layer.
        device : str or torch.device, default=None
            Device of the posterior. None: the device at the time of saving.

        Returns
        -------
        LaplaceUpdateClassifier

        Raises
        ------
        ValueError
            If the file is damaged, not a file of ``save`` or of a newer version, or the
            ``feature_extractor`` does not match it.
        OSError
            If the file cannot be read.

        Warns
        -----
        UserWarning
            If the weights of the network differ from those at the time of saving, or, for another
            extractor, its content: what a transformer has learnt, or the code of a function.

        See Also
        --------
        save : Writes the file.

        Examples
        --------
        See :meth:`save`.
        """
        document, tensors = read_archive(path)
        with _read_from(path, cls):
            params = _params(document["params"], with_device=device is None)
            classifier = cls(feature_extractor, **params)  # type: ignore[call-arg]  # of the subclass
            if device is not None:
                classifier.device = device
            classifier._passed_params = classifier._check_params()
            described = document["extractor"]
            described = None if described is None else _Description(**described)
            cast = None if described is None else _cast(described)
        device = available_device(classifier.device)
        with _read_from(path, cls):
            classifier._take_over(document["fitted"], tensors, described, device)
        if (described is None) != (feature_extractor is None):
            pass_it = f"with a feature_extractor; pass it: {cls.__name__}.load(path, ...)."
            leave_out = "without a feature_extractor: X are the features. Leave it out."
            raise ValueError(
                f"path={str(path)!r} was saved {leave_out if described is None else pass_it}"
            )
        classifier.extractor_ = classifier._make_extractor()
        if described is not None:
            assert classifier.extractor_ is not None  # made of the feature_extractor
            _attach(classifier.extractor_, described, cast)
        return classifier

    def _take_over(
        self,
        fitted: dict[str, Any],
        tensors: _Tensors,
        described: "_Description | None",
        device: torch.device,
    ) -> None:
        """Set the fitted attributes from a file."""
        self.classes_ = _labels(fitted["classes"])
        _check("classes", np.array_equal(distinct_classes(self.classes_), self.classes_))
        self.covariance_ = fitted["covariance"]
        self.prior_precision_ = _positive(fitted, "prior_precision")
        self._sampling_seed = int(fitted["sampling_seed"])
        _check("sampling_seed", 0 <= self._sampling_seed < 2**31)
        self._has_intercept = self.fit_intercept  # of a file that does not say it
        for name, value in fitted["others"].items():
            kind, is_right = _OTHERS[name]
            setattr(self, name, kind(value))
            _check(name, is_right(kind(value)))
        if fitted["loo_score"] is not None:
            self.loo_score_ = LooScore(*map(float, fitted["loo_score"]))
            _check("loo_score", all(map(math.isfinite, self.loo_score_)))
        unknown = {name.split(".")[0] for name in tensors} - {"calibration", "posterior", "memory"}
        _check(f"an array of {sorted(unknown)}", not unknown)
        read = _part(tensors, "calibration")
        _check_tensors(read, {"read": Calibration().read.shape}, torch.float64)
        self._calibration = Calibration(read["read"].numpy(), _positive(fitted, "variance_scale"))
        _check("calibration", bool((self._calibration.scores <= 1e-6).all()))  # of log p
        with np.errstate(all="ignore"):  # of sums that overflow
            _check("calibration", 0.01 <= self._calibration.variance_scale <= 100)
            _check("calibration", 0 < self._calibration.temperature < math.inf)
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        self.posterior_ = _posterior(
            STRUCTURES[self.covariance_].posterior,
            _part(tensors, "posterior"),
            self.prior_precision_,
            likelihood_of(len(self.classes_)).n_outputs,
        )
        self._memory = None
        if _part(tensors, "memory"):
            self._memory = _memory(tensors, self.prior_precision_, len(self.classes_))
        width = self.n_features_in_ if described is None else described.n_features
        n_features = self._n_features_out  # type: ignore[attr-defined]  # a property of the subclass
        _check("number of features", width == n_features)
        if fitted["feature_names_in"]:
            names = np.array(fitted["feature_names_in"], dtype=object)
            _check("feature_names_in", names.shape == (self.n_features_in_,))
            _check("feature_names_in", all(isinstance(name, str) for name in names))
            self.feature_names_in_ = names


class _Description(NamedTuple):
    """What an extractor must be like to make the same features."""

    kind: str  # name of its class
    layer: str | None
    layer_in_use: str | None
    n_features: int
    weights: str | None  # SHA-256 of those of a network
    cast: tuple[bool, str] | None  # of what a network is called with
    content: str | None = None  # fingerprint of what is no network, where one can be had


@contextlib.contextmanager
def _read_from(path: Path, cls: type) -> Iterator[None]:
    """Say of which file it is that something in it is not as it must be."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"path={str(path)!r} does not hold a {cls.__name__} that this laplace_al can read: "
            f"{error!r}. Upgrade laplace_al, or save it again."
        ) from error


def _check(name: str, is_right: bool) -> None:
    if not is_right:
        raise ValueError(f"{name} is not what a fit gives")


def _positive(fitted: dict[str, Any], name: str) -> float:
    value = float(fitted[name])
    _check(name, 0 < value < math.inf)
    return value


def _plain_params(classifier: Any) -> dict[str, Any]:
    params = classifier.get_params(deep=False)
    del params["feature_extractor"]
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
    if isinstance(fields.get("pending"), Pending):
        found |= _tensors(f"{prefix}.pending", fields["pending"])
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
    mean = parts["base_mean"]
    _check("base_mean", mean.ndim == 2 and mean.numel() > 0)
    n_groups, size = kind.shape_of_root(len(mean), n_outputs)
    expected = {
        "base_mean": (len(mean), n_outputs),
        "base": (n_groups, size, size),
        "prior_mean": (len(mean), n_outputs),
    }
    optional = {}
    if pending:
        optional["pending"] = Pending(**pending)
        n_pending = pending["directions"].shape[-1]
        expected |= {
            "pending.directions": (n_groups, size, n_pending),
            "pending.coupling": (n_groups, n_pending, n_pending),
            "pending.shift": (n_groups, size, 1),
        }
    _check_tensors(parts, expected, mean.dtype)
    posterior = kind(mean, parts["base"], prior_precision, parts["prior_mean"], **optional)
    whole = dataclasses.replace(posterior)  # whose products are not kept
    for name, bound in _LARGEST.items():
        largest = float(torch.linalg.vector_norm(getattr(whole, name), math.inf))
        _check(name, largest * min(1.0, prior_precision**0.5) <= bound)  # not so of NaN
    if n_groups > 1:  # draws divide by the sum of the covariances
        total = (whole.root @ whole.root.mT).sum(dim=0)
        _check("base", bool(torch.linalg.slogdet(total).logabsdet.isfinite()))
    return posterior


def _memory(tensors: _Tensors, prior_precision: float, n_classes: int) -> Memory:
    """What is remembered, from its tensors."""
    memory, prior = _part(tensors, "memory"), _part(tensors, "memory.prior")
    base_mean = tensors["posterior.base_mean"]
    n = len(memory["features"])
    expected = {"features": (n, len(base_mean)), "indices": (n,), "weights": (n,)}
    if "precision" in prior:
        expected |= {
            "prior.precision": tuple(tensors["posterior.base"].shape),
            "prior.reference": tuple(base_mean.shape),
            "prior.slope": tuple(base_mean.shape),
        }
        prior = GaussianPrior(**prior)
    else:
        expected |= {"prior.mean": tuple(base_mean.shape)}
        prior = IsotropicPrior(prior["mean"], prior_precision)
    _check_tensors(memory, expected, base_mean.dtype)
    places = memory["indices"]
    _check("memory", bool(((places >= 0) & (places < n_classes) & (places % 1 == 0)).all()))
    _check("memory", bool((memory["weights"] >= 0).all()))
    return Memory(memory["features"], memory["indices"], memory["weights"], prior)


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
    network = network_of(extractor.feature_extractor)
    return _Description(
        type(extractor.feature_extractor).__name__,
        extractor.layer,
        extractor.layer_,
        int(extractor._n_features_out),
        None if network is None else _digest_of_weights(network),
        None if network is None else (extractor._cast[0], str(extractor._cast[1])),
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
        warnings.warn(
            f"feature_extractor {type(network).__name__} has other weights than when the "
            "classifier was saved: it was trained further, cast or reinitialised. The features "
            "differ, and what was learnt on the old ones may mean nothing on these.",
            UserWarning,
            stacklevel=3,
        )
    if described.content is not None and _content(extractor.feature_extractor) != described.content:
        warnings.warn(
            f"feature_extractor {type(extractor.feature_extractor).__name__} is not what it was "
            "when the classifier was saved: it was fitted on other data, has other settings or "
            "code, or comes from another module or version of its library or of Python. If the "
            "features differ, what was learnt on the old ones may mean nothing on these; if they "
            "are the same, save the classifier again.",
            UserWarning,
            stacklevel=3,
        )
    if cast is not None:
        extractor._cast = cast
    extractor._weights = weights_of(extractor)
    extractor.layer_ = described.layer_in_use
    extractor._n_features_out = described.n_features


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
