import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from torch import nn

from laplace_al import ActiveLearner, LaplaceUpdateClassifier
from laplace_al.pool.scored import ScoredPool, is_accurate
from laplace_al.strategies import MarginSampling

X, y = load_iris(return_X_y=True)
START = np.r_[0:5, 50:55, 100:105]


def fitted(**params):
    return LaplaceUpdateClassifier(**params).fit(X[START], y[START])


def assert_up_to_date(pool, clf, X_pool=X):
    state, anew = pool.state_under(clf), clf.pool_state(X_pool)
    torch.testing.assert_close(state.logits, anew.logits)
    torch.testing.assert_close(state.variance, anew.variance)
    np.testing.assert_allclose(state.predict_proba(), clf.predict_proba(X_pool))
    again = state.copy().observe(3, 1), anew.observe(3, 1)
    torch.testing.assert_close(again[0].logits, again[1].logits)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"covariance": "shared"},
        {"covariance": "full"},
        {"n_passes": 2},
        {"forgetting": 0.9},
        {"memory_size": None},
        {"predictive": "bridge", "calibration": None},
    ],
)
@pytest.mark.parametrize("size", [1, 3, 40])
def test_predictions_follow_updates(params, size):
    clf, pool = fitted(**params), ScoredPool(X)
    pool.state_under(clf)
    rows = np.arange(10, 10 + size)
    for some in (rows, rows + 50):
        clf.partial_fit(X[some], y[some])
        pool = pool.after_update(clf, some.tolist(), y[some])
        assert_up_to_date(pool, clf)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
@pytest.mark.parametrize(("size", "is_followed"), [(5, True), (60, False)])
def test_many_labels_are_followed_while_that_is_cheaper(covariance, size, is_followed):
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(2000, 16))
    labels = rng.integers(0, 3, size=2000)
    clf = LaplaceUpdateClassifier(covariance=covariance).fit(wide[:30], labels[:30])
    pool = ScoredPool(wide)
    pool.state_under(clf)
    some = np.arange(30, 30 + size)
    clf.partial_fit(wide[some], labels[some])
    pool = pool.after_update(clf, some.tolist(), labels[some])
    assert (pool._state is not None) == is_followed
    assert_up_to_date(pool, clf, wide)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
def test_labels_that_open_classes_are_followed(covariance):
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(500, 16))
    labels = np.arange(500) % 6
    clf = LaplaceUpdateClassifier(covariance=covariance).fit(wide[:6], labels[:6] % 2)
    pool = ScoredPool(wide)
    pool.state_under(clf)
    for rows in ([8], [9, 10, 11], [12]):
        new = np.setdiff1d(labels[rows], clf.classes_)
        if len(new):
            clf.add_classes(new)
        clf.partial_fit(wide[rows], labels[rows])
        pool = pool.after_update(clf, rows, labels[rows])
        assert (pool._state is not None) == (covariance != "full" or not len(new))
        assert_up_to_date(pool, clf, wide)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "full"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_few_labels_are_scored_in_their_span(covariance, dtype, fit_intercept):
    """One fit after another, with labels in between, of which some are withdrawn."""
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(300, 24)).astype(dtype)
    labels = (wide[:, 0] > 0).astype(int) + (wide[:, 1] > 0)
    params = {"fit_intercept": fit_intercept, "classes": [0, 1, 2]}
    clf = LaplaceUpdateClassifier(covariance=covariance, **params)
    pool = ScoredPool(wide)
    for rows in (range(5), range(8), range(8), range(2, 6), range(11)):
        rows = np.array(rows)
        clf.fit(wide[rows], labels[rows])
        pool = pool.after_fit(wide[rows])
        state = pool.state_under(clf)
        assert pool._span.basis.shape[1] <= 12
        anew = clf.pool_state(wide.astype(np.float64))
        close = dict.fromkeys(("rtol", "atol"), 1e-9 if dtype == np.float64 else 1e-3)
        torch.testing.assert_close(state.logits, anew.logits, **close)
        torch.testing.assert_close(state.variance, anew.variance, **close)
        for some in (np.array([20, 21]), np.arange(30, 35)):  # followed, and too many for it
            clf.partial_fit(wide[some], labels[some])
            pool = pool.after_update(clf, some.tolist(), labels[some])
            state, anew = pool.state_under(clf), clf.pool_state(wide.astype(np.float64))
            torch.testing.assert_close(state.logits, anew.logits, **close)
            torch.testing.assert_close(state.variance, anew.variance, **close)


