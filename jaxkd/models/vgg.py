"""VGG with batch normalisation for small images: ``vgg8`` ... ``vgg19``.

Simonyan and Zisserman, "Very Deep Convolutional Networks" (arXiv:1409.1556), with the
three dense layers replaced by one on the averaged features, as the distillation
literature uses it (arXiv:1910.10699).
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


class VGG(nn.Module):
    """Five blocks of 3x3 convolutions with max-pools between them.

    Attributes:
      num_classes: number of logits.
      blocks: channels of the convolutions of each of the five blocks.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    blocks: Sequence[Sequence[int]]
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @property
    def preact_norms(self) -> dict[str, tuple[str, ...]]:
        """Where among the parameters the norm before each ``stage1_preact`` ... is."""
        return {
            f"stage{block}": (f"block{block}_bn{len(widths) - 1}",)
            for block, widths in enumerate(self.blocks)
            if block
        }

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``. The first three blocks end in a
            max-pool; for images of 64 pixels the fourth does too.
          train: whether batch normalisation uses (and updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the features ``stem`` (the
          first block), ``stage1`` ... ``stage4`` (the others), ``stem_preact`` and
          ``stage1_preact`` ... (before their ReLU), all before the max-pools, and
          ``pooled`` ``[batch, channels]``.
        """
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        pooled_blocks = (0, 1, 2, 3) if images.shape[1] == 64 else (0, 1, 2)
        features = {}
        x = images
        for block, widths in enumerate(self.blocks):
            tap = f"stage{block}" if block else "stem"
            for index, width in enumerate(widths):
                make = f"block{block}_conv{index}", f"block{block}_bn{index}"
                x = conv(width, 3, use_bias=True, name=make[0])(x)
                features[f"{tap}_preact"] = norm(name=make[1])(x)
                x = nn.relu(features[f"{tap}_preact"])
            features[tap] = x
            if block in pooled_blocks:
                x = nn.max_pool(x, (2, 2), (2, 2))
        features["pooled"] = layers.global_mean(x)
        head = layers.Linear(
            self.num_classes, kernel_std=0.01, zero_bias=True, name="fc"
        )
        return head(features["pooled"]), features


def _blocks(*counts: int) -> dict[str, Any]:
    widths = (64, 128, 256, 512, 512)
    return {"blocks": tuple((w,) * n for w, n in zip(widths, counts, strict=True))}


VARIANTS = {
    "vgg8": (VGG, _blocks(1, 1, 1, 1, 1)),
    "vgg11": (VGG, _blocks(1, 1, 2, 2, 2)),
    "vgg13": (VGG, _blocks(2, 2, 2, 2, 2)),
    "vgg16": (VGG, _blocks(2, 2, 3, 3, 3)),
    "vgg19": (VGG, _blocks(2, 2, 4, 4, 4)),
}
