import inspect
from collections import UserDict

import dask.array as da
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.inputs.blocks import (
    blocks_of,
    comes_in_blocks,
    concatenated,
    is_stream,
    n_rows,
    rows_at,
)

X = np.random.default_rng(0).normal(size=(9000, 3))
y = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.5)
METHODS = [
    "decision_function",
    "latent_mean_and_variance",
    "predict",
    "predict_log_proba",
    "predict_proba",
    "predict_uncertainty",
    "transform",
]


@pytest.fixture
def memmap(tmp_path):
    np.save(tmp_path / "X.npy", X)
    return np.load(tmp_path / "X.npy", mmap_mode="r")


class Rows(IterableDataset):
    def __iter__(self):
        return iter(torch.tensor(X))


def streams():
    return {
        "generator": (X[start : start + 2000] for start in range(0, 9000, 2000)),
        "iterator over a list": iter([X[:1], X[1:1], X[1:]]),
        "tensors": iter([torch.tensor(X[:100]), torch.tensor(X[100:])]),
        "pairs of a DataLoader": DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), 999),
        "IterableDataset": DataLoader(Rows(), 2048),
        "Dask array": da.from_array(X, chunks=(3000, 2)),
    }


@pytest.mark.parametrize("name", streams())
def test_streams_give_all_rows_in_their_order(name):
    stream = streams()[name]
    assert is_stream(stream)
    assert comes_in_blocks(stream)
    np.testing.assert_array_equal(np.concatenate(list(blocks_of(stream))), X)


@pytest.mark.parametrize(
    "inputs",
    [X, X.tolist(), pd.DataFrame(X), torch.tensor(X), ["a"], sparse.coo_array(X), range(3), "ab"],
    ids=lambda inputs: type(inputs).__name__,
)
def test_what_can_be_indexed_is_no_stream(inputs):
    assert not is_stream(inputs)
    assert not comes_in_blocks(inputs)


def test_long_memory_maps_are_read_in_blocks(memmap):
    assert not is_stream(memmap)
    assert comes_in_blocks(memmap)
    assert not comes_in_blocks(memmap[:4096])
    parts = list(blocks_of(memmap))
    assert {type(part) for part in parts} == {np.ndarray}
    assert max(len(part) for part in parts) <= 4096
    np.testing.assert_array_equal(np.concatenate(parts), X)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("predictive", ["mean_field", "monte_carlo"])
def test_methods_of_the_classifier(method, predictive, memmap):
    clf = LaplaceUpdateClassifier(predictive=predictive, n_samples=9).fit(X[:50], y[:50])
    expected = getattr(clf, method)(X)
    for stream in (*streams().values(), memmap):
        np.testing.assert_allclose(getattr(clf, method)(stream), expected, rtol=1e-9, atol=1e-14)


def test_score_of_a_memory_map(memmap):
    clf = LaplaceUpdateClassifier().fit(X[:50], y[:50])
    assert clf.score(memmap, y) == clf.score(X, y)


def test_features_of_images_in_blocks():
    images = np.random.default_rng(1).normal(size=(50, 1, 4, 4)).astype(np.float32)
    features = TorchFeatures(nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2)))
    expected = features.fit_transform(images)
    for stream in (iter([images[:20], images[20:]]), DataLoader(torch.tensor(images), 13)):
        np.testing.assert_allclose(features.transform(stream), expected, rtol=1e-5)


def test_half_precision_batches_become_float32():
    (block,) = blocks_of(iter([torch.ones(2, 1, dtype=torch.bfloat16)]))
    assert block.dtype == np.float32


def test_names_of_columns_are_checked_in_every_block():
    frame = pd.DataFrame(X[:60], columns=list("abc"))
    clf = LaplaceUpdateClassifier().fit(frame, y[:60])
    expected = clf.predict_proba(frame)
    found = clf.predict_proba(iter([frame[:20], frame[20:]]))
    np.testing.assert_allclose(found, expected)
    with pytest.raises(ValueError, match="feature names"):
        clf.predict_proba(iter([frame[:20], frame[20:].rename(columns={"a": "z"})]))


class Backwards(Sampler):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(range(len(self.rows) - 1, -1, -1))

    def __len__(self):
        return len(self.rows)


