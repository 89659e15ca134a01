"""TM-CTC: transformers that give character posteriors for every frame (1809.02108).

Recognisers of speech and of lips with one set of 40 characters at 25 frames a second,
as trained on LRS2 by smeetrs/deep_avsr, whose checkpoints ``jaxkd.convert`` reads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.talknet.attention import AttentionLayer
from jaxkd.models.talknet.layers import Where

# Index 0 is CTC's blank, 1 the space, 39 the end of a sequence; by frequency between.
CHARACTERS = ("", *" ETOAINSHRLDUYWGCMFBP'VKJXQZ", *"0192856734", "")


class TMCTC(nn.Module):
    """Twelve transformer layers from features of frames to characters.

    The official code calls the first half encoder and the second decoder; both are
    encoder layers with the norm after the sum.

    Attributes:
      num_classes: characters, blank included.
      width: channels.
      heads: of the attention.
      layers: of each half.
      hidden: units of the dense layers.
      dropout: rate.
      rows: rows of the input for each frame: 4 for spectrograms, whose rows one
        convolution joins; 1 for lip features, which must have ``width`` channels.
    """

    num_classes: int = len(CHARACTERS)
    width: int = 512
    heads: int = 8
    layers: int = 6
    hidden: int = 2048
    dropout: float = 0.1
    rows: int = 1

    @nn.compact
    def __call__(
        self, x: jax.Array, where: Where = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps features to logits of every frame.

        Args:
          x: ``[batch, rows * time, channels]``: spectrogram rows of 321 bins, or lip
            features.
          where: boolean ``[batch, time]``, frames that are there; None: all.
          train: whether dropout is on. Teachers are asked without: the official
            training loop leaves it on, which makes its targets noisy.

        Returns:
          Logits ``[batch, time, num_classes]``, and ``embedding`` below them.

        Raises:
          ValueError: if the channels do not fit.
        """
        if self.rows > 1:
            batch, length, channels = x.shape
            x = x.reshape(batch, length // self.rows, self.rows * channels)
            x = layers.Linear(self.width, name="audio_conv")(x)
        if x.shape[-1] != self.width:
            raise ValueError(
                f"The features have {x.shape[-1]} channels, expected {self.width}, the "
                "width of the network."
            )
        x = x + positions(x.shape[1], self.width)
        for half in ("encoder", "decoder"):
            for number in range(self.layers):
                layer = AttentionLayer(
                    self.heads, self.hidden, self.dropout, name=f"{half}_layer{number}"
                )
                x = layer(x, x, where, train)
        return layers.Linear(self.num_classes, name="output_conv")(x), {"embedding": x}


def positions(count: int, width: int) -> jax.Array:
    """Computes sinusoidal positions ``[count, width]``, sine and cosine in turn."""
    place = jnp.arange(count, dtype=jnp.float32)[:, None]
    power = jnp.arange(0, width, 2, dtype=jnp.float32) / width
    angle = place / 10000.0**power
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1).reshape(count, width)
