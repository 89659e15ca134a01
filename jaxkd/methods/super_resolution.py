"""Super-resolution by the mean absolute error, alone or beside a teacher's features.

The baselines of ``jaxkd.methods.mkd``: no distillation (``feature_weight=0``), and the
mean absolute difference of features behind a linear map, at the same taps.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core.types import LossInputs, Method, Spec
from jaxkd.evaluators import perceptual
from jaxkd.methods.common import adapters, distillation, super_resolution
from jaxkd.methods.common.networks import frozen_outputs
from jaxkd.methods.common.terms import Term, add_up, check_weights
from jaxkd.models import layers

PREDICTOR = "super_resolution"
NAME = "features"


class FeatureDistance(nn.Module):
    """Compares features behind a 1x1 convolution to the teacher's channels.

    Attributes:
      taps: names of the features.
    """

    taps: Sequence[str]

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Computes ``[batch]``, the sum over taps of mean absolute differences."""
        del batch
        taught, total = targets["teacher"]["features"], jnp.zeros(())
        for tap in self.taps:
            width = taught[tap].shape[-1]
            linear = layers.conv(width, 1, use_bias=True, name=tap)
            own = linear(outputs["features"][tap])
            total = total + super_resolution.absolute_error(own, taught[tap])
        return total


def make(
    spec: Spec,
    *,
    feature_weight: float = 0.0,
    taps: Sequence[str] = ("stage1", "stage2"),
    lpips: str = "",
) -> Method:
    """Makes a network that enlarges images, ``L1 + feature_weight * features``.

    Args:
      spec: of the run; with ``feature_weight`` it must need a teacher.
      feature_weight: of the difference from the teacher's features.
      taps: names of these features.
      lpips: file of weights for LPIPS after training, see
        ``jaxkd.readers.lpips_weights``; empty for none.

    Raises:
      UserError: if the weight is negative, the teacher is missing, sizes differ, or
        LPIPS' file does not fit.
    """
    check_weights({NAME: feature_weight}, "super_resolution")
    evaluator = perceptual.by_file(spec, lpips)
    terms = {"l1": Term(1.0, super_resolution.l1)}
    if not feature_weight:
        method = super_resolution.enlarger(spec, lambda inputs: add_up(inputs, terms))
        return method._replace(evaluator=evaluator)
    teacher = distillation.require(spec, "teacher", "super_resolution")
    adapter = FeatureDistance(tuple(taps))

    def compare(inputs: LossInputs):
        return adapters.apply(adapter, NAME, inputs)

    terms = terms | {NAME: Term(feature_weight, compare)}
    targets = {"teacher": frozen_outputs(teacher, output="image")}
    method = super_resolution.enlarger(
        spec, lambda inputs: add_up(inputs, terms), targets
    )
    method = adapters.with_variables(method, spec, NAME, adapter)
    return method._replace(evaluator=evaluator)
