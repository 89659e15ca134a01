"""WaveResNet: a residual network that shrinks its maps by the Haar transform.

Made after Lu and Ebrahimi, "Cross-resolution Face Recognition via Identity-Preserving
Network and Knowledge Distillation" (arXiv:2303.08665), of whose network we know the
idea, not the details: where a residual network strides, which aliases, this one
convolves at full size and keeps the low frequencies.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.losses.wavelet import haar
from jaxkd.models import layers
from jaxkd.models.resnet import BasicBlock


class Shrink(nn.Module):
    """Halves a map: the low frequencies, and optionally what is left of the others.

    Attributes:
      width: channels.
      details: whether the three other parts, brought to as many channels by a 1x1
        convolution, are added.
      conv: makes convolutions.
    """

    width: int
    details: bool
    conv: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, width]`` to ``[batch, h / 2, w / 2, width]``."""
        low, *rest = haar(x)
        # The orthonormal LL is twice the mean; the mean keeps the scale of the map.
        low = low / 2
        if self.details:
            together = jnp.concatenate(rest, axis=-1)
            low = low + self.conv(self.width, 1, name="details")(together)
        return low


class WaveResNet(nn.Module):
    """A residual network with Haar transforms in place of strides.

    Attributes:
      num_classes: number of logits.
      stem: channels of the first convolution.
      widths: of the blocks of each stage.
      halve: for each stage, how often its input is halved.
      blocks: blocks of each stage.
      details: see ``Shrink``.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    stem: int = 16
    widths: Sequence[int] = (16, 32, 64)
    halve: Sequence[int] = (0, 1, 1)
    blocks: int = 1
    details: bool = False
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``; sides divide by two as often as
            stages halve.
          train: whether batch normalisation uses (and updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the features ``stem``,
          ``stage1`` ... (after their ReLU) and ``pooled`` ``[batch, channels]``.
        """
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        x = nn.relu(norm(name="bn1")(conv(self.stem, 3, name="conv1")(images)))
        features = {"stem": x}
        stages = zip(self.widths, self.halve, strict=True)
        for stage, (width, times) in enumerate(stages, start=1):
            for time in range(times):
                name = f"stage{stage}_shrink{time}"
                x = Shrink(x.shape[-1], self.details, conv, name=name)(x)
            for index in range(self.blocks):
                block = BasicBlock(width, 1, conv, norm, name=f"stage{stage}_b{index}")
                x = nn.relu(block(x))
            features[f"stage{stage}"] = x
        features["pooled"] = layers.global_mean(x)
        return layers.Linear(self.num_classes, name="fc")(features["pooled"]), features


VARIANTS = {
    "waveresnet8": (WaveResNet, {}),
    "waveresnet14": (WaveResNet, {"blocks": 2}),
    "waveresnet18": (
        WaveResNet,
        {
            "stem": 64,
            "widths": (64, 128, 256, 512),
            "halve": (1, 1, 1, 1),
            "blocks": 2,
        },
    ),
}
