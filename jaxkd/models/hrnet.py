"""HRNet as a backbone that keeps the full resolution: four maps of one image.

Sun et al., "Deep High-Resolution Representation Learning" (arXiv:1902.09212), in the
small variant W18-small-v2 and as DeFI-Net uses it (arXiv:2408.02191): the two
convolutions of the stem do not stride, so that the first map is as large as the image,
and each stage has one module.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.resnet import BasicBlock, BottleneckBlock

# The initial weights of the official code. With them activations start far below the
# unit variance that running statistics start from, so that evaluation needs some
# thousand steps to follow at the momentum of 0.99.
NARROW = nn.initializers.normal(0.001)


def resize_corners(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Resizes ``[b, h, w, c]`` bilinearly, corner pixels on corner pixels.

    Output position ``i`` samples the input at ``i (n_in - 1) / (n_out - 1)``, as torch
    does with ``align_corners=True``. ``jax.image.resize`` has no such convention.
    """
    down = _corner_weights(x.shape[1], shape[0])
    across = _corner_weights(x.shape[2], shape[1])
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    mixed = jnp.einsum(
        "bhwc,hy,wx->byxc",
        x.astype(dtype),
        down.astype(dtype),
        across.astype(dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    return mixed.astype(x.dtype)


def _corner_weights(source: int, target: int) -> jax.Array:
    """Returns ``[source, target]``: the weight of each input for each output."""
    place = jnp.arange(target) * ((source - 1) / max(target - 1, 1))
    return jnp.maximum(1 - jnp.abs(place - jnp.arange(source)[:, None]), 0)


class HRModule(nn.Module):
    """Residual blocks on each branch, then every branch hears of every other.

    Attributes:
      widths: channels of the branches, from the finest.
      blocks: basic blocks of each branch.
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    widths: Sequence[int]
    blocks: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """Maps one array per branch to as many of the same shapes."""
        grown = []
        for branch, (x, width) in enumerate(zip(maps, self.widths, strict=True)):
            for index in range(self.blocks):
                name = f"branch{branch}_block{index}"
                x = nn.relu(BasicBlock(width, 1, self.conv, self.norm, name=name)(x))
            grown.append(x)
        fused = []
        for to in range(len(grown)):
            parts = [self._carry(x, grown[to], of, to) for of, x in enumerate(grown)]
            fused.append(nn.relu(sum(parts[1:], parts[0])))
        return fused

    def _carry(self, x: jax.Array, like: jax.Array, of: int, to: int) -> jax.Array:
        """Brings the map of branch ``of`` to the size and width of branch ``to``."""
        if of == to:
            return x
        name, width = f"fuse{to}_{of}", self.widths[to]
        if of > to:
            x = self.conv(width, 1, name=f"{name}_conv")(x)
            x = self.norm(name=f"{name}_bn")(x)
            return resize_corners(x, like.shape[1:3])
        for step in range(to - of):
            last = step == to - of - 1
            channels = width if last else self.widths[of]
            x = self.conv(channels, 3, 2, name=f"{name}_conv{step}")(x)
            x = self.norm(name=f"{name}_bn{step}")(x)
            x = x if last else nn.relu(x)
        return x


class HRNet(nn.Module):
    """The backbone.

    Attributes:
      stem_width: channels of the two first convolutions.
      stem_stride: of each of them; 2 is that of the original HRNet.
      stage1_planes: inner width of the bottleneck blocks of stage 1.
      stage1_blocks: their number.
      widths: channels of the four branches, from the finest.
      modules: of stages 2, 3 and 4.
      blocks: basic blocks of each branch in each module.
      momentum: of the running statistics.
      kernel_init: distribution of the initial kernels.
      dtype: of the computation.
    """

    stem_width: int = 64
    stem_stride: int = 1
    stage1_planes: int = 64
    stage1_blocks: int = 2
    widths: Sequence[int] = (18, 36, 72, 144)
    modules: Sequence[int] = (1, 1, 1)
    blocks: int = 2
    momentum: float = 0.99
    kernel_init: nn.initializers.Initializer = NARROW
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> list[jax.Array]:
        """Computes the four maps.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch normalisation uses, and updates, batch statistics.

        Returns:
          Maps of ``widths`` channels, each half as high and wide as the one before it;
          the first is as large as the images if ``stem_stride`` is 1.
        """
        conv = partial(layers.conv, init=self.kernel_init, dtype=self.dtype)
        norm = partial(
            layers.BatchNorm,
            train=train,
            unbiased_variance=True,
            momentum=self.momentum,
            dtype=self.dtype,
        )
        x = images
        for index in (1, 2):
            stem = conv(self.stem_width, 3, self.stem_stride, name=f"conv{index}")
            x = nn.relu(norm(name=f"bn{index}")(stem(x)))
        for index in range(self.stage1_blocks):
            name = f"layer1_block{index}"
            block = BottleneckBlock(self.stage1_planes, 1, conv, norm, name=name)
            x = nn.relu(block(x))
        maps = [x]
        for stage, count in enumerate(self.modules, start=2):
            maps = self._transition(maps, stage, conv, norm)
            for index in range(count):
                name = f"stage{stage}_module{index}"
                widths = tuple(self.widths[:stage])
                maps = HRModule(widths, self.blocks, conv, norm, name=name)(maps)
        return maps

    def _transition(self, maps, stage: int, conv, norm) -> list[jax.Array]:
        """Adds a branch, made of the last; fits the widths of the others."""

        def step(x, branch, stride):
            name = f"transition{stage - 1}_branch{branch}"
            x = conv(self.widths[branch], 3, stride, name=f"{name}_conv")(x)
            return nn.relu(norm(name=f"{name}_bn")(x))

        kept = [
            x if x.shape[-1] == self.widths[branch] else step(x, branch, 1)
            for branch, x in enumerate(maps)
        ]
        return [*kept, step(maps[-1], stage - 1, 2)]
