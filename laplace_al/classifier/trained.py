"""The inputs of a classifier that trains its network on the labels of ``fit``."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from laplace_al._common.typing import Features, RandomState
from laplace_al.classifier.encoder import labels_of_fit
from laplace_al.classifier.fitted import Fitted, drawn_seed
from laplace_al.inputs.blocks import n_rows
from laplace_al.inputs.classes import order_of_outputs
from laplace_al.inputs.features import TorchFeatures
from laplace_al.inputs.input_format import InputFormat
from laplace_al.inputs.training import RandomStream, Training, check_trainable


def trained_features(
    name: str,
    before: Fitted | None,
    params: SimpleNamespace,
    X: Any,
    y: ArrayLike,
    sample_weight: ArrayLike | None,
) -> tuple[InputFormat, Features]:
    """Train a clone of the network on labels; return the format of the inputs, and the features.

    ``name`` is that of the estimator. With ``warm_start`` the clone gets the weights of the last
    fit, or else those that the network was passed with.
    """
    net = params.feature_extractor
    check_trainable(net)
    classes, indices, weights = labels_of_fit(params, y, sample_weight, n_rows(X))
    if indices.ndim > 1:  # a network sees the most probable class, its last layer all of them
        indices = indices.argmax(axis=1)
    given = classes if params.classes is None else params.classes
    order = order_of_outputs(given, classes)
    rows = np.arange(len(indices)).repeat(_copies(weights))
    stream = RandomStream(_seed_of_training(params.random_state))
    training = Training(rows, order.argsort()[indices[rows]], len(classes), stream)
    start = _last_net(before, net) if params.warm_start else None
    extractor = TorchFeatures(
        training.initialised(net, start), batch_size=params.batch_size, verbose=params.verbose
    )
    return InputFormat.of_first(
        X, extractor, name=name, with_head=params.head == "pretrained", train=training.train
    )


def classes_of_outputs(params: SimpleNamespace, classes: NDArray[Any]) -> ArrayLike | None:
    """Return the labels in the order of the network's outputs, None if nobody has told them.

    The outputs of a network that ``fit`` trains are in the order of the sorted classes if it is
    not told another one.
    """
    return classes if params.train_extractor and params.classes is None else params.classes


def _last_net(before: Fitted | None, net: Any) -> Any:
    """Return the net of the last fit, or else the one that was passed if it has weights."""
    extractor = None if before is None else before.inputs.extractor
    last = net if extractor is None else extractor.feature_extractor
    return last if hasattr(last, "module_") else None


def _copies(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how often a network sees each instance: it knows no weights."""
    counts = weights.astype(np.int64)
    if not np.array_equal(counts, weights):
        wrong = weights[counts != weights][0]
        raise ValueError(
            "train_extractor=True takes an instance of weight k for k copies of it, since skorch "
            "has no weights of instances: sample_weight, times class_weight, must be integers; "
            f"got {wrong:g}. Leave them out; to weigh classes, give the criterion weights, e.g. "
            "feature_extractor__criterion__weight=torch.tensor([1.0, 2.0])."
        )
    return counts


def _seed_of_training(random_state: RandomState) -> int:
    """Return the seed for torch; a generator gives the one that it is going to draw."""
    if random_state is None:
        return 0
    if isinstance(random_state, np.random.RandomState):
        ahead = np.random.RandomState()
        ahead.set_state(random_state.get_state())
        return drawn_seed(ahead)
    return int(random_state)
