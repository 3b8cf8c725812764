"""Features of inputs of all kinds: dtypes, frames, tokens, texts."""

import copy
from collections import UserDict

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from torch import nn
from torch.utils import data

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, TorchFeatures
from laplace_al.strategies import MarginSampling

rng = np.random.default_rng(0)
X = rng.normal(size=(20, 4))
TOKENS = rng.integers(10, size=(20, 5))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3)
    )


def by_hand(network, X, n_layers):
    """Output of the first layers of a sequential network in eval mode."""
    twin = copy.deepcopy(network)[:n_layers].eval()
    with torch.no_grad():
        return twin(torch.from_numpy(X).float()).numpy()


class TestDtypes:
    @pytest.mark.parametrize(
        "dtype", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool]
    )
    def test_inputs_are_cast_to_the_module(self, network, dtype):
        inputs = (np.abs(X) * 3).astype(dtype)
        features = TorchFeatures(network).fit_transform(inputs)
        assert features.dtype == np.float32
        np.testing.assert_allclose(features, by_hand(network, inputs, 4), rtol=1e-5)

    def test_a_double_module(self, network):
        assert TorchFeatures(network.double()).fit_transform(X).dtype == np.float64

    def test_half_precision_features_are_widened(self, network):
        assert TorchFeatures(network.bfloat16()).fit_transform(X).dtype == np.float32

    def test_tokens_stay_integers_for_an_embedding(self):
        module = nn.Sequential(nn.Embedding(10, 3), nn.Flatten(), nn.Linear(6, 2))
        tokens = rng.integers(10, size=(5, 2))
        expected = module[0](torch.from_numpy(tokens)).reshape(5, 6).detach()
        np.testing.assert_array_equal(TorchFeatures(module).fit_transform(tokens), expected)

    def test_tokens_after_another_parameter(self):
        module = nn.ModuleDict({"norm": nn.LayerNorm(3), "embedding": nn.Embedding(10, 3)})
        module.forward = lambda tokens: module["norm"](module["embedding"](tokens).mean(dim=1))
        features = TorchFeatures(module).fit(TOKENS)
        expected = module(torch.from_numpy(TOKENS)).detach()
        np.testing.assert_allclose(features.transform(TOKENS), expected, rtol=1e-6)
        np.testing.assert_allclose(features.transform(TOKENS.tolist()), expected, rtol=1e-6)

    def test_mixed_precision(self):
        module = nn.ModuleDict({"head": nn.Linear(6, 3), "body": nn.Linear(4, 6).bfloat16()})
        module.forward = lambda X: module["head"](module["body"](X).float())
        inputs = torch.from_numpy(X).bfloat16()
        expected = module["body"](inputs).float().detach()
        np.testing.assert_array_equal(TorchFeatures(module).fit_transform(X), expected)

    def test_tensors(self, network):
        expected = TorchFeatures(network).fit_transform(X)
        inputs = torch.from_numpy(X).requires_grad_()
        np.testing.assert_allclose(TorchFeatures(network).fit_transform(inputs), expected)
        assert TorchFeatures(network).fit_transform(inputs.bfloat16()).shape == expected.shape

    def test_a_read_only_memory_map(self, network, tmp_path):
        np.save(tmp_path / "X.npy", X)
        mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
        expected = TorchFeatures(network).fit_transform(X)
        np.testing.assert_array_equal(TorchFeatures(network).fit_transform(mapped), expected)

    @pytest.mark.parametrize("dtype", [">f8", ">f4", np.longdouble, ">i4", "uint32", bool])
    def test_numbers_that_torch_does_not_have(self, network, dtype):
        rows = (3 * X).astype(dtype)[::-1]
        expected = TorchFeatures(network).fit_transform(rows.astype(np.float64))
        np.testing.assert_allclose(TorchFeatures(network).fit_transform(rows), expected, rtol=1e-5)

    @pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
    def test_frames(self, network, frame):
        expected = TorchFeatures(network).fit_transform(X)
        named = frame(dict(zip("abcd", X.T, strict=True)))
        features = TorchFeatures(network, batch_size=7).fit(named)
        assert features.feature_names_in_.tolist() == list("abcd")
        np.testing.assert_allclose(features.transform(named), expected, rtol=1e-5)


