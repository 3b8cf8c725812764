"""scikit-learn's own checks, with no expected failure."""

import pytest
import torch
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    parametrize_with_checks,
)
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures

PAPER = {
    "covariance": "shared",
    "curvature": "gaussian",
    "update": "newton",
    "step_size": 10.0,
    "calibration": None,
}


class Network(nn.Module):
    """A frozen network for inputs of any width up to 64, as the checks vary it."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.head = nn.Linear(128, 2, dtype=torch.float64)

    def forward(self, inputs):
        padded = nn.functional.pad(inputs, (0, 64 - inputs.shape[1]))
        return self.head(torch.cat([padded, torch.tanh(self.scale * padded)], dim=1))

    def __deepcopy__(self, memo):
        # check_estimators_overwrite_params compares joblib.hash of a parameter with that of its
        # deep copy, which differ for every torch tensor: its pickle holds an address
        return self


ESTIMATORS = [
    LaplaceUpdateClassifier(),
    LaplaceUpdateClassifier(**PAPER),
    LaplaceUpdateClassifier(covariance="shared", update="newton", predictive="plug_in"),
    LaplaceUpdateClassifier(covariance="full", predictive="bridge"),
    LaplaceUpdateClassifier(predictive="monte_carlo", n_samples=50, memory_size=None),
    LaplaceUpdateClassifier(calibration=None, curvature="categorical", memory_size=5),
    LaplaceUpdateClassifier(prior_precision="evidence"),
    LaplaceUpdateClassifier(Network()),
    TorchFeatures(Network()),
]


# the labels of many checks are random, of which the evidence says so
@pytest.mark.filterwarnings("ignore:prior_precision=.* chose:sklearn.exceptions.ConvergenceWarning")
@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:prior_precision=.* chose:sklearn.exceptions.ConvergenceWarning")
def test_column_names_are_checked_in_every_method():
    for estimator in ESTIMATORS:
        check_dataframe_column_names_consistency(type(estimator).__name__, estimator)
