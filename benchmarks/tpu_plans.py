"""What the papers' training steps take on TPUs, compiled without one.

    pip install -e '.[tpu_aot]'
    python -m benchmarks.tpu_plans [--json FILE] [--only rld:cifar100]

Prints a Markdown table. Compiling all takes about three quarters of an hour on 2 quiet
cores; ``--only`` chooses the cases whose configuration begins so.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxkd.aot import plan as aot
from jaxkd.core import config as configs
from jaxkd.core import config_file


class Case(NamedTuple):
    """A training step to compile.

    Attributes:
      config: a shipped configuration.
      topology: kind and chips.
      batch: over all devices; 0 for the configuration's.
      students: those of them that train; all if empty.
      seeds: of each; the configuration's if empty.
    """

    config: str
    topology: str = "v5e:2x4"
    batch: int = 0
    students: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()


_CIFAR = "rld:cifar100,resnet32x4,resnet8x4"
_TWELVE: Any = {"students": ("kd", "dkd", "rld", "la"), "seeds": (1, 2, 3)}
_IMAGENET = "rld:imagenet,resnet34_imagenet,resnet18_imagenet"
_ONE: Any = {"students": ("rld",), "seeds": (1,)}
CASES = (
    Case(_CIFAR, "v5e:2x4", 64, **_TWELVE),
    Case(_CIFAR, "v5p:2x2x1", 64, **_TWELVE),
    Case(_IMAGENET, "v5e:2x4", 1024, **_ONE),
    Case(_IMAGENET, "v5p:2x2x1", 1024, **_ONE),
    Case(_IMAGENET, "v5e:2x4", 16384, **_ONE),
    Case(_IMAGENET, "v5e:2x4", 32768, **_ONE),
    Case(_IMAGENET, "v5e:16x16", 1024, **_ONE),
    Case("ssl_hv:pretrain"),
    Case("handwriting_vlm:3b"),
    Case("face_forgery:official"),
    Case("face_forgery:official_clip"),
    Case("face_forgery:official_joint"),
    Case("cmdfd:files", batch=16),
    Case("kd_ltr:textzoom", students=("kd_ltr",), seeds=(1,)),
    Case("msad:coco", students=("msad",)),
    Case("mkd:div2k", students=("mkd",), seeds=(1,)),
    Case("tad_sr:published,64", students=("tad_sr",), seeds=(1,)),
    Case("tad_sr:published", students=("tad_sr",), seeds=(1,)),
    Case("iris:published", students=("srcnn",), seeds=(1,)),
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
        if case.config.startswith(args.only):
            plans.append(aot.plan(_configure(case), case.topology, largest=False))
            print(_row(case, plans[-1]), flush=True)
    if args.json:
        args.json.write_text(json.dumps(plans, indent=1))


def _configure(case: Case) -> ConfigDict:
    config = config_file.load(case.config)
    if case.students:
        chosen = {name: config.students[name] for name in case.students}
        config.students, config.reference = configs.students(chosen), ""
    config.seeds = case.seeds or config.seeds
    config.batch_size = case.batch or config.batch_size
    return config


def _row(case: Case, plan: dict[str, Any]) -> str:
    sent = plan.get("collectives", {}).get("all-reduce", {"number": "", "bytes": 0})
    cells = (
        f"`{case.config}`",
        plan["members"],
        plan["batch_size"],
        case.topology,
        "yes" if plan["fits"] else "no",
        f"{plan['peak'] / 2**30:.2f}",
        f"{plan['capacity'] / 2**30:.2f}",
        f"{plan['flops'] / 1e9:,.{0 if plan['flops'] > 1e10 else 1}f}",
        sent["number"],
        f"{sent['bytes'] / 1e6:.1f}",
    )
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
