import copy
import datetime
import functools
import pathlib
import pickle
import re
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import PIL.Image
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score, make_scorer
from sklearn.neighbors import KNeighborsTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.storage.digests import fingerprint, sample_digest
from laplace_al.strategies import MarginSampling

X = np.arange(12.0).reshape(6, 2)


DATES = pd.to_datetime(["2026-01-01 00:00", "2026-01-02 03:04", None])
OBJECTS = {
    "paths": [pathlib.Path(name) for name in "abc"],
    "dicts": [{"text": name, "ids": [1]} for name in "abc"],
    "frame with times": pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": DATES}),
    "frame with times alone": pd.DataFrame({"b": DATES.tz_localize("UTC")}),
    "days": np.array(["2026-01-01", "2026-01-02", "2026-01-03"], dtype="datetime64[D]"),
    "periods": pd.DataFrame({"a": pd.period_range("2026-01", periods=3, freq="M")}),
    "intervals": pd.DataFrame({"a": pd.cut([1, 2, 3], 3)}),
    "texts that may be missing": pd.DataFrame({"a": ["x", pd.NA, "y"]}, dtype="string"),
    "integers that may be missing": pd.DataFrame({"a": [1, pd.NA, 2]}, dtype="Int64"),
    "images of several sizes": [PIL.Image.new("L", (i, 2), 7 * i) for i in (1, 2, 3)],
    "images of one size but for a row": [PIL.Image.new("L", (2, i), i) for i in (2, 2, 3)],
    "arrays of several sizes": [np.arange(i) for i in (1, 2, 3)],
    "tensors of several sizes": [torch.arange(float(i)).requires_grad_() for i in (1, 2, 3)],
    "tokens": [[1, 2], [3], [4, 5, 6]],
}


class TestSampleDigest:
    @given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30))
    def test_containers_do_not_matter(self, values):
        column = np.array(values)[:, None]
        frames = pd.DataFrame(column), pl.DataFrame({"a": values}), column.astype(np.float32)
        assert {sample_digest(frame) for frame in frames} == {sample_digest(column.tolist())}

    def test_content_does(self):
        pools = [
            X,
            X[:, ::-1],
            X.astype(str),
            ["a", "b"],
            ["b", "a"],
            pd.DataFrame({"a": ["a", 1]}),
        ]
        assert len({sample_digest(pool) for pool in pools}) == len(pools)

    def test_large_pools_are_looked_at_here_and_there(self):
        large = np.zeros((100_000, 2))
        other = large.copy()
        other[-1] = 1
        assert sample_digest(large) != sample_digest(other)

    def test_sparse_pools(self):
        large = sparse.random(5000, 50, 0.1, format="csr", random_state=0)
        other = large.copy()
        other.data[-1] += 1
        assert len({sample_digest(pool) for pool in (large, other, large[::-1], 2 * large)}) == 4
        alike = large.tocoo(), sparse.csc_array(large), large.astype(np.float32).astype(float)
        assert sample_digest(large) == sample_digest(alike[0]) == sample_digest(alike[1])
        assert sample_digest(large.astype(np.float32)) == sample_digest(alike[2])

    @pytest.mark.parametrize("kind", OBJECTS)
    def test_objects_are_told_apart(self, kind):
        pool = OBJECTS[kind]
        order = [2, 1, 0]
        other = pool.iloc[order] if isinstance(pool, pd.DataFrame) else [pool[i] for i in order]
        same = copy.deepcopy(pool)
        assert sample_digest(pool) == sample_digest(same) != sample_digest(other)

    def test_of_objects_that_cannot_be_pickled_the_type_counts(self):
        pools = [["x", threading.Lock()], ["x", threading.Lock()], [threading.Lock(), "x"]]
        one, same, other = map(sample_digest, pools)
        assert one == same != other


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))


def fitted(labels):
    return LaplaceUpdateClassifier().fit([[-1.0], [2.0]], labels)


def scaled(by):
    return make_pipeline(StandardScaler(with_mean=by), LaplaceUpdateClassifier(network(0)))


def texts(n, other=None):
    array = np.array([f"text {i}" for i in range(n)], dtype=object)
    if other is not None:
        array[other] = "another text"
    return array


