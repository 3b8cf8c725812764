"""Features of inputs as arrays: known already, kept, or computed before any fit."""

from collections.abc import Sequence
from typing import Any, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_array
from torch import nn

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Instances
from laplace_al.inputs.blocks import check_unmasked, concatenated, n_rows
from laplace_al.inputs.features import TorchFeatures, share
from laplace_al.inputs.network_weights import Weights
from laplace_al.inputs.networks import network_of

_Known: TypeAlias = dict[int, tuple[Instances, NDArray[np.floating]]]


class Extracted:
    """Features (n, D) that are already known, to pass in place of their inputs."""

    def __init__(self, features: NDArray[np.floating] | torch.Tensor) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)


class FeatureCache:
    """Features of inputs that are asked for again and again: each object is extracted once.

    The objects must stay as they are. A copy knows none. Features are those of one network: when a
    transformer with another one comes, all are forgotten.
    """

    def __init__(self) -> None:
        # by identity, beside the object itself so that no other can get its place
        self._known: tuple[Any, _Known] = (None, {})

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

    def of(self, inputs: Sequence[Instances], transformer: Any) -> list[NDArray[np.floating]]:
        """Return the features of each of some inputs of one kind, new ones made in one pass.

        The transformer may be a classifier, whose network makes its features.
        """
        known = self._known_of(transformer)
        new = [X for X in inputs if id(X) not in known]
        if new:
            rows = transformer.transform(concatenated(new) if len(new) > 1 else new[0])
            stops = np.cumsum([n_rows(X) for X in new])
            for X, features in zip(new, np.split(rows, stops[:-1]), strict=True):
                known[id(X)] = X, features
        return [known[id(X)][1] for X in inputs]

    def _known_of(self, transformer: Any) -> _Known:
        """Return what is known under the network of a transformer; threads may ask for several."""
        extractor = getattr(transformer, "extractor_", None)
        network = getattr(extractor, "feature_extractor", None)
        made_by, known = self._known
        if made_by is not network:
            known = {}
            self._known = network, known
        return known


def weights_of(feature_extractor: Any) -> Weights | None:
    """Return the weights that features are made with, None if there is no network."""
    network = _network_in(feature_extractor)
    return None if network is None else Weights(network)


def check_weights(weights: Weights | None, feature_extractor: Any) -> None:
    """Refuse features that were made with other weights than an extractor now has."""
    if weights is not None:
        weights.check(_network_in(feature_extractor))


def _network_in(feature_extractor: Any) -> nn.Module | None:
    """Return the network of an extractor, which may be a ``TorchFeatures`` or None."""
    if isinstance(feature_extractor, TorchFeatures):
        feature_extractor = feature_extractor.feature_extractor
    return None if feature_extractor is None else network_of(feature_extractor)


def features_of(feature_extractor: Any, X: Any, **params: Any) -> NDArray[np.floating]:
    """Return validated features (n, D) of X before any classifier was fitted.

    Without an extractor X are the features; ``params`` are those of :class:`TorchFeatures`, which
    an extractor that is one itself has already.
    """
    if feature_extractor is None:
        check_unmasked(X)
        return check_array(as_array(X), dtype=feature_dtype(X))
    is_one = isinstance(feature_extractor, TorchFeatures)
    extractor = share(feature_extractor) if is_one else TorchFeatures(feature_extractor, **params)
    X = extractor.check_inputs(extractor, X, reset=True)
    # not by fit_transform, whose container is what scikit-learn is configured to put out
    return extractor.probe(X).extract(X)


def feature_dtype(X: Any) -> Any:
    """Return the dtype to validate features of a pool as, never wider than it need be.

    This is float32 for numbers that it holds exactly, else float64, and both where that is not
    known.
    """
    X = as_array(X)
    dtypes = [X.dtype] if hasattr(X, "dtype") else list(getattr(X, "dtypes", []))
    are_known = all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in dtypes)
    if not dtypes or not are_known:
        return np.float64, np.float32
    return np.float32 if np.result_type(np.float32, *dtypes) == np.float32 else np.float64
