"""The contracts between systems and the one train loop."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax

Params = Any
Extra = Any
Batch = dict[str, jax.Array]
Outputs = Any
Targets = dict[str, Any]
Metrics = dict[str, jax.Array]


class Spec(NamedTuple):
    """What a method is told about the run it is made for.

    Attributes:
      network: the network to train.
      frozen: the networks of the needed runs, by name (``"teacher"``).
      num_classes: number of labels.
      image_shape: ``(height, width, channels)`` of what the network sees.
      steps_per_unit: training steps per unit of ``config.unit`` (epochs or steps).
    """

    network: nn.Module
    frozen: Mapping[str, nn.Module]
    num_classes: int
    image_shape: tuple[int, int, int]
    steps_per_unit: float


class Method(NamedTuple):
    """A training system as pure functions, made by ``make(spec, **options)``.

    The loss is split from the forward pass so that students which differ in their
    loss alone share one compiled network: a study switches between cheap heads
    instead of compiling twelve networks.

    ``params`` and ``extra`` are dictionaries with the trained network under
    ``"student"`` (its parameters; its other collections such as ``batch_stats``);
    whatever else a method trains or remembers stands beside it, and is dropped when
    the network is exported.

    Attributes:
      init: ``key -> (params, extra)``.
      targets: name -> ``(frozen, batch, key) -> pytree``: what needs no gradient,
        such as a teacher's logits. Evaluated once a batch and shared by all students
        of the run that name it.
      forward: ``(params, extra, batch, key) -> (outputs, extra)``, in training mode.
      loss: ``(params, outputs, batch, targets, key, step) -> (scalar, metrics)``.
      metrics: the names among the loss's metrics.
      predict: ``(params, extra, batch) -> outputs``, in evaluation mode.
      evaluate: ``(outputs, batch) -> clu.metrics.Collection``; ``batch["mask"]`` is
        False on padding.
    """

    init: Callable[[jax.Array], tuple[Params, Extra]]
    targets: Mapping[str, Callable[[Any, Batch, jax.Array], Any]]
    forward: Callable[[Params, Extra, Batch, jax.Array], tuple[Outputs, Extra]]
    loss: Callable[..., tuple[jax.Array, Metrics]]
    metrics: tuple[str, ...]
    predict: Callable[[Params, Extra, Batch], Outputs]
    evaluate: Callable[[Outputs, Batch], Any]


class TrainState(flax.struct.PyTreeNode):
    """What training changes. Leaves but ``step`` lead with an axis over students.

    There is no random state: every key is ``fold_in`` of the run's seed and the step.

    Attributes:
      step: optimiser steps done, a scalar.
      params: trained parameters.
      extra: batch statistics, memory banks.
      opt_state: the optimiser's state.
      ema: exponential moving average of ``params``, or None when not asked for.
    """

    step: jax.Array
    params: Params
    extra: Extra
    opt_state: Any
    ema: Params | None = None

    @property
    def eval_params(self) -> Params:
        """The parameters to evaluate and export: the average, if one is kept."""
        return self.params if self.ema is None else self.ema


class Best(flax.struct.PyTreeNode):
    """Each student's best evaluation so far: its score, step and parameters."""

    score: jax.Array
    step: jax.Array
    params: Params
    extra: Extra
