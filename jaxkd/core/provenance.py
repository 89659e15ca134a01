"""Provenance of results: when, by which command, and from which version of the code."""

import functools
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax
import jaxlib

import jaxkd

_PACKAGE = Path(jaxkd.__file__).parent
_SECONDS = 10


def describe() -> dict[str, str | None]:
    """Describes the running program.

    Returns:
      ``date``, the time in UTC; ``command``, the line that started it; ``version`` of
      the library; ``commit`` of the checkout that the library lies in, with a plus if
      files of it were changed since, or None.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(sys.argv),
        "version": jaxkd.__version__,
        "commit": commit(),
    }


def environment() -> dict[str, Any]:
    """Describes what the program runs on."""
    device = jax.devices()[0]
    return {
        "jax": jax.__version__,
        "jaxlib": jaxlib.version.__version__,
        "python": platform.python_version(),
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def recorded(results: Mapping[str, Any]) -> dict[str, str | None]:
    """Returns the provenance in a run's results; None for what was not recorded.

    Version 0.1 recorded nothing but, perhaps, its number.
    """
    unknown = dict.fromkeys(("date", "command", "version", "commit"))
    given = results.get("provenance", {"version": results.get("version")})
    return {**unknown, **given}


def command(argv: Sequence[str]) -> str:
    """Returns the command line of arguments as Python has them, for a shell.

    >>> command(["/usr/lib/jaxkd/main.py", "--config=a.py", "--config.name=b c"])
    "python -m jaxkd.main --config=a.py '--config.name=b c'"
    """
    program = Path(argv[0] if argv else "")
    parts = [program.name]
    if program.suffix == ".py":
        inside = program.parent.name == "jaxkd" and program.stem == "main"
        parts = ["python", "-m", "jaxkd.main"] if inside else ["python", str(program)]
    return shlex.join([*parts, *argv[1:]])


@functools.cache
def commit(package: Path = _PACKAGE) -> str | None:
    """Returns the commit of the checkout that holds a package, or None.

    Looked up once: what is imported stays what it was.

    Args:
      package: folder of the package.
    """

    def git(*arguments: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(package), *arguments],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
        )
        return run.stdout.strip()

    try:
        # An installed package may lie in a checkout of something else.
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None
