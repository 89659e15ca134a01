"""Vision transformers, and the encoder block that other transformers share.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (arXiv:2010.11929): patches, a class
token or mean pooling, learned or sine-cosine positions, pre-normalised blocks. The same
network reads a subset of the patches (masked autoencoders) or attends through a mask
(autoregressive models).

Names: ``vit_<size><patch>``, such as ``vit_base32``. ``vit_micro4`` and ``vit_micro8``
are for images of 32 to 64 pixels. ``vit_<size>_patch16_224``,
``deit_<size>_patch16_224`` and ``deit_<size>_distilled_patch16_224`` are timm's, whose
class token has a position of its own; the distilled ones (arXiv:2012.12877) have a
second token with a second classifier.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.models import layers

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
        y = layers.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        y = nn.MultiHeadDotProductAttention(
            num_heads=self.heads,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            deterministic=True,
            name="attention",
        )(y, y, mask=mask)
        x = x + y
        y = layers.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
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
      token_positions: whether learned positions are stored for the tokens before the
        patches too, ahead of theirs, as in published weights.
      distilled: whether a distillation token with a classifier of its own follows the
        class token. Logits are the mean of both classifiers'.
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
    token_positions: bool = False
    distilled: bool = False
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
          norm, in float32. Where all patches are seen, also ``stage1`` ...
          ``[batch, rows, columns, width]``, the patches after each quarter of the
          blocks (of fewer than four blocks, after each), and ``stage1_preact`` ...,
          which are the same, since no ReLU follows. Of a distilled network, also
          ``class_logits`` and ``distillation_logits``.

        Raises:
          ValueError: if images are not whole numbers of patches, or an attribute is
            unknown.
        """
        del train
        self._check(images)
        tokens, x = self._embed(images)
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        count = tokens.shape[1]
        tokens = jnp.broadcast_to(tokens, (len(x), *tokens.shape[1:]))
        x = jnp.concatenate([tokens.astype(x.dtype), x], axis=1)
        grid = images.shape[1] // self.patch, images.shape[2] // self.patch
        features: dict[str, jax.Array] = {}
        ends = _stage_ends(self.depth) if keep is None else ()
        for index in range(self.depth):
            block = EncoderBlock(
                self.heads, self.ratio, dtype=self.dtype, name=f"block{index}"
            )
            x = block(x, mask)
            if index + 1 in ends:
                stage = f"stage{ends.index(index + 1) + 1}"
                maps = x[:, count:].reshape(len(x), *grid, self.width)
                features |= {stage: maps, f"{stage}_preact": maps}
        x = layers.LayerNorm(epsilon=EPSILON, name="norm")(x)  # in float32
        features["patches"] = x[:, count:]
        features["pooled"] = x[:, 0] if count else jnp.mean(x, axis=1)
        logits = nn.Dense(self.num_classes, name="fc")(features["pooled"])
        if self.distilled:
            second = nn.Dense(self.num_classes, name="fc_distillation")(x[:, 1])
            features |= {"class_logits": logits, "distillation_logits": second}
            logits = (logits + second) / 2
        return logits, features

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
        if self.distilled and self.pool != "cls":
            raise ValueError(
                f"a distilled network with pool={self.pool!r}, expected 'cls': its two "
                "classifiers read a token each."
            )

    def _embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps images to the tokens before the patches, and the patches.

        Returns:
          ``[1, tokens, width]``, of 0, 1 or 2 tokens, and ``[batch, patches, width]``,
          both with their positions added.
        """
        x = patchify(images, self.patch).astype(self.dtype)
        grid = images.shape[1] // self.patch, images.shape[2] // self.patch
        dense = nn.Dense(
            self.width,
            dtype=self.dtype,
            kernel_init=nn.initializers.xavier_uniform(),
            name="patch_embedding",
        )
        x = dense(x)
        init = nn.initializers.normal(0.02)
        names = ("class_token", "distillation_token")[: 1 + self.distilled]
        names = names if self.pool == "cls" else ()
        own = len(names) if self.token_positions else 0  # tokens with positions
        if self.positions == "sincos":
            x = x + sincos_positions(grid, self.width).astype(self.dtype)
            table = jnp.zeros((1, 0, self.width))
        else:
            stored = self.grid or grid
            shape = (1, own + stored[0] * stored[1], self.width)
            table = self.param("positions", init, shape)
            place = resize_positions(table[:, own:], stored, grid)
            x = x + place.astype(self.dtype)
        tokens = [self.param(name, init, (1, 1, self.width)) for name in names]
        if not tokens:
            return jnp.zeros((1, 0, self.width)), x
        first = jnp.concatenate(tokens, axis=1)
        return (first + table[:, :own] if own else first), x


def _stage_ends(depth: int) -> tuple[int, ...]:
    """Returns the numbers of blocks after which a quarter of them is done."""
    quarters = (depth * quarter // 4 for quarter in (1, 2, 3, 4))
    return tuple(dict.fromkeys(end for end in quarters if end))


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

# Positions are stored for 224 pixels; other images get them interpolated.
_TIMM: dict[str, Any] = {"patch": 16, "grid": (14, 14), "token_positions": True}

VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    **{
        f"vit_{size}{patch}": (ViT, {"patch": patch, **options})
        for size, options in _SIZES.items()
        for patch in (16, 32)
    },
    **{
        f"{family}_{size}_patch16_224": (ViT, {**_TIMM, **_SIZES[size]})
        for family in ("vit", "deit")
        for size in ("tiny", "small", "base")
    },
    **{
        f"deit_{size}_distilled_patch16_224": (
            ViT,
            {**_TIMM, **_SIZES[size], "distilled": True},
        )
        for size in ("tiny", "small", "base")
    },
    "vit_micro4": (ViT, {"patch": 4, **_MICRO}),
    "vit_micro8": (ViT, {"patch": 8, **_MICRO}),
    # Without class token and with fixed positions, as AIM reads images.
    "vit_micro4_aim": (
        ViT,
        {"patch": 4, **_MICRO, "pool": "mean", "positions": "sincos"},
    ),
}
