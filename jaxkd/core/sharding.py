"""Where arrays lie: a device mesh, and shardings for batches and training states.

The mesh has three axes. The members of a study (students x seeds) are spread over
``seed`` and have nothing to tell each other; batches are split over all axes, and
gathered along ``seed`` where members see them; parameters are replicated along
``data`` and, where ``config.sharding`` says so, split along ``fsdp``. On one device all
of this is trivial. Inside ``jit`` the compiler adds the communication.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxkd.core.errors import UserError

AXES = ("seed", "data", "fsdp")
CHOSEN = {"seed": 0, "data": -1, "fsdp": 1}
# Splitting smaller leaves costs more in messages than it saves in memory.
FSDP_MIN_SIZE = 2**16

# A regular expression, searched in a leaf's path, and a tactic: "replicate", "fsdp", or
# the number of the axis to split.
Rule = tuple[str, str | int]
TACTICS = ("replicate", "fsdp")
RULES: tuple[Rule, ...] = ((".*", "fsdp"),)


def make_mesh(
    sizes: Mapping[str, int],
    members: Sequence[int] = (1,),
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Makes a mesh over all devices.

    ``CHOSEN`` leaves devices of a CPU idle to which no member falls: they share its
    cores, and splitting batches over them only costs time.

    Args:
      sizes: devices along each axis; those not named are as in ``CHOSEN``. "seed" may
        be 0, for as many as divide every group's members; one of "data" and "fsdp" may
        be -1, for the rest.
      members: number of members of each group of the study.
      devices: instead of those that are there.

    Raises:
      UserError: if the sizes do not multiply to the number of devices, or the members
        cannot be spread evenly.
    """
    wanted = {**CHOSEN, **sizes}
    shape = dict(wanted)
    present = jax.devices() if devices is None else devices
    count = len(present)
    if wanted == CHOSEN and devices is None and _is_one_cpu():
        count = math.gcd(count, *members)
    if not shape["seed"]:
        others = max(shape["data"], 1) * max(shape["fsdp"], 1)
        shape["seed"] = math.gcd(max(count // others, 1), *members)
    if list(shape.values()).count(-1) == 1:
        known = -math.prod(shape.values())
        rest = count // known if known > 0 else 0
        shape = {axis: rest if size == -1 else size for axis, size in shape.items()}
    if min(shape.values()) < 1 or math.prod(shape.values()) != count:
        raise UserError(
            f"config.mesh is {wanted}, but there are {count} devices. Expected sizes "
            "that multiply to the number of devices; -1 takes what is left."
        )
    if any(number % shape["seed"] for number in members):
        raise UserError(
            f"config.mesh.seed is {shape['seed']}, but the study compiles groups of "
            f"{', '.join(map(str, members))} (student, seed) pairs. Expected a divisor "
            "of each, or 0, which chooses one."
        )
    return jax.make_mesh(
        tuple(shape.values()),
        AXES,
        axis_types=(AxisType.Auto,) * len(AXES),
        devices=present[:count],
    )


def _is_one_cpu() -> bool:
    return jax.default_backend() == "cpu" and jax.process_count() == 1


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that splits axis number ``axis`` over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))


def state(mesh: Mesh, abstract: Any, rules: Sequence[Rule] = RULES) -> Any:
    """Returns a sharding for each leaf of a training state.

    Leaves lead with an axis over members, which is split along ``seed``; scalars are
    replicated. With more than one device along ``fsdp``, the first rule whose pattern
    is found in the leaf's path (which ends as ``params/student/conv1/kernel``, and
    alike for the optimiser's state) says how the leaf of one member is laid out:
    "replicate"; "fsdp", which splits the largest axis that divides evenly, if the leaf
    has at least ``FSDP_MIN_SIZE`` numbers; or the number of the axis to split, of
    whatever size. A leaf that no pattern fits is replicated.

    Raises:
      UserError: if a pattern is found in no path, or an axis cannot be split.
    """
    names = [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(abstract)]
    for pattern, _ in rules:
        if not any(re.search(pattern, name) for name in names):
            raise UserError(
                f"config.sharding: {pattern!r} is found in no leaf's path. Expected a "
                f"regular expression for paths such as {', '.join(names[:5])}."
            )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _split(mesh, _name(path), leaf.shape, rules), abstract
    )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _split(
    mesh: Mesh, name: str, shape: tuple[int, ...], rules: Sequence[Rule]
) -> NamedSharding:
    if not shape:
        return replicated(mesh)
    axes: list[str | None] = ["seed", *[None] * (len(shape) - 1)]
    tactic = next((rule for at, rule in rules if re.search(at, name)), "replicate")
    axis = _axis(tactic, name, shape[1:], mesh.shape["fsdp"])
    if axis is not None:
        axes[1 + axis] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*axes))


def _axis(
    tactic: str | int, name: str, shape: tuple[int, ...], parts: int
) -> int | None:
    """Returns the axis of one member's leaf that a tactic splits, if any."""
    if parts == 1 or tactic == "replicate":
        return None
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if tactic == "fsdp":
        large = math.prod(shape) >= FSDP_MIN_SIZE
        return max(fitting, key=shape.__getitem__) if fitting and large else None
    assert isinstance(tactic, int)
    axis = tactic + len(shape) if tactic < 0 else tactic
    if axis not in fitting:
        raise UserError(
            f"config.sharding splits axis {tactic} of {name}, which has shape {shape}, "
            f"over {parts} devices. Expected an axis of a size that they divide."
        )
    return axis


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Lays out host arrays, of which every process holds the whole, over devices."""

    def one(array):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(one, tree)


def put_local(tree: Any, sharding: NamedSharding) -> Any:
    """Lays out host arrays of which every process holds its own part."""
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, x), tree
    )


def fetch(tree: Any, mesh: Mesh) -> Any:
    """Copies arrays to the host of every process, wherever their parts lie."""
    return jax.device_get(jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree))


def check_batch(mesh: Mesh, batch_size: int, what: str) -> None:
    """Checks that a batch divides over the devices.

    Raises:
      UserError: if it does not.
    """
    count = mesh.size
    if batch_size % count:
        near = max(round(batch_size / count), 1) * count
        raise UserError(
            f"{what} is {batch_size}, which does not divide over {count} devices. "
            f"Batch sizes are global; {near} would do."
        )
