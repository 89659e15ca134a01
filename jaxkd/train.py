"""The one train loop: needed runs first, then all students of the study together."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core import checkpoint, checkpoint_saving, console, sharding, study, writers
from jaxkd.core import config as configs
from jaxkd.core.cadence import Cadence
from jaxkd.core.checkpoint_saving import Checkpoints
from jaxkd.core.errors import Interrupted, UserError
from jaxkd.core.metric_accumulator import MetricAccumulator
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.core.types import Best, TrainState
from jaxkd.core.writers import Writer, truncate
from jaxkd.evaluate import Evaluator
from jaxkd.training import (
    evaluation,
    growth,
    needs,
    options,
    preprocessing,
    program,
    reads,
    results,
    same_data,
    target_cache,
    teachers,
    workdir_lock,
)
from jaxkd.training import workdir as workdirs
from jaxkd.training.build import Run, build
from jaxkd.training.display import Display
from jaxkd.training.input_pipeline import make_inputs
from jaxkd.training.needs import Known, LoadedNetwork


class Position(NamedTuple):
    """Where a run stands: what a checkpoint holds."""

    state: dict[str, TrainState]
    best: dict[str, Best]
    step: int
    elapsed: float
    accumulator: MetricAccumulator


def train(
    config: ConfigDict,
    workdir: str | Path,
    stop_requested: StopRequest = never_stop,
    known: Known | None = None,
    draw: Callable[[Path], None] = results.draw,
) -> dict[str, Any]:
    """Trains what a configuration describes, or resumes, or returns what is there.

    Needed runs are trained first, each in its own folder below ``workdir``, exactly as
    if they had been started by hand; one that several runs need is trained once.
    Running the same configuration again continues after the newest checkpoint; a
    finished run is only read.

    Args:
      config: see ``jaxkd.core.config``.
      workdir: folder of the run.
      stop_requested: called at each step boundary; returns who requests the run to
        stop, or None. See ``jaxkd.core.preemption.catch_signals``.
      known: runs that were trained for a run that needs this one.
      draw: draws the report of the finished run; for a needed run, in a thread beside
        the training that follows.

    Returns:
      The content of ``results.json``.

    Raises:
      UserError: for whatever the user can mend.
      Interrupted: if it was requested to stop, after saving.
    """
    workdir = Path(workdir)
    configs.check(config)
    change = growth.plan(workdir, config)
    finished = None if change else workdirs.check_resumable(workdir, config)
    if finished is not None:
        return _whole(workdir, finished)
    writers.check(config.writers)
    workdir_lock.check_free(workdir)
    options.check(config)
    chosen = options.resolved(config)
    if not (change and (change.vacant or change.moved)):
        workdirs.check_defaults(workdir, chosen)
    for line in options.unfinished(config):
        console.announce(line)
    run = build(config, workdir=workdir)
    target_cache.check(run)
    reads.check(run)
    program.check_losses(run)
    expected = program.abstract_state(run)  # which checks config.sharding, too
    with workdir_lock.locked(workdir), _beside(results.draw) as draw_needed:

        def train_needed(config: ConfigDict, workdir: Path, known: Known) -> Any:
            return train(config, workdir, stop_requested, known, draw_needed)

        known = Known() if known is None else known
        # Who held the lock before may have finished, or begun something else.
        if change := growth.plan(workdir, config):
            growth.grow(run, change, workdir, train_needed, known)
        finished = workdirs.check_resumable(workdir, config)
        if finished is not None:
            return finished
        workdirs.create(workdir, config, chosen)
        if jax.process_index() == 0:
            record = preprocessing.describe(run.dataset.info, config.view)
            preprocessing.write(workdir, record)
        same_data.record(run, workdir)
        _announce(run, workdir)
        call = None
        if growth.latest_step(workdir) != run.steps:  # else there is nothing to train
            call = program.CompilingCall(run, expected[0])
        frozen = needs.load_all(run, workdir, train_needed, known)
        measured = teachers.measure(run, frozen)
        teachers.check(run, measured)
        end = _train_loop(run, frozen, expected, workdir, stop_requested, call)
        written = results.write_results(run, frozen, measured, end, workdir)
        draw(workdir)
        return written


@contextmanager
def _beside(function: Callable[[Path], None]) -> Iterator[Callable[[Path], None]]:
    """Yields a function whose calls run one by one in a thread.

    Leaving waits for them, and raises what one of them raised.
    """
    calls: list[futures.Future[None]] = []
    with futures.ThreadPoolExecutor(1) as pool:
        yield lambda path: calls.append(pool.submit(function, path))
    for call in calls:
        call.result()


def _whole(workdir: Path, finished: dict[str, Any]) -> dict[str, Any]:
    """Returns a finished run's results, after drawing a report that it has lost."""
    if not results.is_whole(workdir):
        with workdir_lock.locked(workdir):
            results.draw(workdir)
    return finished


