"""Options: types and ranges of what a signature declares, and every default within."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from jaxkd import datasets, methods, models, views
from jaxkd.core import lookup, options
from jaxkd.core.errors import UserError
from jaxkd.core.options import Range
from jaxkd.training.options import _FIXED


def example(
    run: Any,
    *,
    temperature: float = 4.0,
    kd_weight: float = 1.0,
    label_smoothing: float = 0.0,
    dropout: float = 0.0,
    count: int = 2,
    offset: float = 0.0,
    shift: Annotated[float, Range(low=-1, high=1, below=True)] = 0.0,
    standardize: bool = False,
    mask: Literal["ge", "g"] = "ge",
    name: str = "",
    path: Path | str = "",
    size: int | None = None,
    widths: Sequence[int] = (8,),
    pair: tuple[float, float] = (0.0, 1.0),
    term_weights: Mapping[str, float] = {},
    anything: Any = None,
):
    return locals()


GOOD = {
    "temperature": [0.5, 2, np.float32(2)],
    "kd_weight": [0, 1.5],
    "label_smoothing": [0.0, 1.0],
    "dropout": [0.0, 0.99],
    "count": [0, np.int64(3)],
    "offset": [-3.0, 5],
    "shift": [-1.0, 0.5],
    "standardize": [True, False, np.bool_(True)],
    "mask": ["ge", "g"],
    "path": ["a", Path("a")],
    "size": [None, 3],
    "widths": [[1, 2], (3,), (), (-1,)],
    "pair": [(1.0, 2), [-1, 1]],
    "term_weights": [{"a": 0.5}, {}],
    "anything": [object(), "x", -1],
}
BAD = {
    "temperature": {
        -4: "is -4, expected a number > 0",
        0.0: "> 0",
        float("inf"): "> 0",
        "4": "is '4', expected a number > 0",
        True: "expected a number > 0",
        None: "expected a number > 0",
    },
    "kd_weight": {-1: "is -1, expected a number >= 0", float("nan"): ">= 0"},
    "label_smoothing": {1.1: "expected a number >= 0 and <= 1"},
    "dropout": {1.0: "expected a number >= 0 and < 1"},
    "count": {1.5: "is 1.5, expected a whole number", True: "a whole number"},
    "shift": {1.0: "expected a number >= -1 and < 1", -2: ">= -1"},
    "standardize": {"no": "is 'no', expected True or False", 1: "True or False"},
    "mask": {"gt": "is 'gt', expected one of 'ge', 'g'"},
    "name": {3: "is 3, expected text"},
    "size": {0: "is 0, expected a whole number > 0 or None"},
    "widths": {"12": "is '12', expected a list", (1, "a"): "each of it a whole number"},
    "pair": {(1.0,): "expected 2 values", ("a", 1.0): "each of it a number"},
    "term_weights": {(): "a dictionary"},
}


def call(**given):
    return lookup.call(example, given, what="method 'example'", run=1)


def test_values_that_fit():
    for name, values in GOOD.items():
        for value in values:
            assert call(**{name: value})[name] is value


@pytest.mark.parametrize("name", BAD)
def test_values_that_do_not_fit(name):
    for value, message in BAD[name].items():
        with pytest.raises(UserError) as caught:
            call(**{name: value})
        assert f"method 'example': {name} is {value!r}, expected" in str(caught.value)
        assert message in str(caught.value)
    with pytest.raises(UserError, match=r"each value a number >= 0"):
        call(term_weights={"a": -1.0})


def test_a_typo_lists_the_right_names():
    with pytest.raises(UserError, match=r"no option 'temprature', expected one of "):
        call(temprature=2.0)
    with pytest.raises(UserError, match=r"did you mean 'temperature'"):
        call(temprature=2.0)


def everything():
    """Yields all methods, views, networks and data sets of the library."""
    for package, attribute in ((methods, "make"), (datasets, "load")):
        for each in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{each.name}")
            if hasattr(module, attribute):
                yield f"{package.__name__}.{each.name}", getattr(module, attribute)
    for name in views.VIEWS:
        yield f"view {name}", views.find(name)
    for name in models.variants():
        yield f"model {name}", models.find(name)


def test_every_option_of_the_library_is_typed_and_its_default_fits():
    count = 0
    for what, function in everything():
        for name, option in options.of_function(function, _FIXED).items():
            assert option.annotation is not inspect.Parameter.empty, (what, name)
            if option.default is not inspect.Parameter.empty:
                options.check(option.default, option, f"{what}: {name}")
                count += 1
            if "weight" in name and float in option.types:
                with pytest.raises(UserError):
                    options.check(-1.0, option, name)
            if "temperatures" in name:
                for wrong in ((4.0, 0.0), (-4.0,), ("4",)):
                    with pytest.raises(UserError):
                        options.check(wrong, option, name)
            if "temperature" in name and float in option.types:
                for wrong in (0.0, -4.0, "4"):
                    with pytest.raises(UserError):
                        options.check(wrong, option, name)
            if option.types == {bool}:
                with pytest.raises(UserError, match="True or False"):
                    options.check("no", option, name)
    assert count > 500


def test_numbers_that_may_be_negative_are_declared():
    for package, name, function, option in (
        ("datasets", "ct", "load", "intensity_offset"),
        ("predictors", "ct", "predict", "intensity_offset"),
        ("predictors", "embeddings", "predict", "threshold"),
        ("methods", "edm", "make", "log_mean"),
    ):
        module = importlib.import_module(f"jaxkd.{package}.{name}")
        found = options.of_function(getattr(module, function))[option]
        assert found.types <= {float, type(None)} and float in found.types
        options.check(-0.5, found, option)
        with pytest.raises(UserError, match="expected a number"):
            options.check(float("inf"), found, option)


def test_numbers_of_own_code_are_any_unless_declared():
    def make(spec, *, power: float = -2.0, sharp_weight: float = 1.0, plain=3):
        return power, sharp_weight, plain

    assert lookup.call(make, {"power": -5.0}, what="x", spec=0)[0] == -5.0
    assert lookup.call(make, {"plain": "a"}, what="x", spec=0)[2] == "a"
    with pytest.raises(UserError, match="sharp_weight is -1, expected a number >= 0"):
        lookup.call(make, {"sharp_weight": -1}, what="x", spec=0)
