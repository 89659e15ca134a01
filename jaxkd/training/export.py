"""A network's variables as the folder of a run, and the network of a run's folder.

What ``write`` writes, ``config.needs.teacher.init_from`` takes in place of training the
teacher, and ``--mode=eval`` evaluates on the data set of a ``--config``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.checkpoint_saving import Checkpoints
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.study import init_best
from jaxkd.core.types import TrainState
from jaxkd.training import choice, preprocessing
from jaxkd.training import workdir as workdirs
from jaxkd.training.components import student_config


class Network(NamedTuple):
    """A trained network of a run.

    Attributes:
      name: of the network, such as ``"resnet8x4"``.
      options: of the network, as in ``models.build``.
      variables: ``params`` and ``batch_stats``.
      description: for a file beside an export: ``run``, ``student``, ``seed``, ``use``,
        ``class_names`` and ``preprocessing`` (None where nothing was recorded).
    """

    name: str
    options: dict[str, Any]
    variables: dict[str, Any]
    description: dict[str, Any]


def write(
    directory: Path,
    variables: Mapping[str, Any],
    name: str,
    options: Mapping[str, Any],
    trained: Info | None = None,
) -> None:
    """Writes ``config.json``, ``preprocessing.json`` and a checkpoint at step 0.

    Args:
      directory: a new folder, or an empty one.
      variables: ``params`` and ``batch_stats`` of the network.
      name: of the network.
      options: of the network.
      trained: what is known of the data that it was trained on; what is not is empty.

    Raises:
      UserError: if the folder holds something.
    """
    if directory.exists() and (directory.is_file() or any(directory.iterdir())):
        raise UserError(
            f"{directory} is there already. Expected a new folder; delete that one, or "
            "choose another."
        )
    config = configs.default()
    config.name = f"converted-{name}"
    config.model = ConfigDict({"name": name, **options})
    workdirs.create(directory, config)
    if trained is not None:
        preprocessing.write(directory, preprocessing.describe(trained, config.view))
    state = {"group0": _state(dict(variables))}
    best = {group: init_best(one) for group, one in state.items()}
    (student,) = choice.student_names(config)
    members = {"group0": [[student, seed] for seed in config.seeds]}
    meta = {"step": 0, "elapsed": 0.0, "members": members, "frozen": {}}
    meta["config"] = configs.resolved(config)
    with Checkpoints(directory / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(0, state, best, meta)
        checkpoints.wait()


def _state(variables: dict[str, Any]) -> TrainState:
    """Returns the state of a study of one member."""
    stacked = jax.tree.map(lambda x: jnp.asarray(x)[None], variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params={"student": stacked.pop("params")},
        model_state={"student": stacked},
        opt_state=(),
    )


def read(
    directory: Path, student: str | None, seed: int | None, use: str = "last"
) -> Network:
    """Reads the network of one member of a run.

    Args:
      directory: the run's folder.
      student: its name; None where there is one alone.
      seed: its seed; None for the first, which is printed.
      use: "last" or "best".

    Raises:
      UserError: if there is no such run or member, or a study of several students is
        not told which.
    """
    config = workdirs.read_config(directory)
    source = choice.Source("", student, seed, use)
    member, variables = choice.load(config, directory, source)
    options = dict(student_config(config, member.student).model)
    options.pop("input", None)
    info = preprocessing.read(directory)
    description = {
        "run": config.name,
        **member._asdict(),
        "class_names": None if info is None else list(info.class_names),
        "preprocessing": None
        if info is None
        else preprocessing.describe(info, config.view),
    }
    return Network(options.pop("name"), options, variables, description)
