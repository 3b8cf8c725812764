"""What a last layer says of inputs, once it has learnt: validates, makes features, predicts."""

import numbers
import operator
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn import functional

from laplace_al._common.devices import as_array, available_device
from laplace_al._common.transaction import on_one_state
from laplace_al._common.typing import Inputs, Instances, Method, RandomState
from laplace_al.inputs.blocks import check_unmasked, check_whole, in_blocks, is_by_name
from laplace_al.inputs.features import (
    Extracted,
    SharedExtractorMixin,
    TorchFeatures,
    feature_dtype,
    share,
)
from laplace_al.inputs.labels import as_labels, weighted_by_class
from laplace_al.inputs.tensors import like_tensors
from laplace_al.model import links
from laplace_al.model.calibration import Calibration
from laplace_al.model.likelihoods import Likelihood, likelihood_of
from laplace_al.model.pool_state import PoolState
from laplace_al.model.posterior import Posterior
from laplace_al.model.predictive import averaged, sampled_probabilities, sampled_weights
from laplace_al.model.structures import STRUCTURES
from laplace_al.model.updates import Rule

KnownInputs: TypeAlias = Instances | Extracted
AnyInputs: TypeAlias = Inputs | Extracted

LINKS = {
    "mean_field": links.mean_field,
    "plug_in": links.plug_in,
    "bridge": links.bridge,
    "monte_carlo": links.mean_field,  # of the same Gaussian, where nothing can be drawn
}


def _predicting(method: Method) -> Method:
    """Answers to inputs in memory or in blocks, from one state, in the kind of the inputs."""
    return like_tensors(on_one_state(in_blocks(method)))


