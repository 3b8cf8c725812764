import copy

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNetBinaryClassifier, NeuralNetClassifier
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.strategies import MarginSampling

X, y = load_iris(return_X_y=True)
X, y = X.astype(np.float32), y.astype(np.int64)
PLUG_IN = {"predictive": "plug_in", "calibration": None}


def make_net(n_outputs=3, kind=NeuralNetClassifier, **kwargs):
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, n_outputs)
    )
    settings = {"max_epochs": 3, "train_split": None, "verbose": 0} | kwargs
    return kind(module, **settings)


def frozen(net):
    """All that a net could lose."""
    return copy.deepcopy(net.module_.state_dict()), net.module_.training, dict(vars(net))


def assert_unchanged(net, before):
    weights, training, attributes = before
    assert net.module_.training == training
    assert vars(net) == attributes
    for name, value in net.module_.state_dict().items():
        assert torch.equal(value, weights[name])


@pytest.fixture(scope="module")
def net():
    return make_net(criterion=nn.CrossEntropyLoss).fit(X, y)


@pytest.fixture(scope="module")
def trained():
    return make_pipeline(StandardScaler(), make_net(criterion=nn.CrossEntropyLoss)).fit(X, y)


class TestPretrainedHead:
    def test_it_predicts_what_the_net_does(self, net):
        expected, before = net.predict_proba(X), frozen(net)
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLUG_IN).fit(X, y)
        np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-6)
        np.testing.assert_array_equal(clf.predict(X), expected.argmax(axis=1))
        assert_unchanged(net, before)

    def test_updates_learn_and_leave_the_net_alone(self, net):
        expected, before = net.predict_proba(X), frozen(net)
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLUG_IN).fit(X, y)
        wrong = expected[0].argmin()
        clf.partial_fit(X[:1], [wrong])
        assert clf.predict_proba(X[:1])[0, wrong] > expected[0, wrong] + 0.01
        assert not np.allclose(clf.predict_proba(X), expected, atol=1e-3)
        np.testing.assert_array_equal(net.predict_proba(X), expected)
        assert_unchanged(net, before)

    def test_two_classes_with_one_output(self):
        A, b = X[y < 2], y[y < 2]
        net = make_net(1, NeuralNetBinaryClassifier).fit(A, b.astype(np.float32))
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLUG_IN).fit(A, b)
        np.testing.assert_allclose(clf.predict_proba(A), net.predict_proba(A), atol=1e-6)

    def test_text_labels(self):
        names = np.array(["b", "a", "c"])[y]
        net = make_net(criterion=nn.CrossEntropyLoss).fit(
            X, np.unique(names, return_inverse=True)[1]
        )
        clf = LaplaceUpdateClassifier(net, head="pretrained", **PLUG_IN).fit(X, names)
        np.testing.assert_array_equal(clf.predict(X), clf.classes_[net.predict(X)])


class TestPipeline:
    """A net behind a scaler: the scaler stays before our classifier, the net goes into it."""

    def test_it_predicts_what_the_pipeline_does(self, trained):
        expected, before = trained.predict_proba(X), frozen(trained[-1])
        clf = LaplaceUpdateClassifier(trained[-1], head="pretrained", **PLUG_IN)
        pipeline = make_pipeline(StandardScaler(), clf).fit(X, y)
        np.testing.assert_allclose(pipeline.predict_proba(X), expected, atol=1e-6)
        pipeline[-1].partial_fit(pipeline[:-1].transform(X[:3]), y[:3])
        assert not np.allclose(pipeline.predict_proba(X), expected, atol=1e-6)
        assert_unchanged(trained[-1], before)

    def test_as_a_whole_it_makes_no_features(self, trained):
        with pytest.raises(TypeError, match=r"an nn.Module, a fitted skorch net"):
            LaplaceUpdateClassifier(trained).fit(X, y)


def test_active_learning_on_a_net(net):
    before, accuracy = frozen(net), net.score(X, y)
    learner = ActiveLearner(
        LaplaceUpdateClassifier(net, head="pretrained", prior_precision=1.0),
        MarginSampling(),
        X,
        X_initial=X[::30],
        y_initial=y[::30],
        refit_every=None,
        random_state=0,
    )
    for _ in range(15):
        positions = learner.query(2)
        learner.teach(positions, y[positions])
    assert learner.estimator_.feature_extractor is net
    assert learner.score(X, y) > accuracy + 0.05
    assert_unchanged(net, before)
