"""Where arrays lie: a device mesh, and shardings for batches and training states.

The mesh has three axes. The members of a study (students x seeds) are spread over
``seed`` and have nothing to tell each other; batches are split over all axes, and
gathered along ``seed`` where members see them; parameters are replicated along
``data`` and, where large enough, split along ``fsdp``. On one device all of this is
trivial. Inside ``jit`` the compiler adds the communication.
"""

import math
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
            f"config.mesh is {wanted}, but there are {count} devices. Wanted sizes "
            "that multiply to the number of devices; -1 takes what is left."
        )
    if any(number % shape["seed"] for number in members):
        raise UserError(
            f"config.mesh.seed is {shape['seed']}, but the study compiles groups of "
            f"{', '.join(map(str, members))} (student, seed) pairs. Wanted a divisor "
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


def state(mesh: Mesh, abstract: Any) -> Any:
    """Returns a sharding for each leaf of a training state.

    Leaves lead with an axis over members, which is split along ``seed``; scalars are
    replicated. With more than one device along ``fsdp`` the largest other axis that
    divides evenly is split.
    """
    return jax.tree.map(lambda leaf: _split(mesh, leaf.shape), abstract)


def _split(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    if not shape:
        return replicated(mesh)
    parts = mesh.shape["fsdp"]
    axes: list[str | None] = ["seed", *[None] * (len(shape) - 1)]
    fitting = [axis for axis in range(1, len(shape)) if shape[axis] % parts == 0]
    if parts > 1 and fitting and math.prod(shape[1:]) >= FSDP_MIN_SIZE:
        axes[max(fitting, key=lambda axis: shape[axis])] = "fsdp"
    return NamedSharding(mesh, PartitionSpec(*axes))


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
