"""Imports point down the list, never up; optional dependencies stay at the edge."""

import ast
import pathlib
import re
import subprocess
import sys

import laplace_al

ROOT = pathlib.Path(laplace_al.__file__).parent
LAYERS = [
    "label",
    "integrations",
    "plotting",
    "simulation",
    "results",
    "learner",
    "journal",
    "record",
    "stopping",
    "strategies",
    "pool_checks",
    "scored_pool",
    "classifier",
    "last_layer",
    "persistence",
    "archive",
    "digests",
    "features",
    "heads",
    "networks",
    "labels",
    "blocks",
    "tensors",
    "scores",
    "pool",
    "predictive",
    "block_fitting",
    "fitting",
    "memory",
    "calibration",
    "links",
    "leave_one_out",
    "structures",
    "mode",
    "priors",
    "updates",
    "curvatures",
    "likelihoods",
    "posterior",
    "devices",
    "locks",
    "stored",
    "transaction",
    "typing",
]
CORE = LAYERS[LAYERS.index("predictive") :]


def imports(path):
    """Names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            if node.module == "laplace_al":
                yield from (f"laplace_al.{alias.name}" for alias in node.names)
            else:
                yield node.module


def modules():
    """Layer and path of each file of the package below the façade."""
    for path in ROOT.rglob("*.py"):
        if path != ROOT / "__init__.py":
            yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def test_every_module_has_a_layer():
    assert {layer for layer, _ in modules()} == set(LAYERS)


def test_the_pages_list_the_layers():
    page = (ROOT.parent / "docs" / "contributing.rst").read_text()
    table = page.split("Imports point down")[1].split("\n\n")[1]
    cells = [line.split("  ")[0] for line in table.splitlines()]
    assert re.findall(r"``(\w+)``", "".join(cells)) == LAYERS


def test_imports_point_down():
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for layer, path in modules()
        for name in imports(path)
        if name.startswith("laplace_al.") and LAYERS.index(name.split(".")[1]) < LAYERS.index(layer)
    ]
    assert not upward


def test_the_core_knows_no_scikit_learn():
    foreign = [
        f"{path.relative_to(ROOT)} imports {name}"
        for layer, path in modules()
        if layer in CORE
        for name in imports(path)
        if name.split(".")[0]
        not in {"torch", "numpy", "scipy", "laplace_al", *sys.stdlib_module_names}
    ]
    assert not foreign


def test_importing_the_package_takes_no_optional_dependency():
    code = (
        "import sys, laplace_al, laplace_al.strategies; "
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = {
        "skorch",
        "modAL",
        "river",
        "dask",
        "distributed",
        "matplotlib",
        "polars",
        "hypothesis",
        "pytest",
    }
    assert not optional & set(done.stdout.split())
