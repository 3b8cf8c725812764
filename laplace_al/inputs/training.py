"""Train a skorch classifier on labels, before it is frozen as a feature extractor."""

import contextlib
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from torch import nn

from laplace_al.inputs.blocks import rows_at
from laplace_al.inputs.features import TorchFeatures
from laplace_al.inputs.heads import is_distribution
from laplace_al.inputs.networks import as_tensors


class RandomStream:
    """Random numbers of its own that take the place of the global ones in ``with`` blocks.

    The generators of torch, NumPy and Python are seeded for the first block; each later block goes
    on where the one before has stopped. After a block they are what they were before it.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._own: tuple[Any, ...] | None = None

    @contextlib.contextmanager
    def instead_of_global_ones(self) -> Iterator[None]:
        """Run a block with this stream."""
        before = _states()
        try:
            if self._own is None:
                torch.manual_seed(self._seed)
                np.random.seed(self._seed % 2**32)  # noqa: NPY002
                random.seed(self._seed)
            else:
                _set_states(self._own)
            yield
            self._own = _states()
        finally:
            _set_states(before)


def _states() -> tuple[Any, ...]:
    """Return the states of the global generators."""
    of_cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return torch.get_rng_state(), of_cuda, np.random.get_state(), random.getstate()  # noqa: NPY002


def _set_states(states: tuple[Any, ...]) -> None:
    of_torch, of_cuda, of_numpy, of_python = states
    torch.set_rng_state(of_torch)
    if of_cuda is not None:
        torch.cuda.set_rng_state_all(of_cuda)
    np.random.set_state(of_numpy)  # noqa: NPY002
    random.setstate(of_python)


def check_trainable(feature_extractor: Any) -> None:
    """Refuse whatever is no skorch classifier."""
    is_net = hasattr(feature_extractor, "initialize") and hasattr(feature_extractor, "module")
    is_class = isinstance(feature_extractor, type)
    if is_class or not is_net or not is_classifier(feature_extractor):
        got = feature_extractor.__name__ if is_class else type(feature_extractor).__name__
        raise TypeError(
            "train_extractor=True trains a skorch classifier; got feature_extractor "
            f"{'of the class ' if not is_class else 'that is the class '}{got}. Pass "
            "NeuralNetClassifier(module, criterion=nn.CrossEntropyLoss, ...) of skorch, or set "
            "train_extractor=False to keep the extractor frozen."
        )


class Training(NamedTuple):
    """Labels that a network is to be trained on, and the random numbers of the training.

    ``targets`` (n,) are the positions of the labels among the ``n_classes`` outputs, and ``rows``
    the instances that they belong to.
    """

    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    n_classes: int
    stream: RandomStream

    def initialised(self, net: Any, weights_of: Any) -> Any:
        """Return a clone of a net, with new weights or those of another net where they fit."""
        with self.stream.instead_of_global_ones():
            fresh = clone(net).initialize()
        if weights_of is not None:
            _copy_weights(weights_of.module_, fresh.module_)
        return fresh

    def train(self, extractor: TorchFeatures, X: Any) -> None:
        """Train the net in an extractor on validated inputs; it has probed some of them."""
        net = extractor.feature_extractor
        self._check_outputs(extractor, X)
        cast = extractor.source_.cast
        assert cast is not None  # it has a network
        inputs = as_tensors(rows_at(X, self.rows), cast)
        is_of_one_logit = isinstance(net.criterion_, nn.BCEWithLogitsLoss)
        targets = self.targets.astype(np.float32) if is_of_one_logit else self.targets
        try:
            with self.stream.instead_of_global_ones():
                _train_uninterrupted(net, inputs, targets)
        except ValueError as error:
            raise ValueError(
                f"feature_extractor {type(net).__name__} could not be trained on these "
                f"{len(targets)} labels: {error} If they are too few to hold some of them out for "
                "validation, set feature_extractor__train_split=None."
            ) from error
        if not all(bool(weight.isfinite().all()) for weight in net.module_.parameters()):
            raise ValueError(
                f"feature_extractor {type(net).__name__} has weights of NaN or infinity after its "
                "training, which diverged. Lower feature_extractor__lr, or scale the inputs."
            )

    def _check_outputs(self, extractor: TorchFeatures, X: Any) -> None:
        """Refuse a network that has no layer of logits, too few of them, or the wrong loss."""
        net, kind = extractor.feature_extractor, type(extractor.feature_extractor.module_).__name__
        if not extractor.layer_ and not isinstance(net.module_, nn.Linear):
            raise ValueError(
                f"train_extractor=True needs a module whose output is made by an nn.Linear, which "
                f"reads the features; {kind} has none. Put one at its end."
            )
        output = extractor.output(X)
        n_outputs = 1 if output.ndim == 1 else output.shape[1]
        if n_outputs < self.n_classes and (n_outputs, self.n_classes) != (1, 2):
            raise ValueError(
                f"feature_extractor has {n_outputs} outputs for {self.n_classes} classes. Let the "
                f"last nn.Linear of {kind} have an output for each class."
            )
        log_of_negative = isinstance(net.criterion_, nn.NLLLoss) and bool((output < 0).any())
        if log_of_negative and not is_distribution(output.exp()):
            raise ValueError(
                f"feature_extractor has the criterion NLLLoss, skorch's default, for which {kind} "
                "would have to return probabilities; it returns logits. Set "
                "criterion=nn.CrossEntropyLoss."
            )


def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Give a module the weights of another one, unless they have other names or shapes."""
    weights, others = source.state_dict(), target.state_dict()
    sizes = [{name: value.shape for name, value in each.items()} for each in (weights, others)]
    if sizes[0] == sizes[1]:
        target.load_state_dict(weights)


def _train_uninterrupted(net: Any, X: Any, targets: NDArray[Any]) -> None:
    """Train a net; raise the KeyboardInterrupt that skorch takes for the end of the training."""
    interrupts: list[KeyboardInterrupt] = []
    fit_loop = net.fit_loop

    def watched(*args: Any, **kwargs: Any) -> Any:
        try:
            return fit_loop(*args, **kwargs)
        except KeyboardInterrupt as interrupt:
            interrupts.append(interrupt)
            raise

    net.fit_loop = watched
    try:
        net.partial_fit(X, targets)
    finally:
        del net.fit_loop
    if interrupts:
        raise interrupts[0]
