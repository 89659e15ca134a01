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
    with pytest.raises(UserError, match=r"size is \[16\], expected one of 16, 32"):
        lookup.choose([16], {16: 0, 32: 0}, what="size")


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


@pytest.mark.parametrize("got", ["APPLE", "Apel"])
def test_suggestions_do_not_mind_capitals(package, got):
    with pytest.raises(UserError, match="did you mean 'apple'"):
        lookup.module(package, got, "load")
    with pytest.raises(UserError, match="did you mean 'ResNet50'"):
        lookup.choose("resnet50", {"ResNet50": 0, "vgg8": 1}, what="model")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of own code that is not the working directory."""
    folder, here = tmp_path / "project", tmp_path / "here"
    (folder / "parts").mkdir(parents=True)
    here.mkdir()
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "sums.py").write_text(
        "from parts import sizes\ndef double(x): return sizes.TWO * x\n"
    )
    (folder / "parts" / "sizes.py").write_text("TWO = 2\n")
    (folder / "rule.py").write_text(
        "import math\nfrom math import sqrt\nLOADS = []\nLOADS.append(1)\n"
        "def make(x): return x + 1\nclass Net: pass\ndef _hidden(): pass\n"
    )
    monkeypatch.chdir(here)
    monkeypatch.setattr(lookup, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in [n for n in sys.modules if n.split(".")[0] == "parts"]:
        del sys.modules[name]


def test_own_code_of_a_module_and_of_a_file(project):
    lookup.add_folder(project)
    lookup.add_folder(str(project))
    assert sys.path.count(str(project)) == 1
    assert lookup.own_code("parts.sums:double", what="method")(4) == 8
    make = lookup.own_code("rule.py:make", what="method")
    assert make(4) == 5
    # By any path it is one module, executed once.
    again = lookup.own_module(f"{project}/rule.py:make", what="method")
    assert again.make is make and again.LOADS == [1]


def test_own_file_in_the_working_directory_goes_first(project, tmp_path):
    lookup.add_folder(project)
    (tmp_path / "here" / "rule.py").write_text("def make(x): return -x\n")
    assert lookup.own_code("rule.py:make", what="method")(4) == -4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rule.py", "expected 'package.module:function' or 'file.py:function'"),
        (":make", "expected 'package.module:function'"),
        ("rule.py:make it", "expected 'package.module:function'"),
        ("rule.py:Make", r"no function 'Make', expected one of make, Net \(did you"),
        ("rule.py:LOADS", "no function 'LOADS', expected one of make, Net"),
        ("rules.py:make", r"no file rules\.py in .*here, .*project"),
        ("party.sums:double", r"no module 'party' on the import path .*project"),
        ("parts.products:double", r"no module 'parts\.products' on the import path"),
    ],
)
def test_wrong_names_of_own_code(project, name, message):
    lookup.add_folder(project)
    with pytest.raises(UserError, match=message):
        lookup.own_code(name, what="config.method")


def test_errors_of_own_code_are_its_own(project):
    lookup.add_folder(project)
    (project / "broken.py").write_text("import no_such_thing\n")
    for _ in range(2):  # a module that failed is not taken for loaded
        with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
            lookup.own_code("broken.py:make", what="method")
    (project / "parts" / "ill.py").write_text("import no_such_thing\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        lookup.own_code("parts.ill:make", what="method")


def test_short_names():
    names = {
        "rld": "rld",
        "rld+crd": "rld+crd",
        "project.losses:sharp": "sharp",
        "project/sharp.py:make": "sharp",
        "project.losses.sharp:make": "sharp",
        "data.py:load": "data",
    }
    for name, short in names.items():
        assert lookup.short_name(name) == short
    assert lookup.is_own_code("a:b") and not lookup.is_own_code("rld")


def test_variants_take_the_values_that_they_name():
    variants = {"": lambda: "plain", "two": lambda a, b="x": a + b}

    def made(argument):
        return lookup.variant(argument, variants, what="configs/a.py")

    assert [made(one) for one in ("", "two,1", "two,1,2")] == ["plain", "1x", "12"]
    for wrong in ("two", "two,1,2,3"):
        with pytest.raises(UserError, match="expected 'two,A,B'"):
            made(wrong)
    with pytest.raises(UserError, match="is ',1', expected ''"):
        made(",1")
    with pytest.raises(UserError, match="variant is 'tow'"):
        made("tow")
