"""The estimator: validates labels, encodes classes and delegates to the posterior."""

import numbers
import warnings
from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from laplace_al._common.devices import available_device, on_device
from laplace_al._common.transaction import all_or_nothing, on_one_state
from laplace_al._common.typing import RandomState, UpdateRule
from laplace_al.inputs.labels import (
    ClassWeight,
    check_declared,
    check_labels,
    class_indices,
    distinct_classes,
    is_in_natural_order,
    order_of_outputs,
    weighted_by_class,
    widened_classes,
)
from laplace_al.inputs.tensors import like_tensors
from laplace_al.last_layer import LINKS, KnownInputs, LastLayer, drawn_seed
from laplace_al.model.block_fitting import (
    Total,
    find_mode_in_blocks,
    fit_at_mode,
    prior_precision_by_scale_in_blocks,
)
from laplace_al.model.calibration import Calibration, Observation
from laplace_al.model.curvatures import open_stiffening, steepening
from laplace_al.model.fitting import (
    Examined,
    LooScore,
    choose_prior_precision,
    evidence_slope,
    examine,
    prior_precision_by_scale,
)
from laplace_al.model.leave_one_out import LeftOut
from laplace_al.model.likelihoods import Likelihood, likelihood_of
from laplace_al.model.memory import Memory
from laplace_al.model.mode import InMemory, Labelled, Mode, find_mode
from laplace_al.model.posterior import Posterior
from laplace_al.model.priors import IsotropicPrior
from laplace_al.model.structures import (
    STRUCTURES,
    CovarianceName,
    CurvatureName,
    UpdateName,
    choose_structure,
)
from laplace_al.model.updates import Recording
from laplace_al.storage.persistence import SaveLoadMixin

_AT_BOUND = {
    "smallest": "the labels favour no prior, as they do if the features separate them perfectly.",
    "largest": "the features predict the labels no better than the prior mean.",
}
# Of a refit on remembered instances, in posterior standard deviations.
_MEMORY_TOLERANCE = 0.01
# When labels say that the outputs of a trained head are in another order.
_LEAST_FOR_ORDER = 10
_SHARE_OF_ORDER = 0.75
# A label leaves the memory at a mode that fits it more closely than when it was learnt.
_SHARE_OF_LEAVING = 0.15


