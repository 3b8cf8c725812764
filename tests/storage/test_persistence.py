import contextlib
import copy
import enum
import functools
import json
import pickle
import threading

import joblib
import numpy as np
import pandas as pd
import pytest
import skops.io
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from laplace_al import LaplaceUpdateClassifier, TorchFeatures
from laplace_al.storage.archive import read_archive, write_archive

X, y = load_digits(return_X_y=True)
X = np.ascontiguousarray(X[:, [10, 13, 20, 21, 26, 28, 34, 36, 43, 53]]) / 16
SETTINGS = [
    {},
    {"covariance": "shared", "curvature": "gaussian", "update": "newton", "calibration": None},
    {"covariance": "full", "predictive": "bridge"},
    {"dtype": "float32", "fit_intercept": False},
    {"forgetting": 0.99, "n_passes": 2},
    {"memory_size": 30},
    {"covariance": "low_rank", "memory_size": 30},
    {"memory_size": None, "prior_precision": 0.1},
    {"predictive": "monte_carlo", "n_samples": 20, "random_state": 3},
    {"class_weight": dict(enumerate([2.0, 0.5, 1, 1, 3])), "classes": list(range(6))},
]


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 10)).double()


def taught(n_classes=5, extractor=None, *, labels=None, **params):
    """A classifier with a fit and updates behind it, some of them not yet worked in."""
    rows = np.flatnonzero(y < n_classes)
    A, b = X[rows], y[rows] if labels is None else np.asarray(labels)[y[rows]]
    clf = LaplaceUpdateClassifier(extractor, **params).fit(A[:60], b[:60])
    clf.partial_fit(A[60:70], b[60:70]).partial_fit(A[70:71], b[70:71])
    return clf, A[71:], b[71:]


def saved(clf, folder, extractor=None, **options):
    clf.save(folder / "clf.safetensors", **options)
    return type(clf).load(folder / "clf.safetensors", extractor)


def check_twins(clf, twin, A, b):
    """Equal bits now, and after further labels."""
    for start in (0, 3, 4):
        for method in ("predict", "predict_proba", "decision_function", "predict_log_proba"):
            np.testing.assert_array_equal(getattr(clf, method)(A), getattr(twin, method)(A))
        for one, other in zip(
            clf.latent_mean_and_variance(A), twin.latent_mean_and_variance(A), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(clf.sample_proba(A[:9], 5), twin.sample_proba(A[:9], 5))
        rows = slice(start, start + 3)
        clf.partial_fit(A[rows], b[rows])
        twin.partial_fit(A[rows], b[rows])
    np.testing.assert_array_equal(clf.posterior_.root, twin.posterior_.root)
    assert clf.temperature_ == twin.temperature_


WAYS = {
    "save": lambda clf, folder: saved(clf, folder, with_memory=True),
    "pickle": lambda clf, folder: pickle.loads(pickle.dumps(clf)),
    "joblib": lambda clf, folder: joblib.load(joblib.dump(clf, folder / "clf.joblib")[0]),
    "skops": lambda clf, folder: through_skops(clf),
}


def through_skops(clf):
    content = skops.io.dumps(clf)
    types = skops.io.get_untrusted_types(data=content)
    assert all(name.startswith("laplace_al.") for name in types)
    return skops.io.loads(content, trusted=types)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("params", SETTINGS)
def test_predictions_and_updates_are_bit_identical(way, n_classes, params, tmp_path):
    clf, A, b = taught(n_classes, **params)
    twin = WAYS[way](clf, tmp_path)
    assert twin.get_params().keys() == clf.get_params().keys()
    check_twins(clf, twin, A, b)


@pytest.mark.parametrize("way", ["save", "pickle"])
def test_from_the_prior_and_with_new_classes(way, tmp_path):
    clf = LaplaceUpdateClassifier().partial_fit(X[:3], y[:3], classes=range(3))
    clf.add_classes([7, 9])
    twin = WAYS[way](clf, tmp_path)
    assert twin.classes_.tolist() == [0, 1, 2, 7, 9]
    check_twins(clf, twin, X[y < 3], y[y < 3])
    np.testing.assert_array_equal(
        clf.fit(X[:50], y[:50] % 3).predict_proba(X), twin.fit(X[:50], y[:50] % 3).predict_proba(X)
    )


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "ß", "d", "e"],
        [-5, 3, 2**60, 0, 1],
        np.array([1, 2, 3, 4, 5], dtype=np.uint8),
        np.array([1.0, 2.0, 0.0, 4.0, 5.0], dtype=np.float32),
        np.array(["b", "a", "c", "d", "e"], dtype=object),
    ],
)
def test_labels_of_every_kind(labels, tmp_path):
    clf, A, b = taught(labels=labels)
    twin = saved(clf, tmp_path)
    np.testing.assert_array_equal(twin.classes_, clf.classes_)
    assert twin.classes_.dtype == clf.classes_.dtype
    check_twins(clf, twin, A, b)


