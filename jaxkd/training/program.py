"""The program of a run: its initial state, the layout of everything, the training call.

Nothing here computes; what is traced or compiled here is run by ``jaxkd.train`` and
only looked at by ``jaxkd.aot.plan``.
"""

import collections
import concurrent.futures
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import checkpoint, sharding, study
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.frozen import PerSeed, of_seed
from jaxkd.core.source import ArraySource
from jaxkd.core.step import make_train_call
from jaxkd.core.targets import collect_targets
from jaxkd.core.types import (
    MAIN,
    Best,
    FrozenNetwork,
    LossInputs,
    Method,
    TrainState,
    UpdateInputs,
)
from jaxkd.training.build import Run


def init(run: Run, frozen: Any) -> tuple[dict[str, TrainState], dict[str, Best]]:
    """Returns initial states and records of the best, by group; to be traced.

    Args:
      run: what to train.
      frozen: variables of the needed runs' networks, by name, and ``run.start``.
    """
    ema = run.config.ema > 0
    states = {group.name: study.init_group(group, frozen, ema) for group in run.groups}
    return states, {name: study.init_best(state) for name, state in states.items()}


def abstract_state(run: Run) -> tuple[dict[str, TrainState], dict[str, Best]]:
    """Returns the shapes, dtypes and shardings of what ``init`` returns."""
    frozen = abstract_frozen(run) | run.start
    shapes = jax.eval_shape(functools.partial(init, run), frozen)
    layout = sharding.state(run.mesh, shapes, run.config.sharding)
    return _laid_out(shapes, layout)


def abstract_frozen(run: Run) -> dict[str, Any]:
    """Returns the shapes of the needed runs' networks' variables, by name."""
    fields, key = run.spec.batch_shapes(1), jax.random.key(0)
    seeds = len(run.config.seeds)

    def shapes(one: FrozenNetwork) -> Any:
        single = jax.eval_shape(one.network.init, key, fields[one.input_key])
        if not one.per_seed:
            return single
        return PerSeed(
            jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((seeds, *x.shape), x.dtype), single
            )
        )

    return {name: shapes(one) for name, one in run.frozen.items()}


