"""A table in blocks, and a pool that learns, which the tests of Dask share."""

import enum

import dask.array as da
import numpy as np

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2000, 6))
y = np.array(["a", "b", "c"])[(X @ RNG.normal(size=(6, 3))).argmax(axis=1)]
X_BLOCKS = da.from_array(X, chunks=((700, 0, 300, 1000), (4, 2)))


class Letter(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    A, B, C = "a", "b", "c"


def close(found, expected, tol=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tol, atol=tol)


def taught(pool, labels, n_calls, size=1):
    """A pool that has learnt labels at regular positions, in no order."""
    positions = np.random.default_rng(2).permutation(len(pool))[: n_calls * size]
    for some in positions.reshape(n_calls, size):
        pool.teach(some, labels[some])
    return pool


def assert_up_to_date(pool, X=X):
    close(pool.predict_proba().compute(), pool.classifier_.predict_proba(X), 1e-9)
