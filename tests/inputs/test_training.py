import contextlib
import random
import signal

import numpy as np
import pytest
import torch
from skorch import NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback
from small_nets import Perceptron, X, binary_net, small_net, weights, y
from torch import nn

from laplace_al import TorchFeatures
from laplace_al.inputs.training import RandomStream, Training, check_trainable


def drawn():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()  # noqa: NPY002


def training_of(targets, n_classes=10, seed=0):
    targets = np.asarray(targets)
    return Training(np.arange(len(targets)), targets, n_classes, RandomStream(seed))


def trained(net, targets, rows=slice(0, 200), **kwargs):
    training = training_of(targets[rows], **kwargs)
    extractor = TorchFeatures(training.initialised(net, None))
    training.train(extractor.probe(X[rows]), X[rows])
    return extractor.feature_extractor


class TestRandomStream:
    def test_it_is_that_of_a_global_seed(self):
        state = torch.get_rng_state()
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        random.seed(3)
        expected = [drawn(), drawn()]
        torch.set_rng_state(state)
        stream = RandomStream(3)
        found = []
        for _ in range(2):
            with stream.instead_of_global_ones():
                found.append(drawn())
            drawn()  # in between, by others
        assert found == expected

    def test_global_generators_stay_as_they_are(self):
        random.seed(1)
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        expected = drawn()
        random.seed(1)
        torch.manual_seed(1)
        np.random.seed(1)  # noqa: NPY002
        with RandomStream(0).instead_of_global_ones():
            drawn()
        with contextlib.suppress(ZeroDivisionError), RandomStream(0).instead_of_global_ones():
            random.seed(1 / (drawn()[2] < 0))
        assert drawn() == expected


class TestTraining:
    def test_it_is_that_of_skorch_under_the_seed(self):
        net = trained(small_net(), y, seed=5)
        torch.manual_seed(5)
        twin = small_net().fit(X[:200].astype(np.float32), y[:200])
        np.testing.assert_array_equal(weights(net), weights(twin))

    def test_its_callbacks_and_its_validation_run(self):
        seen = []

        class Watching(Callback):
            def on_epoch_end(self, net, dataset_train, dataset_valid, **kwargs):
                seen.append((len(dataset_train), len(dataset_valid)))

        net = NeuralNetClassifier(
            Perceptron, criterion=nn.CrossEntropyLoss, max_epochs=2, verbose=0, callbacks=[Watching]
        )
        assert len(trained(net, y).history) == 2
        assert seen == [(160, 40)] * 2

    def test_arrays_by_name(self):
        class ByName(Perceptron):
            def forward(self, pixels):
                return super().forward(pixels)

        training = training_of(y[:100])
        extractor = TorchFeatures(training.initialised(small_net(ByName), None))
        inputs = {"pixels": X[:100]}
        training.train(extractor.probe(inputs), inputs)
        twin = trained(small_net(), y, slice(0, 100))
        np.testing.assert_array_equal(weights(extractor.feature_extractor), weights(twin))

    def test_one_logit_for_two_classes(self):
        rows = np.flatnonzero(y < 2)[:100]
        net = trained(binary_net(), y, rows, n_classes=2)
        assert (net.predict(X[rows].astype(np.float32)) == y[rows]).mean() > 0.95

    def test_rows_are_those_of_the_targets(self):
        training = training_of(y[:50])._replace(rows=np.arange(50)[::-1], targets=y[:50][::-1])
        extractor = TorchFeatures(training.initialised(small_net(), None))
        training.train(extractor.probe(X[:60]), X[:60])
        torch.manual_seed(0)
        twin = small_net().fit(X[:50][::-1].astype(np.float32), y[:50][::-1].copy())
        np.testing.assert_array_equal(weights(extractor.feature_extractor), weights(twin))

    def test_weights_of_another_net_where_they_fit(self):
        known, training = small_net().initialize(), training_of(y[:10])
        warm = training.initialised(small_net(lr=0.5), known)
        np.testing.assert_array_equal(weights(warm), weights(known))
        assert warm.lr == 0.5
        warm.module_.head.bias.data += 1
        assert not np.array_equal(weights(warm), weights(known))
        other = training.initialised(small_net(module__n_hidden=7), known)
        assert other.module_.hidden.out_features == 7

    def test_an_interrupt_is_one(self):
        class Interrupting(Callback):
            def on_epoch_end(self, net, **kwargs):
                signal.raise_signal(signal.SIGINT)

        net = small_net(callbacks=[Interrupting()])
        with pytest.raises(KeyboardInterrupt):
            trained(net, y)


class TestRefusals:
    @pytest.mark.parametrize(
        "extractor",
        [
            None,
            Perceptron(),
            np.square,
            TorchFeatures(Perceptron()),
            NeuralNetClassifier,
            NeuralNetRegressor(Perceptron),
        ],
        ids=["None", "module", "callable", "TorchFeatures", "class", "regressor"],
    )
    def test_what_cannot_be_trained(self, extractor):
        with pytest.raises(TypeError, match=r"trains a skorch classifier; got .* Pass Neural"):
            check_trainable(extractor)

    def test_a_net_can_be_trained(self):
        check_trainable(small_net())
        check_trainable(small_net().initialize())
        check_trainable(binary_net())

    @pytest.mark.parametrize(
        ("net", "match"),
        [
            (small_net(module__n_outputs=4), "4 outputs for 10 classes. Let the last nn.Linear"),
            (small_net(criterion=nn.NLLLoss), "returns logits. Set criterion=nn.CrossEntropyLoss"),
            (small_net(lr=1e30), "weights of NaN or infinity .* Lower feature_extractor__lr"),
            (
                NeuralNetClassifier(Perceptron, criterion=nn.CrossEntropyLoss, verbose=0),
                r"could not be trained on these 12 labels: .* set feature_extractor__train_split",
            ),
        ],
        ids=["outputs", "criterion", "diverged", "split"],
    )
    def test_what_goes_wrong(self, net, match):
        with pytest.raises(ValueError, match=match):
            trained(net, y, slice(0, 12))

    @pytest.mark.filterwarnings("ignore:feature_extractor .* has no nn.Linear")
    def test_a_module_without_a_last_layer(self):
        net = small_net(nn.Sequential(nn.Linear(64, 10), nn.Tanh()))
        with pytest.raises(ValueError, match=r"output is made by an nn.Linear.* Sequential has"):
            trained(net, y)

    def test_probabilities_with_the_default_criterion(self):
        module = nn.Sequential(nn.Linear(64, 10), nn.Softmax(dim=1))
        assert len(trained(small_net(module, criterion=nn.NLLLoss), y).history) == 8
