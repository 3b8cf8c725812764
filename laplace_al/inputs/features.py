"""A frozen network, or anything else that makes features, as a scikit-learn transformer."""

import copy
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import nn
from torch.nn.parameter import is_lazy
from tqdm.auto import tqdm

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Inputs, Instances
from laplace_al.inputs.blocks import check_unmasked, is_by_name, n_rows, over_blocks, rows_at
from laplace_al.inputs.heads import difference, find_head, main_output
from laplace_al.inputs.network_weights import Weights
from laplace_al.inputs.networks import (
    Cast,
    as_input,
    check_features,
    check_layer,
    copied,
    find_cast,
    held_still,
    network_of,
)


class SharedExtractorMixin:
    """Copies of an estimator share its ``feature_extractor``: it is frozen and may be large.

    If ``train_extractor`` is set, it is not: it is then a parameter as any nested estimator is.
    """

    feature_extractor: Any
    train_extractor: bool = False
    get_params: Callable[..., dict[str, Any]]

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator, those of nested objects as ``<name>__<parameter>``.

        Those of a ``feature_extractor`` that is no :class:`TorchFeatures` must stay what they are:
        it is frozen and shared by copies, unless ``train_extractor`` is set. If one would change,
        nothing is set.
        """
        free = {name: value for name, value in params.items() if self._is_free(name, params)}
        return super().set_params(**free)  # type: ignore[misc]  # scikit-learn's

    def _shares(self, name: str) -> bool:
        """Return whether copies share the value of a parameter."""
        return name == "feature_extractor" and not _is_true(self.train_extractor)

    def _is_free(self, name: str, params: dict[str, Any]) -> bool:
        """Return whether to set a parameter: not if it is one of an extractor that copies share."""
        if _is_true(params.get("train_extractor", self.train_extractor)):
            return True
        owner, place = self, "feature_extractor"
        while name.startswith(f"{place}__"):
            extractor = params.get(place, owner.feature_extractor)
            if not isinstance(extractor, TorchFeatures):
                if _is_equal(params[name], self.get_params().get(name, _Shared)):
                    return False
                raise ValueError(
                    f"{name} cannot be set: {place}, here {type(extractor).__name__}, is frozen "
                    f"and shared by all copies of this {type(self).__name__}. Fit the variants a "
                    f"and b of it, and search over {place}=[FrozenEstimator(a), "
                    "FrozenEstimator(b)], which is in sklearn.frozen."
                )
            owner, place = extractor, f"{place}__feature_extractor"
        return True

    def __sklearn_clone__(self) -> Self:
        params = {
            name: share(value) if self._shares(name) else clone(value, safe=False)
            for name, value in self.get_params(deep=False).items()
        }
        fresh = type(self)(**params)
        for name in ("_metadata_request", "_sklearn_output_config"):
            if name in vars(self):
                setattr(fresh, name, copy.deepcopy(getattr(self, name)))
        return fresh

    # Not by __deepcopy__, which wrappers that pass on attributes would find and take for their own.
    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]  # scikit-learn's
        extractor = state["feature_extractor"]
        # a TorchFeatures shares its own
        if self._shares("feature_extractor") and not isinstance(extractor, TorchFeatures):
            state = state | {"feature_extractor": _Shared(extractor)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        extractor = state["feature_extractor"]
        if isinstance(extractor, _Shared):
            state = state | {"feature_extractor": extractor.value}
        super().__setstate__(state)  # type: ignore[misc]  # scikit-learn's


def _is_true(flag: Any) -> bool:
    """Return whether a parameter is true, which is validated later."""
    return isinstance(flag, bool | np.bool_) and bool(flag)


def _is_equal(one: Any, other: Any) -> bool:
    """Return whether values of a parameter are equal, arrays number by number."""
    try:
        return one is other or (type(one) is type(other) and bool(np.all(one == other)))
    except (TypeError, ValueError):  # of arrays of several shapes
        return False


class _Shared:
    """Something that copies have in common."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def share(extractor: Any) -> Any:
    """Return the extractor itself, or for a ``TorchFeatures`` a clone around the same network."""
    return clone(extractor) if isinstance(extractor, TorchFeatures) else extractor


class FeatureSource(NamedTuple):
    """How features come out of an extractor, as found on a first few inputs.

    ``layer`` is the layer in use, empty for the module itself. It is None where the extractor is no
    module, as are ``cast`` and ``weights``.
    """

    layer: str | None
    cast: Cast | None
    weights: Weights | None
    n_features: int


