"""A denoiser of large images that is told the small one: GDRD's generative teacher.

Denoising diffusion (Ho et al., arXiv:2006.11239) with a cosine schedule:
``x_t = cos(pi t / 2) x + sin(pi t / 2) noise``. The network reads the view's field
``noisy`` (``jaxkd.views.low_resolution.noisy``), which holds the noisy image at one
small ``t``, the enlarged small image, and ``t``; for training, the first and the last
are drawn anew for each image, with ``t`` uniform on [0, 1].
"""

import functools

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Score, Spec
from jaxkd.methods.common.networks import init_student
from jaxkd.views.low_resolution import add_noise

SCORE = Score("error", "error of the predicted noise", percent=False, lower=True)


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """Mean squared error of the noise at the view's ``t``."""

    error: metrics.Average.from_output("error")  # type: ignore[valid-type]
    loss: metrics.Average.from_output("error")  # type: ignore[valid-type]


def make(spec: Spec) -> Method:
    """Makes a denoiser; it has no options.

    Args:
      spec: the run, whose network reads a field of ``2 c + 1`` channels.

    Raises:
      UserError: if the field has another number of channels.
    """
    channels = spec.fields["image"].shape[-1]
    if spec.image_shape[-1] != 2 * channels + 1:
        raise UserError(
            f"Method 'gdrd_generator' reads {spec.input_key!r}, which has "
            f"{spec.image_shape[-1]} channels. Expected {2 * channels + 1}: set "
            "config.model.input to 'noisy' and config.view.name to 'noisy'."
        )
    return _make(spec.network, spec.image_shape, spec.input_key, channels)


@functools.cache
def _make(
    network: nn.Module, shape: tuple[int, ...], input_key: str, channels: int
) -> Method:
    init = init_student(network, shape)

    def predict(params, model_state, batch):
        seen = batch[input_key]
        said, _ = network.apply(
            {"params": params["student"], **model_state["student"]}, seen, train=False
        )
        return {"error": _error(said, _noise_in(seen, batch["image"], channels))}

    def forward(params, model_state, batch, key):
        t_key, noise_key = jax.random.split(key)
        images = batch["image"]
        t = jax.random.uniform(t_key, (len(images),))
        noise = jax.random.normal(noise_key, images.shape)
        condition = batch[input_key][..., channels : 2 * channels]
        seen = add_noise(images, condition, noise, t)
        said, _ = network.apply(
            {"params": params["student"], **model_state["student"]}, seen, train=True
        )
        return {"error": _error(said, noise)}, model_state

    def loss(inputs: LossInputs):
        error = jnp.mean(inputs.outputs["error"])
        return Loss(error, inputs.model_state, {"error": error})

    return Method(
        init=init,
        targets={},
        forward=forward,
        loss=loss,
        predict=predict,
        evaluate=lambda outputs, batch: Evaluation.single_from_model_output(
            error=outputs["error"], mask=batch["mask"]
        ),
        score=SCORE,
    )


def _error(said: jax.Array, noise: jax.Array) -> jax.Array:
    return jnp.mean((said - noise) ** 2, axis=(1, 2, 3))


def _noise_in(seen: jax.Array, images: jax.Array, channels: int) -> jax.Array:
    """Recovers the noise that the view has added."""
    angle = jnp.pi / 2 * seen[:, :1, :1, -1:]
    return (seen[..., :channels] - jnp.cos(angle) * images) / jnp.sin(angle)