class Pairs(BatchSampler):
    """Batches of an order of its own, over a sampler that keeps the rows'."""

    def __iter__(self):
        return iter([[1, 0], [3, 2]])


ROWS = torch.tensor(X[:20])
IN_ORDER = SequentialSampler(ROWS)


@pytest.mark.parametrize(
    ("kwargs", "name"),
    [
        ({"shuffle": True}, "RandomSampler"),
        ({"sampler": RandomSampler(ROWS)}, "RandomSampler"),
        ({"sampler": RandomSampler(ROWS), "batch_size": None}, "RandomSampler"),
        ({"sampler": Backwards(ROWS)}, "Backwards"),
        ({"sampler": SubsetRandomSampler(range(9))}, "SubsetRandomSampler"),
        ({"sampler": WeightedRandomSampler(torch.ones(20), 20)}, "WeightedRandomSampler"),
        ({"sampler": DistributedSampler(ROWS, 2, 1, shuffle=False)}, "DistributedSampler"),
        ({"sampler": [3, 1]}, "list"),
        ({"batch_sampler": BatchSampler(RandomSampler(ROWS), 4, True)}, "RandomSampler"),
        ({"batch_sampler": BatchSampler(Backwards(ROWS), 4, False)}, "Backwards"),
        ({"batch_sampler": Pairs(IN_ORDER, 2, False)}, "Pairs"),
        ({"batch_sampler": [[3, 1], [0]]}, "list"),
    ],
)
def test_a_loader_that_shuffles_is_refused(kwargs, name):
    with pytest.raises(ValueError, match=f"draws by {name}. Use shuffle=False"):
        next(blocks_of(DataLoader(ROWS, **kwargs)))


@pytest.mark.parametrize(
    "kwargs",
    [
        {"sampler": IN_ORDER},
        {"batch_sampler": BatchSampler(IN_ORDER, 7, False)},
        {"sampler": BatchSampler(IN_ORDER, 7, False), "batch_size": None},
    ],
)
def test_a_loader_in_order_is_read_however_it_is_made(kwargs):
    blocks = list(blocks_of(DataLoader(ROWS, **kwargs)))
    np.testing.assert_array_equal(np.concatenate(blocks), X[:20])


@pytest.mark.parametrize(
    "kwargs",
    [
        {"batch_size": 7, "drop_last": True},
        {"batch_sampler": BatchSampler(IN_ORDER, 7, True)},
        {"sampler": BatchSampler(IN_ORDER, 7, True), "batch_size": None},
    ],
)
def test_a_loader_that_drops_rows_is_refused(kwargs):
    with pytest.raises(ValueError, match="drop_last=True leaves rows out"):
        next(blocks_of(DataLoader(ROWS, **kwargs)))


def test_an_iterable_that_drops_rows_is_refused():
    with pytest.raises(ValueError, match="drop_last=True leaves rows out"):
        next(blocks_of(DataLoader(Rows(), 7, drop_last=True)))


@pytest.mark.skipif(
    "in_order" not in inspect.signature(DataLoader).parameters, reason="comes with torch 2.6"
)
def test_a_loader_that_does_not_wait_for_the_next_batch_is_refused():
    with pytest.raises(ValueError, match="Use in_order=True"):
        next(blocks_of(DataLoader(ROWS, num_workers=2, in_order=False)))


@pytest.mark.parametrize("block", [object(), 1.0])
def test_a_block_without_rows_is_refused(block):
    with pytest.raises(TypeError, match=r"must be an array-like of rows; got (object|float)"):
        next(blocks_of(iter([block])))


def test_a_stream_that_is_used_up_is_refused():
    clf, stream = LaplaceUpdateClassifier().fit(X[:50], y[:50]), iter([X[:9]])
    clf.predict(stream)
    with pytest.raises(ValueError, match="X has no rows: list_iterator gave no block"):
        clf.predict(stream)


@pytest.mark.parametrize(
    "kind", [np.asarray, np.ndarray.tolist, pd.DataFrame, pl.DataFrame, sparse.csr_array], ids=str
)
def test_concatenated_rows_are_of_their_kind(kind):
    whole = concatenated([kind(X[:2]), kind(X[2:5])])
    assert type(whole) is type(kind(X[:5]))
    dense = whole.toarray() if sparse.issparse(whole) else whole
    np.testing.assert_array_equal(dense, X[:5])


