"""The files around the package agree with each other."""

import configparser
import pathlib
import re
import tomllib

import pytest

import laplace_al

ROOT = pathlib.Path(__file__).parents[1]


def read(name):
    return (ROOT / name).read_text()


def test_the_readme_holds_the_two_commands():
    commands = re.findall(r"^    (python -m pip .*)$", read("README.rst"), flags=re.MULTILINE)
    assert commands == [
        'python -m pip install -c constraints.txt ".[examples]" && '
        "python examples/plot_active_learning_digits.py",
        'python -m pip install -c constraints.txt -e ".[test]" && python -m pytest',
    ]


def test_pre_commit_and_constraints_pin_the_same_ruff():
    pinned = re.search(r"^ruff==(.*)$", read("constraints.txt"), flags=re.MULTILINE)[1]
    assert set(re.findall(r"ruff==([\d.]+)", read(".pre-commit-config.yaml"))) == {pinned}


def test_extras():
    config = configparser.ConfigParser()
    config.read_string(read("setup.cfg"))
    extras = config["options.extras_require"]
    assert set(extras) == {"fast", "modal", "dask", "examples", "docs", "test"}
    assert extras["modal"].strip() == "modAL-python<0.4.2"
    assert extras["fast"].strip() in extras["test"].split()


def test_the_open_section_of_the_changes_is_this_version():
    assert f"\n{laplace_al.__version__} (unreleased)\n" in read("CHANGES.rst")


@pytest.mark.parametrize("path", sorted((ROOT / "laplace_al").rglob("*.py")), ids=str)
def test_every_module_has_a_mirror(path):
    relative = path.relative_to(ROOT / "laplace_al")
    if path.name != "__init__.py":
        name = re.sub("^_(?!_)", "", path.name)  # of a shared part
        mirror = ROOT / "tests" / relative.with_name(name)
        assert mirror.with_name(f"test_{name}").exists() or mirror.with_suffix("").is_dir()


def test_the_paths_of_the_mutation_tests_exist():
    options = tomllib.loads(read("pyproject.toml"))["tool"]["mutmut"]
    tests = options["pytest_add_cli_args_test_selection"]
    for path in options["only_mutate"] + tests:
        assert list(ROOT.glob(path)), path


def test_ci_builds_the_pages_by_the_command_of_the_contributing_page():
    [command] = re.findall(
        r"^    (python -m sphinx .*)$", read("docs/contributing.rst"), flags=re.MULTILINE
    )
    assert f"\n    {command}\n" in read(".ci/run")
    assert command in read("docs/conf.py")


def test_the_badges_are_true():
    config = configparser.ConfigParser()
    config.read_string(read("setup.cfg"))
    python, licence, paper = re.findall(
        r"img\.shields\.io/badge/\w+-(.*)-\w{6}$", read("README.rst"), re.M
    )
    assert config["options"]["python_requires"] == ">=" + python.removesuffix("+")
    assert config["metadata"]["license"] == licence.replace("--", "-")
    assert f"arxiv.org/abs/{paper}" in read("CITATION.cff")


def test_the_citation_is_of_this_version():
    assert f"\nversion: {laplace_al.__version__}\n" in read("CITATION.cff")


def test_the_readme_counts_the_strategies_and_names_the_peers_that_are_pinned():
    n_strategies = len(laplace_al.strategies.__all__) - 1  # without the base
    assert f"     - {n_strategies} classes\n" in read("README.rst")
    for peer, name in [("modAL-python", "modAL"), ("scikit-activeml", "scikit-activeml")]:
        version = re.search(rf"^{peer}==(.*)$", read("constraints.txt"), re.M)[1]
        assert f"{name} {version}" in read("README.rst")
