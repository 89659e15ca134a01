"""The one train loop: needed runs first, then all students of the study together."""

import functools
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd import teachers
from jaxkd.core import checkpoint, sharding, study
from jaxkd.core import config as configs
from jaxkd.core.cadence import Cadence
from jaxkd.core.checkpoint import Checkpoints
from jaxkd.core.errors import Interrupted, UserError
from jaxkd.core.frozen import PerSeed
from jaxkd.core.metric_accumulator import Tally
from jaxkd.core.preemption import Asked, nobody
from jaxkd.core.types import Best, TrainState
from jaxkd.core.writers import Progress, Writer, truncate
from jaxkd.evaluate import Evaluator
from jaxkd.evaluators import base
from jaxkd.training import program, results, target_cache
from jaxkd.training import workdir as workdirs
from jaxkd.training.build import Run, build, source_config
from jaxkd.training.input_pipeline import make_inputs
from jaxkd.training.results import Frozen


class Position(NamedTuple):
    """Where a run stands: what a checkpoint holds."""

    state: dict[str, TrainState]
    best: dict[str, Best]
    step: int
    elapsed: float
    tally: Tally


class Outlets(NamedTuple):
    """What a training loop talks to."""

    checkpoints: Checkpoints
    writer: Writer
    asked: Asked


# Folders of the runs that were needed so far, by their configurations as JSON.
Known = dict[str, Path]


def train(
    config: ConfigDict,
    workdir: str | Path,
    asked: Asked = nobody,
    known: Known | None = None,
) -> dict[str, Any]:
    """Trains what a configuration describes, or resumes, or returns what is there.

    Needed runs are trained first, each in its own folder below ``workdir``, exactly as
    if they had been started by hand; one that several runs need is trained once.
    Running the same configuration again continues after the newest checkpoint; a
    finished run is only read.

    Args:
      config: see ``jaxkd.core.config``.
      workdir: folder of the run.
      asked: tells at each step boundary who asks the run to stop, or None; see
        ``jaxkd.core.preemption.listen``.
      known: runs that were trained for a run that needs this one.

    Returns:
      The content of ``results.json``.

    Raises:
      UserError: for whatever the user can mend.
      Interrupted: if it was asked to stop, after saving.
    """
    workdir = Path(workdir)
    configs.check(config)
    finished = workdirs.claim(workdir, config)
    if finished is not None:
        return finished
    run = build(config)
    target_cache.check(run)
    program.check_losses(run)
    wanted = program.abstract_state(run)  # which checks config.sharding, too
    workdirs.open_for(workdir, config)
    _announce(run, workdir)
    frozen = _needs(run, workdir, asked, Known() if known is None else known)
    end = _train_loop(run, frozen, wanted, workdir, asked)
    return results.record(run, frozen, end, workdir)


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


def _needs(run: Run, workdir: Path, asked: Asked, known: Known) -> dict[str, Frozen]:
    """Trains or loads the needed runs.

    Those that need none themselves come first, since others may need the same.
    """
    needs = run.config.needs
    order = sorted(needs, key=lambda name: _depth(needs[name]))
    found = {name: _need(run, name, workdir, asked, known) for name in order}
    teachers.check(run, found)
    return {name: found[name] for name in needs}


def _depth(config: ConfigDict) -> int:
    return max((1 + _depth(need) for need in config.needs.values()), default=0)


def _need(run: Run, name: str, workdir: Path, asked: Asked, known: Known) -> Frozen:
    """Trains or loads a needed run and lays its network out over the devices."""
    need = run.config.needs[name]
    if need.init_from:
        source = recorded = Path(need.init_from)
    else:
        alone = configs.alone(need)
        key = json.dumps(configs.resolved(alone), sort_keys=True)
        source = known.setdefault(key, workdir / name)
        recorded = Path(os.path.relpath(source, workdir))
        train(alone, source, asked, known)
    variables = _load(run, name, source / "checkpoints")
    checkpoint.compare(str(source), variables, program.abstract_frozen(run)[name])
    return Frozen(
        network=run.frozen[name].network,
        reads=run.frozen[name].reads,
        variables=sharding.put(variables, sharding.replicated(run.mesh)),
        hash=checkpoint.content_hash(variables),
        source=source,
        recorded=str(recorded),
        model=source_config(need).model.name,
    )


def _load(run: Run, name: str, checkpoints: Path) -> Any:
    """Loads a needed run's network, or those of all seeds."""
    if not run.frozen[name].per_seed:
        return checkpoint.load_member(checkpoints, "last")
    members = [
        checkpoint.load_member(checkpoints, "last", seed=seed)
        for seed in run.config.seeds
    ]
    return PerSeed(jax.tree.map(lambda *rows: np.stack(rows), *members))


