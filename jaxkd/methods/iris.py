"""Super-resolution of irises by the mean squared error, and recognition after it.

The two-stage baseline of recognition across resolutions, after "Exploring Deep Learning
Image Super-Resolution for Iris Recognition" (arXiv:2311.01241).
"""

import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.evaluators import iris
from jaxkd.methods.common import super_resolution

PREDICTOR = "super_resolution"


def make(spec: Spec) -> Method:
    """Makes a network that enlarges irises, ``mean (x - truth)^2``.

    Args:
      spec: of the run.

    Raises:
      UserError: if sizes differ, or the data have no circles.
    """
    if "circles" not in spec.fields or "label" not in spec.fields:
        raise UserError(
            f"Method 'iris' got the fields {', '.join(spec.fields)}, expected circles "
            "and label beside the image, as of the data set 'irises'."
        )

    def loss(inputs: LossInputs) -> Loss:
        apart = inputs.outputs["image"] - inputs.batch[super_resolution.TRUTH]
        return Loss(jnp.mean(apart**2), inputs.model_state, {})

    return super_resolution.enlarger(spec, loss)._replace(evaluator=iris.find)
