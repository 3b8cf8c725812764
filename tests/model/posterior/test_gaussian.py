import pytest
import torch

from laplace_al.model.posterior.gaussian import grouped, ungrouped
from laplace_al.model.structures import STRUCTURES


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 4, 4), (1, 12, 12)])
def test_groups_of_columns_come_back(shape):
    matrix = torch.arange(12.0).reshape(4, 3)
    groups = grouped(matrix, torch.empty(shape))
    assert groups.shape[:2] == shape[:2]
    assert torch.equal(ungrouped(groups, matrix), matrix)


@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name != "full"])
def test_covariances_with_logits_are_products_with_features(structure):
    features = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    kind = STRUCTURES[structure].posterior
    curvature = torch.rand(6, 1 if structure == "shared" else 3).double()
    posterior = kind.at_mode(torch.zeros(4, 3).double(), features, curvature, 0.5)
    found = torch.stack(list(posterior.covariances(features)))
    expected = posterior.covariance.reshape(-1, 4, 4) @ features.T
    torch.testing.assert_close(found, expected)
