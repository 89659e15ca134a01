"""Offline distillation: the logits of frozen networks on every view, computed once.

With ``config.targets.visits = V`` the views of an example repeat after V epochs. With
``config.targets.cache`` what the teacher says of them is computed before training,
written beside the teacher and read while training: this run, and the next with the same
teacher, data, views and seeds, then trains without evaluating the teacher. The logits
are those that training would have computed, unless ``top_k`` keeps fewer: bit for bit
where the device computes an example alike wherever it stands in a batch, which on CPU
it does for most networks and sizes.
"""

import functools
import hashlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jaxkd
from jaxkd.core import batches, distributed, integrity, sharding
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.core.targets import collect_targets, evaluate_target
from jaxkd.core.types import Targets
from jaxkd.core.writers import Progress
from jaxkd.training import logit_files
from jaxkd.training.build import Run
from jaxkd.training.needs import LoadedNetwork

# ``(index, visit) -> targets``, both ``[steps, draws, batch]``; examples are counted
# from 0 in each draw. Targets, by name: ``{"logits": [steps, draws, batch, classes]}``.
Lookup = Callable[[np.ndarray, np.ndarray], Targets]


def check(run: Run) -> None:
    """Checks that a run can repeat its views, and cache targets, as it is told to.

    Raises:
      UserError: if it cannot.
    """
    chosen = run.config.targets
    info = run.dataset.info
    if chosen.visits and not all(isinstance(draw, ArraySource) for draw in run.draws):
        raise UserError(
            f"config.targets.visits is {chosen.visits}, but the images of {info.name} "
            "are cropped as they are read from files. Expected data in memory, or 0."
        )
    if chosen.top_k and chosen.top_k >= info.num_classes:
        raise UserError(
            f"config.targets.top_k is {chosen.top_k}, expected fewer than the "
            f"{info.num_classes} classes, or 0 to keep all."
        )
    if chosen.cache and not collect_targets(run.groups):
        raise UserError(
            "config.targets.cache is set, but no student learns from another network."
        )


def prepare(run: Run, frozen: Mapping[str, LoadedNetwork]) -> Lookup | None:
    """Computes the targets that are not on disk yet; returns None if none are cached.

    Each visit of each draw is a folder of its own: what a killed run has computed is
    not computed again.

    Raises:
      UserError: if they do not fit on the disk.
    """
    if not run.config.targets.cache:
        return None
    names = sorted(collect_targets(run.groups))
    top = next(iter(frozen.values())).source / "targets"
    visits = range(run.config.targets.visits)
    folders = [
        [top / _key(run, frozen, names, draw) / f"{visit:04d}" for visit in visits]
        for draw in range(len(run.draws))
    ]
    _fill(run, frozen, folders, names)
    classes = run.dataset.info.num_classes
    stores = {
        name: [
            [logit_files.Logits(folder, name, classes) for folder in draw]
            for draw in folders
        ]
        for name in names
    }
    return functools.partial(_look_up, stores)


def _look_up(stores, index: np.ndarray, visit: np.ndarray) -> Targets:
    def one(draws):
        rows = [
            logit_files.look_up(visits, index[:, draw], visit[:, draw])
            for draw, visits in enumerate(draws)
        ]
        return {"logits": np.stack(rows, axis=1)}

    return {name: one(draws) for name, draws in stores.items()}


