"""The estimator: validates, encodes classes and delegates to the posterior."""

import numbers
import operator
import warnings

import numpy as np
import torch
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn import functional

from laplace_al import links
from laplace_al.features import SharedExtractorMixin, TorchFeatures, share
from laplace_al.labels import (
    check_labels,
    class_indices,
    class_weights,
    distinct_classes,
    widened_classes,
)
from laplace_al.likelihoods import likelihood_of
from laplace_al.mode import find_mode
from laplace_al.structures import STRUCTURES, choose_structure
from laplace_al.transaction import all_or_nothing

_LINKS = {"mean_field": links.mean_field, "plug_in": links.plug_in}


class LaplaceUpdateClassifier(
    SharedExtractorMixin,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """A frozen network with a Bayesian last layer that learns new labels in closed form.

    The last layer gets a Gaussian posterior (Laplace approximation at the MAP). ``partial_fit``
    updates it with new labels in closed form, without the old data and without retraining.

    Parameters
    ----------
    feature_extractor : nn.Module, TorchFeatures, skorch net, transformer or callable, default=None
        Makes the features, frozen: never trained, never copied by ``clone``. A module gives the
        input of the ``nn.Linear`` that it calls last; for another layer pass
        ``TorchFeatures(module, layer=...)``. A transformer must be fitted. None: X are
        the features.
    prior_precision : float, default=1.0
        Precision lambda > 0 of the Gaussian prior on the weights, intercept included; one and
        the same for the MAP and the posterior. ``LogisticRegression``'s ``1 / C``.
    covariance : {"auto", "per_class", "shared", "full"}, default="auto"
        Structure of the posterior. ``"shared"`` is one covariance for the weights of all classes
        (n_features^2 numbers), ``"per_class"`` one for each class (n_classes n_features^2) and
        ``"full"`` couples all weights ((n_classes n_features)^2, for small heads). ``"auto"``
        takes ``"per_class"`` up to 2^25 numbers, 256 MiB, else ``"shared"``. For two classes
        all are the same.
    curvature : {"categorical", "gaussian"}, default="categorical"
        Weight of an instance in the precision: that of its softmax, which is ``p_max (1 -
        p_max)`` if shared, ``p_k (1 - p_k)`` per class and ``diag p - p p^T`` in full; or 1.
    update : {"map", "newton"}, default="map"
        How ``partial_fit`` learns a label. ``"map"`` moves to the exact mode of the current
        Gaussian times the likelihood of the label and cannot overshoot; ``"newton"`` takes one
        step of ``step_size``, as the paper does.
    step_size : float, default=1.0
        gamma of ``update="newton"``; the paper uses 10.
    n_passes : int, default=1
        How often ``partial_fit`` goes over its instances. Each pass counts them once more.
    predictive : {"mean_field", "plug_in"}, default="mean_field"
        Probabilities from Gaussian logits: ``"mean_field"`` shrinks logits by their variance,
        ``"plug_in"`` ignores it.
    calibration : None, default=None
        No recalibration of the predicted probabilities.
    n_samples : int, default=1000
        Draws of :meth:`sample_proba` when it is not told how many.
    fit_intercept : bool, default=True
        Whether to add a constant feature 1.
    head : {"fit", "pretrained"}, default="fit"
        ``"fit"`` converges to the MAP; ``"pretrained"`` keeps the trained last layer of the
        module or skorch net as the mean and only computes the covariance. Its outputs stand
        for the sorted classes.
    classes : array-like of shape (n_classes,), default=None
        All labels that may ever occur. None: those in the first y, or given to ``partial_fit``.
    class_weight : dict, "balanced" or None, default=None
        Weights of classes, multiplied with ``sample_weight``. ``"balanced"`` is for ``fit``
        alone.
    memory_size : {0}, default=0
        Features of past instances to keep: none.
    forgetting : float, default=1.0
        In (0, 1]: for streams that drift, each new label makes all earlier ones count so much of
        what they did; the prior always counts in full. Below 1, ``partial_fit`` costs a
        factorisation, O(n_features^3).
    dtype : {"float64", "float32"}, default="float64"
        Precision of the posterior. ``"float32"`` halves memory and time and keeps about 6 digits:
        the MAP stops at the distance that these resolve, and weak priors beside large features
        drown earlier.
    max_iter : int, default=100
        Newton steps of ``fit`` at most.
    tol : float, default=1e-8
        Distance to the MAP, in posterior standard deviations, at which ``fit`` stops.
    warm_start : bool, default=False
        Whether ``fit`` starts from the current mean. The MAP is the same.
    batch_size : int, default=256
        Inputs per forward pass of the feature extractor.
    device : str or torch.device, default="cpu"
        Where the posterior lives.
    random_state : int, RandomState instance or None, default=None
        Seed of :meth:`sample_proba` when it is not given one.
    verbose : int, default=0
        Shows a progress bar while features are extracted, if positive.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    posterior_ : Posterior
        Gaussian over the weights: its ``mean`` is of shape (n_features + 1, n_outputs); n_outputs
        is 1 for two classes, the last row is the intercept.
    covariance_ : str
        Structure of the posterior in use.
    coef_ : ndarray of shape (n_outputs, n_features)
    intercept_ : ndarray of shape (n_outputs,)
    n_iter_ : int
        Newton steps of the last ``fit``; absent if the head was not fitted.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns of X, if they are all strings.
    extractor_ : TorchFeatures or None
        The feature extractor in use.

    See Also
    --------
    ActiveLearner : Asks for the labels that this classifier learns.
    sklearn.linear_model.LogisticRegression : The same MAP without a posterior or an update.

    Notes
    -----
    The paper's own method is ``covariance="shared", curvature="gaussian", update="newton",
    step_size=10``.

    References
    ----------
    Huseljic et al., *Efficient Bayesian Updates for Deep (Active) Learning via Laplace
    Approximations*, arXiv 2210.06112.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from laplace_al import LaplaceUpdateClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> clf = LaplaceUpdateClassifier(classes=[0, 1, 2]).fit(X[::10], y[::10])
    >>> clf.partial_fit(X[1::10], y[1::10]).predict(X[[2, 52, 102]])
    array([0, 1, 2])
    """

    _parameter_constraints: dict = {
        "feature_extractor": "no_validation",
        "prior_precision": [Interval(numbers.Real, 0, None, closed="neither")],
        "covariance": [StrOptions({"auto", *STRUCTURES})],
        "curvature": [StrOptions({"categorical", "gaussian"})],
        "update": [StrOptions({"map", "newton"})],
        "step_size": [Interval(numbers.Real, 0, None, closed="neither")],
        "n_passes": [Interval(numbers.Integral, 1, None, closed="left")],
        "predictive": [StrOptions(set(_LINKS))],
        "calibration": [None],
        "n_samples": [Interval(numbers.Integral, 1, None, closed="left")],
        "fit_intercept": ["boolean"],
        "head": [StrOptions({"fit", "pretrained"})],
        "classes": ["array-like", None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "memory_size": [Options(numbers.Integral, {0})],
        "forgetting": [Interval(numbers.Real, 0, 1, closed="right")],
        "dtype": [StrOptions({"float64", "float32"})],
        "max_iter": [Interval(numbers.Integral, 1, None, closed="left")],
        "tol": [Interval(numbers.Real, 0, None, closed="left")],
        "warm_start": ["boolean"],
        "batch_size": [Interval(numbers.Integral, 1, None, closed="left")],
        "device": [str, torch.device],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        feature_extractor=None,
        *,
        prior_precision=1.0,
        covariance="auto",
        curvature="categorical",
        update="map",
        step_size=1.0,
        n_passes=1,
        predictive="mean_field",
        calibration=None,
        n_samples=1000,
        fit_intercept=True,
        head="fit",
        classes=None,
        class_weight=None,
        memory_size=0,
        forgetting=1.0,
        dtype="float64",
        max_iter=100,
        tol=1e-8,
        warm_start=False,
        batch_size=256,
        device="cpu",
        random_state=None,
        verbose=0,
    ):
        self.feature_extractor = feature_extractor
        self.prior_precision = prior_precision
        self.covariance = covariance
        self.curvature = curvature
        self.update = update
        self.step_size = step_size
        self.n_passes = n_passes
        self.predictive = predictive
        self.calibration = calibration
        self.n_samples = n_samples
        self.fit_intercept = fit_intercept
        self.head = head
        self.classes = classes
        self.class_weight = class_weight
        self.memory_size = memory_size
        self.forgetting = forgetting
        self.dtype = dtype
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @all_or_nothing
    def fit(self, X, y, sample_weight=None):
        """Find the MAP of the last layer and its posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
        y : array-like of shape (n_samples,)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0. Weight k is the same as the instance k times.

        Returns
        -------
        LaplaceUpdateClassifier
            This object.

        Raises
        ------
        ValueError
            If X or y is not valid, y has a label outside ``classes`` or only one class, or the
            weights are negative or all zero. The object is then as it was.

        Warns
        -----
        ConvergenceWarning
            If the MAP was not reached in ``max_iter`` steps.

        Examples
        --------
        >>> LaplaceUpdateClassifier().fit([[-1.0], [1.0]], ["no", "yes"]).predict([[3.0]])
        array(['yes'], dtype='<U3')
        """
        self._passed_params = self._check_params()
        previous = self.posterior_ if self.warm_start and hasattr(self, "posterior_") else None
        features = self._features(X, reset=True)
        y, sample_weight = check_labels(y, sample_weight, len(features))
        seen = np.unique(y[sample_weight > 0])
        if self.classes is None and len(seen) < 2:
            raise ValueError(
                "y must have at least 2 classes to fit; got 1 class among the instances of "
                f"positive weight: {seen.tolist()}. Pass classes= with all labels that may occur."
            )
        self.classes_ = distinct_classes(y if self.classes is None else self.classes)
        indices = class_indices(y, self.classes_)
        weights = features.new_tensor(sample_weight * class_weights(self.class_weight, y))
        likelihood = likelihood_of(len(self.classes_))
        targets = likelihood.encode(features.new_tensor(indices))
        mean = prior_mean = self._prior_mean(features, likelihood.n_outputs)
        self.covariance_ = self._structure(mean)
        vars(self).pop("n_iter_", None)
        if self.head == "fit":
            if previous is not None and previous.mean.shape == mean.shape:
                mean = previous.mean.to(mean)
            mean = self._find_mode(features, targets, weights, likelihood, mean)
        self.posterior_ = STRUCTURES[self.covariance_].at_mode(
            mean,
            features,
            weights,
            likelihood,
            self.curvature,
            self.prior_precision,
            prior_mean,
        )
        return self

    @all_or_nothing
    def partial_fit(self, X, y, classes=None, sample_weight=None):
        """Learn new labels by a Bayesian update in closed form; old data is not needed.

        The first call without ``fit`` starts from the prior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
        y : array-like of shape (n_samples,)
            Labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that may ever occur. Needed by the first call, unless the parameter
            ``classes`` has them.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0. An instance of weight 0 changes nothing.

        Returns
        -------
        LaplaceUpdateClassifier
            This object.

        Raises
        ------
        ValueError
            If X or y is not valid, y has a label that is not among the classes, the classes
            differ from those of earlier calls, a weight is negative or all are zero. The
            object is then bit for bit as it was.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier()
        >>> clf = clf.partial_fit([[-1.0]], ["no"], classes=["no", "yes"])
        >>> clf.partial_fit([[1.0]], ["yes"]).predict([[3.0]])
        array(['yes'], dtype='<U3')
        """
        self._passed_params = self._check_params()
        first = not hasattr(self, "posterior_")
        self.classes_ = self._known_classes(classes)
        features = self._features(X, reset=first)
        y, sample_weight = check_labels(y, sample_weight, len(features))
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once, so partial_fit cannot use it. "
                "Pass a dict, e.g. from sklearn.utils.compute_class_weight."
            )
        indices = class_indices(y, self.classes_)
        weights = features.new_tensor(sample_weight * class_weights(self.class_weight, y))
        likelihood = likelihood_of(len(self.classes_))
        targets = likelihood.encode(features.new_tensor(indices))
        if first:
            mean = self._prior_mean(features, likelihood.n_outputs)
            self.covariance_ = self._structure(mean)
            posterior = STRUCTURES[self.covariance_].posterior
            self.posterior_ = posterior.prior(mean, self.prior_precision)
        if self.forgetting < 1:
            # each label fades what came before it, the earlier ones of this call included
            n_later = torch.arange(len(weights) - 1, -1, -1, device=weights.device)
            weights = weights * self.forgetting**n_later
            self.posterior_ = self.posterior_.forget(self.forgetting ** len(weights))
        update = STRUCTURES[self.covariance_].update(
            likelihood, update=self.update, curvature=self.curvature, step_size=self.step_size
        )
        for _ in range(self.n_passes):
            self.posterior_ = self.posterior_.condition(features, targets, weights, update)
        return self

    @all_or_nothing
    def add_classes(self, labels):
        """Open new classes from the prior, without refitting.

        Their logits start at 0, and the classes so far keep theirs. With two classes the one
        logit first becomes two, half of it each.

        Parameters
        ----------
        labels : label or array-like of shape (n_labels,)

        Returns
        -------
        LaplaceUpdateClassifier
            This object.

        Raises
        ------
        ValueError
            If a label is known already, or is of another kind than those so far. The object is
            then as it was.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], ["ant", "cat"])
        >>> clf.add_classes("bee").classes_
        array(['ant', 'bee', 'cat'], dtype='<U3')
        >>> clf.partial_fit([[0.0]], ["bee"]).predict_proba([[0.0]]).argmax()
        np.int64(1)
        """
        check_is_fitted(self)
        classes = widened_classes(self.classes_, labels)
        posterior = self.posterior_
        if posterior.mean.shape[1] == 1:
            posterior = posterior.as_two_outputs()
        choose_structure(
            self.covariance_,
            len(posterior.mean),
            len(classes),
            dtype=posterior.mean.dtype,
            device=posterior.mean.device,
        )
        positions = torch.as_tensor(np.searchsorted(classes, self.classes_))
        positions = positions.to(posterior.mean.device)
        self.posterior_ = posterior.with_outputs(positions, len(classes))
        self.classes_ = classes
        return self

    def decision_function(self, X):
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
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> bool(clf.decision_function([[3.0]])[0] > 0)
        True
        """
        logits = self._predictive_logits(X).numpy(force=True)
        return logits[:, 0] if logits.shape[1] == 1 else logits

    def predict(self, X):
        """The most probable class of each input.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples,)

        Examples
        --------
        >>> LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).predict([[3.0], [-3.0]])
        array([1, 0])
        """
        logits = self.decision_function(X)
        return self.classes_[
            logits.argmax(axis=1) if logits.ndim == 2 else (logits > 0).astype(int)
        ]

    def predict_proba(self, X):
        """Probabilities of the classes, uncertainty about the weights included.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.predict_proba([[0.0]])
        array([[0.5, 0.5]])
        """
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X):
        """Logarithm of :meth:`predict_proba`, exact for tiny probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples, n_classes)

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.predict_log_proba([[0.0]]).round(3)
        array([[-0.693, -0.693]])
        """
        logits = self._predictive_logits(X)
        return likelihood_of(len(self.classes_)).log_probabilities(logits).numpy(force=True)

    def latent_mean_and_variance(self, X):
        """Gaussian over the logits, before it is made into probabilities.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        mean : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One logit for two classes.
        variance : ndarray of shape (n_samples,) or (n_samples, n_classes)
            One for all logits of a row with ``covariance="shared"`` and for two classes, else one
            for each logit.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier().partial_fit([[1.0]], [0], classes=[0, 1, 2])
        >>> mean, variance = clf.latent_mean_and_variance([[1.0], [2.0]])
        >>> mean.shape, variance.shape
        ((2, 3), (2, 3))
        """
        mean, variance = self._latent(X)
        if mean.shape[1] == 1:
            mean, variance = mean[:, 0], variance.reshape(-1)
        return mean.numpy(force=True), variance.numpy(force=True)

    def sample_proba(self, X, n_samples=None, random_state=None):
        """Class probabilities under weights drawn from the posterior.

        Parameters
        ----------
        X : array-like of shape (n_inputs, n_features), or what the extractor takes
        n_samples : int, default=None
            Number of draws; None takes the parameter ``n_samples``.
        random_state : int, RandomState instance or None, default=None
            None takes the parameter ``random_state``.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs, n_classes)

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
        >>> clf.sample_proba([[0.0], [1.0]], n_samples=5, random_state=0).shape
        (5, 2, 2)
        """
        check_is_fitted(self)
        features = self._features(X, reset=False)
        n_samples = self.n_samples if n_samples is None else n_samples
        rng = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(int(rng.randint(2**31)))
        likelihood = likelihood_of(len(self.classes_))
        logits = features @ self.posterior_.sample(n_samples, generator)  # (n_samples, n, C)
        probabilities = likelihood.log_probabilities(logits.flatten(end_dim=1)).exp()
        return probabilities.reshape(n_samples, len(features), -1).numpy(force=True)

    def transform(self, X):
        """The features of X, without the intercept's constant: pays for the extractor once.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes

        Returns
        -------
        ndarray of shape (n_samples, n_extracted_features)

        Examples
        --------
        >>> import numpy as np
        >>> clf = LaplaceUpdateClassifier(np.square).fit([[0.0], [1.0]], [0, 1])
        >>> clf.transform([[3.0]])
        array([[9.]])
        """
        check_is_fitted(self)
        features = self._extract(X, reset=False)
        return features.copy() if self.extractor_ is None else features  # X stays the caller's

    @property
    def coef_(self):
        """Posterior mean of the weights, (n_outputs, n_features)."""
        mean = self.posterior_.mean.T.numpy(force=True)
        return mean[:, :-1].copy() if self.fit_intercept else mean.copy()

    @property
    def intercept_(self):
        """Posterior mean of the intercepts, (n_outputs,); zero without them."""
        mean = self.posterior_.mean.numpy(force=True)
        return mean[-1].copy() if self.fit_intercept else np.zeros(mean.shape[1])

    @property
    def _n_features_out(self):
        return len(self.posterior_.mean) - int(self.fit_intercept)

    def _extract(self, X, *, reset):
        """Validated features (n, D) as an array."""
        if reset:
            self.extractor_ = self._make_extractor()
        if self.extractor_ is None:
            if not reset and self._is_valid(X):
                return X
            return validate_data(self, X, reset=reset, dtype=np.float64)
        X = self.extractor_.check_inputs(self, X, reset=reset)
        if reset:
            self.extractor_.probe(X)
        return self.extractor_.extract(X)

    def _is_valid(self, X):
        """Whether validation would find nothing to do, told in a fraction of its time."""
        return (
            type(X) is np.ndarray
            and X.dtype == np.float64
            and X.ndim == 2
            and X.shape[1] == self.n_features_in_
            and len(X) > 0
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(X).all())
        )

    def _make_extractor(self):
        extractor = self.feature_extractor
        if extractor is None or isinstance(extractor, TorchFeatures):
            return share(extractor)
        return TorchFeatures(extractor, batch_size=self.batch_size, verbose=self.verbose)

    def _features(self, X, *, reset):
        """phi: features as a tensor (n, D), with the constant 1."""
        features = self._extract(X, reset=reset)
        if reset:
            dtype, device = getattr(torch, self.dtype), _available_device(self.device)
        else:
            dtype, device = self.posterior_.base.dtype, self.posterior_.base.device
        features = torch.tensor(features, dtype=dtype, device=device)
        return functional.pad(features, (0, 1), value=1.0) if self.fit_intercept else features

    def _check_params(self):
        """Validate the parameters, unless they are the very objects that last passed."""
        params = tuple(vars(self)[name] for name in self._parameter_constraints)
        passed = vars(self).get("_passed_params", ())
        if not (passed and all(map(operator.is_, params, passed))):
            self._validate_params()
        return params

    def _known_classes(self, classes):
        """Classes of a call of partial_fit, which are fixed by the first."""
        is_fitted = hasattr(self, "posterior_")
        if is_fitted and classes is None:
            return self.classes_
        fixed = self.classes_ if is_fitted else self.classes
        if fixed is None and classes is None:
            raise ValueError(
                "classes must be passed on the first call to partial_fit: all labels that may "
                "ever occur. Pass partial_fit(X, y, classes=...), set the parameter classes, "
                "or call fit first."
            )
        known = distinct_classes(classes if fixed is None else fixed)
        if classes is not None and not np.array_equal(distinct_classes(classes), known):
            raise ValueError(
                f"`classes={list(classes)}` is not the same as on last call to partial_fit or as "
                f"the parameter classes, was: {known.tolist()}. Leave it out, or fit anew."
            )
        return known

    def _structure(self, mean):
        return choose_structure(self.covariance, *mean.shape, dtype=mean.dtype, device=mean.device)

    def _prior_mean(self, features, n_outputs):
        """Where W (D, n_outputs) starts: zero, or the trained last layer of the network."""
        if self.head == "fit":
            return features.new_zeros((features.shape[1], n_outputs))
        if self.extractor_ is None:
            raise ValueError(
                "head='pretrained' needs a feature_extractor with a trained last nn.Linear; got "
                "None. Pass the module, or head='fit'."
            )
        weight, bias = self.extractor_.pretrained_head()
        n_classes = len(self.classes_)
        if len(weight) not in {n_classes, n_outputs}:
            raise ValueError(
                f"head='pretrained': the last nn.Linear has {len(weight)} outputs for "
                f"{n_classes} classes {self.classes_.tolist()}. Pass classes= with the labels of "
                "its outputs, or head='fit'."
            )
        if bias is not None and not self.fit_intercept:
            raise ValueError(
                "head='pretrained': the last nn.Linear has a bias, which fit_intercept=False "
                "would drop. Set fit_intercept=True."
            )
        mean = weight.to(features).T  # (D, outputs)
        if self.fit_intercept:
            bias = mean.new_zeros(mean.shape[1]) if bias is None else bias.to(mean)
            mean = torch.cat([mean, bias[None, :]])
        return mean[:, 1:] - mean[:, :1] if mean.shape[1] > n_outputs else mean.clone()

    def _find_mode(self, features, targets, weights, likelihood, start):
        mode = find_mode(
            features,
            targets,
            weights,
            likelihood,
            self.prior_precision,
            start,
            max_iter=self.max_iter,
            tol=self.tol,
        )
        self.n_iter_ = max(mode.n_iter, 1)
        if not mode.converged:
            warnings.warn(
                f"fit is {mode.distance:.1e} posterior standard deviations from the MAP after "
                f"max_iter={self.max_iter} steps (tol={self.tol:g}). Scale the features "
                "(StandardScaler), raise max_iter or prior_precision.",
                ConvergenceWarning,
                stacklevel=4,
            )
        return mode.mean

    def _latent(self, X):
        check_is_fitted(self)
        self._check_params()
        features = self._features(X, reset=False)
        return self.posterior_.logits(features), self.posterior_.variance(features)

    def _predictive_logits(self, X):
        mean, variance = self._latent(X)
        return _LINKS[self.predictive](mean, variance)


def _available_device(device):
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={str(device)!r} is not available: {error}. Use device='cpu'."
        ) from error
