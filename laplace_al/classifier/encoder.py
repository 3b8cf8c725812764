"""The first fit of a classifier: its labels and inputs as tensors, and the model made of them."""

from types import SimpleNamespace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from laplace_al._common.devices import available_device
from laplace_al._common.typing import Features
from laplace_al.classifier.fitted import rules_of
from laplace_al.classifier.pretrained import pretrained_mean, warn_of_another_order
from laplace_al.inputs.classes import distinct_classes
from laplace_al.inputs.input_format import InputFormat
from laplace_al.inputs.soft_labels import SoftLabels
from laplace_al.inputs.weighted_labels import (
    ClassWeight,
    check_declared,
    check_labels,
    places_of,
    weighted,
)
from laplace_al.model.fit import Fit, FitSettings, fit, model_before_labels
from laplace_al.model.fitted_model import completed, labelled
from laplace_al.model.likelihoods import Likelihood, likelihood_of
from laplace_al.model.mode import Labelled
from laplace_al.model.rows import Rows
from laplace_al.model.structures import choose_structure


class Encoder(NamedTuple):
    """Turns inputs and indices of classes into the tensors of a model, and these into a model.

    It holds neither data nor parameters, and so can be sent to where the rows of a fit are.
    """

    name: str  # of the estimator
    inputs: InputFormat
    classes: NDArray[Any]
    dtype: torch.dtype
    device: torch.device
    has_intercept: bool

    @classmethod
    def of(
        cls, name: str, params: SimpleNamespace, inputs: InputFormat, classes: NDArray[Any]
    ) -> Self:
        """Return the encoder of the parameters of an estimator."""
        dtype, device = getattr(torch, params.dtype), available_device(params.device)
        return cls(name, inputs, classes, dtype, device, params.fit_intercept)

    @property
    def likelihood(self) -> Likelihood:
        """Likelihood of a label given its logits."""
        return likelihood_of(len(self.classes))

    def phi(self, features: Features) -> torch.Tensor:
        """Return phi (n, D) of features."""
        return completed(features, self.dtype, self.device, has_intercept=self.has_intercept)

    def labelled(
        self, features: Features, places: NDArray[Any], weights: NDArray[np.float64]
    ) -> Labelled:
        """Return labelled instances from their features."""
        return labelled(self.phi(features), places, weights, self.likelihood)

    def labelled_inputs(
        self, X: Any, places: NDArray[Any], weights: NDArray[np.float64]
    ) -> Labelled:
        """Return labelled instances from further inputs."""
        return self.labelled(self.inputs.features(X, name=self.name), places, weights)

    def checked_prior_mean(
        self, params: SimpleNamespace, data: Labelled, given: ArrayLike | None
    ) -> torch.Tensor:
        """Return :meth:`prior_mean`; warn if labels fit it with its outputs in another order."""
        mean = self.prior_mean(params, data.features, given)
        if params.head == "pretrained":
            warn_of_another_order(data, mean, self.classes)
        return mean

    def prior_mean(
        self, params: SimpleNamespace, phi: torch.Tensor, given: ArrayLike | None
    ) -> torch.Tensor:
        """Return the prior mean (D, C) of W: zero, or the trained last layer of the network.

        ``phi`` (n, D) are some rows. ``given`` are the classes in the order of the outputs, if the
        user has told them.
        """
        n_outputs = self.likelihood.n_outputs
        if params.head == "fit":
            return phi.new_zeros((phi.shape[1], n_outputs))
        return pretrained_mean(
            self.inputs.extractor,
            self.classes,
            given,
            n_outputs,
            like=phi,
            has_intercept=self.has_intercept,
        )

    def fit(
        self,
        params: SimpleNamespace,
        rows: Rows,
        centre: torch.Tensor,
        mean: torch.Tensor,
        start: torch.Tensor,
    ) -> Fit:
        """Fit a model to rows, see :func:`laplace_al.model.fit.fit`."""
        settings, rules = self._settings(params, mean), rules_of(params, self.classes)
        return fit(rows, centre, mean, start, settings, rules, **self._model_fields())

    def before_labels(self, params: SimpleNamespace, data: Labelled, mean: torch.Tensor) -> Fit:
        """Return the model before its first labels, which may determine the prior precision."""
        settings, rules = self._settings(params, mean), rules_of(params, self.classes)
        return model_before_labels(data, mean, settings, rules, **self._model_fields())

    def _settings(self, params: SimpleNamespace, mean: torch.Tensor) -> FitSettings:
        structure = choose_structure(
            params.covariance, *mean.shape, dtype=mean.dtype, device=mean.device
        )
        return FitSettings(params.prior_precision, structure, params.head, params.tol)

    def _model_fields(self) -> dict[str, Any]:
        """Return the fields of a :class:`FittedModel` that no label changes."""
        return {"classes": self.classes, "has_intercept": self.has_intercept}


