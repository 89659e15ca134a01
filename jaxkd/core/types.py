"""The contracts between training systems and the one train loop."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

Params = Any
ModelState = Any
Batch = dict[str, Any]
Outputs = Any
Targets = dict[str, Any]
Metrics = dict[str, jax.Array]

# A field of a batch that asks ``predict`` for explanations, such as heat maps, too.
EXPLAIN = "explain"

# Label of the leaves that ``Method.trainable`` leaves untouched, and of those that the
# optimiser of ``config.optim`` updates.
FROZEN, MAIN = "frozen", "main"


class FrozenNetwork(NamedTuple):
    """A network of a needed run.

    It sees inputs normalised, and answers in classes numbered, as in the run that
    trained it: ``apply`` maps the one and selects from the other. With ``per_seed``,
    each seed of the run has its own network, of its needed run's same seed.

    Attributes:
      network: the Linen module.
      input_key: the field of the batch that it reads.
      per_seed: see above.
      scale: of each channel, from this run's inputs to the network's; empty for 1.
      shift: added after scaling, likewise; empty for 0.
      classes: positions of this run's classes among the network's outputs; empty where
        they are the same.
      unlike: why it cannot answer in this run's classes, where it was trained on
        others; a student may then start from all but its head.
    """

    network: nn.Module
    input_key: str = "image"
    per_seed: bool = False
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    unlike: str = ""

    def see(self, inputs: Any) -> Any:
        """Normalises inputs of this run's view ``[..., channels]`` for the network."""
        if not self.scale:
            return inputs
        return inputs * jnp.asarray(self.scale, inputs.dtype) + jnp.asarray(
            self.shift, inputs.dtype
        )

    def select(self, outputs: Any) -> Any:
        """Returns the outputs ``[..., classes]`` in the order of this run's classes."""
        if not self.classes:
            return outputs
        return jnp.take(outputs, jnp.asarray(self.classes), axis=-1)

    def apply(self, variables: Any, inputs: Any) -> tuple[Any, Any]:
        """Applies the network in evaluation mode: ``(outputs, features)``."""
        outputs, features = self.network.apply(  # type: ignore[misc]
            variables, self.see(inputs), train=False
        )
        return self.select(outputs), features


