from types import SimpleNamespace

import numpy as np
import pytest
import torch

from laplace_al import LaplaceUpdateClassifier
from laplace_al.classifier.encoder import Encoder, labels_of_fit
from laplace_al.inputs.input_format import InputFormat

X, y = np.array([[-1.0], [-2.0], [1.0], [2.0]]), ["no", "no", "yes", "yes"]


def params(**changed):
    return SimpleNamespace(**LaplaceUpdateClassifier(**changed).get_params(deep=False))


def encoder(**changed):
    inputs, _ = InputFormat.of_first(X, None, name="Some", with_head=False)
    return Encoder.of("Some", params(**changed), inputs, np.array(["no", "yes"]))


class TestLabelsOfFit:
    def test_they_fix_the_classes(self):
        classes, indices, weights = labels_of_fit(params(), y, None, 4)
        assert (classes.tolist(), indices.tolist()) == (["no", "yes"], [0, 0, 1, 1])
        assert weights.tolist() == [1.0] * 4

    def test_weights_of_classes_multiply_those_of_samples(self):
        _, _, weights = labels_of_fit(params(class_weight={"no": 3.0}), y, [1, 2, 1, 0], 4)
        assert weights.tolist() == [3.0, 6.0, 1.0, 0.0]

    def test_declared_classes_need_not_occur(self):
        classes, _, _ = labels_of_fit(params(classes=["yes", "no", "maybe"]), y[:2], None, 2)
        assert classes.tolist() == ["maybe", "no", "yes"]

    @pytest.mark.parametrize(
        ("changed", "labels", "match"),
        [
            ({}, ["no"] * 4, "at least 2 classes to fit; got 1 class"),
            ({"class_weight": {"no": 0, "yes": 0}}, y, "class_weight"),
            ({"classes": ["no", "maybe"]}, y, "yes"),
        ],
    )
    def test_what_is_refused(self, changed, labels, match):
        with pytest.raises(ValueError, match=match):
            labels_of_fit(params(**changed), labels, None, 4)


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_inputs_and_their_features_give_the_same_instances(fit_intercept, dtype):
    made = encoder(fit_intercept=fit_intercept, dtype=dtype)
    indices, weights = np.array([0, 0, 1, 1]), np.ones(4)
    one, other = made.labelled(X, indices, weights), made.labelled_inputs(X, indices, weights)
    assert one.features.shape == (4, 1 + fit_intercept)
    assert one.features.dtype == getattr(torch, dtype)
    assert one.targets.T.tolist() == [[0, 0, 1, 1]]
    for part, twin in zip(one[:3], other[:3], strict=True):
        torch.testing.assert_close(part, twin)


@pytest.mark.parametrize("prior_precision", ["scale", 0.3])
def test_the_first_labels_determine_a_prior_by_scale(prior_precision):
    changed = params(prior_precision=prior_precision)
    made = encoder()
    data = made.labelled(X, np.array([0, 0, 1, 1]), np.ones(4))
    begun = made.before_labels(changed, data, made.checked_prior_mean(changed, data, None))
    fitted = LaplaceUpdateClassifier(prior_precision=prior_precision).fit(X, y)
    assert begun.model.posterior.prior_precision == fitted.prior_precision_
    assert not begun.model.posterior.mean.any()
    assert begun.mode is None