def checkpoint_record(
    run: Run,
    *,
    step: int,
    elapsed: float,
    frozen: Mapping[str, str],
    accumulator: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the record that stands beside the arrays of a run's checkpoint.

    Args:
      run: that was trained.
      step: up to which.
      elapsed: seconds that this took.
      frozen: hashes of the needed runs' networks, by name.
      accumulator: the metrics since the last record, of ``MetricAccumulator.to_json``.
    """
    return {
        "step": step,
        "elapsed": elapsed,
        "members": checkpoint.member_table(run.groups),
        "frozen": dict(frozen),
        "config": configs.resolved(run.config),
        "accumulator": dict(accumulator),
    }


def train_call(run: Run, state: dict[str, TrainState]) -> Any:
    """Returns the jitted training call (see ``core.step.make_train_call``).

    Args:
      run: what to train.
      state: as the call will be given it, or its shapes and shardings.
    """
    layout = jax.tree.map(lambda x: x.sharding, state)
    call = make_train_call(run.groups, run.settings)
    outputs = (layout, sharding.replicated(run.mesh))
    return jax.jit(call, donate_argnums=0, out_shardings=outputs)


class CompilingCall:
    """The training call, compiled on a thread while others train or are loaded.

    Compiling takes as long as hundreds of steps of a small network, and needs shapes
    alone. What is compiled is found again by the call itself, because it is the same
    jitted function with arguments of the same shapes and layout.
    """

    def __init__(self, run: Run, state: dict[str, TrainState]):
        """Begins to compile.

        Args:
          run: what to train.
          state: see ``train_call``.
        """
        self._call = train_call(run, state)
        self._work: concurrent.futures.Future | None = None
        # Several processes have to compile in one order.
        if jax.process_count() == 1:
            pool = concurrent.futures.ThreadPoolExecutor(1, "compile")
            self._work = pool.submit(self._compile, run)
            pool.shutdown(wait=False)

    def _compile(self, run: Run) -> None:
        self._call.lower(*abstract_inputs(run)).compile()

    def get(self) -> Any:
        """Waits until it is compiled, and returns the call; raises what went wrong."""
        if self._work is not None:
            self._work.result()
        return self._call


def abstract_inputs(run: Run) -> tuple[Any, ...]:
    """Returns the training call's arguments as shapes, dtypes and shardings."""
    state, _ = abstract_state(run)
    replicated = sharding.replicated(run.mesh)
    frozen = abstract_frozen(run)
    draws, batch = len(run.draws), run.config.batch_size
    in_memory = all(isinstance(draw, ArraySource) for draw in run.draws)
    steps = run.config.steps_per_call if in_memory else 1
    example = run.dataset.example(run.draws[0])
    if in_memory:
        table = _examples((draws * len(run.draws[0]),), example)
        data = _table_rows(run, (steps, draws, batch))
    else:
        table, data = {}, _examples((steps, draws, batch), example)
    rates = {
        group.name: {
            label: jax.ShapeDtypeStruct((steps, len(group.members)), np.float32)
            for label in group.students[0].optimizers
        }
        for group in run.groups
    }
    batches = {
        "data": _laid_out(data, sharding.batch(run.mesh, axis=2)),
        "lr": _laid_out(rates, replicated),
    }
    frozen, table = _laid_out(frozen, replicated), _laid_out(table, replicated)
    return state, frozen, table, batches, steps


def _table_rows(run: Run, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Returns what batches say of rows in a table, ``[steps, draws, batch]``."""
    rows = jax.ShapeDtypeStruct(shape, np.int32)
    data: dict[str, Any] = {"index": rows}
    if run.config.targets.visits:
        data["visit"] = rows
    if run.config.targets.cache:
        classes = run.dataset.info.num_classes
        logits = jax.ShapeDtypeStruct((*shape, classes), np.float32)
        names = collect_targets(run.groups)
        data["targets"] = {name: {"logits": logits} for name in names}
    return data


def _examples(leading: tuple[int, ...], example: dict[str, Any]) -> dict[str, Any]:
    return {
        name: jax.ShapeDtypeStruct((*leading, *one.shape), one.dtype)
        for name, one in example.items()
    }


def _laid_out(shapes: Any, layout: Any) -> Any:
    """Joins shapes with shardings, or with one for all."""
    if isinstance(layout, jax.sharding.Sharding):
        layout = jax.tree.map(lambda _: layout, shapes)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, layout
    )


def check_losses(run: Run) -> None:
    """Traces every student's loss: mistakes show before minutes of compiling.

    Raises:
      UserError: naming the student whose network or loss cannot be computed.
    """
    batch = run.spec.batch_shapes(run.config.batch_size)
    frozen = abstract_frozen(run) | run.start
    for student in run.students:
        try:
            jax.eval_shape(
                functools.partial(trace_loss, run, student.method), batch, frozen
            )
        except KeyError as error:
            if not run.config.targets.cache:
                raise
            raise UserError(
                f"The student {student.name!r} looks at the teacher's {error}, but "
                "cached targets are logits alone. Set config.targets.cache = False."
            ) from error
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The student {student.name!r} cannot be trained as configured: {error}"
            ) from error


def trace_loss(run: Run, method: Method, batch: Any, frozen: Any) -> jax.Array:
    """Returns a student's loss on a batch, from its initial state; to be traced."""
    key = jax.random.key(0)
    frozen = of_seed(frozen, 0)
    params, model_state = method.init(key)
    if method.warm_start:
        params, model_state = method.warm_start(params, model_state, frozen)
    targets = {name: f(frozen, batch, key) for name, f in method.targets.items()}
    if run.config.targets.cache:
        targets = {name: {"logits": one["logits"]} for name, one in targets.items()}
    step = jnp.zeros((), jnp.int32)
    if method.update is not None:
        return _trace_update(method, params, model_state, batch, targets, key, step)
    outputs, model_state = method.forward(params, model_state, batch, key)
    inputs = LossInputs(params, model_state, outputs, batch, targets, key, step)
    return method.loss(inputs).value


def _trace_update(method: Method, params, model_state, batch, targets, key, step):
    """Traces a method's own step, with gradients of the right shapes."""
    assert method.update is not None

    def gradients(function, params, model_state, *, label=None, salt=0):
        del label, salt
        inputs = LossInputs(params, model_state, None, batch, targets, key, step)
        return params, function(params, inputs)

    def apply(params, gradients, opt_state, *, label=MAIN):
        del gradients, label
        return params, opt_state

    rates: Any = collections.defaultdict(lambda: jnp.zeros(()))
    return method.update(
        UpdateInputs(params, model_state, (), gradients, apply, rates, step)
    ).loss
