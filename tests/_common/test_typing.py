"""Every public name says what it takes and returns, and type checkers are told so."""

import importlib
import importlib.resources
import inspect
import pathlib
import pkgutil
import tomllib

import pytest

import laplace_al

ROOT = pathlib.Path(__file__).parents[2]


def modules():
    names = [module.name for module in pkgutil.walk_packages(laplace_al.__path__, "laplace_al.")]
    return [name for name in names if not name.endswith("__main__")]


def callables(module):
    """Public functions and methods that a module defines, constructors and calls included."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for method, member in vars(value).items():
                if isinstance(member, property):
                    member = member.fget
                if hasattr(member, "func"):  # functools.cached_property
                    member = member.func
                function = inspect.unwrap(getattr(member, "__func__", member))
                is_public = not method.startswith("_") or method in ("__init__", "__call__")
                is_own = getattr(function, "__module__", None) == module.__name__
                if is_public and is_own and inspect.isfunction(function):
                    yield f"{name}.{method}", function


@pytest.mark.parametrize("name", modules())
def test_every_public_callable_has_hints(name):
    missing = []
    for where, function in callables(importlib.import_module(name)):
        wanted = {*inspect.signature(function).parameters, "return"} - {"self", "cls", "_cls"}
        missing += [f"{where}: {name}" for name in sorted(wanted - function.__annotations__.keys())]
    assert not missing


def test_the_core_is_among_them():
    core = {"likelihoods", "posterior.base", "updates"}
    assert {f"laplace_al.model.{name}" for name in core} <= set(modules())


def test_no_module_is_checked_less_strictly():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["strict"]
    lenient = [
        override
        for override in settings["overrides"]
        if any("laplace_al" in module for module in override["module"])
    ]
    assert not lenient


def test_type_checkers_are_told():
    assert importlib.resources.files("laplace_al").joinpath("py.typed").is_file()
    assert "laplace_al = py.typed" in (ROOT / "setup.cfg").read_text()
