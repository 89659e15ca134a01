"""Moves the members of a group by one step: by its optimiser, or by its own update.

Most methods have one loss and one optimiser (``apply_gradients``). Those with a step of
their own (two players, bi-level) are handed a way to differentiate and one to apply
(``own_update``). Both end alike (``finish``): a member whose step is not finite stays
as it is.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxkd.core import partition
from jaxkd.core.gradients import Gradient, Micro, member_key
from jaxkd.core.members import over_members, split_batch
from jaxkd.core.optim import Optimizer
from jaxkd.core.study import Group
from jaxkd.core.types import (
    MAIN,
    Loss,
    LossInputs,
    Metrics,
    ModelState,
    Params,
    TrainState,
    UpdateInputs,
)

Rates = Mapping[str, jax.Array]


class Moved(NamedTuple):
    """Where a step would bring all members, stacked.

    Attributes:
      params: of the members.
      model_state: likewise.
      opt_state: likewise.
      changes: a tree that is finite where the step is, such as the updates.
      loss: ``[members]``.
    """

    params: Params
    model_state: ModelState
    opt_state: Any
    changes: Any
    loss: jax.Array


def _apply(
    optimizer: Optimizer, rate, decay, params: Params, gradients: Params, opt_state: Any
) -> tuple[Params, Any, Params]:
    """Returns parameters, the optimiser's state and the updates, of one member."""
    updates, opt_state = optimizer(rate, decay).update(gradients, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, updates


def apply_gradients(
    group: Group, state: TrainState, gradient: Gradient, rates: Rates
) -> Moved:
    """Applies each member's optimisers.

    Args:
      group: of members.
      state: stacked over members.
      gradient: likewise.
      rates: label -> learning rates ``[members]``.
    """
    method = group.students[0].method
    optimizers = group.students[0].optimizers

    def member(params, gradients, opt_state, rates, decays):
        labels = partition.leaf_labels(method.trainable, params)
        if labels is None:
            one = optimizers[MAIN].optimizer, rates[MAIN], decays[MAIN]
            return _apply(*one, params, gradients, opt_state)
        changes = {}
        for label, own in optimizers.items():
            moved, opt, changes[label] = _apply(
                own.optimizer,
                rates[label],
                decays[label],
                partition.part(params, labels, label),
                _of_label(gradients, params, labels, label),
                opt_state[label],
            )
            params = partition.join(params, moved)
            opt_state = {**opt_state, label: opt}
        return params, opt_state, changes

    params, opt_state, changes = jax.vmap(member)(
        state.params, gradient.params, state.opt_state, rates, _decays(group)
    )
    return Moved(
        params, gradient.model_state, opt_state, changes, gradient.metrics["loss"]
    )


def _of_label(gradients: Params, params: Params, labels: list[str], label: str):
    """Returns a label's gradients of those that lack the frozen leaves."""
    wanted = partition.part(params, labels, label)
    return jax.tree.map(
        lambda one, gradient: None if one is None else gradient,
        wanted,
        gradients,
        is_leaf=lambda x: x is None,
    )


def _decays(group: Group) -> dict[str, jax.Array]:
    labels = group.students[0].optimizers
    return {
        label: jnp.asarray(
            group.per_member(
                [s.optimizers[label].weight_decay for s in group.students]
            ),
            jnp.float32,
        )
        for label in labels
    }


def own_update(
    group: Group,
    state: TrainState,
    micros: Micro,
    rates: Rates,
    *,
    parts: int,
    loop: str,
    mesh: Mesh | None,
) -> tuple[Moved, Metrics]:
    """Lets a method with ``update`` take the step of each of its members.

    Args:
      group: of members, which share the method's ``update``.
      state: stacked over members.
      micros: with ``parts`` > 1 all micro-batches, on a leading axis.
      rates: label -> learning rates ``[members]``.
      parts: number of micro-batches.
      loop: see ``over_members``.
      mesh: of devices, or None.
    """
    method, optimizers = group.students[0].method, group.students[0].optimizers
    assert method.update is not None
    update = method.update

    def member(one, shared):
        params, model_state, opt_state, _, draw, seed, rates, decays = one
        step, *by_draw = shared
        batch, targets = jax.tree.map(
            lambda x: x[:, draw] if parts > 1 else x[draw], by_draw
        )
        labels = partition.leaf_labels(method.trainable, params)

        def apply(params, gradients, opt_state, *, label=MAIN):
            own = optimizers[label].optimizer, rates[label], decays[label]
            if labels is None:
                return _apply(*own, params, gradients, opt_state)[:2]
            moved, new, _ = _apply(
                *own,
                partition.part(params, labels, label),
                partition.part(gradients, labels, label),
                opt_state[label],
            )
            return partition.join(params, moved), {**opt_state, label: new}

        result = update(
            UpdateInputs(
                params=params,
                model_state=model_state,
                opt_state=opt_state,
                gradients=_differentiator(
                    labels, params, batch, targets, seed, step, parts
                ),
                apply=apply,
                learning_rate=rates,
                step=step,
            )
        )
        metrics = {"loss": result.loss} | result.metrics
        metrics = {n: jnp.asarray(x, jnp.float32) for n, x in metrics.items()}
        return (result.params, result.model_state, result.opt_state), metrics

    data, targets = micros.data, micros.targets
    if parts == 1:
        data, targets = split_batch((data, targets), micros.size, mesh)
    stacked = (
        state.params,
        state.model_state,
        state.opt_state,
        *group.member_arrays(),
        dict(rates),
        _decays(group),
    )
    shared = (state.step, data, targets)
    moved, metrics = over_members(member, stacked, shared, loop=loop, mesh=mesh)
    params, model_state, opt_state = moved
    return Moved(params, model_state, opt_state, params, metrics["loss"]), metrics


def _differentiator(labels, whole, batch, targets, seed, step, parts: int) -> Callable:
    """Returns the ``Gradients`` of one member at one step."""
    structure: Any = jax.tree.structure(whole)

    def gradients(function, params, model_state, *, label=None, salt=0):
        fits = labels is not None and jax.tree.structure(params) == structure
        own = labels if fits else None
        trained = partition.part(params, own, label)

        def one(model_state, number, batch, targets):
            key = member_key(seed, step, number)
            key = jax.random.fold_in(key, salt) if salt else key

            def value(trained):
                joined = partition.join(params, trained) if own else trained
                inputs = LossInputs(
                    joined, model_state, None, batch, targets, key, step
                )
                loss = function(joined, inputs)
                return loss.value, loss

            grads, loss = jax.grad(value, has_aux=True)(trained)
            if own:
                zeros = jax.tree.map(jnp.zeros_like, params)
                grads = partition.join(zeros, grads)
            return grads, loss

        if parts == 1:
            return one(model_state, None, batch, targets)
        return _over_parts(one, model_state, batch, targets, parts)

    return gradients


def _over_parts(one: Callable, model_state: Any, batch: Any, targets: Any, parts: int):
    """Averages gradients, value and metrics; carries ``model_state`` along."""

    def body(model_state, inputs):
        grads, loss = one(model_state, *inputs)
        return loss.model_state, (grads, loss.value, loss.metrics)

    numbered = (jnp.arange(parts), batch, targets)
    model_state, found = jax.lax.scan(body, model_state, numbered)
    grads, value, metrics = jax.tree.map(lambda x: jnp.mean(x, axis=0), found)
    return grads, Loss(value, model_state, metrics)


def finish(
    group: Group, state: TrainState, moved: Moved, ema: float
) -> tuple[TrainState, jax.Array]:
    """Returns the next state, and which members' steps were not finite.

    Args:
      group: of members.
      state: before the step, stacked over members.
      moved: where the step would bring them.
      ema: decay of the moving average of the parameters.
    """
    training = state.step < group.per_member([s.steps for s in group.students])
    method = group.students[0].method

    def member(state, moved, training, step):
        params, model_state = moved.params, moved.model_state
        if method.after_step is not None:
            model_state = method.after_step(params, model_state, step)
        average = state.ema
        if average is not None:
            labels = partition.leaf_labels(method.trainable, params)
            average = optax.incremental_update(params, average, 1 - ema)
            # What does not move has no average: rounding would change it.
            average = partition.join(params, partition.part(average, labels, None))
        new = state.replace(
            params=params,
            model_state=model_state,
            opt_state=moved.opt_state,
            ema=average,
        )
        finite = _all_finite((moved.loss, moved.changes, moved.model_state))
        kept = training & finite
        kept_state = jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, state)
        return kept_state, training & ~finite

    # ``step`` is the one leaf without an axis over members.
    stacked = state.replace(step=jnp.zeros_like(training, jnp.int32))
    new, skipped = jax.vmap(member, in_axes=(0, 0, 0, None))(
        stacked, moved, training, state.step
    )
    return new.replace(step=state.step + 1), skipped


def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = jnp.stack([jnp.isfinite(x).all() for x in leaves])
    # ``all`` by sorting, because XLA's CPU compiler fuses a plain one, with all that
    # leads to it, into each of the arrays that are chosen by it: in large networks it
    # would copy millions of instructions.
    return jnp.sort(finite)[0]