class Letter(str, enum.Enum):  # noqa: UP042  a StrEnum is not cut to pieces
    A, B = "a", "b"


def test_members_of_an_enum(tmp_path):
    params = {"classes": list(Letter), "class_weight": {Letter.A: 2.0}}
    twin = saved(LaplaceUpdateClassifier(**params).fit([[-1.0], [1.0]], list(Letter)), tmp_path)
    assert twin.classes_.tolist() == list(twin.get_params()["classes"]) == ["a", "b"]
    assert twin.get_params()["class_weight"] == {"a": 2.0}


def test_booleans(tmp_path):
    clf, A, b = taught(2, labels=[False, True])
    check_twins(clf, saved(clf, tmp_path), A, b)


@pytest.mark.parametrize(
    "params",
    [
        {"class_weight": {"a": np.float32(2), "b": 1}},
        {"class_weight": "balanced"},
        {"prior_precision": np.float64(0.5), "max_iter": np.int64(50)},
        {"device": torch.device("cpu"), "classes": np.array(["a", "b"])},
        {"classes": ["b", "a"], "random_state": np.int32(4), "warm_start": np.True_},
    ],
)
def test_parameters(params, tmp_path):
    clf = LaplaceUpdateClassifier(**params).fit([[-1.0], [1.0]], ["a", "b"])
    twin = saved(clf, tmp_path)
    for name, value in twin.get_params().items():
        expected = clf.get_params()[name]
        np.testing.assert_equal(value, str(expected) if name == "device" else expected, name)
    assert twin.fit([[-1.0], [1.0]], ["a", "b"]).predict([[2.0]]) == ["b"]


def test_fitted_attributes(tmp_path):
    frame = pd.DataFrame(X[:60], columns=[f"pixel {i}" for i in range(10)])
    clf = LaplaceUpdateClassifier(prior_precision="evidence").fit(frame, y[:60])
    twin = saved(clf, tmp_path)
    attributes = {name for name in dir(clf) if name.endswith("_") and name[0] != "_"}
    assert attributes - {name for name in attributes if hasattr(twin, name)} == {"loo_proba_"}
    for name in attributes - {"loo_proba_", "fitted_", "posterior_", "calibration_"}:
        np.testing.assert_equal(getattr(twin, name), getattr(clf, name))
    assert twin.loo_score_.accuracy == clf.loo_score_.accuracy
    assert twin.log_marginal_likelihood() == clf.log_marginal_likelihood()
    with pytest.raises(ValueError, match="feature names should match"):
        twin.predict(frame.rename(columns={"pixel 0": "other"}))


class TestMemory:
    def test_it_is_not_written_unasked(self, tmp_path):
        clf, A, _ = taught(memory_size=30)
        match = "memory_size=30: 30 labelled instances are remembered.*with_memory=True"
        with pytest.raises(ValueError, match=match):
            clf.save(tmp_path / "clf")
        assert not list(tmp_path.iterdir())
        without = saved(clf.set_params(memory_size=0), tmp_path)
        np.testing.assert_array_equal(without.predict_proba(A), clf.predict_proba(A))
        assert without.fitted_.model.memory is None

    def test_no_number_of_an_instance_is_in_the_file(self, tmp_path):
        rng = np.random.default_rng(0)
        features, labels = rng.normal(size=(40, 3)), rng.integers(2, size=40)
        clf = LaplaceUpdateClassifier().fit(features, labels).partial_fit(features[:2], labels[:2])
        clf.save(tmp_path / "clf")
        content = (tmp_path / "clf").read_bytes()
        assert not any(number.tobytes() in content for number in features.ravel())
        remembering = LaplaceUpdateClassifier(memory_size=None).fit(features, labels)
        remembering.save(tmp_path / "clf", with_memory=True)
        content = (tmp_path / "clf").read_bytes()
        assert all(number.tobytes() in content for number in features.ravel())

    def test_a_memory_of_nothing_is_no_training_data(self, tmp_path):
        clf = LaplaceUpdateClassifier(classes=[0, 1], memory_size=0).fit([[1.0], [0.0]], [0, 1])
        clf.set_params(memory_size=5)
        check_twins(clf, saved(clf, tmp_path), np.ones((20, 1)), np.ones(20, dtype=int))


