"""VID: the student predicts how the teacher's maps vary (arXiv:1904.05835)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation
from jaxkd.models import layers

FIRST_VARIANCE = 5.0
LEAST_VARIANCE = 1e-5


def make(
    spec: Spec,
    *,
    official: bool = False,
    vid_weight: float = 1.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + vid_weight * VID``; see ``distillation``.

    VID is the sum of ``losses.vid`` over the stages of both networks, paired from the
    deepest on.

    Args:
      spec: the run.
      official: whether the variances stay what they are at first, 5, as in
        mdistiller's code, whose optimiser never sees them. Else they are trained, as
        the paper has it.
      vid_weight: of the distillation; it may be negative in value.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the distillation's weight rises.
    """
    return distillation.with_adapter(
        spec,
        "vid",
        Stages(trained=not official),
        ce_weight=ce_weight,
        weight=vid_weight,
        warmup=warmup,
    )


class Stages(nn.Module):
    """Predicts each stage of the teacher from that of the student.

    Attributes:
      trained: whether variances are parameters.
    """

    trained: bool

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Returns the sum of the stages' losses of each example, ``[batch]``."""
        del batch
        pairs = distillation.paired_stages(
            outputs["features"], targets["teacher"]["features"]
        )
        terms = [
            Prediction(self.trained, name=f"pair{number}")(*pair)
            for number, pair in enumerate(pairs, start=1)
        ]
        return jnp.sum(jnp.stack(terms), axis=0)


class Prediction(nn.Module):
    """Three 1x1 convolutions that predict a mean, and a variance per channel.

    Attributes:
      trained: whether the variance is a parameter.
    """

    trained: bool

    @nn.compact
    def __call__(self, student: jax.Array, teacher: jax.Array) -> jax.Array:
        """Returns the loss of one pair of maps, ``[batch]``."""
        width = teacher.shape[-1]
        x = _pool_to(student, teacher.shape[1:3])
        for number in (1, 2, 3):
            name = f"conv{number}"
            x = layers.conv(width, 1, init=layers.TORCH_UNIFORM, name=name)(x)
            x = nn.relu(x) if number < 3 else x
        return losses.vid(x, teacher, self._variance(width))

    def _variance(self, width: int) -> jax.Array:
        if not self.trained:
            return jnp.full(width, FIRST_VARIANCE)
        # The inverse of softplus.
        start = math.log(math.expm1(FIRST_VARIANCE - LEAST_VARIANCE))
        rho = self.param("rho", nn.initializers.constant(start), (width,))
        return jax.nn.softplus(rho) + LEAST_VARIANCE


def _pool_to(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Pools a map to at most a height and width."""
    height, width = map(min, x.shape[1:3], size)
    return losses.adaptive_average_pool(x, (height, width))
