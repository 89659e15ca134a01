"""The jitted training call and evaluation of a study.

One call runs several steps. A step makes one view of the batch, evaluates each target
(such as a teacher's logits) once, and then every member's loss, gradient and update.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxkd.core import batches as batching
from jaxkd.core import partition, sharding
from jaxkd.core.gradients import (
    Gradient,
    Micro,
    group_gradients,
    metric_names,
    zero_metrics,
)
from jaxkd.core.members import over_members
from jaxkd.core.study import Group
from jaxkd.core.targets import collect_targets, evaluate_all, zeros_of
from jaxkd.core.types import Batch, Metrics, TrainState
from jaxkd.core.update import apply_gradients, finish, own_update

State = dict[str, TrainState]


class Settings(NamedTuple):
    """How a step is computed.

    Attributes:
      view: ``(key, batch) -> batch``, the augmentation.
      draw_seeds: the seed of each draw of a batch.
      accumulate: micro-batches per step.
      ema: decay of the moving average of the parameters, or 0.
      loop: "map" or "vmap", see ``over_members``.
      mesh: of the devices that members are spread over, or None.
    """

    view: Callable[[jax.Array, Batch], Batch]
    draw_seeds: tuple[int, ...]
    accumulate: int = 1
    ema: float = 0.0
    loop: str = "map"
    mesh: Mesh | None = None


def make_train_call(groups: Sequence[Group], settings: Settings) -> Callable:
    """Makes the function, to be jitted, that runs several steps.

    Returns:
      ``(state, frozen, table, batches, count) -> (state, metrics)``. ``batches`` has
      the inputs of at least ``count`` steps on a leading axis: under ``"lr"``, group ->
      label -> ``[steps, members]``; under ``"data"``, ``{"index": [steps, draws,
      batch]}`` into ``table`` or, with an empty table, the examples themselves; see
      ``jaxkd.core.batches``. ``metrics`` are means over the steps: group -> name ->
      ``[members]``. A member whose loss or update is not finite stays as it is for
      that step; ``skipped`` counts these steps, and no mean holds them.
    """
    step = _Step(tuple(groups), settings)
    draws = len(settings.draw_seeds)

    def call(state: State, frozen: Any, table: Batch, batches: Any, count: jax.Array):
        whole = batching.whole(table, draws)

        def inputs(index):
            now = jax.tree.map(lambda x: x[index], batches)
            return batching.look_up(table, now["data"], draws), now["lr"]

        def body(index, carry):
            state, sums = carry
            data, rates = inputs(index)
            state, metrics = step(state, (frozen, whole), data, rates, names)
            return state, jax.tree.map(jnp.add, sums, metrics)

        names = step.names(state, (frozen, whole), *inputs(0))
        zeros = {
            group.name: zero_metrics(
                (*names[group.name], "skipped"), len(group.members)
            )
            for group in groups
        }
        state, sums = jax.lax.fori_loop(0, count, body, (state, zeros))
        return state, {name: _means(one, count) for name, one in sums.items()}

    return call


class _Step:
    """One step of all groups."""

    def __init__(self, groups: tuple[Group, ...], settings: Settings):
        self.groups, self.settings = groups, settings
        self.plain = [g for g in groups if g.students[0].method.update is None]
        self.own = [g for g in groups if g.students[0].method.update is not None]
        self.targets = collect_targets(groups)
        self.last = max(s.steps for group in groups for s in group.students)

    def __call__(self, state: State, constants: Any, data: Batch, rates, names):
        """Returns the next state and the metrics of the step."""
        step = next(iter(state.values())).step
        settings = self.settings
        keys = batching.step_keys(settings.draw_seeds, step)
        data = batching.view(settings, keys, data)
        parts = settings.accumulate
        if parts == 1:
            whole = self._micro(state, constants, data, keys)
            results = self._gradients(state, whole, names)
        else:
            results = self._accumulate(state, constants, data, keys, names)
            if self.own:
                whole = self._all_parts(state, constants, data, keys)
        moved, measured = {}, {}
        for group in self.plain:
            name, gradient = group.name, results[group.name]
            moved[name] = apply_gradients(group, state[name], gradient, rates[name])
            measured[name] = gradient.metrics
        for group in self.own:
            name = group.name
            moved[name], measured[name] = own_update(
                group,
                state[name],
                whole,
                rates[name],
                parts=parts,
                loop=settings.loop,
                mesh=settings.mesh,
            )
        new, metrics = {}, {}
        for group in self.groups:
            name = group.name
            new[name], skipped = finish(group, state[name], moved[name], settings.ema)
            metrics[name] = {
                key: jnp.where(skipped, 0, value)
                for key, value in measured[name].items()
            } | {"skipped": skipped.astype(jnp.float32)}
        return new, metrics

    def names(self, state: State, constants: Any, data: Batch, rates):
        """Finds the names of all groups' metrics by tracing: group -> names."""
        found: dict[str, tuple[str, ...]] = {}

        def trace(state, constants, data, rates):
            keys = batching.step_keys(self.settings.draw_seeds, 0)
            data = batching.view(self.settings, keys, data)
            micro = self._micro(state, constants, data, keys)
            for group in self.plain:
                found[group.name] = metric_names(group, state[group.name], micro)
            for group in self.own:
                one = state[group.name], micro, rates[group.name]
                _, metrics = own_update(group, *one, parts=1, loop="map", mesh=None)
                found[group.name] = tuple(metrics)

        jax.eval_shape(trace, state, constants, data, rates)
        return found

    def _micro(self, state: State, constants, data: Batch, keys, number=None) -> Micro:
        """Evaluates the targets of a micro-batch."""
        frozen, whole = constants
        step = next(iter(state.values())).step
        size = jax.tree.leaves(data)[0].shape[1]
        data, known = batching.split_targets(data)
        targets = evaluate_all(self.targets, known, frozen, data, keys, step, self.last)
        return Micro(data | whole, targets, size, number)

    def _gradients(self, state: State, micro: Micro, names) -> dict[str, Gradient]:
        return {
            group.name: group_gradients(
                group,
                state[group.name],
                micro,
                names[group.name],
                loop=self.settings.loop,
                mesh=self.settings.mesh,
                last=self.last,
            )
            for group in self.plain
        }

    def _split(self, data: Batch) -> Batch:
        """Returns the micro-batches on a leading axis: ``[parts, draws, batch]``.

        Each lies on all devices: left where it is, a micro-batch would be on one or a
        few of them, which XLA mends by giving every device the whole.
        """
        parts, mesh = self.settings.accumulate, self.settings.mesh

        def split(x):
            draws, size = x.shape[:2]
            x = x.reshape(draws, parts, size // parts, *x.shape[2:])
            x = jnp.moveaxis(x, 1, 0)
            if mesh is None:
                return x
            return jax.lax.with_sharding_constraint(x, sharding.batch(mesh, axis=2))

        return jax.tree.map(split, data)

    def _accumulate(self, state: State, constants, data: Batch, keys, names):
        """Averages gradients and metrics; ``model_state`` is carried along."""
        parts = self.settings.accumulate

        def body(carry, inputs):
            model_state, sums = carry
            number, data = inputs
            now = state | {
                name: state[name].replace(model_state=one)
                for name, one in model_state.items()
            }
            micro_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
            micro = self._micro(now, constants, data, micro_keys, number)
            results = self._gradients(now, micro, names)
            model_state = {name: one.model_state for name, one in results.items()}
            new = {name: (one.params, one.metrics) for name, one in results.items()}
            return (model_state, jax.tree.map(jnp.add, sums, new)), None

        zeros = {
            group.name: (
                jax.tree.map(jnp.zeros_like, _trained(group, state[group.name])),
                zero_metrics(names[group.name], len(group.members)),
            )
            for group in self.plain
        }
        start = {g.name: state[g.name].model_state for g in self.plain}
        if not self.plain:
            return {}
        inputs = (jnp.arange(parts), self._split(data))
        (model_state, sums), _ = jax.lax.scan(body, (start, zeros), inputs)
        means = jax.tree.map(lambda x: x / parts, sums)
        return {
            name: Gradient(means[name][0], model_state[name], means[name][1])
            for name in sums
        }

    def _all_parts(self, state: State, constants, data: Batch, keys) -> Micro:
        """Evaluates the targets of all micro-batches, ``[parts, draws, batch]``."""
        parts = self.settings.accumulate

        def one(inputs):
            number, data = inputs
            micro_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
            micro = self._micro(state, constants, data, micro_keys)
            return micro.data, micro.targets

        size = jax.tree.leaves(data)[0].shape[1] // parts
        inputs = (jnp.arange(parts), self._split(data))
        examples, targets = jax.lax.map(one, inputs)
        return Micro(examples, targets, size)


def _trained(group: Group, state: TrainState) -> Any:
    labels = partition.leaf_labels(group.students[0].method.trainable, state.params)
    return partition.part(state.params, labels, None)


def make_evaluation(
    group: Group, view: Callable, loop: str = "map", mesh: Mesh | None = None
) -> Callable:
    """Makes the function, to be jitted, that evaluates a group's members on a batch.

    Returns:
      ``(params, extra, batch, training) -> Collection``, stacked over members; members
      whose flag in ``training`` is False are not evaluated.
    """
    method = group.students[0].method

    def evaluate(params: Any, model_state: Any, batch: Batch, training: jax.Array):
        batch = view(batch)

        def member(one, batch):
            params, model_state, training = one

            def compute():
                return method.evaluate(
                    method.predict(params, model_state, batch), batch
                )

            return jax.lax.cond(training, compute, lambda: zeros_of(compute))

        stacked = (params, model_state, training)
        return over_members(member, stacked, batch, loop=loop, mesh=mesh)

    return evaluate


def _means(sums: Metrics, count: jax.Array) -> Metrics:
    skipped = sums["skipped"]
    kept = jnp.maximum(count - skipped, 1)
    return {name: x / kept for name, x in sums.items()} | {"skipped": skipped}
