"""How the members of a group are computed: in turn, side by side, or spread out."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def split_batch(tree: Any, batch: int, mesh: Mesh | None) -> Any:
    """Splits batches ``[draws, batch, ...]`` over the devices that share members.

    Without being told, the compiler gives each device along ``seed`` whole batches,
    which those along the other axes then all compute.
    """
    if mesh is None or mesh.shape["seed"] == 1:
        return tree
    rest = tuple(axis for axis in mesh.axis_names if axis != "seed")
    split = NamedSharding(mesh, PartitionSpec(None, rest))

    def one(leaf: jax.Array) -> jax.Array:
        if leaf.shape[1:2] != (batch,):
            return leaf
        return jax.lax.with_sharding_constraint(leaf, split)

    return jax.tree.map(one, tree)


def over_members(
    function: Callable[[Any, Any], Any],
    stacked: Any,
    shared: Any,
    *,
    loop: str,
    mesh: Mesh | None = None,
) -> Any:
    """Applies a function to every member of a group.

    With several devices along the mesh's axis ``seed``, each computes its part of the
    members, and none waits for another.

    Args:
      function: ``(one, shared) -> results``.
      stacked: what belongs to the members, on a leading axis.
      shared: what is the same for all of them.
      loop: "map" takes a device's members in turn, which keeps their convolutions
        ordinary ones; "vmap" takes them side by side, as grouped convolutions.
      mesh: of devices, or None.

    Returns:
      The results, stacked.
    """

    def run(stacked: Any, shared: Any) -> Any:
        if loop == "vmap":
            return jax.vmap(function, in_axes=(0, None))(stacked, shared)
        return jax.lax.map(lambda one: function(one, shared), stacked)

    if mesh is None or mesh.shape["seed"] == 1:
        return run(stacked, shared)
    spread = jax.shard_map(
        run,
        mesh=mesh,
        in_specs=(PartitionSpec("seed"), PartitionSpec()),
        out_specs=PartitionSpec("seed"),
        axis_names={"seed"},
        check_vma=False,
    )
    return spread(stacked, shared)
