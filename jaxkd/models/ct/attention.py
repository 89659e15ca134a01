"""Attention for volumes: soft mask branches and CBAM.

Wang et al., "Residual Attention Network for Image Classification" (arXiv:1704.06904),
in three dimensions, with the additions of its widely used PyTorch code; Woo et al.,
"CBAM" (arXiv:1807.06521), to compare with.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.ct import conv as conv3d

_EPSILON = 1e-6


class AttentionModule(nn.Module):
    """Weights what a trunk of residual units computes: ``(1 + M) * T``.

    The mask ``M`` comes from a branch that first sees more and more of the volume
    (max-pooling) and then returns to full size (interpolation).

    Attributes:
      levels: how often the branch pools, if the volume is large enough: no axis is
        pooled below two voxels.
      unit: makes a residual unit from its name; keeps the shape.
      conv: makes convolutions.
      norm: makes batch normalisations.
      trunk: units of the trunk (``t`` in the paper).
      outer: units before the two branches part and after they meet (``p``).
      kind: ``"mixed"``, ``"channel"`` or ``"spatial"`` (section 3.2 of the paper), or
        ``"cbam3d"``: CBAM on the trunk, and no branch; or ``"none"``: the trunk alone,
        the same network without attention.
      extra_skips: whether the branch on its way back also adds the maps it had on its
        way in, and finally the trunk, as the PyTorch code does and the paper does not.
    """

    levels: int
    unit: Callable[[str], nn.Module]
    conv: layers.Factory
    norm: layers.Factory
    trunk: int = 2
    outer: int = 1
    kind: str = "mixed"
    extra_skips: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """Maps ``[batch, d, h, w, c]`` to the same shape.

        Returns:
          The result, and the mask: of the shape of the result, for CBAM with one
          channel, None without attention.

        Raises:
          ValueError: if ``kind`` is unknown.
        """
        for index in range(self.outer):
            x = self.unit(f"before{index}")(x)
        trunk = x
        for index in range(self.trunk):
            trunk = self.unit(f"trunk{index}")(trunk)
        out, mask = self._attend(x, trunk)
        for index in range(self.outer):
            out = self.unit(f"after{index}")(out)
        return out, mask

    def _attend(self, x, trunk):
        if self.kind == "none":
            return trunk, None
        if self.kind == "cbam3d":
            return CBAM(self.conv, name="cbam")(trunk)
        if self.kind not in _ACTIVATIONS:
            kinds = ", ".join([*_ACTIVATIONS, "cbam3d", "none"])
            raise ValueError(f"kind is {self.kind!r}, expected one of {kinds}.")
        mask = _ACTIVATIONS[self.kind](self._branch(x, trunk)).astype(trunk.dtype)
        return (1 + mask) * trunk, mask

    def _branch(self, x: jax.Array, trunk: jax.Array) -> jax.Array:
        """Returns the mask before its activation."""
        maps: list[jax.Array] = []
        y = x
        for level in range(_levels(x.shape[1:4], self.levels)):
            if maps:
                y = maps[-1]
            maps.append(self.unit(f"down{level}")(conv3d.max_pool(y)))
        y = maps.pop() if maps else self.unit("down0")(x)
        y = self.unit("deepest")(y)
        for level in reversed(range(len(maps))):
            y = conv3d.resize(y, maps[level].shape[1:4])
            y = y + maps[level] if self.extra_skips else y
            y = y + self.unit(f"skip{level}")(maps[level])
            y = self.unit(f"up{level}")(y)
        y = conv3d.resize(y, trunk.shape[1:4])
        y = y + trunk if self.extra_skips else y
        for index in range(2):
            y = nn.relu(self.norm(name=f"mask_bn{index}")(y))
            y = self.conv(trunk.shape[-1], 1, name=f"mask_conv{index}")(y)
        return y


def _levels(size: Sequence[int], wanted: int) -> int:
    """Returns how often all axes can be halved, rounding up, and keep two voxels."""
    smallest, possible = min(size), 0
    while possible < wanted and smallest > 2:
        smallest, possible = (smallest + 1) // 2, possible + 1
    return possible


def _channel(x: jax.Array) -> jax.Array:
    """Divides each voxel by its length over the channels."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(squares + _EPSILON)


def _spatial(x: jax.Array) -> jax.Array:
    """Standardises each channel over the voxels, then the sigmoid."""
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    axes = (1, 2, 3)
    centred = x - jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axes, keepdims=True)
    return jax.nn.sigmoid(centred * jax.lax.rsqrt(variance + _EPSILON))


_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "mixed": jax.nn.sigmoid,
    "channel": _channel,
    "spatial": _spatial,
}


class CBAM(nn.Module):
    """Gates channels, then voxels, by their averages and maxima (arXiv:1807.06521).

    Attributes:
      conv: makes convolutions.
      reduction: of the channels inside the perceptron that gates them.
      size: of the kernel that gates the voxels.
    """

    conv: layers.Factory
    reduction: int = 16
    size: int = 7

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps ``[batch, d, h, w, c]`` to the same and to ``[batch, d, h, w, 1]``.

        Returns:
          The gated map, and the gates of the voxels.
        """
        hidden = max(x.shape[-1] // self.reduction, 1)
        first = layers.Linear(hidden, name="squeeze")
        second = layers.Linear(x.shape[-1], name="excite")
        average = second(nn.relu(first(conv3d.global_mean(x))))
        largest = second(nn.relu(first(jnp.max(x, axis=(1, 2, 3)))))
        gates = jax.nn.sigmoid(average + largest)[:, None, None, None]
        x = x * gates.astype(x.dtype)
        summary = [reduce(x, axis=-1, keepdims=True) for reduce in (jnp.mean, jnp.max)]
        mask = self.conv(1, self.size, name="voxels")(jnp.concatenate(summary, -1))
        mask = jax.nn.sigmoid(mask)
        return x * mask, mask


def factories(train: bool, dtype: Any) -> tuple[layers.Factory, layers.Factory]:
    """Returns ``conv`` and ``norm`` with what a whole network has in common."""
    return (
        partial(conv3d.conv, dtype=dtype),
        partial(layers.BatchNorm, train=train, dtype=dtype),
    )
