import numpy as np
import pytest

from laplace_al.strategies import _distances as distances
from laplace_al.strategies._herding import Kernel, gains, herd

X = np.random.default_rng(0).normal(size=(120, 4))
LABELLED = X[:5] + 0.1


def similarities(a, b, bandwidth):
    """Slow twin, (len(a), len(b))."""
    return np.exp(-(np.linalg.norm(a[:, None] - b[None], axis=2) ** 2) / bandwidth**2)


def naive(similarities, weights, covered, n_instances):
    """Greedy choice that weighs every candidate again each time."""
    chosen = []
    for _ in range(n_instances):
        now = gains(similarities, weights, covered)
        now[chosen] = -np.inf
        chosen.append(int(now.argmax()))
        covered = np.maximum(covered, similarities[chosen[-1]])
    return chosen


@pytest.fixture(params=[2**23, 300])
def _blocks(request, monkeypatch):
    monkeypatch.setattr(distances, "_NUMBERS_AT_ONCE", request.param)


@pytest.mark.usefixtures("_blocks")
class TestKernel:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1e-15, 0.0), (1e15, 0), (1, 1e3)])
    def test_equals_its_formula(self, dtype, scale, offset):
        kernel = Kernel((scale * X + offset).astype(dtype), scale * 1.5)
        rows = np.array([7, 100, 3])
        tolerance = 2e-3 if dtype == np.float32 else 1e-3
        found, expected = kernel.between(rows), similarities(X[rows], X, 1.5)
        np.testing.assert_allclose(found, expected, atol=tolerance)
        found = kernel.to_nearest(scale * LABELLED + offset)
        expected = similarities(X, LABELLED, 1.5).max(axis=1)
        np.testing.assert_allclose(found, expected, atol=tolerance)

    def test_nothing_is_similar_to_no_instance(self):
        assert not Kernel(X, 1.0).to_nearest(X[:0]).any()

    @pytest.mark.parametrize("bandwidth", [0.0, 1e-5, 1.0])
    def test_equal_instances_are_exactly_equal_and_others_are_told_apart(self, bandwidth):
        twins = np.repeat(np.arange(4.0)[:, None], 3, axis=0) * np.ones(50) + 0.1
        found = Kernel(twins, bandwidth).between(np.arange(12))
        is_equal = np.arange(12)[:, None] // 3 == np.arange(12) // 3
        assert (found[is_equal] == 1).all()
        assert (found[~is_equal] < 1e-6).all()

    def test_clumps_that_float32_cannot_tell_apart(self):
        clumps = np.repeat([[0.0], [1e3]], 60, axis=0) + 0.01 * X
        found = Kernel(clumps, 0.01).between(np.arange(120))
        np.testing.assert_allclose(found, similarities(clumps, clumps, 0.01), atol=0.02)


def drawn(seed, n_candidates=60):
    """Similarities of candidates to a pool, weights and coverage, float32."""
    rng = np.random.default_rng(seed)
    candidates = rng.choice(len(X), n_candidates, replace=False)
    kernel = Kernel(np.round(X, 1 if seed % 2 else 9), 0.8)
    weights = rng.random(len(X)).astype(np.float32)
    return kernel.between(candidates), weights, kernel.to_nearest(LABELLED)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("seed", range(6))
def test_lazy_is_the_naive_greedy_choice(seed):
    problem = drawn(seed)
    chosen, _ = herd(*problem, 60)
    np.testing.assert_array_equal(chosen, naive(*problem, 60))


def test_gains_are_those_of_the_formula():
    similar, weights, covered = drawn(0)
    expected = np.maximum(similar.astype(np.float64) - covered, 0) @ weights
    np.testing.assert_allclose(gains(similar, weights, covered), expected, rtol=1e-5)
    np.testing.assert_allclose(herd(similar, weights, covered, 1)[1], expected, rtol=1e-5)


def test_what_gains_nothing_comes_in_the_order_of_the_candidates():
    ones = np.ones((5, 9), dtype=np.float32)
    everything = np.ones(9, dtype=np.float32)
    np.testing.assert_array_equal(herd(ones, everything, everything, 5)[0], np.arange(5))
    np.testing.assert_array_equal(herd(ones, 0 * everything, 0 * everything, 5)[0], np.arange(5))
    rounded = np.nextafter(ones, 2)
    np.testing.assert_array_equal(herd(rounded, everything, everything, 1)[1], np.zeros(5))


def test_few_gains_are_found_again():
    """Most bounds of earlier choices suffice, so that a batch costs little more than one choice."""
    similar, weights, covered = drawn(0, 120)
    rows_read = []

    class Counting(np.ndarray):
        def __getitem__(self, key):
            part = super().__getitem__(key)
            if isinstance(key, slice) and part.ndim == 2:
                rows_read.append(len(part))
            return part

    herd(similar.view(Counting), weights, covered, 12)
    assert sum(rows_read) < 0.5 * 12 * 120
