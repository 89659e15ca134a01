"""What the U-Nets of EDM have in common: the way down, the way up, and the checks."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.edm import layers as parts


class UNet(nn.Module):
    """What the networks have in common; use ``SongUNet`` or ``DhariwalUNet``.

    Attributes:
      img_resolution: height and width of the images, in pixels.
      in_channels: of the images.
      out_channels: of the result; twice as many for a network with a variance.
      label_dim: number of classes; 0 for a network without.
      augment_dim: numbers that describe an augmentation; 0 for a network without.
      model_channels: the width that the others are multiples of.
      channel_mult: width of each level, the finest first.
      channel_mult_emb: width of the embedding.
      num_blocks: residual blocks of each level on the way down.
      attn_resolutions: heights of the levels with self-attention, in pixels.
      dropout: probability, between the convolutions of a block.
      label_dropout: probability that training hides the class of an image.
      dtype: of the computation; normalisation, attention weights and the embedding
        are in float32 at least, and so is the result.
    """

    img_resolution: int = 32
    in_channels: int = 3
    out_channels: int = 3
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.1
    label_dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        noise_labels: jax.Array,
        class_labels: jax.Array | None = None,
        augment_labels: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Runs the network itself, without preconditioning.

        Args:
          images: noisy and scaled, ``[batch, side, side, in_channels]``.
          noise_labels: ``[batch]``, ``ln(sigma) / 4`` for EDM.
          class_labels: ``[batch, label_dim]``, one-hot; None for no class.
          augment_labels: ``[batch, augment_dim]``; None for no augmentation.
          train: whether to drop out; takes the random key ``dropout``.

        Returns:
          ``[batch, side, side, out_channels]``.

        Raises:
          ValueError: if the shapes are not these, or cannot be halved as often as
            there are levels.
        """
        self._check(images, noise_labels, class_labels, augment_labels)
        full = jnp.promote_types(self.dtype, jnp.float32)
        labels = self._labels(class_labels, len(images), train)
        noise = noise_labels.astype(full)
        emb = self._embed(noise, labels, augment_labels)
        x, skips = self._encode(images.astype(self.dtype), emb, train)
        return self._decode(x, skips, emb, train).astype(full)

    def _check(self, images, noise_labels, class_labels, augment_labels) -> None:
        """Raises ValueError for shapes that do not fit."""
        side, levels = self.img_resolution, len(self.channel_mult)
        if side % 2 ** (levels - 1):
            raise ValueError(
                f"img_resolution is {side}; expected a multiple of "
                f"{2 ** (levels - 1)}, "
                f"because channel_mult has {levels} levels."
            )
        batch = images.shape[:1]
        _check_shape("images", images, (*batch, side, side, self.in_channels))
        _check_shape("noise_labels", noise_labels, batch)
        for name, labels, size in (
            ("class_labels", class_labels, self.label_dim),
            ("augment_labels", augment_labels, self.augment_dim),
        ):
            if labels is not None:
                _check_shape(name, labels, (*batch, size))

    def _labels(self, labels, batch: int, train: bool) -> jax.Array | None:
        """Returns the class labels, zero where there are none or they are dropped."""
        if not self.label_dim:
            return None
        if labels is None:
            return jnp.zeros((batch, self.label_dim))
        if not (train and self.label_dropout):
            return labels
        shape = (batch, 1)
        keep = jax.random.uniform(self.make_rng("dropout"), shape) >= self.label_dropout
        return labels * keep

    def _sides(self) -> list[int]:
        return [self.img_resolution >> level for level in range(len(self.channel_mult))]

    def _block(self, width: int, train: bool, name: str, attend=False, resample=""):
        heads = self._heads(width) if attend else 0
        return parts.Block(width, self._style(), resample, heads, train, name=name)

    def _conv(self, x, width: int, name: str, size=3, margin=0) -> jax.Array:
        start, dtype = self._style().starts.main, self.dtype
        return parts.conv(x, width, size, start, dtype=dtype, name=name, margin=margin)

    def _augmentation(self, labels, batch: int, width: int, start: parts.Start):
        """Returns what an augmentation adds to the embedding; 0 for none."""
        if not self.augment_dim:
            return 0.0
        labels = jnp.zeros((batch, self.augment_dim)) if labels is None else labels
        return parts.dense(labels, width, start, name="map_augment", use_bias=False)

    def _encode(self, x: jax.Array, emb: jax.Array, train: bool):
        """Returns the features of the coarsest level, and those of all blocks."""
        skips, aux = [], x
        for level, side in enumerate(self._sides()):
            name = f"enc_{side}x{side}"
            if level == 0:
                x = self._conv(x, self._stem_width(), f"{name}_conv")
            else:
                down = self._block(x.shape[-1], train, f"{name}_down", resample="down")
                x, aux = self._join(down(x, emb), aux, name)
            skips.append(x)
            width = self.model_channels * self.channel_mult[level]
            attend = side in self.attn_resolutions
            for index in range(self.num_blocks):
                x = self._block(width, train, f"{name}_block{index}", attend)(x, emb)
                skips.append(x)
        return x, skips

    def _decode(self, x: jax.Array, skips, emb: jax.Array, train: bool) -> jax.Array:
        result: Any = None
        for level, side in reversed(list(enumerate(self._sides()))):
            name = f"dec_{side}x{side}"
            if level == len(self.channel_mult) - 1:
                x = self._block(x.shape[-1], train, f"{name}_in0", True)(x, emb)
                x = self._block(x.shape[-1], train, f"{name}_in1")(x, emb)
            else:
                up = self._block(x.shape[-1], train, f"{name}_up", resample="up")
                x = up(x, emb)
            width = self.model_channels * self.channel_mult[level]
            for index in range(self.num_blocks + 1):
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                attend = side in self.attn_resolutions and self._attends_up(index)
                x = self._block(width, train, f"{name}_block{index}", attend)(x, emb)
            result = self._head(x, result, level)
        return result

    def _output(self, x: jax.Array, norm: str, conv: str) -> jax.Array:
        style = self._style()
        x = nn.silu(parts.norm(x, style.epsilon, dtype=self.dtype, name=norm))
        last, width = style.starts.last, self.out_channels
        return parts.conv(x, width, 3, last, dtype=self.dtype, name=conv)

    def _join(self, x: jax.Array, aux: jax.Array, name: str):
        """Brings the images, made smaller apart, in again after a level's first block.

        Returns:
          The features, and what the next level makes smaller.
        """
        return x, aux

    def _stem_width(self) -> int:
        return self.model_channels

    def _attends_up(self, index: int) -> bool:
        """Tells whether a block on the way up attends, if its level has attention."""
        return True

    def _embed(self, noise, class_labels, augment_labels) -> jax.Array:
        """Returns the embedding that every block is told, ``[batch, width]``."""
        raise NotImplementedError

    def _style(self) -> parts.Style:
        raise NotImplementedError

    def _heads(self, width: int) -> int:
        """Returns the number of heads of an attention; 0 for none."""
        raise NotImplementedError

    def _head(self, x: jax.Array, result: jax.Array | None, level: int):
        """Returns the result after a level, given the result after the one before."""
        raise NotImplementedError


def _check_shape(name: str, array: jax.Array, wanted: tuple[int, ...]) -> None:
    if array.shape != wanted:
        raise ValueError(f"{name} of shape {array.shape}; expected {wanted}.")
