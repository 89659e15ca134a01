"""Fine-tuning: students that start from the network of ``config.init_from``.

Everything is taken but what depends on the number of classes, the head: it is kept
where the classes are the same, sorted by their names where all of them are known, and
initialised anew where they are not. Images are normalised as the pretrained network
expects.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from jaxkd.core import checkpoint, class_names, integrity
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.study import Student
from jaxkd.core.types import Method, ModelState, Params
from jaxkd.training import choice, preprocessing
from jaxkd.training.workdir import read_config

# What the pretrained variables are called among those of the needed runs.
NAME = "config.init_from"
_Path = tuple[str, ...]


class Pretrained(NamedTuple):
    """A trained network to start from.

    Attributes:
      variables: ``params`` and the other collections, NumPy arrays.
      info: of the data that it was trained on; None if not known.
      record: for the results: ``path``, ``student``, ``seed``, ``use``, ``hash``.
      model: its name.
    """

    variables: Mapping[str, Any]
    info: Info | None
    record: Mapping[str, Any]
    model: str


class Plan(NamedTuple):
    """What becomes of the leaves of the head.

    Attributes:
      fresh: paths of leaves that are initialised anew.
      sorted: paths of leaves whose classes are selected, with the axis.
      positions: of the classes along that axis.
    """

    fresh: tuple[_Path, ...] = ()
    sorted: tuple[tuple[_Path, int], ...] = ()
    positions: tuple[int, ...] = ()


def load(init_from: str) -> Pretrained | None:
    """Loads the network that ``config.init_from`` names; None where it is empty.

    Raises:
      UserError: if there is no such run, or it is not said which of its students.
    """
    if not init_from:
        return None
    source = choice.parse(init_from)
    folder = Path(source.path)
    config = read_config(folder)
    member, variables = choice.load(config, folder, source)
    hashed = integrity.content_hash(variables)
    record = {"path": str(folder), **member._asdict(), "hash": hashed}
    own = config.students.get(member.student, {}).get("model", config.model)
    return Pretrained(variables, preprocessing.read(folder), record, own["name"])


def start(
    students: Sequence[Student],
    pretrained: Pretrained,
    make_networks: Mapping[str, Callable[[int], nn.Module]],
    batch: Mapping[str, jax.ShapeDtypeStruct],
    info: Info,
) -> tuple[tuple[Student, ...], dict[str, Plan]]:
    """Lets students start from a pretrained network.

    Args:
      students: of the run.
      pretrained: the network.
      make_networks: student -> number of classes -> its network.
      batch: shapes of a training batch.
      info: of the run's data.

    Returns:
      The students with their ``warm_start``, and what becomes of each one's head.

    Raises:
      UserError: naming the student that cannot start from it.
    """
    plans = {}
    for student in students:
        try:
            plans[student.name] = plan(
                pretrained,
                student.method,
                make_networks[student.name],
                batch[student.input_key],
                info,
            )
        except UserError as error:
            raise UserError(
                f"The student {student.name!r} cannot start from "
                f"{pretrained.record['path']}, whose network is {pretrained.model} "
                f"(config.model.name): {error}"
            ) from error
    starting = tuple(
        one._replace(method=one.method._replace(warm_start=warm_start(plans[one.name])))
        for one in students
    )
    return starting, plans


def plan(
    pretrained: Pretrained,
    method: Method,
    make_network: Callable[[int], nn.Module],
    image: jax.ShapeDtypeStruct,
    info: Info,
) -> Plan:
    """Compares a pretrained network with the one that a student starts from.

    Args:
      pretrained: the network to start from.
      method: of the student.
      make_network: number of classes -> the student's network.
      image: shape of one input, with a batch axis.
      info: of the run's data.

    Raises:
      UserError: if the networks differ in more than their heads, or the method starts
        from a needed run itself.
    """
    if method.warm_start is not None:
        raise UserError(
            "config.init_from is set, but the student's method starts from a needed "
            "run (its option start_from). Leave out one of the two."
        )
    params, state = jax.eval_shape(method.init, jax.random.key(0))
    own = _flat(params["student"], state["student"])
    theirs = traverse_util.flatten_dict(dict(pretrained.variables))
    head = _head(make_network, image, max(info.num_classes, 1))
    checkpoint.compare(
        pretrained.record["path"],
        {path: leaf for path, leaf in theirs.items() if path not in head},
        {path: leaf for path, leaf in own.items() if path not in head},
    )
    positions = _positions(info, pretrained.info)
    if positions is None or not head.keys() <= theirs.keys():
        return Plan(fresh=tuple(sorted(head)))
    if positions:
        return Plan(sorted=tuple(sorted(head.items())), positions=positions)
    fresh = [path for path in head if theirs[path].shape != own[path].shape]
    return Plan(fresh=tuple(sorted(fresh)))


def _flat(params: Params, state: ModelState) -> dict[_Path, Any]:
    return traverse_util.flatten_dict({"params": params, **state})


def _head(
    make_network: Callable[[int], nn.Module], image: jax.ShapeDtypeStruct, classes: int
) -> dict[_Path, int]:
    """Returns the leaves that depend on the number of classes, with the axis."""
    few, more = (
        traverse_util.flatten_dict(
            jax.eval_shape(make_network(count).init, jax.random.key(0), image)
        )
        for count in (classes, classes + 1)
    )
    return {
        path: [a == b for a, b in zip(leaf.shape, more[path].shape, strict=True)].index(
            False
        )
        for path, leaf in few.items()
        if leaf.shape != more[path].shape
    }


def _positions(info: Info, trained: Info | None) -> tuple[int, ...] | None:
    """Returns where the classes are in the head; None where they are not known."""
    if trained is None or not info.num_classes:
        return ()
    if class_names.by_number(info, trained):
        # Of another number of classes it is not known which of them these are.
        return () if info.num_classes == trained.num_classes else None
    if not set(info.class_names) <= set(trained.class_names):
        return None
    return class_names.positions(
        info.class_names, trained.class_names, "The network of config.init_from"
    )


# Cached, so that students that start alike hold one function.
@functools.cache
def warm_start(plan: Plan) -> Callable[..., tuple[Params, ModelState]]:
    """Returns the ``Method.warm_start`` that follows a plan."""

    def start(
        params: Params, model_state: ModelState, frozen: Mapping[str, Any]
    ) -> tuple[Params, ModelState]:
        own = _flat(params["student"], model_state["student"])
        theirs = traverse_util.flatten_dict(dict(frozen[NAME]))
        axes = dict(plan.sorted)
        taken = {
            path: jnp.take(leaf, jnp.asarray(plan.positions), axis=axes[path])
            if path in axes
            else leaf
            for path, leaf in theirs.items()
            if path in own and path not in plan.fresh
        }
        merged = traverse_util.unflatten_dict({**own, **taken})
        student = merged.pop("params")
        return (
            {**params, "student": student},
            {**model_state, "student": {**model_state["student"], **merged}},
        )

    return start


def report(plan: Plan, config: ConfigDict, trained: Info | None, info: Info) -> str:
    """Returns a line for the terminal: where training starts, and what is new."""
    line = f"{config.name}: starts from {config.init_from}"
    if trained is None or not trained.mean:
        line += "; how its images were normalised is not known, so as the data's are"
    if plan.fresh:
        names = ", ".join("/".join(path[1:]) for path in plan.fresh)
        return line + (
            f"; the head ({names}) is initialised anew, since the classes of "
            f"{info.name} are not all among those it knows"
        )
    if plan.sorted:
        return line + "; the head's classes are selected and sorted by their names"
    line += "; the head is kept"
    if trained and info != trained and class_names.by_number(info, trained):
        line += f"; {class_names.BY_NUMBER}"
    return line