def _key(
    run: Run, frozen: Mapping[str, LoadedNetwork], names: list[str], draw: int
) -> str:
    """Returns a name for all that the targets of a draw depend on."""
    info = run.dataset.info
    examples = dict(run.draws[draw].arrays)  # type: ignore[attr-defined]
    examples.pop("label", None)
    facts = {
        "frozen": {name: one.hash for name, one in frozen.items()},
        "images": integrity.content_hash(examples),
        "normalised by": [np.asarray(x).tolist() for x in (info.mean, info.std)],
        "view": configs.resolved(run.config.view),
        "seed": run.draw_seeds[draw],
        "dtype": run.config.dtype,
        "top_k": run.config.targets.top_k,
        "names": names,
        "versions": (jaxkd.__version__, jax.__version__),
    }
    if run.spec.ensemble:
        facts["teachers"] = run.spec.ensemble
    fitted = {
        name: (one.scale, one.shift, one.classes)
        for name, one in run.frozen.items()
        if one.scale or one.classes
    }
    # Where there is none, what earlier versions computed is the same.
    facts |= {"fitted": fitted} if fitted else {}
    text = json.dumps(facts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Work(NamedTuple):
    """One visit that is not on disk: its number, and a folder for each draw."""

    visit: int
    folders: list[Path]


def _fill(run: Run, frozen, folders: list[list[Path]], names: list[str]) -> None:
    writes = jax.process_index() == 0
    # Process 0 writes, so it knows; the others have to compute the same.
    done = np.array([[writes and _is_whole(f) for f in draw] for draw in folders])
    missing = ~distributed.from_first(done).all(axis=0)
    work = [_Work(v, [d[v] for d in folders]) for v in np.flatnonzero(missing).tolist()]
    if not work:
        return
    if writes:
        _check_space(run, work, len(names))
    calls = -(-len(run.draws[0]) // _batch(run))
    progress = Progress(
        total=calls * len(work),
        start=0,
        name=f"{run.config.name}: targets",
        images_per_step=_batch(run) * len(run.draws),
        enabled=writes,
        unit="batch",
    )
    compute = _make_compute(run, frozen, names)
    for number, (visit, places) in enumerate(work):
        rows = []
        for call, result in enumerate(compute(visit, calls)):
            rows.append(result)
            progress.update(number * calls + call + 1)
        for draw, folder in enumerate(places):
            if writes and not done[draw, visit]:
                logit_files.write(
                    folder, _join(run, rows, draw), run.config.targets.top_k
                )
    progress.close()
    distributed.from_first(np.zeros(1))  # the others wait until all is written


def _is_whole(folder: Path) -> bool:
    """Tells whether a folder of targets is there and what was written; warns if not."""
    if not folder.exists():
        return False
    if wrong := logit_files.problem(folder):
        warnings.warn(
            f"The cached targets in {folder} are damaged ({wrong}) and are computed "
            "again.",
            stacklevel=2,
        )
    return not wrong


def _batch(run: Run) -> int:
    """Returns how many examples training shows to the teacher together.

    Other numbers would be rounded otherwise.
    """
    return run.config.batch_size // run.config.accumulate


def _join(run: Run, rows: list[dict[str, np.ndarray]], draw: int):
    size = len(run.draws[draw])
    return {
        name: np.concatenate([row[name][draw] for row in rows])[:size]
        for name in rows[0]
    }


def _make_compute(run: Run, frozen: Mapping[str, LoadedNetwork], names: list[str]):
    """Makes the function that yields ``[draws, batch, classes]`` by name, in order."""
    targets = collect_targets(run.groups)
    draws, batch = len(run.draws), _batch(run)
    variables = {name: one.variables for name, one in frozen.items()}
    tables = [draw.arrays for draw in run.draws]  # type: ignore[attr-defined]
    table = jax.tree.map(lambda *rows: np.stack(rows), *tables)
    table = sharding.put(table, sharding.replicated(run.mesh))

    @functools.partial(jax.jit, out_shardings=sharding.replicated(run.mesh))
    def evaluate(variables, table, index, visit):
        fetch = jax.vmap(lambda rows, at: rows[at])
        data = {name: fetch(rows, index) for name, rows in table.items()}
        keys = batches.step_keys(run.draw_seeds, 0)
        data = batches.view(run.settings, keys, data | {"index": index, "visit": visit})

        def one(name):
            function = targets[name].function
            return evaluate_target(function, variables, data, keys)["logits"]

        return {name: one(name) for name in names}

    def compute(visit: int, calls: int) -> Iterator[dict[str, np.ndarray]]:
        for call in range(calls):
            # The last batch is filled up with the first examples.
            rows = np.arange(call * batch, (call + 1) * batch) % len(run.draws[0])
            index = np.broadcast_to(rows.astype(np.int32), (draws, batch))
            inputs = sharding.put(
                (index, np.full_like(index, visit)), sharding.batch(run.mesh, axis=1)
            )
            yield jax.device_get(evaluate(variables, table, *inputs))

    return compute


def _check_space(run: Run, work: list[_Work], networks: int) -> None:
    each = logit_files.bytes_per_example(
        run.dataset.info.num_classes, run.config.targets.top_k
    )
    wanted = each * networks * sum(len(one.folders) for one in work) * len(run.draws[0])
    top = work[0].folders[0].parent
    top.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(top).free
    if free < wanted:
        raise UserError(
            f"The cached targets take {wanted / 1e6:.1f} MB, but {top} has "
            f"{free / 1e6:.1f} MB free. Free some space, or lower "
            "config.targets.visits or config.targets.top_k."
        )
