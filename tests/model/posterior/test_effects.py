import numpy as np
import pytest
import torch

from laplace_al.model.posterior.effects import Effect

PHI = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]]).double()
U = torch.tensor([[1.0, 0.5], [-1.0, 2.0]]).double()


@pytest.mark.parametrize("n_directions", [1, 2])
def test_it_is_the_equation_number_by_number(n_directions):
    directions = U[:, :n_directions]
    a, s = np.array([2.0, -3.0]), np.array([0.1, 0.2])[:n_directions]
    before = torch.ones(3, 2).double(), torch.full((3, n_directions), 9.0).double()
    effect = Effect(directions, a, s)
    logits = effect.logits_after(PHI @ directions, before[0])
    variance = effect.variance_after(PHI @ directions, before[1])
    for i in range(3):
        for k in range(2):
            c = PHI[i] @ directions[:, min(k, n_directions - 1)]
            assert logits[i, k] == pytest.approx(1 + c * a[k])
            if k < n_directions:
                assert variance[i, k] == pytest.approx(9 - s[k] * c**2)
    assert (before[0] == 1).all()
    assert (before[1] == 9).all()


def test_one_variance_for_all_logits_has_no_axis():
    effect = Effect(U[:, :1], np.ones(2), np.ones(1))
    variance = effect.variance_after(PHI @ U[:, :1], torch.full((3,), 90.0).double())
    torch.testing.assert_close(variance, 90 - (PHI @ U[:, 0]) ** 2)


def test_what_has_no_number_stays():
    logits, variance = torch.zeros(3, 2).double(), torch.full((3, 2), 90.0).double()
    assert Effect(U, None, np.ones(1)).logits_after(PHI @ U, logits) is logits
    assert Effect(U, np.ones(1), None).variance_after(PHI @ U, variance) is variance


def test_it_writes_where_it_is_told():
    effect = Effect(U, np.ones(1), np.ones(1))
    logits, variance = torch.zeros(3, 2).double(), torch.full((3, 2), 90.0).double()
    assert effect.logits_after(PHI @ U, logits, out=logits) is logits
    assert effect.variance_after(PHI @ U, variance, out=variance) is variance
    torch.testing.assert_close(logits, PHI @ U)
    torch.testing.assert_close(variance, 90 - (PHI @ U) ** 2)


def test_a_variance_never_falls_below_zero():
    variance = Effect(U, None, np.ones(1)).variance_after(PHI @ U, torch.zeros(3, 2).double())
    assert not variance.any()
