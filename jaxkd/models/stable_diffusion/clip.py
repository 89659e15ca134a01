"""CLIP's text and image towers (Radford et al. 2021, arXiv 2103.00020).

The text tower conditions Stable Diffusion; both towers measure how well an image fits a
text. Modules are named after the keys of published checkpoints.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.stable_diffusion.clip_towers import (
    LEGACY_EOS,
    TextModel,
    VisionModel,
    check_ids,
)

# Of the pixels in [0, 1] that CLIP was trained on.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = 100.0


def preprocess(images: jax.Array, size: int = 224) -> jax.Array:
    """Prepares images for the image tower: resizes, crops the centre, normalises.

    Args:
      images: ``[batch, height, width, 3]`` in [0, 1].
      size: of the result; the short side is resized to it bicubically.

    Returns:
      ``[batch, size, size, 3]``.
    """
    batch, height, width, channels = images.shape
    scale = size / min(height, width)
    shape = (batch, round(height * scale), round(width * scale), channels)
    images = jax.image.resize(images, shape, "cubic", antialias=True)
    top, left = (shape[1] - size) // 2, (shape[2] - size) // 2
    images = jnp.clip(images[:, top : top + size, left : left + size], 0.0, 1.0)
    return (images - jnp.asarray(MEAN)) / jnp.asarray(STD)


class ClipTextEncoder(nn.Module):
    """Encodes token numbers: ViT-L/14's text tower, that of Stable Diffusion 1.x.

    Attributes:
      vocab_size: of the tokenizer.
      positions: tokens at most.
      width: of the hidden states.
      layers: of the transformer.
      heads: of its attention.
      mlp_width: of its perceptrons.
      activation: a name in ``ACTIVATIONS``.
      causal: whether a token sees only those before it and itself.
      eos_id: number of the end token, at whose first place the states are pooled; with
        ``LEGACY_EOS`` at the largest number.
      projection_width: of the embedding shared with images; None where there is none.
      dtype: of the computation.
    """

    vocab_size: int = 49408
    positions: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    causal: bool = True
    eos_id: int = LEGACY_EOS
    projection_width: int | None = None
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the parts, under the names they have in checkpoints."""
        self.text_model = TextModel(
            self.vocab_size,
            self.positions,
            self.width,
            self.layers,
            self.heads,
            self.mlp_width,
            self.activation,
            self.causal,
            self.eos_id,
            self.dtype,
        )
        if self.projection_width:
            self.text_projection = _projection(self.projection_width, self.dtype)

    def __call__(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Encodes ``[batch, tokens]``.

        Returns:
          The hidden states after the last norm ``[batch, tokens, width]``, and those of
          the end token ``[batch, width]``.

        Raises:
          ValueError: for more tokens than there are positions.
        """
        check_ids(ids, self.positions)
        return self.text_model(ids)

    def project(self, ids: jax.Array) -> jax.Array:
        """Embeds ``[batch, tokens]`` in the space shared with images."""
        return self.text_projection(self(ids)[1])


class ClipImageEncoder(nn.Module):
    """Encodes images by a vision transformer: ViT-L/14 unless told otherwise.

    Attributes:
      image_size: of the square images, in pixels.
      patch_size: of the square patches, in pixels.
      width: of the hidden states.
      layers: of the transformer.
      heads: of its attention.
      mlp_width: of its perceptrons.
      activation: a name in ``ACTIVATIONS``.
      projection_width: of the embedding shared with texts.
      dtype: of the computation.
    """

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    activation: str = "quick_gelu"
    projection_width: int = 768
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the parts, under the names they have in checkpoints."""
        self.vision_model = VisionModel(
            self.image_size,
            self.patch_size,
            self.width,
            self.layers,
            self.heads,
            self.mlp_width,
            self.activation,
            self.dtype,
        )
        self.visual_projection = _projection(self.projection_width, self.dtype)

    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes images that ``preprocess`` made.

        Args:
          images: ``[batch, image_size, image_size, 3]``.
          train: changes nothing; CLIP has neither dropout nor batch statistics.

        Returns:
          The embedding shared with texts ``[batch, projection_width]``, not normalised;
          and ``"tokens"`` ``[batch, 1 + patches, width]``, of which the first is the
          class token, and ``"pooled"`` ``[batch, width]``, that token after its norm.

        Raises:
          ValueError: for images of another size.
        """
        del train
        expected = (self.image_size, self.image_size, 3)
        if images.shape[1:] != expected:
            raise ValueError(
                f"Images of shape {images.shape}; expected [batch, {expected[0]}, "
                f"{expected[1]}, 3]. Make them with preprocess(images, {expected[0]})."
            )
        tokens, pooled = self.vision_model(images)
        return self.visual_projection(pooled), {"tokens": tokens, "pooled": pooled}


class Clip(nn.Module):
    """Both towers and the scale of their similarities.

    Attributes:
      text: the text tower, with a projection.
      image: the image tower.
    """

    text: ClipTextEncoder
    image: ClipImageEncoder

    def setup(self):
        """Makes the parts, under the names they have in checkpoints."""
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(2.6592), ()
        )

    def __call__(self, ids: jax.Array, images: jax.Array) -> jax.Array:
        """Computes scaled similarities ``[images, texts]``, the logits of CLIP."""
        scale = jnp.minimum(jnp.exp(self.logit_scale), MAX_LOGIT_SCALE)
        return scale * self.encode_image(images) @ self.encode_text(ids).T

    def encode_text(self, ids: jax.Array) -> jax.Array:
        """Embeds texts ``[batch, tokens]`` with unit norm, in float32."""
        return _unit(self.text.project(ids))

    def encode_image(self, images: jax.Array) -> jax.Array:
        """Embeds images that ``preprocess`` made with unit norm, in float32."""
        return _unit(self.image(images)[0])


# Attributes of published towers.
TEXT_VARIANTS: dict[str, dict[str, Any]] = {
    "ViT-L/14": {"projection_width": 768},
    "ViT-B/32": {"width": 512, "heads": 8, "mlp_width": 2048, "projection_width": 512},
}
IMAGE_VARIANTS: dict[str, dict[str, Any]] = {
    "ViT-L/14": {},
    "ViT-B/32": {
        "patch_size": 32,
        "width": 768,
        "layers": 12,
        "heads": 12,
        "mlp_width": 3072,
        "projection_width": 512,
    },
}


def _projection(width: int, dtype: Any) -> nn.Dense:
    return nn.Dense(width, use_bias=False, dtype=dtype)


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
