"""Optimisers and learning-rate schedules from a configuration, all of them optax's.

The learning rate is evaluated on the host, as a function of the step, and enters the
jitted step as an argument. So students with different schedules share one compiled
body, and resuming needs no schedule state.
"""

from collections.abc import Callable, Mapping
from typing import Any

import optax

from jaxkd.core.errors import UserError

Optimizer = Callable[[Any, Any], optax.GradientTransformation]


def optimizer(optim: Mapping[str, Any]) -> Optimizer:
    """Returns ``(lr, weight_decay) -> GradientTransformation``; both may be traced.

    ``sgd`` couples weight decay to the gradient (L2 on every parameter, batch norm
    included), as torch's SGD does; ``adamw`` decouples it.

    Raises:
      UserError: if the optimiser's name is unknown.
    """
    if optim["name"] == "sgd":
        return lambda lr, weight_decay: optax.chain(
            optax.add_decayed_weights(weight_decay),
            optax.trace(decay=optim["momentum"], nesterov=optim["nesterov"]),
            optax.scale_by_learning_rate(lr),
        )
    if optim["name"] == "adamw":
        return lambda lr, weight_decay: optax.chain(
            optax.scale_by_adam(b1=optim["momentum"]),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_learning_rate(lr),
        )
    raise UserError(f"config.optim.name is {optim['name']!r}, wanted sgd or adamw.")


def schedule(
    optim: Mapping[str, Any], steps: int, steps_per_unit: float
) -> optax.Schedule:
    """Returns the learning rate as a function of the step, counted from 0.

    Args:
      optim: ``lr``, ``schedule``, and ``warmup``, ``milestones``, ``factor``, with
        durations in the run's unit.
      steps: length of the training.
      steps_per_unit: steps per epoch, or 1.

    Raises:
      UserError: if the schedule's name is unknown.
    """
    lr, warmup = optim["lr"], round(optim["warmup"] * steps_per_unit)
    if optim["schedule"] == "cosine":
        main = optax.cosine_decay_schedule(lr, max(steps - warmup, 1))
    elif optim["schedule"] == "constant":
        main = optax.constant_schedule(lr)
    elif optim["schedule"] == "step":
        boundaries: dict[int, float] = {}
        for milestone in optim["milestones"]:
            at = round(milestone * steps_per_unit) - warmup
            boundaries[at] = boundaries.get(at, 1.0) * optim["factor"]
        main = optax.piecewise_constant_schedule(lr, boundaries)
    else:
        raise UserError(
            f"config.optim.schedule is {optim['schedule']!r}, "
            "wanted cosine, step or constant."
        )
    if not warmup:
        return main
    return optax.join_schedules(
        [optax.linear_schedule(0.0, lr, warmup), main], [warmup]
    )
