"""The one train loop: needed runs first, then all students of the study together."""

import functools
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxkd import outcome
from jaxkd import workdir as workdirs
from jaxkd.build import Run, build, source_config
from jaxkd.core import checkpoint, sharding, step, study
from jaxkd.core import config as configs
from jaxkd.core.cadence import Cadence
from jaxkd.core.checkpoint import Checkpoints
from jaxkd.core.errors import UserError
from jaxkd.core.types import Best, Method, TrainState
from jaxkd.core.writers import Progress, Writer, truncate
from jaxkd.evaluate import Evaluator
from jaxkd.inputs import make_inputs
from jaxkd.outcome import Frozen


class Position(NamedTuple):
    """Where a run stands: what a checkpoint holds."""

    state: dict[str, TrainState]
    best: dict[str, Best]
    step: int
    elapsed: float


def train(config: ConfigDict, workdir: str | Path) -> dict[str, Any]:
    """Trains what a configuration describes, or resumes, or returns what is there.

    Needed runs are trained first, each in its own folder below ``workdir``, exactly as
    if they had been started by hand. Running the same configuration again continues
    after the newest checkpoint; a finished run is only read.

    Args:
      config: see ``jaxkd.core.config``.
      workdir: folder of the run.

    Returns:
      The content of ``results.json``.

    Raises:
      UserError: for whatever the user can mend.
    """
    workdir = Path(workdir)
    configs.check(config)
    finished = workdirs.claim(workdir, config)
    if finished is not None:
        return finished
    run = build(config)
    _check_losses(run)
    workdirs.open_for(workdir, config)
    _announce(run, workdir)
    frozen = {name: _need(run, name, workdir) for name in config.needs}
    end = _train_loop(run, frozen, workdir)
    return outcome.record(run, frozen, end, workdir)


def _announce(run: Run, workdir: Path) -> None:
    if jax.process_index() == 0:
        students, seeds = len(run.students), len(run.config.seeds)
        print(
            f"{run.config.name}: students x seeds: {students} x {seeds}; {run.steps:,} "
            f"steps of {run.config.batch_size} images from {len(run.draws[0]):,}; "
            f"{jax.default_backend()} devices: {run.mesh.size}; in {workdir}",
            file=sys.stderr,
            flush=True,
        )


def _need(run: Run, name: str, workdir: Path) -> Frozen:
    """Trains or loads a needed run and lays its network out over the devices."""
    need = run.config.needs[name]
    if need.init_from:
        source = recorded = Path(need.init_from)
    else:
        source, recorded = workdir / name, Path(name)
        train(configs.alone(need), source)
    variables = checkpoint.load_member(source / "checkpoints", "last")
    wanted = _abstract_variables(run, run.frozen[name])
    checkpoint.compare(str(source), variables, wanted)
    return Frozen(
        network=run.frozen[name],
        variables=sharding.put(variables, sharding.replicated(run.mesh)),
        hash=checkpoint.content_hash(variables),
        source=source,
        recorded=str(recorded),
        model=source_config(need).model.name,
    )


def _abstract_variables(run: Run, network: Any) -> Any:
    image = jnp.zeros((1, *run.dataset.info.image_shape))
    return jax.eval_shape(network.init, jax.random.key(0), image)


def _make_call(run: Run) -> Any:
    settings = step.Settings(
        view=run.view.train,
        draw_seeds=run.draw_seeds,
        strong=run.view.strong,
        accumulate=run.config.accumulate,
        ema=run.config.ema,
        loop=run.config.study_loop,
        mesh=run.mesh,
    )
    return step.make_train_call(run.groups, settings)


def _compile(run: Run, state: dict[str, TrainState]) -> Any:
    layout = jax.tree.map(lambda x: x.sharding, state)
    outputs = (layout, sharding.replicated(run.mesh))
    return jax.jit(_make_call(run), donate_argnums=0, out_shardings=outputs)


def _init(run: Run) -> tuple[dict[str, TrainState], dict[str, Best]]:
    """Returns initial states and records of the best, by group; to be traced."""
    ema = run.config.ema > 0
    states = {group.name: study.init_group(group, ema) for group in run.groups}
    return states, {name: study.init_best(state) for name, state in states.items()}


def _check_losses(run: Run) -> None:
    """Traces every student's loss: mistakes show before minutes of compiling.

    Raises:
      UserError: naming the student whose network or loss cannot be computed.
    """
    batch = run.spec.batch_shapes(run.config.batch_size)
    frozen = {name: _abstract_variables(run, one) for name, one in run.frozen.items()}
    for student in run.students:
        try:
            jax.eval_shape(
                functools.partial(_trace_loss, student.method), batch, frozen
            )
        except (TypeError, ValueError) as error:
            raise UserError(
                f"The student {student.name!r} cannot be trained as configured: {error}"
            ) from error


def _trace_loss(method: Method, batch: Any, frozen: Any) -> jax.Array:
    key = jax.random.key(0)
    params, extra = method.init(key)
    targets = {name: f(frozen, batch, key) for name, f in method.targets.items()}
    outputs, extra = method.forward(params, extra, batch, key)
    step = jnp.zeros((), jnp.int32)
    return method.loss(params, extra, outputs, batch, targets, key, step)[0]


