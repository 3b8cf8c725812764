"""What a last layer says is tested with what it learns, in test_classifier.py."""

import copy

import numpy as np
import pytest

from laplace_al import LaplaceUpdateClassifier
from laplace_al.last_layer import LastLayer, drawn_seed

X = np.random.default_rng(0).normal(size=(30, 3))
y = np.arange(30) % 3
READERS = [
    "decision_function",
    "latent_mean_and_variance",
    "pool_state",
    "predict",
    "predict_log_proba",
    "predict_proba",
    "predict_uncertainty",
    "sample_proba",
    "transform",
]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("predictive", ["mean_field", "monte_carlo"])
def test_to_ask_changes_nothing(name, predictive):
    clf = LaplaceUpdateClassifier(predictive=predictive, n_samples=20).fit(X, y)
    before = copy.copy(vars(clf))
    getattr(clf, name)(X[:5])
    assert vars(clf) == before


def test_all_that_it_says_is_listed_here():
    said = {name for name in vars(LastLayer) if callable(getattr(LastLayer, name))}
    assert {name for name in said if not name.startswith(("_", "set_"))} == {*READERS, "score"}


def test_a_seed_is_itself_drawn_alike():
    assert drawn_seed(3) == drawn_seed(np.random.RandomState(3)) != drawn_seed(4)
