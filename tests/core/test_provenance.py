"""Provenance: the command as a shell takes it, and the commit of a checkout."""

import shlex
import subprocess
from datetime import UTC, datetime, timedelta

import pytest

import jaxkd
from jaxkd.core import provenance


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["/a/bin/jaxkd", "--config=a b.py"], "jaxkd '--config=a b.py'"),
        (["/a/jaxkd/main.py", "--mode=eval"], "python -m jaxkd.main --mode=eval"),
        (["/a/study.py", "x"], "python /a/study.py x"),
    ],
)
def test_commands(argv, line):
    assert provenance.command(argv) == line
    assert shlex.split(line)[-1] == argv[-1]


def test_description():
    found = provenance.describe()
    age = datetime.now(UTC) - datetime.fromisoformat(found["date"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert found["version"] == jaxkd.__version__ and found["command"]


def test_commit_of_a_checkout_of_the_package_alone(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        run = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
        return run.stdout.strip()

    package, foreign = tmp_path / "package", tmp_path / "site" / "package"
    for folder in (package, foreign):
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    assert provenance.commit(package) is None  # no checkout
    git("init", "-q")
    git("add", "package")
    git("commit", "-q", "-m", "one")
    provenance.commit.cache_clear()
    assert provenance.commit(package) == git("rev-parse", "HEAD")
    assert provenance.commit(foreign) is None  # installed within another's checkout
    (package / "__init__.py").write_text("changed")
    provenance.commit.cache_clear()
    assert provenance.commit(package) == git("rev-parse", "HEAD") + "+"
    provenance.commit.cache_clear()


def test_what_was_not_recorded_is_none():
    known = provenance.describe()
    assert provenance.recorded({"provenance": known}) == known
    old = provenance.recorded({"name": "a run of version 0.1"})
    assert old == dict.fromkeys(known)