def _announce(run: Run, workdir: Path) -> None:
    students, seeds = len(run.students), len(run.config.seeds)
    console.announce(
        f"{run.config.name}: students x seeds: {students} x {seeds}; {run.steps:,} "
        f"steps of {run.config.batch_size} images from {len(run.draws[0]):,}; "
        f"{jax.default_backend()} devices: {run.mesh.size}; in {workdir}"
    )
    for line in [*run.notes(), *reads.notes(run)]:
        console.announce(line)


def _start(
    run: Run,
    checkpoints: Checkpoints,
    frozen: Mapping[str, LoadedNetwork],
    expected: Any,
) -> Position:
    """Initialises a state like ``expected``, or restores the newest checkpoint."""
    init = functools.partial(program.init, run)
    hashes = {name: one.hash for name, one in frozen.items()}
    checkpoint_saving.check_space(checkpoints.directory, expected)
    checkpoints.set_aside_damaged()
    if checkpoints.latest() is None:
        # Drawing weights is quick; optimising the program that does it on CPU is not.
        on_cpu = jax.default_backend() == "cpu"
        options = {"xla_backend_optimization_level": 0} if on_cpu else None
        layout = jax.tree.map(lambda x: x.sharding, expected)
        make = jax.jit(init, out_shardings=layout, compiler_options=options)
        variables = {name: one.variables for name, one in frozen.items()}
        state, best = make(variables | run.start)
        return Position(state, best, 0, 0.0, MetricAccumulator())
    state, best, meta = checkpoints.restore(*expected)
    checkpoint.check_members(checkpoints.directory, meta, run.groups)
    if meta["frozen"] != hashes:
        raise UserError(
            f"{checkpoints.directory} was trained with other frozen networks: their "
            f"hashes were {meta['frozen']} and are now {hashes}. Bring back the old "
            "ones, or choose another --workdir."
        )
    accumulator = MetricAccumulator(meta.get("accumulator"))
    return Position(state, best, meta["step"], meta["elapsed"], accumulator)


def _train_loop(
    run: Run,
    frozen: Mapping[str, LoadedNetwork],
    expected: Any,
    workdir: Path,
    stop_requested: StopRequest,
    call: program.CompilingCall | None,
) -> results.TrainingEnd:
    """Trains to the end and returns the last evaluation and each member's best."""
    writes = jax.process_index() == 0
    with Checkpoints(workdir / "checkpoints", run.config.keep) as checkpoints:
        position = _start(run, checkpoints, frozen, expected)
        if writes:
            truncate(workdir, position.step)
        copies, shown = run.config.writers, configs.resolved(run.config)
        with Writer(workdir, writes, copies, shown) as writer:
            position, last = _loop(
                run, frozen, position, checkpoints, writer, stop_requested, call
            )
        checkpoints.wait()
    best = {name: (one.score, one.step) for name, one in position.best.items()}
    best = sharding.fetch(best, run.mesh)
    skipped, elapsed = position.accumulator.skipped(), position.elapsed
    results.check_trained(run, skipped)
    evaluation_report = evaluation.run_evaluators(run, position.state, workdir)
    return results.TrainingEnd(last, best, skipped, elapsed, evaluation_report)