def _start(
    run: Run, checkpoints: Checkpoints, frozen: Mapping[str, Frozen], wanted: Any
) -> Position:
    """Initialises a state like ``wanted``, or restores the newest checkpoint."""
    init = functools.partial(program.init, run)
    hashes = {name: one.hash for name, one in frozen.items()}
    checkpoint.check_space(checkpoints.directory, wanted)
    checkpoints.set_aside_damaged()
    if checkpoints.latest() is None:
        # Drawing weights is quick; optimising the program that does it on CPU is not.
        on_cpu = jax.default_backend() == "cpu"
        options = {"xla_backend_optimization_level": 0} if on_cpu else None
        layout = jax.tree.map(lambda x: x.sharding, wanted)
        make = jax.jit(init, out_shardings=layout, compiler_options=options)
        state, best = make({name: one.variables for name, one in frozen.items()})
        return Position(state, best, 0, 0.0, Tally())
    state, best, meta = checkpoints.restore(*wanted)
    checkpoint.check_members(checkpoints.directory, meta, run.groups)
    if meta["frozen"] != hashes:
        raise UserError(
            f"{checkpoints.directory} was trained with other frozen networks: their "
            f"hashes were {meta['frozen']} and are now {hashes}. Bring back the old "
            "ones, or choose another --workdir."
        )
    tally = Tally(meta.get("tally"))
    return Position(state, best, meta["step"], meta["elapsed"], tally)


def _train_loop(
    run: Run,
    frozen: Mapping[str, Frozen],
    wanted: Any,
    workdir: Path,
    asked: Asked,
) -> results.End:
    """Trains to the end and returns the last evaluation and each member's best."""
    writes = jax.process_index() == 0
    with Checkpoints(workdir / "checkpoints", run.config.keep) as checkpoints:
        position = _start(run, checkpoints, frozen, wanted)
        if writes:
            truncate(workdir, position.step)
        with Writer(workdir, enabled=writes) as writer:
            outlets = Outlets(checkpoints, writer, asked)
            position, last = _loop(run, frozen, position, outlets)
        checkpoints.wait()
    best = {name: (one.score, one.step) for name, one in position.best.items()}
    best = sharding.fetch(best, run.mesh)
    findings = base.assess(run, position.state, workdir)
    skipped, elapsed = position.tally.skipped(), position.elapsed
    return results.End(last, best, skipped, elapsed, findings)


def _loop(
    run: Run,
    frozen: Mapping[str, Frozen],
    position: Position,
    outlets: Outlets,
) -> tuple[Position, Any]:
    """Trains from a position to the end; returns that and the last evaluation.

    Raises:
      Interrupted: if asked to stop, with a checkpoint of where it stopped.
    """
    state, best, now, elapsed, tally = position
    checkpoints, writer, asked = outlets
    _give_way(run, asked(), now)
    began = time.monotonic() - elapsed
    cadence, evaluator = _cadence(run), Evaluator(run)
    variables = {name: one.variables for name, one in frozen.items()}
    inputs = make_inputs(run, now, target_cache.prepare(run, frozen))
    call = program.train_call(run, state)
    progress = _progress(run, now)
    last = {} if now < run.steps else _evaluate(evaluator, state, _training(run, now))
    for stop in cadence.stops(now, inputs.steps_per_call):
        batches = inputs.next(now, stop - now)
        state, metrics = call(state, variables, inputs.table, batches, stop - now)
        tally.add(metrics, stop - now)
        progress.update(stop)
        if cadence.logs(stop):
            results.check_finite(run, tally.skipped(), stop, checkpoints.latest())
            writer.write_scalars(
                stop, results.scalars(run.groups, tally.take(), "train", now)
            )
        if cadence.evaluates(stop):
            training = _training(run, stop)
            last = _evaluate(evaluator, state, training)
            best = _update_best(best, state, _scores(run, last), training)
            writer.write_scalars(
                stop, results.scalars(run.groups, last, "test", stop - 1)
            )
        asker = asked()
        if cadence.saves(stop) or asker:
            elapsed = time.monotonic() - began
            meta = _meta(run, frozen, stop, elapsed, tally)
            checkpoints.save(stop, state, best, meta)
        if stop < run.steps:
            _give_way(run, asker, stop)
        now = stop
    progress.close()
    return Position(state, best, now, time.monotonic() - began, tally), last


def _give_way(run: Run, asker: str | None, now: int) -> None:
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


def _progress(run: Run, now: int) -> Progress:
    images = run.config.batch_size * len(run.draws)
    enabled = jax.process_index() == 0
    return Progress(run.steps, now, run.config.name, images, enabled=enabled)


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
    extra = {name: one.extra for name, one in state.items()}
    return evaluator(params, extra, training)


def _scores(run: Run, last: Any) -> dict[str, np.ndarray]:
    sign = -1 if run.score.lower else 1
    return {name: sign * metrics[run.score.name] for name, metrics in last.items()}


@functools.partial(jax.jit, donate_argnums=0)
def _update_best(best: Any, state: Any, scores: Any, training: Any) -> Any:
    return {
        name: study.update_best(best[name], state[name], scores[name], training[name])
        for name in best
    }


def _meta(run: Run, frozen: Mapping[str, Frozen], step_: int, elapsed, tally) -> Any:
    return {
        "step": step_,
        "elapsed": elapsed,
        "members": checkpoint.member_table(run.groups),
        "frozen": {name: one.hash for name, one in frozen.items()},
        "tally": tally.to_json(),
    }
