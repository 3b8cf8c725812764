"""The estimator: validates inputs and labels, asks the model, publishes what it has learnt."""

import numbers
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions

from laplace_al._common.typing import Features, RandomState
from laplace_al._common.warn import warn_user
from laplace_al.classifier.encoder import Encoder, check_some_weight, fixed_classes, labels_of_fit
from laplace_al.classifier.fitted import (
    Fitted,
    drawn_seed,
    fitted_of,
    publish,
    rules_of,
    validated_values,
    warn_unless_converged,
)
from laplace_al.classifier.predictor import KnownInputs, Predictor
from laplace_al.classifier.trained import classes_of_outputs, trained_features
from laplace_al.inputs.classes import widened_classes
from laplace_al.inputs.input_format import InputFormat
from laplace_al.inputs.known import Extracted, feature_dtype
from laplace_al.inputs.soft_labels import SoftLabels
from laplace_al.inputs.tensors import like_tensors
from laplace_al.inputs.weighted_labels import (
    ClassWeight,
    check_labels,
    places_of,
    weighted,
)
from laplace_al.model.fit import Fit
from laplace_al.model.fitted_model import LINKS, MEMORY_TOLERANCE
from laplace_al.model.prior_precision import Chosen
from laplace_al.model.rows import Rows, RowsInMemory
from laplace_al.model.structures import STRUCTURES, CovarianceName, CurvatureName, UpdateName

_AT_BOUND = {
    "smallest": "the labels favour no prior, as they do if the features separate them perfectly.",
    "largest": "the features predict the labels no better than the prior mean.",
}


