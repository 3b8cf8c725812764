import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplace_al.curvatures import (
    per_class_curvature,
    secant_stiffening,
    shared_curvature,
)


def test_curvatures():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
    torch.testing.assert_close(shared_curvature(p), torch.tensor([[0.21], [0.25]]))
    torch.testing.assert_close(
        per_class_curvature(p), torch.tensor([[0.21, 0.16, 0.09], [0.1875, 0.25, 0.1875]])
    )
    one_logit = torch.tensor([[0.3], [0.7]])
    for curvature in (shared_curvature, per_class_curvature):
        torch.testing.assert_close(curvature(one_logit), torch.tensor([[0.21], [0.21]]))
        for row in p.numpy():  # and of one instance, as a vector
            np.testing.assert_allclose(curvature(row), curvature(torch.from_numpy(row)[None])[0])


def test_stiffening_is_the_secant_over_the_curvature():
    logits = torch.tensor([[3.0, 0.0, -1.0], [0.5, 0.0, 0.0]]).double()
    without = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.3, 0.0]]).double()
    p, before = torch.softmax(logits, dim=1), torch.softmax(without, dim=1)
    factor = secant_stiffening(p, before, logits - without)
    for i, k in np.ndindex(2, 3):
        moved = logits[i, k] - without[i, k]
        secant = (p[i, k] - before[i, k]) / moved if moved != 0 else -1
        expected = (secant / (p[i, k] * (1 - p[i, k]))) ** 0.2 if secant > 0 else 1.0
        assert float(factor[i, k]) == pytest.approx(float(expected))
    assert factor[0, 0] > 1


def test_a_label_that_moves_nothing_is_not_stiffened():
    p = torch.tensor([[0.9, 0.1], [1.0, 0.0]]).double()
    factor = secant_stiffening(p, p, torch.zeros(2, 2).double())
    torch.testing.assert_close(factor, torch.ones(2, 2).double())
    far = secant_stiffening(p, 1 - p, torch.tensor([[1000.0, -1000.0]] * 2).double())
    assert torch.isfinite(far).all()
    assert torch.isfinite(far * per_class_curvature(p)).all()


LOGITS = st.lists(st.floats(-1000, 1000), min_size=3, max_size=5)


@given(st.tuples(LOGITS, LOGITS), st.sampled_from([torch.float32, torch.float64]))
def test_stiffening_is_finite_and_takes_the_curvature_as_it_is(pair, dtype):
    """A secant is at most 1 / |z - z^-|, and 1 - p is the sum of the others."""
    size = min(map(len, pair))
    logits, without = (torch.tensor([row[:size]], dtype=dtype) for row in pair)
    p, before = torch.softmax(logits, dim=1), torch.softmax(without, dim=1)
    factor = secant_stiffening(p, before, logits - without)
    assert torch.isfinite(factor).all()
    curvature = p * (torch.ones(size, size) - torch.eye(size)).to(dtype).matmul(p[0])
    assert (curvature * factor <= curvature**0.8 * 1e4**0.2 + curvature).all()


def test_a_curvature_that_is_rounded_away_is_not_stiffened():
    far = torch.tensor([[1.0], [0.0]])
    factor = secant_stiffening(far, 1 - far, torch.tensor([[100.0], [-100.0]]))
    torch.testing.assert_close(factor, torch.ones(2, 1))
    below = torch.tensor([[1.0, 1e-40, 0.0]])  # p (1 - p) is no number with all its digits
    factor = secant_stiffening(below, torch.full((1, 3), 1 / 3), torch.tensor([[9.0, -9.0, -9.0]]))
    torch.testing.assert_close(factor, torch.ones(1, 3))
