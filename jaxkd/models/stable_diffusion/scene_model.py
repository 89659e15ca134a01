"""A tiny text-to-image model of pixels: Stable Diffusion's modules, small.

For checks that need no download: it is trained in minutes on drawn scenes, and the
same attention can be controlled in it.
"""

from typing import Annotated, Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core.ranges import POSITIVE
from jaxkd.diffusion.attention import AttentionFn, plain_attention
from jaxkd.models.stable_diffusion.clip import ClipTextEncoder
from jaxkd.models.stable_diffusion.unet import UNet


class SceneDiffusion(nn.Module):
    """Predicts the noise in small images, given a caption's token numbers.

    Pixels are folded into channels, ``patch x patch`` to one, before the UNet.

    Attributes:
      vocab_size: words.
      tokens: of a caption.
      widths: of the UNet's levels.
      heads: of every attention.
      text_width: of the hidden states of the caption.
      patch: side of the square of pixels that the UNet sees as one.
      channels: of the images.
      groups: of the group norms.
      predicts: what the UNet's output is; see ``UNet``. The result is noise.
      num_classes: not used; for the interface of named networks.
      dtype: of the computation.
    """

    vocab_size: int = 17
    tokens: int = 13
    widths: tuple[int, ...] = (32, 64)
    heads: int = 4
    text_width: Annotated[int, POSITIVE] = 64
    patch: int = 2
    channels: int = 3
    groups: int = 8
    predicts: Literal["noise", "velocity"] = "noise"
    num_classes: int = 0
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the text tower, of one bidirectional layer, and the UNet."""
        self.text_encoder = ClipTextEncoder(
            self.vocab_size,
            self.tokens,
            self.text_width,
            layers=1,
            heads=4,
            mlp_width=2 * self.text_width,
            causal=False,
            eos_id=1,
            dtype=self.dtype,
        )
        folded = self.channels * self.patch**2
        self.unet = UNet(
            in_channels=folded,
            out_channels=folded,
            widths=self.widths,
            layers_per_block=1,
            attention=(True,) + (False,) * (len(self.widths) - 1),
            heads=(self.heads,) * len(self.widths),
            context_width=self.text_width,
            groups=self.groups,
            predicts=self.predicts,
            dtype=self.dtype,
        )

    def __call__(
        self,
        images: jax.Array,
        timesteps: jax.Array | int = 0,
        ids: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Predicts the noise in images ``[batch, height, width, channels]``.

        Args:
          images: noisy, of about [-1, 1].
          timesteps: ``[batch]`` or a scalar.
          ids: token numbers ``[batch, tokens]``; None for those of zeros.
          train: changes nothing.

        Returns:
          The noise, of the shape of the images, and ``"context"``, the hidden states.
        """
        del train
        if ids is None:
            ids = jnp.zeros((len(images), self.tokens), jnp.int32)
        context = self.encode_text(ids)
        return self.controlled(images, timesteps, context)[0], {"context": context}

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Encodes token numbers ``[batch, tokens]`` as hidden states."""
        return self.text_encoder(ids)[0]

    def controlled(
        self,
        images: jax.Array,
        timesteps: jax.Array | int,
        context: jax.Array,
        attn_fn: AttentionFn = plain_attention,
        state: Any = None,
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Predicts the noise given hidden states; see ``UNet.controlled``."""
        folded = fold(images, self.patch)
        out, aux = self.unet.controlled(folded, timesteps, context, attn_fn, state)
        return unfold(out, self.patch), aux


def fold(images: jax.Array, patch: int) -> jax.Array:
    """Folds ``patch x patch`` pixels of ``[batch, h, w, c]`` into channels."""
    batch, height, width, channels = images.shape
    cells = images.reshape(
        batch, height // patch, patch, width // patch, patch, channels
    )
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height // patch, width // patch, patch * patch * channels
    )


def unfold(cells: jax.Array, patch: int) -> jax.Array:
    """Undoes ``fold``."""
    batch, height, width, channels = cells.shape
    split = cells.reshape(batch, height, width, patch, patch, channels // patch**2)
    return split.transpose(0, 1, 3, 2, 4, 5).reshape(
        batch, height * patch, width * patch, channels // patch**2
    )


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "scene_diffusion": (SceneDiffusion, {}),
    "scene_diffusion_narrow": (
        SceneDiffusion,
        {"widths": (16, 24), "text_width": 16, "groups": 4},
    ),
}
