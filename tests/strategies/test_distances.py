import tracemalloc

import numpy as np
import pytest

from laplace_al.strategies import _distances as distances
from laplace_al.strategies._distances import (
    Neighborhoods,
    covering_radius,
    distances_to_nearest,
    paired_distances,
)

rng = np.random.default_rng(0)
BLOBS = rng.normal(size=(5, 12))[np.arange(150) % 5] + 0.1 * rng.normal(size=(150, 12))
POOLS = {
    "blobs": BLOBS,
    "single precision": BLOBS.astype(np.float32),
    "far from zero": 1e4 + BLOBS,
    "very far from zero": 1e8 + BLOBS,
    "clumps that float32 cannot tell apart": np.arange(150)[:, None] % 5 + 1e-5 * BLOBS,
    "one far away": np.concatenate([BLOBS, np.full((1, 12), 1e6)]),
    "huge": 1e150 * BLOBS,
    "tiny": 1e-150 * BLOBS,
    "equal": np.full((40, 3), 1e3 + 0.1),
    "twins": np.repeat(BLOBS[:20], 20, axis=0),
    "one": BLOBS[:1],
}


@pytest.fixture(params=POOLS)
def pool(request, monkeypatch):
    monkeypatch.setattr(distances, "_NUMBERS_AT_ONCE", 1000)  # several blocks
    return POOLS[request.param]


def all_distances(X):
    """Slow twin, (n, n)."""
    difference = X[:, None].astype(np.float64) - X[None]
    largest = np.abs(difference).max() or 1.0
    return largest * np.linalg.norm(difference / largest, axis=2)


@pytest.mark.parametrize("step", [1, 7])
def test_distances_to_the_nearest_of_others(pool, step):
    nearest = distances_to_nearest(pool, pool[::step].astype(np.float64))
    rtol = 1e-5 if pool.dtype == np.float32 else 1e-6
    np.testing.assert_allclose(nearest, all_distances(pool)[:, ::step].min(axis=1), rtol=rtol)
    assert not nearest[::step].any()  # exactly
    assert nearest.dtype == np.float64


def test_no_others_are_infinitely_far():
    np.testing.assert_array_equal(distances_to_nearest(BLOBS[:2], BLOBS[:0]), [np.inf, np.inf])


@pytest.mark.parametrize("n_neighbors", [1, 5, 1000])
@pytest.mark.parametrize("some", [None, [0], [7, 3, 19]])
def test_nearest_distances(pool, n_neighbors, some):
    some = None if some is None else np.array(some) % len(pool)
    nearest = Neighborhoods(pool).nearest_distances(n_neighbors, some)
    expected = all_distances(pool)
    np.fill_diagonal(expected, -1)
    expected = np.sort(expected, axis=1)[:, 1 : n_neighbors + 1]
    rtol = 1e-5 if pool.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(nearest, expected if some is None else expected[some], rtol=rtol)


@pytest.mark.parametrize(("n_balls", "k"), [(1, 149), (10, 15), (40, 4), (100, 2), (1000, 1)])
def test_the_covering_radius_is_the_median_distance_to_the_kth_other(pool, n_balls, k):
    kth = np.sort(all_distances(pool), axis=1)[:, : k + 1][:, -1]
    if len(pool) == 150:
        assert covering_radius(pool, n_balls) == pytest.approx(np.median(kth), rel=0.02)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_covering_radius_of_equal_rows_is_0(dtype):
    twins = np.repeat(BLOBS[:20], 20, axis=0).astype(dtype)
    assert covering_radius(twins, 40) == 0  # k = 10 of 19 twins
    assert covering_radius(twins, 15) > 0.1  # k = 27
    assert covering_radius(twins[:1], 1) == covering_radius(twins[:0], 1) == 0


def test_the_covering_radius_is_over_evenly_spread_rows_of_many(monkeypatch):
    monkeypatch.setattr(distances, "_MAX_ROWS", 3)
    expected = np.median(np.sort(all_distances(BLOBS)[[0, 74, 149]], axis=1)[:, 15])
    assert covering_radius(BLOBS, 10) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("some", [None, [0], [19, 3, 7]])
def test_balls(pool, some):
    rows = np.arange(len(pool)) if some is None else np.array(some) % len(pool)
    expected = all_distances(pool)
    for radius in np.quantile(expected, [0.0, 0.02, 0.2, 0.5, 1.0]) * (1 + 1e-6):
        balls = Neighborhoods(pool).balls(radius, rows)
        np.testing.assert_array_equal(balls, expected[rows] <= radius)


def test_a_pair_just_as_far_apart_as_the_radius_is_within():
    X = rng.normal(size=(60, 30))
    first, second = (ends[::50] for ends in np.triu_indices(60, 1))
    for i, j, radius in zip(first, second, paired_distances(X[first], X, second), strict=True):
        assert Neighborhoods(X).balls(radius, np.array([i]))[0, j]
        assert not Neighborhoods(X).balls(np.nextafter(radius, 0), np.array([i]))[0, j]


def test_a_radius_larger_than_any_number_in_float32():
    assert Neighborhoods(BLOBS[:3]).balls(1e300, np.arange(3)).all()


def test_rows_are_only_read():
    X = BLOBS.copy()
    X.flags.writeable = False
    near = Neighborhoods(X)
    near.nearest_distances(3)
    near.balls(1.0, np.arange(150))
    np.testing.assert_array_equal(X, BLOBS)


def test_memory_is_not_that_of_all_pairs(monkeypatch):
    monkeypatch.setattr(distances, "_NUMBERS_AT_ONCE", 2**17)
    X = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
    tracemalloc.start()
    near = Neighborhoods(X)
    near.nearest_distances(5)
    near.balls(1.0, np.arange(300))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 3000 * 3000