def _start(run: Run, checkpoints: Checkpoints, hashes: dict[str, str]) -> Position:
    """Initialises the state, or restores the newest checkpoint."""
    init = functools.partial(_init, run)
    abstract = jax.eval_shape(init)
    shardings = sharding.state(run.mesh, abstract)
    checkpoint.check_space(checkpoints.directory, abstract)
    if checkpoints.latest() is None:
        # Drawing weights is quick; optimising the program that does it on CPU is not.
        on_cpu = jax.default_backend() == "cpu"
        options = {"xla_backend_optimization_level": 0} if on_cpu else None
        make = jax.jit(init, out_shardings=shardings, compiler_options=options)
        state, best = make()
        return Position(state, best, 0, 0.0)
    wanted = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        shardings,
    )
    state, best, meta = checkpoints.restore(*wanted)
    checkpoint.check_members(checkpoints.directory, meta, run.groups)
    if meta["frozen"] != hashes:
        raise UserError(
            f"{checkpoints.directory} was trained with other frozen networks: their "
            f"hashes were {meta['frozen']} and are now {hashes}. Bring back the old "
            "ones, or choose another --workdir."
        )
    return Position(state, best, meta["step"], meta["elapsed"])


def _train_loop(run: Run, frozen: Mapping[str, Frozen], workdir: Path) -> outcome.End:
    """Trains to the end and returns the last evaluation and each member's best."""
    writes = jax.process_index() == 0
    hashes = {name: one.hash for name, one in frozen.items()}
    with Checkpoints(workdir / "checkpoints", run.config.keep) as checkpoints:
        position = _start(run, checkpoints, hashes)
        if writes:
            truncate(workdir, position.step)
        with Writer(workdir, enabled=writes) as writer:
            position, last = _loop(run, frozen, position, checkpoints, writer)
        checkpoints.wait()
    best = {name: (one.score, one.step) for name, one in position.best.items()}
    best = sharding.fetch(best, run.mesh)
    return outcome.End(last, best, position.elapsed)


def _loop(
    run: Run,
    frozen: Mapping[str, Frozen],
    position: Position,
    checkpoints: Checkpoints,
    writer: Writer,
) -> tuple[Position, Any]:
    state, best, now, elapsed = position
    began = time.monotonic() - elapsed
    cadence, means, evaluator = _cadence(run), Means(), Evaluator(run)
    variables = {name: one.variables for name, one in frozen.items()}
    inputs = make_inputs(run, now)
    call = _compile(run, state)
    progress = _progress(run, now)
    last = (
        _evaluate(evaluator, state, _still_training(run, now))
        if now == run.steps
        else {}
    )
    for stop in cadence.stops(now, inputs.steps_per_call):
        batches = inputs.next(now, stop - now)
        state, metrics = call(state, variables, inputs.table, batches, stop - now)
        means.add(metrics, stop - now)
        progress.update(stop)
        if cadence.logs(stop):
            scalars = outcome.scalars(run.groups, means.take(), "train", now)
            outcome.check_finite(scalars, stop, checkpoints.latest())
            writer.write_scalars(stop, scalars)
        if cadence.evaluates(stop):
            training = _still_training(run, stop)
            last = _evaluate(evaluator, state, training)
            best = _update_best(best, state, last, training)
            writer.write_scalars(
                stop, outcome.scalars(run.groups, last, "test", stop - 1)
            )
        if cadence.saves(stop):
            elapsed = time.monotonic() - began
            checkpoints.save(stop, state, best, _meta(run, frozen, stop, elapsed))
        now = stop
    progress.close()
    return Position(state, best, now, time.monotonic() - began), last


class Means:
    """Running means of the training metrics, kept on the devices."""

    def __init__(self) -> None:
        self._sums: Any = None
        self._steps = 0
        self._newest: Any = None

    def add(self, metrics: Any, steps: int) -> None:
        """Adds the means over some steps.

        Waits for the call before this one, so that at most two are under way: the
        devices always have work, and progress is not reported far ahead of them.
        """
        jax.block_until_ready(self._newest)
        self._newest = metrics
        sums = jax.tree.map(lambda x: x * steps, metrics)
        if self._sums is not None:
            sums = jax.tree.map(jnp.add, self._sums, sums)
        self._sums, self._steps = sums, self._steps + steps

    def take(self) -> Any:
        """Returns the means on the host, and starts again."""
        means = jax.tree.map(lambda x: x / self._steps, jax.device_get(self._sums))
        self._sums, self._steps = None, 0
        return means


def _cadence(run: Run) -> Cadence:
    return Cadence(
        total=run.steps,
        log=max(run.steps // 100, 1),
        evaluate=run.in_steps(run.config.eval_every),
        save=run.in_steps(run.config.checkpoint_every),
        ends=tuple(student.steps for student in run.students),
    )


def _progress(run: Run, now: int) -> Progress:
    images = run.config.batch_size * len(run.draws)
    enabled = jax.process_index() == 0
    return Progress(run.steps, now, run.config.name, images, enabled=enabled)


def _still_training(run: Run, step: int) -> dict[str, np.ndarray]:
    """Returns which members have not ended before ``step``; at the very end, all."""
    return {
        group.name: group.per_member([s.steps for s in group.students]) >= step
        if step < run.steps
        else np.ones(len(group.members), bool)
        for group in run.groups
    }


def _evaluate(evaluator: Evaluator, state: Any, training: Any) -> Any:
    params = {name: one.eval_params for name, one in state.items()}
    extra = {name: one.extra for name, one in state.items()}
    return evaluator(params, extra, training)


@functools.partial(jax.jit, donate_argnums=0)
def _update_best(best: Any, state: Any, last: Any, training: Any) -> Any:
    return {
        name: study.update_best(
            best[name], state[name], last[name]["top1"], training[name]
        )
        for name in best
    }


def _meta(run: Run, frozen: Mapping[str, Frozen], step_: int, elapsed: float) -> Any:
    return {
        "step": step_,
        "elapsed": elapsed,
        "members": checkpoint.member_table(run.groups),
        "frozen": {name: one.hash for name, one in frozen.items()},
    }