class LaplaceUpdateClassifier(SaveLoadMixin, LastLayer):
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
        Computes the features. It is frozen: never trained, and never copied by ``clone``. The
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
    covariance : {"auto", "per_class", "shared", "full"}, default="auto"
        Structure of the posterior. ``"shared"`` is one covariance for the weights of all classes
        (n_features^2 numbers), ``"per_class"`` one for each class (n_classes n_features^2) and
        ``"full"`` couples all weights ((n_classes n_features)^2, for small heads). ``"auto"``
        chooses ``"per_class"`` up to 2^25 numbers, 256 MiB, else ``"shared"``. For two classes
        all structures are the same.
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
        the training instances, which have a closed form; ``partial_fit`` adds the predictions of
        new instances, made before it learns them. With None, probabilities from few labels are far
        too timid. With one label per class there is nothing to calibrate on, and the temperature is
        1. Labels that were queried because they are hard make the calibration cautious.
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
    tol : float, default=1e-8
        Distance to the MAP, in posterior standard deviations, at which ``fit`` stops.
    warm_start : bool, default=False
        Whether ``fit`` starts from the current mean. It reaches the same MAP.
    batch_size : int, default=256
        Number of inputs per forward pass of the feature extractor.
    device : str or torch.device, default="cpu"
        Device of the posterior.
    random_state : int, RandomState instance or None, default=None
        Seeds the weights that are drawn for predictions. None always uses the same seed, so that
        predictions are deterministic.
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
        The feature extractor in use.

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
        classes: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        memory_size: int | None = 0,
        forgetting: float = 1.0,
        dtype: Literal["float64", "float32"] = "float64",
        max_iter: int = 100,
        tol: float = 1e-8,
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
    @like_tensors
    def fit(self, X: KnownInputs, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Find the MAP of the last layer and its posterior.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
        y : array-like of shape (n_samples,)
            Labels of one kind: text, booleans, integers or floats without fraction. A member of an
            Enum of text or integers counts as that text or integer.
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
        self._passed_params = self._check_params()
        previous = self.posterior_ if self.warm_start and hasattr(self, "posterior_") else None
        features = self._features(X, reset=True)
        indices, weights = map(features.new_tensor, self._encode(y, sample_weight, len(features)))
        data = self._labelled(features, indices, weights)
        likelihood = data.likelihood
        prior_mean = self._prior_mean(features, likelihood.n_outputs, self.classes)
        self._warn_of_another_order(data, prior_mean, stacklevel=5)
        self.covariance_ = self._structure(prior_mean)
        start = prior_mean
        if previous is not None and previous.mean.shape == start.shape:
            start = previous.mean.to(start)
        self.prior_precision_ = self._choose_prior_precision(data, prior_mean, start)
        prior = IsotropicPrior(prior_mean, self.prior_precision_)
        self.__dict__.pop("n_iter_", None)
        self._forget_evaluation()
        mean = self._find_mode(data, prior, start) if self.head == "fit" else prior_mean
        examined = self._examine(data, mean, prior)
        stiffening = None
        if examined is not None and self.curvature == "secant":
            stiffening = examined.stiffening
        structure = STRUCTURES[self.covariance_]
        self.posterior_ = structure.at_mode(
            data, mean, self.curvature, prior, stiffening=stiffening
        )
        self._calibrate(data, examined)
        self._memory = None
        if self.memory_size != 0 and self.head == "fit":
            counting = weights > 0
            labels = (part[counting] for part in (features, indices, weights))
            self._memory = (
                Memory.empty(prior, features)
                .add(*labels)
                .keep(
                    self.memory_size,
                    mean,
                    likelihood,
                    structure,
                    None if stiffening is None else stiffening[counting],
                )
            )
        self._draw_seed()
        return self

    @all_or_nothing
    def _fit_in_blocks(
        self,
        first: Any,
        y: NDArray[Any],
        sample_weight: NDArray[Any] | None,
        distribute: Callable[..., Total],
    ) -> Self:
        """:meth:`fit` on data that is elsewhere: see :mod:`laplace_al.model.block_fitting`.

        ``first`` are some rows of X, and ``distribute(self, indices, weights)`` gives the ``total``
        of blocks that :meth:`_labelled_block` has made.
        """
        self._passed_params = self._check_params()
        if self.prior_precision in ("loo", "evidence") or self.memory_size != 0:
            raise ValueError(
                "A fit in blocks needs a number or 'scale' for prior_precision and memory_size=0; "
                f"got prior_precision={self.prior_precision!r}, memory_size={self.memory_size!r}. "
                "Choose the prior precision by fit on a sample that fits in memory."
            )
        features = self._features(first, reset=True)
        indices, weights = self._encode(y, sample_weight, len(y))
        likelihood = likelihood_of(len(self.classes_))
        prior_mean = self._prior_mean(features, likelihood.n_outputs, self.classes)
        self.covariance_ = self._structure(prior_mean)
        total, mean = distribute(self, indices, weights), prior_mean
        if self.prior_precision == "scale":
            self.prior_precision_ = prior_precision_by_scale_in_blocks(
                total, features[0], self.head
            )
        else:
            self.prior_precision_ = float(self.prior_precision)
        prior = IsotropicPrior(prior_mean, self.prior_precision_)
        self.__dict__.pop("n_iter_", None)
        self._forget_evaluation()
        if self.head == "fit":
            mode = find_mode_in_blocks(
                total, likelihood, prior, mean, max_iter=self.max_iter, tol=self.tol
            )
            mean = self._checked(mode)
        fitted = fit_at_mode(
            total,
            mean,
            prior,
            likelihood,
            LINKS[self.predictive],
            covariance=self.covariance_,
            curvature=self.curvature,
            calibration=self.calibration,
        )
        self.posterior_, self._calibration, self._memory = fitted[0], fitted[1], None
        if fitted.log_evidence is not None:
            self.log_marginal_likelihood_value_ = fitted.log_evidence
        if fitted.loo_score is not None:
            self.loo_score_ = fitted.loo_score
        self._draw_seed()
        return self

    def _labelled_block(
        self, X: KnownInputs, indices: NDArray[np.int64], weights: NDArray[np.float64]
    ) -> Labelled:
        """Labelled instances of a block, for a fit whose first rows are known."""
        device = available_device(self.device)
        features = self._phi(self._extract(X, reset=False), getattr(torch, self.dtype), device)
        return self._labelled(features, features.new_tensor(indices), features.new_tensor(weights))

    def _labelled(
        self, features: torch.Tensor, indices: torch.Tensor, weights: torch.Tensor
    ) -> Labelled:
        likelihood = likelihood_of(len(self.classes_))
        return Labelled(features, likelihood.encode(indices), weights, likelihood)

    def _encode(
        self, y: ArrayLike, sample_weight: ArrayLike | None, n_samples: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Class indices and weights of the labels of a fit, which fix the classes."""
        y, sample_weight = check_labels(y, sample_weight, n_samples)
        seen = np.unique(y[sample_weight > 0])
        if self.classes is None and len(seen) < 2:
            raise ValueError(
                "y must have at least 2 classes to fit; got 1 class among the instances of "
                f"positive weight: {seen.tolist()}. Pass classes= with all labels that may occur."
            )
        self.classes_ = distinct_classes(y if self.classes is None else self.classes)
        indices = class_indices(y, self.classes_)
        if self.classes is not None:
            check_declared(self.class_weight, self.classes_)
        weights = self._weighted_by_class(sample_weight, indices)
        self._check_any(weights)
        return indices, weights

    def _check_any(self, weights: NDArray[np.float64]) -> None:
        if not weights.any():
            raise ValueError(
                "class_weight must leave some instance a positive weight; got "
                f"{self.class_weight!r}, which leaves nothing to learn. Give a positive weight to "
                "a class that occurs in y."
            )

    def _weighted_by_class(
        self, sample_weight: NDArray[np.float64], indices: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return weighted_by_class(sample_weight, self.class_weight, indices, self.classes_)

    @all_or_nothing
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
        y : array-like of shape (n_samples,)
            Labels.
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
        weights = self._weighted_by_class(sample_weight, indices)
        counting = np.flatnonzero(weights)
        if first:
            self._check_any(weights)
        elif not len(counting):  # of classes without weight
            return self
        if len(counting) < len(weights):  # the others neither fade nor replace what was learnt
            features = features[torch.from_numpy(counting).to(features.device)]
            indices, weights = indices[counting], weights[counting]
        indices, weights = features.new_tensor(indices), features.new_tensor(weights)
        data = self._labelled(features, indices, weights)
        if first:
            self._start_from_the_prior(data, classes if self.classes is None else self.classes)
        memory = self._current_memory(data)
        self._forget_evidence()
        if self.forgetting < 1:
            # each label fades what came before it, the earlier ones of this call included
            n_later = torch.arange(len(weights) - 1, -1, -1, device=weights.device)
            faded = self.forgetting ** len(weights)
            weights = weights * self.forgetting**n_later
            data = data._replace(weights=weights)
            self.posterior_ = self.posterior_.forget(faded)
            self._calibration = self._calibration.forget(faded)
            memory = None if memory is None else memory.forget(faded)
        memory = self._update(data, memory)
        self._memory = None
        if memory is not None:
            memory = memory.add(features, indices, self.n_passes * weights)
            self._memory = self._refit_on(memory, data.likelihood)
        if first:
            self._draw_seed()
        return self

    @all_or_nothing
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
        if self._memory is not None:
            if isinstance(self._memory.prior, IsotropicPrior):
                self._memory = self._memory.with_classes(positions, self.posterior_.prior_mean)
            else:  # what is remembered goes on as a Gaussian
                self._memory = Memory.of_posterior(self.posterior_)
        self._forget_evaluation()
        self.classes_ = classes
        return self

    @on_one_state
    def log_marginal_likelihood(
        self, prior_precision: float | torch.Tensor | None = None
    ) -> float | torch.Tensor:
        """Log evidence: the probability of all labels under the prior, by Laplace's method.

        It uses the curvature p_k (1 - p_k) of each class on its own, or with ``covariance="full"``
        the joint curvature of all classes, whatever the parameter ``curvature`` is.

        Parameters
        ----------
        prior_precision : float or Tensor of one number, default=None
            lambda > 0. None: the value of the fit. With ``memory_size=None`` the MAP is recomputed
            for another value. Otherwise the data is no longer available and the evidence is
            extrapolated linearly in log lambda: accurate only near the fitted value.

        Returns
        -------
        float, or Tensor of shape () for a tensor
            In nats. For a tensor that requires a gradient, the result has the gradient of the
            evidence, the change of the MAP included. It is exact at the fitted value, and at every
            value with ``memory_size=None``.

        Raises
        ------
        TypeError, ValueError
            If ``prior_precision`` is not a number > 0, or the evidence is unavailable: (a) after
            ``partial_fit`` or ``add_classes``, unless ``memory_size=None``; (b) after a fit over
            blocks, except for ``prior_precision=None``; (c) if ``fit`` did not compute it, because
            with ``calibration=None``, a curvature other than ``"secant"`` and a shared covariance
            for three or more classes, as in the paper, it would cost more than the fit.

        Examples
        --------
        >>> clf = LaplaceUpdateClassifier(prior_precision=1.0, memory_size=None)
        >>> clf = clf.fit([[-1.0], [1.0]], [0, 1])
        >>> round(clf.log_marginal_likelihood(), 3)
        -1.42
        >>> round(clf.log_marginal_likelihood(1e6), 3)  # no weight but 0: 2 log 1/2
        -1.386
        """
        check_is_fitted(self)
        own = self.prior_precision_ if prior_precision is None else prior_precision
        is_known = hasattr(self, "log_marginal_likelihood_value_")
        if prior_precision is None and is_known:
            return self.log_marginal_likelihood_value_
        wanted = _one_number(own)
        memory = self._memory
        if memory is not None and isinstance(memory.prior, IsotropicPrior):
            place = float(wanted.detach())
            value, slope = self._evidence_of_all(memory, memory.prior._replace(precision=place))
        elif is_known and hasattr(self, "_evidence_slope"):
            place = self.prior_precision_
            value, slope = self.log_marginal_likelihood_value_, self._evidence_slope
        else:
            raise ValueError(
                "log_marginal_likelihood is not available: the fit did not compute it, labels or "
                "classes were added since and the data was not kept, or the fit was over blocks. "
                "Fit again, not over blocks, with memory_size=None (keeps the data) or "
                "calibration='loo' (computes it in fit)."
            )
        evidence = value + slope * (wanted.log() - np.log(place))
        return evidence if isinstance(prior_precision, torch.Tensor) else float(evidence)

    def _evidence_of_all(self, memory: Memory, prior: IsotropicPrior) -> tuple[float, float]:
        """Log evidence of all that is remembered, and its slope along log lambda."""
        data = memory.labelled(likelihood_of(len(self.classes_)))
        start = self.posterior_.mean
        mode = find_mode(data, prior, start, max_iter=self.max_iter, tol=self.tol)
        mean = self._converged("log_marginal_likelihood", mode, self.tol, stacklevel=5)
        examined = examine(data, mean, prior, coupled=self.covariance_ == "full")
        return examined.log_evidence, _slope(data, mean, prior, examined)

    @like_tensors
    @on_one_state
    def newton_decrement(
        self, X: KnownInputs, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> float:
        """How far the posterior mean is from the MAP of these labels, in standard deviations.

        sqrt(<g, Sigma g>) with the gradient g of ``sum s CE(y, W^T phi) + lambda / 2 |W - W_0|^2``
        at the mean. Given all labels so far, it measures how far updates have drifted from the
        result of ``fit``: 0 right after ``fit``. Half its square estimates how much lower that
        objective can get, in nats.

        Boyd and Vandenberghe, *Convex Optimization*, 2004, section 9.5.1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), default=None

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If y has a label that is not among the classes, or a weight is negative.

        Examples
        --------
        >>> X, y = [[-1.0], [1.0]], [0, 1]
        >>> clf = LaplaceUpdateClassifier().fit(X, y)
        >>> clf.newton_decrement(X, y) < 1e-4
        True
        >>> clf.newton_decrement(X, y, sample_weight=[10, 1]) > 0.1
        True
        """
        check_is_fitted(self)
        self._check_params()
        features = self._features(X, reset=False)
        y, sample_weight = check_labels(y, sample_weight, len(features))
        indices = class_indices(y, self.classes_)
        weights = self._weighted_by_class(sample_weight, indices)
        data = self._labelled(features, features.new_tensor(indices), features.new_tensor(weights))
        prior = IsotropicPrior(self.posterior_.prior_mean, self.prior_precision_)
        _, gradient, _ = InMemory(data, prior).at(self.posterior_.mean)
        return float(self.posterior_.norm(gradient))  # eq-decrement

    def _known_classes(self, classes: ArrayLike | None) -> NDArray[Any]:
        """Classes of a call of partial_fit, which are fixed by the first."""
        is_fitted = hasattr(self, "posterior_")
        if is_fitted and classes is None:
            return self.classes_
        fixed = self.classes_ if is_fitted else self.classes
        fixed = classes if fixed is None else fixed
        if fixed is None:
            raise ValueError(
                "classes must be passed on the first call to partial_fit: all labels that may "
                "ever occur. Pass partial_fit(X, y, classes=...), set the parameter classes, "
                "or call fit first."
            )
        known = distinct_classes(fixed)
        given = known if classes is None else distinct_classes(classes)
        if not np.array_equal(given, known):
            raise ValueError(
                f"`classes={given.tolist()}` is not the same as on last call to "
                f"partial_fit or as the parameter classes, was: {known.tolist()}. Leave it out, or "
                "fit anew."
            )
        check_declared(self.class_weight, known)
        return known

    def _structure(self, mean: torch.Tensor) -> str:
        return choose_structure(self.covariance, *mean.shape, dtype=mean.dtype, device=mean.device)

    def _prior_mean(
        self, features: torch.Tensor, n_outputs: int, classes: ArrayLike | None
    ) -> torch.Tensor:
        """Where W (D, n_outputs) starts: zero, or the trained last layer of the network.

        ``classes`` are in the order of the outputs, if they are given.
        """
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
        order = self._order_of_outputs(classes)
        if mean.shape[1] < n_classes:  # the logit of the second class
            return mean.clone() if order[0] == 0 else -mean
        mean = mean[:, torch.from_numpy(order.argsort()).to(mean.device)]
        return mean[:, 1:] - mean[:, :1] if n_outputs == 1 else mean

    def _warn_of_another_order(
        self, data: Labelled, mean: torch.Tensor, *, stacklevel: int
    ) -> None:
        """Tell that labels fit a trained head, but for the order of its outputs."""
        if self.head == "fit" or len(data.features) < _LEAST_FOR_ORDER:
            return
        known = data.likelihood.labels(data.targets)
        found = data.likelihood.log_probabilities(data.features @ mean).argmax(dim=1)
        n_classes = len(self.classes_)
        counts = torch.bincount(known * n_classes + found, data.weights, minlength=n_classes**2)
        counts = counts.reshape(n_classes, n_classes).numpy(force=True)
        share = counts / counts.sum()
        right, best = share.trace(), share[linear_sum_assignment(share, maximize=True)].sum()
        if right < best / 2 and best > _SHARE_OF_ORDER:
            warnings.warn(
                f"head='pretrained': the network predicts {right:.0%} of these labels, but would "
                f"{best:.0%} if its outputs were in another order than {self.classes_.tolist()}. "
                "Pass classes= with the labels in the order of the outputs.",
                UserWarning,
                stacklevel=stacklevel,
            )

    def _order_of_outputs(self, classes: ArrayLike | None) -> NDArray[np.int64]:
        """Position of the class of each output of the network among the sorted classes."""
        assert self.extractor_ is not None  # it has a head
        of_net = getattr(self.extractor_.feature_extractor, "classes_", None)  # of skorch
        if classes is None and of_net is not None and set(of_net) == set(self.classes_):
            classes = of_net
        if classes is not None:
            return order_of_outputs(classes, self.classes_)
        if not is_in_natural_order(self.classes_):
            raise ValueError(
                "head='pretrained': as texts the classes are sorted as "
                f"{self.classes_.tolist()}, which is hardly the order of the network's outputs. "
                "Pass classes= with the labels in the order of the outputs."
            )
        return np.arange(len(self.classes_))

    def _choose_prior_precision(
        self, data: Labelled, prior_mean: torch.Tensor, start: torch.Tensor
    ) -> float:
        """lambda: as it is, by the scale of the features, or what makes labels most probable."""
        if not isinstance(self.prior_precision, str):
            return float(self.prior_precision)
        if self.prior_precision == "scale":
            return prior_precision_by_scale(data.features, data.weights, self.head)
        coupled = self.covariance_ == "full"

        def score(prior_precision: float) -> float:
            nonlocal start
            prior = IsotropicPrior(prior_mean, prior_precision)
            if self.head == "fit":
                start = find_mode(data, prior, start, max_iter=self.max_iter, tol=self.tol).mean
            examined = examine(data, start, prior, coupled=coupled)
            if self.prior_precision == "loo":
                calibration = self._fitted_calibration(data, examined)
                if calibration.is_informed:
                    return calibration.objective
            return examined.log_evidence

        chosen = choose_prior_precision(score, data.features, data.weights)
        if chosen.bound is not None:
            warnings.warn(
                f"prior_precision={self.prior_precision!r} chose {chosen.value:.3g}, the "
                f"{chosen.bound} value tried: {_AT_BOUND[chosen.bound]} Set a number.",
                ConvergenceWarning,
                stacklevel=5,
            )
        return chosen.value

    def _find_mode(
        self, data: Labelled, prior: IsotropicPrior, start: torch.Tensor
    ) -> torch.Tensor:
        return self._checked(find_mode(data, prior, start, max_iter=self.max_iter, tol=self.tol))

    def _checked(self, mode: Mode) -> torch.Tensor:
        self.n_iter_ = max(mode.n_iter, 1)
        return self._converged("fit", mode, self.tol, stacklevel=7)

    def _converged(self, method: str, mode: Mode, tol: float, *, stacklevel: int) -> torch.Tensor:
        """The mode; with a warning if it has not been reached."""
        if not mode.converged:
            warnings.warn(
                f"{method} is {mode.distance:.1e} posterior standard deviations from the MAP after "
                f"max_iter={self.max_iter} steps (tol={tol:g}). Scale the features "
                "(StandardScaler), raise max_iter or prior_precision.",
                ConvergenceWarning,
                stacklevel=stacklevel,
            )
        return mode.mean

    def _forget_evaluation(self) -> None:
        """Drop what holds for other labels or classes."""
        for name in ("loo_proba_", "loo_score_"):
            self.__dict__.pop(name, None)
        self._forget_evidence()

    def _forget_evidence(self) -> None:
        for name in ("log_marginal_likelihood_value_", "_evidence_slope"):
            self.__dict__.pop(name, None)

    def _examine(
        self, data: Labelled, mean: torch.Tensor, prior: IsotropicPrior
    ) -> Examined | None:
        """Leave-one-out and evidence, unless nothing asks for them and they cost much."""
        is_cheap = self.covariance_ != "shared" or data.likelihood.n_outputs == 1
        is_needed = self.calibration == "loo" or self.curvature == "secant"
        if not (is_cheap or is_needed or self.prior_precision in ("loo", "evidence")):
            return None
        examined = examine(data, mean, prior, coupled=self.covariance_ == "full")
        self.log_marginal_likelihood_value_ = examined.log_evidence
        self._evidence_slope = _slope(data, mean, prior, examined)
        return examined

    def _fitted_calibration(self, data: Labelled, examined: Examined) -> Calibration:
        return Calibration.fit(self._observation(data, examined.left_out))

    def _observation(self, data: Labelled, predicted: LeftOut) -> Observation:
        return Observation(
            LINKS[self.predictive], data.likelihood, predicted, data.targets, data.weights
        )

    def _calibrate(self, data: Labelled, examined: Examined | None) -> None:
        self._calibration = Calibration()
        if self.calibration == "loo":
            assert examined is not None  # it was needed
            self._calibration = self._fitted_calibration(data, examined)
            logits = self._calibration.apply(LINKS[self.predictive], *examined.left_out)
            log_proba = data.likelihood.log_probabilities(logits)
            loss = data.likelihood.negative_log_likelihood(logits, data.targets)
            labels = data.likelihood.labels(data.targets)
            right = (log_proba.argmax(dim=1) == labels).to(loss)
            total = data.weights.sum()
            self.loo_proba_ = log_proba.exp().numpy(force=True)
            self.loo_score_ = LooScore(
                float(data.weights @ right / total), -float(data.weights @ loss / total)
            )

    def _start_from_the_prior(self, data: Labelled, classes: ArrayLike | None) -> None:
        mean = self._prior_mean(data.features, data.likelihood.n_outputs, classes)
        self._warn_of_another_order(data, mean, stacklevel=6)
        self.covariance_ = self._structure(mean)
        self.prior_precision_ = self._choose_prior_precision(data, mean, mean)
        posterior = STRUCTURES[self.covariance_].posterior
        self.posterior_ = posterior.prior(mean, self.prior_precision_)
        self._calibration = Calibration()
        self._memory = None
        if self.memory_size != 0:
            prior = IsotropicPrior(mean, self.prior_precision_)
            self._memory = Memory.empty(prior, data.features)

    def _current_memory(self, data: Labelled) -> Memory | None:
        """What is remembered before an update; None if nothing is to be."""
        if self.memory_size == 0:
            return None
        memory = self._memory
        if memory is None:
            memory = Memory.of_posterior(self.posterior_)
        is_whole = self.memory_size is None and isinstance(memory.prior, IsotropicPrior)
        if self.forgetting < 1 and not is_whole:
            raise ValueError(
                "forgetting < 1 needs memory_size=0, or memory_size=None from the first label on; "
                f"got memory_size={self.memory_size}, with which some labels may not be kept."
            )
        return memory

    def _update(self, data: Labelled, memory: Memory | None) -> Memory | None:
        """Condition the posterior on new labels, each predicted before it is learnt.

        The Gaussian of what the memory has dropped is steepened as the posterior is.
        """
        update = self._update_rule(data.likelihood)
        recording = Recording(update)
        labels = data.features, data.targets, data.weights
        before, self.posterior_ = self.posterior_, self._conditioned(labels, recording)
        logits, variance = (on_device(np.array(part), data.weights) for part in recording.predicted)
        if self.calibration == "loo":
            predicted = self._observation(data, LeftOut(logits, variance))
            self._calibration = self._calibration.observe(predicted)
        for _ in range(self.n_passes - 1):
            self.posterior_ = self._conditioned(labels, update)
        if memory is None or self.curvature != "secant":
            return memory
        mean, learnt = data.likelihood.mean, on_device(np.array(recording.learnt), data.weights)
        prior_variance = before.prior_variance(data.features)[:, None]
        growth = steepening(mean(logits), mean(learnt), variance, prior_variance)
        structure = STRUCTURES[self.covariance_]
        return memory.steepened(data.features, growth, self.posterior_.mean, structure)

    def _conditioned(
        self, labels: tuple[torch.Tensor, torch.Tensor, torch.Tensor], update: UpdateRule
    ) -> Posterior:
        try:
            return self.posterior_.condition(*labels, update)
        except (ArithmeticError, torch.linalg.LinAlgError) as error:
            raise ValueError(
                f"X or sample_weight is too large beside prior_precision={self.prior_precision_:g} "
                f"to be learnt: {error}. Scale the features, e.g. with StandardScaler."
            ) from error

    def _refit_on(self, memory: Memory, likelihood: Likelihood) -> Memory:
        """Move the mean to the mode of all that is remembered, and drop what is too much."""
        mode = find_mode(
            memory.labelled(likelihood),
            memory.prior,
            self.posterior_.mean,
            max_iter=self.max_iter,
            tol=_MEMORY_TOLERANCE,
        )
        mean = self._converged("partial_fit", mode, _MEMORY_TOLERANCE, stacklevel=6)
        self.posterior_ = self.posterior_.with_mean(mean)
        stiffening = None
        if self.curvature == "secant" and self.memory_size is not None:
            leaving = memory.features[: max(len(memory.features) - self.memory_size, 0)]
            variance = self.posterior_.predictive_variance(leaving)
            variance = variance if variance.ndim == 2 else variance[:, None]
            stiffening = open_stiffening(
                likelihood.mean(leaving @ mean), variance, _SHARE_OF_LEAVING
            )
        structure = STRUCTURES[self.covariance_]
        return memory.keep(self.memory_size, mean, likelihood, structure, stiffening)

    def _draw_seed(self) -> None:
        """The last step of a call: a generator of the caller's is not drawn from in vain."""
        self._sampling_seed = 0 if self.random_state is None else drawn_seed(self.random_state)


def _slope(data: Labelled, mean: torch.Tensor, prior: IsotropicPrior, examined: Examined) -> float:
    """Of the log evidence along log lambda."""
    return evidence_slope(InMemory(data, prior), mean, prior, examined.pull)


def _one_number(prior_precision: float | torch.Tensor) -> torch.Tensor:
    """A prior precision as a tensor of shape ()."""
    if isinstance(prior_precision, torch.Tensor) and prior_precision.numel() == 1:
        number = prior_precision.reshape(())
    elif isinstance(prior_precision, numbers.Real):
        number = torch.tensor(float(prior_precision), dtype=torch.float64)
    else:
        raise TypeError(
            "prior_precision must be a number, a tensor of one number or None; got "
            f"{type(prior_precision).__name__}."
        )
    if not 0 < float(number.detach()) < float("inf"):
        raise ValueError(f"prior_precision must be finite and > 0; got {float(number.detach()):g}.")
    return number
