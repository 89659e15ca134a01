"""Flow: an invertible network fitted by exact likelihood (arXiv:1605.08803)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised
from jaxkd.models.real_nvp import RealNVP


def make(spec: Spec) -> Method:
    """Makes an invertible encoder trained by the bits per pixel of dequantised images.

    Images must be in [0, 1] in steps of 1/255, as the view ``handwriting`` makes them:
    uniform noise of one step is added. Clean test images are encoded as they are.

    Args:
      spec: the run; its network is ``real_nvp``.

    Raises:
      UserError: if the network is another one, or the sides cannot be halved twice.
    """
    network, shape = spec.network, spec.image_shape
    if not isinstance(network, RealNVP):
        raise UserError(
            "Method 'flow' needs config.model.name 'real_nvp', got a "
            f"{type(network).__name__}."
        )
    factor = 2 ** (len(network.couplings) - 1)
    if shape[0] % factor or shape[1] % factor:
        raise UserError(
            f"Images have {shape[0]} x {shape[1]} pixels, expected multiples of "
            f"{factor}, for {len(network.couplings)} scales."
        )
    values = float(np.prod(shape))

    def init(key):
        images = jnp.full((2, *shape), 0.5)
        return self_supervised.init_modules(key, {"student": (network, (images,))})

    def forward(params, model_state, batch, key):
        images = batch[spec.input_key]
        noise = jax.random.uniform(key, images.shape)
        dequantised = (255 * images + noise) / 256
        _, features = network.apply({"params": params["student"]}, dequantised)
        outputs = {"h": features["pooled"], "log_p": features["log_likelihood"]}
        return outputs, model_state

    def loss(inputs: LossInputs) -> Loss:
        nats = -inputs.outputs["log_p"] / values + math.log(256)
        value = jnp.mean(nats) / math.log(2)
        spread = self_supervised.feature_std(inputs.outputs["h"])
        metrics = {"bits_per_value": value, "feature_std": spread}
        return Loss(value, inputs.model_state, metrics)

    return self_supervised.pretrainer(spec, init, forward, loss)
