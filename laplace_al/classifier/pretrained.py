"""The trained last layer of a network as the mean of the prior."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from laplace_al._common.warn import warn_user
from laplace_al.inputs.classes import is_in_natural_order, order_of_outputs
from laplace_al.inputs.features import TorchFeatures
from laplace_al.model.mode import Labelled

# When labels say that the outputs of a trained head are in another order.
_LEAST_FOR_ORDER = 10
_SHARE_OF_ORDER = 0.75


def pretrained_mean(
    extractor: TorchFeatures | None,
    classes: NDArray[Any],
    given: ArrayLike | None,
    n_outputs: int,
    *,
    like: torch.Tensor,
    has_intercept: bool,
) -> torch.Tensor:
    """Return the weights (D, n_outputs) of the trained last layer of a network.

    ``given`` are the classes in the order of the outputs, if the user has told them; ``like`` is a
    tensor of the dtype and on the device of the posterior.
    """
    if extractor is None:
        raise ValueError(
            "head='pretrained' needs a feature_extractor with a trained last nn.Linear; got "
            "None. Pass the module, or head='fit'."
        )
    weight, bias = extractor.pretrained_head()
    n_classes = len(classes)
    if len(weight) not in {n_classes, n_outputs}:
        raise ValueError(
            f"head='pretrained': the last nn.Linear has {len(weight)} outputs for "
            f"{n_classes} classes {classes.tolist()}. Pass classes= with the labels of "
            "its outputs, or head='fit'."
        )
    if bias is not None and not has_intercept:
        raise ValueError(
            "head='pretrained': the last nn.Linear has a bias, which fit_intercept=False "
            "would drop. Set fit_intercept=True."
        )
    mean = weight.to(like).T  # (D, outputs)
    if has_intercept:
        bias = mean.new_zeros(mean.shape[1]) if bias is None else bias.to(mean)
        mean = torch.cat([mean, bias[None, :]])
    order = _order_of_outputs(extractor, classes, given)
    if mean.shape[1] < n_classes:  # the logit of the second class
        return mean.clone() if order[0] == 0 else -mean
    mean = mean[:, torch.from_numpy(order.argsort()).to(mean.device)]
    return mean[:, 1:] - mean[:, :1] if n_outputs == 1 else mean


def _order_of_outputs(
    extractor: TorchFeatures, classes: NDArray[Any], given: ArrayLike | None
) -> NDArray[np.int64]:
    """Return the position of the class of each output among the sorted classes."""
    of_net = getattr(extractor.feature_extractor, "classes_", None)  # of skorch
    if given is None and of_net is not None and set(of_net) == set(classes):
        given = of_net
    if given is not None:
        return order_of_outputs(given, classes)
    if not is_in_natural_order(classes):
        raise ValueError(
            "head='pretrained': as texts the classes are sorted as "
            f"{classes.tolist()}, which is hardly the order of the network's outputs. "
            "Pass classes= with the labels in the order of the outputs."
        )
    return np.arange(len(classes))


def warn_of_another_order(data: Labelled, mean: torch.Tensor, classes: NDArray[Any]) -> None:
    """Warn if labels fit a trained head (D, C), but for the order of its outputs."""
    if len(data.features) < _LEAST_FOR_ORDER:
        return
    known = data.likelihood.labels(data.targets)
    found = data.likelihood.log_probabilities(data.features @ mean).argmax(dim=1)
    n_classes = len(classes)
    counts = torch.bincount(known * n_classes + found, data.weights, minlength=n_classes**2)
    counts = counts.reshape(n_classes, n_classes).numpy(force=True)
    share = counts / counts.sum()
    right, best = share.trace(), share[linear_sum_assignment(share, maximize=True)].sum()
    if right < best / 2 and best > _SHARE_OF_ORDER:
        warn_user(
            f"head='pretrained': the network predicts {right:.0%} of these labels, but would "
            f"{best:.0%} if its outputs were in another order than {classes.tolist()}. "
            "Pass classes= with the labels in the order of the outputs."
        )
