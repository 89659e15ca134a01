"""A small convolutional encoder for small pictures, such as words of handwriting."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


class SmallConv(nn.Module):
    """Convolutions of stride 2, each with batch norm and ReLU.

    Attributes:
      num_classes: number of logits.
      widths: channels of each convolution; every one halves the picture.
      pool: ``"mean"`` averages over the last map; ``"flatten"`` keeps every place of
        it, for pictures in which the place matters.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    widths: Sequence[int] = (16, 32, 64, 64)
    pool: str = "mean"
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch normalisation uses (and updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]``, and the features ``stage1`` ... (after their
          ReLU) and ``pooled`` ``[batch, features]``.

        Raises:
          ValueError: if ``pool`` is unknown.
        """
        if self.pool not in ("mean", "flatten"):
            raise ValueError(f"pool is {self.pool!r}, expected 'mean' or 'flatten'.")
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        x, features = images, {}
        for stage, width in enumerate(self.widths, start=1):
            x = conv(width, 3, 2, name=f"conv{stage}")(x)
            x = nn.relu(norm(name=f"bn{stage}")(x))
            features[f"stage{stage}"] = x
        flat = x.reshape(len(x), -1).astype(jnp.float32)
        pooled = layers.global_mean(x) if self.pool == "mean" else flat
        features["pooled"] = pooled
        return layers.Linear(self.num_classes, name="fc")(pooled), features


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "small_conv": (SmallConv, {}),
    "small_conv_flat": (SmallConv, {"pool": "flatten"}),
}
