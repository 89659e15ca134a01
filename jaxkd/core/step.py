"""The jitted training call and evaluation of a study.

One call runs several steps. A step makes one view of the batch, evaluates each target
(such as a teacher's logits) once, and then every member's loss, gradient and update.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxkd.core import batches as batching
from jaxkd.core.frozen import any_per_seed, of_seed
from jaxkd.core.members import over_members, split_batch
from jaxkd.core.study import Group
from jaxkd.core.types import Batch, Metrics, TrainState

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


class Target(NamedTuple):
    """What students need from frozen networks, and until which step they need it."""

    function: Callable[[Any, Batch, jax.Array], Any]
    until: int


def collect_targets(groups: Sequence[Group]) -> dict[str, Target]:
    """Merges the targets of all students, so that each is evaluated once a batch.

    Raises:
      ValueError: if two students mean different functions by one name.
    """
    merged: dict[str, Target] = {}
    for group in groups:
        for student in group.students:
            for name, function in student.method.targets.items():
                known = merged.get(name, Target(function, 0))
                if known.function is not function:
                    raise ValueError(
                        f"Student {student.name!r} defines the target {name!r} "
                        "differently from another student of the study."
                    )
                merged[name] = Target(function, max(known.until, student.steps))
    return merged


def make_train_call(groups: Sequence[Group], settings: Settings) -> Callable:
    """Makes the function, to be jitted, that runs several steps.

    Returns:
      ``(state, frozen, table, batches, count) -> (state, metrics)``. ``batches`` has
      the inputs of at least ``count`` steps on a leading axis: under ``"lr"``, group ->
      ``[steps, members]``; under ``"data"``, ``{"index": [steps, draws, batch]}`` into
      ``table`` or, with an empty table, the examples themselves; see
      ``jaxkd.core.batches``. ``metrics`` are means over the steps: group -> name ->
      ``[members]``. A member whose loss or update is not finite stays as it is for
      that step; ``skipped`` counts these steps, and no mean holds them.
    """
    targets = collect_targets(groups)
    last = max(student.steps for group in groups for student in group.students)

    def gradients(state: State, frozen: Any, whole: Batch, data: Batch, keys):
        step = next(iter(state.values())).step
        data, known = batching.split_targets(data)
        shared = {
            name: known[name]
            if name in known
            else _evaluate_target(target, frozen, data, keys, step, last)
            for name, target in targets.items()
        }
        return {
            group.name: _group_gradients(
                group, state[group.name], data | whole, shared, settings, last
            )
            for group in groups
        }

    def train_step(state: State, constants: Any, data: Batch, lr):
        step = next(iter(state.values())).step
        keys = batching.step_keys(settings.draw_seeds, step)
        data = batching.view(settings, keys, data)
        results = _accumulate(
            gradients, groups, settings.accumulate, state, constants, data, keys
        )
        new, metrics = {}, {}
        for group in groups:
            name = group.name
            grads, extra, measured = results[name]
            new[name], skipped = _update(
                group, state[name], (grads, extra), measured, lr[name], settings.ema
            )
            metrics[name] = {
                key: jnp.where(skipped, 0, value) for key, value in measured.items()
            } | {"skipped": skipped.astype(jnp.float32)}
        return new, metrics

    def call(state: State, frozen: Any, table: Batch, batches: Any, count: jax.Array):
        whole = batching.whole(table, len(settings.draw_seeds))

        def body(index, carry):
            state, sums = carry
            now = jax.tree.map(lambda x: x[index], batches)
            data = batching.look_up(table, now["data"], len(settings.draw_seeds))
            state, metrics = train_step(state, (frozen, whole), data, now["lr"])
            return state, jax.tree.map(jnp.add, sums, metrics)

        members = {group.name: len(group.members) for group in groups}
        zeros = {
            group.name: _no_metrics(group, members[group.name])
            | {"skipped": jnp.zeros(members[group.name])}
            for group in groups
        }
        state, sums = jax.lax.fori_loop(0, count, body, (state, zeros))
        return state, {name: _means(one, count) for name, one in sums.items()}

    return call


def make_evaluation(
    group: Group, view: Callable, loop: str = "map", mesh: Mesh | None = None
) -> Callable:
    """Makes the function, to be jitted, that evaluates a group's members on a batch.

    Returns:
      ``(params, extra, batch, training) -> Collection``, stacked over members; members
      whose flag in ``training`` is False are not evaluated.
    """
    method = group.students[0].method

    def evaluate(params: Any, extra: Any, batch: Batch, training: jax.Array):
        batch = view(batch)

        def member(one, batch):
            params, extra, training = one

            def compute():
                return method.evaluate(method.predict(params, extra, batch), batch)

            return jax.lax.cond(training, compute, lambda: _zeros_of(compute))

        stacked = (params, extra, training)
        return over_members(member, stacked, batch, loop=loop, mesh=mesh)

    return evaluate


def evaluate_target(function: Callable, frozen: Any, data: Batch, keys: jax.Array):
    """Evaluates a target on ``[draws, batch]``, rounded alike in every program.

    Nothing around it is fused with it.
    """
    frozen, *by_draw = jax.lax.optimization_barrier((frozen, data, keys))
    if any_per_seed(frozen):
        # In turn, because side by side their convolutions would be grouped ones.
        result = jax.lax.map(
            lambda one: function(of_seed(frozen, one[0]), *one[1:]),
            (jnp.arange(len(keys)), *by_draw),
        )
    else:
        result = jax.vmap(function, in_axes=(None, 0, 0))(frozen, *by_draw)
    return jax.lax.optimization_barrier(result)


def _evaluate_target(target: Target, frozen, data, keys, step, last):
    def compute():
        return evaluate_target(target.function, frozen, data, keys)

    if target.until >= last:
        return compute()
    return jax.lax.cond(step < target.until, compute, lambda: _zeros_of(compute))


def _group_gradients(group: Group, state: TrainState, data, targets, settings, last):
    """Returns gradients, extra and metrics of all members, stacked."""
    training = state.step < group.per_member([s.steps for s in group.students])
    always = all(student.steps == last for student in group.students)

    def member(one, shared):
        params, extra, student, draw, seed, training = one
        step, *by_draw = shared

        def compute():
            batch, mine = jax.tree.map(lambda x: x[draw], by_draw)
            key = jax.random.fold_in(jax.random.key(seed), 2)
            inputs = (batch, mine, jax.random.fold_in(key, step), step)

            def loss(params):
                return _member_loss(group, params, extra, student, inputs)

            grads, (changed, metrics) = jax.grad(loss, has_aux=True)(params)
            return grads, changed, metrics

        def skip():
            return jax.tree.map(jnp.zeros_like, params), extra, _no_metrics(group)

        return compute() if always else jax.lax.cond(training, compute, skip)

    stacked = (
        state.params,
        state.extra,
        jnp.asarray(group.student_index),
        jnp.asarray(group.draw_index),
        jnp.asarray(group.member_seeds),
        training,
    )
    batch = len(data["label"][0])
    shared = (state.step, *split_batch((data, targets), batch, settings.mesh))
    return over_members(member, stacked, shared, loop=settings.loop, mesh=settings.mesh)


def _member_loss(group: Group, params, extra, student: jax.Array, inputs):
    batch, _, key, _ = inputs
    outputs, extra = group.students[0].method.forward(params, extra, batch, key)
    arguments = (params, extra, outputs, *inputs)

    def head(method):
        def run(arguments):
            total, aux = method.loss(*arguments)
            metrics = {"loss": total} | {n: aux.metrics[n] for n in method.metrics}
            # All branches of the switch have to return the same names; what a student
            # does not measure is not a number.
            return total, aux._replace(
                metrics={
                    name: jnp.asarray(metrics.get(name, jnp.nan), jnp.float32)
                    for name in _metric_names(group)
                }
            )

        return run

    heads = [head(student.method) for student in group.students]
    return jax.lax.switch(student, heads, arguments)


def _metric_names(group: Group) -> list[str]:
    names = {name for student in group.students for name in student.method.metrics}
    return ["loss", *sorted(names)]


def _no_metrics(group: Group, *shape: int) -> Metrics:
    return {name: jnp.zeros(shape, jnp.float32) for name in _metric_names(group)}


def _means(sums: Metrics, count: jax.Array) -> Metrics:
    skipped = sums["skipped"]
    kept = jnp.maximum(count - skipped, 1)
    return {name: x / kept for name, x in sums.items()} | {"skipped": skipped}


def _zeros_of(compute: Callable[[], Any]) -> Any:
    """Returns zeros in the shapes of what ``compute`` would return."""
    shapes = jax.eval_shape(compute)
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _accumulate(gradients, groups, parts: int, state: State, constants, data, keys):
    """Averages gradients and metrics over micro-batches; ``extra`` is carried along."""
    if parts == 1:
        return gradients(state, *constants, data, keys)

    def split(x):
        draws, size = x.shape[:2]
        x = x.reshape(draws, parts, size // parts, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def body(carry, inputs):
        index, micro = inputs
        extra, sums = carry
        now = {name: one.replace(extra=extra[name]) for name, one in state.items()}
        micro_keys = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, index)
        results = gradients(now, *constants, micro, micro_keys)
        extra = {name: result[1] for name, result in results.items()}
        new = {name: (result[0], result[2]) for name, result in results.items()}
        return (extra, jax.tree.map(jnp.add, sums, new)), None

    zeros = {
        group.name: (
            jax.tree.map(jnp.zeros_like, state[group.name].params),
            _no_metrics(group, len(group.members)),
        )
        for group in groups
    }
    extra = {name: one.extra for name, one in state.items()}
    inputs = (jnp.arange(parts), jax.tree.map(split, data))
    (extra, sums), _ = jax.lax.scan(body, (extra, zeros), inputs)
    means = jax.tree.map(lambda x: x / parts, sums)
    return {name: (means[name][0], extra[name], means[name][1]) for name in sums}


def _update(group: Group, state: TrainState, changes, metrics: Metrics, lr, ema):
    """Returns the next state, and which members' steps were not finite."""
    training = state.step < group.per_member([s.steps for s in group.students])
    decays = group.per_member([s.weight_decay for s in group.students])
    optimizer = group.students[0].optimizer

    def member(state, changes, loss, lr, decay, training):
        gradients, extra = changes
        updates, opt_state = optimizer(lr, decay).update(
            gradients, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        average = state.ema
        if average is not None:
            average = optax.incremental_update(params, average, 1 - ema)
        new = state.replace(
            params=params, extra=extra, opt_state=opt_state, ema=average
        )
        finite = _all_finite((loss, updates, extra))
        moved = training & finite
        kept = jax.tree.map(lambda a, b: jnp.where(moved, a, b), new, state)
        return kept, training & ~finite

    # ``step`` is the one leaf without an axis over members.
    stacked = state.replace(step=jnp.zeros_like(training, jnp.int32))
    new, skipped = jax.vmap(member)(
        stacked,
        changes,
        metrics["loss"],
        lr,
        jnp.asarray(decays, jnp.float32),
        training,
    )
    return new.replace(step=state.step + 1), skipped


def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = jnp.stack([jnp.isfinite(x).all() for x in leaves])
    # ``all`` by sorting, because XLA's CPU compiler fuses a plain one, with all that
    # leads to it, into each of the arrays that are chosen by it: in large networks it
    # would copy millions of instructions.
    return jnp.sort(finite)[0]