SAME_AND_OTHER = [
    (lambda: None, lambda: 0),
    (lambda: 1, lambda: 1.5),
    (lambda: np.float64(1.5), lambda: 1),
    (lambda: {"a": [1, 2]}, lambda: {"a": [2, 1]}),
    (lambda: {"a", "b"}, lambda: {"a", "c"}),
    (lambda: frozenset(["a", 1, None]), lambda: frozenset(["a", 1, 2])),
    (lambda: {"a": 1, 2: {3: None}}, lambda: {"a": 1, 2: {3: 0}}),
    (lambda: np.arange(5000), lambda: np.r_[:4999, 0]),
    (lambda: pd.DataFrame({"a": ["x", "y"]}), lambda: pd.DataFrame({"a": ["x", "z"]})),
    (lambda: texts(5000), lambda: texts(5000, other=4998)),
    (lambda: sparse.eye_array(5000), lambda: 2 * sparse.eye_array(5000)),
    (lambda: network(0), lambda: network(1)),
    (lambda: LaplaceUpdateClassifier(network(0)), lambda: LaplaceUpdateClassifier(network(1))),
    (lambda: fitted([0, 1]), lambda: fitted([1, 0])),
    (lambda: scaled(True), lambda: scaled(False)),
    (lambda: MarginSampling(), lambda: MarginSampling(random_state=0)),
    (lambda: accuracy_score, lambda: f1_score),
    (lambda: make_scorer(f1_score), lambda: make_scorer(f1_score, average="macro")),
    (lambda: functools.partial(f1_score, average="macro"), lambda: object()),
]


@pytest.mark.parametrize(("same", "other"), SAME_AND_OTHER)
def test_fingerprints_tell_apart(same, other):
    assert fingerprint(same()) == fingerprint(same())
    assert fingerprint(same()) != fingerprint(other())


class Encoder:
    """What makes features by what it holds."""

    def __init__(self, scale, itself=False):
        self.scale = np.full(3, scale)
        self.itself = self if itself else None

    def encode(self, X):
        return self.scale * X

    __call__ = encode


class Slots:
    __slots__ = ("scale",)

    def __init__(self, scale):
        self.scale = scale


A, B = np.random.default_rng(0).normal(size=(2, 30, 4))
TEXTS = [["to be", "or not to be"], ["to be to", "or not"]]  # of one vocabulary
# what differs by a number only, made of the first or of the second
EXTRACTORS = {
    "method": [Encoder(1).encode, Encoder(3).encode],
    "object that is called": [Encoder(1), Encoder(3)],
    "object within itself": [Encoder(1, itself=True), Encoder(3, itself=True)],
    "object with slots": [Slots(1), Slots(3)],
    "partial": [functools.partial(np.multiply, A), functools.partial(np.multiply, B)],
    "partial by keyword": [functools.partial(np.sum, axis=axis) for axis in (0, 1)],
    "scaler": [StandardScaler().fit(A), StandardScaler().fit(B)],
    "components": [PCA(2).fit(A), PCA(2).fit(B)],
    "pipeline": [make_pipeline(StandardScaler(), PCA(2)).fit(each) for each in (A, B)],
    "method of a pipeline": [make_pipeline(PCA(2)).fit(each).transform for each in (A, B)],
    "texts": [TfidfVectorizer().fit(each) for each in TEXTS],
    "neighbours": [KNeighborsTransformer().fit(each) for each in (A, B)],
    "forest": [RandomForestRegressor(3, random_state=0).fit(A, each[:, 0]) for each in (A, B)],
    "keywords": [FunctionTransformer(np.sum, kw_args={"axis": axis}) for axis in (0, 1)],
    "features": [TorchFeatures(PCA(2).fit(each)).fit(A) for each in (A, B)],
    "network": [network(0), network(1)],
    "method of a network": [network(0).forward, network(1).forward],
    "half precision": [network(0).to(torch.bfloat16), network(1).to(torch.bfloat16)],
    "other layers": [nn.Sequential(nn.ReLU()), nn.Sequential(nn.Tanh())],
    "random generator": [np.random.default_rng(seed) for seed in (0, 1)],
    "pattern": [re.compile("a"), re.compile("b")],
    "records": [np.array([(n, 0.5)], dtype=[("n", "i4"), ("x", "f8")]) for n in (1, 2)],
}
FUNCTIONS = {
    "another name": [lambda X: X, len],
    "closure": [(lambda e: lambda X: e.encode(X))(Encoder(scale)) for scale in (1, 3)],
    "default": [(lambda s: lambda X, s=s: s * X)(scale) for scale in (A, B)],
    "keyword": [(lambda s: lambda X, *, s=s: s * X)(scale) for scale in (A, B)],
}


