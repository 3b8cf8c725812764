import pytest
import torch

from laplace_al.posterior.factor import cholesky_factor


def test_the_factor_multiplies_back():
    matrix = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    factor = cholesky_factor(matrix)
    torch.testing.assert_close(factor @ factor.T, matrix)


@pytest.mark.parametrize("wrong", [0.0, -1.0, float("nan"), float("inf")])
def test_a_matrix_without_a_factor_names_the_cure(wrong):
    with pytest.raises(ValueError, match=r"prior_precision is lost .* StandardScaler"):
        cholesky_factor(torch.eye(2) * wrong)
