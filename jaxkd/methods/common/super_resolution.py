"""Super-resolution as a ``Method``: images that are enlarged, and how close they come.

Networks read the small images (``config.model.input = "low"``, which the view ``low``
makes) and return large ones; the truth is the batch's ``image``, in [-1, 1] (view
``signed``). Quality is measured as the field does: on luminance, rounded to 8 bits,
without a border of as many pixels as the scale.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Score,
    Spec,
)
from jaxkd.losses.numerics import at_least_float32
from jaxkd.methods.common.networks import NetworkFunctions, init_student
from jaxkd.metrics import image_quality

SCORE = Score("psnr", "PSNR on luminance, dB", percent=False)
TRUTH = "image"


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """PSNR in dB, SSIM, and how much of the truth's edge energy is there."""

    psnr: metrics.Average.from_output("psnr")  # type: ignore[valid-type]
    ssim: metrics.Average.from_output("ssim")  # type: ignore[valid-type]
    edges: metrics.Average.from_output("edges")  # type: ignore[valid-type]


@functools.cache
def _network(
    network: nn.Module, image_shape: tuple[int, ...], input_key: str
) -> NetworkFunctions:
    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        del key
        return apply(network, params, model_state, batch[input_key]), model_state

    def predict(params: Params, model_state: ModelState, batch: Batch):
        return {"image": apply(network, params, model_state, batch[input_key])["image"]}

    return NetworkFunctions(init_student(network, image_shape), forward, predict)


def apply(
    network: nn.Module, params: Params, model_state: ModelState, images: jax.Array
) -> dict[str, Any]:
    """Enlarges images: ``image`` and ``features``."""
    variables = {"params": params["student"], **model_state["student"]}
    image, features = network.apply(variables, images, train=False)
    return {"image": image, "features": features}


def enlarger(
    spec: Spec,
    loss: Callable[[LossInputs], Loss],
    targets: Mapping[str, Callable] | None = None,
) -> Method:
    """Makes the method of a network that enlarges images, from its loss.

    Args:
      spec: of the run.
      loss: as in ``Method``.
      targets: likewise.

    Raises:
      UserError: if the network does not make images of the truth's size.
    """
    truth = spec.fields[TRUTH].shape
    made, _ = jax.eval_shape(
        lambda key, images: spec.network.init_with_output(key, images)[0],
        jax.random.key(0),
        spec.batch_shapes(1)[spec.input_key],
    )
    if not hasattr(made, "shape") or made.shape[1:] != truth:
        got = getattr(made, "shape", (None,))[1:]
        raise UserError(
            f"The network makes images of {got} from {spec.image_shape}, but the truth "
            f"is {truth}. Set config.model.scale, or the scale of config.view, to the "
            "ratio of their sides, and config.model.input to the small images (views "
            "'low' and 'real_esrgan')."
        )
    functions = _network(spec.network, spec.image_shape, spec.input_key)
    border = truth[0] // spec.image_shape[0]
    return Method(
        targets=dict(targets or {}),
        loss=loss,
        evaluate=evaluate(border),
        score=SCORE,
        **functions._asdict(),
    )


def l1(inputs: LossInputs) -> jax.Array:
    """Computes the mean absolute error of each image, as a term of a loss."""
    return absolute_error(inputs.outputs["image"], inputs.batch[TRUTH])


def absolute_error(images: jax.Array, truths: jax.Array) -> jax.Array:
    """Computes ``[batch]`` mean absolute errors."""
    apart = jnp.abs(at_least_float32(images) - truths)
    return jnp.mean(apart, axis=tuple(range(1, apart.ndim)))


def to_unit(images: jax.Array) -> jax.Array:
    """Brings images of [-1, 1] to [0, 1], clipped, in steps of 1/255."""
    return jnp.round(255 * jnp.clip((images + 1) / 2, 0, 1)) / 255


# Cached, so that all students of a run hold one function.
@functools.cache
def evaluate(border: int) -> Callable[[Any, Batch], Evaluation]:
    """Returns the evaluation that leaves out ``border`` pixels at every side."""

    def measure(outputs: Any, batch: Batch) -> Evaluation:
        found, truth = (
            image_quality.luminance(image_quality.crop_border(to_unit(images), border))
            for images in (outputs["image"], batch[TRUTH])
        )
        energy = image_quality.edge_energy(truth)
        return Evaluation.single_from_model_output(
            psnr=image_quality.psnr(found, truth),
            ssim=image_quality.ssim(found, truth),
            edges=image_quality.edge_energy(found) / jnp.maximum(energy, 1e-6),
            mask=batch["mask"],
        )

    return measure
