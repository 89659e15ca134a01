"""Reads small files that declare large contents, and measures the memory they take.

Each file has some kilobytes and asks for gigabytes. All are read in one child process
whose address space is limited; the peak of its resident memory during each reading is
compared with what it used before, after its imports.

    python -m benchmarks.memory
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from benchmarks.memory_cases import CASES, png, read_image

# Most bytes that reading any of the files may take, beyond what the process has.
BOUND = 256 << 20
# Pictures of few bytes may be of 33 million pixels, which Pillow holds several times.
PICTURES = 1 << 30
# What the child may address beyond its imports, so that a failure ends it alone.
LIMIT = 2 << 30


OUTCOMES = ("refused", "read")


class Measured(NamedTuple):
    """What came of a file.

    Attributes:
      name: of the case.
      size: bytes of the file.
      outcome: "refused", "read", or another exception.
      peak: bytes of resident memory, beyond what was used before.
    """

    name: str
    size: int
    outcome: str
    peak: int

    @property
    def bound(self) -> int:
        """Most bytes that it may take."""
        return PICTURES if "pixels" in self.name else BOUND


def measure(folder: Path) -> list[Measured]:
    """Makes all files, reads them in a child process, and returns what came of them.

    Raises:
      RuntimeError: if the child died.
    """
    paths = {}
    for number, (name, case) in enumerate(CASES.items()):
        (folder / str(number)).mkdir()
        paths[name] = str(case.make(folder / str(number)))
    command = [sys.executable, "-m", "benchmarks.memory", "--child"]
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        command,
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": root, "JAX_PLATFORMS": "cpu"},
    )
    rows = [Measured(*json.loads(line)) for line in done.stdout.splitlines()]
    if done.returncode:
        left = list(paths)[len(rows)]
        raise RuntimeError(f"{left}: status {done.returncode}\n{done.stderr[-2000:]}")
    return rows


def _child() -> None:
    import warnings

    from jaxkd.core.errors import UserError

    warnings.simplefilter("ignore")
    paths = {name: Path(path) for name, path in json.load(sys.stdin).items()}
    with tempfile.TemporaryDirectory() as folder:  # so that all is imported
        read_image(png(2, 2, 8, 6)(Path(folder)))
    for name, path in paths.items():
        _limit()
        before = _reset()
        try:
            CASES[name].read(path)
            outcome = "read"
        except UserError:
            outcome = "refused"
        except Exception as error:
            outcome = repr(error)[:200]
        peak = _status("VmHWM") - before
        files = path.rglob("*") if path.is_dir() else [path]
        size = sum(one.stat().st_size for one in files)
        print(json.dumps([name, size, outcome, peak]), flush=True)


def _limit() -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + LIMIT, hard))


def _reset() -> int:
    """Forgets the peak so far, and returns what is used now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))


def main() -> None:
    """Prints a table; status 1 if anything was above the bound or an odd error."""
    if "--child" in sys.argv:
        return _child()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    print("| file | bytes | outcome | peak, MB |\n|---|---|---|---|")
    for row in rows:
        print(f"| {row.name} | {row.size:,} | {row.outcome} | {row.peak / 1e6:.0f} |")
    sys.exit(any(r.peak > r.bound or r.outcome not in OUTCOMES for r in rows))


if __name__ == "__main__":
    main()
