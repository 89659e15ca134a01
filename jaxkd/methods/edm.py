"""EDM: a denoiser of images at every level of noise (arXiv:2206.00364).

The network learns to tell the clean image from one with Gaussian noise of standard
deviation sigma, log-normal; samplers (``jaxkd.diffusion``) then turn noise into images.
It reads images of [-1, 1] (``config.view.name = "signed"``).
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics
from jax.scipy.special import ndtri
from jax.tree_util import Partial

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.options import Range
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
from jaxkd.diffusion import denoisers
from jaxkd.methods.common.networks import init_student

SCORE = Score("loss", "EDM loss", percent=False, lower=True)


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """The mean weighted denoising error."""

    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]


def make(
    spec: Spec,
    *,
    sigma_data: float = 0.5,
    log_mean: Annotated[float, Range(low=None)] = -1.2,
    log_std: float = 1.2,
    levels: int = 8,
    draw_samples: bool = True,
) -> Method:
    """Makes a denoiser trained with EDM's loss (arXiv:2206.00364, table 1).

    ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 |D(y + n; sigma) - y|^2`` with
    ``ln sigma`` normal, averaged over pixels where the published code adds them up.

    The evaluation takes sigma at even quantiles of the same law, and the same noise
    each time, so that it tells networks apart rather than draws.

    Args:
      spec: the run; its network is such as ``song_unet``.
      sigma_data: standard deviation of the pixels, in the preconditioning too.
      log_mean: mean of ``ln sigma``.
      log_std: standard deviation of ``ln sigma``.
      levels: quantiles of the evaluation.
      draw_samples: whether samples are drawn after training and compared with the
        training images by the covariance of all pixels, which takes long for large
        images.

    Raises:
      UserError: if one of these is not positive where it must be.
    """
    if not (sigma_data > 0 and log_std > 0 and levels > 0):
        raise UserError(
            f"edm: sigma_data={sigma_data}, log_std={log_std} and levels={levels}; "
            "expected all positive."
        )
    network, input_key = spec.network, spec.input_key

    init = init_student(network, spec.image_shape)

    def error(denoised, clean, sigma):
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        return weight * jnp.mean((denoised - clean) ** 2, axis=(1, 2, 3))

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        clean = batch[input_key]
        level_key, noise_key, dropout_key = jax.random.split(key, 3)
        drawn = jax.random.normal(level_key, clean.shape[:1])
        sigma = jnp.exp(log_mean + log_std * drawn)
        noise = jax.random.normal(noise_key, clean.shape)
        variables = _variables(params, model_state)
        denoise = denoiser(
            network, variables, batch, sigma_data, train=True, key=dropout_key
        )
        denoised = denoise(clean + sigma[:, None, None, None] * noise, sigma)
        return {"denoised": denoised, "sigma": sigma}, model_state

    def loss(inputs: LossInputs):
        errors = error(
            inputs.outputs["denoised"], inputs.batch[input_key], inputs.outputs["sigma"]
        )
        return Loss(jnp.mean(errors), inputs.model_state, {})

    def predict(params: Params, model_state: ModelState, batch: Batch):
        clean = batch[input_key]
        denoise = denoiser(network, _variables(params, model_state), batch, sigma_data)

        def at(level: jax.Array) -> jax.Array:
            quantile = (level + 0.5) / levels
            sigma = jnp.exp(log_mean + log_std * ndtri(quantile))
            key = jax.random.fold_in(jax.random.key(0), level)
            noise = jax.random.normal(key, clean.shape)
            return error(denoise(clean + sigma * noise, sigma), clean, sigma)

        return {"loss": jnp.mean(jax.lax.map(at, jnp.arange(levels)), axis=0)}

    return Method(
        init=init,
        targets={},
        forward=forward,
        loss=loss,
        predict=predict,
        evaluate=_evaluate,
        score=SCORE,
        evaluator=_evaluator(network, input_key, sigma_data) if draw_samples else None,
    )


def denoiser(
    network: nn.Module,
    variables: Any,
    batch: Batch,
    sigma_data: float,
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> Partial:
    """Makes the denoiser ``(x, sigma) -> x0`` of a network that this method trains.

    Args:
      network: such as ``song_unet``.
      variables: of it.
      batch: whose ``label`` a conditional network is told.
      sigma_data: as it was trained with.
      train: whether to drop out.
      key: of dropout.
    """
    labels = None
    if getattr(network, "conditional", False):
        # All zeros, which one_hot makes of a class that is not there, mean no class.
        labels = jax.nn.one_hot(batch["label"], network.num_classes)
        labels = losses.reject_labels(labels, batch["label"], network.num_classes)
    apply = functools.partial(_apply, network, train)
    return denoisers.edm(Partial(apply, variables, labels, key), sigma_data)


def _apply(network, train, variables, labels, key, x, c_noise):
    rngs = None if key is None else {"dropout": key}
    return network.apply(variables, x, c_noise, labels, train=train, rngs=rngs)[0]


def _variables(params: Params, model_state: ModelState) -> dict[str, Any]:
    return {"params": params["student"], **model_state["student"]}


def _evaluate(outputs: Any, batch: Batch) -> Evaluation:
    return Evaluation.single_from_model_output(loss=outputs["loss"], mask=batch["mask"])


# Cached, so that students of one network share it.
@functools.cache
def _evaluator(
    network: nn.Module, input_key: str, sigma_data: float
) -> Callable[..., Any]:
    def evaluate(trained: Any) -> Any:
        from jaxkd.evaluators import denoising

        def make_denoiser(member: Any, labels: jax.Array) -> Partial:
            variables = _variables(member.params, member.model_state)
            return denoiser(network, variables, {"label": labels}, sigma_data)

        return denoising.find(trained, make_denoiser, input_key)

    return evaluate
