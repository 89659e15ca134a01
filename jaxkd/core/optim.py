"""Optimisers and learning-rate schedules from a configuration, all of them optax's.

The learning rate is evaluated on the host, as a function of the step, and enters the
jitted step as an argument. So students with different schedules share one compiled
body, and resuming needs no schedule state.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from jaxkd.core.errors import UserError
from jaxkd.core.types import FROZEN, MAIN

Optimizer = Callable[[Any, Any], optax.GradientTransformation]


class Optimization(NamedTuple):
    """How the parameters of one label are trained.

    Attributes:
      schedule: learning rate as a function of the step.
      weight_decay: its strength.
      optimizer: ``(lr, weight_decay) -> GradientTransformation``.
      key: distinguishes optimisers of different structure.
    """

    schedule: optax.Schedule
    weight_decay: float
    optimizer: Optimizer
    key: str


# What changes the program of a step, and not a number that enters it.
_STRUCTURE = ("name", "momentum", "nesterov", "beta2", "clip_value", "clip_norm")


def optimizations(
    optim: Mapping[str, Any],
    by_label: Mapping[str, Mapping[str, Any]],
    labels: set[str],
    steps: int,
    steps_per_unit: float,
) -> dict[str, Optimization]:
    """Returns the optimisation of each label: ``config.optim``, overridden by label.

    Args:
      optim: ``config.optim``.
      by_label: ``config.optimizers``: label -> the keys of ``optim`` that differ.
      labels: of ``Method.trainable``.
      steps: length of the training.
      steps_per_unit: steps per epoch, or 1.

    Raises:
      UserError: for an unknown name, or a label that the method does not have.
    """
    labels = labels - {FROZEN}
    if unknown := by_label.keys() - labels:
        raise UserError(
            f"config.optimizers.{sorted(unknown)[0]} is for parameters of that label, "
            f"but the method's labels are {', '.join(sorted(labels))}."
        )
    return {
        label: _optimization(
            {**optim, **by_label.get(label, {})}, steps, steps_per_unit
        )
        for label in sorted(labels, key=lambda label: (label != MAIN, label))
    }


def _optimization(optim, steps: int, steps_per_unit: float) -> Optimization:
    return Optimization(
        schedule=schedule(optim, steps, steps_per_unit),
        weight_decay=optim["weight_decay"],
        optimizer=optimizer(optim),
        key=json.dumps([optim.get(name) for name in _STRUCTURE]),
    )


def optimizer(optim: Mapping[str, Any]) -> Optimizer:
    """Returns ``(lr, weight_decay) -> GradientTransformation``; both may be traced.

    ``sgd`` couples weight decay to the gradient (L2 on every parameter, batch norm
    included), as torch's SGD does; ``adamw`` decouples it; ``adam`` couples it, as
    torch's Adam does. ``clip_value`` and ``clip_norm`` cut gradients first: each entry
    to ``[-clip_value, clip_value]``, then all to the norm ``clip_norm``; 0 cuts none.

    Raises:
      UserError: if the optimiser's name is unknown.
    """
    name = optim["name"]
    if name == "sgd":
        return _clipped(
            optim,
            lambda lr, weight_decay: optax.chain(
                optax.add_decayed_weights(weight_decay),
                optax.trace(decay=optim["momentum"], nesterov=optim["nesterov"]),
                optax.scale_by_learning_rate(lr),
            ),
        )
    moments = {"b1": optim["momentum"], "b2": optim.get("beta2", 0.999)}
    if name == "adamw":
        return _clipped(
            optim,
            lambda lr, weight_decay: optax.chain(
                optax.scale_by_adam(**moments),
                optax.add_decayed_weights(weight_decay),
                optax.scale_by_learning_rate(lr),
            ),
        )
    if name == "adam":
        return _clipped(
            optim,
            lambda lr, weight_decay: optax.chain(
                optax.add_decayed_weights(weight_decay),
                optax.scale_by_adam(**moments),
                optax.scale_by_learning_rate(lr),
            ),
        )
    raise UserError(f"config.optim.name is {name!r}, expected sgd, adam or adamw.")


def _clipped(optim: Mapping[str, Any], optimizer: Optimizer) -> Optimizer:
    """Cuts gradients before the optimiser sees them.

    Clipping has no state, so the state stays that of the optimiser alone.
    """
    value, norm = optim.get("clip_value", 0.0), optim.get("clip_norm", 0.0)
    clips = [optax.clip(value)] if value else []
    clips += [optax.clip_by_global_norm(norm)] if norm else []
    if not clips:
        return optimizer
    clip = optax.chain(*clips)

    def make(lr, weight_decay) -> optax.GradientTransformation:
        inner = optimizer(lr, weight_decay)

        def update(gradients, state, params=None):
            gradients, _ = clip.update(gradients, clip.init(gradients), params)
            return inner.update(gradients, state, params)

        return optax.GradientTransformation(inner.init, update)

    return make


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
            "expected cosine, step or constant."
        )
    if not warmup:
        return main
    return optax.join_schedules(
        [optax.linear_schedule(0.0, lr, warmup), main], [warmup]
    )
