"""Arrays as blocks of rows, with a label and a weight for each row."""

import dask.array as da
import numpy as np
import pytest
from dask_blocks import X_BLOCKS, X, close, y
from sklearn.base import clone

from laplace_al import LaplaceUpdateClassifier
from laplace_al.integrations import dask as over_blocks
from laplace_al.strategies import MarginSampling

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        ([None, *y[1:]], "y must hold labels; got None at position 0"),
        (np.ma.array(y, mask=y == y[0]), "got a masked label at position 0"),
        (da.from_array(np.ma.array(y, mask=y == y[0])), "got a masked label at position 0"),
        ([0, *y[1:]], "of one kind; got numbers and text"),
    ],
)
def test_labels_that_are_none(labels, match):
    for learn in (over_blocks.fit, over_blocks.partial_fit):
        with pytest.raises(ValueError, match=match):
            learn(LaplaceUpdateClassifier(classes=["a", "b", "c"]), X_BLOCKS, labels)


def test_masked_weights():
    weights = np.ma.array(np.ones(2000), mask=np.arange(2000) == 7)
    for given in (weights, da.from_array(weights, chunks=500)):
        with pytest.raises(ValueError, match="sample_weight has masked values, 1 of 2000"):
            over_blocks.fit(LaplaceUpdateClassifier(), X_BLOCKS, y, given)


def test_unknown_sizes(fitted):
    unknown = X_BLOCKS[X_BLOCKS[:, 0] > 0]
    known = X[X[:, 0] > 0]
    assert np.isnan(unknown.shape[0])
    found = over_blocks.query(MarginSampling(random_state=0), fitted, unknown, 9)
    expected = MarginSampling(random_state=0).query(fitted, known, 9)
    np.testing.assert_array_equal(found, expected)
    close(over_blocks.predict_proba(fitted, unknown).compute(), fitted.predict_proba(known))
    close(over_blocks.features(unknown, np.square).compute(), known**2)
    assert np.isnan(unknown.shape[0])


@pytest.mark.parametrize("weights", [np.ones(2001), 2.0, np.ones((2000, 1))])
def test_one_weight_for_each_row(fitted, weights):
    for learn in (over_blocks.fit, over_blocks.partial_fit):
        with pytest.raises(ValueError, match=r"sample_weight must have shape \(2000,\)"):
            learn(clone(fitted), X_BLOCKS, y, sample_weight=weights)


def test_no_rows(fitted):
    with pytest.raises(ValueError, match="X has 0 rows"):
        over_blocks.partial_fit(clone(fitted), X_BLOCKS[:0], y[:0], classes=["a", "b"])
