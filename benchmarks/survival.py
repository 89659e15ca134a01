"""Kills, signals, full disks and second starts: what is left equals the whole run.

A tiny study with a teacher is trained once without disturbance. Then it is started
again and again and disturbed at random moments, until so many disturbances have fallen;
the last start of each chain is left alone. Parameters, results, report and TensorBoard
of every chain are compared with those of the undisturbed run.

    python -m benchmarks.survival --kills=60 --signals=20 --disks=10 --starts=5

A disturbance counts if it meets a process that lives. After each chain all counts are
printed, and whoever interrupts the campaign gets those of the chains that ended. Chains
that differ are left in ``--folder``.

Full disks are small file systems in memory, for which one has to be root on Linux.
"""

import argparse
import collections
import contextlib
import html
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxkd.core import config as configs

SECONDS = 600  # for one start; more is a hang
_FILE = """
from pathlib import Path
import jax
from benchmarks import survival

def get_config(arg=""):
    # So that a start takes the time of its imports and not that of its compilations.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    return survival.make_config(Path({folder!r}))
"""


def make_config(folder: Path) -> ConfigDict:
    """Describes the run: a teacher and two students, with data written to a folder."""
    path = folder / "data.npz"
    if not path.exists():
        rng, arrays = np.random.default_rng(0), {}
        for split, count in (("train", 64), ("test", 40)):
            labels = np.arange(count) % 4
            images = (
                rng.integers(0, 150, (count, 8, 8, 3))
                + 25 * labels[:, None, None, None]
            )
            arrays |= {f"{split}_images": images.astype(np.uint8)}
            arrays |= {f"{split}_labels": labels}
        np.savez(path, **arrays)
    config = configs.default()
    config.name, config.unit, config.duration = "survival", "steps", 24
    config.model = ConfigDict(
        {"name": "resnet8", "stem": 3, "widths": (4,), "strides": (2,)}
    )
    config.data = ConfigDict({"name": "npz", "path": str(path)})
    config.view = ConfigDict({"name": "plain"})
    config.batch_size, config.eval_batch_size = 16, 20
    config.eval_every, config.checkpoint_every = 6, 3
    teacher = configs.standalone(configs.needed(config))
    teacher.name, teacher.duration = "teacher", 12
    config.allow_weak_teacher = True
    config.needs = ConfigDict({"teacher": configs.needed(teacher)})
    config.students = configs.students(
        {"ce": {"method": "supervised"}, "kd": {"method": "kd"}}
    )
    return config


