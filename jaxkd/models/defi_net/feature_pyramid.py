"""Dense feature pyramid learning of DeFI-Net (arXiv:2408.02191).

A pyramid whose levels exchange what they know with both neighbours, once from coarse to
fine and once from fine to coarse. Levels count from 1, the finest.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


def halve(x: jax.Array) -> jax.Array:
    """Takes the largest of 3x3 pixels at every other row and column."""
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


def double(x: jax.Array) -> jax.Array:
    """Resizes ``[b, h, w, c]`` bilinearly to twice the height and width.

    Centres are half-pixel ones, as of torch's ``align_corners=False``.
    """
    down, across = (_doubling(size).astype(x.dtype) for size in x.shape[1:3])
    exact = jax.lax.Precision.HIGHEST
    return jnp.einsum("bhwc,yh,xw->byxc", x, down, across, precision=exact)


def _doubling(size: int) -> jax.Array:
    """Returns ``[2 size, size]``: the weight of each pixel for each new one."""
    place = (jnp.arange(2 * size) + 0.5) / 2 - 0.5
    place = jnp.clip(place, 0, size - 1)
    return jnp.maximum(1 - jnp.abs(place[:, None] - jnp.arange(size)), 0)


def resize_to(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Resizes ``[b, h, w, c]`` to ``shape`` as ``double`` does, not antialiased."""
    height, width = x.shape[1:3]
    if tuple(shape) == (height, width):
        return x
    if tuple(shape) == (2 * height, 2 * width):
        return double(x)
    size = (x.shape[0], *shape, x.shape[-1])
    return jax.image.resize(x, size, "bilinear", antialias=False)


class DenseFeaturePyramid(nn.Module):
    """The pyramid, with a skip from the backbone to its end.

    Attributes:
      width: channels of all levels.
      conv: makes convolutions with bias.
      norm: makes batch normalisations.
    """

    width: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        """Maps four arrays, each half as large as the one before, to four of ``width``.

        The links between levels carry what the 1x1 convolutions make, before the 3x3
        convolution, norm and Swish of the level.
        """
        point = partial(self.conv, self.width, 1)
        r1, r2, r3, r4 = (
            point(name=f"reduce{level}")(x) for level, x in enumerate(maps, start=1)
        )
        t4 = point(name="down4")(_join(halve(r3), r4))
        t3 = point(name="down3")(_join(halve(r2), r3, double(r4), double(t4)))
        t2 = point(name="down2")(_join(halve(r1), r2, double(r3), double(t3)))
        t1 = point(name="down1")(_join(r1, double(r2), double(t2)))
        y1, y2, y3, y4 = (
            self._block(t, f"down_block{level}")
            for level, t in enumerate((t1, t2, t3, t4), start=1)
        )
        s1 = point(name="up1")(_join(y1, double(y2)))
        s2 = point(name="up2")(_join(halve(s1), halve(y1), y2, double(y3)))
        s3 = point(name="up3")(_join(halve(s2), halve(y2), y3, double(y4)))
        s4 = point(name="up4")(_join(halve(s3), halve(y3), y4))
        ends = []
        for level, (x, s) in enumerate(zip(maps, (s1, s2, s3, s4), strict=True), 1):
            z = self._block(s, f"up_block{level}")
            joined = point(name=f"out{level}")(_join(x, z))
            ends.append(self._block(joined, f"out_block{level}"))
        return ends

    def _block(self, x: jax.Array, name: str) -> jax.Array:
        x = self.conv(self.width, 3, name=f"{name}_conv")(x)
        return nn.swish(self.norm(name=f"{name}_bn")(x))


class PlainFeaturePyramid(nn.Module):
    """An ordinary top-down pyramid of the same width, to compare with.

    Lin et al., "Feature Pyramid Networks" (arXiv:1612.03144): 1x1 convolutions, sums
    from coarse to fine, and a 3x3 convolution at each level, here with norm and Swish.
    Attributes as of ``DenseFeaturePyramid``.
    """

    width: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> list[jax.Array]:
        """Maps four arrays as ``DenseFeaturePyramid`` does."""
        ends: list[jax.Array] = []
        above = None
        for level in range(len(maps), 0, -1):
            x = self.conv(self.width, 1, name=f"reduce{level}")(maps[level - 1])
            above = x if above is None else x + double(above)
            y = self.conv(self.width, 3, name=f"out_block{level}_conv")(above)
            ends.insert(0, nn.swish(self.norm(name=f"out_block{level}_bn")(y)))
        return ends


def _join(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts, axis=-1)