def _loop(
    run: Run,
    frozen: Mapping[str, LoadedNetwork],
    position: Position,
    checkpoints: Checkpoints,
    writer: Writer,
    stop_requested: StopRequest,
    compiling: program.CompilingCall | None,
) -> tuple[Position, Any]:
    """Trains from a position to the end; returns that and the last evaluation.

    Raises:
      Interrupted: if asked to stop, with a checkpoint of where it stopped.
    """
    state, best, now, elapsed, accumulator = position
    _stop_if_requested(run, stop_requested(), now)
    began = time.monotonic() - elapsed
    cadence, evaluator = _cadence(run), Evaluator(run)
    variables = {name: one.variables for name, one in frozen.items()}
    inputs = make_inputs(run, now, target_cache.prepare(run, frozen))
    call = compiling.get() if compiling else program.train_call(run, state)
    display = Display(run, now)
    last = {} if now < run.steps else _evaluate(evaluator, state, _training(run, now))
    for stop in cadence.stops(now, inputs.steps_per_call):
        batches = inputs.next(now, stop - now)
        state, metrics = call(state, variables, inputs.table, batches, stop - now)
        accumulator.add(metrics, stop - now)
        display.trained(stop, metrics)
        if cadence.logs(stop):
            results.check_finite(run, accumulator.skipped(), stop, checkpoints.latest())
            writer.write_scalars(
                stop, results.scalars(run.groups, accumulator.take(), "train", now)
            )
        if cadence.evaluates(stop):
            training = _training(run, stop)
            last = _evaluate(evaluator, state, training)
            best = _update_best(best, state, _scores(run, last), training)
            writer.write_scalars(
                stop, results.scalars(run.groups, last, "test", stop - 1)
            )
            display.evaluated(stop, last)
        asker = stop_requested()
        if cadence.saves(stop) or asker:
            elapsed = time.monotonic() - began
            meta = program.checkpoint_record(
                run,
                step=stop,
                elapsed=elapsed,
                frozen={name: one.hash for name, one in frozen.items()},
                accumulator=accumulator.to_json(),
            )
            checkpoints.save(stop, state, best, meta)
        if stop < run.steps:
            _stop_if_requested(run, asker, stop)
        now = stop
    display.close()
    return Position(state, best, now, time.monotonic() - began, accumulator), last


def _stop_if_requested(run: Run, asker: str | None, now: int) -> None:
    if asker:
        raise Interrupted(
            f"{asker}: {run.config.name} stopped after step {now:,} of {run.steps:,}. "
            "The same command resumes it there."
        )


def _cadence(run: Run) -> Cadence:
    return Cadence(
        total=run.steps,
        log=max(run.steps // 100, 1),
        evaluate=run.in_steps(run.config.eval_every),
        save=run.in_steps(run.config.checkpoint_every),
        ends=tuple(student.steps for student in run.students),
    )


def _training(run: Run, step: int) -> dict[str, np.ndarray]:
    """Returns which members have not ended before ``step``; at the very end, all."""
    return {
        group.name: group.per_member([s.steps for s in group.students]) >= step
        if step < run.steps
        else np.ones(len(group.members), bool)
        for group in run.groups
    }


def _evaluate(evaluator: Evaluator, state: Any, training: Any) -> Any:
    params = {name: one.eval_params for name, one in state.items()}
    model_state = {name: one.model_state for name, one in state.items()}
    return evaluator(params, model_state, training)


def _scores(run: Run, last: Any) -> dict[str, np.ndarray]:
    sign = -1 if run.score.lower else 1
    return {name: sign * metrics[run.score.name] for name, metrics in last.items()}


@functools.partial(jax.jit, donate_argnums=0)
def _update_best(best: Any, state: Any, scores: Any, training: Any) -> Any:
    return {
        name: study.update_best(best[name], state[name], scores[name], training[name])
        for name in best
    }
