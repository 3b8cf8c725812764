"""The predictions of a fitted classifier."""

import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_scalar

from laplace_al._common.devices import as_array
from laplace_al._common.typing import Inputs, Instances, RandomState
from laplace_al.classifier.fitted import FittedEstimator, drawn_seed, fitted_of
from laplace_al.inputs.blocks import check_unmasked, over_blocks
from laplace_al.inputs.input_format import InputFormat
from laplace_al.inputs.known import Extracted, feature_dtype
from laplace_al.inputs.labels import as_labels
from laplace_al.inputs.tensors import like_tensors
from laplace_al.model.fitted_model import FittedModel, check_size
from laplace_al.model.pool_state import PoolState
from laplace_al.model.predictive import sampled_probabilities

# inputs in memory, or in blocks as well; the features of either may be extracted already
KnownInputs: TypeAlias = Instances | Extracted
AnyInputs: TypeAlias = Inputs | Extracted


class Predictor(FittedEstimator):
    """The predictions of a fitted estimator."""

    @like_tensors
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

        def decide(model: FittedModel, logits: torch.Tensor) -> NDArray[np.floating]:
            values = logits.numpy(force=True)
            return values[:, 0] if values.shape[1] == 1 else values

        return self._predicted(X, decide)

    @like_tensors
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

        def choose(model: FittedModel, logits: torch.Tensor) -> NDArray[Any]:
            values = logits.numpy(force=True)
            is_binary = values.shape[1] == 1
            return model.classes[(values[:, 0] > 0).astype(int) if is_binary else values.argmax(1)]

        return self._predicted(X, choose)

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

    @like_tensors
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
        return self._predicted(
            X, lambda model, logits: model.likelihood.probabilities(logits).numpy(force=True)
        )

    @like_tensors
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
        return self._predicted(
            X, lambda model, logits: model.likelihood.log_probabilities(logits).numpy(force=True)
        )

    @like_tensors
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
        inputs, model, _ = fitted_of(self)

        def gaussian(X: Any) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
            rows = self._rows(inputs, model, X)
            mean, variance = model.gaussian_logits(*rows, model.posterior.variance)
            if mean.shape[1] == 1:
                mean, variance = mean[:, 0], variance.reshape(-1)
            return mean.numpy(force=True), variance.numpy(force=True)

        return over_blocks(gaussian, X)

    @like_tensors
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
        inputs, model, _ = fitted_of(self)
        params = self._checked_params()
        features = model.completed(inputs.features(X, name=type(self).__name__))
        n_samples = params.n_samples if n_samples is None else n_samples
        check_scalar(n_samples, "n_samples", numbers.Integral, min_val=1)
        seed = None if random_state is None else drawn_seed(random_state)
        weights = model.drawn_weights(n_samples, seed)
        draws = sampled_probabilities(weights, n_samples, features.mm, model.likelihood)
        return draws.numpy(force=True)

    @like_tensors
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
        inputs, model, _ = fitted_of(self)
        n_samples = self._checked_params().n_samples

        def parts(X: Any) -> tuple[NDArray[np.floating], ...]:
            probabilities, aleatoric = model.averaged(*self._rows(inputs, model, X), n_samples)
            total = torch.special.entr(probabilities).sum(dim=1)
            aleatoric = torch.minimum(aleatoric, total)  # Jensen, up to rounding
            epistemic = total - aleatoric  # eq-uncertainty
            return tuple(part.numpy(force=True) for part in (total, aleatoric, epistemic))

        total, aleatoric, epistemic = over_blocks(parts, X)
        return total, aleatoric, epistemic

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
        return PoolState(self.current_model(), self.pool_features(X))

    def pool_features(self, X: KnownInputs) -> torch.Tensor:
        """Return the features (n_pool, n_features) of a pool, in a dtype no wider than needed."""
        inputs, model, _ = fitted_of(self)
        like = model.posterior.prior_mean
        features = inputs.pool_features(X, name=type(self).__name__, device=like.device)
        check_size(features, like.dtype)
        return features

    @like_tensors
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
        inputs = fitted_of(self).inputs

        def extract(X: Any) -> NDArray[np.floating]:
            features = as_array(inputs.features(X, name=type(self).__name__))
            return features.copy() if inputs.extractor is None else features  # X is the caller's

        return over_blocks(extract, X)

    def _rows(
        self, inputs: InputFormat, model: FittedModel, X: Any
    ) -> tuple[int, Callable[[slice], torch.Tensor]]:
        """Return how many inputs there are, and phi of some of them: never a wide copy of all."""
        features = inputs.features(X, name=type(self).__name__, dtype=feature_dtype(X))
        return len(features), lambda rows: model.completed(features[rows])

    def _predicted(
        self, X: Any, answer: Callable[[FittedModel, torch.Tensor], NDArray[Any]]
    ) -> NDArray[Any]:
        """Return the answers of a model to inputs, from the logits of its predictions."""
        inputs, known, _ = fitted_of(self)
        params = self._checked_params()
        model = known.under(known.rules._replace(predictive=params.predictive))

        def predict(X: Any) -> NDArray[Any]:
            rows = self._rows(inputs, model, X)
            if params.predictive == "monte_carlo":
                logits = _logits_of(model.averaged(*rows, params.n_samples)[0])
            else:
                variance = model.posterior.predictive_variance
                logits = model.calibrated(*model.gaussian_logits(*rows, variance))
            return answer(model, logits)

        return over_blocks(predict, X)


def _logits_of(probabilities: torch.Tensor) -> torch.Tensor:
    """Return logits (n, C) of averaged probabilities (n, K)."""
    logits = probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()
    return logits if logits.shape[1] > 2 else (logits[:, 1:] - logits[:, :1])