def test_labels_that_the_pool_does_not_know_are_counted():
    clf = LaplaceUpdateClassifier().fit(X[START], y[START])
    pool = ScoredPool(X).after_fit(X[START[:2]])
    assert_up_to_date(pool, clf)


@pytest.mark.parametrize("change", [{"dtype": "float32"}, {"fit_intercept": False}])
def test_the_span_is_that_of_the_present_parameters(change):
    wide = np.random.default_rng(0).normal(size=(60, 12))
    labels = (wide[:, 0] > 0).astype(int)
    clf = LaplaceUpdateClassifier().fit(wide[:4], labels[:4])
    pool = ScoredPool(wide).after_fit(wide[:4])
    pool.state_under(clf)
    clf.set_params(**change).fit(wide[:5], labels[:5])
    pool = pool.after_fit(wide[:5])
    state, anew = pool.state_under(clf), clf.pool_state(wide)
    torch.testing.assert_close(state.logits, anew.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state.variance, anew.variance, rtol=1e-4, atol=1e-4)


def test_the_pool_before_an_update_stays_as_it_was():
    clf = fitted()
    pool = ScoredPool(X)
    logits = pool.state_under(clf).logits.clone()
    pool.after_update(fitted().partial_fit(X[:1], y[:1]), [0], [0])
    torch.testing.assert_close(pool.state_under(clf).logits, logits, rtol=0, atol=0)


def test_features_are_extracted_once():
    calls = []

    def extract(rows):
        calls.append(len(rows))
        return np.asarray(rows) ** 2

    clf = LaplaceUpdateClassifier(extract)
    pool = ScoredPool(X)
    np.testing.assert_array_equal(pool.features_under(clf), X**2)
    clf.fit(X[START], y[START])
    calls.clear()
    for _ in range(2):
        pool.state_under(clf)
        clf.fit(X[START], y[START])
        pool = pool.after_fit()
    assert set(calls) <= {2, len(START)}  # what the fits probe and extract
    assert_up_to_date(pool, clf)
    np.testing.assert_array_equal(pool.rows([2, 5], clf), X[[2, 5]] ** 2)


def test_nothing_is_known_before_it_is_asked_for():
    pool = ScoredPool(X)
    assert pool.rows([0], fitted()) is None
    assert pool.after_update(fitted(), [0], [0]).rows([0], fitted()) is None


def test_a_network_and_a_float32_pool():
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    X32 = X.astype(np.float32)
    for clf in (LaplaceUpdateClassifier(network), LaplaceUpdateClassifier()):
        clf.fit(X32[START], y[START])
        pool = ScoredPool(X32)
        pool.state_under(clf)
        clf.partial_fit(X32[[20]], y[[20]])
        state = pool.after_update(clf, [20], y[[20]]).state_under(clf)
        assert state.features.dtype == torch.float32
        np.testing.assert_allclose(state.predict_proba(), clf.predict_proba(X32), rtol=1e-3)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_predictions_follow_weights_of_classes(covariance):
    wide = np.random.default_rng(0).normal(size=(500, 5))
    labels = (wide[:, 0] > 0).astype(int) + (wide[:, 1] > 0)
    weights = {0: 10.0, 1: 0.1, 2: 1.0}
    clf = LaplaceUpdateClassifier(covariance=covariance, class_weight=weights)
    clf.fit(wide[:30], labels[:30])
    pool = ScoredPool(wide)
    pool.state_under(clf)
    for i in range(30, 50):
        clf.partial_fit(wide[[i]], labels[[i]])
        pool = pool.after_update(clf, [i], labels[[i]])
        assert pool._state is not None
    assert_up_to_date(pool, clf, wide)


