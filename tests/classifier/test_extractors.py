import copy
import pickle

import numpy as np
import pytest
import torch
from classifier_cases import (
    X,
    arrays,
    module,
    same,
    y,
)
from sklearn.base import clone
from sklearn.decomposition import PCA
from skorch import NeuralNetClassifier
from small_nets import small_net
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.inputs.known import Extracted


class TestFeatureExtractor:
    def test_it_is_the_same_as_its_features(self):
        network = module()
        features = TorchFeatures(network).fit_transform(X)
        whole = LaplaceUpdateClassifier(network).fit(X[:100], y[:100])
        last = LaplaceUpdateClassifier().fit(features[:100], y[:100])
        np.testing.assert_allclose(whole.transform(X), features)
        for _ in range(2):
            np.testing.assert_allclose(whole.predict_proba(X), last.predict_proba(features))
            whole.partial_fit(X[100:150], y[100:150])
            last.partial_fit(features[100:150], y[100:150])

    @pytest.mark.parametrize("shape", [(-1, 1, 8, 8), (-1, 8, 8)])
    def test_images(self, shape):
        images = X.reshape(shape).astype(np.float32)
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        clf = LaplaceUpdateClassifier(network).fit(images[:300], y[:300])
        assert clf.partial_fit(images[300:400], y[300:400]).score(images, y) > 0.6

    def test_a_callable_on_text(self):
        def encode(texts):
            return np.array([[len(text), text.count("!")] for text in texts], dtype=float)

        clf = LaplaceUpdateClassifier(encode).fit(
            ["no", "yes!!", "nope", "yes yes!!!"], [0, 1, 0, 1]
        )
        assert clf.predict(["sure!!!!"]) == 1

    def test_a_fitted_transformer_is_used_as_it_is(self):
        pca = PCA(5).fit(X)
        clf = clone(LaplaceUpdateClassifier(pca)).fit(X[:100], y[:100])
        np.testing.assert_allclose(clf.transform(X), pca.transform(X), atol=1e-12)

    def test_copies_share_the_module(self):
        network = module()
        clf = LaplaceUpdateClassifier(network, prior_precision=3.0).fit(X[:50], y[:50])
        assert clone(clf).feature_extractor is network
        assert clone(clf).prior_precision == 3.0
        twin = copy.deepcopy(clf)
        assert twin.feature_extractor is network
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))
        before = arrays(clf)
        twin.partial_fit(X[50:60], y[50:60])
        assert same(before, arrays(clf))

    def test_the_module_is_pickled_once(self):
        clf = LaplaceUpdateClassifier(module(), classes=range(10)).fit(X[:50], y[:50])
        network_bytes = len(pickle.dumps(clf.feature_extractor))
        head = LaplaceUpdateClassifier(classes=range(10)).fit(clf.transform(X[:50]), y[:50])
        assert len(pickle.dumps(clf)) < 1.5 * network_bytes + len(pickle.dumps(head))
        twin = pickle.loads(pickle.dumps(clf))
        assert twin.extractor_.feature_extractor is twin.feature_extractor
        np.testing.assert_array_equal(twin.predict_proba(X), clf.predict_proba(X))

    def test_parameters_reach_the_extractor(self, capsys):
        clf = LaplaceUpdateClassifier(module(), batch_size=7, verbose=1).fit(X[:20], y[:20])
        assert clf.extractor_.batch_size == 7
        assert "3/3" in capsys.readouterr().err

    def test_a_given_torch_features_is_not_fitted(self):
        features = TorchFeatures(module(), layer="0")
        clf = LaplaceUpdateClassifier(features).fit(X[:50], y[:50])
        assert not hasattr(features, "layer_")
        assert clf.extractor_.layer_ == "0"


class TestNetworkThatChanges:
    """Features of other weights are not mixed with what was learnt on the old ones."""

    CALLS = {
        "predict": lambda clf: clf.predict(X[:5]),
        "transform": lambda clf: clf.transform(X[:5]),
        "sample": lambda clf: clf.sample_proba(X[:5], 2),
        "pool": lambda clf: clf.pool_state(X[:5]),
        "partial_fit": lambda clf: clf.partial_fit(X[:5], y[:5]),
        "known features": lambda clf: clf.partial_fit(Extracted(np.ones((1, 16))), [0]),
        "refit on them": lambda clf: clf.fit(Extracted(np.ones((10, 16))), range(10)),
    }

    @pytest.mark.parametrize("call", CALLS)
    @pytest.mark.parametrize("wrap", [lambda net: net, TorchFeatures])
    def test_calls_are_refused_until_the_next_fit(self, call, wrap):
        network = module()
        clf = LaplaceUpdateClassifier(wrap(network), classes=range(10)).fit(X[:100], y[:100])
        expected, before = clf.predict_proba(X), copy.deepcopy(network.state_dict())
        with torch.no_grad():
            network[0].weight.add_(0.1)
        state = vars(clf)
        with pytest.raises(RuntimeError, match=r"Sequential has other weights .* Fit again"):
            self.CALLS[call](clf)
        assert vars(clf) is state
        twin = copy.deepcopy(clf).fit(X[:100], y[:100])
        assert not np.allclose(twin.predict_proba(X), expected)
        network.load_state_dict(before)
        np.testing.assert_array_equal(clf.predict_proba(X), expected)
        self.CALLS[call](clf)

    @pytest.mark.parametrize("call", CALLS)
    def test_another_extractor_is_refused_until_the_next_fit(self, call):
        clf = LaplaceUpdateClassifier(module(), classes=range(10)).fit(X[:100], y[:100])
        twin, expected = module(), clf.predict_proba(X)
        np.testing.assert_array_equal(
            clf.set_params(feature_extractor=twin).predict_proba(X), expected
        )
        torch.manual_seed(1)
        others = (nn.Sequential(nn.Linear(64, 16), nn.Linear(16, 10)), None, np.square)
        for other in (*others, TorchFeatures(others[0])):
            clf.set_params(feature_extractor=other)
            match = "other weights .* Fit again|feature_extractor is now .* Fit again"
            with pytest.raises(RuntimeError, match=match):
                self.CALLS[call](clf)
        clf.fit(X[:100], y[:100])
        assert not np.allclose(clf.predict_proba(X), expected)
        for before, after in ((None, module()), (np.square, None)):
            clf = LaplaceUpdateClassifier(before).fit(X[:100], y[:100])
            with pytest.raises(RuntimeError, match="feature_extractor is now"):
                clf.set_params(feature_extractor=after).predict(X)

    def test_parameters_of_a_skorch_net_that_make_a_new_module(self):
        net = small_net().initialize()
        clf = LaplaceUpdateClassifier(net).fit(X, y)
        net.set_params(module__dropout=0.9)
        with pytest.raises(RuntimeError, match="has other weights"):
            clf.predict(X)
        clf.fit(X, y).predict(X)

    def test_a_copy_in_another_process_or_place_does_not_mind(self):
        clf = LaplaceUpdateClassifier(module()).fit(X[:100], y[:100])
        expected = clf.predict(X)
        for twin in (copy.deepcopy(clf), pickle.loads(pickle.dumps(clf))):
            np.testing.assert_array_equal(twin.predict(X), expected)

    def test_a_skorch_net_that_is_trained_further(self):
        net = NeuralNetClassifier(module(), criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1)
        net.fit(X, y)
        clf = LaplaceUpdateClassifier(net).fit(X, y)
        for train in (net.partial_fit, net.fit):
            train(X, y)
            with pytest.raises(RuntimeError, match="has other weights"):
                clf.predict(X)
            clf.fit(X, y).predict(X)
