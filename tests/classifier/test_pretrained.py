import pickle

import numpy as np
import pytest
import torch
from classifier_cases import (
    PLAIN,
    X,
    module,
    y,
)
from scipy.special import expit, softmax
from skorch import NeuralNetClassifier
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.classifier.classifier import fit_in_blocks


class TestPretrainedHead:
    @pytest.mark.parametrize("bias", [True, False])
    def test_the_mean_is_the_trained_layer(self, bias):
        network = module(bias=bias)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
        clf.fit(X[:100], y[:100])
        logits = network(torch.from_numpy(X)).detach().numpy()
        np.testing.assert_allclose(clf.decision_function(X), logits, atol=1e-12)
        assert not hasattr(clf, "n_iter_")
        mean = clf.posterior_.mean.clone()
        clf.partial_fit(X[100:110], y[100:110])
        assert not torch.equal(clf.posterior_.mean, mean)
        np.testing.assert_allclose(network(torch.from_numpy(X)).detach().numpy(), logits)

    @pytest.mark.parametrize("ending", [torch.squeeze, lambda z: torch.sigmoid(z).squeeze()])
    def test_a_stream_of_single_rows_into_a_module_that_squeezes(self, ending):
        class Squeezing(nn.Sequential):
            def forward(self, X):
                return ending(super().forward(X))

        network = Squeezing(*module(1))
        streams = [
            LaplaceUpdateClassifier(each, head="pretrained", classes=[0, 1])
            for each in (network, network[:])
        ]
        for i in range(3):
            for clf in streams:
                clf.partial_fit(X[i : i + 1], y[i : i + 1] % 2)
        mean, expected = (clf.posterior_.mean for clf in streams)
        assert torch.equal(mean, expected)

    def test_a_stream_never_forgets_the_trained_layer(self):
        network = module()
        clf = LaplaceUpdateClassifier(network, head="pretrained", forgetting=0.5)
        clf.fit(X[:100], y[:100])
        head = clf.posterior_.mean.clone()
        torch.testing.assert_close(clf.posterior_.forget(0.0).mean, head)
        clf.partial_fit(X[100:101], y[100:101])
        torch.testing.assert_close(clf.posterior_.forget(0.0).mean, head)

    def test_two_outputs_become_one_logit(self):
        network = module(2)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
        clf.fit(X[y < 2], y[y < 2])
        expected = torch.softmax(network(torch.from_numpy(X)), dim=1).detach()
        np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-12)

    def test_one_output_is_the_logit(self):
        network = module(1)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
        clf.fit(X[y < 2], y[y < 2])
        expected = torch.sigmoid(network(torch.from_numpy(X)))[:, 0].detach()
        np.testing.assert_allclose(clf.predict_proba(X)[:, 1], expected, atol=1e-12)

    def test_from_the_head_without_any_old_data(self):
        clf = LaplaceUpdateClassifier(module(), head="pretrained", classes=range(10))
        clf.partial_fit(X[:5], y[:5])
        assert clf.predict_proba(X).shape == (len(X), 10)

    def test_a_skorch_net(self):
        net = NeuralNetClassifier(module(), criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1)
        net.fit(X, y)
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLAIN).fit(X, y)
        logits = torch.as_tensor(net.forward(X))
        np.testing.assert_allclose(clf.decision_function(X), logits, atol=1e-6)

    @pytest.mark.parametrize(
        ("extractor", "message"),
        [
            (None, r"needs a feature_extractor .*; got None"),
            (np.square, "last nn.Linear of an nn.Module or skorch net.*got ufunc"),
            (TorchFeatures(module(), layer="0"), r"got layer='0'"),
            (module(7), r"has 7 outputs for 10 classes .* Pass classes="),
        ],
    )
    def test_a_head_that_is_not_there(self, extractor, message):
        with pytest.raises(ValueError, match=message):
            LaplaceUpdateClassifier(extractor, head="pretrained").fit(X, y)

    @pytest.mark.parametrize("how", ["fit", "partial_fit", "argument", "pickle", "file"])
    @pytest.mark.parametrize("dtype", [str, object, int])
    def test_outputs_in_the_order_of_classes(self, how, dtype, tmp_path):
        network = module(3)
        given = np.array(["30", "100", "9"]).astype(dtype)
        A, b = X[:60], given[np.arange(60) % 3]
        expected = torch.softmax(network(torch.from_numpy(A)), dim=1).detach().numpy()
        order = np.argsort(given)
        if how == "argument":
            clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN)
            clf.partial_fit(A, b, classes=given, sample_weight=1e-12)
        else:
            clf = LaplaceUpdateClassifier(network, head="pretrained", classes=given, **PLAIN)
            if how == "partial_fit":
                clf.partial_fit(A, b, sample_weight=1e-12)
            else:
                clf.fit(A, b)
        if how == "pickle":
            clf = pickle.loads(pickle.dumps(clf))
        if how == "file" and dtype is not object:
            clf.save(tmp_path / "clf")
            clf = LaplaceUpdateClassifier.load(tmp_path / "clf", network)
        np.testing.assert_array_equal(clf.classes_, np.sort(given))
        np.testing.assert_allclose(clf.predict_proba(A), expected[:, order], atol=1e-9)
        np.testing.assert_array_equal(clf.predict(A), given[expected.argmax(axis=1)])
        new = np.array(["5"]).astype(dtype)
        clf.add_classes(new)
        places = np.searchsorted(clf.classes_, given)
        logits = network(torch.from_numpy(A)).detach().numpy()
        np.testing.assert_allclose(clf.decision_function(A)[:, places], logits, atol=1e-9)

    @pytest.mark.parametrize("n_outputs", [1, 2])
    def test_two_outputs_in_the_order_of_classes(self, n_outputs):
        network = module(n_outputs)
        clf = LaplaceUpdateClassifier(
            network, head="pretrained", classes=["yes", "no"], predictive="plug_in"
        )
        clf.set_params(calibration=None).fit(X[:20], np.array(["no", "yes"] * 10))
        logits = network(torch.from_numpy(X)).detach().numpy()
        of_no = softmax(logits, axis=1)[:, 1] if n_outputs == 2 else expit(logits[:, 0])
        np.testing.assert_allclose(clf.predict_proba(X), np.c_[of_no, 1 - of_no], atol=1e-12)

    @pytest.mark.parametrize(
        "labels", [np.arange(11).astype(str), [f"LABEL_{i}" for i in range(11)]]
    )
    def test_an_order_that_texts_have_and_outputs_have_not(self, labels):
        labels = np.asarray(labels)
        network, b = module(len(labels)), labels[np.arange(66) % len(labels)]
        clf = LaplaceUpdateClassifier(network, head="pretrained")
        with pytest.raises(ValueError, match=r"which is hardly the order .* Pass classes="):
            clf.fit(X[:66], b)
        clf.set_params(classes=labels, **PLAIN).fit(X[:66], b)
        outputs = network(torch.from_numpy(X[:66])).detach().numpy().argmax(axis=1)
        np.testing.assert_array_equal(clf.predict(X[:66]), labels[outputs])

    @pytest.mark.parametrize("n_classes", [2, 3])
    @pytest.mark.parametrize("how", ["fit", "partial_fit"])
    def test_labels_that_fit_another_order_are_told(self, n_classes, how):
        network = module(n_classes)
        outputs = network(torch.from_numpy(X)).detach().numpy().argmax(axis=1)
        names = np.array(["zebra", "ant", "cow"])[:n_classes]
        b = names[outputs]
        clf = LaplaceUpdateClassifier(network, head="pretrained", classes=np.sort(names))
        with pytest.warns(UserWarning, match=r"would 100% if its outputs .* Pass classes=") as said:
            getattr(clf, how)(X[:200], b[:200])
        assert said[0].filename == __file__
        clf = LaplaceUpdateClassifier(network, head="pretrained", classes=names)
        assert getattr(clf, how)(X[:200], b[:200]).score(X, b) > 0.95

    def test_the_order_of_a_skorch_net(self):
        names = np.array(["10", "9", "z"])
        net = NeuralNetClassifier(
            module(3), criterion=nn.CrossEntropyLoss, classes=names, verbose=0, max_epochs=1
        )
        b = np.arange(90) % 3
        net.fit(X[:90], b)
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLAIN).fit(X[:90], names[b])
        np.testing.assert_array_equal(clf.predict(X), names[net.forward(X).numpy().argmax(1)])

    @pytest.mark.parametrize("ends", [[nn.Softmax(dim=1)], [nn.LogSoftmax(dim=1)]])
    def test_what_softmax_makes_of_it(self, ends):
        network = nn.Sequential(*module(), *ends).float()
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN).fit(X[:100], y[:100])
        expected = softmax(module().float()(torch.from_numpy(X).float()).detach(), axis=1)
        np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            (lambda z: -z, "-1 times"),
            (lambda z: z * 20, "20 times"),
            (lambda z: z.flip(1), "in another order"),
            (torch.sigmoid, "a sigmoid for each class on its own"),
            (lambda z: torch.nn.functional.dropout(z), "is not made by one"),
        ],
    )
    @pytest.mark.parametrize("how", ["fit", "partial_fit", "in blocks"])
    @pytest.mark.filterwarnings("ignore:feature_extractor .* has no nn.Linear:UserWarning")
    def test_a_network_that_is_not_its_head(self, change, found, how):
        network = module()
        network.register_forward_hook(lambda net, args, output: change(output))
        params = {"head": "pretrained", "prior_precision": 1.0, "classes": range(10)}
        clf = LaplaceUpdateClassifier(network, **params)
        calls = {
            "fit": lambda: clf.fit(X[:50], y[:50]),
            "partial_fit": lambda: clf.partial_fit(X[:50], y[:50]),
            "in blocks": lambda: fit_in_blocks(clf, X[:9], y, None, None),
        }
        with pytest.raises(ValueError, match=rf"{found}.*head='fit'"):
            calls[how]()
        assert not hasattr(clf, "posterior_")
        if found.endswith("times"):
            assert LaplaceUpdateClassifier(network).fit(X, y).score(X, y) > 0.8

    def test_what_only_some_inputs_of_the_first_batch_show(self):
        network = module()
        clf, odd = LaplaceUpdateClassifier(network, head="pretrained"), X.copy()
        network.register_forward_hook(
            lambda net, args, z: torch.where(args[0][:, :1] > 2, z.flip(1), z)
        )
        clf.fit(odd, y)
        odd[100, 0] = 3.0
        with pytest.raises(ValueError, match=r"off by up to .* from what its last nn\.Linear '2'"):
            clf.fit(odd, y)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_coarse_networks(self, dtype):
        network = module().to(dtype)
        clf = LaplaceUpdateClassifier(network, head="pretrained", **PLAIN).fit(X[:100], y[:100])
        logits = network(torch.from_numpy(X).to(dtype)).detach().float()
        np.testing.assert_allclose(clf.decision_function(X), logits, atol=0.05)

    def test_a_bias_is_not_dropped(self):
        clf = LaplaceUpdateClassifier(module(), head="pretrained", fit_intercept=False)
        with pytest.raises(ValueError, match="bias, which fit_intercept=False would drop"):
            clf.fit(X, y)
