import sys

import pytest

from jaxkd.core import config as configs
from jaxkd.core import config_file, lookup
from jaxkd.core.errors import UserError

OWN = """
from jaxkd.core import config as configs
def get_config(arg=""):
    config = configs.default()
    if arg == "own":
        config.method = "loss.py:make"
        config.needs.teacher = configs.needed(config)
    if arg == "bad":
        raise ValueError("no variant 'bad'")
    return {} if arg == "dict" else config
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "empty.py").write_text("")
    monkeypatch.setattr(lookup, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_shipped_configurations_have_short_names():
    rld = config_file.shipped()["rld"]
    assert rld.is_file() and rld.name == "rld.py"
    assert config_file.locate("rld") == str(rld)
    assert config_file.locate("rld:digits") == f"{rld}:digits"
    assert config_file.load("rld:digits") == config_file.load(f"{rld}:digits")
    assert config_file.load("rld:digits").name == "rld-digits"


def test_own_files_go_by_their_paths(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert config_file.locate("mine.py:a,b/c:d") == "mine.py:a,b/c:d"
    assert config_file.stem("mine.py:a,b/c:d") == "mine-a-b-c-d"
    config = config_file.load(folder / "mine.py")
    assert config.name == "mine"
    # What names no own code does not depend on where it lies.
    assert config.code == ""


def test_own_code_is_found_beside_the_file(folder):
    config = config_file.load(f"{folder / 'mine.py'}:own")
    assert config.name == "mine-own"
    assert config.code == config.needs.teacher.code == str(folder)
    assert configs.from_json(configs.resolved(config)).code == str(folder)
    (folder / "loss.py").write_text("def make(spec): return spec\n")
    assert lookup.own_code("loss.py:make", what="method")(3) == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("rdl:digits", r"no such file. Did you mean 'rld:digits'\?.* shipped .*aird"),
        ("no/such/mine.py", "no such file.*mine"),
        ("configs/RLD.py", "Did you mean 'rld'"),
        ("empty.py", "defines no function get_config"),
        ("mine.py:bad", "mine.py:bad: no variant 'bad'"),
        ("mine.py:dict", "returned dict, expected a ConfigDict"),
    ],
)
def test_mistakes(folder, monkeypatch, source, message):
    monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=message):
        config_file.load(source)
