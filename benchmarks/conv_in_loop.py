"""What ``jaxkd.models.conv`` is for: a training step outside and inside a loop.

    python -m benchmarks.conv_in_loop [--network teacher] [--json FILE]
    python -m benchmarks.conv_in_loop --network resnet8x4 --size 32

Run it from the repository's root; it needs JAX, Flax and Optax. The same network is
trained with the library's convolution and with JAX's own, by single calls and by
``lax.scan``. On a CPU the gradient of JAX's own is many times slower inside the loop;
on other platforms both are the same program.
"""

import argparse
import contextlib
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from benchmarks import measure
from benchmarks.measure import Contestant, ratio, spread
from jaxkd import models
from jaxkd.models import layers

# The first two are those of configs/rld.py.
STUDENT = {"stem": 8, "widths": (8, 16, 32), "strides": (1, 2, 2)}
TEACHER = {"stem": 32, "widths": (32, 64, 128), "strides": (2, 2, 2)}
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "student": ("resnet8", STUDENT),
    "teacher": ("resnet8", TEACHER),
    "resnet8x4": ("resnet8x4", {}),
}
CLASSES = 100

_OPTIMIZER = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.05, momentum=0.9))


def main() -> None:
    """Times all four combinations and prints their table."""
    args = _parse()
    machine = measure.machine()
    print(measure.describe(machine), flush=True)
    programs = {
        f"{place}, {convolution}": _make_program(args, place, convolution)
        for convolution in ("jaxkd", "JAX")
        for place in ("single calls", "lax.scan")
    }
    contestants = [Contestant(name, run) for name, (run, _) in programs.items()]
    timings = measure.alternate(contestants, args.rounds, args.seconds)
    first = next(iter(timings.values()))
    rows = [
        {
            "step": name,
            "compile s": f"{programs[name][1]:.1f}",
            "ms a step": spread(timing.wall).text(1e3 / args.steps),
            "slower than the first": ratio(timing.wall, first.wall).text(),
        }
        for name, timing in timings.items()
    ]
    print(f"\nconv_in_loop (load average {measure.load()})\n{measure.table(rows)}")
    if args.json:
        blocks = measure.as_dicts(timings)
        report = {"machine": machine, "settings": vars(args), "rows": rows} | blocks
        args.json.write_text(json.dumps(report, indent=2, default=str) + "\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--network", choices=NETWORKS, default="student", help="default: %(default)s")
    add("--size", type=int, default=16, help="of images (default: %(default)s)")
    add("--batch", type=int, default=100, help="images (default: %(default)s)")
    add("--steps", type=int, default=5, help="in one scan (default: %(default)s)")
    add("--rounds", type=int, default=5, help="blocks of each (default: %(default)s)")
    add("--seconds", type=float, default=1.0, help="of a block (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file")
    return parser.parse_args()


def _make_program(
    args: argparse.Namespace, place: str, convolution: str
) -> tuple[Callable[[int], Any], float]:
    """Compiles a training program.

    Returns:
      ``run``, whose one step is ``args.steps`` steps of training, and the seconds that
      compiling took.
    """
    name, options = NETWORKS[args.network]
    network = models.build(name, CLASSES, **options)
    images = jax.random.normal(
        jax.random.key(0), (args.batch, args.size, args.size, 3), jnp.float32
    )
    labels = jnp.arange(args.batch) % CLASSES
    state = jax.jit(functools.partial(_init, network))(jax.random.key(1), images)

    def scan(state, images, labels):
        def body(state, _):
            return _train_step(network, state, images, labels), None

        return jax.lax.scan(body, state, None, length=args.steps)[0]

    single = functools.partial(_train_step, network)
    function, calls = (scan, 1) if place == "lax.scan" else (single, args.steps)
    began = time.perf_counter()
    with _plain_convolutions() if convolution == "JAX" else contextlib.nullcontext():
        lowered = jax.jit(function).lower(state, images, labels)
    program = lowered.compile()
    compile_seconds = time.perf_counter() - began

    def run(times: int) -> None:
        now = state
        for _ in range(times * calls):
            now = program(now, images, labels)
        jax.block_until_ready(now)

    return run, compile_seconds


def _plain_convolutions() -> Any:
    """Lets networks that are traced in this context use JAX's own convolution."""
    return mock.patch.object(layers, "conv_general_dilated", None)


def _init(network: nn.Module, key: jax.Array, images: jax.Array) -> Any:
    variables = network.init(key, images[:1])
    params, stats = variables["params"], variables["batch_stats"]
    return params, stats, _OPTIMIZER.init(params)


def _train_step(network: nn.Module, state, images: jax.Array, labels: jax.Array) -> Any:
    params, stats, opt_state = state

    def loss(params):
        (logits, _), updated = network.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updated["batch_stats"]

    gradients, stats = jax.grad(loss, has_aux=True)(params)
    updates, opt_state = _OPTIMIZER.update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), stats, opt_state


if __name__ == "__main__":
    main()
