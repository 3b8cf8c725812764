"""A frozen network, or anything else that makes features, as a scikit-learn transformer."""

import copy
import inspect
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

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
from laplace_al._common.transaction import all_or_nothing
from laplace_al._common.typing import Inputs, Instances
from laplace_al.inputs.blocks import (
    check_unmasked,
    concatenated,
    in_blocks,
    is_by_name,
    n_rows,
    rows_at,
)
from laplace_al.inputs.heads import difference, find_head, main_output
from laplace_al.inputs.networks import (
    Cast,
    Weights,
    as_input,
    check_features,
    check_layer,
    copied,
    find_cast,
    held_still,
    network_of,
)


class Extracted:
    """Features that are already known, to pass in place of their inputs.

    Parameters
    ----------
    features : Tensor or ndarray of shape (n_samples, n_features)
        As returned by the extractor of the classifier that they are passed to.

    Examples
    --------
    >>> import numpy as np
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> clf = LaplaceUpdateClassifier(np.square).fit([[0.0], [2.0]], [0, 1])
    >>> bool((clf.predict_proba(Extracted(np.array([[4.0]]))) == clf.predict_proba([[2.0]])).all())
    True
    """

    def __init__(self, features: NDArray[np.floating] | torch.Tensor) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)


class KeptFeatures:
    """Features of inputs that are asked for again and again: each object is extracted once.

    The objects must stay as they are. A copy knows none.

    Examples
    --------
    >>> import numpy as np
    >>> calls = []
    >>> def square(X):
    ...     calls.append(len(X))
    ...     return np.square(X)
    >>> kept, X = KeptFeatures(), np.array([[3.0], [4.0]])
    >>> kept.of([X], square)[0] is kept.of([X], square)[0], calls
    (True, [2])
    """

    def __init__(self) -> None:
        # by identity, beside the object itself so that no other can get its place
        self._known: dict[int, tuple[Instances, NDArray[np.floating]]] = {}

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()

    def of(
        self, inputs: Sequence[Instances], transform: Callable[[Instances], NDArray[np.floating]]
    ) -> list[NDArray[np.floating]]:
        """Features of each of some inputs, those that are new extracted in one pass.

        Parameters
        ----------
        inputs : sequence of array-like of shape (n_i, ...)
            All of one kind.
        transform : callable
            Inputs to features.

        Returns
        -------
        list of ndarray of shape (n_i, n_features)
        """
        new = [X for X in inputs if id(X) not in self._known]
        if new:
            rows = transform(concatenated(new) if len(new) > 1 else new[0])
            stops = np.cumsum([n_rows(X) for X in new])
            for X, features in zip(new, np.split(rows, stops[:-1]), strict=True):
                self._known[id(X)] = X, features
        return [self._known[id(X)][1] for X in inputs]


