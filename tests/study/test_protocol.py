"""What the scripts of the study rely on, against its definitions."""

import importlib.util
import pathlib

import numpy as np
import pytest
from scipy import stats

STUDY = pathlib.Path(__file__).parents[2] / "examples" / "study"


def module(name):
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDY / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


protocol, heads, measures = map(module, ("protocol", "heads", "measures"))


class TestRows:
    keys = ("arm", "prior", "seed")

    def rows(self, path):
        return protocol.Rows(path, self.keys)

    def test_a_finished_run_is_known_later(self, tmp_path):
        path = tmp_path / "rows.csv"
        self.rows(path).append([{"arm": "a", "prior": 1.0, "seed": 0, "value": 1 / 3}])
        self.rows(path).append([{"arm": "b", "prior": 0.1, "seed": 1, "value": 2.0}])
        later = self.rows(path)
        assert ("a", 1.0, 0) in later
        assert ("b", 0.1, 1) in later
        assert ("a", 0.1, 0) not in later
        assert path.read_text() == "arm,prior,seed,value\na,1,0,0.3333\nb,0.1,1,2\n"

    def test_an_unfinished_line_is_dropped(self, tmp_path):
        path = tmp_path / "rows.csv"
        path.write_text("arm,prior,seed,value\na,1,0,2\nb,1,")
        rows = self.rows(path)
        assert ("a", 1, 0) in rows
        rows.append([{"arm": "b", "prior": 1.0, "seed": 0, "value": 3}])
        assert path.read_text() == "arm,prior,seed,value\na,1,0,2\nb,1,0,3\n"


def test_holm_is_the_step_down_procedure():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(protocol.holm(p), [0.03, 0.06, 0.06, 0.02])


def test_one_stratum_has_the_usual_standard_error():
    values = [1.0, 4.0, 2.0, 8.0]
    assert protocol.standard_error(values) == pytest.approx(stats.sem(values))


def test_strata_of_different_means_do_not_widen_the_error():
    values = np.array([0.0, 1.0, 100.0, 101.0])
    assert protocol.standard_error(values, [0, 0, 1, 1]) == pytest.approx(np.sqrt(1 / 2 / 4))


@pytest.mark.parametrize("mean", [0.0, 0.4, 2.0, -2.0])
def test_equivalence_and_its_interval_agree(mean):
    values = mean + np.random.default_rng(0).normal(scale=0.3, size=20)
    not_worse, p, low, high = protocol.equivalence(values, 0.5)
    assert (not_worse < 0.05) == (low > -0.5)
    assert (p < 0.05) == (low > -0.5 and high < 0.5)


def test_first_order_steps_along_the_gradient_of_each_label():
    rng = np.random.default_rng(0)
    weights, phi, y = rng.normal(size=(4, 3)), rng.normal(size=(5, 4)), rng.integers(3, size=5)
    slow = weights.copy()
    for row, label in zip(phi, y, strict=True):
        p = np.exp(row @ slow) / np.exp(row @ slow).sum()
        slow += 0.3 * np.outer(row, np.eye(3)[label] - p)
    np.testing.assert_allclose(heads.first_order(weights, phi, y, [0.1, 0.3])[1], slow)


def test_shares_are_the_likelihoods_of_the_labels():
    rng = np.random.default_rng(0)
    draws, phi, y = rng.normal(size=(6, 4, 3)), rng.normal(size=(5, 4)), rng.integers(3, size=5)
    likelihood = []
    for weights in draws:
        p = np.exp(phi @ weights) / np.exp(phi @ weights).sum(axis=1, keepdims=True)
        likelihood.append(np.prod(p[np.arange(5), y]))
    np.testing.assert_allclose(heads.shares_of(draws, phi, y), likelihood / np.sum(likelihood))


def test_sgd_on_one_batch_is_gradient_descent_with_momentum():
    rng = np.random.default_rng(0)
    weights, phi, y = rng.normal(size=(4, 3)), rng.normal(size=(5, 4)), rng.integers(3, size=5)
    slow, velocity = weights.copy(), 0.0
    for step in range(heads.N_EPOCHS):
        p = np.exp(phi @ slow) / np.exp(phi @ slow).sum(axis=1, keepdims=True)
        velocity = heads.MOMENTUM * velocity + phi.T @ (p - np.eye(3)[y]) / 5 + 0.1 * slow
        slow = slow - 0.2 * (1 - step / heads.N_EPOCHS) * velocity
    np.testing.assert_allclose(heads.sgd(weights, phi, y, [0.2], 0.1, 0)[0], slow, atol=1e-5)


def test_scores_of_certain_and_right_probabilities():
    y = np.array([0, 2, 1])
    found = measures.scores(np.eye(3)[y], y)
    assert found == {"accuracy": 1.0, "nll": 0.0, "brier": 0.0, "ece": 0.0}