class Ensemble(NamedTuple):
    """Several teachers whose logits count as those of one, called ``"teacher"``.

    Attributes:
      weights: (name of a needed run, weight); the weights add up to 1.
      combine: ``"logits"`` averages these, ``"probabilities"`` those that they make.
    """

    weights: tuple[tuple[str, float], ...]
    combine: str = "logits"


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
    """The run that a method is made for.

    Attributes:
      network: the network to train.
      frozen: the networks of the needed runs, by name (``"teacher"``).
      num_classes: number of labels; 0 where the data have none.
      fields: name -> shape and dtype of one example's field, as the training view
        leaves it: ``image``, ``label``, further views.
      steps_per_unit: training steps per unit of ``config.unit`` (epochs or steps).
      num_examples: training examples that a student draws from; None where they are
        read from files as training goes on.
      input_key: the field that the network reads.
      steps: length of the student's training.
      ensemble: the needed runs that are the teacher together, or None.
    """

    network: nn.Module
    frozen: Mapping[str, FrozenNetwork]
    num_classes: int
    fields: Mapping[str, jax.ShapeDtypeStruct]
    steps_per_unit: float
    num_examples: int | None = None
    input_key: str = "image"
    steps: int = 1
    ensemble: Ensemble | None = None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of one example as the network reads it."""
        return self.fields[self.input_key].shape

    def batch_shapes(self, size: int) -> Batch:
        """Returns the shapes and dtypes of a training batch of ``size`` examples."""
        batch: Batch = {
            name: jax.ShapeDtypeStruct((size, *field.shape), field.dtype)
            for name, field in self.fields.items()
        }
        if self.num_examples is not None:
            batch["index"] = jax.ShapeDtypeStruct((size,), jnp.int32)
            if "label" in self.fields:
                label = self.fields["label"]
                whole = (self.num_examples, *label.shape)
                batch["train_labels"] = jax.ShapeDtypeStruct(whole, label.dtype)
        return batch


class LossInputs(NamedTuple):
    """All that a loss may look at.

    Attributes:
      params: the parameters that are trained.
      model_state: as ``forward`` returned it.
      outputs: of ``forward``.
      batch: the examples as the view left them.
      targets: name -> what ``Method.targets`` computed for this batch.
      key: random, of this member, step and micro-batch.
      step: optimiser steps done.
    """

    params: Params
    model_state: ModelState
    outputs: Outputs
    batch: Batch
    targets: Targets
    key: jax.Array
    step: jax.Array


class Loss(NamedTuple):
    """The value of a loss.

    Attributes:
      value: the scalar that is differentiated.
      model_state: the updated non-trainable state.
      metrics: name -> scalar, for the log. A student that does not measure what another
        of its study does has NaN there, which is not shown.
    """

    value: jax.Array
    model_state: ModelState
    metrics: Metrics


class Gradients(Protocol):
    """Differentiates a function over the batch of a step.

    With ``config.accumulate`` the batch is split: gradients and metrics are averaged
    over the micro-batches, and ``model_state`` is carried through them.
    """

    def __call__(
        self,
        function: Callable[[Params, LossInputs], Loss],
        params: Params,
        model_state: ModelState,
        *,
        label: str | None = None,
        salt: int = 0,
    ) -> tuple[Params, Loss]:
        """Returns the gradients and the averaged loss.

        Args:
          function: ``(params, inputs) -> Loss``. ``inputs.params`` are ``params``,
            ``inputs.outputs`` is None, and the rest is of the micro-batch.
          params: to differentiate by, any tree.
          model_state: given to the first micro-batch.
          label: differentiates by the leaves of this label of ``Method.trainable``
            alone, and gives zeros elsewhere; None differentiates by all but frozen
            ones. For ``params`` shaped like the method's.
          salt: distinguishes the random numbers of several calls in one step.
        """


class Apply(Protocol):
    """Applies an optimiser to the parameters."""

    def __call__(
        self, params: Params, gradients: Params, opt_state: Any, *, label: str = MAIN
    ) -> tuple[Params, Any]:
        """Returns the updated parameters and state of the optimisers.

        Args:
          params: of the method.
          gradients: like ``params``.
          opt_state: of all optimisers of the member.
          label: of the leaves to update; the others stay as they are.
        """


class UpdateInputs(NamedTuple):
    """What a method's own ``update`` is handed.

    Attributes:
      params: before the step.
      model_state: likewise.
      opt_state: likewise, of all optimisers.
      gradients: differentiates over the batch, micro-batch by micro-batch.
      apply: applies the optimiser of one label, with its learning rate and weight
        decay.
      learning_rate: label -> of this step.
      step: optimiser steps done.
    """

    params: Params
    model_state: ModelState
    opt_state: Any
    gradients: Gradients
    apply: Apply
    learning_rate: Mapping[str, jax.Array]
    step: jax.Array


class Update(NamedTuple):
    """What a method's own ``update`` returns.

    Attributes:
      params: after the step.
      model_state: likewise.
      opt_state: likewise.
      loss: a scalar for the log; where it is not finite, the step is skipped.
      metrics: name -> scalar.
    """

    params: Params
    model_state: ModelState
    opt_state: Any
    loss: jax.Array
    metrics: Metrics


class Method(NamedTuple):
    """A training system as pure functions, made by ``make(spec, **options)``.

    The loss is split from the forward pass so that students which differ in their
    loss alone share one compiled network: a study switches between cheap heads
    instead of compiling twelve networks.

    ``params`` and ``model_state`` are dictionaries with the trained network under
    ``"student"`` (its parameters; its other collections such as ``batch_stats``);
    whatever else a method trains or remembers stands beside it, and is dropped when
    the network is exported.

    A training ``batch`` holds the examples' fields as the view left them: ``image``,
    ``label``, further views that ``config.view`` makes; and, where the examples are in
    memory, ``index`` ``[batch]``, their rows in the student's training set, and
    ``train_labels`` ``[num_examples]``, the labels of all of it, if there are labels.

    Attributes:
      init: ``key -> (params, model_state)``.
      targets: name -> ``(frozen, batch, key) -> pytree``: what needs no gradient,
        such as a teacher's logits. Evaluated once a batch and shared by all students
        of the run that name it.
      forward: ``(params, model_state, batch, key) -> (outputs, model_state)``, in
        training mode.
      loss: ``LossInputs -> Loss``. The names of its metrics are found by tracing.
      predict: ``(params, model_state, batch) -> outputs``, in evaluation mode.
      evaluate: ``(outputs, batch) -> clu.metrics.Collection``; ``batch["mask"]`` is
        False on padding.
      score: the evaluation's metric by which networks are compared.
      trainable: ``params -> labels``, a tree like ``params`` (or a prefix of it) of
        strings: ``FROZEN`` leaves have no gradient, no optimiser state and no weight
        decay; ``MAIN`` ones are updated by ``config.optim``; others by
        that and ``config.optimizers.<label>``, which overrides its keys. None trains
        all.
      update: ``UpdateInputs -> Update``, the whole step, for methods of several
        losses or optimisers (two players, bi-level). None for one loss and one
        optimiser; ``forward`` and ``loss`` are then composed and differentiated.
      after_step: ``(params, model_state, step) -> model_state``, after the parameters
        have moved: target networks, queues. ``step`` is the one just done, from 0.
      warm_start: ``(params, model_state, frozen) -> (params, model_state)``: starts
        from variables of the needed runs' networks, by name; None keeps the initial
        ones.
      warm_head: whether ``warm_start`` takes over the head of a classifier, whose
        classes then have to be this run's.
      evaluator: ``(TrainedStudy) -> EvaluationReport`` of ``jaxkd.evaluators.base``,
        computed once after training, on the host; None for nothing.
    """

    init: Callable[[jax.Array], tuple[Params, ModelState]]
    targets: Mapping[str, Callable[[Any, Batch, jax.Array], Any]]
    forward: Callable[
        [Params, ModelState, Batch, jax.Array], tuple[Outputs, ModelState]
    ]
    loss: Callable[[LossInputs], Loss]
    predict: Callable[[Params, ModelState, Batch], Outputs]
    evaluate: Callable[[Outputs, Batch], Any]
    score: Score = TOP1
    trainable: Callable[[Params], Any] | None = None
    update: Callable[[UpdateInputs], Update] | None = None
    after_step: Callable[[Params, ModelState, jax.Array], ModelState] | None = None
    warm_start: (
        Callable[[Params, ModelState, Any], tuple[Params, ModelState]] | None
    ) = None
    warm_head: bool = True
    evaluator: Callable[[Any], Any] | None = None


class TrainState(flax.struct.PyTreeNode):
    """What training changes. Leaves but ``step`` lead with an axis over students.

    There is no random state: every key is ``fold_in`` of the run's seed and the step.

    Attributes:
      step: optimiser steps done, a scalar.
      params: trained parameters.
      model_state: batch statistics, target networks, memory banks.
      opt_state: the optimiser's state; of a method with ``trainable``, label -> state.
      ema: exponential moving average of ``params``, or None when none is kept.
    """

    step: jax.Array
    params: Params
    model_state: ModelState
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
    model_state: ModelState