class SharedExtractorMixin:
    """Copies of an estimator share its ``feature_extractor``: it is frozen and may be large."""

    feature_extractor: Any
    get_params: Callable[..., dict[str, Any]]

    def set_params(self, **params: Any) -> Self:
        """Set parameters of this estimator, those of nested objects as ``<name>__<parameter>``.

        Parameters
        ----------
        **params
            Of a ``feature_extractor`` only where it is a :class:`TorchFeatures`; others must have
            values equal to those that they have.

        Returns
        -------
        estimator
            This object.

        Raises
        ------
        ValueError
            If there is no such parameter, or it is one of another ``feature_extractor``, which is
            frozen and shared by copies; in the latter case nothing is set.

        Examples
        --------
        >>> import numpy as np
        >>> TorchFeatures(np.square).set_params(batch_size=2).batch_size
        2
        """
        free = {name: value for name, value in params.items() if self._is_free(name, params)}
        return super().set_params(**free)  # type: ignore[misc]  # scikit-learn's

    def _is_free(self, name: str, params: dict[str, Any]) -> bool:
        """Whether to set a parameter; one of an extractor that copies share must stay as it is."""
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
            name: share(value) if name == "feature_extractor" else clone(value, safe=False)
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
        if not isinstance(extractor, TorchFeatures):  # which shares its own
            state = state | {"feature_extractor": _Shared(extractor)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        extractor = state["feature_extractor"]
        if isinstance(extractor, _Shared):
            state = state | {"feature_extractor": extractor.value}
        super().__setstate__(state)  # type: ignore[misc]  # scikit-learn's


def _is_equal(one: Any, other: Any) -> bool:
    """Whether values of a parameter are equal, arrays number by number."""
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


def weights_of(feature_extractor: Any) -> Weights | None:
    """The weights that features are made with.

    Parameters
    ----------
    feature_extractor : object
        Of the kinds that a :class:`LaplaceUpdateClassifier` takes, or None.

    Returns
    -------
    Weights or None
        None if there is no network.

    Examples
    --------
    >>> weights_of(np.square) is None
    True
    """
    network = _network_in(feature_extractor)
    return None if network is None else Weights(network)


def check_weights(weights: Weights | None, feature_extractor: Any) -> None:
    """Refuse features that were made with other weights than an extractor now has.

    Parameters
    ----------
    weights : Weights or None
        Of :func:`weights_of`, when the features were made.
    feature_extractor : object

    Raises
    ------
    RuntimeError
        If the weights have changed.

    Examples
    --------
    >>> network = nn.Linear(2, 1)
    >>> before = weights_of(network)
    >>> check_weights(before, network)
    >>> _ = nn.init.zeros_(network.weight)
    >>> check_weights(before, network)
    Traceback (most recent call last):
        ...
    RuntimeError: The network Linear has other weights than when ...
    """
    network = _network_in(feature_extractor)
    if weights is not None and network is not None and not weights.are_those_of(network):
        raise RuntimeError(
            f"The network {type(network).__name__} has other weights than when features were "
            "computed with it: it was trained further, cast or replaced. What was learnt on the "
            "old features means nothing on new ones. Fit again; make a new ActiveLearner, with the "
            "same journal if it has one; or load the old weights."
        )


def _network_in(feature_extractor: Any) -> nn.Module | None:
    if isinstance(feature_extractor, TorchFeatures):
        feature_extractor = feature_extractor.feature_extractor
    return None if feature_extractor is None else network_of(feature_extractor)


def features_of(feature_extractor: Any, X: Any, **params: Any) -> NDArray[np.floating]:
    """Features of inputs, validated, before any classifier was fitted.

    Parameters
    ----------
    feature_extractor : object
        Of the kinds that a :class:`LaplaceUpdateClassifier` takes; None: X are the features.
    X : array-like of shape (n_samples, ...), or what the extractor takes
    **params
        Parameters of :class:`TorchFeatures`, of which the extractor may be one itself.

    Returns
    -------
    ndarray of shape (n_samples, n_features)

    Examples
    --------
    >>> import numpy as np
    >>> features_of(np.square, [[3.0]])
    array([[9.]])
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
    """What X is validated as, where it is the features of a pool: never wider than it need be.

    Parameters
    ----------
    X : array-like

    Returns
    -------
    dtype or tuple of dtype
        float32 for numbers that it holds exactly, else float64; both where that is not known.

    Examples
    --------
    >>> feature_dtype(np.ones(1, np.float16)).__name__, feature_dtype(np.ones(1)).__name__
    ('float32', 'float64')
    """
    X = as_array(X)
    dtypes = [X.dtype] if hasattr(X, "dtype") else list(getattr(X, "dtypes", []))
    are_known = all(isinstance(dtype, np.dtype) and dtype.kind in "biuf" for dtype in dtypes)
    if not dtypes or not are_known:
        return np.float64, np.float32
    return np.float32 if np.result_type(np.float32, *dtypes) == np.float32 else np.float64


def share(extractor: Any) -> Any:
    """The extractor itself; for a ``TorchFeatures`` a clone around the same network.

    Parameters
    ----------
    extractor : object

    Returns
    -------
    object

    Examples
    --------
    >>> from torch import nn
    >>> network = nn.Linear(2, 2)
    >>> share(network) is network
    True
    """
    return clone(extractor) if isinstance(extractor, TorchFeatures) else extractor


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

    @all_or_nothing
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
        return self.probe(self.check_inputs(self, X, reset=True))

    @in_blocks
    def transform(self, X: Inputs) -> NDArray[np.floating]:
        """Features of X.

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
        return self.extract(self.check_inputs(self, X, reset=False))

    def check_inputs(self, estimator: BaseEstimator, X: Any, *, reset: bool) -> Any:
        """Validate X as input of this extractor, on behalf of an estimator.

        Parameters
        ----------
        estimator : estimator
            Holds ``n_features_in_`` and ``feature_names_in_``.
        X : array-like of shape (n_samples, ...), or what the extractor takes
        reset : bool
            Whether to set these attributes (``fit``) or to compare X with them.

        Returns
        -------
        ndarray of shape (n_samples, ...), or dict of such
            Arrays for a network; X itself for a transformer or callable.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> features = TorchFeatures(nn.Linear(2, 1))
        >>> features.check_inputs(features, [[1, 2]], reset=True)
        array([[1, 2]])
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

    def extract(self, X: Any) -> NDArray[np.floating]:
        """Features of validated inputs, in batches.

        Parameters
        ----------
        X : object
            As :meth:`check_inputs` returned it.

        Returns
        -------
        ndarray of shape (n_samples, D)

        Examples
        --------
        >>> import numpy as np
        >>> TorchFeatures(np.sqrt).fit([[1.0]]).extract([[4.0]])
        array([[2.]])
        """
        features = self._run(X)
        if features.shape[1] != self._n_features_out:
            raise ValueError(
                f"feature_extractor returned {features.shape[1]} features, but "
                f"{self._n_features_out} when it was fitted. It must return the same number for "
                "every input."
            )
        return features

    def pretrained_head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weights of the network's last linear layer, which reads these features.

        Returns
        -------
        weight : Tensor of shape (n_outputs, D)
        bias : Tensor of shape (n_outputs,) or None

        Raises
        ------
        ValueError
            If the features are not the input of a linear layer.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Tanh(), nn.Linear(3, 2))
        >>> weight, bias = TorchFeatures(network).fit(np.ones((5, 3))).pretrained_head()
        >>> weight.shape, bias.shape
        (torch.Size([2, 3]), torch.Size([2]))
        """
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

    def check_pretrained_head(self, X: Any) -> None:
        """Compare the last linear layer with the network, on a first batch of validated inputs.

        Parameters
        ----------
        X : object
            As :meth:`check_inputs` returned it.

        Raises
        ------
        ValueError
            If the features are not the input of a linear layer, or the network's output is
            something else than that of the layer, up to a softmax or sigmoid; names what.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Tanh(), nn.Linear(3, 2), nn.Softmax(dim=1))
        >>> TorchFeatures(network).fit(np.ones((5, 3))).check_pretrained_head(np.ones((5, 3)))
        """
        weight, bias = self.pretrained_head()
        network = network_of(self.feature_extractor)
        assert network is not None  # it has a head
        assert self.layer_ is not None
        seen: list[Any] = []
        batch = rows_at(X, slice(0, min(self.batch_size, n_rows(X))))
        output = held_still(
            network,
            lambda: main_output(self._forward(batch, self._cast)),
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

    def probe(self, X: Any) -> Self:
        """Find the layer and the number of features from the first of the validated inputs.

        Parameters
        ----------
        X : object
            As :meth:`check_inputs` returned it.

        Returns
        -------
        TorchFeatures
            This object.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> TorchFeatures(nn.Linear(2, 1)).probe(np.ones((3, 2))).layer_
        ''
        """
        # two, perhaps of one input, for modules that squeeze a batch of one
        first = rows_at(X, [0, 0] if n_rows(X) == 1 else slice(0, 2))
        network = network_of(self.feature_extractor)
        if network is None:
            if self.layer is not None:
                raise ValueError(
                    f"layer={self.layer!r} needs a feature_extractor with layers, an nn.Module or "
                    f"a skorch net; got {type(self.feature_extractor).__name__}."
                )
            self.layer_ = self._weights = None
        else:
            _check_is_initialised(network)
            self._weights = Weights(network)
            _check_names(network, first)
            self._cast = find_cast(network, first, lambda cast: self._forward(first, cast))
            self.layer_ = (
                find_head(network, lambda: self._forward(first, self._cast))
                if self.layer is None
                else check_layer(network, self.layer)
            )
        self._n_features_out = self._run(first).shape[1]
        return self

    def check_weights(self) -> None:
        """Refuse to go on from features of other weights than the network now has.

        Raises
        ------
        RuntimeError
            If the weights have changed since :meth:`probe`.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> network = nn.Linear(2, 1)
        >>> features = TorchFeatures(network).fit(np.ones((1, 2)))
        >>> features.check_weights()
        >>> _ = nn.init.zeros_(network.weight)
        >>> features.check_weights()
        Traceback (most recent call last):
            ...
        RuntimeError: The network Linear has other weights than when ...
        """
        check_weights(self._weights, self.feature_extractor)

    def _run(self, X: Any) -> NDArray[np.floating]:
        n_samples = n_rows(X)
        bounds = [*range(0, n_samples, self.batch_size), n_samples]
        progress: Iterable[tuple[int, int]] = pairwise(bounds)
        if self.verbose:
            progress = tqdm(progress, "features", len(bounds) - 1, unit="batch")
        network = network_of(self.feature_extractor)
        extract = self._extracted if network is None else self._seen
        seen: list[Any] = []

        def record(given: Any, made: Any) -> None:
            seen[:] = [copied(given if self._reads_input else made)]

        def run() -> NDArray[np.floating]:
            blocks = (
                check_features(extract(rows_at(X, slice(start, stop)), seen), start, stop)
                for start, stop in progress
            )
            return _stacked(blocks, n_samples)

        is_output = self.layer_ == "" and not self._reads_input
        watch = {} if self.layer_ is None or is_output else {self.layer_: record}
        return held_still(network, run, watch)

    @property
    def _reads_input(self) -> bool:
        """Whether the features are the input of the layer, not its output."""
        network = network_of(self.feature_extractor)
        return self.layer is None and (self.layer_ != "" or isinstance(network, nn.Linear))

    def _extracted(self, batch: Any, _: list[Any]) -> Any:
        """What a transformer or callable makes of a batch."""
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

    def _seen(self, batch: Any, seen: list[Any]) -> Any:
        """What is recorded of a layer while the network runs, or the output of the network."""
        seen.clear()
        output = self._forward(batch, self._cast)
        if self.layer_ == "" and not self._reads_input:
            return main_output(output)
        if not seen:
            raise ValueError(
                f"layer={self.layer_!r} is not called when "
                f"{type(network_of(self.feature_extractor)).__name__} runs. Name a layer that is "
                "called."
            )
        return seen[0]

    def _forward(self, batch: Any, cast: Cast) -> Any:
        """Run the network on arrays, cast to what it takes."""
        network = network_of(self.feature_extractor)
        assert network is not None  # else nothing runs here
        inputs = as_input(network, batch, cast)
        if network is not self.feature_extractor:
            return self.feature_extractor.infer(inputs)
        network = getattr(network, "_orig_mod", network)  # in what is compiled no layer is seen
        return network(**inputs) if isinstance(inputs, dict) else network(inputs)


def _checked_arrays(X: Mapping[str, Any], *, for_module: bool) -> dict[str, Any]:
    """Arrays of one length, of numbers if for a module."""
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
    """A column of texts as a list, which encoders index by position; anything else as it is."""
    is_column = isinstance(batch, tuple) or len(getattr(batch, "shape", ())) == 1
    if is_column or hasattr(batch, "to_pylist"):
        names = ("to_pylist", "to_list", "tolist")  # of Arrow; pandas and polars; NumPy
        to_list = next((getattr(batch, name) for name in names if hasattr(batch, name)), None)
        values = list(batch) if to_list is None else to_list()
        if any(isinstance(value, str) for value in values):
            return values
    return batch


def _stacked(blocks: Iterable[NDArray[np.floating]], n_rows: int) -> NDArray[np.floating]:
    """Blocks one below the other, each copied before the next one may overwrite its memory."""
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