def labels_of_fit(
    params: SimpleNamespace,
    y: ArrayLike | SoftLabels,
    sample_weight: ArrayLike | None,
    n_samples: int,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.float64]]:
    """Return the classes of a fit, and its labels and weights, see :func:`weighted`."""
    y, sample_weight = check_labels(y, sample_weight, n_samples)
    classes = _classes_of_fit(params, y, sample_weight)
    places = places_of(y, classes, params.classes)
    if params.classes is not None:
        check_declared(params.class_weight, classes)
    places, weights = weighted(sample_weight, params.class_weight, places, classes)
    check_some_weight(weights, params.class_weight)
    return classes, places, weights


def _classes_of_fit(
    params: SimpleNamespace, y: NDArray[Any] | SoftLabels, sample_weight: NDArray[np.float64]
) -> NDArray[Any]:
    """Return the classes: as they are declared, or as the labels name them."""
    if params.classes is not None:
        return distinct_classes(params.classes)
    if not isinstance(y, SoftLabels):
        seen = np.unique(y[sample_weight > 0])
        if len(seen) < 2:
            raise ValueError(
                "y must have at least 2 classes to fit; got 1 class among the instances of "
                f"positive weight: {seen.tolist()}. Pass classes= with all labels that may occur."
            )
        return distinct_classes(y)
    if y.columns is None:
        raise ValueError(
            f"y has {y.probabilities.shape[1]} columns of probabilities, of classes that are not "
            "known. Pass classes= with the labels in the order of the columns, which is the sorted "
            "one, or a DataFrame with the classes as its columns."
        )
    return distinct_classes(y.columns)


def fixed_classes(
    params: SimpleNamespace, learnt: NDArray[Any] | None, classes: ArrayLike | None
) -> NDArray[Any]:
    """Return the classes of a call of partial_fit, checked against those learnt so far, if any."""
    if learnt is not None and classes is None:
        return learnt
    declared: Any = params.classes if learnt is None else learnt
    declared = classes if declared is None else declared
    if declared is None:
        raise ValueError(
            "classes must be passed on the first call to partial_fit: all labels that may "
            "ever occur. Pass partial_fit(X, y, classes=...), set the parameter classes, "
            "or call fit first."
        )
    fixed = distinct_classes(declared)
    given = fixed if classes is None else distinct_classes(classes)
    if not np.array_equal(given, fixed):
        raise ValueError(
            f"`classes={given.tolist()}` is not the same as on last call to "
            f"partial_fit or as the parameter classes, was: {fixed.tolist()}. Leave it out, or "
            "fit anew."
        )
    check_declared(params.class_weight, fixed)
    return fixed


def check_some_weight(weights: NDArray[np.float64], class_weight: ClassWeight) -> None:
    """Refuse class weights that leave no instance any weight."""
    if not weights.any():
        raise ValueError(
            "class_weight must leave some instance a positive weight; got "
            f"{class_weight!r}, which leaves nothing to learn. Give a positive weight to "
            "a class that occurs in y."
        )