@pytest.mark.parametrize("kind", [*EXTRACTORS, *FUNCTIONS])
def test_fingerprints_tell_extractors_apart(kind):
    one, other = (EXTRACTORS | FUNCTIONS)[kind]
    prints = {fingerprint(LaplaceUpdateClassifier(extractor)) for extractor in (one, other)}
    assert len({*prints, fingerprint(one), fingerprint(other)}) == 4


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_fingerprints_are_those_of_copies(kind):
    for extractor in EXTRACTORS[kind]:
        expected = fingerprint(extractor)
        assert fingerprint(pickle.loads(pickle.dumps(extractor))) == expected
        assert fingerprint(copy.deepcopy(extractor)) == expected


def test_fingerprints_stay_the_same_in_use():
    def recursive(n):
        return n and recursive(n - 1)

    classifier = LaplaceUpdateClassifier(StandardScaler().fit(A), memory_size=5)
    classifier.fit(A, A[:, 0] > 0)
    before = fingerprint(classifier), fingerprint(recursive)
    classifier.predict_proba(B)
    recursive(100)
    assert (fingerprint(classifier), fingerprint(recursive)) == before


def test_a_function_is_known_by_its_name():
    assert fingerprint([lambda X: X + 1]) == fingerprint([lambda X: X + 2])
    one, other = ({"__name__": "mine"} for _ in range(2))
    exec("def scaled(X): return X", one)
    exec("def scaled(X): return 2 * X", other)
    assert fingerprint(one["scaled"]) == fingerprint(other["scaled"])


def test_equal_objects_need_not_be_the_same_object():
    days = [datetime.date(2026, 1, 1) for _ in range(2)]
    assert fingerprint(days) == fingerprint(2 * days[:1])
    nets = [network(0), network(0)]
    assert fingerprint([nets, {"of": nets}]) == fingerprint([2 * nets[:1], {"of": nets[::-1]}])
    frame = pd.DataFrame({"a": [1.0, 2.0]})
    frame["b"] = frame.a  # in a block of its own, until the frame is used
    assert fingerprint(frame) == fingerprint(frame.copy())


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        [{"a": (n for n in range(3))}],
        functools.partial(len, threading.Lock()),
        (lambda lock: lambda X: lock)(threading.Lock()),
        LaplaceUpdateClassifier(FunctionTransformer(kw_args={"lock": threading.Lock()})),
    ],
)
def test_what_cannot_be_pickled_is_refused(value):
    with pytest.raises(TypeError, match="has no fingerprint: cannot pickle '"):
        fingerprint(value)


SCRIPT = """
import functools, sys
import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestRegressor
from sklearn.metrics import f1_score, make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from laplace_al import LaplaceUpdateClassifier
from laplace_al.storage.digests import fingerprint
class Encoder:
    def __init__(self): self.kinds = {"b", "a", "c"}, frozenset("abc"), {"b": 1, 2: "a"}
    def encode(self, X): return scaled(X)
def scaled(X): return [scale * x for x in X if x in {"a", "b", "c"}]
scale, A = 2.0, np.random.default_rng(0).normal(size=(30, 4))
print([fingerprint(each) for each in (
    [LaplaceUpdateClassifier(np.tanh), object(), len, {"b", "a", "c"}], Encoder(), Encoder().encode,
    functools.partial(scaled, A=A), make_pipeline(StandardScaler(), PCA(2)).fit(A), lambda X: f(X),
    RandomForestRegressor(2, random_state=0).fit(A, A), make_scorer(f1_score, average="macro"),
)])
"""


