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
from jaxkd.core.ranges import Interval, Items, Range
from jaxkd.training.options import _FIXED


class Block:
    pass


class Wide(Block):
    pass


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
    numbers: Sequence[int] = (8,),
    widths: Annotated[Sequence[int], Items()] = (8,),
    span: Interval = (0.0, 1.0),
    some: Annotated[Sequence[float], Items(least=0, some=True), Range()] = (),
    block: type[Block] = Block,
    nothing: tuple[int, int] | tuple[()] = (),
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
    "numbers": [[1, 2], (3,), (), (-1,)],
    "span": [(0.0, 0.0), [1, 2.5]],
    "block": [Wide, Block],
    "some": [(0, 1), ()],
    "pair": [(1.0, 2), [-1, 1]],
    "term_weights": [{"a": 0.5}, {}],
    "anything": [object(), "x", -1],
}
BAD = {
    "temperature": {
        -4: "is -4, expected a number >= 1e-06 and <= 1e+06",
        0.0: ">= 1e-06",
        1e-30: ">= 1e-06",
        1e30: "<= 1e+06",
        10**400: "<= 1e+06",
        float("inf"): ">= 1e-06",
        "4": "is '4', expected a number >= 1e-06",
        True: "expected a number >= 1e-06",
        None: "expected a number >= 1e-06",
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
    "numbers": {
        "12": "is '12', expected a list",
        (1, "a"): "each of it a whole number",
    },
    "widths": {(): "is (), expected a list of one or more", (8, 0): "number > 0"},
    "span": {(2.0, 1.0): "is (2.0, 1.0), expected the lower one first"},
    "some": {(0.0, 0): "a list, one of it above 0", (1.0, -1): ">= 0"},
    "block": {"X": "is 'X', expected a class derived from Block", int: "from Block"},
    "nothing": {(1,): "expected 2 values or an empty list"},
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


SPECIMENS = [
    ("view glyph", "zoom", 10.0, "a number >= 0 and < 1"),
    ("view glyph", "noise", 5.0, "a number >= 0 and <= 4"),
    ("view glyph", "rotation", 720.0, "a number >= 0 and <= 180"),
    ("view recolour", "shift", -1, "a whole number >= 0"),
    ("view ct", "intensity", 2.0, "a number >= 0 and <= 1"),
    ("view low", "blur", (2.0, 1.0), "the lower one first"),
    ("view low", "quality", (90, 30), "the lower one first"),
    ("view low", "quality", (0, 30), "a list, each of it a whole number >= 1 and <="),
    ("view low", "levels", (1.0, 1.0), "two different numbers, the lower one first"),
    ("view mixed_low", "noise", (0.2, 0.1), "the lower one first"),
    ("view mixed_low", "kernels", (), "a list of one or more"),
    ("view handwriting", "crop", (0.6, 1.1), "a list, each of it a number > 0 and <="),
    ("view handwriting", "scale", (1.1, 0.9), "the lower one first"),
    ("jaxkd.methods.kd_ltr", "alpha", 1.5, "a number >= 0 and <= 1"),
    ("jaxkd.methods.kd_ltr", "threshold", 1.5, "a number >= 0 and <= 1"),
    ("jaxkd.methods.kd", "temperature", 1e-30, "a number >= 1e-06 and <= 1e+06"),
    ("jaxkd.methods.mlkd", "temperatures", (), "a list of one or more"),
    ("jaxkd.methods.mlkd", "temperatures", (4.0, 0.0), "each of it a number >= 1e-06"),
    ("jaxkd.methods.mkd", "kinds", 0, "a whole number > 0"),
    ("jaxkd.methods.mkd", "taps", (), "a list of one or more"),
    ("jaxkd.methods.nlran", "class_weights", (0.0, 0.0), "a list, one of it above 0"),
    ("jaxkd.methods.gdrd", "eval_sizes", (8, 0), "a list, each of it a whole number >"),
    ("jaxkd.methods.gdrd", "head", (), "a list of one or more"),
    ("jaxkd.methods.sftn", "widths", (8, 0), "a list, each of it a whole number > 0"),
    ("jaxkd.methods.sftn", "sides", (), "a list of one or more"),
    ("jaxkd.methods.ipn", "sides", (0,), "a list, each of it a whole number > 0"),
    ("jaxkd.methods.ipn", "margin", 4.0, "a number >= 0 and < 3.14159"),
    ("jaxkd.methods.horkd", "fade", (3.0, 1.0), "the lower one first"),
    ("jaxkd.datasets.npz", "value_range", (1.0, 0.0), "the lower one first"),
    ("jaxkd.datasets.npz", "classes", 0, "a whole number > 0"),
    (
        "jaxkd.datasets.folder",
        "mean",
        (123.7, 116.3, 103.5),
        "each of it a number >= 0",
    ),
    ("jaxkd.datasets.tfds", "std", (58.4, 57.1, 57.4), "each of it a number >= 1e-06"),
    ("jaxkd.datasets.captions", "single", 1.5, "a number >= 0 and <= 1"),
    ("model resnet20", "widths", (0,), "a list, each of it a whole number > 0"),
    ("model resnet20", "widths", (), "a list of one or more"),
    ("model resnet20", "strides", (0, 1, 1), "a list, each of it a whole number > 0"),
    ("model resnet20", "block", "X", "a class derived from Module, in Python alone"),
    ("model resnet20", "blocks", 0, "a whole number > 0 or a list"),
    ("model vgg8", "blocks", ((8,), (0,)), "each of it a whole number > 0"),
    ("model vit_tiny16", "heads", 0, "a whole number > 0"),
    ("model fcos_resnet50", "first_level", 0, "a whole number >= 2 and <= 3"),
    ("model fcos_resnet50", "widths", (64, 128, 256), "4 values"),
    ("model abinet_vision", "blocks", (1, 1), "5 values"),
    ("model defi_net", "modules", (1, 1), "3 values"),
    ("model srcnn", "sizes", (9, 1), "3 values"),
]


def test_values_from_which_nothing_can_be_made():
    known = dict(everything())
    for what, name, value, expected in SPECIMENS:
        option = options.of_function(known[what], _FIXED)[name]
        with pytest.raises(UserError) as caught:
            options.check(value, option, name)
        assert f"{name} is {value!r}, expected" in str(caught.value), what
        assert expected in str(caught.value), what


def test_lists_are_empty_only_where_that_means_something():
    """Of the whole library: where it is the default, or is said to be right."""
    may_be = {
        *("attention", "attn_resolutions", "encoder_widths", "hidden", "image_shape"),
        *("artefact", "buckets", "class_weights", "classes", "described", "eval_sizes"),
        *("levels", "mean", "noise_snrs", "sides", "std", "taps"),
        *("test_methods", "test_negatives"),
    }
    found = set()
    for what, function in everything():
        for name, option in options.of_function(function, _FIXED).items():
            if tuple in option.types:
                try:
                    options.check((), option, what)
                    found.add(name)
                except UserError:
                    pass
    assert found == may_be


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