@pytest.mark.parametrize("kind", [torch.from_numpy, lambda rows: pl.Series(rows[:, 0])])
def test_concatenated_rows_that_numpy_takes_are_an_array(kind):
    whole = concatenated([kind(X[:2]), kind(X[2:5])])
    np.testing.assert_array_equal(whole, np.asarray(kind(X[:5])), strict=True)


def test_concatenated_rows_by_name():
    whole = concatenated([{"ids": X[:2], "texts": ["a", "b"]}, {"ids": X[2:5], "texts": ["c"] * 3}])
    np.testing.assert_array_equal(whole["ids"], X[:5])
    assert whole["texts"] == ["a", "b", "c", "c", "c"]


@pytest.mark.parametrize(
    "kind",
    [np.asarray, np.ndarray.tolist, pd.DataFrame, lambda rows: UserDict(a=rows, b=rows.tolist())],
)
def test_some_rows(kind):
    some = rows_at(kind(X), slice(3, 7))
    assert n_rows(kind(X)) == len(X)
    assert n_rows(some) == 4
    for rows in some.values() if isinstance(some, dict) else [some]:
        np.testing.assert_array_equal(rows, X[3:7])


def test_blocks_by_name():
    blocks = [{"a": X[:2]}, {"a": X[:0]}, {"a": X[2:5]}]
    assert [n_rows(block) for block in blocks_of(iter(blocks))] == [2, 3]


def test_rows_of_an_unknown_kind_are_refused():
    with pytest.raises(TypeError, match=r"must be arrays, lists, frames.*got str"):
        concatenated(["a", "b"])


@pytest.mark.parametrize("method", ["fit", "partial_fit", "newton_decrement", "pool_state"])
@pytest.mark.parametrize("extractor", [None, np.tanh, nn.Linear(3, 3).double()])
@pytest.mark.parametrize("kind", ["iterator", "DataLoader", "Dataset"])
def test_what_comes_in_blocks_is_refused_where_all_is_needed(method, extractor, kind):
    clf = LaplaceUpdateClassifier(extractor).fit(X[:50], y[:50])
    instances = TensorDataset(torch.from_numpy(X))
    given = {"iterator": iter([X]), "DataLoader": DataLoader(instances), "Dataset": instances}[kind]
    labels = () if method == "pool_state" else (y,)
    with pytest.raises(TypeError, match=r"X must be whole.* partial_fit with one block after"):
        getattr(clf, method)(given, *labels)


class InFile:
    """An array in a file, of which there are slices and nothing else."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        assert rows.step in (None, 1)
        return self.values[rows]


def hdf5(values, folder):
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "X.h5", "w").create_dataset("X", data=values)


def arrow(values, _):
    return pytest.importorskip("pyarrow").array(values[:, 0])


CONTAINERS = {
    "array": lambda values, _: values,
    "array in a file": lambda values, _: InFile(values),
    "HDF5": hdf5,
    "tensor": lambda values, _: torch.tensor(values),
    "list": lambda values, _: values.tolist(),
    "pandas": lambda values, _: pd.DataFrame(values),
    "polars": lambda values, _: pl.DataFrame(values),
    "polars column": lambda values, _: pl.Series(values[:, 0]),
    "sparse": lambda values, _: sparse.csr_array(values),
    "Arrow": arrow,
}


@pytest.mark.parametrize("kind", CONTAINERS)
@pytest.mark.parametrize(
    "positions",
    [
        [3],
        [7, 2, 2, 5, 3],
        list(range(5)),
        [8, 0],
        [],
        np.array([4, 1, 0]),
        np.array([-1, 2]),
        slice(2, 5),
        slice(7, 99),
    ],
    ids=str,
)
def test_rows_at_positions(kind, positions, tmp_path):
    values = X[:9]
    container = CONTAINERS[kind](values, tmp_path)
    rows = rows_at(container, positions)
    rows = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    chosen = np.asarray(positions, int) if isinstance(positions, list) else positions
    expected = values[chosen]
    if kind in ("polars column", "Arrow"):
        expected = expected[:, 0]
    np.testing.assert_array_equal(rows.reshape(expected.shape), expected)
