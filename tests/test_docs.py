"""The pages of the documentation know the code, and the code knows them."""

import ast
import importlib
import pathlib
import re

import pytest

import laplace_al

ROOT = pathlib.Path(__file__).parents[1]
LABEL = r"\beq-[a-z]+(?:-[a-z]+)*\b"


def documented(page):
    """Names in the autosummaries of a page, with their modules; what is commented out is not."""
    names, module, inside = set(), None, False
    for line in page.splitlines():
        if match := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = match[1]
        elif line.startswith(".. autosummary::"):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (match := re.match(r" +([A-Za-z_]\w*)$", line)):
            names.add((module, match[1]))
    return names


@pytest.fixture(scope="module")
def names():
    return documented((ROOT / "docs" / "api.rst").read_text())


@pytest.fixture(scope="module")
def labels():
    return re.findall(r"^ +:label: (\S+)$", (ROOT / "docs" / "theory.rst").read_text(), re.M)


def test_documented_reads_what_sphinx_reads():
    page = """
.. currentmodule:: a

.. autosummary::
   :toctree: generated

   f
   # g

h

.. currentmodule:: a.b

.. autosummary::

   f
"""
    assert documented(page) == {("a", "f"), ("a.b", "f")}


@pytest.mark.parametrize(
    "module", ["laplace_al", "laplace_al.strategies", "laplace_al.model.posterior"]
)
def test_every_public_name_is_in_the_reference(module, names):
    missing = set(importlib.import_module(module).__all__) - {
        name for where, name in names if where == module
    }
    assert not missing, f"add {sorted(missing)} to docs/api.rst, below currentmodule:: {module}"


def test_every_name_of_the_reference_exists(names):
    optional = {"laplace_al.integrations.modal"}
    unknown = [
        f"{module}.{name}"
        for module, name in names
        if module not in optional and not hasattr(importlib.import_module(module), name)
    ]
    assert not unknown


def test_labels_of_equations_are_distinct_and_well_formed(labels):
    assert len(set(labels)) == len(labels) > 0
    assert [label for label in labels if not re.fullmatch(LABEL, label)] == []


def test_the_code_cites_every_equation_and_no_other(labels):
    cited = {
        label
        for path in pathlib.Path(laplace_al.__file__).parent.rglob("*.py")
        for label in re.findall(LABEL, path.read_text())
    }
    assert cited == set(labels)


def test_every_strategy_is_explained():
    page = (ROOT / "docs" / "strategies.rst").read_text()
    missing = [
        name
        for name in laplace_al.strategies.__all__
        if name != "QueryStrategy" and f":class:`~laplace_al.strategies.{name}`" not in page
    ]
    assert not missing


@pytest.fixture(scope="module")
def drawn():
    """Names of the strategies in the order in which the example draws them."""
    tree = ast.parse((ROOT / "examples" / "plot_strategies.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "STRATEGIES":
            return [key.value for key in node.value.keys]
    raise AssertionError("plot_strategies.py has no STRATEGIES")


def test_every_strategy_is_drawn(drawn):
    assert sorted(drawn) == sorted(set(laplace_al.strategies.__all__) - {"QueryStrategy"})


def test_every_picture_of_a_strategy_is_that_of_its_name(drawn):
    page = (ROOT / "docs" / "strategies.rst").read_text()
    pictures = re.findall(r"sphx_glr_plot_strategies_(\d+)\.png\n +:alt: What (\w+) sees", page)
    assert {name: int(number) for number, name in pictures} == {
        name: number for number, name in enumerate(drawn, 1)
    }
    assert len(pictures) == len(drawn)
