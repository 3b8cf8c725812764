import copy
import enum

import numpy as np
import pytest
import torch

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model.fitted_model import FittedModel
from laplace_al.model.pool_state import PoolState

SETTINGS = [
    {"covariance": covariance, "update": update, "fit_intercept": intercept}
    for covariance, intercept in [
        ("shared", True),
        ("per_class", False),
        ("low_rank", True),
        ("full", True),
    ]
    for update in ("map", "newton")
]


def problem(n_classes, dtype=np.float64, seed=0, **params):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(60, 5)).astype(dtype)
    y = np.clip(np.floor(X @ np.ones(5) + rng.normal(size=60) + n_classes / 2), 0, n_classes - 1)
    y = np.array(list("abcdef"))[y.astype(int)]
    params = {"prior_precision": 0.3, "classes": list("abcdef")[:n_classes]} | params
    return LaplaceUpdateClassifier(**params).fit(X[:20], y[:20]), X[20:], y[20:]


@pytest.mark.parametrize("params", [*SETTINGS, {"covariance": "full", "curvature": "gaussian"}])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_it_is_the_pool_scored_anew(params, n_classes):
    """Law 7, over more labels than wait in a per-class posterior."""
    clf, X, y = problem(n_classes, **params)
    pool = clf.pool_state(X)
    updated = copy.deepcopy(clf).set_params(calibration=None)
    for step in range(80):
        index = step % len(X)
        assert pool.observe(index, y[index]) is pool
        updated.partial_fit(X[[index]], y[[index]])
    mean, variance = updated.latent_mean_and_variance(X)
    np.testing.assert_allclose(pool.logits.numpy().squeeze(), mean, atol=1e-9)
    np.testing.assert_allclose(pool.variance.numpy().squeeze(), variance, atol=1e-10)
    predictive = pool.elsewhere(pool.features).predictive_variance
    np.testing.assert_allclose(pool.predictive_variance, predictive, atol=1e-10)
    torch.testing.assert_close(pool.posterior.mean, updated.posterior_.mean)
    np.testing.assert_allclose(pool.predict_proba(), updated.predict_proba(X), atol=1e-9)


def wide_problem(n=130):
    """More features than low_rank holds exactly, so that labels are cut."""
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(4, 80)), rng.integers(4, size=n + 60)
    X = (centres[y] + rng.normal(size=(n + 60, 80))) / 9
    clf = LaplaceUpdateClassifier(prior_precision=0.1, covariance="low_rank")
    return clf.fit(X[:60], y[:60]), X[60:], y[60:]


def test_it_is_the_pool_scored_anew_when_labels_are_cut():
    """Law 7: after 64 labels, an effect cannot tell all that has changed."""
    clf, X, y = wide_problem()
    pool, updated = clf.pool_state(X), copy.copy(clf)
    for index in range(70):
        pool.observe(index, y[index])
        updated.partial_fit(X[[index]], y[[index]])
        if index in (0, 62, 63, 64, 69):
            mean, variance = updated.latent_mean_and_variance(X)
            np.testing.assert_allclose(pool.logits, mean, atol=1e-9)
            np.testing.assert_allclose(pool.variance, variance, rtol=1e-8)


def test_no_effects_tell_of_a_cut():
    clf, X, y = wide_problem()
    pool = clf.pool_state(X)
    assert len(pool.copy().learn(range(63), y[:63], np.ones(63))) == 63
    assert pool.learn(range(64), y[:64], np.ones(64)) is None
    expected = copy.copy(clf).partial_fit(X[:64], y[:64])
    np.testing.assert_allclose(pool.logits, expected.latent_mean_and_variance(X)[0], atol=1e-9)


