"""A frozen network, or anything else that makes features, as a scikit-learn transformer."""

import contextlib
import copy
import numbers
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _num_samples, check_array, check_is_fitted, validate_data
from torch.utils import data
from tqdm.auto import tqdm

from laplace_al.blocks import check_unmasked, concatenated, in_blocks, rows_at
from laplace_al.devices import as_array
from laplace_al.networks import (
    as_input,
    captured,
    check_features,
    check_layer,
    frozen,
    last_linear,
    network_of,
)
from laplace_al.transaction import all_or_nothing
from laplace_al.typing import Inputs, Instances


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
            stops = np.cumsum([_num_samples(X) for X in new])
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
        Turns n inputs into features of shape (n, D). Inputs of a module are cast to
        its own dtype and device; integers stay integers if its first layer is an embedding.
        A transformer or callable gets unconverted slices of X (frames, lists of strings); of a
        torch ``Dataset``, lists of its items.
    layer : str, default=None
        Name of the layer of the module (see ``named_modules``) whose *output* is the features.
        By default the features are the *input* of the ``nn.Linear`` that is called last.
    batch_size : int, default=256
        Number of inputs per forward pass.
    verbose : int, default=0
        If positive, shows a progress bar.

    Attributes
    ----------
    layer_ : str or None
        Name of the layer in use; None if the extractor is not a module.
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
            If the layer does not exist, the extractor is not fitted, or it returns anything but
            finite numbers of shape (n, D).

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
        ndarray of shape (n_samples, ...)
            An array for a network; X itself for a transformer or callable.

        Examples
        --------
        >>> import numpy as np
        >>> from torch import nn
        >>> features = TorchFeatures(nn.Linear(2, 1))
        >>> features.check_inputs(features, [[1, 2]], reset=True)
        array([[1, 2]])
        """
        check_unmasked(X)
        if network_of(self.feature_extractor) is None:
            validate_data(estimator, X, reset=reset, skip_check_array=True)
            if _num_samples(X) == 0:
                raise ValueError("X has 0 samples; a minimum of 1 is required.")
            return X
        return validate_data(estimator, as_array(X), reset=reset, dtype="numeric", allow_nd=True)

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
        if network is None or self.layer is not None:
            kind = type(self.feature_extractor).__name__
            got = kind if network is None else f"layer={self.layer!r}"
            raise ValueError(
                "head='pretrained' takes the last nn.Linear of an nn.Module or skorch net, whose "
                f"input must be the features; got {got}. Pass the module with layer=None, or "
                "head='fit'."
            )
        assert self.layer_ is not None  # of a network
        head: Any = network.get_submodule(self.layer_)
        bias = None if head.bias is None else head.bias.detach()
        return head.weight.detach(), bias

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
        # two, for modules that squeeze a batch of one
        first = _rows(X, 0, min(2, _num_samples(X)))
        network = network_of(self.feature_extractor)
        if network is None:
            if self.layer is not None:
                raise ValueError(
                    f"layer={self.layer!r} needs a feature_extractor with layers, an nn.Module or "
                    f"a skorch net; got {type(self.feature_extractor).__name__}."
                )
            self.layer_ = None
        else:
            self.layer_ = (
                last_linear(network, self._forward, first)
                if self.layer is None
                else check_layer(network, self.layer)
            )
        self._n_features_out = self._run(first).shape[1]
        return self

    @torch.no_grad()
    def _run(self, X: Any) -> NDArray[np.floating]:
        n_samples = _num_samples(X)
        bounds = [*range(0, n_samples, self.batch_size), n_samples]
        batches = list(pairwise(bounds))
        if self.verbose:  # tqdm starts a thread
            batches = tqdm(batches, "features", unit="batch")
        with self._extractor() as extractor:
            blocks = (
                check_features(extractor(_rows(X, start, stop)), start, stop)
                for start, stop in batches
            )
            return _stacked(blocks, n_samples)

    @contextlib.contextmanager
    def _extractor(self) -> Iterator[Callable[[Any], Any]]:
        """A callable from inputs to features, while the network is held still."""
        network = network_of(self.feature_extractor)
        if network is None:
            try:
                yield getattr(self.feature_extractor, "transform", self.feature_extractor)
            except NotFittedError as error:  # which callers would take for one of their estimator
                raise ValueError(
                    "feature_extractor must be fitted, for it is frozen and nothing trains it; got "
                    f"{type(self.feature_extractor).__name__}, which is not. Call its fit first. "
                    "For a search, which would copy it without what it has learnt, wrap it as "
                    "FrozenEstimator(feature_extractor), which is in sklearn.frozen."
                ) from error
            return
        assert self.layer_ is not None  # of a network
        before_head = self.layer is None
        with frozen(network), captured(network, [self.layer_], inputs=before_head) as seen:

            def extract(batch: Any) -> Any:
                seen.clear()
                self._forward(batch)
                if not seen:
                    raise ValueError(
                        f"layer={self.layer_!r} is not called when {type(network).__name__} runs. "
                        "Name a layer that is called."
                    )
                return seen[0][1]

            yield extract

    def _forward(self, batch: Any) -> Any:
        """Run the network on an array, cast to its own dtype and device."""
        network = network_of(self.feature_extractor)
        assert network is not None  # else nothing runs here
        run = network if network is self.feature_extractor else self.feature_extractor.infer
        return run(as_input(network, batch))


def _rows(X: Any, start: int, stop: int) -> Any:
    """A batch of inputs, of their kind; of a ``Dataset``, which need not take slices, a list."""
    if isinstance(X, data.Dataset):
        return [X[i] for i in range(start, stop)]
    return rows_at(X, slice(start, stop))


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
