"""The fitted state of a classifier, as one value: its attributes, evidence and file."""

import numbers
import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import check_random_state

from laplace_al._common.devices import available_device
from laplace_al._common.typing import Instances, Path, RandomState
from laplace_al._common.warn import warn_user
from laplace_al.inputs.features import SharedExtractorMixin, TorchFeatures, share
from laplace_al.inputs.input_format import InputFormat
from laplace_al.inputs.known import Extracted
from laplace_al.inputs.tensors import like_tensors
from laplace_al.inputs.weighted_labels import (
    ClassWeight,
    check_labels,
    places_of,
    weighted,
    weighted_by_class,
)
from laplace_al.model.fit import evidence_under, left_out_proba_of
from laplace_al.model.fitted_model import FittedModel, Rules
from laplace_al.model.mode import Labelled, Mode
from laplace_al.model.priors import IsotropicPrior
from laplace_al.storage import persistence


class Fitted(NamedTuple):
    """The fitted state of a classifier, published as one: the format of its inputs, and the model.

    ``validated`` holds the values of the parameters when they were last validated: while they are
    the same objects, no call validates them again.
    """

    inputs: InputFormat
    model: FittedModel
    validated: tuple[Any, ...] = ()


class _FittedAttribute:
    """An attribute that there is once a fit has found it, and that only a fit changes."""

    def __init__(self, read: Callable[[Fitted], Any]) -> None:
        self.read = read

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        fitted = instance.fitted_
        value = None if fitted is None else self.read(fitted)
        if value is None:
            raise AttributeError(
                f"{type(instance).__name__!r} object has no attribute {self.name!r}"
            )
        return value

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(f"{self.name} cannot be set: fit and partial_fit find it.")


_Estimator = TypeVar("_Estimator", bound="FittedEstimator")