@pytest.mark.parametrize("params", [{"predictive": "plug_in"}, {"update": "newton"}])
def test_predictions_follow_parameters_that_change(params):
    clf, pool = fitted(), ScoredPool(X)
    pool.state_under(clf)
    clf.set_params(**params)
    assert_up_to_date(pool, clf)
    clf.partial_fit(X[[20]], y[[20]])
    assert_up_to_date(pool.after_update(clf, [20], y[[20]]), clf)


@pytest.mark.parametrize("params", [{}, {"dtype": "float32"}])
def test_variances_of_single_precision_do_not_drift(params):
    rng = np.random.default_rng(0)
    wide = (10 * rng.normal(size=(500, 20))).astype(np.float32)
    labels = (wide[:, 0] > 0).astype(int)
    clf = LaplaceUpdateClassifier(
        covariance="shared", prior_precision=1e-3, curvature="gaussian", **params
    )
    clf.fit(wide[:4], [0, 1, 0, 1])
    pool = ScoredPool(wide)
    pool.state_under(clf)
    for i in range(4, 300):
        clf.partial_fit(wide[[i]], labels[[i]])
        pool = pool.after_update(clf, [i], labels[[i]])
    state, anew = pool.state_under(clf), clf.pool_state(wide)
    np.testing.assert_allclose(state.variance, anew.variance, rtol=0.1)


@pytest.mark.parametrize(
    ("dtype", "share", "expected"),
    [(torch.float32, 1e-4, True), (torch.float32, 1e-6, False), (torch.float64, 1e-6, True)],
)
def test_variances_are_accurate_while_they_hold_digits(dtype, share, expected):
    scored = torch.ones(2)
    assert is_accurate(dtype, torch.tensor([share, 1.0]), scored) == expected
    assert is_accurate(dtype, torch.tensor([[1.0, 1.0], [share, 1.0]]), scored) == expected


@pytest.mark.parametrize("n", [50, 3001])
def test_the_scale_is_that_of_the_features(n):
    inputs = np.random.default_rng(0).normal(loc=5, size=(n, 4)).astype(np.float32)
    network = nn.Linear(4, 6)
    for clf in (LaplaceUpdateClassifier(network), LaplaceUpdateClassifier()):
        pool = ScoredPool(inputs)
        before = pool.prior_precision_by_scale(clf)
        features = pool.features_under(clf)
        assert pool.prior_precision_by_scale(clf) == pytest.approx(before)
        assert before == pytest.approx(0.01 * features.var(axis=0).sum(), rel=0.1)


@pytest.mark.parametrize(("dtype", "size"), [("float64", 1e200), ("float32", 1e20)])
def test_features_that_overflow_are_refused_before_a_label(dtype, size):
    learner = ActiveLearner(
        LaplaceUpdateClassifier(lambda rows: size * rows, dtype=dtype), MarginSampling(), X
    )
    with pytest.raises(ValueError, match="X is too large: products of the features overflow"):
        learner.query()
    with pytest.raises(ValueError, match="X is too large"):
        learner.teach([0, 50], y[[0, 50]])
    assert learner.labels_.empty


class TestNetworkThatChanges:
    @pytest.mark.parametrize("is_fitted", [False, True])
    def test_features_of_other_weights_are_refused(self, is_fitted):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(X.shape[1], 3), nn.Tanh(), nn.Linear(3, 2))
        clf = LaplaceUpdateClassifier(network, prior_precision=1.0)
        pool = ScoredPool(X)
        if is_fitted:
            pool.state_under(clf.fit(X[START], y[START]))
        else:
            pool.features_under(clf)
        pools = pool, pool.after_fit()
        with torch.no_grad():
            network[0].weight.add_(1.0)
        clf.fit(X[START], y[START])  # on the new ones
        for each in pools:
            for call in (
                lambda each=each: each.state_under(clf),
                lambda each=each: each.features_under(clf),
                lambda each=each: each.rows([0], clf),
            ):
                with pytest.raises(RuntimeError, match=r"other weights.*make a new ActiveLearner"):
                    call()
        ScoredPool(X).state_under(clf)
