"""Needed runs: trained or loaded before a run begins, and compared with each other.

A run may need others (``config.needs``): a teacher, an assistant, a backbone. Each is
trained in its own folder exactly as if it had been started by hand, or loaded from
``init_from``.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxkd.core import checkpoint, sharding
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.frozen import PerSeed
from jaxkd.training import program
from jaxkd.training.build import Run, source_config
from jaxkd.training.workdir import RESULTS, read_json

TEACHER, BASELINE = "teacher", "baseline"

# Folders of the runs that were needed so far, by their configurations as JSON.
Known = dict[str, Path]
# Trains a configuration in a folder: ``(config, workdir, known)``.
Train = Callable[[Any, Path, Known], Any]


class LoadedNetwork(NamedTuple):
    """The network of a needed run, laid out over the devices.

    Attributes:
      network: its module.
      input_key: the field of a batch that it reads.
      variables: ``params`` and the other collections.
      hash: of their content.
      source: the run's folder.
      recorded: the same as it is recorded, relative where it lies within the workdir.
      model: its name.
    """

    network: nn.Module
    input_key: str
    variables: Any
    hash: str
    source: Path
    recorded: str
    model: str


def load_all(
    run: Run, workdir: Path, train: Train, known: Known
) -> dict[str, LoadedNetwork]:
    """Trains or loads the needed runs of a run.

    Those that need none themselves come first, since others may need the same; one
    that several runs need is trained once.

    Args:
      run: that needs them.
      workdir: its folder.
      train: trains one of them.
      known: folders of those that were trained before; new ones are added.

    Raises:
      UserError: if one cannot be loaded, or a teacher is worse than its students.
    """
    needs = run.config.needs
    order = sorted(needs, key=lambda name: _depth(needs[name]))
    loaded = {name: _load(run, name, workdir, train, known) for name in order}
    check_teacher(run, loaded)
    return {name: loaded[name] for name in needs}


def _depth(config: Any) -> int:
    return max((1 + _depth(need) for need in config.needs.values()), default=0)


def _load(
    run: Run, name: str, workdir: Path, train: Train, known: Known
) -> LoadedNetwork:
    need = run.config.needs[name]
    if need.init_from:
        source = recorded = Path(need.init_from)
    else:
        standalone = configs.standalone(need)
        key = json.dumps(configs.resolved(standalone), sort_keys=True)
        source = known.setdefault(key, workdir / name)
        recorded = Path(os.path.relpath(source, workdir))
        train(standalone, source, known)
    variables = load_variables(run, name, source / "checkpoints")
    checkpoint.compare(str(source), variables, program.abstract_frozen(run)[name])
    return LoadedNetwork(
        network=run.frozen[name].network,
        input_key=run.frozen[name].input_key,
        variables=sharding.put(variables, sharding.replicated(run.mesh)),
        hash=checkpoint.content_hash(variables),
        source=source,
        recorded=str(recorded),
        model=source_config(need).model.name,
    )


def load_variables(run: Run, name: str, checkpoints: Path) -> Any:
    """Loads a needed run's network, or those of all seeds."""
    if not run.frozen[name].per_seed:
        return checkpoint.load_member(checkpoints, "last")
    members = [
        checkpoint.load_member(checkpoints, "last", seed=seed)
        for seed in run.config.seeds
    ]
    return PerSeed(jax.tree.map(lambda *rows: np.stack(rows), *members))


def check_teacher(run: Run, loaded: Mapping[str, LoadedNetwork]) -> None:
    """Refuses a teacher that is worse than the networks that are to learn from it.

    Distillation from such a teacher costs accuracy, and usually means that something
    is wrong with it: too short a training, the wrong data, another view than it was
    made for. A student's own accuracy is not known before it is trained. What is known
    is that of the needed runs: an assistant, which has learnt from the same teacher,
    and ``baseline``, a student trained without one, if the configuration needs such a
    run. Only a difference of two standard errors counts, and only between figures of
    the same metric on as many images of one data set.

    Raises:
      UserError: if one of them is better than the teacher.
    """
    if TEACHER not in loaded or run.score.lower or not run.score.percent:
        return
    teacher = _result(run, loaded[TEACHER].source)
    for name, one in loaded.items():
        need = source_config(run.config.needs[name])
        other = _result(run, one.source)
        if name == BASELINE or (name != TEACHER and TEACHER in need.needs):
            _compare(run, name, teacher, other)


def _compare(run: Run, name: str, teacher: Any, other: Any) -> None:
    if not teacher or not other or teacher["on"] != other["on"]:
        return
    shares = [one["score"] for one in (teacher, other)]
    variance = sum(share * (1 - share) for share in shares)
    if shares[1] - shares[0] > 2 * math.sqrt(variance / teacher["on"][1]):
        raise UserError(
            f"The teacher's {run.score.label} is {100 * shares[0]:.1f} %, worse than "
            f"the {100 * shares[1]:.1f} % of {name!r}, which is no teacher but a "
            "network for students to be compared with or to learn from. A teacher "
            "that is worse than its student makes the student worse. Train the "
            "teacher longer (config.needs.teacher.duration); see that its data and "
            f"its view are those that it was made for; or make {name!r} the teacher."
        )


def _result(run: Run, source: Path) -> dict[str, Any] | None:
    """Returns a run's mean score and the images that it was measured on."""
    path = source / RESULTS
    if not path.exists():
        return None
    results = read_json(path)
    student = next(iter(results["students"].values()))
    values = student["last"].get(run.score.name)
    if values is None:
        return None
    on = results["data"]["name"], results["data"]["test_examples"]
    return {"score": float(np.mean(values)), "on": on}
