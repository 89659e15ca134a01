"""The contracts between systems and the one train loop."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

Params = Any
Extra = Any
Batch = dict[str, Any]
Outputs = Any
Targets = dict[str, Any]
Metrics = dict[str, jax.Array]


class FrozenNetwork(NamedTuple):
    """A network of a needed run, and which view of the batch it reads.

    With ``per_seed``, each seed of the run has its own, of its needed run's same seed.
    """

    network: nn.Module
    reads: str = "image"
    per_seed: bool = False


class Score(NamedTuple):
    """The metric by which networks are compared.

    Attributes:
      name: of the metric in the method's evaluation.
      label: for tables and axes.
      percent: whether people read it in percent.
      lower: whether lower is better.
    """

    name: str
    label: str
    percent: bool = True
    lower: bool = False


TOP1 = Score("top1", "top-1 accuracy")


class Spec(NamedTuple):
    """What a method is told about the run it is made for.

    Attributes:
      network: the network to train.
      frozen: the networks of the needed runs, by name (``"teacher"``).
      num_classes: number of labels.
      fields: name -> shape and dtype of one example's field, as the training view
        leaves it: ``image``, ``label``, further views.
      steps_per_unit: training steps per unit of ``config.unit`` (epochs or steps).
      num_examples: training examples that a student draws from; None where they are
        read from files as training goes on.
      reads: the field that the network sees.
    """

    network: nn.Module
    frozen: Mapping[str, FrozenNetwork]
    num_classes: int
    fields: Mapping[str, jax.ShapeDtypeStruct]
    steps_per_unit: float
    num_examples: int | None = None
    reads: str = "image"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one example as the network sees it."""
        return self.fields[self.reads].shape

    def batch_shapes(self, size: int) -> Batch:
        """Returns the shapes and dtypes of a training batch of ``size`` examples."""
        rows = jax.ShapeDtypeStruct((size,), jnp.int32)
        batch: Batch = {
            name: jax.ShapeDtypeStruct((size, *one.shape), one.dtype)
            for name, one in self.fields.items()
        }
        if self.num_examples is not None:
            labels = jax.ShapeDtypeStruct((self.num_examples,), jnp.int32)
            batch |= {"index": rows, "train_labels": labels}
        return batch


class Aux(NamedTuple):
    """What a loss returns beside its value.

    Attributes:
      extra: as the loss was given it, or with what it remembers changed.
      metrics: name -> scalar.
    """

    extra: Extra
    metrics: Metrics


class Method(NamedTuple):
    """A training system as pure functions, made by ``make(spec, **options)``.

    The loss is split from the forward pass so that students which differ in their
    loss alone share one compiled network: a study switches between cheap heads
    instead of compiling twelve networks.

    ``params`` and ``extra`` are dictionaries with the trained network under
    ``"student"`` (its parameters; its other collections such as ``batch_stats``);
    whatever else a method trains or remembers stands beside it, and is dropped when
    the network is exported.

    A training ``batch`` holds the examples' fields as the view left them: ``image``,
    ``label``, further views that ``config.view`` makes; and, where the examples are in
    memory, ``index`` ``[batch]``, their rows in the student's training set, and
    ``train_labels`` ``[num_examples]``, the labels of all of it.

    Attributes:
      init: ``key -> (params, extra)``.
      targets: name -> ``(frozen, batch, key) -> pytree``: what needs no gradient,
        such as a teacher's logits. Evaluated once a batch and shared by all students
        of the run that name it.
      forward: ``(params, extra, batch, key) -> (outputs, extra)``, in training mode.
      loss: ``(params, extra, outputs, batch, targets, key, step) -> (scalar, Aux)``,
        with the ``extra`` that ``forward`` returned.
      metrics: the names among the loss's metrics.
      predict: ``(params, extra, batch) -> outputs``, in evaluation mode.
      evaluate: ``(outputs, batch) -> clu.metrics.Collection``; ``batch["mask"]`` is
        False on padding.
      score: the evaluation's metric by which networks are compared.
      adopt: ``(params, extra, frozen) -> (params, extra)``: starts from variables of
        the needed runs' networks, by name; None keeps the initial ones.
      assess: ``(Trained) -> Findings`` of ``jaxkd.evaluators.base``: computed once
        after training, on the host; None for nothing.
    """

    init: Callable[[jax.Array], tuple[Params, Extra]]
    targets: Mapping[str, Callable[[Any, Batch, jax.Array], Any]]
    forward: Callable[[Params, Extra, Batch, jax.Array], tuple[Outputs, Extra]]
    loss: Callable[..., tuple[jax.Array, Aux]]
    metrics: tuple[str, ...]
    predict: Callable[[Params, Extra, Batch], Outputs]
    evaluate: Callable[[Outputs, Batch], Any]
    score: Score = TOP1
    adopt: Callable[[Params, Extra, Any], tuple[Params, Extra]] | None = None
    assess: Callable[[Any], Any] | None = None


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
