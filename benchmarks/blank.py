"""A configuration's training step on blank data, which its time does not depend on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.aot import fake_data
from jaxkd.training import program
from jaxkd.training.build import Run, build


class Step(NamedTuple):
    """A compiled training step.

    Attributes:
      run: what was built.
      compiled: the program.
      run_steps: trains for some steps, and waits.
    """

    run: Run
    compiled: Any
    run_steps: Callable[[int], None]


def make_step(config: ConfigDict) -> Step:
    """Compiles the step of a configuration on CIFAR-100, with ``steps_per_call`` 1."""
    run = build(config, fake_data.make("cifar"))
    shapes = program.abstract_inputs(run)
    layout = jax.tree.map(lambda x: x.sharding, shapes[0])
    frozen, *_ = inputs = jax.tree.map(zeros, shapes[1:])
    make = jax.jit(lambda frozen: program.init(run, frozen)[0], out_shardings=layout)
    state = make(frozen)
    compiled = program.train_call(run, shapes[0]).lower(*shapes).compile()
    holder = [state]

    def run_steps(count: int) -> None:
        for _ in range(count):
            holder[0], metrics = compiled(holder[0], *inputs)
        jax.block_until_ready(metrics)

    return Step(run, compiled, run_steps)


def zeros(shape: Any) -> Any:
    """Returns zeros for a shape with its layout, and anything else as it is."""
    if not hasattr(shape, "sharding"):
        return shape
    return jax.device_put(np.zeros(shape.shape, shape.dtype), shape.sharding)