class TorchFeatures(
    SharedExtractorMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Features from a frozen network, as a scikit-learn transformer.

    Runs in batches, in eval mode and without gradients. The extractor is never trained, moved
    or copied: clones share it, and every call restores its training flags.

    Parameters
    ----------
    feature_extractor : nn.Module, fitted skorch net, object with ``transform``, or callable
        Turns n inputs into features of shape (n, D). Inputs of a module are moved to its device
        and cast to a dtype that it takes; integers stay integers for a module with an embedding.
        A dict of arrays, as tokenizers return it, goes row by row to its keyword arguments. A
        transformer or callable gets unconverted slices of X (frames, lists of strings); a callable
        gets texts as a list, and of a torch ``Dataset`` lists of its items.
    layer : str, default=None
        Name of the layer of the module (see ``named_modules``) whose *output* is the features;
        empty for the output of the module itself. By default the features are the *input* of the
        ``nn.Linear`` that makes the output of the module, perhaps followed by a softmax, a sigmoid
        or an affine function; or the output itself, if there is no such layer.
    batch_size : int, default=256
        Number of inputs per forward pass.
    verbose : int, default=0
        If positive, shows a progress bar.

    Attributes
    ----------
    layer_ : str or None
        Name of the layer in use, empty for the module itself; None if the extractor is not a
        module.
    n_features_in_ : int
        Number of input features, ``X.shape[1]``.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the input features, if X has names that are all strings.

    See Also
    --------
    LaplaceUpdateClassifier : Takes the same extractors as its ``feature_extractor``.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al import TorchFeatures
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> TorchFeatures(network).fit_transform(np.ones((5, 4))).shape
    (5, 3)
    >>> TorchFeatures(network, layer="2").fit_transform(np.ones((5, 4))).shape
    (5, 2)
    """

    _parameter_constraints: dict[str, Any] = {
        "feature_extractor": "no_validation",
        "layer": [str, None],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        feature_extractor: Any,
        *,
        layer: str | None = None,
        batch_size: int = 256,
        verbose: int = 0,
    ) -> None:
        self.feature_extractor = feature_extractor
        self.layer = layer
        self.batch_size = batch_size
        self.verbose = verbose

    @property
    def layer_(self) -> str | None:
        """Name of the layer in use, empty for the module itself; None if there is no module."""
        return self.source_.layer

    @property
    def _n_features_out(self) -> int:
        return self.source_.n_features

    def fit(self, X: Instances, y: object = None) -> Self:
        """Find the layer and the number of features from the first inputs. Nothing is trained.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or what the extractor takes
        y : Ignored

        Returns
        -------
        TorchFeatures
            This object.

        Raises
        ------
        TypeError
            If ``feature_extractor`` is of none of the allowed kinds.
        ValueError
            If the layer does not exist or cannot be told, the extractor is not fitted, or it
            returns anything but finite numbers of shape (n, D).

        Warns
        -----
        UserWarning
            If the module may end in a head that is no ``nn.Linear``, so that its output may be
            none of features.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> TorchFeatures(nn.Sequential(nn.Tanh(), nn.Linear(3, 2))).fit(np.ones((5, 3))).layer_
        '1'
        """
        self._validate_params()
        draft = copy.copy(self)
        draft.probe(draft.check_inputs(draft, X, reset=True))
        found = {name: value for name, value in vars(draft).items() if name.endswith("_")}
        others = {name: value for name, value in vars(self).items() if not name.endswith("_")}
        self.__dict__ = others | found  # one assignment: no thread sees a mixture
        return self

    def transform(self, X: Inputs) -> NDArray[np.floating]:
        """Return the features of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples, D)
            In the dtype of the network; half precision is returned as float32.

        Raises
        ------
        ValueError
            If X differs in width from the X of ``fit``, or the extractor returns anything but
            finite numbers of shape (n, D).

        Examples
        --------
        >>> import numpy as np
        >>> TorchFeatures(np.square).fit_transform(np.array([[1.0, 2.0]]))
        array([[1., 4.]])
        """
        check_is_fitted(self)
        return over_blocks(lambda X: self.extract(self.check_inputs(self, X, reset=False)), X)

    def check_inputs(self, estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
        """Return X validated as input of this extractor: arrays for a module, else X itself.

        The estimator on whose behalf this is done holds ``n_features_in_`` and
        ``feature_names_in_``, which are set (``reset``, in ``fit``) or compared with X.
        """
        check_unmasked(X)
        network = network_of(self.feature_extractor)
        if is_by_name(X):
            X = _checked_arrays(X, for_module=network is not None)
        elif network is None:
            validate_data(estimator, X, reset=reset, skip_check_array=True)
        if network is None or is_by_name(X):
            if n_rows(X) == 0:
                raise ValueError("X has 0 samples; a minimum of 1 is required.")
            return X
        X = as_array(X)
        is_column = isinstance(X, Iterable) and len(getattr(X, "shape", (0,))) == 1
        if is_column and isinstance(next(iter(X), None), str):
            raise ValueError(
                f"X holds texts, but a module, here {type(network).__name__}, takes numbers. Pass "
                "a function as feature_extractor that takes a list of texts, as an encoder's "
                "encode does, or what a tokenizer makes of them."
            )
        return validate_data(estimator, X, reset=reset, dtype="numeric", allow_nd=True)

    def probe(self, X: Any) -> Self:
        """Find out from the first of the validated inputs how features come out."""
        # two, perhaps of one input, for modules that squeeze a batch of one
        first = rows_at(X, [0, 0] if n_rows(X) == 1 else slice(0, 2))
        network = network_of(self.feature_extractor)
        layer = cast = weights = None
        if network is not None:
            _check_is_initialised(network)
            weights = Weights(network)
            _check_names(network, first)
            cast = find_cast(network, first, lambda cast: self._forward(first, cast))
            layer = (
                find_head(network, lambda: self._forward(first, cast))
                if self.layer is None
                else check_layer(network, self.layer)
            )
        elif self.layer is not None:
            raise ValueError(
                f"layer={self.layer!r} needs a feature_extractor with layers, an nn.Module or "
                f"a skorch net; got {type(self.feature_extractor).__name__}."
            )
        n_features = self._run(first, FeatureSource(layer, cast, weights, 0)).shape[1]
        self.source_ = FeatureSource(layer, cast, weights, n_features)
        return self

    def extract(self, X: Any) -> NDArray[np.floating]:
        """Return the features (n, D) of validated inputs, computed in batches."""
        features = self._run(X, self.source_)
        if features.shape[1] != self._n_features_out:
            raise ValueError(
                f"feature_extractor returned {features.shape[1]} features, but "
                f"{self._n_features_out} when it was fitted. It must return the same number for "
                "every input."
            )
        return features

    def pretrained_head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return weight (K, D) and bias (K,) of the ``nn.Linear`` that reads these features."""
        check_is_fitted(self)
        network = network_of(self.feature_extractor)
        head = None
        if network is not None and self.layer is None:
            head = network.get_submodule(self.layer_ or "")
        if not isinstance(head, nn.Linear):
            kind = type(self.feature_extractor).__name__
            got = kind if self.layer is None else f"layer={self.layer!r}"
            if head is not None:
                made_by = f"made by {type(head).__name__} {self.layer_!r}"
                got += f", whose output is {made_by if self.layer_ else 'not made by one'}"
            raise ValueError(
                "head='pretrained' takes the last nn.Linear of an nn.Module or skorch net, whose "
                f"input must be the features; got {got}. Pass the module with layer=None, or "
                "head='fit'."
            )
        bias = None if head.bias is None else head.bias.detach()
        return head.weight.detach(), bias

    def output(self, X: Any) -> torch.Tensor:
        """Return what the network makes of the first of the validated inputs, of two at most."""
        first = rows_at(X, slice(0, 2))
        network = network_of(self.feature_extractor)
        return held_still(network, lambda: main_output(self._forward(first, self.source_.cast)))

    def check_pretrained_head(self, X: Any) -> None:
        """Refuse a head that does not make the output of the network, on a first batch of X.

        The output may be a softmax or sigmoid of what the head makes of the validated inputs.
        """
        weight, bias = self.pretrained_head()
        network = network_of(self.feature_extractor)
        assert network is not None  # it has a head
        assert self.layer_ is not None
        seen: list[Any] = []
        batch = rows_at(X, slice(0, min(self.batch_size, n_rows(X))))
        output = held_still(
            network,
            lambda: main_output(self._forward(batch, self.source_.cast)),
            {self.layer_: lambda given, made: seen.append(copied(given))},
        )
        found = difference(seen[-1], weight, bias, output)
        if found is not None:
            raise ValueError(
                f"head='pretrained': the outputs of {type(network).__name__} are {found} what its "
                f"last nn.Linear {self.layer_!r} makes of the features, so that the head alone "
                "would predict something else than the network. Change the module to return the "
                "output of that layer, merge what lies beside or behind it into its weights, or "
                "set head='fit'."
            )

    def check_weights(self) -> None:
        """Refuse to go on from features of other weights than the network now has."""
        if self.source_.weights is not None:
            self.source_.weights.check(network_of(self.feature_extractor))

    def _run(self, X: Any, source: FeatureSource) -> NDArray[np.floating]:
        """Return the features (n, D) of validated inputs from that source."""
        n_samples = n_rows(X)
        bounds = [*range(0, n_samples, self.batch_size), n_samples]
        progress: Iterable[tuple[int, int]] = pairwise(bounds)
        if self.verbose:
            progress = tqdm(progress, "features", len(bounds) - 1, unit="batch")
        network = network_of(self.feature_extractor)
        reads_input = self.layer is None and (source.layer != "" or isinstance(network, nn.Linear))
        is_output = source.layer == "" and not reads_input
        seen: list[Any] = []  # what the layer has read or made

        def record(given: Any, made: Any) -> None:
            seen[:] = [copied(given if reads_input else made)]

        def features_of(batch: Any) -> Any:
            if network is None:
                return self._transformed(batch)
            seen.clear()
            output = self._forward(batch, source.cast)
            if is_output:
                return main_output(output)
            if not seen:
                raise ValueError(
                    f"layer={source.layer!r} is not called when {type(network).__name__} runs. "
                    "Name a layer that is called."
                )
            return seen[0]

        def run() -> NDArray[np.floating]:
            blocks = (
                check_features(features_of(rows_at(X, slice(start, stop))), start, stop)
                for start, stop in progress
            )
            return _stacked(blocks, n_samples)

        watch = {} if source.layer is None or is_output else {source.layer: record}
        return held_still(network, run, watch)

    def _transformed(self, batch: Any) -> Any:
        """Return what a transformer or callable makes of a batch."""
        transform = getattr(self.feature_extractor, "transform", None)
        try:
            if transform is not None:
                return transform(batch)
            return self.feature_extractor(_as_texts(batch))
        except NotFittedError as error:  # which callers would take for one of their estimator
            raise ValueError(
                "feature_extractor must be fitted, for it is frozen and nothing trains it; got "
                f"{type(self.feature_extractor).__name__}, which is not. Call its fit first. "
                "For a search, which would copy it without what it has learnt, wrap it as "
                "FrozenEstimator(feature_extractor), which is in sklearn.frozen."
            ) from error

    def _forward(self, batch: Any, cast: Cast | None) -> Any:
        """Run the network on arrays, cast to what it takes."""
        network = network_of(self.feature_extractor)
        assert network is not None  # else nothing runs here
        assert cast is not None
        inputs = as_input(network, batch, cast)
        if network is not self.feature_extractor:
            return self.feature_extractor.infer(inputs)
        network = getattr(network, "_orig_mod", network)  # in what is compiled no layer is seen
        return network(**inputs) if isinstance(inputs, dict) else network(inputs)


