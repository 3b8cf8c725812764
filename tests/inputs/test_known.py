"""Features that are known, kept, or computed before a fit."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.inputs.known import Extracted, FeatureCache, features_of

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 4))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)
    )


class TestExtracted:
    @pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
    def test_features_stand_for_their_inputs(self, network, kind):
        labels = np.arange(20) % 3
        clf = LaplaceUpdateClassifier(network).fit(X, labels)
        features = clf.transform(X)
        known = Extracted(kind(features))
        pool = clf.pool_state(known)  # which computes in the float32 of the network
        np.testing.assert_allclose(pool.predict_proba(), clf.predict_proba(X), rtol=1e-5)
        twin = copy.deepcopy(clf).partial_fit(X[:3], labels[:3])
        np.testing.assert_array_equal(
            clf.partial_fit(Extracted(features[:3]), labels[:3]).predict_proba(X),
            twin.predict_proba(X),
        )
        np.testing.assert_array_equal(
            clf.fit(Extracted(features), labels).predict_proba(X),
            twin.fit(X, labels).predict_proba(X),
        )
        assert clf.n_features_in_ == 4
        assert len(known) == 20


class TestFeaturesOf:
    @pytest.mark.parametrize("extractor", [None, np.square])
    def test_masked_values(self, extractor):
        with pytest.raises(ValueError, match="X has masked values, 1 of 2"):
            features_of(extractor, np.ma.array([[1.0, 2.0]], mask=[[False, True]]))

    def test_no_extractor(self):
        assert features_of(None, X) is X
        assert features_of(None, X.astype(np.float32).tolist()).dtype == np.float64
        with pytest.raises(ValueError, match="NaN"):
            features_of(None, [[np.nan]])

    def test_the_same_as_those_of_a_fitted_classifier(self, network):
        for extractor in (network, TorchFeatures(network, layer="0"), np.square):
            fitted = LaplaceUpdateClassifier(extractor).fit(X, np.arange(20) % 3)
            np.testing.assert_array_equal(features_of(extractor, X), fitted.transform(X))


class Transformer:
    def __init__(self, transform):
        self.transform = transform


class TestKeptFeatures:
    @pytest.mark.parametrize("kind", [np.array, np.ndarray.tolist, pd.DataFrame])
    def test_each_object_is_extracted_once(self, kind):
        rows = np.arange(12.0).reshape(6, 2)
        first, second, third = (kind(rows[i : i + 2]) for i in (0, 2, 4))
        passes = []

        def transform(X):
            passes.append(len(X))
            return np.asarray(X) ** 2

        kept = FeatureCache()
        for inputs in ([first], [second, first, third], [third]):
            for X, features in zip(inputs, kept.of(inputs, Transformer(transform)), strict=True):
                np.testing.assert_array_equal(features, np.asarray(X) ** 2)
        assert passes == [2, 4]

    def test_another_object_is_extracted_though_it_is_equal(self):
        kept, X, passes = FeatureCache(), np.ones((2, 1)), []
        for inputs in (X, X.copy()):
            kept.of([inputs], Transformer(lambda X: passes.append(len(X)) or X))
        assert passes == [2, 2]

    def test_a_copy_knows_nothing(self):
        kept, X = FeatureCache(), np.ones((2, 1))
        kept.of([X], Transformer(np.square))
        for twin in (copy.deepcopy(kept), pickle.loads(pickle.dumps(kept))):
            np.testing.assert_array_equal(twin.of([X], Transformer(np.negative))[0], -X)

    def test_features_of_another_network_are_forgotten(self):
        kept, X = FeatureCache(), np.ones((2, 1))
        for network, scale in (("one", 2), ("other", 3), ("one", 4)):
            transformer = Transformer(lambda X, scale=scale: scale * X)
            transformer.extractor_ = TorchFeatures(network)
            for _ in range(2):
                np.testing.assert_array_equal(kept.of([X], transformer)[0], scale * X)
