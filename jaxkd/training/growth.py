"""Runs that grow: a folder goes on with a configuration that asks for more.

- A longer ``duration`` continues after the newest checkpoint. The result is that of a
  run which was long from the start, bit for bit on CPU, where nothing before that step
  depends on the length: a constant or stepped learning rate, a loss that does not look
  at it. Where something does, results and report tell what.
- Students added to a finished study train alone, in ``added/``, on the same batches and
  against the same teachers, and join the others in its checkpoint and its table.
- Data and teachers at other paths are the same if their content is.
- A folder in which nothing was trained yet is free for another configuration.
"""

import functools
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core import checkpoint, console, files, integrity, sharding
from jaxkd.core import config as configs
from jaxkd.core.checkpoint_saving import Checkpoints, Restored
from jaxkd.core.errors import UserError
from jaxkd.core.study import Student
from jaxkd.core.types import Best, TrainState
from jaxkd.core.writers import METRICS, read_metrics, write_json
from jaxkd.training import choice, needs, options, program, same_data
from jaxkd.training import workdir as workdirs
from jaxkd.training.build import Run, build
from jaxkd.training.needs import Known, Train
from jaxkd.training.workdir import (
    CONFIG,
    RESULTS,
    read_config,
    read_json,
    read_results,
)

CHECKPOINTS, EXTENDED, ADDED = "checkpoints", "extended.json", "added"
# While added students join: the others' checkpoints, and those of all.
_BEFORE, _JOINED = "checkpoints-before", "checkpoints-joined"

_MOVED = re.compile(r"(needs\.[^.]+\.)*(data\.\w+|needs\.[^.]+\.init_from)")
_LONGER = re.compile(r"(students\.[^.]+\.)?duration")


class Change(NamedTuple):
    """How a configuration differs from the run in a folder, where it may.

    Attributes:
      vacant: whether nothing was trained there.
      moved: keys of paths whose content has to be the same.
      longer: whether it asks for more steps.
      added: names of new students.
    """

    vacant: bool = False
    moved: tuple[str, ...] = ()
    longer: bool = False
    added: tuple[str, ...] = ()


def plan(workdir: Path, config: ConfigDict) -> Change | None:
    """Finds how a folder's run can become that of a configuration.

    Returns:
      None if it is the same, or if it cannot, for which ``check_resumable`` has words.
    """
    path = workdir / CONFIG
    if not path.exists():
        return None
    saved = read_json(path)
    here = configs.resolved(config)
    if "pipeline" in saved or not (changes := configs.changes(saved, here)):
        return None
    if is_vacant(workdir):
        return Change(vacant=True)
    moved = tuple(key for key, values in changes.items() if _is_path(key, *values))
    left = {key: values for key, values in changes.items() if key not in moved}
    if all(_is_longer(key, *values) for key, values in left.items()):
        return Change(moved=moved, longer=bool(left))
    added = tuple(name for name in config.students if name not in saved["students"])
    prefixes = tuple(f"students.{name}" for name in added)
    order = "order of students"
    grown = all(key == order or _is_below(key, prefixes) for key in left)
    if added and grown and set(saved["students"]) < set(config.students):
        return Change(moved=moved, added=added)
    return None


def is_vacant(workdir: Path) -> bool:
    """Tells whether a folder holds nothing that was trained."""
    kept = (workdir / RESULTS, workdir / _BEFORE)
    return (
        not any(path.exists() for path in kept)
        and latest_step(workdir) is None
        and not read_metrics(workdir)
    )


def latest_step(workdir: Path) -> int | None:
    """Returns the step of the newest checkpoint in a run's folder, or None."""
    return checkpoint.latest_step(workdir / CHECKPOINTS)


def _is_path(key: str, before: Any, after: Any) -> bool:
    texts = isinstance(before, str) and isinstance(after, str)
    if not texts or not _MOVED.fullmatch(key):
        return False
    # Training in place and loading the result of that are the same, too.
    return Path(after).exists() or (key.endswith("init_from") and not after)


def _is_longer(key: str, before: Any, after: Any) -> bool:
    numbers = all(isinstance(value, int | float) for value in (before, after))
    return bool(_LONGER.fullmatch(key)) and numbers and after > before


def _is_below(key: str, prefixes: tuple[str, ...]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in prefixes)


def grow(run: Run, change: Change, workdir: Path, train: Train, known: Known) -> None:
    """Makes a folder's run that of another configuration, or the beginning of it.

    Args:
      run: as it shall be.
      change: of ``plan``.
      workdir: folder of the run, locked by this process.
      train: trains a configuration in a folder.
      known: folders of needed runs that were trained before.

    Raises:
      UserError: if it cannot; says why. Nothing is changed then.
    """
    if change.moved:
        _check_moved(run, change.moved, workdir)
    if change.longer:
        _extend(run, workdir)
    elif change.added:
        _add(run, change.added, workdir, train, known)
    elif change.vacant and jax.process_index() == 0:
        (workdir / same_data.DATA).unlink(missing_ok=True)
    workdirs.create(workdir, run.config, options.resolved(run.config))
    if change.added:  # only now: until then a killed join can be undone
        shutil.rmtree(workdir / _BEFORE, ignore_errors=True)


