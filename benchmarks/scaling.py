"""Weak scaling of a study's step on pretended devices, and what it sends between them.

    python -m benchmarks.scaling [--batch 32] [--json FILE]

Two students of two seeds (resnet8x4) learn from a resnet20; the batch grows with the
devices. On one CPU the devices share its cores: the times tell what is computed
twice and what the exchange costs, not how a pod would scale. The bytes are those of the
compiled step, which do not depend on the machine.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from benchmarks import blank, measure
from jaxkd.aot import hlo
from jaxkd.core import config as configs

COUNTS = (1, 2, 4)


def main() -> None:
    """Measures each number of devices in a process of its own and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="of each device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.devices:
        print(json.dumps(_measure(args.devices, args.batch, args.rounds)))
        return
    rows = []
    print("| devices | mesh | batch | ms a step | images/s x students | sends a step |")
    print("|---" * 6 + "|")
    for count in COUNTS:
        for row in _in_process(count, args):
            rows.append(row)
            print(_format(row), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def _in_process(count: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.scaling", f"--devices={count}"]
    command += [f"--batch={args.batch}", f"--rounds={args.rounds}"]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(count)}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def _measure(count: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Times the step of two students and two seeds on each mesh of so many devices."""
    sizes = {"data": {"seed": 1, "data": count}, "seed": {"seed": count, "data": 1}}
    if count == 1:
        sizes.pop("seed")
    return [
        _measure_mesh(name, size, count * batch, rounds) for name, size in sizes.items()
    ]


def _measure_mesh(name: str, sizes: dict[str, int], batch: int, rounds: int):
    run, compiled, run_steps = blank.make_step(_configure(sizes, batch))
    timing = measure.alternate([measure.Contestant(name, run_steps)], rounds, 1.0)[name]
    sent = hlo.collectives(compiled.as_text())
    return {
        "devices": run.mesh.size,
        "mesh": name,
        "batch": batch,
        "students": sum(len(group.members) for group in run.groups),
        "wall": sorted(timing.wall),
        "sent": {kind: one._asdict() for kind, one in sent.items()},
    }


def _configure(sizes: dict[str, int], batch: int) -> ConfigDict:
    config = configs.default()
    config.data.name, config.model.name = "cifar", "resnet20"
    need = configs.needed(config)
    config.model.name, config.batch_size = "resnet8x4", batch
    config.needs = ConfigDict({"teacher": need})
    config.students = configs.students(
        {"kd": {"method": "kd"}, "rld": {"method": "rld"}}
    )
    config.seeds, config.steps_per_call = (1, 2), 1
    config.mesh.update(sizes)
    return config


def _format(row: dict[str, Any]) -> str:
    wall = row["wall"]
    middle = wall[len(wall) // 2]
    sent = ", ".join(
        f"{one['number']} {kind} ({one['bytes'] / 1e6:.2f} MB)"
        for kind, one in row["sent"].items()
    )
    speed = row["batch"] * row["students"] / middle
    cells = (
        row["devices"],
        row["mesh"],
        row["batch"],
        f"{middle * 1e3:.0f} ({wall[0] * 1e3:.0f} to {wall[-1] * 1e3:.0f})",
        f"{speed:.0f}",
        sent or "nothing",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
