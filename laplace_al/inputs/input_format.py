"""The inputs that an estimator was fitted on: its extractor, and the columns of X."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Features
from laplace_al.inputs.blocks import check_unmasked, check_whole, is_by_name
from laplace_al.inputs.features import TorchFeatures
from laplace_al.inputs.known import Extracted, feature_dtype
from laplace_al.inputs.networks import network_of


@dataclass(frozen=True, eq=False)
class InputFormat:
    """The format of X that a fit has seen, and how X becomes features.

    Parameters
    ----------
    extractor : TorchFeatures or None
        None: X holds the features.
    n_features_in : int or None
        Number of columns of X, if it has columns.
    feature_names_in : ndarray of shape (n_features_in,) or None
        Their names, if all are texts.
    """

    extractor: TorchFeatures | None
    n_features_in: int | None = None
    feature_names_in: NDArray[Any] | None = None

    @classmethod
    def of_first(
        cls,
        X: Any,
        extractor: TorchFeatures | None,
        *,
        name: str,
        with_head: bool,
        train: Callable[[TorchFeatures, Any], None] | None = None,
    ) -> tuple[Self, NDArray[np.floating]]:
        """Return the format of the first inputs of an estimator of that name, and their features.

        ``with_head``: whether the last layer of the network is to be its function of the features.
        ``train`` trains the network on the validated inputs first.
        """
        columns = _columns(name, None, None)
        X = _validated(X, extractor, columns, reset=True, dtype=feature_dtype(X))
        if extractor is not None:
            extractor.probe(X)
            if train is not None:
                train(extractor, X)
                extractor.probe(X)
            if with_head:
                extractor.check_pretrained_head(X)
            X = extractor.extract(X)
        seen = vars(columns)
        return cls(extractor, seen.get("n_features_in_"), seen.get("feature_names_in_")), X

    def features(self, X: Any, *, name: str, dtype: Any = np.float64) -> Features:
        """Return the features (n, n_features) of further inputs, validated.

        Raises RuntimeError if the weights of the network have changed.
        """
        if self.extractor is not None:
            self.extractor.check_weights()
        if isinstance(X, Extracted):
            return X.features
        if self.extractor is None and type(X) is np.ndarray and X.dtype.kind in "biuf":
            X = X.astype(dtype, copy=False)
            if self._is_valid(X):
                return _forwards(X)
        columns = _columns(name, self.n_features_in, self.feature_names_in)
        X = _validated(X, self.extractor, columns, reset=False, dtype=dtype)
        return X if self.extractor is None else self.extractor.extract(X)

    def check_given(self, feature_extractor: Any) -> None:
        """Refuse an extractor that an estimator got since, but for a network of the same weights.

        Of two that are no networks it cannot be told whether they are alike; the first one stays.
        """
        own = None if self.extractor is None else self.extractor.feature_extractor
        given = feature_extractor
        if isinstance(given, TorchFeatures):
            given = given.feature_extractor
        if given is own:
            return
        mine, other = (None if each is None else network_of(each) for each in (own, given))
        if own is None or given is None or (mine is None) != (other is None):
            raise RuntimeError(
                f"feature_extractor is now {type(given).__name__}, but features were computed by "
                f"{type(own).__name__}. What was learnt on the old features means nothing on new "
                "ones. Fit again, or set the extractor back."
            )
        if self.extractor is not None and self.extractor.source_.weights is not None:
            self.extractor.source_.weights.check(other)

    def pool_features(self, X: Any, *, name: str, device: torch.device) -> torch.Tensor:
        """Return features (n_pool, n_features) in their own dtype, without a copy if possible."""
        features = self.features(X, name=name, dtype=feature_dtype(X))
        if isinstance(features, np.ndarray):
            if min(features.strides) < 0:  # of a reversed array, which torch has no form for
                features = features.copy()
            if not features.flags.writeable:
                features = np.asarray(_Writeable(features))
        return torch.as_tensor(features, device=device)

    def _is_valid(self, X: NDArray[Any]) -> bool:
        """Return whether validation would find nothing to do, told in a fraction of its time."""
        return (
            X.dtype in (np.float64, np.float32)
            and X.ndim == 2
            and X.shape[1] == self.n_features_in
            and len(X) > 0
            and self.feature_names_in is None
            and bool(np.isfinite(X).all())
        )


def _validated(
    X: Any,
    extractor: TorchFeatures | None,
    columns: BaseEstimator,
    *,
    reset: bool,
    dtype: Any = np.float64,
) -> Any:
    """Return X as scikit-learn's validation lets it pass, for the extractor if there is one."""
    if type(X) is not np.ndarray:
        check_whole(X)
    if extractor is not None:
        return extractor.check_inputs(columns, X, reset=reset)
    if is_by_name(X):
        raise TypeError(
            f"X must be an array-like of rows; got {type(X).__name__}. Only a module or "
            "function as feature_extractor takes arrays by name; pass pandas.DataFrame(X) "
            "for columns."
        )
    check_unmasked(X)
    return _forwards(validate_data(columns, as_array(X), reset=reset, dtype=dtype))


def _columns(name: str, n_features_in: int | None, names: NDArray[Any] | None) -> BaseEstimator:
    """Return what scikit-learn reads and writes of the columns of X, for an estimator's name."""
    columns = _kind_of(name)()
    if n_features_in is not None:
        columns.n_features_in_ = n_features_in
    if names is not None:
        columns.feature_names_in_ = names
    return columns


@functools.cache
def _kind_of(name: str) -> type[BaseEstimator]:
    """Return a class of that name, which messages tell."""
    return type(name, (BaseEstimator,), {})


def _forwards(X: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return an array that torch takes: not one that is read backwards."""
    return np.ascontiguousarray(X) if min(X.strides) < 0 else X


class _Writeable:
    """An array that says it may be written to, which nobody does: torch warns of others."""

    def __init__(self, X: NDArray[Any]) -> None:
        self.X = X
        self.__array_interface__ = {**X.__array_interface__, "data": (X.ctypes.data, False)}
