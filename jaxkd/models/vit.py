"""Vision transformers, and the encoder block that other transformers share.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv:2010.11929): patches, a class
token or mean pooling, learned or sine-cosine positions, pre-normalised blocks. The same
network reads a subset of the patches (masked autoencoders) or attends through a mask
(autoregressive models).

Names: ``vit_<size><patch>``, such as ``vit_base32``. ``vit_micro4`` and ``vit_micro8``
are for images of 32 to 64 pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

EPSILON = 1e-6


class FeedForward(nn.Module):
    """The two dense layers of a block, with GELU between them.

    Attributes:
      ratio: width of the hidden layer over that of the input.
      dtype: dtype of the computation; parameters stay float32.
    """

    ratio: float = 4.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[..., width]`` to the same shape."""
        width = x.shape[-1]
        init = nn.initializers.xavier_uniform()
        x = nn.Dense(
            int(self.ratio * width), dtype=self.dtype, kernel_init=init, name="in"
        )(x)
        x = nn.gelu(x, approximate=False)
        return nn.Dense(width, dtype=self.dtype, kernel_init=init, name="out")(x)


class EncoderBlock(nn.Module):
    """Self-attention and a feed-forward network, normalised before, added after.

    Attributes:
      heads: of the attention.
      ratio: of the feed-forward network.
      epsilon: of the layer norms.
      dtype: dtype of the computation; parameters stay float32.
    """

    heads: int
    ratio: float = 4.0
    epsilon: float = EPSILON
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Maps tokens ``[batch, tokens, width]`` to the same shape.

        Args:
          x: tokens.
          mask: boolean, broadcast to ``[batch, heads, queries, keys]``: whether a query
            may attend to a key; None for all.
        """
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=self.heads,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            deterministic=True,
            name="attention",
        )(y, y, mask=mask)
        x = x + y
        y = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
        return x + FeedForward(self.ratio, self.dtype, name="feed_forward")(y)


class ViT(nn.Module):
    """A vision transformer.

    Attributes:
      num_classes: number of logits.
      patch: side of a patch in pixels; images are whole numbers of patches.
      width: of the tokens.
      depth: number of blocks.
      heads: of each block.
      ratio: of the feed-forward networks.
      pool: ``"cls"`` reads the class token, ``"mean"`` averages the patches and has no
        class token.
      positions: ``"learned"``, or ``"sincos"`` for fixed ones.
      grid: rows and columns of patches that the learned positions are stored for; other
        images get them interpolated. None stores those of the images at hand.
      dtype: dtype of the computation; parameters, features and logits stay float32.
    """

    num_classes: int
    patch: int = 16
    width: int = 384
    depth: int = 12
    heads: int = 6
    ratio: float = 4.0
    pool: str = "cls"
    positions: str = "learned"
    grid: tuple[int, int] | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        train: bool = False,
        *,
        keep: jax.Array | None = None,
        mask: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``.
          train: unused; there is no dropout and no batch norm.
          keep: integers ``[batch, kept]``: the patches, counted row by row, that the
            network sees, in this order; None for all.
          mask: boolean, broadcast to ``[batch, heads, queries, keys]``, over the tokens
            with the class token first.

        Returns:
          Logits ``[batch, num_classes]``, and the features ``patches``
          ``[batch, patches, width]`` and ``pooled`` ``[batch, width]``, after the last
          norm, in float32.

        Raises:
          ValueError: if images are not whole numbers of patches, or an attribute is
            unknown.
        """
        del train
        self._check(images)
        x = self._embed(images)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        if self.pool == "cls":
            init = nn.initializers.normal(0.02)
            token = self.param("class_token", init, (1, 1, self.width))
            token = jnp.broadcast_to(token, (len(x), 1, self.width))
            x = jnp.concatenate([token.astype(x.dtype), x], axis=1)
        for index in range(self.depth):
            block = EncoderBlock(
                self.heads, self.ratio, dtype=self.dtype, name=f"block{index}"
            )
            x = block(x, mask)
        x = nn.LayerNorm(epsilon=EPSILON, name="norm")(x)  # in float32
        patches = x[:, 1:] if self.pool == "cls" else x
        pooled = x[:, 0] if self.pool == "cls" else jnp.mean(x, axis=1)
        logits = nn.Dense(self.num_classes, name="fc")(pooled)
        return logits, {"patches": patches, "pooled": pooled}

    def _check(self, images) -> None:
        height, width = images.shape[1:3]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images have {height} x {width} pixels, expected multiples of the "
                f"patch, {self.patch}. Resize them, or set the model's patch."
            )
        for name, known in (
            ("pool", ("cls", "mean")),
            ("positions", ("learned", "sincos")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}, expected one of {known}."
                )

    def _embed(self, images: jax.Array) -> jax.Array:
        """Maps images to tokens of patches with their positions added."""
        x = patchify(images, self.patch).astype(self.dtype)
        grid = images.shape[1] // self.patch, images.shape[2] // self.patch
        dense = nn.Dense(
            self.width,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            name="patch_embedding",
        )
        if self.positions == "sincos":
            return dense(x) + sincos_positions(grid, self.width).astype(self.dtype)
        stored = self.grid or grid
        table = self.param(
            "positions",
            nn.initializers.normal(0.02),
            (1, stored[0] * stored[1], self.width),
        )
        return dense(x) + resize_positions(table, stored, grid).astype(self.dtype)


