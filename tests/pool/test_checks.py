import dask.array as da
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from torch.utils.data import DataLoader, TensorDataset

from laplace_al import ActiveLearner, LaplaceUpdateClassifier, simulate
from laplace_al.pool.checks import check_container, check_numbers
from laplace_al.strategies import RandomSampling

X = np.random.default_rng(0).normal(size=(400, 3))
OURS = LaplaceUpdateClassifier()


def with_values(values, dtype=np.float64):
    """A pool with values in the middle column of rows, from the third last one backwards."""
    pool = X.astype(dtype)
    for i, value in enumerate(values):
        pool[-3 - i, 1] = value
    return pool


@pytest.fixture(params=[2**20, 7, 1])
def block_size(request, monkeypatch):
    monkeypatch.setattr("laplace_al.pool.checks._NUMBERS_AT_ONCE", request.param)


def memory_map(pool, folder):
    np.save(folder / "X.npy", pool)
    return np.load(folder / "X.npy", mmap_mode="r")


class OnDisk:
    """An array in a file, of which there are slices."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self.values[rows]


KINDS = {
    "array": lambda pool, _: pool,
    "Fortran order": lambda pool, _: np.asfortranarray(pool),
    "float32": lambda pool, _: pool.astype(np.float32),
    "float16": lambda pool, _: pool.astype(np.float16),
    "longdouble": lambda pool, _: pool.astype(np.longdouble),
    "objects": lambda pool, _: pool.astype(object),
    "memory map": memory_map,
    "array in a file": lambda pool, _: OnDisk(pool),
    "lists": lambda pool, _: pool.tolist(),
    "rows": lambda pool, _: list(pool),
    "tensor": lambda pool, _: torch.tensor(pool),
    "bfloat16": lambda pool, _: torch.tensor(pool, dtype=torch.bfloat16),
    "pandas": lambda pool, _: pd.DataFrame(pool, columns=list("abc")),
    "nullable": lambda pool, _: pd.DataFrame(pool, columns=list("abc")).astype("Float64"),
    "polars": lambda pool, _: pl.DataFrame(pool, schema=list("abc")),
}


@pytest.mark.usefixtures("block_size")
@pytest.mark.parametrize("kind", KINDS)
class TestWrongNumbers:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_rows_are_named(self, kind, value, tmp_path):
        pool = KINDS[kind](with_values([value, value]), tmp_path)
        with pytest.raises(
            ValueError, match=r"X_pool has NaN or infinity in 2 of its 400 rows: \[396, 397\]"
        ):
            check_numbers(pool, OURS)

    def test_good_ones(self, kind, tmp_path):
        check_numbers(KINDS[kind](with_values([1e4, -1e4]), tmp_path), OURS)


def test_missing_values_of_pandas():
    pool = pd.DataFrame({"a": [1, None, 3], "b": [1.0, 2.0, None]}).astype({"a": "Int64"})
    with pytest.raises(ValueError, match=r"2 of its 3 rows: \[1, 2\]"):
        check_numbers(pool, OURS)


@pytest.mark.parametrize(
    ("dtype", "largest"), [("float64", 1e123), ("float32", 1e15)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_products_that_overflow(dtype, largest, sign):
    classifier = LaplaceUpdateClassifier(dtype=dtype)
    check_numbers(with_values([sign * largest]), classifier)
    with pytest.raises(ValueError, match=r"too large a number in 1 .*\[397\].*StandardScaler"):
        check_numbers(with_values([sign * 10 * largest]), classifier)
    check_numbers(with_values([10 * largest]), make_pipeline(StandardScaler(), classifier))


def test_only_some_rows_are_named():
    with pytest.raises(ValueError, match=r"400 of its 400 rows: \[0, 1, .*, 9, \.\.\.\]"):
        check_numbers(np.full((400, 2), np.nan), OURS)


@pytest.mark.parametrize(
    ("pool", "error", "match"),
    [
        (["good", "bad"], ValueError, "Expected 2D array"),
        ([["good"], ["bad"]], ValueError, "numeric"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}), ValueError, "could not convert"),
        (X[:, 0], ValueError, "Expected 2D array"),
        (np.ones((3, 2, 2)), ValueError, "Found array with dim 3"),
        (sparse.csr_array(X), TypeError, "Sparse data"),
    ],
)
def test_features_that_are_none(pool, error, match):
    with pytest.raises(error, match=match):
        check_numbers(pool, OURS)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        KNeighborsClassifier(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        make_pipeline(StandardScaler(), OURS),
        make_pipeline("passthrough", OURS),
        GridSearchCV(OURS, {"prior_precision": [1.0]}),
        CalibratedClassifierCV(make_pipeline(StandardScaler(), LogisticRegression())),
    ],
)
@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_array, pd.DataFrame])
def test_estimators_that_accept_no_nan(estimator, kind):
    if sparse.issparse(kind(X)) and isinstance(estimator, GridSearchCV):
        pytest.skip("it takes no sparse matrix")
    check_numbers(kind(X), estimator)
    with pytest.raises(ValueError, match=r"NaN or infinity in 2 of its 400 rows: \[396, 397\]"):
        check_numbers(kind(with_values([np.nan, np.inf])), estimator)


class TestPoolsThatEstimatorsAccept:
    @pytest.mark.parametrize(
        "estimator",
        [
            HistGradientBoostingClassifier(max_iter=2, min_samples_leaf=1),
            RandomForestClassifier(3),
            make_pipeline(SimpleImputer(), LogisticRegression()),
            make_pipeline(StandardScaler(), SimpleImputer(), LogisticRegression()),
            make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=2)),
            make_pipeline(FunctionTransformer(np.nan_to_num), LogisticRegression()),
            make_pipeline(make_union(SimpleImputer()), LogisticRegression()),
            make_pipeline(make_column_transformer((SimpleImputer(), [0, 1])), OURS),
            LaplaceUpdateClassifier(np.nan_to_num),
        ],
    )
    def test_nan_goes_on_working(self, estimator):
        learner = ActiveLearner(
            estimator, RandomSampling(), with_values([np.nan] * 9), random_state=0, refit_every=1
        )
        positions = np.arange(380, 400)
        assert learner.teach(positions, positions % 2).predict(X).shape == (400,)

    @pytest.mark.parametrize("missing", [None, np.nan])
    def test_texts_and_categories(self, missing):
        pool = pd.DataFrame({"a": ["x", "y", missing] * 9, "b": [1.0, 2.0, np.nan] * 9})
        encoder = make_column_transformer((OneHotEncoder(), ["a"]), (SimpleImputer(), ["b"]))
        learner = ActiveLearner(
            make_pipeline(encoder, LogisticRegression()), RandomSampling(), pool, refit_every=1
        )
        assert learner.teach([0, 1, 2], [0, 1, 0]).is_fitted

    def test_texts(self):
        estimator = make_pipeline(TfidfVectorizer(), LogisticRegression())
        learner = ActiveLearner(estimator, RandomSampling(), ["so good", "bad"], refit_every=1)
        assert learner.teach([0, 1], [1, 0]).is_fitted

    def test_an_estimator_that_tells_nothing(self):
        class Own(LogisticRegression):
            def fit(self, X, y):
                return super().fit(np.nan_to_num(X), y)

        check_numbers(with_values([np.nan]), Own())


def test_simulations_refuse_at_once():
    y = (X[:, 0] > 0).astype(int)
    with pytest.raises(ValueError, match=r"\[397\]"):
        simulate(OURS, RandomSampling(), with_values([np.nan]), y, X, y, budget=3)


class TestContainers:
    @pytest.mark.parametrize(
        ("pool", "match"),
        [
            (iter(X), "list|iterator, which can only be iterated over"),
            (DataLoader(torch.tensor(X)), "a DataLoader, which can only"),
            (da.from_array(X), r"yet to be computed. Pass X_pool.compute\(\)"),
            (pl.DataFrame(X).lazy(), r"yet to be computed. Pass X_pool.collect\(\)"),
            (sparse.coo_array(X), r"Pass X_pool.tocsr\(\)"),
            (TensorDataset(torch.tensor(X)), "a tuple of 1 at each position"),
        ],
    )
    def test_without_rows(self, pool, match):
        with pytest.raises(TypeError, match=match):
            check_container(pool)

    def test_tables_of_arrow(self):
        arrow = pytest.importorskip("pyarrow")
        table = arrow.table({"a": X[:, 0]})
        for pool in (table, table.to_batches()[0]):
            with pytest.raises(TypeError, match=r"Pass X_pool.to_pandas\(\)"):
                check_container(pool)
        check_container(table["a"])

    @pytest.mark.parametrize("pool", [X, X.tolist(), pd.DataFrame(X), pl.DataFrame(X), OnDisk(X)])
    def test_with_rows(self, pool):
        check_container(pool)
