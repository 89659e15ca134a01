"""Text-to-image diffusion: a network that predicts noise, given a caption.

The loss of DDPM (Ho et al. 2020, arXiv 2006.11239, eq. 14) on Stable Diffusion's noise
levels, with captions left out now and then for classifier-free guidance (arXiv
2207.12598). It reads images of [-1, 1] (``config.view.name = "signed"``) and the field
``tokens``.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

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
from jaxkd.diffusion import noise_tables
from jaxkd.drawing import scenes
from jaxkd.methods.common.networks import init_student

SCORE = Score("loss", "noise error", percent=False, lower=True)


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """The mean squared error of the predicted noise."""

    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]


def make(
    spec: Spec,
    *,
    dropout: float = 0.1,
    levels: int = 8,
    weighting: Literal["noise", "velocity"] = "noise",
) -> Method:
    """Makes a network trained to predict the noise in an image.

    ``|eps(sqrt(a) x + sqrt(1 - a) n, t, caption) - n|^2``, averaged over pixels, with t
    uniform; the timesteps of a batch are spread evenly by one random offset.

    The evaluation takes even timesteps, all alike, and the same noise each time.

    Args:
      spec: the run; its network is such as ``scene_diffusion``.
      dropout: share of the captions that are left out.
      levels: timesteps of the evaluation.
      weighting: of the timesteps: all alike, or by ``1 / a``, which makes it the error
        of the velocity (arXiv:2202.00512, appendix D: "SNR + 1"). The first hardly asks
        for what a caption tells, which matters where the image is nearly all noise.

    Raises:
      UserError: for a share outside [0, 1), no levels, or examples without captions.
    """
    if not 0 <= dropout < 1 or levels < 1:
        raise UserError(
            f"captions: dropout={dropout} and levels={levels}; expected a share of 0 "
            "to 1 and at least one level."
        )
    if "tokens" not in spec.fields:
        raise UserError(
            f"captions: the examples have the fields {', '.join(spec.fields)}; "
            "expected tokens too, as config.data.name = 'captions' has."
        )
    network, input_key = spec.network, spec.input_key
    alphas = jnp.asarray(noise_tables.alphas_cumprod())
    empty = jnp.asarray(scenes.Tokenizer().encode(""))

    init = init_student(network, spec.image_shape)

    def error(params, clean, noise, timesteps, tokens):
        noisy = noise_tables.add_noise(clean, noise, alphas[timesteps])
        variables = {"params": params["student"]}
        predicted, _ = network.apply(variables, noisy, timesteps, tokens)
        wide = jnp.promote_types(predicted.dtype, jnp.float32)
        return jnp.mean((predicted.astype(wide) - noise) ** 2, axis=(1, 2, 3))

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        clean, tokens = batch[input_key], batch["tokens"]
        keys, count = jax.random.split(key, 3), len(clean)
        places = (jnp.arange(count) / count + jax.random.uniform(keys[0])) % 1.0
        timesteps = (len(alphas) * places).astype(jnp.int32)
        noise = jax.random.normal(keys[1], clean.shape)
        left_out = jax.random.uniform(keys[2], (count, 1)) < dropout
        tokens = jnp.where(left_out, empty, tokens)
        found = error(params, clean, noise, timesteps, tokens)
        weights = 1 / alphas[timesteps] if weighting == "velocity" else 1.0
        return weights * found, model_state

    def loss(inputs: LossInputs):
        return Loss(jnp.mean(inputs.outputs), inputs.model_state, {})

    def predict(params: Params, model_state: ModelState, batch: Batch):
        del model_state
        clean, tokens = batch[input_key], batch["tokens"]

        def at(level: jax.Array) -> jax.Array:
            timestep = ((level + 0.5) / levels * len(alphas)).astype(jnp.int32)
            noise = jax.random.normal(
                jax.random.fold_in(jax.random.key(0), level), clean.shape
            )
            timesteps = jnp.broadcast_to(timestep, clean.shape[:1])
            return error(params, clean, noise, timesteps, tokens)

        return {"loss": jnp.mean(jax.lax.map(at, jnp.arange(levels)), axis=0)}

    return Method(
        init=init,
        targets={},
        forward=forward,
        loss=loss,
        predict=predict,
        evaluate=_evaluate,
        score=SCORE,
        evaluator=_evaluator(network),
    )


def _evaluate(outputs: Any, batch: Batch) -> Evaluation:
    return Evaluation.single_from_model_output(loss=outputs["loss"], mask=batch["mask"])


# Cached, so that students of one network are evaluated together.
@functools.cache
def _evaluator(network: nn.Module) -> Callable[..., Any]:
    def evaluate(trained: Any) -> Any:
        from jaxkd.evaluators import captions

        return captions.find(trained, network)

    return evaluate
