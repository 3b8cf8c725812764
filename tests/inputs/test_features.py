"""What the features of an extractor are, and that it stays as it is."""

import copy
import pickle
import sys
import threading

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetClassifier
from torch import nn
from torch.utils import data

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, TorchFeatures
from laplace_al.strategies import CoreSet, MarginSampling

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 4))
IMAGES = rng.normal(size=(10, 1, 8, 8)).astype(np.float32)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)
    )


@pytest.fixture
def convolutional():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 5), nn.ReLU(), nn.Linear(5, 3)
    )


def by_hand(network, X, n_layers):
    """Output of the first layers of a sequential network in eval mode."""
    twin = copy.deepcopy(network)[:n_layers].eval()
    with torch.no_grad():
        return twin(torch.from_numpy(X).float()).numpy()


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


class OutOfOrder(nn.Module):
    """Registers its layers in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 3)
        self.body = nn.Linear(4, 6)
        self.unused = nn.Linear(9, 9)

    def forward(self, inputs):
        return self.head(input=torch.tanh(self.body(inputs)))


class RowByRow(data.Dataset):
    """Takes no slices."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        if i >= len(X):
            raise IndexError(i)
        return torch.from_numpy(X[i])


class ClearsUp(nn.Module):
    """Reuses the memory of what its head has read."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, inputs):
        hidden = torch.tanh(self.body(inputs))
        outputs = self.head(hidden)
        hidden.mul_(0)
        return outputs


class TestWhatTheFeaturesAre:
    def test_the_input_of_the_last_linear(self, network):
        features = TorchFeatures(network).fit(X)
        assert features.layer_ == "4"
        np.testing.assert_allclose(features.transform(X), by_hand(network, X, 4), rtol=1e-6)

    def test_the_last_linear_is_the_one_called_last(self):
        module = OutOfOrder()
        features = TorchFeatures(module).fit(X)
        assert features.layer_ == "head"
        body = torch.tanh(module.body(torch.from_numpy(X).float())).detach()
        np.testing.assert_allclose(features.transform(X), body, rtol=1e-6)

    def test_the_output_of_a_module_without_a_head(self, network):
        network[4] = nn.Identity()
        for layer in (None, ""):
            features = TorchFeatures(network, layer=layer).fit(X)
            assert features.layer_ == ""
            np.testing.assert_allclose(features.transform(X), by_hand(network, X, 5), rtol=1e-6)

    def test_the_output_of_a_module_with_a_head(self, network):
        features = TorchFeatures(network, layer="").fit_transform(X)
        np.testing.assert_allclose(features, by_hand(network, X, 5), rtol=1e-6)
        linear = nn.Linear(4, 2)
        np.testing.assert_allclose(TorchFeatures(linear).fit_transform(X), X, rtol=1e-6)
        features = TorchFeatures(linear, layer="").fit_transform(X)
        np.testing.assert_allclose(
            features, linear(torch.from_numpy(X).float()).detach(), rtol=1e-6
        )

    def test_a_compiled_module(self, network):
        expected = by_hand(network, X, 4)
        compiled = torch.compile(network, backend="eager")
        compiled.eval()(torch.ones(2, 4))
        features = TorchFeatures(compiled).fit(X)
        assert features.layer_ == "_orig_mod.4"
        np.testing.assert_allclose(features.transform(X), expected, rtol=1e-6)

    def test_a_module_that_is_spread_over_devices(self, network, monkeypatch):
        parallel = sys.modules[nn.DataParallel.__module__]  # its name is that of a function, too
        # other tests may have simulated a device
        monkeypatch.setattr(parallel, "_get_available_device_type", lambda: None)
        features = TorchFeatures(nn.DataParallel(network)).fit(X)
        assert features.layer_ == "module.4"
        np.testing.assert_allclose(features.transform(X), by_hand(network, X, 4), rtol=1e-6)

    def test_the_output_of_a_named_layer(self, network):
        features = TorchFeatures(network, layer="0").fit(X)
        np.testing.assert_allclose(features.transform(X), by_hand(network, X, 1), rtol=1e-6)

    def test_the_output_of_a_layer_before_one_that_works_in_place(self):
        module = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))
        features = TorchFeatures(module, layer="0").fit_transform(X)
        np.testing.assert_allclose(features, by_hand(module, X, 1), rtol=1e-6)
        assert (features < 0).any()

    def test_the_input_of_a_head_that_is_overwritten_later(self):
        module = ClearsUp()
        body = torch.tanh(module.body(torch.from_numpy(X).float())).detach()
        np.testing.assert_allclose(TorchFeatures(module).fit_transform(X), body, rtol=1e-6)

    def test_images(self, convolutional):
        features = TorchFeatures(convolutional).fit_transform(IMAGES)
        np.testing.assert_allclose(features, by_hand(convolutional, IMAGES, 5), rtol=1e-5)

    def test_a_fitted_skorch_net(self, network):
        net = NeuralNetClassifier(network, criterion=nn.CrossEntropyLoss, verbose=0, max_epochs=1)
        net.fit(X.astype(np.float32), np.arange(20) % 3)
        features = TorchFeatures(net).fit_transform(X)
        np.testing.assert_allclose(features, by_hand(net.module_, X, 4), rtol=1e-6)

    def test_a_fitted_transformer(self):
        pca = PCA(2).fit(X)
        np.testing.assert_array_equal(TorchFeatures(pca).fit_transform(X), pca.transform(X))

    def test_a_callable_on_text(self):
        def encode(texts):
            return torch.tensor([[len(text), text.count("a")] for text in texts])

        features = TorchFeatures(encode, batch_size=2).fit_transform(["a", "banana", "cherry"])
        np.testing.assert_array_equal(features, [[1, 1], [6, 3], [6, 0]])

    def test_sparse_features_become_dense(self):
        texts = ["red apple", "green apple", "green tea"]
        vectorizer = TfidfVectorizer().fit(texts)
        features = TorchFeatures(vectorizer).fit_transform(texts)
        np.testing.assert_array_equal(features, vectorizer.transform(texts).toarray())

    def test_a_callable_on_a_dataset(self):
        features = TorchFeatures(torch.stack, batch_size=7).fit_transform(RowByRow())
        np.testing.assert_array_equal(features, X)
        learner = ActiveLearner(
            LaplaceUpdateClassifier(torch.stack), MarginSampling(), RowByRow(), random_state=0
        )
        twin = ActiveLearner(LaplaceUpdateClassifier(), MarginSampling(), X, random_state=0)
        for each in (learner, twin):
            each.teach([0, 19], [0, 1])
        np.testing.assert_array_equal(learner.query(3), twin.query(3))

    @pytest.mark.parametrize("indices", [[4, 0, 2], range(3)])
    def test_a_callable_on_a_subset_of_paths(self, indices):
        paths = [f"{i}.png" for i in range(5)]
        features = TorchFeatures(lambda batch: np.array([[int(path[0])] for path in batch]))
        numbers = features.fit_transform(data.Subset(paths, indices))
        np.testing.assert_array_equal(numbers[:, 0], indices)
        assert features.transform(data.Subset(paths, indices[:1])).shape == (1, 1)

    @pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
    def test_a_callable_that_reuses_its_memory(self, kind):
        weights, memory = rng.normal(size=(4, 3)), np.empty((7, 3))

        def project(batch):
            return kind(np.dot(batch, weights, out=memory[: len(batch)]))

        features = TorchFeatures(project, batch_size=7).fit_transform(X)
        np.testing.assert_allclose(features, X @ weights)

    def test_the_widest_dtype_of_all_batches(self):
        def extract(batch):
            return batch.astype(np.float64 if X[8, 0] in batch else np.float32)

        features = TorchFeatures(extract, batch_size=7).fit_transform(X)
        assert features.dtype == np.float64
        np.testing.assert_array_equal(features[7:14], X[7:14])
        np.testing.assert_array_equal(features[14:], X[14:].astype(np.float32))

    @pytest.mark.parametrize("batch_size", [1, 7, 20, 100])
    def test_batches_change_nothing(self, network, batch_size):
        whole = TorchFeatures(network).fit_transform(X)
        batched = TorchFeatures(network, batch_size=batch_size).fit_transform(X)
        np.testing.assert_allclose(batched, whole, rtol=1e-5, atol=1e-7)


class TestFrozen:
    def test_nothing_of_the_module_changes(self, network):
        network.train()
        network[1].eval()  # a user's own frozen batch norm
        before, flags = state(network), [module.training for module in network.modules()]
        TorchFeatures(network).fit(X).transform(X)
        assert [module.training for module in network.modules()] == flags
        assert all(torch.equal(before[name], value) for name, value in state(network).items())
        assert all(parameter.requires_grad for parameter in network.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())

    def test_an_error_inside_the_module_restores_the_flags(self, network):
        network.train()
        features = TorchFeatures(network).fit(X)
        network.append(nn.Linear(7, 7))
        with pytest.raises(RuntimeError):
            features.transform(X)
        assert all(module.training for module in network.modules())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())

    def test_the_data_stays_as_it_is(self, network):
        frozen = X.copy()
        frozen.flags.writeable = False
        TorchFeatures(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))).fit_transform(frozen)
        np.testing.assert_array_equal(frozen, X)

    def test_no_gradients(self):
        seen = []

        def extract(batch):
            seen.append(torch.is_grad_enabled())
            return batch

        TorchFeatures(extract).fit_transform(X)
        assert not any(seen)

    def test_copies_share_the_module(self, network):
        features = TorchFeatures(network, layer="0").fit(X)
        for twin in (clone(features), copy.deepcopy(features)):
            assert twin.feature_extractor is network
            assert twin.layer == "0"
        assert not hasattr(clone(features), "layer_")
        assert copy.deepcopy(features).layer_ == "0"

    def test_clones_keep_the_output_container(self, network):
        features = TorchFeatures(network).set_output(transform="pandas")
        assert isinstance(clone(features).fit_transform(X), pd.DataFrame)

    def test_a_pickle_predicts_the_same(self, network):
        features = TorchFeatures(network).fit(X)
        twin = pickle.loads(pickle.dumps(features))
        np.testing.assert_array_equal(twin.transform(X), features.transform(X))

    def test_others_see_what_fit_finds_at_its_end_and_what_they_set_stays(self):
        seen = []

        def extract(batch):
            seen.append(getattr(features, "n_features_in_", None))
            features.set_params(batch_size=10 + len(seen))
            return batch

        features = TorchFeatures(extract)
        features.fit(pd.DataFrame(X, columns=[*"abcd"])).fit(X[:, :3])
        assert seen == [None, 4]
        assert (features.n_features_in_, features.batch_size) == (3, 12)
        assert not hasattr(features, "feature_names_in_")

    def test_threads_see_only_their_own_features(self, network):
        features = TorchFeatures(network, batch_size=1).fit(X)
        expected, wrong = features.transform(X), []

        def work(rows):
            for _ in range(20):
                if not np.array_equal(features.transform(X[rows]), expected[rows]):
                    wrong.append(rows)

        threads = [threading.Thread(target=work, args=[slice(i, i + 5)]) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


class TestTransformer:
    def test_names_of_the_features(self, network):
        names = TorchFeatures(network).fit(X).get_feature_names_out()
        assert names.tolist() == [f"torchfeatures{i}" for i in range(6)]

    @pytest.mark.parametrize(
        ("kind", "frame"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)]
    )
    def test_set_output(self, network, kind, frame):
        features = TorchFeatures(network).set_output(transform=kind).fit_transform(X)
        assert isinstance(features, frame)
        assert features.shape == (20, 6)

    def test_progress_only_when_verbose(self, network, capsys):
        TorchFeatures(network).fit_transform(X)
        assert capsys.readouterr().err == ""
        TorchFeatures(network, verbose=1).fit_transform(X)
        assert "features: 100%" in capsys.readouterr().err

    def test_a_grid_search_over_layers(self, network):
        pipeline = make_pipeline(TorchFeatures(network), LaplaceUpdateClassifier())
        search = GridSearchCV(pipeline, {"torchfeatures__layer": ["0", None]}, cv=2)
        search.fit(X, np.arange(20) % 2)
        assert search.best_estimator_[0].feature_extractor is network


class TestErrors:
    def test_a_layer_that_does_not_exist(self, network):
        with pytest.raises(
            ValueError, match=r"layer='fc' is not a layer .* \['0', '1', '2', '3', '4'\]"
        ):
            TorchFeatures(network, layer="fc").fit(X)

    def test_a_layer_that_is_not_called(self):
        with pytest.raises(ValueError, match="layer='unused' is not called when OutOfOrder runs"):
            TorchFeatures(OutOfOrder(), layer="unused").fit(X)

    def test_a_module_whose_head_is_no_linear_layer(self):
        module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        with pytest.raises(ValueError, match=r"'0' as its head.*layer=.* one of \['0', '1', '2'\]"):
            TorchFeatures(module).fit(IMAGES)

    def test_a_module_whose_layers_have_no_weights_yet(self):
        module = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))
        with pytest.raises(ValueError, match=r"lazy layers without weights\. Train it, or run it"):
            TorchFeatures(module).fit(X)
        module(torch.from_numpy(X).float())
        assert TorchFeatures(module).fit_transform(X).shape == (20, 8)

    @pytest.mark.parametrize(
        ("extractor", "shape"),
        [(lambda X: X[:, 0], r"\(2,\)"), (lambda X: X[:, None], r"\(2, 1, 4\)")],
    )
    def test_features_that_are_not_two_dimensional(self, extractor, shape):
        with pytest.raises(ValueError, match=rf"one row of features per input.* got shape {shape}"):
            TorchFeatures(extractor).fit(X)

    def test_features_of_a_convolution(self, convolutional):
        with pytest.raises(ValueError, match=r"got shape \(2, 2, 6, 6\).*nn.Flatten"):
            TorchFeatures(convolutional, layer="0").fit(IMAGES)

    def test_a_layer_that_returns_a_tuple(self):
        module = nn.Sequential(nn.LSTM(4, 3))
        with pytest.raises(ValueError, match=r"one array of shape .* got tuple"):
            TorchFeatures(module, layer="0").fit(X)

    def test_too_few_rows(self):
        features = TorchFeatures(lambda X: X[:2]).fit(X)
        with pytest.raises(ValueError, match=r"shape \(20, D\); got shape \(2, 4\)"):
            features.transform(X)

    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_features_that_are_not_finite(self, wrong):
        def extract(batch):
            return np.where(batch == X[13, :1], wrong, batch)

        features = TorchFeatures(extract, batch_size=4).fit(X)
        with pytest.raises(
            ValueError, match=r"NaN or infinity for 1 of 4 inputs, the first at row 13"
        ):
            features.transform(X)

    def test_numbers_wider_than_torch_has(self):
        clf = LaplaceUpdateClassifier(lambda rows: np.asarray(rows, np.longdouble))
        assert clf.fit(X, [0, 1] * 10).predict_proba(X).shape == (20, 2)

    def test_a_width_that_varies_between_batches(self):
        features = TorchFeatures(lambda X: X[:, : len(X)], batch_size=3).fit(X)
        with pytest.raises(ValueError, match=r"varying number of features: \[2, 3\]"):
            features.transform(X)

    def test_a_width_that_differs_from_fit(self):
        features = TorchFeatures(lambda X: X[:, : len(X)]).fit(X)
        with pytest.raises(ValueError, match="returned 3 features, but 2 when it was fitted"):
            features.transform(X[:3])

    @pytest.mark.parametrize("wrong", [None, 3, "resnet", X])
    def test_what_is_no_extractor(self, wrong):
        with pytest.raises(TypeError, match=r"feature_extractor must be .*; got"):
            TorchFeatures(wrong).fit(X)

    @pytest.mark.parametrize("wrong", [nn.Linear, PCA])
    def test_a_class_instead_of_an_object(self, wrong):
        with pytest.raises(TypeError, match=f"got the class {wrong.__name__}. Pass an instance"):
            TorchFeatures(wrong).fit(X)

    def test_a_skorch_net_that_is_not_fitted(self, network):
        with pytest.raises(
            ValueError, match=r"NeuralNetClassifier that is not fitted. Call its fit"
        ):
            TorchFeatures(NeuralNetClassifier(network)).fit(X)

    @pytest.mark.parametrize("make", [LaplaceUpdateClassifier, TorchFeatures])
    @pytest.mark.parametrize("wrong", [PCA(2), PCA(2).transform])
    def test_a_transformer_that_is_not_fitted(self, make, wrong):
        with pytest.raises(
            ValueError, match=rf"must be fitted, .* got {type(wrong).__name__}, which is not. Call"
        ) as caught:
            make(wrong).fit(X, np.arange(20) % 2)
        assert not isinstance(caught.value, NotFittedError)
        assert isinstance(caught.value.__cause__, NotFittedError)

    def test_a_query_does_not_take_an_unfitted_extractor_for_an_unfitted_estimator(self):
        learner = ActiveLearner(LaplaceUpdateClassifier(PCA(2)), CoreSet(random_state=0), X)
        with pytest.raises(ValueError, match="feature_extractor must be fitted"):
            learner.query(3)

    def test_a_layer_of_something_without_layers(self):
        with pytest.raises(ValueError, match=r"layer='0' needs .* an nn.Module or a skorch net"):
            TorchFeatures(np.square, layer="0").fit(X)

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            (np.full((3, 4), np.nan), "Input X contains NaN"),
            (X[:0], "minimum of 1 is required"),
            (X[0], "Expected 2D array, got 1D array"),
            ([["a", "b"]], "not compatible with arrays of bytes/strings"),
            (["a", "b"], "X holds texts, but a module, here Sequential, takes numbers. Pass a"),
            (pd.Series(["a"], index=[7]), "X holds texts, but a module, here Sequential"),
        ],
    )
    def test_inputs_that_no_module_takes(self, network, inputs, message):
        with pytest.raises(ValueError, match=message):
            TorchFeatures(network).fit(inputs)

    @pytest.mark.parametrize("of_network", [True, False])
    def test_masked_values(self, network, of_network):
        features = TorchFeatures(network if of_network else np.square).fit(np.ma.array(X))
        masked = np.ma.masked_greater(X, X[0, 0] - 1e-9)
        for call in (features.fit, features.transform):
            for inputs in (masked, list(masked)):
                with pytest.raises(ValueError, match=r"X has masked values, .*X.filled\(value\)"):
                    call(inputs)

    def test_sparse_inputs(self, network):
        with pytest.raises(TypeError, match="dense data is required"):
            TorchFeatures(network).fit(csr_matrix(X))

    def test_another_number_of_columns(self, network):
        features = TorchFeatures(network).fit(X)
        with pytest.raises(ValueError, match="X has 3 features, but TorchFeatures is expecting 4"):
            features.transform(X[:, :3])

    def test_a_failed_fit_leaves_the_object_as_it_was(self, network):
        features = TorchFeatures(network).fit(X)
        before = dict(vars(features))
        for wrong in (X[:, :3], np.full((3, 4), np.nan)):
            with pytest.raises((ValueError, RuntimeError)):
                features.fit(wrong)
            assert vars(features) == before

    @pytest.mark.parametrize("params", [{"batch_size": 0}, {"batch_size": 1.5}, {"layer": 3}])
    def test_wrong_parameters(self, network, params):
        with pytest.raises(ValueError, match=f"'{next(iter(params))}' parameter of TorchFeatures"):
            TorchFeatures(network, **params).fit(X)
