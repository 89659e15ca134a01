import pytest

from jaxkd.core import optional
from jaxkd.core.errors import UserError


def test_library_that_is_there_is_imported():
    import json.decoder

    load = optional.load("json.decoder", extra="medical", purpose="JSON")
    assert load is json.decoder


def test_missing_library_names_the_command_that_installs_it():
    with pytest.raises(UserError) as error:
        optional.load("no_such_library.part", extra="medical", purpose="DICOM files")
    assert str(error.value) == (
        "DICOM files: no_such_library is needed but not installed. Install it with: "
        "pip install -e '.[medical]'"
    )


def test_missing_library_of_a_library_is_told_apart(tmp_path, monkeypatch):
    (tmp_path / "half_there.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"no_such_library is needed \(by half_there\)"):
        optional.load("half_there", extra="medical", purpose="DICOM files")


def test_other_errors_of_a_library_are_its_own(tmp_path, monkeypatch):
    (tmp_path / "broken_there.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ZeroDivisionError):
        optional.load("broken_there", extra="medical", purpose="DICOM files")
