"""CLIP's text and image towers (Radford et al. 2021, arXiv 2103.00020).

The text tower conditions Stable Diffusion; both towers measure how well an image fits a
text. Modules are named after the keys of published checkpoints.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

# Of the pixels in [0, 1] that CLIP was trained on.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
MAX_LOGIT_SCALE = 100.0
# In configurations written before the end token's number was: take the largest number.
LEGACY_EOS = 2


def quick_gelu(x: jax.Array) -> jax.Array:
    """Computes ``x sigmoid(1.702 x)``, the activation of OpenAI's CLIP."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "quick_gelu": quick_gelu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
}


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


class EncoderLayer(nn.Module):
    """Maps tokens by pre-normalised self-attention and a two-layer perceptron.

    Attributes:
      heads: of the attention.
      mlp_width: of the perceptron.
      activation: a name in ``ACTIVATIONS``.
      causal: whether a token sees only those before it and itself.
      dtype: of the computation.
    """

    heads: int
    mlp_width: int
    activation: str = "quick_gelu"
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, tokens, width]`` to the same shape."""
        h = _norm(self.dtype, "layer_norm1")(x)
        x = x + SelfAttention(self.heads, self.causal, self.dtype, name="self_attn")(h)
        h = _norm(self.dtype, "layer_norm2")(x)
        h = nn.Dense(self.mlp_width, dtype=self.dtype, name="mlp_fc1")(h)
        h = ACTIVATIONS[self.activation](h)
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="mlp_fc2")(h)


class SelfAttention(nn.Module):
    """Multi-head self-attention with biases on all four projections.

    Attributes:
      heads: into which the width is split.
      causal: whether a token sees only those before it and itself.
      dtype: of the computation; the softmax is at least float32.
    """

    heads: int
    causal: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, tokens, width]`` to the same shape."""
        q, k, v = (
            nn.Dense(x.shape[-1], dtype=self.dtype, name=name)(x).reshape(
                *x.shape[:-1], self.heads, -1
            )
            for name in ("q_proj", "k_proj", "v_proj")
        )
        out = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out_proj")(
            out.reshape(x.shape)
        )


class TextModel(nn.Module):
    """The transformer of the text tower; see ``ClipTextEncoder`` for the attributes."""

    vocab_size: int
    positions: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    causal: bool
    eos_id: int
    dtype: Any

    @nn.compact
    def __call__(self, ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps ``[batch, tokens]`` to the last hidden states and the pooled one."""
        embed = nn.Embed(
            self.vocab_size,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="embeddings_token_embedding",
        )
        places = nn.Embed(
            self.positions,
            self.width,
            embedding_init=nn.initializers.normal(0.01),
            dtype=self.dtype,
            name="embeddings_position_embedding",
        )
        x = embed(ids) + places(jnp.arange(ids.shape[1]))
        for i in range(self.layers):
            x = EncoderLayer(
                self.heads,
                self.mlp_width,
                self.activation,
                self.causal,
                self.dtype,
                name=f"encoder_layers_{i}",
            )(x)
        x = _norm(self.dtype, "final_layer_norm")(x)
        ends = ids if self.eos_id == LEGACY_EOS else ids == self.eos_id
        pooled = jnp.take_along_axis(
            x, jnp.argmax(ends, axis=1)[:, None, None], axis=1
        )[:, 0]
        return x, pooled


class VisionModel(nn.Module):
    """The transformer of the image tower; see ``ClipImageEncoder`` for attributes."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: str
    dtype: Any

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps images to the hidden states and the pooled class token."""
        patches = nn.Conv(
            self.width,
            (self.patch_size, self.patch_size),
            (self.patch_size, self.patch_size),
            padding="VALID",
            use_bias=False,
            dtype=self.dtype,
            name="embeddings_patch_embedding",
        )(images)
        patches = patches.reshape(len(images), -1, self.width)
        token = self.param(
            "embeddings_class_embedding", nn.initializers.normal(0.02), (self.width,)
        )
        token = jnp.broadcast_to(token, (len(images), 1, self.width))
        x = jnp.concatenate([token.astype(patches.dtype), patches], axis=1)
        count = (self.image_size // self.patch_size) ** 2 + 1
        x = x + nn.Embed(
            count,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=self.dtype,
            name="embeddings_position_embedding",
        )(jnp.arange(count))
        # The published checkpoints spell it so.
        x = _norm(self.dtype, "pre_layrnorm")(x)
        for i in range(self.layers):
            x = EncoderLayer(
                self.heads,
                self.mlp_width,
                self.activation,
                False,
                self.dtype,
                name=f"encoder_layers_{i}",
            )(x)
        return x, _norm(self.dtype, "post_layernorm")(x[:, 0])


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
        _check_ids(ids, self.positions)
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


def _norm(dtype: Any, name: str) -> nn.LayerNorm:
    return layers.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


def _projection(width: int, dtype: Any) -> nn.Dense:
    return nn.Dense(width, use_bias=False, dtype=dtype)


def _unit(x: jax.Array) -> jax.Array:
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def _check_ids(ids: jax.Array, positions: int) -> None:
    if ids.ndim != 2 or ids.shape[1] > positions:
        raise ValueError(
            f"Token numbers of shape {ids.shape}; expected [batch, tokens] with at "
            f"most {positions} tokens. Shorten the prompt."
        )