@pytest.mark.slow
def test_fingerprints_are_those_of_another_process():
    done = [
        subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert done[0].stdout == done[1].stdout


N = 9000
NUMBERS = np.random.default_rng(0).normal(size=(N, 3)).clip(min=0)


class Image:
    """What turns into numbers when it is asked for them."""

    def __init__(self, pixels):
        self.pixels = pixels

    @property
    def __array_interface__(self):
        return self.pixels.__array_interface__


def categories(column):
    return pd.DataFrame({"a": pd.Categorical(column[:, 0].astype(str)), "b": column[:, 1]})


CONTAINERS = {
    "array": np.array,
    "columns first": np.asfortranarray,
    "float32": lambda A: A.astype(np.float32),
    "texts": lambda A: A.astype(str),
    "objects": lambda A: A.astype(str).astype(object),
    "numbers as objects": lambda A: A.astype(object),
    "three axes": lambda A: A[:, :, None],
    "list": np.ndarray.tolist,
    "list of texts": lambda A: A[:, 0].astype(str).tolist(),
    "list of arrays": list,
    "list of arrays of several shapes": lambda A: [A[0, :2], *A],
    "list of images": lambda A: [Image(row) for row in A],
    "list of dicts": lambda A: [{"x": row, "ids": {1, 2}, "none": None} for row in A.tolist()],
    "list of paths": lambda A: [pathlib.Path(str(row)) for row in A.tolist()],
    "list of dates": lambda A: [datetime.date.fromordinal(int(1 + 1e4 * x)) for x in A[:, 0]],
    "frame": pd.DataFrame,
    "frame of texts": lambda A: pd.DataFrame(A.astype(str)),
    "frame of categories": categories,
    "frame of integers that may be missing": lambda A: pd.DataFrame(A).round().astype("Int64"),
    "series": lambda A: pd.Series(A[:, 0]),
    "polars": lambda A: pl.DataFrame({"a": A[:, 0], "b": A[:, 1].astype(str)}),
    "tensor": torch.tensor,
    "half precision": lambda A: torch.tensor(A, dtype=torch.bfloat16),
    "tensor with a gradient": lambda A: torch.tensor(A, requires_grad=True),
    "sparse": sparse.csr_array,
    "sparse matrix": sparse.csc_matrix,
    "sparse coordinates": sparse.coo_array,
}


class TestFingerprintOfData:
    @pytest.mark.parametrize("kind", CONTAINERS)
    @pytest.mark.parametrize("row", [0, 4097, N - 2])
    def test_every_row_counts(self, kind, row):
        """Those at even distances that a journal looks at are others."""
        other = NUMBERS.copy()
        other[row] += 0.75
        make = CONTAINERS[kind]
        assert fingerprint(make(NUMBERS)) == fingerprint(make(NUMBERS)) != fingerprint(make(other))

    def test_a_memory_map_is_the_array(self, tmp_path):
        np.save(tmp_path / "X.npy", NUMBERS)
        expected = fingerprint(NUMBERS)
        assert fingerprint(np.load(tmp_path / "X.npy", mmap_mode="r")) == expected
        assert fingerprint(np.asfortranarray(NUMBERS)) == expected

    def test_a_sparse_matrix_however_it_is_stored(self):
        plain = sparse.csr_matrix(NUMBERS)
        rows, columns = plain.nonzero()
        twice = np.r_[rows, rows], np.r_[columns, columns]
        halves = sparse.coo_matrix((np.tile(plain.data / 2, 2), twice), plain.shape)
        with_zeros = sparse.csr_matrix(NUMBERS + (NUMBERS == 0))
        with_zeros.data[NUMBERS.ravel() == 0] = 0
        backwards = plain.tocsc()[:, ::-1].tocsr()[:, ::-1]
        kinds = [plain.asformat(name) for name in ("csc", "coo", "lil", "bsr", "dok")]
        for other in (*kinds, sparse.csr_array(plain), halves, with_zeros, backwards):
            assert fingerprint(other) == fingerprint(plain)
        assert with_zeros.nnz == NUMBERS.size  # which is as it was
        assert not halves.has_canonical_format
        assert fingerprint(plain[:, :2]) != fingerprint(sparse.csr_matrix(plain[:, :2], (N, 2)).T)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ([["a", "bc"]], [["ab", "c"]]),
            (["a", "b"], ["a, b"]),
            ([1, 2], ["1", "2"]),
            ([[1, 2], [3]], [[1], [2, 3]]),
            ([None], ["None"]),
            (np.zeros((2, 3)), np.zeros((3, 2))),
            (np.zeros(2), np.zeros(2, dtype=np.int64)),
            (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
            (pd.DataFrame({"a": ["x"]}), pd.DataFrame({"a": ["x"]}, dtype="category")),
            (
                pd.Series(pd.Categorical(["x"], ["x", "y"])),
                pd.Series(pd.Categorical(["x"], ["x", "z"])),
            ),
            (sparse.csr_array((1, 3)), sparse.csr_array((1, 4))),
            ([sparse.csr_array([[1]])], [sparse.csr_array([[2]])]),
        ],
    )
    def test_what_is_alike_is_not_the_same(self, one, other):
        assert fingerprint(one) != fingerprint(other)

    def test_no_rows(self):
        assert fingerprint([]) != fingerprint(np.zeros((0, 3))) != fingerprint(np.zeros((0, 2)))