class TestExtractor:
    @pytest.mark.parametrize("wrap", [lambda net: net, lambda net: TorchFeatures(net, layer="1")])
    def test_it_is_given_again(self, wrap, tmp_path):
        extractor = wrap(network())
        clf, A, b = taught(extractor=extractor)
        twin = saved(clf, tmp_path, wrap(network()))
        assert twin.extractor_.layer_ == clf.extractor_.layer_
        check_twins(clf, twin, A, b)

    def test_callables(self, tmp_path):
        clf, A, b = taught(extractor=np.square)
        check_twins(clf, saved(clf, tmp_path, np.square), A, b)

    def test_a_pretrained_head(self, tmp_path):
        clf, A, b = taught(10, extractor=network(), head="pretrained")
        check_twins(clf, saved(clf, tmp_path, network()), A, b)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_what_a_network_is_called_with(self, dtype, tmp_path):
        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                torch.manual_seed(0)
                self.norm, self.embedding = nn.LayerNorm(4), nn.Embedding(9, 4)

            def forward(self, ids):
                return self.norm(self.embedding(ids).mean(dim=1))

        tokens = np.random.default_rng(0).integers(9, size=(40, 5))
        clf = LaplaceUpdateClassifier(Tokens().to(dtype)).fit(tokens, np.arange(40) % 2)
        twin = saved(clf, tmp_path, Tokens().to(dtype))
        np.testing.assert_array_equal(twin.predict_proba(tokens), clf.predict_proba(tokens))
        assert twin.extractor_.source_.cast == clf.extractor_.source_.cast
        with torch.no_grad():
            twin.feature_extractor.norm.bias.add_(1)
        with pytest.raises(RuntimeError, match="other weights"):
            twin.predict(tokens)

    @pytest.mark.parametrize("cast", [None, [True], [True, "load"], "float32", [True, ["a"]]])
    def test_a_cast_that_is_none(self, cast, tmp_path):
        clf, _, _ = taught(extractor=network())
        clf.save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        document["extractor"]["cast"] = cast
        write_archive(tmp_path / "clf", document, tensors)
        with pytest.raises(ValueError, match="does not hold a LaplaceUpdateClassifier"):
            LaplaceUpdateClassifier.load(tmp_path / "clf", network())

    def test_no_weight_of_the_network_is_in_the_file(self, tmp_path):
        net = network()
        taught(extractor=net)[0].save(tmp_path / "clf")
        content = (tmp_path / "clf").read_bytes()
        assert not any(
            number.tobytes() in content for number in net[0].weight.detach().numpy().flat
        )

    def test_other_weights_warn(self, tmp_path):
        clf, _, _ = taught(extractor=network())
        clf.save(tmp_path / "clf")
        with pytest.warns(UserWarning, match="Sequential has other weights than when") as record:
            LaplaceUpdateClassifier.load(tmp_path / "clf", network(seed=1))
        assert record[0].filename == __file__

    @pytest.mark.parametrize(
        "made",
        [
            lambda rows: PCA(4).fit(rows),
            lambda rows: make_pipeline(StandardScaler(), PCA(4)).fit(rows),
            lambda rows: PCA(4).fit(rows).transform,
            lambda rows: functools.partial(np.subtract, rows.mean(0)),
            lambda rows: lambda A: A - rows.mean(0),
            lambda rows: TorchFeatures(PCA(4).fit(rows)),
        ],
    )
    def test_what_has_learnt_from_other_data_warns(self, made, tmp_path):
        clf, A, b = taught(extractor=made(X))
        check_twins(clf, saved(clf, tmp_path, made(X)), A, b)
        with pytest.warns(UserWarning, match="is not what it was when the .* save") as record:
            LaplaceUpdateClassifier.load(tmp_path / "clf.safetensors", made(X[:100]))
        assert record[0].filename == __file__

    def test_what_cannot_be_told_apart_does_not(self, tmp_path):
        lock = threading.Lock()
        clf, A, b = taught(extractor=lambda A: (lock, A)[1])
        check_twins(clf, saved(clf, tmp_path, np.array), A, b)

    def test_a_file_that_does_not_say_what_its_extractor_holds(self, tmp_path):
        clf, A, b = taught(extractor=PCA(4).fit(X))
        clf.save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        del document["extractor"]["content"]
        write_archive(tmp_path / "clf", document, tensors)
        check_twins(clf, LaplaceUpdateClassifier.load(tmp_path / "clf", PCA(4).fit(X)), A, b)
        LaplaceUpdateClassifier.load(tmp_path / "clf", PCA(4).fit(X[:100]))

    @pytest.mark.parametrize(
        ("extractor", "given", "match"),
        [
            (network(), None, "saved with a feature_extractor; pass it"),
            (None, network(), "saved without a feature_extractor: X are the features"),
            (network(), np.square, "like the one that it was saved with, Sequential .* got ufunc"),
            (np.square, network(), "like the one that it was saved with, ufunc"),
            (network(), TorchFeatures(network(), layer="1"), "got Sequential with layer='1'"),
            (TorchFeatures(network(), layer="1"), network(), "with layer='1'; got Sequential"),
            (network(), nn.Sequential(nn.Linear(10, 8)), "layer='2' is not a layer of Sequential"),
            (network(), nn.Linear, "got the class Linear"),
        ],
    )
    def test_another_one(self, extractor, given, match, tmp_path):
        taught(extractor=extractor)[0].save(tmp_path / "clf")
        with pytest.raises((ValueError, TypeError), match=match):
            LaplaceUpdateClassifier.load(tmp_path / "clf", given)


