"""PaliGemma as one of the library's networks: built from a configuration's options."""

import dataclasses
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core.ranges import Range
from jaxkd.models.paligemma.config import PaliGemmaConfig, preset
from jaxkd.models.paligemma.model import PaliGemma

BOS = 2


class PaliGemmaNetwork(nn.Module):
    """A PaliGemma that reads images, or pairs of them as one composite image.

    Attributes:
      num_classes: not used; the vocabulary answers.
      preset: name of the sizes to start from; see ``PRESETS``.
      image_shape: height and width of the model's image; the preset's if empty.
      patch: side of a patch; 0 here and below keeps the preset's.
      vision_width: features of the vision tower.
      vision_depth: its blocks.
      vision_heads: its heads.
      vision_mlp: hidden features of its MLPs.
      text_width: features of the decoder.
      text_depth: its blocks.
      text_heads: its query heads.
      text_head_dim: features of each.
      text_mlp: hidden features of its MLPs.
      vocabulary: tokens.
      lora_alpha: adapters count ``lora_alpha / rank`` times.
      lora_dropout: share of an adapter's inputs that training drops.
      remat: whether the backward pass computes each block's activations anew.
      dtype: of the activations.
    """

    num_classes: int = 0
    preset: str = "tiny"
    image_shape: tuple[int, int] | tuple[()] = ()
    patch: Annotated[int, Range()] = 0
    vision_width: int = 0
    vision_depth: int = 0
    vision_heads: int = 0
    vision_mlp: int = 0
    text_width: int = 0
    text_depth: int = 0
    text_heads: int = 0
    text_head_dim: int = 0
    text_mlp: int = 0
    vocabulary: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def config(self) -> PaliGemmaConfig:
        """The model's configuration; ValueError if there is no such preset."""
        known = preset(
            self.preset,
            dtype=jnp.dtype(self.dtype).name,
            remat=self.remat,
            lora_alpha=float(self.lora_alpha),
            lora_dropout=float(self.lora_dropout),
        )
        vision = {
            "patch": self.patch,
            "width": self.vision_width,
            "depth": self.vision_depth,
            "heads": self.vision_heads,
            "mlp": self.vision_mlp,
            "image_shape": tuple(self.image_shape),
        }
        text = {
            "width": self.text_width,
            "depth": self.text_depth,
            "heads": self.text_heads,
            "head_dim": self.text_head_dim,
            "mlp": self.text_mlp,
            "vocabulary": self.vocabulary,
        }
        return dataclasses.replace(
            known,
            vision=_replaced(known.vision, vision),
            text=_replaced(known.text, text),
        )

    def setup(self):
        """Makes the model, whose parameters are this network's."""
        self.model = PaliGemma(self.config)
        nn.share_scope(self, self.model)

    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes the logits of the first token after the image.

        Args:
          images: ``[batch, height, width, channels]`` in [-1, 1], or pairs as for
            ``compose``.
          train: whether adapters drop inputs.

        Returns:
          Logits ``[batch, vocabulary]``, and the feature ``hidden`` ``[batch, width]``.
        """
        whole = compose(images, self.config.vision.image_shape)
        places = self.config.image_tokens
        tokens = jnp.full((len(whole), places + 1), BOS)
        valid = jnp.ones(tokens.shape, bool)
        hidden = self.model.hidden(
            whole, tokens, causal=~valid, valid=valid, train=train
        )[:, -1]
        return self.model.logits(hidden), {"hidden": hidden}


def compose(images: jax.Array, image_shape: tuple[int, int]) -> jax.Array:
    """Makes the model's image; of a pair, one image with both side by side.

    Each half is scaled without changing its aspect, and stands in the middle of white.

    Args:
      images: ``[batch, height, width, channels]`` in [-1, 1], returned in three
        channels; or pairs of ink, ``[batch, 2, height, width, channels]`` in [0, 1]
        with 0 for paper.
      image_shape: height and width of the model's image.

    Returns:
      ``[batch, *image_shape, 3]`` in [-1, 1].
    """
    if images.ndim == 4:
        return jnp.broadcast_to(images, (*images.shape[:3], 3))
    height, width = image_shape[0], image_shape[1] // 2
    scale = min(height / images.shape[2], width / images.shape[3])
    inner = (round(images.shape[2] * scale), round(images.shape[3] * scale))
    ink = images
    if inner != images.shape[2:4]:
        shape = (*images.shape[:2], *inner, images.shape[4])
        ink = jnp.clip(jax.image.resize(images, shape, "cubic", antialias=True), 0, 1)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    sides = (
        (0, 0),
        (0, 0),
        (top, height - inner[0] - top),
        (left, width - inner[1] - left),
        (0, 0),
    )
    ink = jnp.pad(ink, sides)
    whole = 1 - 2 * jnp.concatenate([ink[:, 0], ink[:, 1]], axis=2)
    rest = image_shape[1] - 2 * width
    whole = jnp.pad(whole, ((0, 0), (0, 0), (0, rest), (0, 0)), constant_values=1)
    return jnp.broadcast_to(whole, (*whole.shape[:3], 3))


def _replaced(sizes: Any, given: dict[str, Any]) -> Any:
    return dataclasses.replace(sizes, **{k: v for k, v in given.items() if v})


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "paligemma": (PaliGemmaNetwork, {})
}
