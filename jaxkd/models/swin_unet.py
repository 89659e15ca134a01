"""The U-Net of ResShift: residual blocks told the step, and windows of attention.

Yue et al., "ResShift" (arXiv:2307.12348): the U-Net of Dhariwal and Nichol
(arXiv:2105.05233) in which Swin transformer layers (Liu et al., arXiv:2103.14030) take
the place of attention to all pixels, so that it works at any size that its windows
divide. ``resshift`` is the published size; ``resshift_small`` is for small images.

It is a network of one input, as the others: channels are the noisy image, the enlarged
small image, and a plane that holds the step, from 0 to 1.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core.ranges import Items
from jaxkd.models import layers
from jaxkd.models.super_resolution import conv3x3


def pack(noisy: jax.Array, condition: jax.Array, step: jax.Array) -> jax.Array:
    """Packs the network's input.

    Args:
      noisy: ``[batch, h, w, c]``.
      condition: the same shape.
      step: ``t / (T - 1)``, in [0, 1]: a scalar or ``[batch]``.

    Returns:
      ``[batch, h, w, 2 c + 1]``.
    """
    plane = jnp.broadcast_to(jnp.asarray(step, noisy.dtype), noisy.shape[:1])
    plane = jnp.broadcast_to(plane[:, None, None, None], (*noisy.shape[:3], 1))
    return jnp.concatenate([noisy, condition, plane], axis=-1)


class SwinUNet(nn.Module):
    """A U-Net that predicts the large image.

    Attributes:
      num_classes: unused; networks are built with it.
      width: channels of the first level, divisible by ``groups``.
      multipliers: of the levels' channels; the side halves between them.
      blocks: residual blocks of a level.
      attention: the levels, from 0, whose blocks are followed by Swin layers.
      every_block: whether all of a level's blocks are, or the first on the way down and
        the first on the way up, as in the published network.
      depth: Swin layers each, every second of them with shifted windows.
      embed: width of the Swin layers.
      heads: of their attention.
      window: side of a window.
      groups: of the group normalisation.
      step_scale: what the step is multiplied by before its sinusoids: ``T - 1``.
      remat: whether the backward pass computes the activations of each block anew,
        which takes a third more operations, and memory for blocks' ends alone.
      dtype: of the input; parameters, and what they are multiplied with, are float32.
    """

    num_classes: int = 0
    width: int = 160
    multipliers: Sequence[int] = (1, 2, 2, 4)
    blocks: int = 2
    attention: Annotated[Sequence[int], Items(least=0)] = (0, 1, 2, 3)
    every_block: bool = True
    depth: int = 2
    embed: int = 192
    heads: int = 6
    window: int = 8
    groups: int = 32
    step_scale: float = 14.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Predicts the large image.

        Args:
          images: ``[batch, h, w, 2 c + 1]``, see ``pack``.
          train: without effect.

        Returns:
          ``[batch, h, w, c]``, and the features ``encoder1`` ... of the levels and
          ``middle``.

        Raises:
          ValueError: if the sides do not divide by the levels' strides and windows.
        """
        del train
        self._check(images.shape)
        images = images.astype(self.dtype).astype(jnp.float32)
        step, channels = images[:, 0, 0, -1], (images.shape[-1] - 1) // 2
        emb = step_embedding(self.step_scale * step, self.width)
        emb = nn.silu(layers.Linear(4 * self.width, name="step1")(emb))
        emb = layers.Linear(4 * self.width, name="step2")(emb)
        x = conv3x3(self.width, "head")(images[..., :-1])
        skips, features = [x], {}
        for level, factor in enumerate(self.multipliers):
            for index in range(self.blocks):
                x = self._block(x, emb, factor, f"down{level}_{index}")
                if self.every_block or not index:
                    x = self._attend(x, level, f"down{level}_{index}_swin")
                skips.append(x)
            features[f"encoder{level + 1}"] = x
            if level + 1 < len(self.multipliers):
                x = layers.conv(
                    x.shape[-1],
                    3,
                    2,
                    use_bias=True,
                    init=layers.TORCH_UNIFORM,
                    name=f"shrink{level}",
                )(x)
                skips.append(x)
        last = len(self.multipliers) - 1
        x = self._block(x, emb, self.multipliers[-1], "middle0")
        x = self._attend(x, last, "middle_swin")
        features["middle"] = x = self._block(x, emb, self.multipliers[-1], "middle1")
        for level in reversed(range(len(self.multipliers))):
            for index in range(self.blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                x = self._block(x, emb, self.multipliers[level], f"up{level}_{index}")
                if self.every_block or not index:
                    x = self._attend(x, level, f"up{level}_{index}_swin")
            if level:
                x = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
                x = conv3x3(x.shape[-1], f"enlarge{level}")(x)
        x = nn.silu(layers.GroupNorm(self.groups, name="tail_norm")(x))
        return conv3x3(channels, "tail")(x).astype(jnp.float32), features

    def _block(self, x: jax.Array, emb: jax.Array, factor: int, name: str) -> jax.Array:
        block = nn.remat(StepBlock) if self.remat else StepBlock
        return block(factor * self.width, self.groups, name=name)(x, emb)

    def _attend(self, x: jax.Array, level: int, name: str) -> jax.Array:
        if level not in self.attention:
            return x
        part = nn.remat(SwinLayers) if self.remat else SwinLayers
        return part(self.depth, self.embed, self.heads, self.window, name=name)(x)

    def _check(self, shape: Sequence[int]) -> None:
        coarsest = 2 ** (len(self.multipliers) - 1)
        deepest = max(self.attention, default=0)
        unit = math.lcm(coarsest, self.window * 2**deepest if self.attention else 1)
        if len(shape) != 4 or shape[1] % unit or shape[2] % unit or not shape[3] % 2:
            raise ValueError(
                f"images have shape {tuple(shape)}, expected [batch, height, width, "
                f"2 c + 1] with sides that divide by {unit} (strides times windows). "
                "Pad the image, or lower window or attention."
            )


def step_embedding(t: jax.Array, width: int) -> jax.Array:
    """Embeds ``[batch]`` in cosines, then sines, of periods up to 10000 turns."""
    half = width // 2
    frequencies = jnp.exp(-math.log(10000) * jnp.arange(half) / half)
    angles = t[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class StepBlock(nn.Module):
    """A residual block, scaled and shifted by the step's embedding.

    Attributes:
      width: output channels.
      groups: of the normalisations.
    """

    width: int
    groups: int

    @nn.compact
    def __call__(self, x: jax.Array, emb: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to ``[batch, h, w, width]``."""
        y = nn.silu(layers.GroupNorm(self.groups, name="norm1")(x))
        y = conv3x3(self.width, "conv1")(y)
        told = layers.Linear(2 * self.width, name="told")(nn.silu(emb))
        scale, shift = jnp.split(told[:, None, None], 2, axis=-1)
        y = layers.GroupNorm(self.groups, name="norm2")(y) * (1 + scale) + shift
        start = nn.initializers.zeros  # a block starts as its shortcut
        y = layers.conv(self.width, 3, use_bias=True, init=start, name="conv2")(
            nn.silu(y)
        )
        if x.shape[-1] != self.width:
            x = layers.conv(self.width, 1, use_bias=True, name="shortcut")(x)
        return x + y


class SwinLayers(nn.Module):
    """Transformer layers that attend within windows, shifted in every second layer.

    Attributes:
      depth: layers.
      embed: their width.
      heads: of the attention.
      window: side of a window, which divides the map.
    """

    depth: int
    embed: int
    heads: int
    window: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to the same shape."""
        y = layers.conv(self.embed, 1, use_bias=True, name="in")(x)
        for index in range(self.depth):
            shift = self.window // 2 if index % 2 else 0
            if min(y.shape[1:3]) <= self.window:
                shift = 0  # one window covers the map
            z = layers.LayerNorm(1e-5, name=f"norm{index}a")(y)
            attend = WindowAttention(
                self.heads, self.window, shift, name=f"attention{index}"
            )
            y = y + attend(z)
            z = layers.LayerNorm(1e-5, name=f"norm{index}b")(y)
            z = nn.gelu(layers.Linear(4 * self.embed, name=f"dense{index}a")(z))
            y = y + layers.Linear(self.embed, name=f"dense{index}b")(z)
        return x + layers.conv(x.shape[-1], 1, use_bias=True, name="out")(y)


class WindowAttention(nn.Module):
    """Attention within windows of a map, with a bias for every relative position.

    Attributes:
      heads: which divide the width.
      window: side of a window, which divides the map.
      shift: pixels by which the windows are shifted; pixels that the shift brings
        together from opposite borders do not see each other.
    """

    heads: int
    window: int
    shift: int = 0

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, c]`` to the same shape."""
        _, height, width, channels = x.shape
        side, cells = self.window, self.window**2
        moved = jnp.roll(x, (-self.shift, -self.shift), (1, 2))
        rows = windows(moved, side)  # [batch, windows, cells, c]
        qkv = layers.Linear(3 * channels, name="qkv")(rows)
        qkv = qkv.reshape(*rows.shape[:3], 3, self.heads, channels // self.heads)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        scores = jnp.einsum("bnqhc,bnkhc->bnhqk", q, k) / math.sqrt(q.shape[-1])
        table = self.param(
            "positions",
            nn.initializers.truncated_normal(0.02),
            ((2 * side - 1) ** 2, self.heads),
        )
        bias = table[_relative_places(side)]  # [cells, cells, heads]
        scores = scores + bias.transpose(2, 0, 1)
        if self.shift:
            areas = windows(_areas(height, width, side, self.shift), side)[0, :, :, 0]
            apart = areas[:, :, None] != areas[:, None, :]
            scores = jnp.where(apart[:, None], -1e9, scores)
        mixed = jnp.einsum("bnhqk,bnkhc->bnqhc", nn.softmax(scores), v)
        y = layers.Linear(channels, name="out")(mixed.reshape(rows.shape))
        y = y.reshape(-1, height // side, width // side, cells, channels)
        y = y.reshape(*y.shape[:3], side, side, channels).transpose(0, 1, 3, 2, 4, 5)
        return jnp.roll(y.reshape(x.shape), (self.shift, self.shift), (1, 2))


def windows(x: jax.Array, side: int) -> jax.Array:
    """Splits ``[batch, h, w, c]`` into ``[batch, windows, side^2, c]``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side**2, channels)


def _relative_places(side: int) -> np.ndarray:
    """Numbers the offset between each pair of a window's cells."""
    row, column = np.divmod(np.arange(side**2), side)
    down = row[:, None] - row + side - 1
    across = column[:, None] - column + side - 1
    return down * (2 * side - 1) + across


def _areas(height: int, width: int, side: int, shift: int) -> jax.Array:
    """Numbers the areas of a shifted map whose pixels were neighbours before."""

    def part(size):
        place = np.arange(size)
        return (place >= size - side).astype(int) + (place >= size - shift)

    areas = 3 * part(height)[:, None] + part(width)
    return jnp.asarray(areas, jnp.float32)[None, :, :, None]


VARIANTS: dict[str, Any] = {
    "resshift": (SwinUNet, {"every_block": False}),
    "resshift_small": (
        SwinUNet,
        {
            "width": 32,
            "multipliers": (1, 2, 2),
            "blocks": 1,
            "attention": (2,),
            "depth": 2,
            "embed": 32,
            "heads": 2,
            "window": 4,
            "groups": 8,
            "step_scale": 7.0,
        },
    ),
}
