"""Wide residual networks for small images: ``wrn_16_1`` ... ``wrn_40_2``.

Zagoruyko and Komodakis, "Wide Residual Networks" (arXiv:1605.07146): depth ``6n + 4``,
three stages of ``n`` pre-activation blocks, widths 16, 32, 64 times a factor.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers


class PreActivationBlock(nn.Module):
    """Norm, ReLU, convolution, twice; the shortcut adds the raw input.

    Where the width changes, the shortcut is a 1x1 convolution of the *activated* input
    instead.

    Attributes:
      width: channels.
      stride: of the first convolution.
      conv: makes convolutions.
      norm: makes batch normalisations.
    """

    width: int
    stride: int
    conv: layers.Factory
    norm: layers.Factory

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Maps ``[batch, h, w, c]`` to ``[batch, h / stride, w / stride, width]``.

        Returns:
          The result, and the normalised input before its ReLU.
        """
        preact = self.norm(name="bn1")(x)
        active = nn.relu(preact)
        y = self.conv(self.width, 3, self.stride, name="conv1")(active)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(self.width, 3, name="conv2")(y)
        if x.shape[-1] != self.width:
            x = layers.subsample(active, self.stride)
            x = self.conv(self.width, 1, name="shortcut_conv")(x)
        return x + y, preact


class WideResNet(nn.Module):
    """A wide residual network.

    Attributes:
      num_classes: number of logits.
      blocks: blocks per stage.
      factor: by which the stages are wider than 16, 32 and 64 channels.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: dtype of the computation; parameters and logits stay float32.
    """

    num_classes: int
    blocks: int
    factor: int
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @property
    def preact_norms(self) -> dict[str, tuple[str, ...]]:
        """Where among the parameters the norm before each ``stage1_preact`` ... is."""
        return {
            "stage1": ("stage2_block0", "bn1"),
            "stage2": ("stage3_block0", "bn1"),
            "stage3": ("bn1",),
        }

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]``.
          train: whether batch normalisation uses (and updates) batch statistics.

        Returns:
          Logits ``[batch, num_classes]`` in float32, and the features ``stem`` and
          ``stage1`` ... ``stage3``, which have neither norm nor ReLU,
          ``stage1_preact`` ... (the same, normalised by the block that comes next)
          and ``pooled`` ``[batch, channels]``. The published code evaluates those
          three norms twice, so that their running statistics move twice a step; here
          they are evaluated once, and everything else is equal.
        """
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        x = conv(16, 3, name="conv1")(images)
        features = {"stem": x}
        for stage, stride in enumerate((1, 2, 2), start=1):
            for index in range(self.blocks):
                x, preact = PreActivationBlock(
                    8 * 2**stage * self.factor,
                    stride if index == 0 else 1,
                    conv,
                    norm,
                    name=f"stage{stage}_block{index}",
                )(x)
                if stage > 1 and index == 0:
                    features[f"stage{stage - 1}_preact"] = preact
            features[f"stage{stage}"] = x
        features["stage3_preact"] = norm(name="bn1")(x)
        features["pooled"] = layers.global_mean(nn.relu(features["stage3_preact"]))
        head = layers.Linear(self.num_classes, zero_bias=True, name="fc")
        return head(features["pooled"]), features


VARIANTS = {
    f"wrn_{depth}_{factor}": (
        WideResNet,
        {"blocks": (depth - 4) // 6, "factor": factor},
    )
    for depth, factor in ((16, 1), (16, 2), (16, 4), (28, 2), (28, 4), (40, 1), (40, 2))
}