class Tokenised(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask=None, scale=None):
        hidden = self.embedding(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        hidden = hidden.mean(dim=1)
        return {"logits": self.head(hidden if scale is None else hidden * scale)}


class TestArraysByName:
    BATCH = {
        "input_ids": TOKENS,
        "attention_mask": (TOKENS > 2).astype(np.int64),
        "scale": rng.normal(size=(20, 1)),
    }

    def by_hand(self, module, rows=slice(None)):
        ids, mask, scale = (torch.from_numpy(array[rows]) for array in self.BATCH.values())
        hidden = (module.embedding(ids) * mask[..., None]).mean(dim=1) * scale.float()
        return hidden.detach().numpy()

    @pytest.mark.parametrize(
        "kind",
        [
            dict,
            UserDict,
            lambda batch: {name: array.tolist() for name, array in batch.items()},
            lambda batch: {name: torch.from_numpy(array) for name, array in batch.items()},
        ],
    )
    def test_row_by_row(self, kind):
        module = Tokenised()
        features = TorchFeatures(module, batch_size=7).fit(kind(self.BATCH))
        np.testing.assert_allclose(
            features.transform(kind(self.BATCH)), self.by_hand(module), rtol=1e-6
        )

    def test_a_classifier(self):
        module, labels = Tokenised(), np.arange(20) % 3
        clf = LaplaceUpdateClassifier(module).fit(self.BATCH, labels)
        features = self.by_hand(module)
        twin = LaplaceUpdateClassifier().fit(features, labels)
        some = {name: array[:4] for name, array in self.BATCH.items()}
        for each, X_some in ((clf, some), (twin, features[:4])):
            each.partial_fit(X_some, labels[:4])
        np.testing.assert_allclose(
            clf.predict_proba(self.BATCH), twin.predict_proba(features), rtol=1e-5
        )
        assert clf.score(self.BATCH, labels) == twin.score(features, labels)
        np.testing.assert_array_equal(clf.predict(iter([some])), twin.predict(features[:4]))
        np.testing.assert_allclose(
            clf.pool_state(some).predict_proba(), twin.predict_proba(features[:4]), rtol=1e-5
        )

    def test_batches_of_a_loader(self):
        module = Tokenised()
        features = TorchFeatures(module).fit(self.BATCH)
        rows = [{name: array[i] for name, array in self.BATCH.items()} for i in range(20)]
        answers = features.transform(data.DataLoader(rows, batch_size=6))
        np.testing.assert_allclose(answers, self.by_hand(module), rtol=1e-6)

    def test_a_function_gets_slices_of_what_there_is(self):
        texts = {"title": ["a", "bb", "c"], "body": np.array(["x", "y", "zz"])}

        def encode(batch):
            lengths = [[*map(len, column)] for column in batch.values()]
            return np.array(lengths).T

        features = TorchFeatures(encode, batch_size=2).fit_transform(texts)
        np.testing.assert_array_equal(features, [[1, 1], [2, 1], [1, 2]])

    @pytest.mark.parametrize(
        ("batch", "message"),
        [
            ({}, "X must hold arrays of one length"),
            (BATCH | {"scale": np.ones((3, 1))}, "arrays of one length.*'scale': 3"),
            (
                {"input_ids": TOKENS[:0]},
                r"X\['input_ids'\] must be an array of numbers.*minimum of 1",
            ),
            ({"input_ids": [[1, 2], [3]]}, r"X\['input_ids'\] must be .*padding=True"),
            ({"input_ids": [["a"], ["b"]]}, r"X\['input_ids'\] must be an array of numbers"),
            (BATCH | {"scale": np.full((20, 1), np.nan)}, r"X\['scale'\] .* contains NaN"),
            (
                BATCH | {"token_type_ids": TOKENS},
                r"\['input_ids', .*does not take by name.*Leave out",
            ),
            ({"attention_mask": TOKENS}, "missing a required argument: 'input_ids'"),
        ],
    )
    def test_what_a_module_does_not_take(self, batch, message):
        with pytest.raises(ValueError, match=message):
            TorchFeatures(Tokenised()).fit(batch)

    def test_without_an_extractor(self):
        with pytest.raises(TypeError, match=r"got dict. Only a module .* pandas.DataFrame\(X\)"):
            LaplaceUpdateClassifier().fit({"a": [1.0, 2.0]}, [0, 1])

    def test_a_pool_of_such(self):
        with pytest.raises(TypeError, match=r"X_pool must .* got a dict.*fit_transform"):
            ActiveLearner(LaplaceUpdateClassifier(Tokenised()), MarginSampling(), self.BATCH)


class TestTexts:
    TEXTS = [f"text {'i' * (i % 7)}" for i in range(20)]

    @pytest.mark.parametrize(
        "kind",
        [
            list,
            tuple,
            np.array,
            lambda texts: np.array(texts, dtype=object),
            lambda texts: pytest.importorskip("pyarrow").array(texts),
            lambda texts: pytest.importorskip("pyarrow").chunked_array([texts[:5], texts[5:]]),
            lambda texts: pd.Series(texts, index=range(100, 120)),
            lambda texts: pd.Series(texts, index=rng.permutation(20)),
            lambda texts: pd.Series(texts, dtype="category"),
            lambda texts: pd.DataFrame({"text": texts}, index=rng.permutation(20))["text"],
            pl.Series,
        ],
    )
    def test_an_encoder_of_lists(self, kind):
        def encode(texts):
            assert type(texts) is list
            assert {*map(type, texts)} <= {str}
            return np.array([[len(texts[i]), i] for i in range(len(texts))], dtype=float)

        features = TorchFeatures(encode, batch_size=7).fit_transform(kind(self.TEXTS))
        np.testing.assert_array_equal(features[:, 0], [*map(len, self.TEXTS)])

    def test_a_transformer_gets_slices(self):
        class Transformer:
            def transform(self, texts):
                return texts.str.len().to_numpy()[:, None]

        texts = pd.Series(self.TEXTS, index=rng.permutation(20))
        features = TorchFeatures(Transformer()).fit_transform(texts)
        np.testing.assert_array_equal(features[:, 0], [*map(len, self.TEXTS)])

    def test_numbers_stay_what_they_are(self):
        numbers = pd.Series(np.arange(20.0), index=rng.permutation(20))
        features = TorchFeatures(lambda s: s.to_frame()).fit_transform(numbers)
        np.testing.assert_array_equal(features[:, 0], np.arange(20.0))