def start(config_file: Path, workdir: Path) -> subprocess.Popen:
    """Starts the training command."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "jaxkd.main", f"--config={config_file}"]
    cache = config_file.parent / "compiled"
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=root,
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "PYTHONPATH": str(root),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def content(workdir: Path) -> dict[str, Any]:
    """Returns what has to be equal of two runs: all but times."""
    from jaxkd.core import checkpoint, writers
    from jaxkd.training import workdir as workdirs

    folders = {"study": workdir, "teacher": workdir / "teacher"}
    found: dict[str, Any] = {}
    for name, folder in folders.items():
        results = workdirs.read_results(folder)
        told = [results.get("provenance", {})]
        told += [one.pop("run", {}) for one in results["frozen"].values()]
        for key in ("seconds", "environment", "provenance"):
            results.pop(key, None)
        found[f"{name}: results"] = results
        found[f"{name}: parameters"] = {
            (student, use): checkpoint.load_member(folder / "checkpoints", use, student)
            for student in results["students"]
            for use in ("last", "best")
        }
        rows = [
            {k: v for k, v in row.items() if k != "time" and "_per_s" not in k}
            for row in writers.read_metrics(folder)
        ]
        found[f"{name}: metrics"] = rows
        found[f"{name}: TensorBoard"] = _events(folder)
        page = (folder / "report.html").read_text(encoding="utf-8")
        # How long it took, and on what, is told in words.
        texts = [str(text) for one in told for text in one.values()]
        for text in [*texts, *(text[:10] for text in texts)]:
            page = page.replace(html.escape(text), "")
        found[f"{name}: report"] = re.sub(r" in [\d.]+ \w+| on \w+[^<]*", "", page)
        left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
        found[f"{name}: left over"] = [*left, *folder.glob("lock")]
    return found


def _events(folder: Path) -> list[tuple[int, str, float]]:
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [
                (event.step, value.tag, value.simple_value)
                for value in event.summary.value
                if "_per_s" not in value.tag
            ]
            data = data[16 + size :]
    return sorted(found)


def differences(ours: Any, whole: Any) -> list[str]:
    """Names the parts in which two runs differ."""
    from benchmarks.mutations import fingerprint

    return [
        name for name in whole if fingerprint(ours[name]) != fingerprint(whole[name])
    ]


class Campaign:
    """Counts what came of disturbances; a context, which ends all that it started.

    Attributes:
      counts: of starts by how they ended, and of chains by whether they were equal.
      problems: what should not have been.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.rng = folder, np.random.default_rng(seed)
        self.config = folder / "config.py"
        self.config.write_text(_FILE.format(folder=str(folder)))
        self.counts: collections.Counter = collections.Counter()
        self.problems: list[str] = []
        self._chains = 0
        self._running: list[subprocess.Popen] = []

    def __enter__(self) -> "Campaign":
        """Trains the whole run, once to compile and once to be compared with."""
        self.start(self.folder / "warm").communicate(timeout=SECONDS)
        began = time.monotonic()
        self.start(self.folder / "whole").communicate(timeout=SECONDS)
        self.usual = time.monotonic() - began
        self.whole = content(self.folder / "whole")
        return self

    def __exit__(self, *_: Any) -> None:
        """Ends what still runs."""
        for process in self._running:
            process.kill()
            process.wait()

    def start(self, workdir: Path) -> subprocess.Popen:
        """Starts the training command of this campaign."""
        process = start(self.config, workdir)
        self._running = [p for p in self._running if p.poll() is None] + [process]
        return process

    def end(self, kind: str, process: subprocess.Popen, expected: tuple) -> str:
        """Waits for a process, and notes an unexpected status or traceback."""
        try:
            text = process.communicate(timeout=SECONDS)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            self.counts[f"{kind}: hang"] += 1
            return process.communicate()[0]
        code = process.returncode
        self.counts[f"{kind}: status {code}"] += 1
        if code not in expected or (code > 0 and "Traceback" in text):
            self.problems.append(f"{kind}: status {code}\n{text[-3000:]}")
        return text

    def finish(self, kind: str, workdir: Path) -> None:
        """Starts a chain's last run and compares it with the whole one."""
        self.end(f"{kind}, last start", self.start(workdir), (0,))
        try:
            wrong = differences(content(workdir), self.whole)
        except Exception as error:
            wrong = [repr(error)]
        self.counts[f"{kind}: chains {'differ' if wrong else 'equal'}"] += 1
        self.problems += [f"{kind}: {workdir.name}: {one} differs" for one in wrong]
        if not wrong:
            shutil.rmtree(workdir, ignore_errors=True)
        print(json.dumps(self.counts), flush=True)

    def _workdir(self) -> Path:
        self._chains += 1
        return self.folder / f"chain{self._chains}"

    def disturb(self, number: signal.Signals, times: int, length: int = 3) -> None:
        """Sends a signal at random moments, in chains of so many starts."""
        kind = number.name
        while times > 0:
            workdir = self._workdir()
            for place in range(min(length, times)):
                process, began = self.start(workdir), time.monotonic()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self.rng.uniform(0.1, 1.0) * self.usual)
                    if not place:  # it ended before: the machine has become faster
                        self.usual = min(self.usual, time.monotonic() - began)
                    self.end(f"{kind}, too late", process, (0,))
                    break
                times -= 1
                process.send_signal(number)
                # Interrupted before it catches signals, or at a step, or finished.
                early = (-number, 1, 130) if number != signal.SIGKILL else (-number,)
                self.end(kind, process, (0, 75, *early))
            self.finish(kind, workdir)

    def fill_disks(self, times: int) -> None:
        """Runs on disks of a random size, then on with enough of it."""
        used = sum(p.stat().st_size for p in (self.folder / "whole").rglob("*"))
        for _ in range(times):
            with _disk(self.folder, int(self.rng.uniform(0.1, 1.2) * used)) as disk:
                text = self.end("disk", self.start(disk / "run"), (0, 2))
                last = text.strip().splitlines()[-1]
                if self.counts and "jaxkd:" not in last and "Report:" not in last:
                    self.problems.append(f"disk: the last line is {last!r}")
                workdir = self._workdir()
                if (disk / "run").exists():
                    shutil.copytree(disk / "run", workdir)
            self.finish("disk", workdir)

    def start_twice(self, times: int) -> None:
        """Starts the same command a second time, after growing gaps."""
        for gap in np.linspace(0, 0.8, times):
            workdir = self._workdir()
            first = self.start(workdir)
            time.sleep(gap * self.usual)
            second = self.start(workdir)
            texts = [self.end("two starts", one, (0, 2)) for one in (second, first)]
            if sorted((first.returncode, second.returncode)) == [2, 2]:
                self.problems.append("two starts: both were refused\n" + texts[0])
            for one, text in zip((second, first), texts, strict=True):
                if one.returncode == 2 and "is in use" not in text:
                    self.problems.append("two starts: " + text[-2000:])
            self.finish("two starts", workdir)


@contextlib.contextmanager
def _disk(folder: Path, size: int) -> Iterator[Path]:
    place = folder / "disk"
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
    subprocess.run(command, check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def main() -> None:
    """Runs the campaign, prints counts and problems; status 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--signals", type=int, default=20)
    parser.add_argument("--disks", type=int, default=10)
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", help="an empty one, which stays")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as temporary:
        campaign = Campaign(Path(given.folder or temporary).absolute(), given.seed)
        try:
            with campaign:
                campaign.disturb(signal.SIGKILL, given.kills)
                campaign.disturb(signal.SIGTERM, given.signals)
                campaign.fill_disks(given.disks)
                campaign.start_twice(given.starts)
        except KeyboardInterrupt:
            print("Interrupted; what had ended is counted.")
    print(json.dumps(campaign.counts, indent=1))
    print("\n".join(campaign.problems) or "no problem")
    sys.exit(bool(campaign.problems))


if __name__ == "__main__":
    main()
