"""Gradients of all members of a group, for methods of one loss and one optimiser."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxkd.core import partition
from jaxkd.core.members import over_members, split_batch
from jaxkd.core.study import Group
from jaxkd.core.types import (
    Batch,
    LossInputs,
    Metrics,
    ModelState,
    Params,
    Targets,
    TrainState,
)


class Micro(NamedTuple):
    """A micro-batch as every member may see it.

    Attributes:
      data: ``[draws, batch, ...]``, the examples and ``train_labels``.
      targets: name -> ``[draws, batch, ...]``.
      size: of the batch.
      number: of the micro-batch in its step, or None where there is one only.
    """

    data: Batch
    targets: Targets
    size: int
    number: jax.Array | None = None


class Gradient(NamedTuple):
    """Gradients, the updated non-trainable state and metrics of all members.

    ``params`` has None for frozen leaves.
    """

    params: Params
    model_state: ModelState
    metrics: Metrics


def group_gradients(
    group: Group,
    state: TrainState,
    micro: Micro,
    names: tuple[str, ...],
    *,
    loop: str,
    mesh: Mesh | None,
    last: int,
) -> Gradient:
    """Differentiates the losses of all members.

    Args:
      group: of members.
      state: stacked over members.
      micro: the micro-batch.
      names: of the metrics of the group.
      loop: see ``over_members``.
      mesh: of devices, or None.
      last: step at which the study ends.
    """
    training = state.step < group.per_member([s.steps for s in group.students])
    always = all(student.steps == last for student in group.students)
    trainable = group.students[0].method.trainable

    def member(one, shared):
        params, model_state, student, draw, seed, training = one
        step, *by_draw = shared
        labels = partition.leaf_labels(trainable, params)
        trained = partition.part(params, labels, None)

        def compute():
            batch, targets = jax.tree.map(lambda x: x[draw], by_draw)
            key = member_key(seed, step, micro.number)

            def loss(trained):
                whole = partition.join(params, trained) if labels else trained
                inputs = LossInputs(whole, model_state, None, batch, targets, key, step)
                return _member_loss(group, student, inputs, names)

            grads, (changed, metrics) = jax.grad(loss, has_aux=True)(trained)
            return Gradient(grads, changed, metrics)

        def skip():
            zeros = jax.tree.map(jnp.zeros_like, trained)
            return Gradient(zeros, model_state, zero_metrics(names))

        return compute() if always else jax.lax.cond(training, compute, skip)

    shared = split_batch((micro.data, micro.targets), micro.size, mesh)
    stacked = (state.params, state.model_state, *group.member_arrays(), training)
    return over_members(member, stacked, (state.step, *shared), loop=loop, mesh=mesh)


def member_key(seed: jax.Array, step: jax.Array, number: jax.Array | None) -> jax.Array:
    """Returns the random key of a member at a step, and of one of its micro-batches."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), step)
    return key if number is None else jax.random.fold_in(key, number)


def _member_loss(
    group: Group, student: jax.Array, inputs: LossInputs, names: tuple[str, ...]
):
    forward = group.students[0].method.forward
    outputs, model_state = forward(
        inputs.params, inputs.model_state, inputs.batch, inputs.key
    )
    inputs = inputs._replace(outputs=outputs, model_state=model_state)

    def head(method):
        def run(inputs):
            loss = method.loss(inputs)
            measured = {"loss": loss.value} | loss.metrics
            # All branches of the switch have to return the same names; what a student
            # does not measure is not a number.
            metrics = {
                name: jnp.asarray(measured.get(name, jnp.nan), jnp.float32)
                for name in names
            }
            return loss.value, (loss.model_state, metrics)

        return run

    heads = [head(each.method) for each in group.students]
    return jax.lax.switch(student, heads, inputs)


def metric_names(group: Group, state: TrainState, micro: Micro) -> tuple[str, ...]:
    """Finds the names of the metrics of a group by tracing its students' losses."""

    def first(tree):
        return jax.tree.map(lambda x: x[0], tree)

    def measure(state, data, targets):
        params, model_state = first((state.params, state.model_state))
        batch, targets = first((data, targets))
        key = jax.random.key(0)
        method = group.students[0].method
        outputs, model_state = method.forward(params, model_state, batch, key)
        inputs = LossInputs(
            params, model_state, outputs, batch, targets, key, state.step
        )
        found = [student.method.loss(inputs).metrics for student in group.students]
        return {name: value for metrics in found for name, value in metrics.items()}

    found = jax.eval_shape(measure, state, micro.data, micro.targets)
    return ("loss", *sorted(found.keys() - {"loss"}))


def zero_metrics(names: tuple[str, ...], *shape: int) -> Metrics:
    """Returns zeros ``shape`` under each name."""
    return {name: jnp.zeros(shape, jnp.float32) for name in names}