class LaplaceUpdateClassifier(Predictor):
    """A frozen network with a Bayesian last layer that learns new labels in closed form.

    The last layer gets a Gaussian posterior (Laplace approximation at the MAP). ``partial_fit``
    updates it with new labels in closed form, without the old data and without retraining.

    Inputs to predict or transform may be larger than memory: a memory map, an iterator of blocks of
    rows, a ``torch.utils.data.DataLoader`` or a Dask array is read block by block, and only the
    result is held in memory. With ``sklearn.set_config(array_api_dispatch=True)``, tensors as
    inputs give tensors as results.

    Parameters
    ----------
    feature_extractor : nn.Module, TorchFeatures, skorch net, transformer or callable, default=None
        Computes the features. It is frozen: never trained, and never copied by ``clone``, unless
        ``train_extractor`` is set. The
        features of a module are the input of the ``nn.Linear`` that makes its output, or that
        output if there is no such layer, see :class:`TorchFeatures`; for another layer pass
        ``TorchFeatures(module, layer=...)``. If its weights change, calls other than ``fit`` raise
        a RuntimeError. A transformer must be fitted. None: X holds the features.
    prior_precision : float, "scale", "loo" or "evidence", default="scale"
        Precision lambda > 0 of the Gaussian prior on the weights, intercept included. The MAP and
        the posterior share it. It corresponds to ``1 / C`` of ``LogisticRegression``. ``"scale"``
        is 0.01 times the sum of the variances of the features, each counted as at most 30 times
        their median, so that a few columns in a small unit do not rule the others; in our study it
        was near the best value from the first labels on. With ``head="pretrained"`` it is 400 times
        as much. With ``"loo"`` or ``"evidence"``, ``fit`` chooses the value without a validation
        set, by the leave-one-out log-likelihood or the marginal likelihood. That takes about 15
        fits and needs some labels of each class. Without ``fit``, the rows of the first
        ``partial_fit`` determine the scale. A single row has no variance, and its squares take that
        place: too strong a prior for features that are far from zero.
    covariance : {"auto", "per_class", "low_rank", "shared", "full"}, default="auto"
        Structure of the posterior. ``"shared"`` is one covariance for the weights of all classes
        (n_features^2 numbers), ``"per_class"`` one for each class (n_classes n_features^2),
        ``"low_rank"`` nearly that by a shared one and 16 directions of each class (n_features^2 +
        17 n_classes n_features), and ``"full"`` couples all weights ((n_classes n_features)^2, for
        small heads). ``"auto"`` chooses ``"per_class"`` up to 2^25 numbers, else ``"low_rank"``.
        For two classes all structures are the same.
    curvature : {"secant", "categorical", "gaussian"}, default="secant"
        How much each training instance adds to the posterior precision. ``"categorical"`` is the
        curvature of the softmax at the fitted probabilities: ``p_max (1 - p_max)`` if shared,
        ``p_k (1 - p_k)`` per class and ``diag p - p p^T`` in full. It almost vanishes for instances
        that are fitted well. ``"secant"`` raises it for those, in ``fit``, from an estimate of how
        far the logits would move without the instance, which keeps later updates closer to
        retraining; ``partial_fit`` with ``update="map"`` raises it where little is known of the
        logits, and where a label contradicts what was known, so that labels may come in any order,
        if not of a table of few or uncentred features, which needs ``memory_size`` for that.
        ``"gaussian"`` is 1 for every instance.
    update : {"map", "newton"}, default="map"
        How ``partial_fit`` learns a label. ``"map"`` moves to the exact mode of the current
        Gaussian times the likelihood of the label and cannot overshoot; ``"newton"`` takes one
        Newton step, multiplied by ``step_size``, as the paper does.
    step_size : float, default=1.0
        Factor gamma of the step of ``update="newton"``; the paper uses 10.
    n_passes : int, default=1
        Number of passes of ``partial_fit`` over its instances. Each pass counts them once more.
    predictive : {"mean_field", "monte_carlo", "bridge", "plug_in"}, default="mean_field"
        How Gaussian logits become probabilities: ``"mean_field"`` shrinks them by their variance,
        ``"monte_carlo"`` averages over ``n_samples`` weights drawn from the posterior,
        ``"bridge"`` takes the Dirichlet that matches the Gaussian and ``"plug_in"`` ignores the
        variance. ``"mean_field"`` and ``"plug_in"`` keep the order of the mean logits.
    calibration : {"loo"} or None, default="loo"
        ``"loo"`` fits a temperature and a scale of the variance to the leave-one-out predictions of
        the training instances, or a sample of 1000, which have a closed form; ``partial_fit`` adds
        the predictions of new instances, made before it learns them. With None, probabilities from
        few labels are far too timid. With one label per class there is nothing to calibrate on, and
        the temperature is 1. Labels that were queried because they are hard make the calibration
        cautious.
    n_samples : int, default=1000
        Number of draws of the weights: for ``predictive="monte_carlo"``, for
        :meth:`predict_uncertainty`, and the default for :meth:`sample_proba`.
    fit_intercept : bool, default=True
        Whether to add a constant feature 1. Its weight, the intercept, has the same prior as the
        others, as with ``LogisticRegression(solver="liblinear")``; centre features that are far
        from zero, e.g. with ``StandardScaler``.
    head : {"fit", "pretrained"}, default="fit"
        ``"fit"`` converges to the MAP; ``"pretrained"`` keeps the trained last layer of the
        module or skorch net as the mean and only computes the covariance. Without labels the mean
        logits are then the outputs of the network; one that does something else behind that layer
        than a softmax, or a sigmoid of one output, is refused. The outputs must be in the order of
        ``classes``; if it is not given, of a skorch net's own classes or the sorted labels. The
        default ``prior_precision="scale"`` trusts the trained layer; a number should be as large,
        since with a weak prior the first labels make a good network worse.
    train_extractor : bool, default=False
        Whether ``fit`` first trains the network on its labels. ``feature_extractor`` must then be a
        skorch classifier: ``fit`` trains a clone of it, freezes it and computes the posterior on
        its features, while ``partial_fit`` only updates. ``clone`` copies it and ``set_params``
        reaches it, as any nested estimator, e.g. ``feature_extractor__lr``. A module that it holds
        as a class starts from new weights in each fit, an instance from its own, and both with
        ``warm_start`` from those of the last fit. Sample weights must be integers.
    classes : array-like of shape (n_classes,), default=None
        All labels that may ever occur. None: the labels in the y of ``fit``, or the ``classes``
        of the first ``partial_fit``. Their order matters only to ``head="pretrained"``.
    class_weight : dict, "balanced" or None, default=None
        Weights >= 0 of the classes, multiplied with ``sample_weight``. A class that the dict lacks
        has weight 1. A key that is no class yet waits until its class is opened; where ``classes``
        declares them all, it is refused. ``"balanced"`` gives each class the same total weight,
        sample weights included; only ``fit`` supports it.
    memory_size : int or None, default=0
        Number of labelled instances whose features are kept: 0 keeps none, None all, else the
        newest. With a memory, ``partial_fit`` moves the mean to the exact mode of the likelihood of
        the kept labels times a Gaussian that stands for all others; with None, to the mean of a
        refit. The covariance is still updated in closed form until the next ``fit``.
    forgetting : float, default=1.0
        Factor in (0, 1] by which each new label multiplies the weight of all earlier labels; the
        prior keeps its full weight. Set it below 1 for data that drift. Each ``partial_fit`` then
        costs a factorisation, O(n_features^3), and several labels in one call give nearly, not
        exactly, the result of one call per label.
    dtype : {"float64", "float32"}, default="float64"
        Floating-point type of the posterior. ``"float32"`` halves memory and time and has about 6
        digits: ``fit`` comes only as close to the MAP as these digits resolve, and rounding loses
        a weak prior beside large features sooner. Labels that are learnt one at a time lose
        digits slowly: after 100,000, the variances are right to about 5 digits.
    max_iter : int, default=100
        Maximum number of Newton steps of ``fit``.
    tol : float, default=1e-4
        Distance to the MAP, in posterior standard deviations, at which ``fit`` stops. A smaller
        one takes a few more steps, down to what ``dtype`` resolves.
    warm_start : bool, default=False
        Whether ``fit`` starts from the current mean. It reaches the same MAP.
    batch_size : int, default=256
        Number of inputs per forward pass of the feature extractor.
    device : str or torch.device, default="cpu"
        Device of the posterior.
    random_state : int, RandomState instance or None, default=None
        Seeds the weights that are drawn for predictions, and the training of the network, in place
        of the global generators. None always uses the same seed.
    verbose : int, default=0
        If positive, shows a progress bar while features are extracted.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted.
    posterior_ : Posterior
        Gaussian over the weights. Its ``mean`` has shape (n_features + 1, n_outputs), with the
        intercept in the last row; n_outputs is 1 for two classes.
    covariance_ : str
        Structure of the posterior in use.
    coef_ : ndarray of shape (n_outputs, n_features)
    intercept_ : ndarray of shape (n_outputs,)
    n_iter_ : int
        Newton steps of the last ``fit``; absent if the head was not fitted.
    prior_precision_ : float
        The prior precision in use.
    temperature_ : float
        Divisor of the logits; 1 without calibration.
    loo_proba_ : ndarray of shape (n_samples, n_classes)
        Calibrated leave-one-out probabilities of the instances of the last ``fit``. Only with
        ``calibration="loo"``.
    loo_score_ : LooScore
        ``accuracy`` and mean ``log_likelihood``, in nats, of the leave-one-out predictions.
    log_marginal_likelihood_value_ : float
        Log evidence of the last ``fit``, in nats; see :meth:`log_marginal_likelihood`.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if they are all strings.
    extractor_ : TorchFeatures or None
        The feature extractor in use; its own ``feature_extractor`` is the network that was trained.

    See Also
    --------
    ActiveLearner : Asks for the labels that this classifier learns.
    sklearn.linear_model.LogisticRegression : The same MAP with ``C = 1 / prior_precision`` and
        ``fit_intercept=False``, without a posterior or an update.

    Notes
    -----
    Memory needed besides X, in numbers of ``dtype``, for n instances, D features, K classes and R
    numbers in the roots (D^2 if shared, D^2 for each output if per class, (D K)^2 in full): ``fit``
    takes about 4 n D + 6 R + 20 n K, and up to 9 R where rounding nearly loses the prior,
    ``partial_fit`` 2 n D + 3 R + 30 n K, with ``forgetting`` 7 R, and ``predict_proba``, 4096 rows
    at a time, 3 min(n, 4096) D + R + 6 n K. A structure whose roots would not fit into memory so
    many times is refused. Weights are drawn 32 at a time, and probabilities under them computed for
    some rows at a time, which takes 130 D K and 150 MB more at most. A call that is interrupted by
    Ctrl-C leaves the object unchanged.

    The paper's own method is ``covariance="shared", curvature="gaussian", update="newton",
    step_size=10, calibration=None``.

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

    _parameter_constraints: dict[str, Any] = {
        "feature_extractor": "no_validation",
        "prior_precision": [
            Interval(numbers.Real, 0, None, closed="neither"),
            StrOptions({"scale", "loo", "evidence"}),
        ],
        "covariance": [StrOptions({"auto", *STRUCTURES})],
        "curvature": [StrOptions({"secant", "categorical", "gaussian"})],
        "update": [StrOptions({"map", "newton"})],
        "step_size": [Interval(numbers.Real, 0, None, closed="neither")],
        "n_passes": [Interval(numbers.Integral, 1, None, closed="left")],
        "predictive": [StrOptions(set(LINKS))],
        "calibration": [StrOptions({"loo"}), None],
        "n_samples": [Interval(numbers.Integral, 1, None, closed="left")],
        "fit_intercept": ["boolean"],
        "head": [StrOptions({"fit", "pretrained"})],
        "train_extractor": ["boolean"],
        "classes": ["array-like", None],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "memory_size": [Interval(numbers.Integral, 0, None, closed="left"), None],
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
        feature_extractor: Any = None,
        *,
        prior_precision: float | Literal["scale", "loo", "evidence"] = "scale",
        covariance: CovarianceName = "auto",
        curvature: CurvatureName = "secant",
        update: UpdateName = "map",
        step_size: float = 1.0,
        n_passes: int = 1,
        predictive: Literal["mean_field", "plug_in", "bridge", "monte_carlo"] = "mean_field",
        calibration: Literal["loo"] | None = "loo",
        n_samples: int = 1000,
        fit_intercept: bool = True,
        head: Literal["fit", "pretrained"] = "fit",
        train_extractor: bool = False,
        classes: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        memory_size: int | None = 0,
        forgetting: float = 1.0,
        dtype: Literal["float64", "float32"] = "float64",
        max_iter: int = 100,
        tol: float = 1e-4,
        warm_start: bool = False,
        batch_size: int = 256,
        device: str | torch.device = "cpu",
        random_state: RandomState = None,
        verbose: int = 0,
    ) -> None:
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
        self.train_extractor = train_extractor
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

    @like_tensors
    def fit(self, X: KnownInputs, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Find the MAP of the last layer and its posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels of one kind: text, booleans, integers or floats without fraction. A member of an
            Enum of text or integers counts as that text or integer. Or, where they are uncertain,
            the probability of each class, floats that sum to 1 in each row: columns are in the
            order of ``classes_``, which ``classes`` must then name in this order, or named as in a
            DataFrame. The MAP is that of a copy of the instance for each class, whose weight is its
            probability.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0. An instance of weight k counts as k copies of it. One of weight 0 is
            ignored, except that its label is among the classes.

        Returns
        -------
        LaplaceUpdateClassifier
            This object.

        Raises
        ------
        ValueError
            If X or y is not valid, a label is missing or masked, y has a label outside ``classes``
            or only one class, or the weights are negative or all zero. The object is then
            unchanged.

        Warns
        -----
        ConvergenceWarning
            If the MAP was not reached in ``max_iter`` steps, or the chosen prior precision is at a
            bound of the search.
        UserWarning
            If the labels fit a pretrained head far better with its outputs in another order.
        LinAlgWarning
            From scipy, if the features are so large beside the prior precision that rounding
            loses it.

        Examples
        --------
        >>> LaplaceUpdateClassifier().fit([[-1.0], [1.0]], ["no", "yes"]).predict([[3.0]])
        array(['yes'], dtype='<U3')
        """
        before, params = self.fitted_, self._checked_params()
        if params.train_extractor and not isinstance(X, Extracted):
            name = type(self).__name__
            inputs, features = trained_features(name, before, params, X, y, sample_weight)
        else:
            inputs, features = self._first_features(before, params, X)
        classes, places, weights = labels_of_fit(params, y, sample_weight, len(features))
        encoder = Encoder.of(type(self).__name__, params, inputs, classes)
        data = encoder.labelled(features, places, weights)
        given = classes_of_outputs(params, classes)
        mean = start = encoder.checked_prior_mean(params, data, given)
        if params.warm_start and before is not None:
            current = before.model.posterior.mean
            start = current.to(mean) if current.shape == mean.shape else mean
        centre = data.features[data.weights.argmax()]
        found = encoder.fit(params, RowsInMemory(data), centre, mean, start)
        return self._publish_fit(before, params, inputs, found)

    @like_tensors
    def partial_fit(
        self,
        X: KnownInputs,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Learn new labels by a Bayesian update in closed form; old data is not needed.

        The first call without ``fit`` starts from the prior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Labels, or the probability of each class, see :meth:`fit`; these are one update as well.
        classes : array-like of shape (n_classes,), default=None
            All labels that may ever occur. Needed by the first call, unless the parameter
            ``classes`` has them.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights >= 0. An instance of weight 0 changes nothing: it is not kept in the memory and
            does not lower the weight of earlier labels.

        Returns
        -------
        LaplaceUpdateClassifier
            This object.

        Raises
        ------
        ValueError
            If X or y is not valid, y has a label that is not among the classes, the classes
            differ from those of earlier calls, a weight is negative or all sample weights are
            zero. The object is then unchanged, bit for bit.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier()
        >>> clf = clf.partial_fit([[-1.0]], ["no"], classes=["no", "yes"])
        >>> clf.partial_fit([[1.0]], ["yes"]).predict([[3.0]])
        array(['yes'], dtype='<U3')
        """
        before, params = self.fitted_, self._checked_params()
        fixed = fixed_classes(params, None if before is None else before.model.classes, classes)
        inputs, features = self._next_features(before, params, X)
        y, sample_weight = check_labels(y, sample_weight, len(features))
        if params.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' needs all labels at once, so partial_fit cannot use it. "
                "Pass a dict, e.g. from sklearn.utils.compute_class_weight."
            )
        declared = params.classes if classes is None else classes
        places = places_of(y, fixed, declared)
        places, weights = weighted(sample_weight, params.class_weight, places, fixed)
        counting = np.flatnonzero(weights)
        if before is None:
            check_some_weight(weights, params.class_weight)
            given = classes if params.classes is None else params.classes
            encoder = Encoder.of(type(self).__name__, params, inputs, fixed)
            data = encoder.labelled(features[counting], places[counting], weights[counting])
            mean = encoder.checked_prior_mean(params, data, given)
            found = encoder.before_labels(params, data, mean)
            _warn_of_bound(params.prior_precision, found.prior_precision)
            model = found.model
        elif not len(counting):  # of classes without weight
            return self
        else:  # instances without weight neither fade nor replace what was learnt
            model = before.model.under(rules_of(params, fixed))
            data = model.labelled(features[counting], places[counting], weights[counting])
        model, mode = model.updated(data)
        if mode is not None:
            warn_unless_converged("partial_fit", mode, params.max_iter, MEMORY_TOLERANCE)
        if before is None:  # last: a generator of the caller's is not drawn from in vain
            model = replace(model, seed=_seed_of(params))
        return publish(self, before, Fitted(inputs, model, validated_values(params)), "partial_fit")

    def add_classes(self, labels: ArrayLike) -> Self:
        """Open new classes from the prior, without refitting.

        The logits of the new classes start at 0; the known classes keep their mean logits. A model
        of two classes has one logit, which first becomes two, minus and plus half of it. Each of
        the two gets the prior of the one. Unless the covariance is full, the difference of the two
        then has twice the variance: the model is less certain about the classes it knew.

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
            If a label is already known, or not of the kind of the known labels, for example a text
            among numbers. The object is then unchanged.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], ["ant", "cat"])
        >>> clf.add_classes("bee").classes_
        array(['ant', 'bee', 'cat'], dtype='<U3')
        >>> clf.partial_fit([[0.0]], ["bee"]).predict_proba([[0.0]]).argmax()
        np.int64(1)
        """
        before = fitted_of(self)
        classes = widened_classes(before.model.classes, labels)
        model = before.model.with_classes(classes)
        return publish(self, before, before._replace(model=model), "add_classes")

    def _first_features(
        self, before: Fitted | None, params: SimpleNamespace, X: Any
    ) -> tuple[InputFormat, Features]:
        """Return the format of the inputs of a fit, and their features."""
        if before is not None and isinstance(X, Extracted):
            return self._next_features(before, params, X)
        return InputFormat.of_first(
            X,
            self._make_extractor(params),
            name=type(self).__name__,
            with_head=params.head == "pretrained",
        )

    def _next_features(
        self, before: Fitted | None, params: SimpleNamespace, X: Any
    ) -> tuple[InputFormat, Features]:
        """Return the format of the inputs of an update, and their features."""
        if before is None:
            return self._first_features(before, params, X)
        inputs = before.inputs
        if not params.train_extractor:
            inputs.check_given(params.feature_extractor)
        return inputs, inputs.features(X, name=type(self).__name__, dtype=feature_dtype(X))

    def _publish_fit(
        self, before: Fitted | None, params: SimpleNamespace, inputs: InputFormat, found: Fit
    ) -> Self:
        """Warn of searches that did not end well, and publish the model of a fit."""
        _warn_of_bound(params.prior_precision, found.prior_precision)
        if found.mode is not None:
            warn_unless_converged("fit", found.mode, params.max_iter, params.tol)
        model = replace(found.model, seed=_seed_of(params))
        return publish(self, before, Fitted(inputs, model, validated_values(params)), "fit")


def fit_in_blocks(
    classifier: LaplaceUpdateClassifier,
    first: Any,
    y: NDArray[Any] | SoftLabels,
    sample_weight: NDArray[Any] | None,
    distribute: Callable[[Encoder, NDArray[Any], NDArray[np.float64]], Rows],
) -> LaplaceUpdateClassifier:
    """Do what :meth:`LaplaceUpdateClassifier.fit` does, on rows that are elsewhere.

    ``first`` are some rows of X, and ``distribute(encoder, places, weights)`` gives the rows of
    which ``encoder`` has made labelled instances.
    """
    before, params = classifier.fitted_, classifier._checked_params()
    if params.train_extractor:
        raise ValueError(
            "A fit in blocks does not train the network; got train_extractor=True. Fit on a sample "
            "that fits in memory, then pass its extractor_ with train_extractor=False."
        )
    if params.prior_precision in ("loo", "evidence") or params.memory_size != 0:
        raise ValueError(
            "A fit in blocks needs a number or 'scale' for prior_precision and memory_size=0; "
            f"got prior_precision={params.prior_precision!r}, memory_size={params.memory_size!r}. "
            "Choose the prior precision by fit on a sample that fits in memory."
        )
    inputs, features = classifier._first_features(None, params, first)
    classes, places, weights = labels_of_fit(params, y, sample_weight, len(y))
    encoder = Encoder.of(type(classifier).__name__, params, inputs, classes)
    phi = encoder.phi(features)
    mean = encoder.prior_mean(params, phi, params.classes)
    rows = distribute(encoder, places, weights)
    found = encoder.fit(params, rows, phi[0], mean, mean)
    return classifier._publish_fit(before, params, inputs, found)


def _warn_of_bound(wanted: Any, chosen: Chosen | None) -> None:
    """Warn of a prior precision at an end of the range that was searched."""
    if chosen is not None and chosen.bound is not None:
        warn_user(
            f"prior_precision={wanted!r} chose {chosen.value:.3g}, the {chosen.bound} value tried: "
            f"{_AT_BOUND[chosen.bound]} Set a number.",
            ConvergenceWarning,
        )


def _seed_of(params: SimpleNamespace) -> int:
    return 0 if params.random_state is None else drawn_seed(params.random_state)
