"""Joint embedding of images and labels: logits are scaled cosines between the two.

The form of SJEDD (arXiv:2408.16305), whose labels are texts that CLIP's text tower
embeds. Here the table of label embeddings is trained itself; where there are weights
of CLIP, it starts from their texts (``python -m jaxkd.convert.clip``).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.losses.numerics import unit
from jaxkd.models.resnet import BasicBlock, ResNet

# The temperature of 0.07 that CLIP starts from, as the logarithm of its inverse.
LOG_SCALE = 2.6592
CONSTANTS = "constants"  # collection of what is loaded and never trained


class LabelTable(nn.Module):
    """Compares embeddings of images with one embedding per label.

    Attributes:
      labels: how many.
      bias: whether each label's logit has one. SJEDD has none; with one, a label graph
        can start undecided.
      learn_scale: whether the scale of the cosines is trained; else it is a constant,
        without gradient and weight decay.
    """

    labels: int
    bias: bool = True
    learn_scale: bool = True

    @nn.compact
    def __call__(self, embedded: jax.Array) -> jax.Array:
        """Computes logits ``[batch, labels]`` in float32 of ``[batch, width]``."""
        start = nn.initializers.normal(1.0)
        table = self.param("embeddings", start, (self.labels, embedded.shape[-1]))
        if self.learn_scale:
            log_scale = self.param("log_scale", nn.initializers.constant(LOG_SCALE), ())
        else:
            log_scale = self.variable(
                CONSTANTS, "log_scale", lambda: jnp.float32(LOG_SCALE)
            ).value
        logits = jnp.exp(log_scale) * jnp.einsum(
            "bd,ld->bl",
            unit(embedded.astype(jnp.promote_types(embedded.dtype, jnp.float32))),
            unit(table),
            precision=jax.lax.Precision.HIGHEST,
        )
        if self.bias:
            logits += self.param("bias", nn.initializers.zeros_init(), (self.labels,))
        return logits


class JointEmbedding(nn.Module):
    """Embeds images by a ResNet, and compares them with a table of labels.

    Attributes:
      num_classes: labels of the table.
      width: of the embedding.
      stem: channels of the first convolution.
      widths: of the blocks of each stage.
      blocks: of each stage.
      strides: of each stage.
      bias: see ``LabelTable``.
      learn_scale: likewise.
      dtype: dtype of the computation; parameters, embeddings and logits stay float32.
    """

    num_classes: int
    width: int = 64
    stem: int = 16
    widths: Sequence[int] = (16, 32, 64)
    blocks: int | Sequence[int] = 1
    strides: Sequence[int] = (1, 2, 2)
    bias: bool = True
    learn_scale: bool = True
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
          Logits ``[batch, num_classes]``, and the features of the ResNet with
          ``embedding`` ``[batch, width]``, as it is.
        """
        # The ResNet's own last layer makes the embedding of the pooled features.
        embedding, features = ResNet(
            self.width,
            blocks=self.blocks,
            strides=self.strides,
            block=BasicBlock,
            stem=self.stem,
            widths=self.widths,
            dtype=self.dtype,
            name="trunk",
        )(images, train)
        table = LabelTable(self.num_classes, self.bias, self.learn_scale, name="fc")
        return table(embedding), {**features, "embedding": embedding}


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "joint_resnet8": (JointEmbedding, {})
}
