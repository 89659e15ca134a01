"""Changes bytes of files of every kind and counts what the readers make of them.

A mutation flips a bit, overwrites, removes or inserts bytes, or cuts the file short.
Each reader runs in a process of its own with a limit of memory; a process that dies is
a crash, and the next one goes on behind the file that ended it.

    python -m benchmarks.mutations --count=1500
"""

import argparse
import collections
import contextlib
import io
import math
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import formats, media_formats
from benchmarks.formats import Format

FORMATS = formats.FORMATS | media_formats.FORMATS
# What may come of a file, in the order in which it is printed.
OUTCOMES = ("refused", "same", "changed", "other", "hang", "crash")
SECONDS = 20  # for one file; more is a hang
MEMORY = 6 << 30  # for one process, of which JAX maps some


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns the content with one change."""
    data, kind = bytearray(content), rng.integers(7)
    place = int(rng.integers(len(data)))
    length = int(rng.integers(1, 64))
    if kind <= 2:
        data[place] ^= 1 << int(rng.integers(8))
    elif kind == 3:
        data[place : place + length] = rng.bytes(len(data[place : place + length]))
    elif kind == 4:
        del data[place : place + length]
    elif kind == 5:
        data[place:place] = rng.bytes(length)
    else:
        del data[place:]
    return bytes(data)


def fingerprint(value: Any) -> str:
    """Returns a text by which two results are compared, exactly."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{fingerprint(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "[" + ",".join(map(fingerprint, value)) + "]"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.tobytes().hex()}"
    return repr(value)


class _Hang(BaseException):
    pass


def _attempt(form: Format, path: Path, whole: str) -> tuple[str, str]:
    from jaxkd.core.errors import UserError

    def stop(*_: Any) -> None:
        raise _Hang

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        found = fingerprint(form.read(path))
    except UserError:
        return "refused", ""
    except _Hang:
        return "hang", ""
    except BaseException as error:
        return "other", repr(error)[:200]
    finally:
        signal.alarm(0)
    return ("same", "") if found == whole else ("changed", "")


def _work(
    name: str, run: Path, folder: Path, first: int, count: int, seed: int, end, to
):
    """Sends ``(number, outcome, error)`` of each file, in a process of its own."""
    formats.RUN = run
    warnings.simplefilter("ignore")
    sys.stderr = io.StringIO()
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    form = FORMATS[name]
    path = form.make(folder)
    content, whole = path.read_bytes(), fingerprint(form.read(path))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in range(first, count):
        if time.monotonic() > end:
            break
        path.write_bytes(mutate(content, np.random.default_rng((seed, number))))
        to.send((number, "begun", ""))
        to.send((number, *_attempt(form, path, whole)))
    to.send((count, "done", ""))


def campaign(
    name: str, run: Path, count: int, seed: int = 0, seconds: float = math.inf
) -> tuple[collections.Counter, list[str]]:
    """Reads so many mutated files of a format; returns outcomes and errors.

    Args:
      name: of ``FORMATS``.
      run: folder of a finished run, whose files are copied.
      count: of files.
      seed: of the mutations.
      seconds: after which no other file is read.
    """
    end = time.monotonic() + seconds
    outcomes: collections.Counter = collections.Counter()
    errors, first = [], 0
    processes = multiprocessing.get_context("spawn")
    while first < count:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = processes.Pipe(duplex=False)
            arguments = (name, run, Path(folder), first, count, seed, end, theirs)
            child = processes.Process(target=_work, args=arguments, daemon=True)
            child.start()
            theirs.close()
            last = None
            with contextlib.suppress(EOFError):
                while True:
                    if not ours.poll(SECONDS * 6):
                        child.kill()
                        outcomes["hang"] += 1
                        break
                    last = number, outcome, error = ours.recv()
                    if outcome == "done":
                        return outcomes, errors
                    if outcome != "begun":
                        outcomes[outcome] += 1
                        if outcome in ("other", "changed"):
                            errors.append(f"{name} {number}: {outcome} {error}")
            child.join()
            if last is None:
                raise RuntimeError(f"{name}: the whole file could not be read")
            if last[1] == "begun" and child.exitcode:
                outcomes["crash"] += 1
            first = last[0] + 1
    return outcomes, errors


def train_run(folder: Path) -> Path:
    """Trains a tiny run, whose files are then changed."""
    from benchmarks import survival
    from jaxkd.train import train

    train(survival.make_config(folder), folder / "run")
    return folder / "run"


def main() -> None:
    """Runs the campaign and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1500, help="files of each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--seconds", type=float, default=math.inf, help="for each format, at most"
    )
    parser.add_argument(
        "--only", nargs="*", default=list(FORMATS), choices=list(FORMATS)
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        needs_run = any(name.startswith("run:") for name in given.only)
        run = train_run(Path(folder)) if needs_run else Path(folder)
        print("| format | checksum |", " | ".join(OUTCOMES), "|")
        print("|---|---|" + "---|" * len(OUTCOMES))
        for name in given.only:
            outcomes, errors = campaign(
                name, run, given.count, given.seed, given.seconds
            )
            counts = " | ".join(str(outcomes[kind]) for kind in OUTCOMES)
            has = "yes" if FORMATS[name].checksum else "no"
            print(f"| {name} | {has} | {counts} |", flush=True)
            errors.sort(key=lambda line: ": changed" in line)  # other errors first
            for error in errors[:5]:
                print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
