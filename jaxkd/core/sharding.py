"""Where arrays lie: a device mesh, and shardings for batches and training states.

The mesh has two axes. Batches are split over both; parameters are replicated along
``data`` and, where large enough, split along ``fsdp``. On one device all of this is
trivial. Inside ``jit`` the compiler adds the communication.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxkd.core.errors import UserError

AXES = ("data", "fsdp")
# Splitting smaller leaves costs more in messages than it saves in memory.
FSDP_MIN_SIZE = 2**16


def make_mesh(sizes: Mapping[str, int]) -> Mesh:
    """Makes a mesh over all devices.

    Args:
      sizes: devices along "data" and "fsdp"; one of them may be -1, for the rest.

    Raises:
      UserError: if the sizes do not multiply to the number of devices.
    """
    shape = [sizes[axis] for axis in AXES]
    count = jax.device_count()
    wanted = dict(zip(AXES, shape, strict=True))
    if shape.count(-1) == 1:
        known = -int(np.prod(shape))
        shape[shape.index(-1)] = count // known if known else 0
    if min(shape) < 1 or int(np.prod(shape)) != count:
        raise UserError(
            f"config.mesh is {wanted}, but there are {count} devices. Wanted sizes "
            "that multiply to the number of devices; -1 takes what is left."
        )
    return jax.make_mesh(tuple(shape), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that keeps a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding that splits axis number ``axis`` over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, AXES))


def state(mesh: Mesh, abstract: Any) -> Any:
    """Returns a sharding for each leaf of a training state.

    Leaves lead with an axis over students. With more than one device along ``fsdp``
    the largest other axis that divides evenly is split.
    """
    return jax.tree.map(lambda leaf: _fsdp(mesh, leaf.shape), abstract)


def _fsdp(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    parts = mesh.shape["fsdp"]
    fitting = [axis for axis in range(1, len(shape)) if shape[axis] % parts == 0]
    if parts == 1 or not fitting or np.prod(shape[1:]) < FSDP_MIN_SIZE:
        return replicated(mesh)
    largest = max(fitting, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * largest, "fsdp"))


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
