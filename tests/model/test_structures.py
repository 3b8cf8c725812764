import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laplace_al.model import structures
from laplace_al.model.curvatures import secant_stiffening
from laplace_al.model.likelihoods import Categorical
from laplace_al.model.structures import (
    STRUCTURES,
    choose_structure,
)

CPU = {"dtype": torch.float64, "device": torch.device("cpu")}


@pytest.mark.parametrize(
    ("n_features", "n_outputs", "expected"),
    [
        (65, 1, "shared"),
        (65, 10, "per_class"),
        (17, 26, "per_class"),
        (129, 10, "per_class"),
        (129, 77, "per_class"),
        (385, 10, "per_class"),
        (385, 77, "per_class"),
        (769, 150, "low_rank"),
        (1025, 1000, "low_rank"),
    ],
)
def test_auto(n_features, n_outputs, expected):
    assert choose_structure("auto", n_features, n_outputs, **CPU) == expected


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_name_is_taken_at_its_word_if_it_fits(name):
    assert choose_structure(name, 20, 5, **CPU) == name


def test_what_does_not_fit_is_refused_and_the_smaller_ones_named(monkeypatch):
    monkeypatch.setattr(structures, "available_memory", lambda device: 36 * 8 * 100.0**2)
    assert choose_structure("per_class", 100, 10, **CPU) == "per_class"
    match = r"covariance='full' needs 0.1 GiB for 100 features and 10 outputs.* 'per_class'"
    with pytest.raises(ValueError, match=match):
        choose_structure("full", 100, 10, **CPU)
    with pytest.raises(ValueError, match=r"Use covariance='shared' or 'low_rank'\.$"):
        choose_structure("per_class", 101, 10, **CPU)
    with pytest.raises(ValueError, match=r"Reduce the features, e.g. with PCA"):
        choose_structure("auto", 1000, 100, **CPU)


def test_float32_needs_half(monkeypatch):
    monkeypatch.setattr(structures, "available_memory", lambda device: 9 * 4 * 100.0**2)
    assert choose_structure("shared", 100, 2, dtype=torch.float32, device=CPU["device"]) == "shared"
    with pytest.raises(ValueError, match="covariance='shared' needs"):
        choose_structure("shared", 100, 2, **CPU)


def test_a_full_posterior_of_a_wide_head_is_refused_on_any_machine():
    with pytest.raises(ValueError, match=r"Use covariance='shared' or 'low_rank'"):
        choose_structure("full", 1024, 1000, **CPU)


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_secant_stiffens_the_curvature_of_the_softmax(name):
    generator = torch.Generator().manual_seed(0)
    mean = Categorical(3).mean(torch.randn(5, 3, generator=generator).double())
    stiffening = 1 + torch.rand(5, 3, generator=generator).double()
    weights = torch.linspace(0, 2, 5).double()
    plain = STRUCTURES[name].curvature("categorical", mean, weights)
    stiff = STRUCTURES[name].curvature("secant", mean, weights, stiffening)
    for i, p in enumerate(mean.p):
        if name == "full":
            hessian = weights[i] * (torch.diag(p) - torch.outer(p, p))
            scale = stiffening[i].sqrt()
            torch.testing.assert_close(plain(i) @ plain(i).T, hessian)
            torch.testing.assert_close(stiff(i) @ stiff(i).T, scale[:, None] * hessian * scale)
        else:
            factor = stiffening[i, p.argmax()] if name == "shared" else stiffening[i]
            torch.testing.assert_close(stiff[i], plain[i] * factor)


@given(
    st.lists(st.floats(-100, 100), min_size=3, max_size=5),
    st.integers(0, 4),
    st.floats(0, 200),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_saturated_label_is_curved_alike_in_the_full_and_the_per_class_structure(
    without, label, gained, dtype
):
    before = torch.tensor([without], dtype=dtype)
    logits = before.clone()
    logits[0, label % len(without)] += gained  # by learning the label
    likelihood = Categorical(len(without))
    mean = likelihood.mean(logits)
    stiffening = secant_stiffening(mean, likelihood.mean(before), logits - before)
    one = torch.ones(1, dtype=dtype)
    root = STRUCTURES["full"].curvature("secant", mean, one, stiffening)(0)
    found = (root @ root.T).diagonal()
    expected = STRUCTURES["per_class"].curvature("secant", mean, one, stiffening)[0]
    number = torch.finfo(dtype)
    torch.testing.assert_close(found, expected, rtol=100 * number.eps, atol=number.tiny**0.5)
    assert found.max() < 1


@pytest.mark.parametrize("name", STRUCTURES)
def test_information_is_what_data_adds_to_the_precision(name):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(70, 4, generator=generator).double()
    mean = Categorical(3).mean(torch.randn(70, 3, generator=generator).double())
    structure = STRUCTURES[name]
    curvature = structure.curvature("categorical", mean, torch.ones(70).double())
    posterior = structure.posterior.at_mode(torch.zeros(4, 3).double(), features, curvature, 2.0)
    information = structure.posterior.information(features, curvature)
    precision = posterior.precision.reshape(information.shape)
    torch.testing.assert_close(information + 2 * torch.eye(information.shape[1]), precision)
