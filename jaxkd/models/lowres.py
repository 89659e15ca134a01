"""Networks for 32-pixel teachers and for students that see 8 pixels.

Small residual networks of three blocks. Those for 8 pixels read the small image as it
is: enlarging it first would cost sixteen times as much and add nothing to see. Their
last map is 2 x 2.

- ``lowres_teacher``: blocks of 32, 64 and 128 channels, strides 2, 2, 2, for 32 pixels.
- ``lowres_assistant``: the same with strides 1, 2, 2, for 8 pixels; it can start from
  the teacher's variables, since no shape differs.
- ``lowres_student``: blocks of 24, 48 and 96 channels, for 8 pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.resnet import BasicBlock, ResNet

_WIDTHS = (32, 64, 128)


class Tail(nn.Module):
    """The later stages of a residual network, fed with another network's features.

    Attributes:
      num_classes: number of logits.
      first: number of the first stage that it has; the features are those that come
        out of the stage before.
      widths: of all stages of the whole network.
      strides: likewise.
      side: height that the features are brought to first; 0 leaves them.
      unbiased_variance: see ``layers.BatchNorm``.
      dtype: of the computation; logits stay float32.
    """

    num_classes: int
    first: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    side: int = 0
    unbiased_variance: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and features from features ``[batch, h, w, c]``.

        A 3x3 convolution, strided where the features are too large, maps them to the
        width of the stage that is left out.
        """
        conv, norm = layers.factories(train, self.unbiased_variance, self.dtype)
        stride = max(x.shape[1] // self.side, 1) if self.side else 1
        x = conv(self.widths[self.first - 2], 3, stride, name="enter_conv")(x)
        x = nn.relu(norm(name="enter_bn")(x))
        features = {}
        stages = list(zip(self.widths, self.strides, strict=True))[self.first - 1 :]
        for stage, (width, stride) in enumerate(stages, start=self.first):
            name = f"stage{stage}_block0"
            x = nn.relu(BasicBlock(width, stride, conv, norm, name=name)(x))
            features[f"stage{stage}"] = x
        features["pooled"] = layers.global_mean(x)
        logits = layers.Linear(self.num_classes, name="fc")(features["pooled"])
        return logits, features


VARIANTS = {
    "lowres_teacher": (
        ResNet,
        {"blocks": 1, "stem": 16, "widths": _WIDTHS, "strides": (2, 2, 2)},
    ),
    "lowres_assistant": (
        ResNet,
        {"blocks": 1, "stem": 16, "widths": _WIDTHS, "strides": (1, 2, 2)},
    ),
    "lowres_student": (
        ResNet,
        {"blocks": 1, "stem": 16, "widths": (24, 48, 96), "strides": (1, 2, 2)},
    ),
}