def _check_moved(run: Run, moved: Sequence[str], workdir: Path) -> None:
    """Checks that what lies elsewhere now has the content that it had."""
    if any(key.startswith("data.") for key in moved) and not same_data.is_recorded(
        run, workdir
    ):
        raise UserError(
            f"{workdir} was trained on other data: {', '.join(moved)} changed, and "
            f"the examples are not those that its {same_data.DATA} has recorded. Give "
            "the data of the run, or choose another --workdir."
        )
    hashes = _frozen_hashes(workdir)
    for name, need in run.config.needs.items():
        if not any(key.startswith(f"needs.{name}.") for key in moved):
            continue
        chosen = choice.parse(need.init_from)
        source = Path(chosen.path) if chosen.path else workdir / name
        member = choice.member_of(read_config(source), source, chosen)
        variables = needs.load_variables(run, name, source / CHECKPOINTS, member)
        found = integrity.content_hash(variables)
        if found != hashes.get(name):
            raise UserError(
                f"{workdir} was trained with another {name}: its hash was "
                f"{hashes.get(name)}, that of {source} is {found}. Bring back the old "
                "one, or choose another --workdir."
            )


def _frozen_hashes(workdir: Path) -> dict[str, str]:
    if (workdir / RESULTS).exists():
        frozen = read_results(workdir)["frozen"]
        return {name: one["hash"] for name, one in frozen.items()}
    return checkpoint.read_meta(workdir / CHECKPOINTS)["frozen"]


def _extend(run: Run, workdir: Path) -> None:
    """Lets a run go on to more steps, and notes what differs from a long one."""
    at = latest_step(workdir)
    if at is None:
        return
    before = build(read_config(workdir), run.dataset, workdir=workdir)
    steps = {student.name: student.steps for student in before.students}
    for student in run.students:
        ended = steps[student.name]
        if student.steps != ended and ended < at:
            raise UserError(
                f"{workdir}: the student {student.name!r} ended at step {ended:,}, and "
                f"the run stands at {at:,}: it cannot go on from there alone. Choose "
                "another --workdir."
            )
    unequal = differences(before, run, at)
    console.announce(
        f"{run.config.name}: goes on from step {at:,} to {run.steps:,} instead of "
        f"{before.steps:,}. {_describe(unequal)}"
    )
    if jax.process_index() == 0:
        extensions = [*read_extensions(workdir), {"step": at, "differs": unequal}]
        write_json(workdir / EXTENDED, extensions)
        (workdir / RESULTS).unlink(missing_ok=True)


def read_extensions(workdir: Path) -> list[dict[str, Any]]:
    """Returns when a run was extended: ``step``, and ``differs`` of ``differences``."""
    path = workdir / EXTENDED
    return read_json(path) if path.exists() else []


def _describe(unequal: Sequence[str]) -> str:
    if not unequal:
        return "It equals a run that was as long from the start."
    return (
        "It differs from a run that was as long from the start: up to that step "
        f"{'; '.join(unequal)}."
    )


def differences(before: Run, after: Run, at: int) -> list[str]:
    """Lists what, up to step ``at``, depends on the length of a run.

    Args:
      before: the run that has come so far.
      after: the same with longer durations.
      at: step.
    """
    found = []
    for old, new in zip(before.groups, after.groups, strict=True):
        rates = old.learning_rates(0, at), new.learning_rates(0, at)
        for label, one in rates[0].items():
            same = np.all(one == rates[1][label], axis=0)
            names = {
                s for (s, _), equal in zip(old.members, same, strict=True) if not equal
            }
            if names:
                found.append(
                    f"the learning rate of {', '.join(sorted(names))} was another"
                )
    for short, long in zip(before.students, after.students, strict=True):
        if short.steps == long.steps:
            continue
        if _program(before, short) != _program(after, long):
            found.append(f"the loss of {short.name} looks at the length")
    if at == before.steps and at % after.in_steps(after.config.eval_every):
        found.append(f"step {at:,} was evaluated for the best parameters, too")
    return found


def _program(run: Run, student: Student) -> str:
    """Returns a student's loss and state updates as text, with all their constants."""
    method = student.method
    batch = run.spec.batch_shapes(run.config.batch_size)
    frozen = program.abstract_frozen(run) | run.start
    traced = [
        jax.make_jaxpr(functools.partial(program.trace_loss, run, method))(
            batch, frozen
        )
    ]
    if method.after_step is not None:
        state = jax.eval_shape(method.init, jax.random.key(0))
        step = jax.ShapeDtypeStruct((), np.int32)
        traced.append(jax.make_jaxpr(method.after_step)(*state, step))
    constants = [np.asarray(x).tobytes() for one in traced for x in one.consts]
    # Functions are shown by their address.
    text = re.sub(r"0x[0-9a-f]+", "", "\n".join(map(str, traced)))
    return text + repr(constants)


