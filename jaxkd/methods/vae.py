"""VAE: a Gaussian code from which the picture is drawn again (arXiv:1312.6114)."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.types import LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised, terms
from jaxkd.models.decoders import ConvDecoder, GaussianHead


def make(
    spec: Spec,
    *,
    kl_weight: float = 1.0,
    kl: str = "analytic",
    latents: int = 256,
    widths: tuple[int, ...] = (256, 128, 64, 64),
) -> Method:
    """Makes an encoder of which a decoder can draw the picture again.

    The likelihood is Gaussian with one learned scale for all pixels, which begins at 1.

    Args:
      spec: the run.
      kl_weight: beta.
      kl: ``"analytic"``, or ``"sample"`` as in the code of arXiv:2405.18320: the same
        expectation with more variance.
      latents: numbers of the code, which is a linear map of the encoder's ``pooled``.
      widths: of the decoder, from the smallest map; each doubles the side.

    Raises:
      UserError: if ``kl`` is unknown.
    """
    sampled = lookup.choose(kl, {"analytic": False, "sample": True}, what="kl")
    network, width = spec.network, self_supervised.encoder_features(spec)
    head = GaussianHead(latents)
    decoder = ConvDecoder(spec.image_shape, tuple(widths))

    def init(key):
        params, state = self_supervised.init_modules(
            key,
            {
                "student": (network, (jnp.zeros((2, *spec.image_shape)),)),
                "head": (head, (jnp.zeros((2, width)),)),
                "decoder": (decoder, (jnp.zeros((2, latents)),)),
            },
        )
        return {**params, "log_scale": jnp.zeros(())}, state

    def forward(params, model_state, batch, key):
        (_, features), own = self_supervised.apply(
            network,
            params["student"],
            model_state["student"],
            batch[spec.input_key],
            train=True,
        )
        gaussian: Any = head.apply({"params": params["head"]}, features["pooled"])
        mean, log_variance = gaussian
        noise = jax.random.normal(key, mean.shape)
        code = mean + jnp.exp(log_variance / 2) * noise
        picture, decoded = self_supervised.apply(
            decoder, params["decoder"], model_state["decoder"], code, train=True
        )
        outputs = {
            "h": features["pooled"],
            "mean": mean,
            "log_variance": log_variance,
            "code": code,
            "picture": picture,
        }
        return outputs, {**model_state, "student": own, "decoder": decoded}

    def reconstruction(inputs: LossInputs) -> jax.Array:
        picture, scale = inputs.outputs["picture"], inputs.params["log_scale"]
        target = inputs.batch[spec.input_key]
        return -losses.gaussian_log_likelihood(target, picture, scale)

    def divergence(inputs: LossInputs) -> jax.Array:
        mean, log_variance, code = (
            inputs.outputs[name] for name in ("mean", "log_variance", "code")
        )
        if not sampled:
            return losses.gaussian_kl(mean, log_variance)
        likelihood = losses.gaussian_log_likelihood
        posterior = likelihood(code, mean, log_variance / 2)
        return posterior - likelihood(code, jnp.zeros_like(code), 0.0)

    weighted = {
        "reconstruction": terms.Term(1.0, reconstruction),
        "kl": terms.Term(kl_weight, divergence),
        "feature_std": terms.Term(
            0.0, lambda inputs: self_supervised.feature_std(inputs.outputs["h"])
        ),
    }

    def loss(inputs: LossInputs):
        return terms.add_up(inputs, weighted)

    return self_supervised.pretrainer(spec, init, forward, loss)