class FittedEstimator(
    SharedExtractorMixin,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    BaseEstimator,
):
    """An estimator whose learnt state is one value, ``fitted_``.

    A subclass has the parameters of :class:`laplace_al.LaplaceUpdateClassifier`, and replaces the
    value by :func:`publish`. Each call reads it once.
    """

    fitted_: Fitted | None = None
    _parameter_constraints: dict[str, Any]

    classes_ = _FittedAttribute(lambda fitted: fitted.model.classes)
    posterior_ = _FittedAttribute(lambda fitted: fitted.model.posterior)
    covariance_ = _FittedAttribute(lambda fitted: fitted.model.structure.name)
    prior_precision_ = _FittedAttribute(lambda fitted: fitted.model.posterior.prior_precision)
    calibration_ = _FittedAttribute(lambda fitted: fitted.model.calibration)
    temperature_ = _FittedAttribute(lambda fitted: fitted.model.calibration.temperature)
    coef_ = _FittedAttribute(lambda fitted: fitted.model.coefficients()[0])
    intercept_ = _FittedAttribute(lambda fitted: fitted.model.coefficients()[1])
    n_iter_ = _FittedAttribute(lambda fitted: fitted.model.report.n_iter)
    loo_proba_ = _FittedAttribute(lambda fitted: fitted.model.report.loo_proba)
    loo_score_ = _FittedAttribute(lambda fitted: fitted.model.report.loo_score)
    log_marginal_likelihood_value_ = _FittedAttribute(
        lambda fitted: fitted.model.report.log_evidence
    )
    n_features_in_ = _FittedAttribute(lambda fitted: fitted.inputs.n_features_in)
    feature_names_in_ = _FittedAttribute(lambda fitted: fitted.inputs.feature_names_in)
    _n_features_out = _FittedAttribute(lambda fitted: fitted.model.n_features)

    @property
    def extractor_(self) -> TorchFeatures | None:
        """The feature extractor in use."""
        return fitted_of(self).inputs.extractor

    def current_extractor(self) -> Any:
        """Return what now makes features; NotFittedError if its network is yet to be trained."""
        is_given = self.fitted_ is None and not self.train_extractor
        return self.feature_extractor if is_given else self.extractor_

    def current_model(self) -> FittedModel:
        """Return the fitted model, with the rules that the parameters now give."""
        model, params = fitted_of(self).model, self._checked_params()
        return model.under(rules_of(params, model.classes))

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
            ``partial_fit`` or ``add_classes``, unless ``memory_size=None``; (b) of another value or
            with a gradient, unless ``memory_size=None``, the head is pretrained, or
            ``n_samples * n_features * n_outputs`` is at most 2^18: for more, ``fit`` does not
            compute the slope, nor over blocks; (c) if ``fit`` did not compute it, because
            with ``calibration=None``, a curvature other than ``"secant"`` and a shared covariance
            for three or more classes, as in the paper, it would cost more than the fit.

        Examples
        --------
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier(prior_precision=1.0, memory_size=None)
        >>> clf = clf.fit([[-1.0], [1.0]], [0, 1])
        >>> round(clf.log_marginal_likelihood(), 3)
        -1.42
        >>> round(clf.log_marginal_likelihood(1e6), 3)  # no weight but 0: 2 log 1/2
        -1.386
        """
        model, params = fitted_of(self).model, self._checked_params()
        known, slope = model.report.log_evidence, model.report.evidence_slope
        if prior_precision is None and known is not None:
            return known
        place = model.posterior.prior_precision
        wanted = _one_number(place if prior_precision is None else prior_precision)
        memory = model.memory
        if memory is not None and isinstance(memory.prior, IsotropicPrior):
            place = float(wanted.detach())
            known, slope, mode = evidence_under(
                memory.labelled(model.likelihood),
                memory.prior._replace(precision=place),
                model.under(model.rules._replace(max_iter=params.max_iter)),
                params.tol,
                with_slope=wanted.requires_grad,
            )
            warn_unless_converged("log_marginal_likelihood", mode, params.max_iter, params.tol)
        is_elsewhere = wanted.requires_grad or float(wanted.detach()) != place
        if known is None or (is_elsewhere and slope is None):
            raise ValueError(
                "log_marginal_likelihood is not available: the fit did not compute it, labels or "
                "classes were added since, or it is asked for another prior_precision or with a "
                "gradient and the data was not kept, or the fit was over blocks. Fit again, not "
                "over blocks, with memory_size=None (keeps the data) or, for the value of the fit, "
                "calibration='loo' (computes it in fit)."
            )
        evidence = wanted * 0 + known
        if slope is not None:
            evidence = evidence + slope * (wanted.log() - np.log(place))
        return evidence if isinstance(prior_precision, torch.Tensor) else float(evidence)

    @like_tensors
    def newton_decrement(
        self, X: Instances | Extracted, y: ArrayLike, sample_weight: ArrayLike | None = None
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
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> X, y = [[-1.0], [1.0]], [0, 1]
        >>> clf = LaplaceUpdateClassifier().fit(X, y)
        >>> clf.newton_decrement(X, y) < 1e-4
        True
        >>> clf.newton_decrement(X, y, sample_weight=[10, 1]) > 0.1
        True
        """
        inputs, model, _ = fitted_of(self)
        data = self._labelled(inputs, model, self._checked_params(), X, y, sample_weight)
        return model.decrement(data)

    @like_tensors
    def leave_one_out_proba(
        self, X: Instances | Extracted, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> NDArray[np.floating]:
        """Predict each of the learnt instances as if it had not been learnt, in closed form.

        The probabilities are calibrated, under the model as it is now. After ``fit`` on the same
        data with ``calibration="loo"`` they are ``loo_proba_``. A label that is improbable may be a
        mistake, and what is probable instead its correction. ``cleanlab`` takes these probabilities
        as ``pred_probs``, in place of those of a cross-validation.

        Opper and Winther, *Gaussian processes for classification: mean-field algorithms*, Neural
        Computation 12(11), 2000.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or what the extractor takes
            All instances that were learnt, by ``fit`` or ``partial_fit``.
        y : array-like of shape (n_samples,) or (n_samples, n_classes)
            Their labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Their weights.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.

        Raises
        ------
        ValueError
            If y has a label that is not among the classes, or a weight is negative.

        Examples
        --------
        >>> import numpy as np
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> X, y = [[-1.2], [-1.1], [-1.0], [1.0], [1.1], [1.2]], [0, 0, 0, 1, 1, 0]
        >>> clf = LaplaceUpdateClassifier(prior_precision=0.1).fit(X, y)
        >>> probability = clf.leave_one_out_proba(X, y)[range(6), y]
        >>> probability.argmin()
        np.int64(5)
        """
        inputs, model, _ = fitted_of(self)
        params = self._checked_params()
        return left_out_proba_of(
            self._labelled(inputs, model, params, X, y, sample_weight),
            model.under(rules_of(params, model.classes)),
        )

    def _labelled(
        self,
        inputs: InputFormat,
        model: FittedModel,
        params: SimpleNamespace,
        X: Any,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
    ) -> Labelled:
        """Return labelled instances of a fitted model, weighted by their classes."""
        features = inputs.features(X, name=type(self).__name__)
        y, sample_weight = check_labels(y, sample_weight, len(features))
        places = places_of(y, model.classes, params.classes)
        places, weights = weighted(sample_weight, params.class_weight, places, model.classes)
        return model.labelled(features, places, weights)

    def save(self, path: Path, *, with_memory: bool = False) -> None:
        """Write what was learnt to a file that can be read without running code from it.

        The file is a safetensors file, with posterior and calibration as arrays, and parameters and
        classes as JSON. It is written durably and atomically: a crash leaves either the previous
        file or the new one. A previous file keeps its permissions, and its owner where the system
        allows it. The file does not contain the ``feature_extractor``, nor ``loo_proba_``,
        which has a row for each training instance.

        Parameters
        ----------
        path : str or path-like
            Its folder must exist; a file of that name is replaced. What is no file, such as a pipe
            or ``/dev/stdout``, is written to.
        with_memory : bool, default=False
            Whether to write the features and labels of the instances that ``memory_size`` keeps,
            which are training data.

        Raises
        ------
        ValueError
            If instances are kept in the memory and ``with_memory`` is not set, or a parameter or
            label is of a kind that JSON cannot hold.
        OSError
            If the file cannot be written. A previous file is then unchanged.

        See Also
        --------
        load : Reads the file.

        Examples
        --------
        >>> import tempfile
        >>> from laplace_al import LaplaceUpdateClassifier
        >>> clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], ["no", "yes"])
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clf.save(folder + "/clf.safetensors")
        ...     LaplaceUpdateClassifier.load(folder + "/clf.safetensors").predict([[3.0]])
        array(['yes'], dtype='<U3')
        """
        inputs, model, _ = fitted_of(self)
        params = self.get_params(deep=False)
        persistence.save(path, params, inputs, model, with_memory=with_memory)

    @classmethod
    def load(
        cls, path: Path, feature_extractor: Any = None, *, device: str | torch.device | None = None
    ) -> Self:
        """Read a classifier from a file of :meth:`save`; nothing in the file is executed.

        On the same machine, it predicts bit for bit as the saved classifier. What both then learn
        may differ in the last digit of the temperature: it depends on when labels are read.

        Parameters
        ----------
        path : str or path-like
        feature_extractor : object, default=None
            The extractor that the classifier was fitted with: the same weights and layer.
        device : str or torch.device, default=None
            Device of the posterior. None: the device at the time of saving.

        Returns
        -------
        LaplaceUpdateClassifier

        Raises
        ------
        ValueError
            If the file is damaged, not a file of ``save`` or of a newer version, or the
            ``feature_extractor`` does not match it.
        OSError
            If the file cannot be read.

        Warns
        -----
        UserWarning
            If the weights of the network differ from those at the time of saving, or, for another
            extractor, its content: what a transformer has learnt, or the name of a function and the
            values that it holds. The body of a function is not compared.

        See Also
        --------
        save : Writes the file.

        Examples
        --------
        See :meth:`save`.
        """
        saved = persistence.Saved(path, cls.__name__, device)
        with saved.checked():
            classifier = cls(feature_extractor, **saved.params)
            params = classifier._checked_params()
        place = available_device(params.device)
        model = saved.model(place)
        inputs = saved.inputs(classifier._make_extractor(params), model)
        return publish(classifier, None, Fitted(inputs, model, validated_values(params)), "load")

    def _checked_params(self) -> SimpleNamespace:
        """Return the parameters as they are now, validated unless they last were."""
        params = SimpleNamespace(**{name: vars(self)[name] for name in self._parameter_constraints})
        fitted = self.fitted_
        if fitted is None or not _are_identical(validated_values(params), fitted.validated):
            self._validate_params()
        return params

    def _make_extractor(self, params: SimpleNamespace) -> TorchFeatures | None:
        extractor = params.feature_extractor
        if extractor is None or isinstance(extractor, TorchFeatures):
            return share(extractor)
        return TorchFeatures(extractor, batch_size=params.batch_size, verbose=params.verbose)


def fitted_of(estimator: "FittedEstimator") -> Fitted:
    """Return what an estimator has learnt, as it is now.

    Raises NotFittedError, or RuntimeError if it got a network with other weights since.
    """
    fitted = estimator.fitted_
    if fitted is None:
        raise NotFittedError(
            f"This {type(estimator).__name__} instance is not fitted yet. Call 'fit' with "
            "appropriate arguments before using this estimator."
        )
    if not estimator.train_extractor:
        fitted.inputs.check_given(estimator.feature_extractor)
    return fitted


def publish(estimator: _Estimator, before: Fitted | None, after: Fitted, method: str) -> _Estimator:
    """Make what a method has learnt the estimator's, by one assignment, and return the estimator.

    Raises RuntimeError if another thread has published something since ``before`` was read, in
    place of losing that.
    """
    # no call between the two: under the interpreter's lock no other thread comes in between
    if estimator.fitted_ is not before:
        raise RuntimeError(
            f"{type(estimator).__name__} was changed by another thread during {method}, which "
            "therefore changed nothing. Hold a lock around calls that change it."
        )
    estimator.fitted_ = after
    return estimator


def warn_unless_converged(method: str, mode: Mode, max_iter: int, tol: float) -> None:
    """Warn of a mode that has not been reached."""
    if not mode.converged:
        warn_user(
            f"{method} is {mode.distance:.1e} posterior standard deviations from the MAP after "
            f"max_iter={max_iter} steps (tol={tol:g}). Scale the features "
            "(StandardScaler), raise max_iter or prior_precision.",
            ConvergenceWarning,
        )


def validated_values(params: SimpleNamespace) -> tuple[Any, ...]:
    """Return the values of all parameters but the first, the extractor, which is not validated."""
    return tuple(vars(params).values())[1:]


def _are_identical(values: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    return len(values) == len(others) and all(map(operator.is_, values, others))


def rules_of(params: SimpleNamespace, classes: NDArray[Any]) -> Rules:
    """Return how parameters say that labels are learnt and predicted from."""
    return Rules(
        params.update,
        params.curvature,
        params.step_size,
        params.n_passes,
        params.predictive,
        params.calibration,
        _class_weights(params.class_weight, classes),
        params.memory_size,
        params.forgetting,
        params.max_iter,
    )


def _class_weights(class_weight: ClassWeight, classes: NDArray[Any]) -> tuple[float, ...] | None:
    """Return what one label of each class counts, where they differ: not if only fit weighs."""
    if class_weight is None or class_weight == "balanced":
        return None
    n = len(classes)
    return tuple(weighted_by_class(np.ones(n), class_weight, np.arange(n), classes).tolist())


def drawn_seed(random_state: RandomState) -> int:
    """Return an integer from a seed or generator, as a parameter ``random_state`` may be."""
    return int(check_random_state(random_state).randint(2**31))


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
