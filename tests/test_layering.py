"""Imports point down the list, never up; optional dependencies stay at the edge."""

import ast
import pathlib
import re
import subprocess
import sys

import laplace_al

ROOT = pathlib.Path(laplace_al.__file__).parent
ROOMS = [
    "label",
    "integrations",
    "experiments",
    "loop",
    "strategies",
    "pool",
    "classifier",
    "last_layer",
    "storage",
    "inputs",
    "model",
    "_common",
]


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
    """Room and path of each file of the package below the façade."""
    for path in ROOT.rglob("*.py"):
        if path != ROOT / "__init__.py":
            yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def test_every_module_is_in_a_room():
    assert {room for room, _ in modules()} == set(ROOMS)


def test_the_pages_list_the_rooms():
    page = (ROOT.parent / "docs" / "contributing.rst").read_text()
    table = page.split("Imports point down")[1].split("\n\n")[1]
    cells = [line.split("  ")[0] for line in table.splitlines()]
    assert re.findall(r"``(\w+)``", "".join(cells)) == ROOMS


def test_imports_point_down():
    upward = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room, path in modules()
        for name in imports(path)
        if name.startswith("laplace_al.") and ROOMS.index(name.split(".")[1]) < ROOMS.index(room)
    ]
    assert not upward


def test_the_core_knows_no_scikit_learn():
    foreign = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room, path in modules()
        if room == "model"
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
