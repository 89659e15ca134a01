import sys

from jaxkd.core import namesake


def install(folder, summary):
    info = folder / "jaxkd-9.9.dist-info"
    info.mkdir(exist_ok=True)
    text = f"Metadata-Version: 2.1\nName: jaxkd\nVersion: 9.9\nSummary: {summary}\n"
    (info / "METADATA").write_text(text)


def test_namesake_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert namesake.warning() is None
    install(tmp_path, "Another library of that name")
    message = namesake.warning()
    assert "jaxkd (9.9)" in message and "pip uninstall jaxkd" in message
    install(tmp_path, "Knowledge distillation and its neighbours in JAX")
    assert namesake.warning() is None
