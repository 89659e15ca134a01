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
import json
import multiprocessing
import pickle
import resource
import signal
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# What may come of a file, in the order in which it is printed.
OUTCOMES = ("refused", "same", "changed", "other", "hang", "crash")
SECONDS = 20  # for one file; more is a hang
MEMORY = 6 << 30  # for one process, of which JAX maps some


class Format(NamedTuple):
    """A kind of file.

    Attributes:
      make: writes a small whole file into a folder, and returns it.
      read: reads one, and returns something to compare.
      checksum: whether a changed content must be noticed.
    """

    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    checksum: bool


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


def _npz(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 12), ("test", 5)):
        images = rng.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)
        arrays |= {f"{split}_images": images, f"{split}_labels": np.arange(count) % 4}
    np.savez_compressed(folder / "a.npz", **arrays)
    return folder / "a.npz"


def _read_npz(path: Path) -> Any:
    from jaxkd.datasets import npz

    read = npz.load(str(path))
    return read.info, dict(read.train(0).arrays), dict(read.test.arrays)


def _cifar(folder: Path) -> Path:
    rng, stream = np.random.default_rng(0), io.BytesIO()
    names = {"meta": {b"fine_label_names": [b"c%d" % i for i in range(100)]}}
    for name, count in (("train", 4), ("test", 2)):
        pixels = rng.integers(0, 256, (count, 3072)).astype(np.uint8)
        names[name] = {b"data": pixels, b"fine_labels": list(range(count))}
    path = folder / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in names.items():
            data = pickle.dumps(content, protocol=2)
            member = tarfile.TarInfo(f"cifar-100-python/{name}")
            member.size, stream = len(data), io.BytesIO(data)
            archive.addfile(member, stream)
    return path


def _read_cifar(path: Path) -> Any:
    from jaxkd.datasets import cifar

    train, test, names = cifar.read(path.parent, 100, counts=(4, 2))
    return dict(train.arrays), dict(test.arrays), names


def _pickle(folder: Path) -> Path:
    arrays = {"a": np.arange(12.0).reshape(3, 4), "b": ["x", 2], "c": 1.5}
    (folder / "a.pkl").write_bytes(pickle.dumps(arrays, protocol=2))
    return folder / "a.pkl"


def _read_pickle(path: Path) -> Any:
    from jaxkd.core.safe_pickle import read_arrays

    return read_arrays(path.read_bytes(), str(path))


def _nifti(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from jaxkd.readers.ct import nifti

        rng = np.random.default_rng(0)
        values = rng.integers(-1024, 400, (16, 16, 16)).astype(np.int16)
        nifti.write(folder / f"a{suffix}", values, np.diag([6.0, 6.0, 6.0, 1.0]))
        return folder / f"a{suffix}"

    return make


def _read_nifti(path: Path) -> Any:
    from jaxkd.readers.ct import nifti

    return nifti.read(path)


def _json(name: str, content: Any) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(json.dumps(content, indent=1))
        return folder / name

    return make


_COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
    "annotations": [{"id": 5, "image_id": 1, "category_id": 3, "bbox": [1, 2, 8, 9]}],
    "categories": [{"id": 3, "name": "cat"}],
}


def _read_coco(path: Path) -> Any:
    from jaxkd.datasets import boxes

    return boxes.read(path)


def _read_schedule(path: Path) -> Any:
    from jaxkd.core.errors import UserError
    from jaxkd.diffusion import schedules

    try:
        found = schedules.load(path)
    except ValueError as error:  # which it promises; pipelines do this with it
        raise UserError(str(error)) from error
    return found._replace(details=dict(found.details))


def _clips(folder: Path) -> Path:
    lines = ["video_path,entire_label,split", "a.mp4,0,train", "b.mp4,1,test"]
    (folder / "a.csv").write_text("\n".join(lines) + "\n")
    return folder / "a.csv"


def _read_clips(path: Path) -> Any:
    from jaxkd.readers.clips import lists

    return [row._replace(video=row.video.name) for row in lists.read_manifest(path)]


