import numpy as np
import pandas as pd
import pytest
import torch
from classifier_cases import X, assert_refused, convolutional, module, y
from scipy.sparse import csr_matrix

from laplace_al import LaplaceUpdateClassifier, TorchFeatures

WRONG = {
    "prior_precision": [0, -1.0, np.nan, np.inf, None],
    "covariance": ["diagonal", None],
    "curvature": ["hessian"],
    "update": ["sgd"],
    "step_size": [0, -1],
    "n_passes": [0, 1.5],
    "predictive": ["probit"],
    "n_samples": [0],
    "fit_intercept": ["yes"],
    "head": ["train"],
    "classes": [3],
    "class_weight": ["auto"],
    "forgetting": [0, 1.1],
    "dtype": ["float16"],
    "max_iter": [0],
    "tol": [-1],
    "warm_start": ["yes"],
    "batch_size": [0],
    "device": [3],
    "random_state": ["seed"],
    "verbose": ["yes"],
}


class TestErrors:
    """Each names the argument, and leaves the object bit for bit as it was."""

    @pytest.fixture(params=[None, "network"])
    def fitted(self, request):
        extractor = None if request.param is None else module()
        return LaplaceUpdateClassifier(extractor).fit(X[:100], y[:100])

    @pytest.mark.parametrize(
        ("name", "value"),
        [(name, value) for name in WRONG for value in WRONG[name]],
    )
    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_wrong_parameters(self, name, value, method):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).set_params(**{name: value})
        match = (
            rf"The '{name}' parameter of LaplaceUpdateClassifier must be .*Got {value!r} instead"
        )
        assert_refused(clf, method, (X, y), match)

    def test_wrong_parameters_of_a_prediction(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).set_params(predictive="probit")
        assert_refused(clf, "predict_proba", (X,), "The 'predictive' parameter")

    def test_a_change_of_dtype_waits_for_the_next_fit(self):
        clf = LaplaceUpdateClassifier().fit(X[:100], y[:100]).set_params(dtype="float32")
        assert clf.partial_fit(X[100:110], y[100:110]).posterior_.mean.dtype == torch.float64
        assert clf.predict_proba(X).shape == (len(X), 10)
        assert clf.fit(X[:100], y[:100]).posterior_.mean.dtype == torch.float32

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    @pytest.mark.parametrize("wrong", [np.nan, np.inf])
    def test_inputs_that_are_not_finite(self, fitted, method, wrong):
        A = X[:5].copy()
        A[2, 3] = wrong
        assert_refused(fitted, method, (A, y[:5]), "Input X contains (NaN|infinity)")
        assert_refused(fitted, "predict", (A,), "Input X contains (NaN|infinity)")

    def test_the_number_of_features(self, fitted):
        match = "X has 63 features, but LaplaceUpdateClassifier is expecting 64"
        assert_refused(fitted, "partial_fit", (X[:5, 1:], y[:5]), match)
        assert_refused(fitted, "predict", (X[:5, 1:],), match)

    def test_sparse_inputs(self, fitted):
        assert_refused(fitted, "fit", (csr_matrix(X), y), "dense data is required", TypeError)

    def test_labels_outside_classes(self, fitted):
        match = r"labels that are not among the classes: \[11, 12\]; known are \[0, .*add_classes"
        assert_refused(fitted, "partial_fit", (X[:3], [1, 11, 12]), match)
        clf = LaplaceUpdateClassifier(classes=[0, 1])
        assert_refused(clf, "fit", (X[:3], [0, 1, 2]), r"not among the classes: \[2\]")

    def test_no_classes_on_the_first_partial_fit(self):
        clf = LaplaceUpdateClassifier()
        match = "classes must be passed on the first call to partial_fit"
        assert_refused(clf, "partial_fit", (X, y), match)

    def test_other_classes_on_a_later_partial_fit(self, fitted):
        match = "is not the same as on last call to partial_fit"
        assert_refused(fitted, "partial_fit", (X[:3], y[:3]), match, classes=range(9))
        fitted.partial_fit(X[:3], y[:3], classes=range(10))

    def test_other_classes_than_the_parameter(self):
        clf = LaplaceUpdateClassifier(classes=range(10))
        assert_refused(
            clf, "partial_fit", (X[:3], y[:3]), "the parameter classes", classes=range(9)
        )

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    @pytest.mark.parametrize(
        ("weights", "match"),
        [
            ([1, -1, 1], "sample_weight must be >= 0; got -1"),
            ([0, 0, 0], "sample_weight is zero for every instance"),
            ([1, np.nan, 1], "sample_weight must hold finite numbers.* contains NaN"),
            ([1, None, 1], "sample_weight must hold finite numbers.* contains NaN"),
            (pd.array([1, None, 1], dtype="Int64"), "sample_weight must hold finite.* NaN"),
            ([1, pd.NA, 1], "sample_weight must hold finite numbers"),
            (np.ma.array([1, 9, 1], mask=[0, 1, 0]), "sample_weight has masked values, 1 of 3"),
            (np.array(["2020"] * 3, dtype="datetime64[Y]"), "sample_weight .* datetime64"),
            (iter([1, 2, 3]), "sample_weight must hold finite numbers"),
            ([1, 1], r"sample_weight must have shape \(3,\).* got \(2,\)"),
        ],
    )
    def test_wrong_weights(self, fitted, method, weights, match):
        assert_refused(fitted, method, (X[:3], y[:3]), match, sample_weight=weights)

    @pytest.mark.parametrize(
        "method",
        [
            "fit",
            "partial_fit",
            "newton_decrement",
            "predict",
            "predict_proba",
            "transform",
            "score",
        ],
    )
    def test_masked_values(self, fitted, method):
        masked = np.ma.array(X[:3], mask=np.arange(X[:3].size).reshape(X[:3].shape) == 1)
        args = (y[:3],) if method in ("fit", "partial_fit", "newton_decrement", "score") else ()
        assert_refused(fitted, method, (masked, *args), r"X has masked values, 1 of .*X.filled")
        labels = np.ma.array(y[:3], mask=[False, True, False])
        if method == "score":
            weights = np.ma.array(np.ones(3), mask=[False, True, False])
            match = "sample_weight has masked values"
            assert_refused(fitted, method, (X[:3], y[:3]), match, sample_weight=weights)
        if args:
            match = "y must hold labels; got a masked label at position 1"
            assert_refused(fitted, method, (X[:3], labels), match)

    @pytest.mark.parametrize("method", ["fit", "partial_fit", "newton_decrement", "score"])
    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            ([0, None, 1], "y must hold labels; got None at position 1"),
            (["a", np.nan, "b"], "y must hold labels; got nan at position 1"),
            ([0, "a", 1], "y must hold labels of one kind"),
            ([True, 2, 1], "y must hold labels of one kind"),
            ([b"a", b"b", b"c"], r"label.decode\(\)"),
        ],
    )
    def test_labels_that_are_none(self, fitted, method, labels, match):
        assert_refused(fitted, method, (X[:3], labels), match)

    def test_negative_class_weight(self, fitted):
        fitted.set_params(class_weight={0: -1.0})
        assert_refused(fitted, "fit", (X, y), "class_weight must be >= 0")

    @pytest.mark.parametrize("method", ["fit", "partial_fit", "newton_decrement"])
    @pytest.mark.parametrize(
        "class_weight",
        [{0: np.nan}, {0: np.inf}, {0: 1e16}, {0: -1e-300}, dict.fromkeys(range(10), 0), {"0": 1}],
    )
    def test_wrong_weights_of_classes(self, fitted, method, class_weight):
        fitted.set_params(class_weight=class_weight)
        assert_refused(fitted, method, (X, y), "class_weight must .*got .*Give")

    def test_balanced_weights_of_a_stream(self, fitted):
        fitted.set_params(class_weight="balanced")
        assert_refused(fitted, "partial_fit", (X, y), "needs all labels at once")

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    def test_wrong_labels(self, fitted, method):
        assert_refused(fitted, method, (X[:3], [0.5, 1.2, 3.7]), "Unknown label type")
        assert_refused(
            fitted, method, (X[:3], y[:2]), "y must have one label per row of X: 3; got 2"
        )
        assert_refused(fitted, method, (X[:3], None), "requires y to be passed")

    def test_one_class(self, fitted):
        assert_refused(fitted, "fit", (X[:3], [1, 1, 1]), r"at least 2 classes to fit; got 1 class")
        weights = [1, 1, 0]
        match = r"positive weight: \[1\]. Pass classes="
        assert_refused(fitted, "fit", (X[:3], [1, 1, 0]), match, sample_weight=weights)
        clf = LaplaceUpdateClassifier(classes=["one"])
        assert_refused(clf, "fit", (X[:3], ["one"] * 3), "classes must hold at least 2 labels")

    @pytest.mark.parametrize(
        ("extractor", "match"),
        [
            (lambda X: X[:, 0], r"one row of features per input"),
            (lambda X: X * np.nan, "NaN or infinity for 2 of 2 inputs"),
            (lambda X: X[:, : len(X)], r"returned 5 features, but 2 when it was fitted"),
            (convolutional(), "has the convolution '1' as its head"),
            (TorchFeatures(module(), layer="fc"), r"layer='fc' is not a layer"),
        ],
    )
    def test_wrong_extractors(self, fitted, extractor, match):
        fitted.set_params(feature_extractor=extractor)
        assert_refused(fitted, "fit", (X[:5], y[:5]), match)
        assert_refused(LaplaceUpdateClassifier(extractor), "fit", (X[:5], y[:5]), match)

    def test_a_device_that_is_not_there(self, fitted):
        fitted.set_params(device="cuda:99")
        assert_refused(fitted, "fit", (X, y), r"device='cuda:99' is not available.*device='cpu'")

    @pytest.mark.parametrize("method", ["fit", "partial_fit"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
    def test_failures_inside_the_network(self, method, error):
        network = module()
        clf = LaplaceUpdateClassifier(network).fit(X[:100], y[:100])

        def fail(*_):
            raise error

        handle = network[0].register_forward_hook(fail)
        assert_refused(clf, method, (X, y), None, error)
        handle.remove()
        clf.partial_fit(X[:5], y[:5])