class LastLayer(
    SharedExtractorMixin,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """A Gaussian last layer on frozen features that predicts, but does not learn.

    A subclass has the parameters of :class:`laplace_al.LaplaceUpdateClassifier` and learns the
    attributes below.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    posterior_ : Posterior
    covariance_ : str
        Structure of the posterior.
    extractor_ : TorchFeatures or None
    """

    classes_: NDArray[Any]
    posterior_: Posterior
    covariance_: str
    extractor_: TorchFeatures | None
    _calibration: Calibration
    _has_intercept: bool  # whatever the parameter is set to after a fit
    _sampling_seed: int
    _parameter_constraints: dict[str, Any]

    @_predicting
    def decision_function(self, X: AnyInputs) -> NDArray[np.floating]:
        """Logits of the prediction: :meth:`predict_proba` is their sigmoid or softmax.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes the logit of ``classes_[1]``.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> bool(clf.decision_function([[3.0]])[0] > 0)
        True
        """
        logits = self._predictive_logits(X).numpy(force=True)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    @_predicting
    def predict(self, X: AnyInputs) -> NDArray[Any]:
        """The most probable class of each input.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples,)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).predict([[3.0], [-3.0]])
        array([1, 0])
        """
        logits = self.decision_function(X)
        return self.classes_[
            logits.argmax(axis=1) if logits.ndim == 2 else (logits > 0).astype(int)
        ]

    @like_tensors
    def score(self, X: AnyInputs, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Share of the inputs whose label :meth:`predict` gives.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
        y : array-like of shape (n_samples,)
            Labels; those that are no classes count as wrong.
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If lengths differ, or a label is missing or of a kind that ``fit`` would refuse.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).score([[3.0], [-3.0]], [1, 1])
        0.5
        """
        check_unmasked(sample_weight, "sample_weight")
        return super().score(X, as_labels(y), sample_weight)

    @_predicting
    def predict_proba(self, X: AnyInputs) -> NDArray[np.floating]:
        """Probabilities of the classes, which include the uncertainty about the weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.predict_proba([[0.0]])
        array([[0.5, 0.5]])
        """
        logits = self._predictive_logits(X)
        return likelihood_of(len(self.classes_)).probabilities(logits).numpy(force=True)

    @_predicting
    def predict_log_proba(self, X: AnyInputs) -> NDArray[np.floating]:
        """Logarithm of :meth:`predict_proba`, exact for tiny probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples, n_classes)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.predict_log_proba([[0.0]]).round(3)
        array([[-0.693, -0.693]])
        """
        logits = self._predictive_logits(X)
        return likelihood_of(len(self.classes_)).log_probabilities(logits).numpy(force=True)

    @_predicting
    def latent_mean_and_variance(
        self, X: AnyInputs
    ) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
        """Gaussian over the logits, before calibration and conversion to probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One logit for two classes.
        variance : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One for all logits of a row with ``covariance="shared"`` and for two classes, else one
            for each logit. With ``covariance="full"``, predictions use variances without the part
            that shifts all logits alike, see :doc:`/theory`.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().partial_fit([[1.0]], [0], classes=[0, 1, 2])
        >>> mean, variance = clf.latent_mean_and_variance([[1.0], [2.0]])
        >>> mean.shape, variance.shape
        ((2, 3), (2, 3))
        """
        check_is_fitted(self)
        mean, variance = self._mean_and_variance(X, self.posterior_.variance)
        if mean.shape[1] == 1:
            mean, variance = mean[:, 0], variance.reshape(-1)
        return mean.numpy(force=True), variance.numpy(force=True)

    @like_tensors
    @on_one_state
    def sample_proba(
        self, X: KnownInputs, n_samples: int | None = None, random_state: RandomState = None
    ) -> NDArray[np.floating]:
        """Class probabilities under weights drawn from the posterior.

        Parameters
        ----------
        X : array-like of shape (n_inputs, n_features), or what the extractor takes
        n_samples : int, default=None
            Number of draws. None: the parameter ``n_samples``.
        random_state : int, RandomState instance or None, default=None
            Seeds the draws. None: the parameter ``random_state``.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs, n_classes)

        Raises
        ------
        TypeError, ValueError
            If ``n_samples`` is not an integer >= 1.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.sample_proba([[0.0], [1.0]], n_samples=5, random_state=0).shape
        (5, 2, 2)
        """
        check_is_fitted(self)
        self._check_params()
        features = self._features(X, reset=False)
        n_samples = self.n_samples if n_samples is None else n_samples
        check_scalar(n_samples, "n_samples", numbers.Integral, min_val=1)
        weights = self._weights(
            n_samples, None if random_state is None else drawn_seed(random_state)
        )
        likelihood = likelihood_of(len(self.classes_))
        draws = sampled_probabilities(weights, n_samples, features.mm, likelihood)
        return draws.numpy(force=True)

    @_predicting
    def predict_uncertainty(
        self, X: AnyInputs
    ) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
        """How uncertain each prediction is, and why.

        The total uncertainty is the entropy of the prediction averaged over drawn weights. It is
        the sum of the aleatoric part, the mean entropy under each of the weights (the classes
        overlap), and the epistemic part, the mutual information of weights and label (the weights
        disagree; a label would help).

        Depeweg et al., *Decomposition of uncertainty in Bayesian deep learning for efficient and
        risk-sensitive learning*, ICML 2018.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        total, aleatoric, epistemic : ndarray of shape (n_samples,)
            In nats; ``total = aleatoric + epistemic``.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]] * 2, [0, 1] * 2)
        >>> total, aleatoric, epistemic = clf.predict_uncertainty([[0.5], [50.0]])
        >>> bool((epistemic >= 0).all()), bool((total <= 0.6932).all())
        (True, True)
        """
        check_is_fitted(self)
        self._check_params()
        probabilities, aleatoric = self._averaged(X)
        total = torch.special.entr(probabilities).sum(dim=1)
        aleatoric = torch.minimum(aleatoric, total)  # Jensen, up to rounding
        epistemic = total - aleatoric  # eq-uncertainty
        return total.numpy(force=True), aleatoric.numpy(force=True), epistemic.numpy(force=True)

    @on_one_state
    def pool_state(self, X: KnownInputs) -> PoolState:
        """Predictions of a pool, which one pass over its features updates for each new label.

        Parameters
        ----------
        X : array-like of shape (n_pool, n_features), or what the extractor takes

        Returns
        -------
        PoolState
            Labels that it observes do not change this object. It learns as ``partial_fit`` with
            ``n_passes=1``, ``forgetting=1`` and no memory, with the calibration unchanged and the
            weights of ``class_weight`` (none for ``"balanced"``, which only ``fit`` supports). With
            ``predictive="monte_carlo"`` its probabilities are those of ``"mean_field"``.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.pool_state([[0.5], [2.0]]).observe(0, 1).predict_proba().shape
        (2, 2)
        """
        check_is_fitted(self)
        self._check_params()
        features = self._pool_features(X, self.posterior_.base.dtype, self.posterior_.base.device)
        likelihood = likelihood_of(len(self.classes_))
        return PoolState(
            self.posterior_,
            features,
            likelihood,
            self._update_rule(likelihood),
            self._calibration,
            LINKS[self.predictive],
            self.classes_,
            fit_intercept=self._has_intercept,
            class_weights=self._class_weights(),
            random_seed=self._sampling_seed,
        )

    @_predicting
    def transform(self, X: AnyInputs) -> NDArray[np.floating]:
        """The features of X, without the constant of the intercept: runs the extractor once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples, n_extracted_features)

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> import numpy as np
        >>> clf = LaplaceUpdateClassifier(np.square).fit([[0.0], [1.0]], [0, 1])
        >>> clf.transform([[3.0]])
        array([[9.]])
        """
        check_is_fitted(self)
        features = self._extract(X, reset=False)
        return features.copy() if self.extractor_ is None else features  # X stays the caller's

    @property
    def coef_(self) -> NDArray[np.floating]:
        """Posterior mean of the weights, (n_outputs, n_features)."""
        mean = self.posterior_.mean.T.numpy(force=True)
        return mean[:, :-1].copy() if self._has_intercept else mean.copy()

    @property
    def intercept_(self) -> NDArray[np.floating]:
        """Posterior mean of the intercepts, (n_outputs,); zero without them."""
        mean = self.posterior_.mean.numpy(force=True)
        return mean[-1].copy() if self._has_intercept else np.zeros(mean.shape[1])

    @property
    def calibration_(self) -> Calibration:
        """Temperature of the mean logits and scale of their variances."""
        return self._calibration

    @property
    def temperature_(self) -> float:
        """Divisor of the mean logits."""
        return self._calibration.temperature

    @property
    def _n_features_out(self) -> int:
        return len(self.posterior_.mean) - int(self._has_intercept)

    def _extract(self, X: Any, *, reset: bool, dtype: Any = np.float64) -> Any:
        """Validated features (n, D) as an array."""
        known = getattr(self, "extractor_", None)
        if known is not None and (not reset or isinstance(X, Extracted)):
            known.check_weights()
        if isinstance(X, Extracted):
            return X.features
        if type(X) is not np.ndarray:
            check_whole(X)
        if reset:
            self.extractor_ = self._make_extractor()
        if self.extractor_ is None:
            if is_by_name(X):
                raise TypeError(
                    f"X must be an array-like of rows; got {type(X).__name__}. Only a module or "
                    "function as feature_extractor takes arrays by name; pass pandas.DataFrame(X) "
                    "for columns."
                )
            if not reset and type(X) is np.ndarray and X.dtype.kind in "biuf":
                X = X.astype(dtype, copy=False)
            if reset or not self._is_valid(X):
                check_unmasked(X)
                X = validate_data(self, as_array(X), reset=reset, dtype=dtype)
            # torch takes no array that is read backwards
            return np.ascontiguousarray(X) if min(X.strides) < 0 else X
        X = self.extractor_.check_inputs(self, X, reset=reset)
        if reset:
            self.extractor_.probe(X)
            if self.head == "pretrained":
                self.extractor_.check_pretrained_head(X)
        return self.extractor_.extract(X)

    def _is_valid(self, X: object) -> bool:
        """Whether validation would find nothing to do, told in a fraction of its time."""
        return (
            type(X) is np.ndarray
            and X.dtype in (np.float64, np.float32)
            and X.ndim == 2
            and X.shape[1] == self.n_features_in_
            and len(X) > 0
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(X).all())
        )

    def _make_extractor(self) -> TorchFeatures | None:
        extractor = self.feature_extractor
        if extractor is None or isinstance(extractor, TorchFeatures):
            return share(extractor)
        return TorchFeatures(extractor, batch_size=self.batch_size, verbose=self.verbose)

    def _features(self, X: AnyInputs, *, reset: bool) -> torch.Tensor:
        """phi: features as a tensor (n, D), with the constant 1."""
        features = self._extract(X, reset=reset)
        if reset:
            self._has_intercept = self.fit_intercept
            dtype, device = getattr(torch, self.dtype), available_device(self.device)
        else:
            dtype, device = self.posterior_.base.dtype, self.posterior_.base.device
        return self._phi(features, dtype, device)

    def _rows(self, X: AnyInputs) -> tuple[int, Callable[[slice], torch.Tensor]]:
        """How many there are, and phi of some of them: never a wide copy of all."""
        features = self._extract(X, reset=False, dtype=feature_dtype(X))
        base = self.posterior_.base
        return len(features), lambda rows: self._phi(features[rows], base.dtype, base.device)

    def _pool_features(self, X: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Features (n_pool, n_features) as they are, where products do not overflow in a dtype."""
        features = self._extract(X, reset=False, dtype=feature_dtype(X))
        if isinstance(features, np.ndarray):
            if min(features.strides) < 0:  # of a reversed array, which torch has no form for
                features = features.copy()
            if not features.flags.writeable:
                features = np.asarray(_Writeable(features))
        features = torch.as_tensor(features, device=device)
        check_size(features, dtype)
        return features

    def _phi(self, features: Any, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        features = torch.tensor(features, dtype=dtype, device=device)
        check_size(features, dtype)
        return functional.pad(features, (0, 1), value=1.0) if self._has_intercept else features

    def _check_params(self) -> tuple[Any, ...]:
        """Validate the parameters, unless they are the very objects that last passed."""
        params = tuple(vars(self)[name] for name in self._parameter_constraints)
        passed = vars(self).get("_passed_params", ())
        if not (passed and all(map(operator.is_, params, passed))):
            self._validate_params()
        return params

    def _class_weights(self) -> NDArray[np.float64]:
        """What one label of each class counts, (n_classes,)."""
        n_classes = len(self.classes_)
        of_dict = None if self.class_weight == "balanced" else self.class_weight
        return weighted_by_class(np.ones(n_classes), of_dict, np.arange(n_classes), self.classes_)

    def _update_rule(self, likelihood: Likelihood) -> Rule:
        return STRUCTURES[self.covariance_].update(
            likelihood, update=self.update, curvature=self.curvature, step_size=self.step_size
        )

    def _weights(self, n_samples: int, seed: int | None = None) -> Iterator[torch.Tensor]:
        seed = self._sampling_seed if seed is None else seed
        return sampled_weights(self.posterior_, self._calibration, n_samples, seed)

    def _averaged(self, X: AnyInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Probabilities (n, K) averaged over drawn weights, and their mean entropies (n,)."""
        n_rows, rows = self._rows(X)
        n_classes, weights = len(self.classes_), self._weights(self.n_samples)
        return averaged(weights, rows, n_rows, likelihood_of(n_classes), n_classes)

    def _mean_and_variance(
        self, X: AnyInputs, variance_of: Callable[[torch.Tensor], torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Means (n, C) of the logits, and variances (n,) or (n, C)."""
        n_rows, rows = self._rows(X)
        means, variances = [], []
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            features = rows(slice(start, start + _ROWS_AT_ONCE))
            means.append(self.posterior_.logits(features))
            variances.append(variance_of(features))
        return torch.cat(means), torch.cat(variances)

    def _predictive_logits(self, X: AnyInputs) -> torch.Tensor:
        check_is_fitted(self)
        self._check_params()
        if self.predictive != "monte_carlo":
            mean, variance = self._mean_and_variance(X, self.posterior_.predictive_variance)
            return self._calibration.apply(LINKS[self.predictive], mean, variance)
        probabilities, _ = self._averaged(X)
        logits = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
        return logits if logits.shape[1] > 2 else (logits[:, 1:] - logits[:, :1])


class _Writeable:
    """An array that says it may be written to, which nobody does: torch warns of others."""

    def __init__(self, X: NDArray[Any]) -> None:
        self.X = X
        self.__array_interface__ = {**X.__array_interface__, "data": (X.ctypes.data, False)}


_ROWS_AT_ONCE = 4096


def check_size(features: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse numbers whose products would overflow.

    Parameters
    ----------
    features : Tensor
    dtype : torch.dtype
        Of the posterior.

    Raises
    ------
    ValueError
        If one is larger than :func:`largest_feature`.

    Examples
    --------
    >>> check_size(torch.tensor([1e100], dtype=torch.float64), torch.float64)
    """
    if torch.linalg.vector_norm(features, ord=torch.inf) > largest_feature(dtype):
        raise ValueError(
            f"X is too large: products of the features overflow in {dtype}. Scale the features, "
            "e.g. with StandardScaler."
        )


def largest_feature(dtype: torch.dtype) -> float:
    """The largest number that a feature may be.

    Parameters
    ----------
    dtype : torch.dtype
        Of the posterior.

    Returns
    -------
    float
        Its square does not overflow, with a margin for variances.

    Examples
    --------
    >>> largest_feature(torch.float32) < 1e16
    True
    """
    return torch.finfo(dtype).max ** 0.4


def drawn_seed(random_state: RandomState) -> int:
    """An integer from a seed or generator, as a parameter ``random_state`` may be.

    Parameters
    ----------
    random_state : int, RandomState instance or None

    Returns
    -------
    int

    Examples
    --------
    >>> drawn_seed(0) == drawn_seed(0)
    True
    """
    return int(check_random_state(random_state).randint(2**31))
