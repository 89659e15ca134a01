"""What the papers' training steps take on TPUs, compiled without one.

    pip install -e '.[tpu_aot]'
    python -m benchmarks.tpu_plans [--json FILE] [--only cifar100]

Prints a Markdown table, in about ten minutes on 2 quiet cores.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxkd.aot import plan as aot
from jaxkd.core import config as configs

CONFIGS = Path(__file__).parent.parent / "configs"


class Case(NamedTuple):
    """A training step to compile: configuration, students, seeds, batch, topology."""

    argument: str
    students: tuple[str, ...]
    seeds: tuple[int, ...]
    batch: int
    topology: str


_TWELVE = ("kd", "dkd", "rld", "la")
CASES = (
    Case("cifar100,resnet32x4,resnet8x4", _TWELVE, (1, 2, 3), 64, "v5e:2x4"),
    Case("cifar100,resnet32x4,resnet8x4", _TWELVE, (1, 2, 3), 64, "v5p:2x2x1"),
    Case(
        "imagenet,resnet34_imagenet,resnet18_imagenet", ("rld",), (1,), 1024, "v5e:2x4"
    ),
    Case(
        "imagenet,resnet34_imagenet,resnet18_imagenet",
        ("rld",),
        (1,),
        1024,
        "v5p:2x2x1",
    ),
    Case(
        "imagenet,resnet34_imagenet,resnet18_imagenet", ("rld",), (1,), 16384, "v5e:2x4"
    ),
    Case(
        "imagenet,resnet34_imagenet,resnet18_imagenet", ("rld",), (1,), 32768, "v5e:2x4"
    ),
    Case(
        "imagenet,resnet34_imagenet,resnet18_imagenet",
        ("rld",),
        (1,),
        1024,
        "v5e:16x16",
    ),
)


def main() -> None:
    """Compiles all cases and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="file for all that was found")
    parser.add_argument("--only", default="", help="cases whose name begins so")
    args = parser.parse_args()
    plans = []
    print(
        "| run | members | batch | topology | fits | GiB per device | of | "
        "GFLOP a step and device | all-reduce | MB |\n" + "|---" * 10 + "|",
        flush=True,
    )
    for case in CASES:
        if case.argument.startswith(args.only):
            plans.append(aot.plan(_configure(case), case.topology, largest=False))
            print(_row(case, plans[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(plans, indent=1))


def _configure(case: Case) -> ConfigDict:
    path = CONFIGS / "rld.py"
    spec = importlib.util.spec_from_file_location("rld_config", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(case.argument)
    config.students = configs.students({k: config.students[k] for k in case.students})
    config.reference, config.seeds = "", case.seeds
    config.batch_size = case.batch
    return config


def _row(case: Case, plan: dict[str, Any]) -> str:
    sent = plan.get("collectives", {}).get("all-reduce", {"number": "", "bytes": 0})
    cells = (
        f"`{case.argument}`",
        len(case.students) * len(case.seeds),
        case.batch,
        case.topology,
        "yes" if plan["fits"] else "no",
        f"{plan['peak'] / 2**30:.2f}",
        f"{plan['capacity'] / 2**30:.2f}",
        f"{plan['flops'] / 1e9:,.0f}",
        sent["number"],
        f"{sent['bytes'] / 1e6:.1f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
