"""Copies of estimators share an extractor, whose parameters stay as they are."""

import numpy as np
import pytest
import torch
from sklearn.frozen import FrozenEstimator
from sklearn.kernel_approximation import RBFSampler
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetClassifier
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 4))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)
    )


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def skorch_net(network):
    net = NeuralNetClassifier(
        network, criterion=nn.CrossEntropyLoss, verbose=0, module__p=0.5, max_epochs=1
    )
    return net.initialize()


class Dropping(nn.Sequential):
    def __init__(self, p=0.5):
        super().__init__(nn.Linear(4, 6), nn.Dropout(p), nn.Linear(6, 3))


class TestParametersOfTheExtractor:
    LABELS = np.arange(20) % 2

    @pytest.mark.parametrize("make", [LaplaceUpdateClassifier, TorchFeatures])
    def test_those_of_a_frozen_one_are_refused(self, make):
        sampler = make_pipeline(RBFSampler(gamma=1.0, random_state=0)).fit(X)
        net = skorch_net(Dropping)
        before = state(net.module_)
        for extractor, name in (
            (sampler, "feature_extractor__rbfsampler__gamma"),
            (net, "feature_extractor__module__p"),
            (nn.Linear(4, 2), "feature_extractor__bias"),
        ):
            estimator = make(extractor, batch_size=7)
            with pytest.raises(
                ValueError,
                match=rf"{name} cannot be set: feature_extractor, here {type(extractor).__name__}, "
                r"is frozen and shared .* search over feature_extractor=\[FrozenEstimator\(a\)",
            ):
                estimator.set_params(batch_size=3, **{name: 0.1})
            assert estimator.batch_size == 7
        assert sampler[0].gamma == 1.0
        assert net.get_params()["module__p"] == 0.5
        assert all(torch.equal(before[key], value) for key, value in state(net.module_).items())

    @pytest.mark.parametrize("make", [LaplaceUpdateClassifier, TorchFeatures])
    def test_all_that_an_estimator_has_can_be_set_again(self, make):
        sampler = make_pipeline(RBFSampler(gamma=0.3, random_state=0)).fit(X)
        estimator = make(sampler, batch_size=7)
        params = estimator.get_params()
        assert params["feature_extractor__rbfsampler__gamma"] == 0.3
        estimator.set_params(**params | {"batch_size": 3})
        assert estimator.get_params() == params | {"batch_size": 3}

    def test_those_of_torch_features_are_set_but_none_behind_them(self, network):
        clf = LaplaceUpdateClassifier(TorchFeatures(network), n_samples=7)
        clf.set_params(feature_extractor__batch_size=3, feature_extractor__layer="0")
        assert (clf.feature_extractor.batch_size, clf.feature_extractor.layer) == (3, "0")
        net = skorch_net(Dropping)
        clf.set_params(feature_extractor__feature_extractor=net)
        name = "feature_extractor__feature_extractor__module__p"
        with pytest.raises(ValueError, match=f"{name} cannot be set: .*_feature_extractor, here N"):
            clf.set_params(n_samples=5, **{name: 0.1})
        assert clf.n_samples == 7
        with pytest.raises(ValueError, match=f"{name} cannot be set"):
            LaplaceUpdateClassifier().set_params(
                feature_extractor=TorchFeatures(network),
                feature_extractor__feature_extractor=net,
                **{name: 0.1},
            )

    def test_a_pipeline_and_a_grid_search_refuse_them_too(self):
        net = skorch_net(Dropping)
        pipeline = make_pipeline(TorchFeatures(net), LaplaceUpdateClassifier())
        grid = {"torchfeatures__feature_extractor__module__p": [0.1, 0.9]}
        with pytest.raises(ValueError, match="feature_extractor__module__p cannot be set"):
            GridSearchCV(pipeline, grid, cv=2).fit(X, self.LABELS)

    def test_a_grid_search_over_fitted_extractors(self):
        variants = [
            FrozenEstimator(RBFSampler(gamma=gamma, random_state=0).fit(X)) for gamma in (1e-9, 0.1)
        ]
        variants.append(FrozenEstimator(skorch_net(Dropping)))
        variants.append(TorchFeatures(Dropping()))
        clf = LaplaceUpdateClassifier(prior_precision=1.0)
        search = GridSearchCV(clf, {"feature_extractor": variants}, scoring="neg_log_loss", cv=2)
        search.fit(X, self.LABELS)
        assert len(set(search.cv_results_["mean_test_score"])) == 4
        parameters = clf.set_params(feature_extractor=variants[3]).get_params()
        assert parameters["feature_extractor__feature_extractor"] is variants[3].feature_extractor
