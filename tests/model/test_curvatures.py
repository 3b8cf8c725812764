import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplace_al.model.curvatures import (
    full_curvature_root,
    identity_root,
    mirror_curvature,
    open_stiffening,
    per_class_curvature,
    secant_stiffening,
    shared_curvature,
    steepening,
)
from laplace_al.model.likelihoods import Bernoulli, Categorical, Mean, likelihood_of

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
N_CLASSES = pytest.mark.parametrize("n_classes", [2, 3, 10])


def test_curvatures():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]])
    mean = Mean(p, 1 - p)
    torch.testing.assert_close(shared_curvature(mean), torch.tensor([[0.21], [0.25]]))
    torch.testing.assert_close(
        per_class_curvature(mean), torch.tensor([[0.21, 0.16, 0.09], [0.1875, 0.25, 0.1875]])
    )
    one_logit = torch.tensor([[0.3], [0.7]])
    for curvature in (shared_curvature, per_class_curvature):
        torch.testing.assert_close(
            curvature(Mean(one_logit, 1 - one_logit)), torch.tensor([[0.21], [0.21]])
        )
        for i, row in enumerate(p.numpy()):  # and of one instance, as a vector
            np.testing.assert_allclose(curvature(Mean(row, 1 - row)), curvature(mean)[i])


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_roots_of_one_instance_are_those_of_a_vector(n_outputs):
    p = np.random.default_rng(0).uniform(0.1, 0.3, size=n_outputs)
    row = torch.from_numpy(p)[None]
    for root in (full_curvature_root, identity_root):
        expected = root(Mean(p, 1 - p))
        np.testing.assert_allclose(root(Mean(row, 1 - row)), expected)
    np.testing.assert_array_equal(expected, np.eye(n_outputs))


@DTYPES
@N_CLASSES
def test_curvatures_keep_their_digits_however_sure_a_label_is(n_classes, dtype):
    likelihood = likelihood_of(n_classes)
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.uniform(-40, 40, size=(100, likelihood.n_outputs))).to(dtype)
    number = torch.finfo(dtype)
    exact = {"rtol": 400 * number.eps, "atol": 10 * number.tiny}  # logits 80 apart
    for i, z in enumerate(logits.double().numpy()):
        mean = likelihood.mean(logits[i : i + 1])
        p, complement = reference.mean(z)
        hessian = -np.outer(p, p)
        np.fill_diagonal(hessian, p * complement)
        root = full_curvature_root(mean)
        np.testing.assert_allclose(per_class_curvature(mean)[0], p * complement, **exact)
        np.testing.assert_allclose(
            shared_curvature(mean)[0, 0], (p * complement)[p.argmax()], **exact
        )
        np.testing.assert_allclose(root @ root.T, hessian, **exact)


def test_stiffening_is_the_secant_over_the_curvature():
    logits = torch.tensor([[3.0, 0.0, -1.0], [0.5, 0.0, 0.0]]).double()
    without = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.3, 0.0]]).double()
    mean, before = map(Categorical(3).mean, (logits, without))
    factor = secant_stiffening(mean, before, logits - without)
    for i, k in np.ndindex(2, 3):
        moved = logits[i, k] - without[i, k]
        p = mean.p[i, k]
        secant = (p - before.p[i, k]) / moved if moved != 0 else -1
        expected = (secant / (p * (1 - p))) ** 0.2 if secant > 0 else 1.0
        assert float(factor[i, k]) == pytest.approx(float(expected))
    assert factor[0, 0] > 1


@DTYPES
@N_CLASSES
def test_stiffening_keeps_its_digits_however_sure_a_label_is(n_classes, dtype):
    likelihood = likelihood_of(n_classes)
    rng = np.random.default_rng(0)
    without = rng.uniform(-15, 15, size=(100, likelihood.n_outputs))
    moved = rng.uniform(0.5, 5, size=without.shape) * rng.choice([-1, 1], size=without.shape)
    logits, without = (torch.from_numpy(z).to(dtype) for z in (without + moved, without))
    moved = logits - without
    factor = secant_stiffening(likelihood.mean(logits), likelihood.mean(without), moved)
    for i in range(100):
        (p, complement), (before, complement_before) = (
            reference.mean(z[i].double().numpy()) for z in (logits, without)
        )
        gained = np.where(p < 0.5, p - before, complement_before - complement)
        secant = gained / moved[i].double().numpy()
        ratio = np.where(secant > 0, secant / (p * complement), 1.0)
        np.testing.assert_allclose(factor[i], ratio**0.2, rtol=1000 * torch.finfo(dtype).eps)


@DTYPES
def test_stiffening_is_the_same_for_either_of_two_classes(dtype):
    logits = torch.linspace(-40, 40, 60, dtype=dtype)[:, None]
    without = logits - torch.linspace(-5, 5, 60, dtype=dtype)[:, None]
    mean = Bernoulli().mean
    for one, other in [(logits, without), (without, logits)]:
        torch.testing.assert_close(
            secant_stiffening(mean(one), mean(other), one - other),
            secant_stiffening(mean(-one), mean(-other), other - one),
        )


def test_a_label_that_moves_nothing_is_not_stiffened():
    p = torch.tensor([[0.9, 0.1], [1.0, 0.0]]).double()
    mean, other = Mean(p, 1 - p), Mean(1 - p, p)
    factor = secant_stiffening(mean, mean, torch.zeros(2, 2).double())
    torch.testing.assert_close(factor, torch.ones(2, 2).double())
    far = secant_stiffening(mean, other, torch.tensor([[1000.0, -1000.0]] * 2).double())
    assert torch.isfinite(far).all()
    assert torch.isfinite(far * per_class_curvature(mean)).all()


