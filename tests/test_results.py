import datetime
import functools
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.metrics import accuracy_score, f1_score, make_scorer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from laplace_al import LaplaceUpdateClassifier
from laplace_al.results import ResultsFile, data_digest, fingerprint
from laplace_al.strategies import MarginSampling

KEYS = ["strategy", "seed"]
TABLE = pd.DataFrame({"n_labels": [5, 15, 25], "score": [np.nan, 1 / 3, 0.1 + 0.2]})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.csv"


def keep(path, *names):
    with ResultsFile(path, KEYS) as results:
        for name in names:
            results.append(name, "f00", TABLE)


def kept(path, *names):
    with ResultsFile(path, KEYS) as results:
        return [name in results for name in names]


class TestResultsFile:
    def test_numbers_come_back_bit_for_bit(self, path):
        name = 'random, "or so"', 3
        keep(path, name)
        with ResultsFile(path, KEYS) as results:
            pd.testing.assert_frame_equal(results.get(name, "f00"), TABLE, check_exact=True)

    @pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), MemoryError()])
    @pytest.mark.parametrize("n_before", [0, 1])
    def test_a_run_that_cannot_be_written_leaves_the_file(self, path, monkeypatch, error, n_before):
        def fail(_):
            raise error

        with ResultsFile(path, KEYS) as results:
            for i in range(n_before):
                results.append(("a", i), "f00", TABLE)
            before = path.read_bytes() if n_before else b""
            with monkeypatch.context() as patch:
                patch.setattr("os.fsync", fail)
                with pytest.raises(type(error)):
                    results.append(("b", 0), "f00", TABLE)
            assert path.read_bytes() == before
            assert ("b", 0) not in results
            results.append(("c", 0), "f00", TABLE)
        assert kept(path, ("b", 0), ("c", 0)) == [False, True]

    def test_it_is_a_tidy_csv_file(self, path):
        keep(path, ("a", 0), ("b", 0))
        frame = pd.read_csv(path)
        assert frame.columns.tolist() == ["strategy", "seed", "n_labels", "score", "run"]
        assert frame.strategy.tolist() == 3 * ["a"] + 3 * ["b"]
        assert frame.run[:3].tolist() == ["f00 1/3", "f00 2/3", "f00 3/3"]

    def test_cut_at_any_byte(self, path, monkeypatch):
        monkeypatch.setattr("os.fsync", lambda descriptor: None)  # hundreds of them take seconds
        names = ("a", 0), ("b\N{GREEK SMALL LETTER BETA}", 0)
        keep(path, *names)
        content = path.read_bytes()
        header, *ends = content.index(b"\n") + 1, content.index(b"3/3\n") + 4, len(content)
        for size in range(len(content)):
            path.write_bytes(content[:size])
            assert kept(path, *names) == [size >= end for end in ends]
            whole = max(end for end in (0, header, *ends) if end <= size)
            assert path.read_bytes() == content[:whole]
            keep(path, *(name for name, end in zip(names, ends, strict=True) if size < end))
            assert path.read_bytes() == content

    def test_a_run_made_with_other_settings(self, path):
        keep(path, ("a", 0))
        with (
            ResultsFile(path, KEYS) as results,
            pytest.raises(
                ValueError, match="has the run strategy='a', seed=0, but made with other"
            ),
        ):
            results.get(("a", 0), "f01")

    def test_other_columns(self, path):
        keep(path, ("a", 0))
        before = path.read_bytes()
        with (
            ResultsFile(path, KEYS) as results,
            pytest.raises(ValueError, match=r"has the columns .* the run strategy='b', seed=0 has"),
        ):
            results.append(("b", 0), "f00", TABLE.rename(columns={"score": "score_f1"}))
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "content", ["notes", "notes\n", "a,b\n1,2\n", "strategy,seed,x\na,0,1\n"]
    )
    def test_a_file_of_something_else(self, path, content):
        path.write_text(content)
        with pytest.raises(ValueError, match="is not a file of results: it begins with"):
            kept(path)
        assert path.read_text() == content

    @pytest.mark.parametrize(
        ("old", "new"), [("f00 2/3", "f00 3/3"), ("f00 2/3", ""), (",15,", ",15,,"), ("15", "x")]
    )
    def test_a_damaged_file(self, path, old, new):
        keep(path, ("a", 0), ("b", 0))
        damaged = path.read_text().replace(old, new, 1)
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is damaged in line 3"):
            kept(path)
        assert path.read_text() == damaged

    def test_one_at_a_time(self, path):
        with (
            ResultsFile(path, KEYS),
            pytest.raises(RuntimeError, match="in use by another call"),
            ResultsFile(path, KEYS),
        ):
            pass
        keep(path, ("a", 0))

    def test_it_is_free_again_after_an_error(self, path):
        path.write_text("notes")
        for _ in range(2):
            with pytest.raises(ValueError, match="is not a file of results"):
                kept(path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="does not exist; make it first"):
            kept(tmp_path / "nowhere" / "results.csv")


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


@pytest.mark.slow
def test_fingerprints_are_those_of_another_process():
    code = (
        "from laplace_al import LaplaceUpdateClassifier\n"
        "from laplace_al.results import fingerprint\n"
        "import numpy as np\n"
        "def f(): pass\n"
        "print(fingerprint([LaplaceUpdateClassifier(np.tanh), {'b', 'a', 'c'}, object(), len]))"
    )
    done = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
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


class TestDataDigest:
    @pytest.mark.parametrize("kind", CONTAINERS)
    @pytest.mark.parametrize("row", [0, 4097, N - 2])
    def test_every_row_counts(self, kind, row):
        """Those at even distances that a journal looks at are others."""
        other = NUMBERS.copy()
        other[row] += 0.75
        make = CONTAINERS[kind]
        assert data_digest(make(NUMBERS)) == data_digest(make(NUMBERS)) != data_digest(make(other))

    def test_a_memory_map_is_the_array(self, tmp_path, monkeypatch):
        np.save(tmp_path / "X.npy", NUMBERS)
        expected = data_digest(NUMBERS)
        assert data_digest(np.load(tmp_path / "X.npy", mmap_mode="r")) == expected
        monkeypatch.setattr("laplace_al.results._BLOCK_BYTES", 100)
        assert data_digest(np.asfortranarray(NUMBERS)) == expected

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
            assert data_digest(other) == data_digest(plain)
        assert with_zeros.nnz == NUMBERS.size  # which is as it was
        assert not halves.has_canonical_format
        assert data_digest(plain[:, :2]) != data_digest(sparse.csr_matrix(plain[:, :2], (N, 2)).T)

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
        assert data_digest(one) != data_digest(other)

    def test_no_rows(self):
        assert data_digest([]) != data_digest(np.zeros((0, 3))) != data_digest(np.zeros((0, 2)))

    @pytest.mark.parametrize(
        "X",
        [
            [object()],
            ["a", len],
            [{"a": object()}],
            np.array([1, object()]),
            pd.Series([object()]),
            pd.DataFrame({"a": [1], "b": [object()]}),
        ],
    )
    def test_objects_of_no_known_content_are_refused(self, X):
        match = "results cannot tell data with objects of type .* Pass X and y of .*, or leave"
        with pytest.raises(TypeError, match=match):
            data_digest(X)