class TestRefusals:
    def test_not_fitted(self, tmp_path):
        with pytest.raises(NotFittedError):
            LaplaceUpdateClassifier().save(tmp_path / "clf")

    @pytest.mark.parametrize(
        ("params", "match"),
        [
            ({"random_state": np.random.RandomState(0)}, "random_state is a RandomState"),
            ({"class_weight": {0: 1.0, (1,): 2.0}}, "class_weight must hold labels"),
        ],
    )
    def test_parameters_that_json_has_no_form_for(self, params, match, tmp_path):
        clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1]).set_params(**params)
        before = dict(vars(clf))
        with pytest.raises(ValueError, match=match):
            clf.save(tmp_path / "clf")
        assert vars(clf) == before
        assert not list(tmp_path.iterdir())

    def test_a_device_that_is_not_there(self, tmp_path):
        clf, A, _ = taught()
        clf.save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        document["params"]["device"] = "cuda:99"
        write_archive(tmp_path / "clf", document, tensors)
        with pytest.raises(ValueError, match=r"device='cuda:99' is not available.*device='cpu'"):
            LaplaceUpdateClassifier.load(tmp_path / "clf")
        twin = LaplaceUpdateClassifier.load(tmp_path / "clf", device="cpu")
        np.testing.assert_array_equal(twin.predict_proba(A), clf.predict_proba(A))

    def test_an_archive_of_something_else(self, tmp_path):
        write_archive(tmp_path / "other", {}, {})
        with pytest.raises(ValueError, match="does not hold a LaplaceUpdateClassifier"):
            LaplaceUpdateClassifier.load(tmp_path / "other")

    def test_a_parameter_of_a_newer_version(self, tmp_path):
        taught()[0].save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        document["params"]["telepathy"] = True
        write_archive(tmp_path / "clf", document, tensors)
        with pytest.raises(ValueError, match=r"telepathy.*Upgrade laplace_al"):
            LaplaceUpdateClassifier.load(tmp_path / "clf")


NAN = float("nan")
WEIGHTS = {"labels": {"dtype": "<i8", "values": [0, 1, 2, 3, 4]}}


