"""How long a distillation step takes: beside PyTorch, with many students, and in full.

    python -m benchmarks.step_time [--json FILE]

Run it from the repository's root. It needs JAX, Flax and Optax; the comparison also
needs PyTorch. Its parts, by default those that suit the device:

  compare   RLD, resnet32x4 -> resnet8x4, batch 64, without augmentation: the library's
            step beside the same step in plain PyTorch, in alternating blocks, after a
            check that both compute the same losses.
  study     1, 4 and 12 students that share one teacher's forward pass, crop and flip.
  recipe    one student on 50,000 images held on the device, extrapolated to the 240
            epochs of the CIFAR-100 recipe (on a CPU only with --full).

Figures are medians over blocks, with the least and the greatest in brackets.
"""

import argparse
import importlib.util
import itertools
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import distillation, measure
from benchmarks.distillation import BATCH, CIFAR100, Pair, Trainer
from benchmarks.measure import Contestant, Timing, ratio, spread

PARTS = ("compare", "study", "recipe")
LAYOUTS = ("nchw", "channels_last")

# Allowed relative difference of the losses of the first and the second step; rounding
# differences grow through the update in between.
TOLERANCES = (1e-4, 1e-3)

Rows = list[dict[str, Any]]
Result = tuple[Rows, dict[str, Any]]


