"""ReviewKD: shallow teacher stages teach deeper student ones (arXiv:2104.09044).

From the deepest level up, what the student has seen so far is fused with the next
shallower stage, and every fusion is compared with the teacher's stage.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation
from jaxkd.models import layers

MOST_CHANNELS = 512
# Uniform on ±sqrt(3 / fan in).
_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def make(
    spec: Spec,
    *,
    student_preact: bool = False,
    reviewkd_weight: float = 5.0,
    ce_weight: float = 1.0,
    warmup: float = 20.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + reviewkd_weight * ReviewKD``; see
    ``distillation``.

    ReviewKD is the sum of ``losses.hierarchical_context`` over the pooled features, as
    maps of one pixel, and the stages of both networks, paired from the deepest on; the
    teacher's are taken before their ReLU. Sizes and channels are those of the networks.

    Args:
      spec: the run.
      student_preact: whether the student's stages are taken before their ReLU too, as
        in the ImageNet recipe.
      reviewkd_weight: of the distillation. Published ones lie between 1 and 30; the
        default is that of resnet32x4 and resnet8x4.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the distillation's weight rises; 1 for ImageNet.
    """
    return distillation.with_adapter(
        spec,
        "reviewkd",
        Review(student_preact),
        ce_weight=ce_weight,
        weight=reviewkd_weight,
        warmup=warmup,
    )


class Review(nn.Module):
    """Fuses the student's levels from the deepest up.

    Attributes:
      student_preact: whether the student's stages are taken before their ReLU.
    """

    student_preact: bool

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Returns the sum of the levels' losses of each example, ``[batch]``."""
        del batch
        suffix = "_preact" if self.student_preact else ""
        students = _levels(outputs["features"], suffix)
        teachers = _levels(targets["teacher"]["features"], "_preact")
        width = min(MOST_CHANNELS, students[0].shape[-1])
        seen, terms = None, []
        pairs = zip(students, teachers, strict=False)
        for number, (student, teacher) in enumerate(pairs):
            size = teacher.shape[1:]
            fusion = Fusion(width, size, name=f"level{number}")
            output, seen = fusion(student, seen)
            terms.append(losses.hierarchical_context(output, teacher))
        return jnp.sum(jnp.stack(terms), axis=0)


class Fusion(nn.Module):
    """Attention-based fusion (ABF; section 3.3 of the paper).

    Attributes:
      width: channels that are passed on.
      size: ``(height, width, channels)`` of the teacher's level.
    """

    width: int
    size: tuple[int, ...]

    @nn.compact
    def __call__(
        self, x: jax.Array, seen: jax.Array | None
    ) -> tuple[jax.Array, jax.Array]:
        """Fuses a level of the student with what was seen of deeper ones.

        Args:
          x: ``[batch, height, width, channels]``, of any size.
          seen: the same of any height and width, with ``self.width`` channels; or None.

        Returns:
          What is compared with the teacher, ``[batch, *size]``, and what is passed on,
          of the same height and width.
        """
        x = layers.conv(self.width, 1, init=_INIT, name="conv1")(x)
        x = layers.BatchNorm(train=True, name="bn1")(x)
        if seen is not None:
            seen = nearest(seen, x.shape[1:3])
            # A 1x1 convolution.
            attention = layers.Linear(2, name="attention")
            share = nn.sigmoid(attention(jnp.concatenate([x, seen], axis=-1)))
            x = x * share[..., :1] + seen * share[..., 1:]
        x = nearest(x, self.size[:2])
        y = layers.conv(self.size[2], 3, init=_INIT, name="conv2")(x)
        return layers.BatchNorm(train=True, name="bn2")(y), x


def nearest(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Resizes ``[batch, height, width, channels]`` to a height and width.

    Pixel ``i`` of ``m`` is pixel ``floor(i n / m)`` of ``n``, as PyTorch has it;
    ``jax.image.resize`` looks up the middle of pixels instead.
    """
    for axis, wanted in enumerate(size, start=1):
        length = x.shape[axis]
        if wanted != length:
            x = jnp.take(x, np.arange(wanted) * length // wanted, axis=axis)
    return x


def _levels(features: distillation.Features, suffix: str) -> list[jax.Array]:
    """Lists pooled features, as maps of one pixel, and stages from the deepest up."""
    deepest = features["pooled"][:, None, None]
    return [deepest, *reversed(distillation.stages(features, suffix))]
