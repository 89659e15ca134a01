"""FitNets: a regressor predicts the teacher's middle layer (arXiv:1412.6550)."""

import flax.linen as nn
import jax

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Method, Spec
from jaxkd.methods.common import distillation
from jaxkd.models import layers
from jaxkd.models.conv import conv_general_dilated


def make(
    spec: Spec,
    *,
    layer: str = "stage2",
    fitnet_weight: float = 100.0,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
) -> Method:
    """Makes a student of ``ce_weight * CE + fitnet_weight * hint``; see
    ``distillation``.

    The paper trains the hint first and distils logits after it; here both terms are
    trained together, as in the benchmarks (arXiv:1910.10699).

    Args:
      spec: the run.
      layer: the feature that is predicted, a map that both networks have.
      fitnet_weight: of ``losses.hint``.
      ce_weight: of the cross entropy with the labels.
      warmup: units over which the hint's weight rises.
    """
    return distillation.with_adapter(
        spec,
        "fitnet",
        Hint(layer),
        ce_weight=ce_weight,
        weight=fitnet_weight,
        warmup=warmup,
    )


class Hint(nn.Module):
    """A convolution into the teacher's shape, batch normalisation and ReLU.

    Where the student's map is twice the teacher's, the convolution is 3x3 of stride 2;
    where it is half of it, a transposed 4x4 of stride 2; where it is otherwise equal or
    larger, it has the kernel, without padding, that leaves the teacher's size.

    Attributes:
      layer: name of the feature.
    """

    layer: str

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Returns the hint loss of each example, ``[batch]``.

        Raises:
          UserError: if the feature is missing, no map, or has an impossible size.
        """
        del batch
        student = self._map(outputs["features"], "student")
        teacher = self._map(targets["teacher"]["features"], "teacher")
        x = self._regress(student, teacher.shape)
        x = nn.relu(layers.BatchNorm(train=True, name="bn")(x))
        return losses.hint(x, teacher)

    def _map(self, features: distillation.Features, whose: str) -> jax.Array:
        maps = [name for name, feature in features.items() if feature.ndim == 4]
        if self.layer not in maps:
            raise UserError(
                f"Option layer of method 'fitnet' is {self.layer!r}, which is no map "
                f"of the {whose}, expected one of {', '.join(maps)}."
            )
        return features[self.layer]

    def _regress(self, x: jax.Array, wanted: tuple[int, ...]) -> jax.Array:
        size, goal, width = x.shape[1:3], wanted[1:3], wanted[-1]
        if size == (2 * goal[0], 2 * goal[1]):
            return layers.conv(
                width, 3, 2, use_bias=True, init=layers.TORCH_UNIFORM, name="conv"
            )(x)
        if (2 * size[0], 2 * size[1]) == goal:
            # A transposed convolution is an ordinary one of the map with zeros between
            # its pixels.
            spread = (0, 0, 1)
            x = jax.lax.pad(x, x.dtype.type(0), ((0, 0, 0), spread, spread, (0, 0, 0)))
            return layers.conv(
                width, 4, use_bias=True, init=layers.TORCH_UNIFORM, name="conv"
            )(x)
        kernel = 1 + size[0] - goal[0], 1 + size[1] - goal[1]
        if min(kernel) < 1:
            raise UserError(
                f"The student's {self.layer} is {size[0]}x{size[1]} and the teacher's "
                f"{goal[0]}x{goal[1]}; method 'fitnet' wants it as large, larger, or "
                "half as large. Set its option layer to another map."
            )
        return nn.Conv(
            width,
            kernel,
            padding=0,
            kernel_init=layers.TORCH_UNIFORM,
            conv_general_dilated=conv_general_dilated,
            name="conv",
        )(x)
