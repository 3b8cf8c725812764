"""The house stays small and in order; optional dependencies stay at the edge."""

import ast
import re
import subprocess
import sys

import pytest
from house import PACKAGE, ROOMS, arrows, imports, modules

PROTOCOLS = {
    # named tuples: public, with an underscore so that fields may have any name
    "_asdict",
    "_fields",
    "_replace",
    # scikit-learn: an estimator that holds another one has it check its own parameters
    "_parameter_constraints",
    "_validate_params",
    # Python: the only way to the line of the caller
    "_getframe",
    # torch: no public method lists the hooks of a module, or its parts with their places
    "_buffers",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_modules",
    "_orig_mod",  # what torch.compile wraps
    "_parameters",
}
ATTRIBUTES_BY_NAME = {"getattr", "hasattr", "setattr", "delattr"}


def is_own(owner):
    return isinstance(owner, ast.Name) and owner.id in {"self", "cls"}


def defined_names(tree):
    """Names that the classes of a file define: methods, fields and attributes of self."""
    for owner in ast.walk(tree):
        if isinstance(owner, ast.ClassDef):
            for node in ast.walk(owner):
                is_stored = isinstance(getattr(node, "ctx", None), ast.Store)
                if isinstance(node, ast.FunctionDef):
                    yield node.name
                elif is_stored and isinstance(node, ast.Name):
                    yield node.id
                elif is_stored and isinstance(node, ast.Attribute) and is_own(node.value):
                    yield node.attr


def private_reads(tree, room):
    """Line and name of what others keep private: attributes of objects, imports from rooms."""
    reads = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            reads.append((node, node.value, node.attr))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ATTRIBUTES_BY_NAME:
            reads.append((node, node.args[0], getattr(node.args[1], "value", "")))
        elif isinstance(node, ast.ImportFrom) and f"{node.module}.".startswith("laplace_al."):
            is_of_room = f"{node.module}.".startswith(f"laplace_al.{room}.")
            reads += [(node, None, alias.name) for alias in node.names if not is_of_room]
    for node, owner, name in reads:
        if str(name).startswith("_") and not name.endswith("__") and not is_own(owner):
            yield node.lineno, name


def test_private_reads_are_found():
    code = """
from laplace_al.model.mode import _a, b
class C:
    def __init__(self, other): self._e = other._c = getattr(other, "_d").__dict__
"""
    assert sorted(private_reads(ast.parse(code), "model")) == [(4, "_c"), (4, "_d")]
    assert sorted(private_reads(ast.parse(code), "pool")) == [(2, "_a"), (4, "_c"), (4, "_d")]
    assert set(defined_names(ast.parse(code))) == {"__init__", "_e"}


def test_every_module_is_in_a_room():
    assert {room for room, _ in modules()} == set(ROOMS)


def test_the_pages_list_the_rooms():
    page = (PACKAGE.parent / "docs" / "contributing.rst").read_text()
    table = page.split("Imports point down")[1].split("\n\n")[1]
    cells = [line.split("  ")[0] for line in table.splitlines()]
    assert re.findall(r"``(\w+)``", "".join(cells)) == ROOMS


def test_imports_point_down():
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for room, path in modules()
        for name in imports(path)
        if name.startswith("laplace_al.") and ROOMS.index(name.split(".")[1]) < ROOMS.index(room)
    ]
    assert not upward


def test_rooms_and_arrows_are_few():
    assert len(ROOMS) <= 14
    assert len(arrows()) <= 50


@pytest.mark.parametrize("folder", ["laplace_al", "tests"])
def test_files_are_short(folder):
    n_lines = {
        str(path.relative_to(PACKAGE.parent)): len(path.read_text().splitlines())
        for path in (PACKAGE.parent / folder).rglob("*.py")
    }
    assert {path: n for path, n in n_lines.items() if n > 600} == {}


def test_classes_are_small():
    n_methods = {
        f"{path.relative_to(PACKAGE)}: {node.name}": len(
            {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
        )
        for _, path in modules()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    assert {name: n for name, n in n_methods.items() if n > 25} == {}


def test_no_room_reads_what_another_one_keeps_private():
    trees = {path: (room, ast.parse(path.read_text())) for room, path in modules()}
    known = {room: set(PROTOCOLS) for room in ROOMS}
    for room, tree in trees.values():
        known[room].update(defined_names(tree))
    foreign = [
        f"{path.relative_to(PACKAGE)}:{line} {name}"
        for path, (room, tree) in trees.items()
        for line, name in sorted(private_reads(tree, room))
        if name not in known[room]
    ]
    assert not foreign


def test_the_core_knows_no_scikit_learn():
    foreign = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for room, path in modules()
        if room == "model"
        for name in imports(path)
        if name.split(".")[0]
        not in {"torch", "numpy", "numba", "scipy", "laplace_al", *sys.stdlib_module_names}
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
        "numba",
        "pytest",
    }
    assert not optional & set(done.stdout.split())