def main() -> None:
    """Runs the parts that were asked for and prints their tables."""
    # PyTorch needs some of the GPU's memory too.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    args = _parse()
    report: dict[str, Any] = {"machine": measure.machine(), "settings": vars(args)}
    print(measure.describe(report["machine"]), flush=True)
    functions = {"compare": compare, "study": study, "recipe": recipe}
    for part in args.parts:
        rows, details = functions[part](args)
        load = measure.load()
        report[part] = {"rows": rows, "load": load, **details}
        print(f"\n{part} (load average {load})\n{measure.table(rows)}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(report, indent=2, default=str) + "\n")


def _parse() -> argparse.Namespace:
    on_cpu = jax.default_backend() == "cpu"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--parts", nargs="+", choices=PARTS, help="default: all that suit the device")
    add("--full", action="store_true", help="measure the recipe on a CPU, too")
    add(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16"),
        default=["float32"] if on_cpu else ["float32", "bfloat16"],
        help="of the networks (default: %(default)s)",
    )
    add(
        "--students",
        nargs="+",
        type=int,
        default=[1, 4, 12],
        help="sizes of the study (default: %(default)s)",
    )
    add(
        "--loop",
        nargs="+",
        choices=("map", "vmap"),
        default=["map"],
        help="students in turn or side by side (default: %(default)s)",
    )
    add(
        "--torch",
        nargs="+",
        choices=("eager", "compile", "cuda_graphs"),
        default=["eager"] if on_cpu else ["eager", "compile", "cuda_graphs"],
        help="PyTorch's modes (default: %(default)s); cuda_graphs is torch.compile "
        "in mode reduce-overhead",
    )
    add("--steps-per-call", type=int, default=20, help="of ours (default: %(default)s)")
    add("--rounds", type=int, default=5, help="blocks of each (default: %(default)s)")
    add("--seconds", type=float, default=2.0, help="of a block (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file")
    args = parser.parse_args()
    args.parts = args.parts or _suitable_parts(on_cpu and not args.full)
    return args


def _suitable_parts(without_recipe: bool) -> list[str]:
    parts = [part for part in PARTS if part != "recipe" or not without_recipe]
    if importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: no comparison with it.")
        parts.remove("compare")
    return parts


def compare(args: argparse.Namespace) -> Result:
    """Times the library's step and PyTorch's, after checking that they are the same."""
    from benchmarks import torch_twin

    threads = torch_twin.prepare()
    rng = np.random.default_rng(0)
    images = rng.standard_normal(
        (args.steps_per_call, BATCH, *CIFAR100.image_shape), np.float32
    )
    labels = rng.integers(0, CIFAR100.num_classes, images.shape[:2], np.int32)
    losses = _check(images, labels)
    details: dict[str, Any] = {"torch threads": threads, "losses": losses}
    rows: Rows = []
    for dtype in args.dtypes:
        pair = distillation.make_pair(dtype)
        ours = _make_ours(pair, images, labels)
        others = _make_others(args, dtype, pair, ours, images, labels)
        trainers = {"jaxkd": ours, **others}
        timings = _alternate(trainers, args)
        details[dtype] = measure.as_dicts(timings)
        rows += [
            {
                "step": name,
                "dtype": dtype,
                "compile s": f"{trainers[name].compile_seconds:.1f}",
                **_speed(timing),
                "jaxkd's speed": ratio(timing.wall, timings["jaxkd"].wall).text(),
            }
            for name, timing in timings.items()
        ]
    return rows, details


def _make_ours(pair: Pair, images: np.ndarray, labels: np.ndarray) -> Trainer:
    group = distillation.make_group(pair, 1)
    feed = distillation.ready_batches(images, labels, group)
    return Trainer(pair, group, feed)


def _make_other(pair: Pair, ours: Trainer, images, labels, **options: str) -> Any:
    """Makes PyTorch's step, starting from the weights of ``ours``."""
    from benchmarks import torch_twin

    optimizer = distillation.OPTIMIZER
    return torch_twin.Trainer(
        torch_twin.make_resnet(pair.teacher, jax.device_get(pair.variables)),
        torch_twin.make_resnet(pair.student, ours.student_variables(0)),
        images,
        labels,
        weights=(distillation.ALPHA, distillation.BETA, distillation.TEMPERATURE),
        sgd={key: optimizer[key] for key in ("lr", "momentum", "weight_decay")},
        **options,
    )


def _make_others(args, dtype: str, pair: Pair, ours: Trainer, images, labels):
    """Makes and warms up PyTorch's steps; those that do not compile are reported."""
    others = {}
    for mode, layout in itertools.product(args.torch, LAYOUTS):
        name = f"torch {mode} {layout}"
        options = {"dtype": dtype, "mode": mode, "layout": layout}
        other = _make_other(pair, ours, images, labels, **options)
        try:
            other.warm_up()
        except RuntimeError as error:
            if mode == "eager":
                raise
            print(f"Left out {name}, {dtype}: {str(error).strip().splitlines()[0]}")
        else:
            others[name] = other
    return others


def _check(images: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Compares both sides' losses over two steps on one batch, in full float32.

    The first loss checks networks and losses, the second gradients and update.

    Raises:
      ValueError: if they differ.
    """
    from benchmarks import torch_twin

    torch_twin.allow_tf32(False)
    with jax.default_matmul_precision("highest"):
        pair = distillation.make_pair("float32")
        ours = _make_ours(pair, images[:1], labels[:1])
    other = _make_other(pair, ours, images[:1], labels[:1])
    losses = []
    for step, tolerance in enumerate(TOLERANCES, start=1):
        mine, theirs = float(ours.run(1)["loss"][0]), float(other.run(1))
        difference = abs(mine - theirs) / abs(theirs)
        text = (
            f"loss of step {step}: jaxkd {mine:.6f}, torch {theirs:.6f}, "
            f"relative difference {difference:.1e}"
        )
        if not difference <= tolerance:
            raise ValueError(f"Both sides differ, {text}, expected {tolerance:.0e}.")
        print(text)
        losses.append({"jaxkd": mine, "torch": theirs})
    torch_twin.allow_tf32(True)
    return losses


def study(args: argparse.Namespace) -> Result:
    """Times studies of several sizes, whose students share a teacher's forward pass."""
    rows: Rows = []
    details = {}
    for dtype, loop in itertools.product(args.dtypes, args.loop):
        trainers = {
            str(count): _make_study(args, dtype, loop, count) for count in args.students
        }
        timings = _alternate(trainers, args)
        details[f"{dtype} {loop}"] = measure.as_dicts(timings)
        alone = timings[str(args.students[0])].wall
        rows += [
            {
                "students": count,
                "dtype": dtype,
                "loop": loop,
                "compile s": f"{trainers[str(count)].compile_seconds:.1f}",
                **_speed(timings[str(count)], count),
                f"relative to {args.students[0]}": ratio(
                    [count / args.students[0] * x for x in alone],
                    timings[str(count)].wall,
                ).text(),
            }
            for count in args.students
        ]
    return rows, details


def _make_study(args, dtype: str, loop: str, count: int) -> Trainer:
    pair = distillation.make_pair(dtype)
    group = distillation.make_group(pair, count)
    table = distillation.make_table(4096)
    feed = distillation.from_table(table, group, args.steps_per_call, prepared=True)
    return Trainer(pair, group, feed, loop)


def recipe(args: argparse.Namespace) -> Result:
    """Times one student on a table of CIFAR's size and extrapolates to 240 epochs.

    Once with indices and learning rates prepared beforehand, and once as in training,
    where the host prepares them for every call.
    """
    rows: Rows = []
    details = {}
    for dtype in args.dtypes:
        pair = distillation.make_pair(dtype)
        group = distillation.make_group(pair, 1)
        table = distillation.make_table(distillation.TRAINING_IMAGES)
        trainers = {}
        for name, prepared in {"prepared": True, "as in training": False}.items():
            feed = distillation.from_table(
                table, group, args.steps_per_call, prepared=prepared
            )
            trainers[name] = Trainer(pair, group, feed)
        timings = _alternate(trainers, args)
        details[dtype] = measure.as_dicts(timings)
        rows += [
            {
                "inputs": name,
                "dtype": dtype,
                **_speed(timing),
                "240 epochs, minutes": spread(timing.wall).text(
                    distillation.STEPS / 60
                ),
            }
            for name, timing in timings.items()
        ]
    return rows, details


def _alternate(trainers: dict[str, Any], args: argparse.Namespace) -> dict[str, Timing]:
    contestants = [Contestant(name, one.run) for name, one in trainers.items()]
    return measure.alternate(contestants, args.rounds, args.seconds)


def _speed(timing: Timing, students: int | None = None) -> dict[str, str]:
    """Returns the columns on speed; in a study every student's images count."""
    images, times = (
        (BATCH, "") if students is None else (BATCH * students, " x students")
    )
    columns = {
        "ms a step": spread(timing.wall).text(1e3),
        f"images/s{times}": f"{images / spread(timing.wall).median:.0f}",
    }
    if jax.default_backend() == "cpu":
        # Other people's work hardly touches CPU time, unlike the wall clock.
        columns[f"images/CPU-s{times}"] = f"{images / spread(timing.cpu).median:.0f}"
    return columns


if __name__ == "__main__":
    main()