def _add(
    run: Run, added: Sequence[str], workdir: Path, train: Train, known: Known
) -> None:
    """Trains students alone, and joins them to those that are there."""
    if jax.process_count() > 1:
        raise UserError("Students are added to a study by one process. Start it alone.")
    _recover(workdir)
    before = build(read_config(workdir), run.dataset, workdir=workdir)
    if latest_step(workdir) != before.steps:
        raise UserError(
            f"{workdir} holds an unfinished study, expected a finished one to add "
            f"{', '.join(added)} to. Finish it first, with --students="
            f"{','.join(before.config.students)}, or choose another --workdir."
        )
    own = _alone(run.config, added)
    for name, need in run.config.needs.items():
        if not choice.parse(need.init_from).path:
            key = json.dumps(configs.resolved(configs.standalone(need)), sort_keys=True)
            known.setdefault(key, workdir / name)
    folder = workdir / ADDED / "+".join(added)
    train(own, folder, known)
    parts = [(before, workdir), (build(own, run.dataset, workdir=workdir), folder)]
    restored = [_restore(one, place) for one, place in parts]
    if restored[0].meta["frozen"] != restored[1].meta["frozen"]:
        raise UserError(
            f"{folder} was trained with other networks than the study in {workdir}. "
            "Delete it and run this again."
        )
    _save(run, [one for one, _ in parts], restored, workdir)
    _join_metrics(workdir, folder, added)
    (workdir / RESULTS).unlink(missing_ok=True)


def _recover(workdir: Path) -> None:
    """Undoes a join that was killed between its two renames."""
    if (workdir / _BEFORE).exists() and not (workdir / CHECKPOINTS).exists():
        (workdir / _BEFORE).rename(workdir / CHECKPOINTS)


def _alone(config: ConfigDict, added: Sequence[str]) -> ConfigDict:
    """Returns the configuration of the added students without the others."""
    copy = configs.from_json(configs.resolved(config))
    with copy.unlocked():
        rows = {name: copy.students[name] for name in added}
        copy.students = configs.students(rows)
        copy.reference = copy.reference if copy.reference in added else ""
    return copy


def _restore(run: Run, workdir: Path) -> Restored:
    with Checkpoints(workdir / CHECKPOINTS, run.config.keep) as checkpoints:
        state, best, meta = checkpoints.restore(*program.abstract_state(run))
    checkpoint.check_members(workdir / CHECKPOINTS, meta, run.groups)
    state, best = jax.device_get((state, best))
    return Restored(state, best, meta)


def _save(
    run: Run, parts: Sequence[Run], restored: Sequence[Restored], workdir: Path
) -> None:
    """Writes one checkpoint of all members in place of the others'."""
    places = {
        member: (part, group.name, row)
        for part, one in enumerate(parts)
        for group in one.groups
        for row, member in enumerate(group.members)
    }
    step = np.int32(max(one.meta["step"] for one in restored))
    state: dict[str, TrainState] = {}
    best: dict[str, Best] = {}
    skipped = {}
    for group in run.groups:
        rows = [places[member] for member in group.members]
        states = [_row(restored[p].state[g], row) for p, g, row in rows]
        state[group.name] = _stack(states).replace(step=step)
        best[group.name] = _stack(
            [_row(restored[p].best[g], row) for p, g, row in rows]
        )
        skipped[group.name] = [
            restored[p].meta["accumulator"]["skipped"][g][row] for p, g, row in rows
        ]
    layout = jax.tree.map(lambda x: x.sharding, program.abstract_state(run))
    state, best = jax.tree.map(sharding.put, (state, best), layout)
    meta = program.checkpoint_record(
        run,
        step=int(step),
        elapsed=sum(one.meta["elapsed"] for one in restored),
        frozen=restored[0].meta["frozen"],
        accumulator={"sums": None, "weights": None, "skipped": skipped},
    )
    shutil.rmtree(workdir / _JOINED, ignore_errors=True)
    with Checkpoints(workdir / _JOINED, run.config.keep) as checkpoints:
        checkpoints.save(int(step), state, best, meta)
        checkpoints.wait()
    shutil.rmtree(workdir / _BEFORE, ignore_errors=True)
    (workdir / CHECKPOINTS).rename(workdir / _BEFORE)
    (workdir / _JOINED).rename(workdir / CHECKPOINTS)


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda x: x[row] if np.ndim(x) else x, tree)


def _stack(rows: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *rows)


def _join_metrics(workdir: Path, folder: Path, added: Sequence[str]) -> None:
    """Puts the added students' records among the others', in the order of steps."""

    def is_new(key: str) -> bool:  # split_metric/student/seed
        return key.count("/") == 2 and key.split("/")[1] in added

    kept = [
        {key: value for key, value in record.items() if not is_new(key)}
        for record in read_metrics(workdir)
    ]
    records = [record for record in kept if record.keys() - {"step", "time"}]
    records = sorted([*records, *read_metrics(folder)], key=lambda one: one["step"])
    files.write_text(
        workdir / METRICS, "".join(json.dumps(one) + "\n" for one in records)
    )
