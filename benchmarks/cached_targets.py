"""A training step that reads the teacher's logits, beside one that computes them.

    python -m benchmarks.cached_targets [--batch 64] [--json FILE]

resnet32x4 -> resnet8x4 by RLD; data is blank, which the time does not depend on.
``first pass`` is what computing the targets costs, once for each visit of an example.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks import blank, measure
from benchmarks.measure import Contestant, ratio, spread
from jaxkd.core import config as configs
from jaxkd.core.targets import collect_targets, evaluate_target
from jaxkd.training import program
from jaxkd.training.build import Run


def main() -> None:
    """Times both steps and the first pass, and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a block")
    parser.add_argument("--json", type=Path, help="file for all that was measured")
    args = parser.parse_args()
    machine = measure.machine()
    print(measure.describe(machine), flush=True)
    computed, read = (
        blank.make_step(configure(args.batch, cache)) for cache in (False, True)
    )
    contestants = [
        Contestant("teacher computed", computed.run_steps),
        Contestant("teacher's logits read", read.run_steps),
        Contestant("first pass", make_first_pass(read.run)),
    ]
    timings = measure.alternate(contestants, args.rounds, args.seconds)
    first = timings["teacher computed"]
    rows = [
        {
            "step": name,
            "ms": spread(timing.wall).text(1e3),
            "speed": ratio(first.wall, timing.wall).text(),
        }
        for name, timing in timings.items()
    ]
    print(measure.table(rows))
    if args.json:
        blocks = {name: timing._asdict() for name, timing in timings.items()}
        args.json.write_text(json.dumps({"machine": machine, "blocks": blocks}))


def configure(batch: int, cache: bool) -> ConfigDict:
    """Returns the configuration of one student of one teacher."""
    config = configs.default()
    config.data.name, config.view.name = "cifar", "crop_flip"
    config.model.name = "resnet32x4"
    config.batch_size, config.steps_per_call = batch, 1
    need = configs.needed(config)
    config.model.name, config.method = "resnet8x4", "rld"
    config.needs = ConfigDict({"teacher": need})
    config.targets.update({"visits": 1, "cache": cache})
    return config


def make_first_pass(run: Run) -> Callable[[int], None]:
    """Returns a function that computes the targets of some batches, and waits."""
    (target,) = collect_targets(run.groups).values()
    frozen = jax.tree.map(blank.zeros, program.abstract_inputs(run)[1])
    shape = (1, run.config.batch_size, *run.dataset.info.image_shape)
    images = np.zeros(shape, np.float32)

    @jax.jit
    def evaluate(frozen: Any, images: Any) -> Any:
        keys = jax.random.split(jax.random.key(0), 1)
        data = {"image": images}
        return evaluate_target(target.function, frozen, data, keys)["logits"]

    def passes(count: int) -> None:
        for _ in range(count):
            result = evaluate(frozen, images)
        jax.block_until_ready(result)

    return passes


if __name__ == "__main__":
    main()
