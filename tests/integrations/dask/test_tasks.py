"""What workers keep of a pool."""

import dask.array
import numpy as np
import pytest
import torch
from dask_blocks import X, y

from laplace_al import LaplaceUpdateClassifier
from laplace_al.integrations.dask import tasks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_features_keep_their_dtype_and_dask_knows_their_size(dtype, fitted):
    block = X[:700].astype(dtype)
    kept = tasks.kept_features(fitted.fitted_.inputs, block, "Name", torch.float64, "cpu")
    assert kept.tensor.numpy().dtype == dtype
    assert 0 <= dask.sizeof.sizeof(kept) - block.nbytes < 100


def test_dask_knows_the_size_of_scores(fitted):
    features = tasks.KeptFeatures(torch.from_numpy(X[:700]))
    kept = tasks.scored(fitted.current_model(), features)
    assert 0 <= dask.sizeof.sizeof(kept) - 700 * (3 + 3 + 1) * 8 < 100
    effects = fitted.pool_state(X[5:6]).learn([0], ["a"], [1.0])
    later = tasks.followed(fitted.current_model().without_posterior(), effects, features, kept)
    assert 0 <= dask.sizeof.sizeof(later) - 700 * (3 + 3 + 1) * 8 < 100


def test_scores_that_follow_are_those_of_the_updated_model(fitted):
    features = tasks.KeptFeatures(torch.from_numpy(X[:700]))
    kept = tasks.scored(fitted.current_model(), features)
    effects = fitted.pool_state(X[5:6]).learn([0], ["a"], [1.0])
    later = tasks.followed(fitted.current_model().without_posterior(), effects, features, kept)
    clf = LaplaceUpdateClassifier(calibration=None).fit(X[:60], y[:60]).partial_fit(X[5:6], ["a"])
    expected = tasks.scored(clf.current_model(), features).scores
    for found, known in zip(later.scores, expected, strict=True):
        torch.testing.assert_close(found, known)
    assert later.when_scored is kept.when_scored
    assert tasks.has_digits(features, later)
