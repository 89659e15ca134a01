import sys

import pytest

from jaxkd.core import lookup
from jaxkd.core.errors import UserError


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "apple.py").write_text("def load(): return 'an apple'\n")
    (folder / "apricot.py").write_text("def load(): return 'an apricot'\n")
    (folder / "knife.py").write_text("def cut(): pass\n")
    (folder / "_private.py").write_text("def load(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "shelf"
    for name in [n for n in sys.modules if n.split(".")[0] == "shelf"]:
        del sys.modules[name]


def test_module_is_imported_by_name(package):
    assert lookup.module(package, "apple", "load").load() == "an apple"


@pytest.mark.parametrize("name", ["aple", "knife", "_private", "shelf.apple", ""])
def test_unknown_module_lists_those_with_the_attribute(package, name):
    with pytest.raises(UserError) as error:
        lookup.module(package, name, "load")
    message = str(error.value)
    assert repr(name) in message
    assert "one of apple, apricot" in message
    assert "cut" not in message and "one of _private" not in message


def test_close_name_is_suggested(package):
    with pytest.raises(UserError, match="did you mean 'apple'"):
        lookup.module(package, "aple", "load")


def test_error_inside_a_module_is_not_hidden(package, tmp_path):
    (tmp_path / "shelf" / "rotten.py").write_text("import no_such_thing\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        lookup.module(package, "rotten", "load")


def test_choose():
    choices = {"clean": 1, "shifted": 2}
    assert lookup.choose("shifted", choices, what="labels") == 2
    with pytest.raises(UserError, match=r"labels is 'shift'.*clean.*did you mean"):
        lookup.choose("shift", choices, what="labels")
    with pytest.raises(UserError, match="size is 17, expected one of 16, 32"):
        lookup.choose(17, {16: 0, 32: 0}, what="size")


def area(scale, *, width, height=1):
    return scale * width * height


def test_call_binds_options_and_fixed_arguments():
    assert lookup.call(area, {"width": 3}, what="area", scale=10) == 30
    assert lookup.call(area, {"width": 3, "height": 2}, what="area", scale=10) == 60


def test_call_rejects_unknown_options():
    with pytest.raises(UserError) as error:
        lookup.call(area, {"widht": 3}, what="area", scale=10)
    message = str(error.value)
    assert "area has no option 'widht'" in message
    assert "one of width, height" in message and "did you mean 'width'" in message


def test_options_cannot_replace_fixed_arguments():
    with pytest.raises(UserError, match="no option 'scale'"):
        lookup.call(area, {"width": 3, "scale": 2}, what="area", scale=10)


def test_call_names_missing_options():
    with pytest.raises(UserError, match=r"area needs width; the options given.*height"):
        lookup.call(area, {"height": 3}, what="area", scale=10)


def test_call_of_a_function_without_options():
    with pytest.raises(UserError, match="expected no option at all"):
        lookup.call(lambda: 0, {"x": 1}, what="nothing")


def test_errors_of_the_function_itself_pass_through():
    def fails(x):
        raise TypeError("inside")

    with pytest.raises(TypeError, match="inside"):
        lookup.call(fails, {"x": 1}, what="fails")