LOGITS = st.lists(st.floats(-1000, 1000), min_size=3, max_size=5)


@given(st.tuples(LOGITS, LOGITS), st.sampled_from([torch.float32, torch.float64]))
def test_stiffening_is_finite_and_takes_the_curvature_as_it_is(pair, dtype):
    """A secant is at most 1 / |z - z^-|."""
    size = min(map(len, pair))
    logits, without = (torch.tensor([row[:size]], dtype=dtype) for row in pair)
    mean, before = map(Categorical(size).mean, (logits, without))
    factor = secant_stiffening(mean, before, logits - without)
    assert torch.isfinite(factor).all()
    curvature = per_class_curvature(mean)
    assert (curvature * factor <= curvature**0.8 * 1e4**0.2 + curvature).all()


def test_a_curvature_that_is_rounded_away_is_not_stiffened():
    far = torch.tensor([[1.0], [0.0]])
    factor = secant_stiffening(
        Mean(far, 1 - far), Mean(1 - far, far), torch.tensor([[100.0], [-100.0]])
    )
    torch.testing.assert_close(factor, torch.ones(2, 1))
    below = torch.tensor([[1.0, 1e-40, 0.0]])  # p (1 - p) is no number with all its digits
    mean = Mean(below, torch.tensor([[1e-40, 1.0, 1.0]]))
    before = Categorical(3).mean(torch.zeros(1, 3))
    factor = secant_stiffening(mean, before, torch.tensor([[9.0, -9.0, -9.0]]))
    torch.testing.assert_close(factor, torch.ones(1, 3))


@DTYPES
def test_the_mirror_is_the_flattest_quadratic_above_the_loss(dtype):
    """For one logit it touches the loss at z and at -z, and lies above in between and beyond."""
    z = torch.tensor([-30.0, -2.0, -1e-4, 0.0, 0.5, 8.0], dtype=dtype)[:, None]
    mean, wide = Bernoulli().mean(z), torch.linspace(-40, 40, 801, dtype=dtype)
    curvature = mirror_curvature(mean)

    def loss(logits):
        return torch.nn.functional.softplus(-logits)

    def above(logits):  # slope p - y at z, y = 1
        away = logits - z
        return loss(z) - mean.complement * away + curvature * away**2 / 2

    close = {"rtol": 1e-4, "atol": 1e-4}
    assert (above(wide) >= loss(wide) - 1e-4).all()
    torch.testing.assert_close(above(-z), loss(-z), **close)
    for row, one in zip(mean.p.numpy(), mean.complement.numpy(), strict=True):  # and as vectors
        expected = mirror_curvature(Mean(torch.tensor(row), torch.tensor(one)))
        np.testing.assert_allclose(mirror_curvature(Mean(row, one)), expected, rtol=1e-6)


def test_what_is_open_is_stiffer_the_less_is_known_of_it():
    p = torch.tensor([[0.98, 0.01, 0.01]]).double()
    mean = Mean(p, 1 - p)
    ratio = mirror_curvature(mean) / per_class_curvature(mean)
    known = open_stiffening(mean, torch.full((1, 3), 7.0).double())
    torch.testing.assert_close(known, torch.ones_like(ratio))
    torch.testing.assert_close(open_stiffening(mean, torch.tensor([[7.0]]).double()), known)
    variance = torch.tensor([[1.0, 1.0, 16.0]]).double()
    opened = open_stiffening(mean, variance)
    torch.testing.assert_close(opened[:, :2], known[:, :2])
    torch.testing.assert_close(opened[0, 2], ratio[0, 2] ** (7 / 8))
    torch.testing.assert_close(open_stiffening(mean, variance, 0.2)[0, 2], ratio[0, 2] ** 0.9)


def test_only_what_the_data_said_is_steepened():
    before, after = (Bernoulli().mean(torch.tensor([[z]]).double()) for z in (-6.0, -3.0))
    variance = torch.tensor([[0.5]]).double()
    ratio = per_class_curvature(after) / per_class_curvature(before)
    torch.testing.assert_close(steepening(before, after, variance, 2.0), (ratio**0.5 - 1) * 1.5)
    for nothing in [
        steepening(after, before, variance, 2.0),  # where the curvature falls
        steepening(before, before, variance, 2.0),
        steepening(before, after, variance, 0.5),  # where the prior is all
    ]:
        assert nothing.item() == 0


def test_a_shared_precision_grows_as_little_as_that_of_any_class():
    z = torch.tensor([[0.0, 4.0, 0.0], [0.0, -4.0, -4.0]]).double()
    before, after = (Categorical(3).mean(row[None]) for row in (z[0], z[1] / 2))
    each = steepening(before, after, torch.ones(1, 3).double(), 3.0)
    shared = steepening(before, after, torch.ones(1, 1).double(), 3.0)
    torch.testing.assert_close(shared, each.amin(dim=1, keepdim=True))


@given(LOGITS, LOGITS, st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_a_label_weighs_a_quarter_at_most_beside_what_was_known(before, after, one, other):
    size = min(len(before), len(after))
    before, after = (
        Categorical(size).mean(torch.tensor([z[:size]], dtype=torch.float64))
        for z in (before, after)
    )
    variance = torch.full((1, size), one, dtype=torch.float64)
    variance[0, 0] = other
    own = per_class_curvature(after) * open_stiffening(after, variance)
    assert (own <= 0.25 + 1e-12).all()
    assert (own >= per_class_curvature(after) - 1e-12).all()
    grown = steepening(before, after, variance, max(one, other))
    assert (grown >= 0).all()
    assert (grown * variance <= 1e3).all()
