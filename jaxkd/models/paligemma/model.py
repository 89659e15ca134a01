"""PaliGemma: SigLIP's image tokens before the prompt, and Gemma that reads both."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.paligemma.config import PaliGemmaConfig
from jaxkd.models.paligemma.gemma import Cache, Gemma, positions_of, prefix_mask
from jaxkd.models.paligemma.siglip import Siglip


class PaliGemma(nn.Module):
    """The vision-language model.

    Attributes:
      config: sizes, dtype, rematerialisation; see ``PRESETS``.
    """

    config: PaliGemmaConfig

    def setup(self):
        """Makes the vision tower and the decoder."""
        self.img = Siglip(self.config)
        self.llm = Gemma(self.config)

    def __call__(
        self,
        images: jax.Array,
        tokens: jax.Array,
        *,
        causal: jax.Array,
        valid: jax.Array,
        train: bool = False,
    ) -> jax.Array:
        """Computes the logits of the next token at every place.

        Args:
          images: ``[batch, height, width, 3]`` in [-1, 1], or ``[batch, images,
            height, width, 3]`` for several to a sequence.
          tokens: integers ``[batch, length]``; the first ``image_tokens`` of each
            image are placeholders, whatever they hold.
          causal: bool ``[batch, length]``, True on tokens of the suffix.
          valid: bool ``[batch, length]``, True on real tokens.
          train: whether adapters drop inputs; needs the random stream "dropout" if
            ``config.lora_dropout`` is positive.

        Returns:
          float32 ``[batch, length, vocabulary]``; meaningless where not ``valid``.

        Raises:
          ValueError: if shapes do not fit.
        """
        hidden = self.hidden(images, tokens, causal=causal, valid=valid, train=train)
        return self.llm.logits(hidden)

    def hidden(self, images, tokens, *, causal, valid, train: bool = False):
        """Computes what the logits are made of, ``[batch, length, width]``."""
        _check(tokens, causal, valid)
        x = self._embed(images, tokens, train)
        mask = prefix_mask(causal, valid)
        return self.llm(x, positions_of(valid), mask, train=train)[0]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Computes float32 logits ``[..., vocabulary]`` of hidden states."""
        return self.llm.logits(hidden)

    def prefill(self, images, tokens, *, valid, slots: int) -> tuple[jax.Array, Cache]:
        """Runs a prompt and keeps its keys and values.

        Args:
          images: as for a call.
          tokens: ``[batch, length]``, all of them prefix.
          valid: ``[batch, length]``.
          slots: of the cache, at least ``length``; the prompt takes the first.

        Returns:
          Hidden states ``[batch, length, width]``, and the cache.
        """
        _check(tokens, valid, valid)
        x = self._embed(images, tokens, False)
        mask = prefix_mask(jnp.zeros_like(valid), valid)
        hidden, cache = self.llm(x, positions_of(valid), mask)
        padding = [(0, 0), (0, 0), (0, slots - tokens.shape[1]), (0, 0), (0, 0)]
        return hidden, jax.tree.map(lambda part: jnp.pad(part, padding), cache)

    def extend(
        self, tokens, *, positions, mask, cache: Cache, index
    ) -> tuple[jax.Array, Cache]:
        """Runs further tokens on top of a cache.

        Args:
          tokens: ``[batch, length]``.
          positions: ``[batch, length]``.
          mask: bool ``[batch, length, slots]``.
          cache: from ``prefill`` or ``extend``.
          index: slot where the tokens' keys and values go.

        Returns:
          Hidden states ``[batch, length, width]``, and the cache.
        """
        return self.llm(self.llm.embed(tokens), positions, mask, cache, index)

    def _embed(self, images, tokens, train: bool):
        batch, length = tokens.shape
        several = images if images.ndim == 5 else images[:, None]
        if several.ndim != 5 or len(several) != batch:
            raise ValueError(
                f"images have shape {images.shape}, expected [{batch}, height, width, "
                f"3] or [{batch}, images, height, width, 3] to go with tokens of shape "
                f"{tokens.shape}."
            )
        places = several.shape[1] * self.config.image_tokens
        if length < places:
            raise ValueError(
                f"tokens have shape {tokens.shape}, expected at least {places} tokens "
                "in a row: the first are placeholders of the image."
            )
        flat = several.reshape(-1, *several.shape[2:])
        seen = self.img(flat, train).reshape(batch, places, -1)
        # Only the text is scaled by the root of the width.
        return jnp.concatenate([seen, self.llm.embed(tokens[:, places:])], axis=1)


def init(config: PaliGemmaConfig, key: jax.Array) -> dict:
    """Draws a model's parameters afresh, in float32.

    Args:
      config: of the model.
      key: of the random numbers.

    Returns:
      The tree for ``PaliGemma(config).apply({"params": ...}, ...)``.
    """
    tokens = jnp.zeros((1, config.image_tokens + 1), jnp.int32)
    images = jnp.zeros((1, *config.vision.image_shape, 3))
    valid = jnp.ones(tokens.shape, bool)
    variables = PaliGemma(config).init(key, images, tokens, causal=~valid, valid=valid)
    return variables["params"]


def to_model_range(images: jax.Array, image_shape: tuple[int, int]) -> jax.Array:
    """Resizes images to the model's shape, without keeping their aspect.

    Args:
      images: ``[batch, height, width, channels]``, uint8 or in [0, 255]; one channel
        is repeated.
      image_shape: height and width of the model's images.

    Returns:
      float32 ``[batch, *image_shape, 3]`` in [-1, 1]; cubic, smoothed before shrinking.
    """
    wide = images.astype(jnp.float32)
    shape = (len(images), *image_shape, images.shape[-1])
    if wide.shape != shape:
        wide = jax.image.resize(wide, shape, "cubic", antialias=True)
    wide = jnp.clip(wide, 0, 255) / 127.5 - 1
    return jnp.broadcast_to(wide, (*shape[:-1], 3))


def _check(tokens, causal, valid) -> None:
    for name, array in (("causal", causal), ("valid", valid)):
        if array.shape != tokens.shape or array.dtype != jnp.bool_:
            raise ValueError(
                f"{name} is {array.dtype} of shape {array.shape}, expected bool of the "
                f"tokens' shape {tokens.shape}."
            )