def _run(name: str) -> Callable[[Path], Path]:
    """Copies the run that ``RUN`` names, and returns one of its files.

    Of checkpoints it is in the newest, which alone is read, the largest that fits.
    """

    def make(folder: Path) -> Path:
        import shutil

        shutil.copytree(RUN, folder / "run", dirs_exist_ok=True)
        steps = (folder / "run/checkpoints").glob("[0-9]*")
        newest = max(int(path.name) for path in steps)
        found = (folder / "run").glob(name.replace("NEWEST", str(newest)))
        return max(found, key=lambda path: path.stat().st_size)

    return make


RUN = Path()


def _folder(path: Path) -> Path:
    return next(one for one in path.parents if one.name == "run")


def _read_config(path: Path) -> Any:
    from jaxkd.core import config
    from jaxkd.training import workdir

    return config.resolved(workdir.read_config(_folder(path)))


def _read_results(path: Path) -> Any:
    from jaxkd.training import workdir

    return workdir.read_results(_folder(path))


def _read_metrics(path: Path) -> Any:
    from jaxkd.core import writers

    return writers.read_metrics(_folder(path))


def _read_checkpoint(path: Path) -> Any:
    from jaxkd.core import checkpoint

    return checkpoint.load_member(_folder(path) / "checkpoints", "last")


FORMATS = {
    "npz": Format(_npz, _read_npz, True),
    "CIFAR, tar.gz": Format(_cifar, _read_cifar, True),
    "pickle": Format(_pickle, _read_pickle, False),
    "NIfTI, .nii.gz": Format(_nifti(".nii.gz"), _read_nifti, True),
    "NIfTI, .nii": Format(_nifti(".nii"), _read_nifti, False),
    "COCO, json": Format(_json("a.json", _COCO), _read_coco, False),
    "schedule, json": Format(
        _json("a.json", {"sigmas": [80.0, 1.0, 0.002], "details": {"nfe": 2}}),
        _read_schedule,
        False,
    ),
    "clips, csv": Format(_clips, _read_clips, False),
    "run: config.json": Format(_run("config.json"), _read_config, False),
    "run: results.json": Format(_run("results.json"), _read_results, True),
    "run: metrics.jsonl": Format(_run("metrics.jsonl"), _read_metrics, False),
    "run: arrays": Format(_run("checkpoints/NEWEST/state/d/*"), _read_checkpoint, True),
    "run: record": Format(
        _run("checkpoints/NEWEST/meta/metadata"), _read_checkpoint, True
    ),
}


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


def _work(name: str, run: Path, folder: Path, first: int, count: int, seed: int, to):
    """Sends ``(number, outcome, error)`` of each file, in a process of its own."""
    global RUN
    RUN = run
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
        path.write_bytes(mutate(content, np.random.default_rng((seed, number))))
        to.send((number, "begun", ""))
        to.send((number, *_attempt(form, path, whole)))
    to.send((count, "done", ""))


def campaign(
    name: str, run: Path, count: int, seed: int = 0
) -> tuple[collections.Counter, list[str]]:
    """Reads so many mutated files of a format; returns outcomes and errors.

    Args:
      name: of ``FORMATS``.
      run: folder of a finished run, whose files are copied.
      count: of files.
      seed: of the mutations.
    """
    outcomes: collections.Counter = collections.Counter()
    errors, first = [], 0
    processes = multiprocessing.get_context("spawn")
    while first < count:
        with tempfile.TemporaryDirectory() as folder:
            ours, theirs = processes.Pipe(duplex=False)
            arguments = (name, run, Path(folder), first, count, seed, theirs)
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
    parser.add_argument("--only", nargs="*", default=list(FORMATS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        needs_run = any(name.startswith("run:") for name in given.only)
        run = train_run(Path(folder)) if needs_run else Path(folder)
        print("| format | checksum |", " | ".join(OUTCOMES), "|")
        print("|---|---|" + "---|" * len(OUTCOMES))
        for name in given.only:
            outcomes, errors = campaign(name, run, given.count, given.seed)
            counts = " | ".join(str(outcomes[kind]) for kind in OUTCOMES)
            has = "yes" if FORMATS[name].checksum else "no"
            print(f"| {name} | {has} | {counts} |", flush=True)
            for error in errors[:5]:
                print(error, file=sys.stderr)


if __name__ == "__main__":
    main()
