import pytest
import torch

from laplace_al.posterior.effects import Effect

PHI = torch.tensor([[1.0, 2.0], [0.0, -1.0], [3.0, 1.0]]).double()
U = torch.tensor([[1.0, 0.5], [-1.0, 2.0]]).double()


@pytest.mark.parametrize("n_directions", [1, 2])
def test_it_is_the_equation_number_by_number(n_directions):
    directions = U[:, :n_directions]
    a, s = torch.tensor([2.0, -3.0]).double(), torch.tensor([0.1, 0.2][:n_directions]).double()
    logits, variance = torch.ones(3, 2).double(), torch.full((3, n_directions), 9.0).double()
    Effect(directions, a, s).apply(PHI @ directions, logits, variance)
    for i in range(3):
        for k in range(2):
            c = PHI[i] @ directions[:, min(k, n_directions - 1)]
            assert logits[i, k] == pytest.approx(1 + c * a[k])
            if k < n_directions:
                assert variance[i, k] == pytest.approx(9 - s[k] * c**2)


def test_one_variance_for_all_logits_has_no_axis():
    logits, variance = torch.zeros(3, 2).double(), torch.full((3,), 90.0).double()
    Effect(U[:, :1], torch.ones(2).double(), torch.ones(1).double()).apply(
        PHI @ U[:, :1], logits, variance
    )
    torch.testing.assert_close(variance, 90 - (PHI @ U[:, 0]) ** 2)


def test_what_has_no_number_stays():
    logits, variance = torch.zeros(3, 2).double(), torch.full((3, 2), 90.0).double()
    Effect(U, None, torch.ones(1).double()).apply(PHI @ U, logits, variance)
    assert not logits.any()
    torch.testing.assert_close(variance, 90 - (PHI @ U) ** 2)
    Effect(U, torch.ones(1).double(), None).apply(PHI @ U, logits, variance)
    torch.testing.assert_close(logits, PHI @ U)
    torch.testing.assert_close(variance, 90 - (PHI @ U) ** 2)