class TestForgeries:
    """Right digests over what no ``save`` writes."""

    @pytest.mark.parametrize(
        "change",
        [
            {"fitted.report.log_evidence": NAN},
            {"fitted.report.evidence_slope": float("inf")},
            {"fitted.report.n_iter": -1},
            {"fitted.n_features_in": 0},
            {"fitted.report.telepathy": 1},
            {"fitted.report.loo_score": [NAN, -1.0]},
            {"fitted.report.loo_score": [0.5, float("-inf")]},
            {"fitted.report.loo_score": [0.5]},
            {"fitted.variance_scale": 1e200},
            {"fitted.variance_scale": -1.0},
            {"fitted.prior_precision": 0.0},
            {"fitted.classes": {"dtype": "<U500000000", "values": list("abcde")}},
            {"fitted.classes": {"dtype": "S500000000", "values": list("abcde")}},
            {"params.classes": {"dtype": "<U500000000", "values": list("abcde")}},
            {"params.class_weight": WEIGHTS | {"weights": [NAN, 1, 1, 1, 1]}},
            {"params.class_weight": WEIGHTS | {"weights": [-1, 1, 1, 1, 1]}},
            {"params.class_weight": WEIGHTS | {"weights": ["heavy", 1, 1, 1, 1]}},
            {"params.device": "hpu"},
            {"params.device": "meta"},
            {"params.device": "privateuseone:0"},
            {"params.device": 3},
        ],
    )
    def test_of_values(self, change, tmp_path):
        clf, _, _ = taught()
        clf.save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        ((names, value),) = change.items()
        *outer, name = names.split(".")
        functools.reduce(dict.__getitem__, outer, document)[name] = value
        self.refuse(tmp_path, document, tensors)

    @pytest.mark.parametrize(
        ("params", "name", "value"),
        [
            ({}, "posterior.stored_mean", 1e300),
            ({}, "posterior.prior_mean", -1e300),
            ({}, "posterior.stored_root", 1e160),
            ({}, "posterior.stored_root", 0.0),
            ({}, "posterior.stored_root", 1e-200),
            ({"covariance": "shared"}, "posterior.stored_root", 1e160),
            ({"covariance": "full"}, "posterior.stored_root", NAN),
            ({"dtype": "float32"}, "posterior.stored_root", 1e30),
            ({}, "posterior.pending.coupling", 1e200),
            ({}, "posterior.pending.directions", 1e200),
            ({}, "posterior.pending.shift", 1e200),
            ({}, "calibration.summed", 1e308),
            ({}, "calibration.summed", NAN),
        ],
    )
    def test_of_numbers(self, params, name, value, tmp_path):
        clf, _, _ = taught(**params)
        clf.save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        signs = torch.ones_like(tensors[name])
        signs.view(-1)[::2] = -1  # sums that overflow are infinity less infinity
        tensors[name] = value * signs
        self.refuse(tmp_path, document, tensors)

    @pytest.mark.parametrize("name", ["other", "memory.other", "posterior.other", "calibration.x"])
    def test_of_arrays(self, name, tmp_path):
        clf, _, _ = taught()
        clf.save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        self.refuse(tmp_path, document, tensors | {name: torch.zeros(2)})

    def refuse(self, folder, document, tensors):
        write_archive(folder / "clf", document, tensors)
        with pytest.raises(ValueError, match=r"^path='.*clf' does not hold a LaplaceUpdate"):
            LaplaceUpdateClassifier.load(folder / "clf")

    def test_a_device_of_ones_own(self, tmp_path):
        clf, A, _ = taught()
        clf.save(tmp_path / "clf")
        document, tensors = read_archive(tmp_path / "clf")
        document["params"]["device"] = "hpu"
        write_archive(tmp_path / "clf", document, tensors)
        twin = LaplaceUpdateClassifier.load(tmp_path / "clf", device="cpu")
        np.testing.assert_array_equal(twin.predict_proba(A), clf.predict_proba(A))