@pytest.mark.parametrize("params", SETTINGS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_of_classes_count(params, n_classes):
    weights = {"a": 3.0, "b": 0.2, "c": 0.0}
    weights = {label: weights[label] for label in list("abc")[:n_classes]}
    clf, X, y = problem(n_classes, class_weight=weights, **params)
    pool = clf.pool_state(X)
    for index in range(10):
        pool.observe(index, y[index])
        if weights[y[index]]:
            clf.partial_fit(X[[index]], y[[index]])
    mean, variance = clf.latent_mean_and_variance(X)
    np.testing.assert_allclose(pool.logits.numpy().squeeze(), mean, atol=1e-9)
    np.testing.assert_allclose(pool.variance.numpy().squeeze(), variance, atol=1e-10)


def test_a_label_to_come_counts_what_its_classes_do():
    clf, X, _ = problem(3, class_weight={"a": 4.0, "b": 0.0, "c": 1.0})
    pool = clf.pool_state(X)
    expected = pool.predict_proba([3])[0] @ [4.0, 0.0, 1.0]
    twin = clf.set_params(class_weight=None).pool_state(X).observe(3, None, weight=expected)
    torch.testing.assert_close(pool.observe(3, None).variance, twin.variance)


def test_a_member_of_an_enum_is_its_text():
    letter = enum.Enum("Letter", {"FIRST": "a", "SECOND": "b"}, type=str)
    clf, X, _ = problem(3)
    pool, twin = clf.pool_state(X).observe(3, letter.SECOND), clf.pool_state(X).observe(3, "b")
    torch.testing.assert_close(pool.logits, twin.logits)


def test_balanced_weights_are_those_of_a_fit():
    clf, X, y = problem(3, class_weight="balanced")
    pool = clf.pool_state(X).observe(3, y[3])
    twin = clf.set_params(class_weight=None).pool_state(X).observe(3, y[3])
    torch.testing.assert_close(pool.logits, twin.logits)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_before_any_label_it_is_the_classifier(covariance):
    clf, X, _ = problem(3, covariance=covariance)
    pool = clf.pool_state(X)
    np.testing.assert_allclose(pool.predict_proba(), clf.predict_proba(X))
    np.testing.assert_allclose(pool.sample_proba(40), clf.sample_proba(X, 40), atol=1e-12)
    assert len(pool) == len(X)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank"])
def test_float32_features_are_not_copied(covariance):
    clf, X, y = problem(3, np.float32, covariance=covariance)
    features = torch.from_numpy(X)
    whole = clf.pool_state(X)
    single = PoolState(clf.current_model(), features)
    assert single.features is features
    for index in range(20):
        whole.observe(index, y[index])
        single.observe(index, y[index])
    assert single.logits.dtype == torch.float64
    torch.testing.assert_close(single.logits, whole.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(single.variance, whole.variance, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("params", SETTINGS)
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_new_classes_open_as_if_the_pool_were_scored_anew(params, n_classes, dtype):
    """Wherever they come among those so far, and the next labels are learnt alike."""
    clf, X, y = problem(n_classes, **params)
    pool = PoolState(clf.current_model(), torch.from_numpy(X).to(dtype)).observe(0, y[0])
    before, classes = scores_of(pool), np.array(sorted([*clf.classes_, "A", "aa", "z"]))
    wider = pool.with_classes(classes)
    assert_equal(scores_of(pool), before)
    assert wider.classes_.tolist() == classes.tolist()
    for index, label in ((5, "aa"), (6, y[6]), (7, "z")):
        wider.observe(index, label)
    clf.partial_fit(X[:1], y[:1]).add_classes(["A", "aa", "z"])
    clf.partial_fit(X[5:8], ["aa", y[6], "z"])
    anew = clf.pool_state(X)
    close = {} if dtype == torch.float64 else {"atol": 1e-4, "rtol": 1e-4}
    for found, expected in zip(scores_of(wider), scores_of(anew), strict=True):
        torch.testing.assert_close(found, expected, **close)


def test_the_classifier_and_the_data_stay_as_they_are():
    clf, X, y = problem(3)
    before, mean = dict(vars(clf)), clf.posterior_.mean.clone()
    X.flags.writeable = False
    clf.pool_state(X).observe(0, y[0])
    assert vars(clf) == before
    assert torch.equal(clf.posterior_.mean, mean)


def scores_of(pool):
    return [part.clone() for part in (pool.logits, pool.variance, pool.predictive_variance)]


def assert_equal(some, others):
    assert all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_a_copy_goes_its_own_way(covariance):
    clf, X, y = problem(3, covariance=covariance)
    pool = clf.pool_state(X).observe(0, y[0])
    twin = pool.copy()
    before = scores_of(pool)
    twin.observe(1, y[1])
    assert_equal(scores_of(pool), before)
    torch.testing.assert_close(pool.observe(1, y[1]).logits, twin.logits)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_an_unknown_label_moves_no_mean(covariance):
    clf, X, _ = problem(3, covariance=covariance)
    pool = clf.pool_state(X)
    logits, variance = pool.logits.clone(), pool.variance.clone()
    pool.observe(4, None)
    torch.testing.assert_close(pool.logits, logits)
    assert (pool.variance < variance).all()
    torch.testing.assert_close(pool.posterior.mean, clf.posterior_.mean)
    rows = torch.from_numpy(np.c_[X, np.ones(len(X))])
    torch.testing.assert_close(pool.posterior.variance(rows), pool.variance)


@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
def test_a_label_affects_pools_that_do_not_have_it(covariance):
    clf, X, y = problem(3, covariance=covariance)
    labelled, others = clf.pool_state(X[:5]), clf.pool_state(X[5:])
    before = scores_of(others)
    later = others.affected(labelled.learn(range(5), y[:5], np.ones(5)))
    assert_equal(scores_of(others), before)
    whole = clf.pool_state(X)
    for i in range(5):
        whole.observe(i, y[i])
    for found, expected in zip(scores_of(later), scores_of(whole), strict=True):
        torch.testing.assert_close(found, expected[5:])


@pytest.mark.parametrize(
    ("covariance", "n_labels", "n_passes"),
    [("shared", 1, 1), ("shared", 16, 1), ("shared", 17, 2), ("per_class", 10, 2), ("full", 1, 1)],
)
def test_a_pass_over_the_features_serves_sixteen_directions(
    monkeypatch, covariance, n_labels, n_passes
):
    clf, X, y = problem(3, covariance=covariance)
    labelled, others = clf.pool_state(X[:20]), clf.pool_state(X[20:])
    effects = labelled.learn(range(n_labels), y[:n_labels], np.ones(n_labels))
    passes, project = [], others.project
    monkeypatch.setattr(others, "project", lambda matrix: passes.append(1) or project(matrix))
    others.affected(effects)
    assert len(passes) == n_passes


def test_no_effects_change_nothing():
    clf, X, _ = problem(3)
    pool = clf.pool_state(X)
    before = scores_of(pool)
    twin = pool.affected([])
    assert_equal(scores_of(twin), before)
    twin.observe(0, None)
    assert_equal(scores_of(pool), before)


@pytest.mark.parametrize("index", [-1, np.int64(39), np.uint8(39), np.array([39]), [39]])
def test_an_index_is_an_integer_or_an_array_of_one(index):
    clf, X, y = problem(3)
    expected = clf.pool_state(X).observe(39, y[39])
    assert_equal(scores_of(clf.pool_state(X).observe(index, y[39])), scores_of(expected))


@pytest.mark.parametrize("index", [40, -41, 1.0, "a", None, [0, 1], np.array([], dtype=int)])
def test_an_index_that_is_not_in_the_pool(index):
    clf, X, y = problem(3)
    pool = clf.pool_state(X)
    before = scores_of(pool)
    with pytest.raises(ValueError, match="index must be a position in the pool of 40 instances"):
        pool.observe(index, y[0])
    assert_equal(scores_of(pool), before)


@pytest.mark.parametrize("weight", [-0.5, float("nan")])
def test_a_weight_that_is_none(weight):
    clf, X, y = problem(3)
    pool = clf.pool_state(X)
    before = scores_of(pool)
    with pytest.raises(ValueError, match=r"weight must be a number, 0 or larger; got"):
        pool.observe(0, y[0], weight)
    assert_equal(scores_of(pool), before)


def test_a_rule_that_fails_changes_nothing(monkeypatch):
    clf, X, y = problem(3)
    pool = clf.pool_state(X)
    before, posterior = scores_of(pool), pool.posterior

    def update(*args):
        raise ArithmeticError("no mode")

    monkeypatch.setattr(FittedModel, "update_rule", property(lambda model: update))
    with pytest.raises(ArithmeticError, match="no mode"):
        pool.observe(0, y[0])
    assert_equal(scores_of(pool), before)
    assert pool.posterior is posterior


def test_of_labels_that_are_learnt_at_once_all_or_none_are():
    clf, X, y = problem(3)
    pool = clf.pool_state(X)
    before, model = scores_of(pool), pool.model
    with pytest.raises(ValueError, match="target must be one of the classes"):
        pool.learn([0, 1], [y[0], "z"], [1.0, 1.0])
    assert_equal(scores_of(pool), before)
    assert pool.model is model


def test_its_scores_make_another_state_of_the_same_pool():
    clf, X, y = problem(3)
    pool = clf.pool_state(X).observe(0, y[0])
    twin = PoolState(pool.model, pool.features, pool.scores)
    np.testing.assert_array_equal(twin.predict_proba(), pool.predict_proba())
    assert_equal(scores_of(twin.observe(1, y[1])), scores_of(pool.observe(1, y[1])))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_weight_below_one_counts_less(weight):
    clf, X, y = problem(3)
    pool = clf.pool_state(X).observe(0, y[0], weight=weight)
    if weight:
        clf.partial_fit(X[:1], y[:1], sample_weight=[weight])
    np.testing.assert_allclose(pool.logits, clf.latent_mean_and_variance(X)[0], atol=1e-12)


def test_labels_without_a_partner_are_not_lost():
    clf, X, y = problem(3)
    pool = clf.pool_state(X)
    before = pool.logits
    with pytest.raises(ValueError, match=r"shorter|longer"):
        pool.learn([0, 1], y[:2], [1.0])
    assert pool.logits is before


def test_positions_may_count_from_the_end():
    clf, X, y = problem(3)
    pool = clf.pool_state(X)
    first = pool.copy().observe(-len(X), y[0])
    torch.testing.assert_close(first.logits, pool.copy().observe(0, y[0]).logits)


def test_a_weight_counts_as_often():
    clf, X, y = problem(3, update="newton", curvature="gaussian")
    pool = clf.pool_state(X).observe(0, y[0], weight=2.0)
    clf.partial_fit(X[:1], y[:1], sample_weight=[2.0])
    np.testing.assert_allclose(pool.logits, clf.latent_mean_and_variance(X)[0])


def test_an_unknown_label_changes_nothing():
    clf, X, _ = problem(3)
    pool = clf.pool_state(X)
    logits = pool.logits.clone()
    with pytest.raises(ValueError, match=r"target must be one of the classes .*; got 'z'"):
        pool.observe(0, "z")
    assert torch.equal(pool.logits, logits)


def test_a_part_is_the_state_of_some_rows():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 4)), np.arange(30) % 3
    for covariance in ("shared", "per_class", "low_rank", "full"):
        clf = LaplaceUpdateClassifier(covariance=covariance).fit(X, y)
        part = clf.pool_state(X).observe(2, 1).part(np.array([7, 4])).observe(0, 2)
        expected = clf.pool_state(X).observe(2, 1).observe(7, 2).predict_proba([7, 4])
        np.testing.assert_allclose(part.predict_proba(), expected)


@pytest.mark.parametrize("at_once", [10**6, 100, 1])
@pytest.mark.parametrize("covariance", ["shared", "per_class", "low_rank", "full"])
@pytest.mark.parametrize("positions", [None, np.array([7, 3, 30])])
def test_scores_of_draws(monkeypatch, at_once, covariance, positions):
    """However few rows are drawn for at a time, the weights are the same."""
    monkeypatch.setattr("laplace_al.model.pool_state.NUMBERS_AT_ONCE", at_once)
    clf, X, _ = problem(3, covariance=covariance, random_state=0)
    pool, sizes = clf.pool_state(X), []

    def score(draws):
        sizes.append(draws.shape[1])
        return draws.std(axis=0).sum(axis=1)

    expected = score(pool.sample_proba(9))
    sizes.clear()
    scores = pool.scores_of_draws(9, score, positions)
    assert max(sizes) <= max(1, at_once // 27)
    assert sum(sizes) == len(scores)
    np.testing.assert_allclose(
        scores, expected if positions is None else expected[positions], atol=1e-12
    )


@pytest.mark.parametrize("dtype", ["float16", "int8", "uint8", "int16", "bool", "float32"])
@pytest.mark.parametrize("writeable", [True, False])
def test_a_pool_of_few_bytes_is_float32(dtype, writeable):
    """And the numbers of the posterior are those of float64 to its last digits."""
    clf, X, _ = problem(3)
    rows = (3 * X).astype(dtype)
    rows.setflags(write=writeable)
    pool = clf.pool_state(rows)
    assert pool.features.dtype == torch.float32
    assert pool.logits.dtype == torch.float64
    expected = clf.pool_state(rows.astype(np.float64))
    np.testing.assert_allclose(pool.predict_proba(), expected.predict_proba(), atol=1e-5)
    np.testing.assert_array_equal(
        clf.predict_proba(rows), clf.predict_proba(rows.astype(np.float64))
    )


@pytest.mark.parametrize("flip", [np.s_[::-1], np.s_[:, ::-1], np.s_[::-2]])
@pytest.mark.parametrize("writeable", [True, False])
def test_a_reversed_pool(flip, writeable):
    clf, X, _ = problem(3)
    flipped = X[flip]
    flipped.setflags(write=writeable)
    pool = clf.pool_state(flipped)
    np.testing.assert_array_equal(
        pool.predict_proba(), clf.pool_state(X[flip].copy()).predict_proba()
    )


def test_a_pool_of_float32_is_not_copied():
    clf, X, _ = problem(3)
    rows = X.astype(np.float32)
    rows.setflags(write=False)
    assert np.shares_memory(clf.pool_state(rows).features.numpy(), rows)
