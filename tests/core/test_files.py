import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxkd.core import files


def test_a_file_is_replaced_at_once_and_ends_like_itself(tmp_path):
    path = tmp_path / "a.npz"
    path.write_text("old")
    with files.replacing(path) as temporary:
        assert temporary.suffix == ".npz" and temporary.parent == tmp_path
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_file_is_there_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_line_ends_are_kept(tmp_path):
    files.write_text(tmp_path / "a.csv", "a\r\nb\n")
    assert (tmp_path / "a.csv").read_bytes() == b"a\r\nb\n"


def test_sweeping_takes_what_was_being_written_and_nothing_else(tmp_path):
    gone = [".tmp-12-0a.png", ".results.json.7.tmp", "12.orbax-checkpoint-tmp-3"]
    for name in gone:
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text("x")
    (tmp_path / ".tmp-13").write_text("x")
    (tmp_path / "results.json").write_text("{}")
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / ".tmp-14").write_text("of another run")
    files.sweep(tmp_path, tmp_path / "missing")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results.json", "teacher"]
    assert (tmp_path / "teacher" / ".tmp-14").exists()


def test_tensors_have_the_permissions_of_other_files(tmp_path):
    (tmp_path / "other").write_text("")
    path = tmp_path / "a.safetensors"
    wanted = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    files.write_tensors(path, {"a": wanted.T}, {"format": "pt"})
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    np.testing.assert_array_equal(load_file(path)["a"], wanted.T)


def test_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert files.user_cache("ct") == tmp_path / "jaxkd" / "ct"
    # Empty is unset, says the specification of these folders.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert files.user_cache() == tmp_path / ".cache" / "jaxkd"