@pytest.mark.parametrize("prior_precision", [1e-12, 1e-4, 1e6, 1e20])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.filterwarnings("ignore::scipy.linalg.LinAlgWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_labels_make_of_any_prior_is_read_again(prior_precision, scale, tmp_path):
    clf = LaplaceUpdateClassifier(network(), head="pretrained", prior_precision=prior_precision)
    clf.fit(X[:60], y[:60]).partial_fit(X[60:63], y[60:63])
    saved(clf, tmp_path, network())
    clf = LaplaceUpdateClassifier(
        prior_precision=prior_precision, update="newton", step_size=10, max_iter=3
    )
    clf.fit(scale * X[:60], y[:60]).partial_fit(scale * X[60:99], y[60:99])
    saved(clf, tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
TENSOR = st.builds(
    lambda shape, dtype, value: torch.full(shape, value, dtype=torch.float64).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]),
    st.sampled_from([0.0, 1.0, float("nan"), float("inf"), 1e-300, 1e30, 1e160, -1e300]),
)


@settings(max_examples=80, deadline=None)
@given(data=st.data(), memory=st.sampled_from([0, 5]))
def test_a_file_that_was_made_up_is_refused_or_predicts(data, memory, tmp_path_factory):
    """One entry is anything under a right checksum: an error of ours, or a working classifier."""
    folder = tmp_path_factory.mktemp("forged")
    clf, A, _ = taught(3, memory_size=memory)
    clf.save(folder / "clf", with_memory=True)
    document, tensors = read_archive(folder / "clf")
    document = copy.deepcopy(document)
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(sorted(tensors)))
        tensors[name] = data.draw(TENSOR)
    else:
        inner = document
        while isinstance(inner, dict) and inner:
            outer, name = inner, data.draw(st.sampled_from(sorted(inner)))
            inner = outer[name]
            if data.draw(st.integers(0, 2)) == 0:
                break
        outer[name] = data.draw(JSON)
    json.dumps(document)
    write_archive(folder / "clf", document, tensors)
    with contextlib.suppress(ValueError):
        twin = LaplaceUpdateClassifier.load(folder / "clf")
        probabilities = twin.predict_proba(A[:5])
        assert probabilities.shape == (5, len(twin.classes_))
        assert np.isfinite(probabilities).all()


def test_classes_in_a_column(tmp_path):
    clf, A, b = taught(classes=np.arange(6)[:, None])
    check_twins(clf, saved(clf, tmp_path), A, b)


def test_an_intercept_set_after_a_fit(tmp_path):
    clf, A, _ = taught()
    clf.set_params(fit_intercept=False)
    twin = saved(clf, tmp_path)
    np.testing.assert_array_equal(twin.predict_proba(A), clf.predict_proba(A))
    np.testing.assert_array_equal(twin.coef_, clf.coef_)


class TestLowRank:
    @staticmethod
    def taught(n_labels=70):
        """More features than are held exactly; labels are cut once, and some wait."""
        rng = np.random.default_rng(0)
        labels = rng.integers(4, size=150)
        A = rng.normal(size=(4, 80))[labels] / 9 + rng.normal(size=(150, 80)) / 9
        clf = LaplaceUpdateClassifier(covariance="low_rank").fit(A[:60], labels[:60])
        return clf.partial_fit(A[60 : 60 + n_labels], labels[60 : 60 + n_labels]), A, labels

    @pytest.mark.parametrize("n_labels", [1, 70])
    def test_what_waits_and_what_is_cut_are_kept(self, tmp_path, n_labels):
        clf, A, labels = self.taught(n_labels)
        for again in (saved(clf, tmp_path), pickle.loads(pickle.dumps(clf))):
            np.testing.assert_array_equal(again.predict_proba(A), clf.predict_proba(A))
            again.partial_fit(A[130:], labels[130:])
            expected = copy.copy(clf).partial_fit(A[130:], labels[130:]).predict_proba(A)
            np.testing.assert_array_equal(again.predict_proba(A), expected)

    @pytest.mark.parametrize(
        "name", ["whitened.axes.spread", "whitened.axes.directions", "whitened.basis"]
    )
    def test_numbers_that_cannot_be_are_refused(self, tmp_path, name):
        clf, *_ = self.taught()
        clf.save(tmp_path / "clf.safetensors")
        header, arrays = read_archive(tmp_path / "clf.safetensors")
        arrays[f"posterior.{name}"] = -3 * abs(arrays[f"posterior.{name}"]) - 2
        write_archive(tmp_path / "clf.safetensors", header, arrays)
        with pytest.raises(ValueError, match=name.split(".")[-1]):
            LaplaceUpdateClassifier.load(tmp_path / "clf.safetensors")