def _checked_arrays(X: Mapping[str, Any], *, for_module: bool) -> dict[str, Any]:
    """Return arrays of one length, of numbers if for a module."""
    checked = dict(X)
    for name, column in X.items():
        if for_module:
            try:
                checked[name] = check_array(
                    as_array(column), dtype="numeric", ensure_2d=False, allow_nd=True
                )
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"X[{name!r}] must be an array of numbers with a row for each input: {error} "
                    "Let a tokenizer pad texts to one length (padding=True)."
                ) from error
    lengths = {name: n_rows(column) for name, column in checked.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"X must hold arrays of one length, a row for each input; got {lengths}.")
    return checked


def _check_is_initialised(network: nn.Module) -> None:
    """Refuse lazy layers."""
    if any(map(is_lazy, [*network.parameters(), *network.buffers()])):
        raise ValueError(
            f"feature_extractor {type(network).__name__} has lazy layers without weights. Train "
            "it, or run it once on a batch."
        )


def _check_names(network: nn.Module, batch: Any) -> None:
    """Refuse arrays whose names a module does not take."""
    if isinstance(batch, dict):
        signature = inspect.signature(getattr(network, "_orig_mod", network).forward)
        try:
            signature.bind(**batch)
        except TypeError as error:
            raise ValueError(
                f"X has the arrays {[*batch]}, which forward{signature} of "
                f"{type(network).__name__} does not take by name: {error}. Leave out what it does "
                "not take, or wrap the module in one whose forward takes these."
            ) from error


