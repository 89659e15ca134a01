"""Receptive field of a plain 3-D residual network: how far one of its places sees."""

import flax.linen as nn

from jaxkd.models.ct.nlran import NLRAN
from jaxkd.models.ct.resnet import BasicUnit, BottleneckUnit

# Sizes of a unit's kernels beyond one voxel; the first has the unit's stride.
_KERNELS: dict[type[nn.Module], tuple[int, ...]] = {
    BasicUnit: (3, 3),
    BottleneckUnit: (3,),
}


def receptive_field(network: NLRAN) -> tuple[int, int, int]:
    """Computes how many voxels one place of the last feature map depends on.

    The map is the one that is averaged over the volume before the classifier. A
    network whose classifier is linear in that average relates two places only if they
    lie within one receptive field. Batch statistics in training are not counted.

    Args:
      network: without attention and non-local block.

    Returns:
      Along depth, height and width; at the border of a volume it is cut off.

    Raises:
      ValueError: if the network has attention or a non-local block, which see the whole
        volume or nearly so.
    """
    if network.attention != "none" or network.non_local:
        raise ValueError(
            f"attention is {network.attention!r} and non_local {network.non_local}, "
            "expected 'none' and 0: a plain residual network."
        )
    depth, height, width = (
        _along(_windows(network, axis)) for axis in range(len(network.stem_stride))
    )
    return depth, height, width


def _along(windows: list[tuple[int, int]]) -> int:
    """Returns the receptive field of windows ``(size, stride)``, the first the nearest.

    Each sees ``size`` places of the grid before it, which lie as many voxels apart as
    the product of the strides before.
    """
    seen, apart = 1, 1
    for size, stride in windows:
        seen += (size - 1) * apart
        apart *= stride
    return seen


def _windows(network: NLRAN, axis: int) -> list[tuple[int, int]]:
    """Lists the windows of all layers along an axis, from the input on."""
    windows = [(network.stem_size, network.stem_stride[axis])]
    windows += [(3, 2)] if network.pool else []
    first, *others = _KERNELS[network.unit]
    for stage, stride in enumerate(network.strides):
        module = stage < len(network.levels)
        more = network.trunk + 2 * network.outer if module else network.tail
        windows += [(first, stride), *((size, 1) for size in others)]
        windows += [(size, 1) for _ in range(more) for size in _KERNELS[network.unit]]
    return windows
