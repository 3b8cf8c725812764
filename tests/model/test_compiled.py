"""The compiled recursion against the one on NumPy vectors, which runs where numba is not."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laplace_al import LaplaceUpdateClassifier
from laplace_al.model import updates
from laplace_al.model.curvatures import (
    per_class_curvature,
    per_class_unit_curvature,
    shared_curvature,
    shared_unit_curvature,
)
from laplace_al.model.likelihoods import likelihood_of
from laplace_al.model.posterior import PerClassPosterior, SharedPosterior, grouped
from laplace_al.model.updates import (
    Block,
    ExpectedUpdate,
    MapUpdate,
    NewtonUpdate,
    RememberingUpdate,
    learn_in_block,
)

numba = pytest.importorskip("numba")
from laplace_al.model import compiled  # noqa: E402  # it needs numba

CURVATURES = {
    "shared": (shared_curvature, shared_unit_curvature),
    "per_class": (per_class_curvature, per_class_unit_curvature),
}


def rules(structure, n_classes):
    likelihood = likelihood_of(n_classes)
    for curvature in CURVATURES[structure]:
        yield NewtonUpdate(likelihood, curvature, 0.7)
        for is_stiffened in (False, True):
            yield MapUpdate(likelihood, curvature, is_stiffened)


def block(structure, n_classes, *, n=5, size=5, logit=1.0, length=1.0, seed=0):
    """A block whose rows l_i are triangular, some of them repeated or zero."""
    rng = np.random.default_rng(seed)
    likelihood = likelihood_of(n_classes)
    n_groups = 1 if structure == "shared" else likelihood.n_outputs
    rows = length * rng.normal(size=(n, n_groups, size))
    rows = np.tril(rows.transpose(1, 0, 2)).transpose(1, 0, 2)
    rows[n // 2] = rows[0]
    rows[n // 3] *= rng.integers(2)
    logits = logit * rng.normal(size=(n, likelihood.n_outputs))
    labels = torch.from_numpy(rng.integers(n_classes, size=n)).double()
    weights = rng.choice([0.0, 0.3, 1.0, 20.0], size=n)
    longest = (rows**2).sum(axis=2).max(axis=1).clip(1e-300)
    prior = rng.choice([0.3, 2.0], size=n) * longest
    return Block(
        np.ascontiguousarray(rows), logits, likelihood.encode(labels).numpy(), weights, prior
    )


def interpreted(rule, known):
    """T and c by the interpreter: no rule that it knows."""
    rows, *others = known
    return grouped._recursion(lambda *args: rule(*args), np.moveaxis(rows, 0, 2), *others)


@given(
    structure=st.sampled_from(["shared", "per_class"]),
    n_classes=st.integers(2, 7),
    n=st.integers(1, 7),
    size=st.integers(1, 7),
    log_logit=st.floats(-3, 2.5),
    log_length=st.floats(-6, 3),
    seed=st.integers(0, 2**16),
    which=st.integers(0, 5),
)
@settings(deadline=None, max_examples=300)
def test_it_gives_the_numbers_of_the_interpreter(
    structure, n_classes, n, size, log_logit, log_length, seed, which
):
    rule = list(rules(structure, n_classes))[which]
    known = block(
        structure,
        n_classes,
        n=n,
        size=size,
        logit=10**log_logit,
        length=10**log_length,
        seed=seed,
    )
    found = learn_in_block(rule, known)
    factor, shift = interpreted(rule, known)
    np.testing.assert_allclose(found.factor, factor, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(found.shift, shift, rtol=1e-6, atol=1e-9 * abs(shift).max())


@pytest.mark.parametrize("structure", CURVATURES)
@pytest.mark.parametrize("n_classes", [2, 3, 20])
def test_to_the_last_digits_at_usual_scales(structure, n_classes):
    for rule in rules(structure, n_classes):
        known = block(structure, n_classes, n=30, size=20)
        found = learn_in_block(rule, known)
        factor, shift = interpreted(rule, known)
        np.testing.assert_allclose(found.factor, factor, rtol=0, atol=1e-13)
        np.testing.assert_allclose(found.shift, shift, rtol=0, atol=1e-12)


@pytest.mark.parametrize("structure", CURVATURES)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_what_each_label_met_is_remembered(structure, n_classes):
    for rule in rules(structure, n_classes):
        known = block(structure, n_classes, n=6, size=4)
        ours, theirs = RememberingUpdate(rule), RememberingUpdate(rule)
        assert learn_in_block(ours, known) is not None
        interpreted(theirs, known)
        for some, others in zip(
            (*ours.predicted, ours.learnt), (*theirs.predicted, theirs.learnt), strict=True
        ):
            np.testing.assert_allclose(some, others, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [1e-5, 1e5])
def test_coefficients_have_all_their_digits_beside_large_logits(length):
    rule = MapUpdate(likelihood_of(4), per_class_curvature)
    z, y, v = 1e6 * np.array([0.3, 1.0, -0.7, 0.9]), np.eye(4)[0], np.full(4, length**2)
    known = Block(np.full((1, 4, 1), length), z[None], y[None], np.ones(1), np.full(1, 1e12))
    found = learn_in_block(rule, known)
    expected, _ = rule(z, v, y, 1.0)
    np.testing.assert_allclose(found.coefficients[0], expected, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("structure", CURVATURES)
def test_one_row_is_a_block(structure):
    for rule in rules(structure, 3):
        _, *known = block(structure, 3, n=1)
        variance = np.full((1, 1 if structure == "shared" else 3), 1.7)
        ours = grouped._one_row(rule, variance, *known)
        theirs = grouped._one_row(lambda *args, rule=rule: rule(*args), variance, *known)
        for some, others in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(some, others, rtol=1e-12)


def test_rules_of_other_kinds_are_left_to_the_interpreter():
    rule = MapUpdate(likelihood_of(3), shared_curvature)
    known = block("shared", 3)
    assert learn_in_block(rule, known) is not None
    others = (
        ExpectedUpdate(rule),
        MapUpdate(likelihood_of(3), lambda mean: shared_curvature(mean)),
        lambda *args: rule(*args),
    )
    for other in others:
        assert learn_in_block(other, known) is None
        assert learn_in_block(RememberingUpdate(other), known) is None


@pytest.mark.parametrize("n_classes", [2, 3])
def test_so_are_targets_between_0_and_1(n_classes):
    rule = MapUpdate(likelihood_of(n_classes), shared_curvature)
    known = block("shared", n_classes)
    assert learn_in_block(rule, known) is not None
    known.targets[-1] = 0.5
    assert learn_in_block(rule, known) is None


@pytest.mark.parametrize("posterior", [SharedPosterior, PerClassPosterior])
@pytest.mark.parametrize("n", [1, 2])
def test_a_mode_that_is_not_found_is_an_error_all_the_same(posterior, n):
    curvature = shared_curvature if posterior is SharedPosterior else per_class_curvature
    rule = RememberingUpdate(MapUpdate(likelihood_of(3), curvature))
    prior = posterior.prior(torch.zeros(2, 3).double(), 1.0)
    features = torch.full((n, 2), torch.nan).double()
    with pytest.raises(ArithmeticError, match="not solved"):
        prior.condition(features, torch.eye(3).double()[:n], torch.ones(n).double(), rule)
    assert not rule.learnt


@pytest.mark.parametrize("covariance", ["shared", "per_class"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_classifier_learns_the_same_without_numba(covariance, n_classes, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), np.arange(60) % n_classes

    def learnt():
        clf = LaplaceUpdateClassifier(covariance=covariance).fit(X[:20], y[:20])
        clf.partial_fit(X[20:50], y[20:50])
        return clf.partial_fit(X[50:51], y[50:51]).pool_state(X).observe(3, y[3])

    ours = learnt()
    monkeypatch.setattr(updates, "_compiled", lambda: None)
    theirs = learnt()
    torch.testing.assert_close(ours.posterior.mean, theirs.posterior.mean, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(
        ours.posterior.covariance, theirs.posterior.covariance, rtol=1e-11, atol=1e-13
    )
    np.testing.assert_allclose(ours.predict_proba(), theirs.predict_proba(), rtol=1e-11)


@pytest.fixture
def forgotten():
    """Look for numba anew, before and after."""
    updates._compiled.cache_clear()
    yield
    updates._compiled.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_numba_the_interpreter_learns(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    rule = MapUpdate(likelihood_of(3), shared_curvature)
    assert learn_in_block(rule, block("shared", 3)) is None


@pytest.mark.usefixtures("forgotten")
def test_a_numba_that_cannot_be_imported_is_told_once(monkeypatch):
    def fail(name):
        raise ImportError("Numba needs NumPy 2.4 or less")

    monkeypatch.setattr(updates.importlib, "import_module", fail)
    rule = MapUpdate(likelihood_of(3), shared_curvature)
    with pytest.warns(UserWarning, match=r"without it: Numba needs NumPy 2\.4"):
        assert learn_in_block(rule, block("shared", 3)) is None
    assert learn_in_block(rule, block("shared", 3)) is None


def test_where_nothing_can_be_kept_it_is_compiled_all_the_same(monkeypatch):
    njit = numba.njit

    def nowhere(function, *, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(compiled.numba, "njit", nowhere)
    assert compiled.kept(abs_of_one)(-3.0) == 3.0


def abs_of_one(x):
    return abs(x)


def test_a_full_disk_stops_nothing(monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr(compiled, "learn_block", full)
    rule = MapUpdate(likelihood_of(3), shared_curvature)
    assert learn_in_block(rule, block("shared", 3)) is None


def test_first_labels_of_many_threads_and_of_forked_processes():
    program = """
import concurrent.futures
import multiprocessing
import numpy as np
import torch
from laplace_al import LaplaceUpdateClassifier

torch.set_num_threads(1)  # those of OpenMP do not survive a fork
X, y = np.random.default_rng(0).normal(size=(40, 5)), np.arange(40) % 3

def learnt(_):
    return LaplaceUpdateClassifier(prior_precision=1.0).fit(X[:20], y[:20]).partial_fit(X, y).coef_

with concurrent.futures.ThreadPoolExecutor(4) as pool:
    found = list(pool.map(learnt, range(4)))
with multiprocessing.get_context("fork").Pool(2) as pool:
    found += pool.map(learnt, range(2))
for one in found:
    np.testing.assert_array_equal(one, learnt(0))
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_numba_is_not_imported_before_a_label_is_learnt():
    program = """
import sys
from laplace_al import LaplaceUpdateClassifier
clf = LaplaceUpdateClassifier().fit([[-1.0], [1.0]], [0, 1])
assert "numba" not in sys.modules
clf.partial_fit([[2.0]], [1])
assert "numba" in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
