"""What others import stays: the names and parameters that docs/api.md lists."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

from jaxkd import api

PAGE = Path(__file__).parent.parent / "docs" / "api.md"


def listed():
    """Returns name -> parameters, as the page lists them."""
    block = re.search(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)[1]
    entries = re.findall(r"(jaxkd[\w.]+)\(([^)]*)\)", block)
    return {name: re.findall(r"\w+=?", parameters) for name, parameters in entries}


def find(name):
    """Imports the longest part of a name that is a module, and looks the rest up."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part)
        return found
    raise AssertionError(name)


@pytest.mark.parametrize("name", listed())
def test_listed_name_takes_the_listed_parameters(name):
    parameters = inspect.signature(find(name)).parameters
    place = {each: index for index, each in enumerate(p for p in parameters)}
    shift = int("self" in place)
    for index, parameter in enumerate(listed()[name]):
        plain = parameter.rstrip("=")
        assert plain in parameters, f"{name} has lost its parameter {plain}"
        if not parameter.endswith("="):
            assert place[plain] == index + shift, f"{name}: {plain} has moved"
            kind = parameters[plain].kind
            assert kind is not inspect.Parameter.KEYWORD_ONLY


def test_the_page_lists_the_whole_api():
    functions = {
        f"jaxkd.api.{name}"
        for name, value in vars(api).items()
        if inspect.isfunction(value) and value.__module__ == api.__name__
        if not name.startswith("_")
    }
    methods = {
        f"jaxkd.api.Model.{name}"
        for name in vars(api.Model)
        if not name.startswith("_")
    }
    assert functions | methods <= set(listed())


def test_names_by_which_published_code_finds_the_library():
    from jaxkd.convert import edm, load_torch
    from jaxkd.diffusion import fit, gits, samplers, schedules

    for function in (
        *(samplers.sample, schedules.polynomial, schedules.logsnr, fit),
        *(gits.search, gits.plan, gits.cost_matrix, edm.load, load_torch),
    ):
        assert callable(function)


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert (Path(api.__file__).parent / "py.typed").is_file()
