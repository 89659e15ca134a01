"""Networks of BiGAN: generator, encoder and discriminator, dense and convolutional.

Donahue et al., "Adversarial Feature Learning" (arXiv:1605.09782). The dense ones have
the widths of the code of arXiv:2405.18320. Its batch norms have *epsilon* 0.8, surely
meant as momentum; here they are as everywhere.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

SLOPE = 0.2


class DenseGenerator(nn.Module):
    """Codes to pictures in [-1, 1], by dense layers.

    Attributes:
      shape: of the picture: height, width and channels.
      widths: of the hidden layers; the first has no batch norm.
    """

    shape: tuple[int, ...]
    widths: Sequence[int] = (128, 256, 512, 1024)

    @nn.compact
    def __call__(self, codes: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, latents]`` to ``[batch, height, width, channels]``."""
        x = _dense(codes, self.widths, train)
        height, width, channels = self.shape
        x = nn.tanh(layers.Linear(height * width * channels, name="out")(x))
        return x.reshape(-1, height, width, channels)


class DenseEncoder(nn.Module):
    """Pictures to features by dense layers, as a network with logits.

    Attributes:
      num_classes: number of logits.
      widths: of the hidden layers; the first has no batch norm.
      dtype: float32 whatever it is: dense layers compute in at least that.
    """

    num_classes: int
    widths: Sequence[int] = (1024, 512, 256, 128)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits ``[batch, num_classes]`` and ``pooled``, the last layer."""
        x = _dense(images.reshape(len(images), -1), self.widths, train)
        return layers.Linear(self.num_classes, name="fc")(x), {"pooled": x}


class DenseDiscriminator(nn.Module):
    """Judges pictures together with their codes, by dense layers with dropout.

    Attributes:
      widths: of the hidden layers.
      dropout: share of the hidden values dropped in training.
    """

    widths: Sequence[int] = (512, 512, 512)
    dropout: float = 0.4

    @nn.compact
    def __call__(
        self, images: jax.Array, codes: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps pictures and codes to logits ``[batch]``: encoded or generated."""
        x = jnp.concatenate([images.reshape(len(images), -1), codes], axis=-1)
        for index, width in enumerate(self.widths):
            x = nn.leaky_relu(layers.Linear(width, name=f"dense{index}")(x), SLOPE)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return layers.Linear(1, name="out")(x)[:, 0]


class ConvDiscriminator(nn.Module):
    """Judges pictures by convolutions, together with their codes.

    Attributes:
      widths: of the convolutions; every one halves the picture.
      hidden: width of the dense layer that reads both.
      dropout: share of the hidden values dropped in training.
    """

    widths: Sequence[int] = (32, 64, 128)
    hidden: int = 256
    dropout: float = 0.4

    @nn.compact
    def __call__(
        self, images: jax.Array, codes: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps pictures and codes to logits ``[batch]``: encoded or generated."""
        x: Any = images
        for index, width in enumerate(self.widths):
            conv = layers.conv(width, 3, 2, use_bias=True, name=f"conv{index}")
            x = nn.leaky_relu(conv(x), SLOPE)
        flat = x.reshape(len(x), -1)
        code = nn.leaky_relu(layers.Linear(self.hidden, name="code")(codes), SLOPE)
        x = jnp.concatenate([flat, code], axis=-1)
        x = nn.leaky_relu(layers.Linear(self.hidden, name="dense")(x), SLOPE)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return layers.Linear(1, name="out")(x)[:, 0]


def _dense(x: jax.Array, widths: Sequence[int], train: bool) -> jax.Array:
    """Applies dense layers with leaky ReLU, with batch norm from the second on."""
    for index, width in enumerate(widths):
        x = layers.Linear(width, name=f"dense{index}")(x)
        if index:
            x = layers.BatchNorm(train=train, name=f"bn{index}")(x)
        x = nn.leaky_relu(x, SLOPE)
    return x


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "bigan_encoder": (DenseEncoder, {}),
}
