"""A U-Net of EDM as the train loop builds networks: by name, sized by its images."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.edm import SongUNet


class SizedUNet(nn.Module):
    """A SongUNet for square images of whatever size and channels it is shown.

    Attributes:
      num_classes: of the data set.
      conditional: whether the network is told the class.
      model_channels: as in ``SongUNet``, and so are the others.
    """

    num_classes: int
    conditional: bool = False
    model_channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2)
    channel_mult_emb: int = 2
    num_blocks: int = 1
    attn_resolutions: tuple[int, ...] = ()
    dropout: float = 0.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        noise_labels: jax.Array | None = None,
        class_labels: jax.Array | None = None,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Runs the network itself, without preconditioning.

        Args:
          images: noisy and scaled, ``[batch, side, side, channels]``.
          noise_labels: ``[batch]``, ``ln(sigma) / 4``; None is zero.
          class_labels: ``[batch, num_classes]``, one-hot, of a conditional network.
          train: whether to drop out; takes the random key ``dropout``.

        Returns:
          What the network makes, shaped as the images, and no features.
        """
        if noise_labels is None:
            noise_labels = jnp.zeros(len(images), images.dtype)
        network = self.inner(images.shape[1:])
        return network(images, noise_labels, class_labels, train=train), {}

    def inner(self, shape: tuple[int, ...]) -> SongUNet:
        """Returns the SongUNet; its variables lie under ``network``.

        Args:
          shape: ``(side, side, channels)`` of one image.

        Raises:
          ValueError: if the images are not square.
        """
        if len(shape) != 3 or shape[0] != shape[1]:
            raise ValueError(
                f"Images of shape {shape}; expected square ones, [side, side, "
                "channels]."
            )
        return SongUNet(
            img_resolution=shape[0],
            in_channels=shape[-1],
            out_channels=shape[-1],
            label_dim=self.num_classes if self.conditional else 0,
            model_channels=self.model_channels,
            channel_mult=self.channel_mult,
            channel_mult_emb=self.channel_mult_emb,
            num_blocks=self.num_blocks,
            attn_resolutions=self.attn_resolutions,
            dropout=self.dropout,
            dtype=self.dtype,
            name="network",
        )


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "song_unet": (SizedUNet, {}),
}