def _as_texts(batch: Any) -> Any:
    """Return a column of texts as a list, which encoders index by position, else the batch."""
    is_column = isinstance(batch, tuple) or len(getattr(batch, "shape", ())) == 1
    if is_column or hasattr(batch, "to_pylist"):
        names = ("to_pylist", "to_list", "tolist")  # of Arrow; pandas and polars; NumPy
        to_list = next((getattr(batch, name) for name in names if hasattr(batch, name)), None)
        values = list(batch) if to_list is None else to_list()
        if any(isinstance(value, str) for value in values):
            return values
    return batch


def _stacked(blocks: Iterable[NDArray[np.floating]], n_rows: int) -> NDArray[np.floating]:
    """Join blocks, each copied before the next one may overwrite its memory."""
    whole = np.empty((n_rows, 0), np.float32)
    start = 0
    for block in blocks:
        if start == 0:
            whole = np.empty((n_rows, block.shape[1]), block.dtype)
        elif block.shape[1] != whole.shape[1]:
            widths = sorted([whole.shape[1], block.shape[1]])
            raise ValueError(
                f"feature_extractor returned a varying number of features: {widths}. It must "
                "return the same number for every input."
            )
        whole = whole.astype(np.promote_types(whole.dtype, block.dtype), copy=False)
        stop = start + len(block)
        whole[start:stop] = block
        start = stop
    return whole