def patchify(images: jax.Array, patch: int) -> jax.Array:
    """Cuts images into patches, row by row.

    Args:
      images: ``[batch, height, width, channels]``.
      patch: side in pixels.

    Returns:
      ``[batch, patches, patch * patch * channels]``, each row by row, channels last.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    x = images.reshape(batch, rows, patch, columns, patch, channels)
    x = jnp.swapaxes(x, 2, 3)
    return x.reshape(batch, rows * columns, patch * patch * channels)


def unpatchify(patches: jax.Array, grid: tuple[int, int], patch: int) -> jax.Array:
    """Puts patches together again: the inverse of ``patchify``."""
    batch, rows, columns = len(patches), *grid
    x = patches.reshape(batch, rows, columns, patch, patch, -1)
    x = jnp.swapaxes(x, 2, 3)
    return x.reshape(batch, rows * patch, columns * patch, -1)


def resize_positions(
    table: jax.Array, old: tuple[int, int], new: tuple[int, int]
) -> jax.Array:
    """Interpolates stored positions to another grid of patches, bicubically.

    Args:
      table: ``[1, rows * columns, width]`` of the grid ``old``.
      old: rows and columns it is stored for.
      new: rows and columns it is wanted for.

    Returns:
      ``[1, rows * columns, width]`` of the grid ``new``; the same table if equal.
    """
    if tuple(old) == tuple(new):
        return table
    width = table.shape[-1]
    picture = table.reshape(1, *old, width)
    return jax.image.resize(picture, (1, *new, width), "cubic").reshape(1, -1, width)


def sincos_positions(grid: tuple[int, int], width: int) -> jax.Array:
    """Computes fixed two-dimensional positions ``[1, rows * columns, width]``.

    Half of the width encodes the column and half the row, each as sines and cosines of
    ``width / 4`` frequencies from 1 down to nearly 1e-4.

    Raises:
      ValueError: if the width is no multiple of 4.

    Source: He et al. (arXiv:2111.06377), appendix A.1.
    """
    if width % 4:
        raise ValueError(f"width is {width}, expected a multiple of 4 for sincos.")
    frequency = 1e4 ** -(np.arange(width // 4) / (width // 4))
    row, column = (axis.ravel() for axis in np.mgrid[: grid[0], : grid[1]])
    parts = []
    for place in (column, row):
        angle = place[:, None] * frequency
        parts += [np.sin(angle), np.cos(angle)]
    return jnp.asarray(np.concatenate(parts, axis=1)[None], jnp.float32)


_SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
    "large": {"width": 1024, "depth": 24, "heads": 16},
}
_MICRO = {"width": 64, "depth": 4, "heads": 4, "ratio": 2.0}

VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    **{
        f"vit_{size}{patch}": (ViT, {"patch": patch, **options})
        for size, options in _SIZES.items()
        for patch in (16, 32)
    },
    "vit_micro4": (ViT, {"patch": 4, **_MICRO}),
    "vit_micro8": (ViT, {"patch": 8, **_MICRO}),
}
