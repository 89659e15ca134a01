"""Stage 3 of D-TIIL: draws what a text claims inside a mask."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.diffusion import ddim, noise_tables
from jaxkd.models.stable_diffusion import UNet, plain_attention
from jaxkd.pipelines.text_to_image import Backbone, Static


def inpaint(
    backbone: Backbone,
    latents: jax.Array,
    masks: jax.Array,
    context: jax.Array,
    unconditional: jax.Array,
    key: jax.Array,
    *,
    steps: int = 200,
    scale: float = 7.5,
) -> jax.Array:
    """Redraws masked regions by DDIM with the base model.

    After every step the region outside the mask is set to the image at the noise of
    that step, so that it comes out unchanged.

    Args:
      backbone: the model.
      latents: ``[images, height, width, channels]``.
      masks: ``[images, height, width]``, True where to redraw.
      context: hidden states of the claim ``[images, tokens, width]``.
      unconditional: ``[tokens, width]``.
      key: of the noise, folded with the image.
      steps: of DDIM.
      scale: of guidance.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(latents)))
    noise = jax.vmap(lambda k: jax.random.normal(k, latents.shape[1:]))(keys)
    return _inpaint(
        Static(backbone),
        steps,
        backbone.params,
        latents,
        masks,
        context,
        unconditional,
        noise,
        scale,
    )


def with_inpainting_unet(
    unet: UNet,
    params: Any,
    latents: jax.Array,
    masked: jax.Array,
    masks: jax.Array,
    context: jax.Array,
    unconditional: jax.Array,
    noise: jax.Array,
    *,
    steps: int = 200,
    scale: float = 7.5,
) -> jax.Array:
    """Redraws masked regions with a UNet that was trained to inpaint.

    Args:
      unet: of 9 input channels: latents, mask, masked image's latents.
      params: of it.
      latents: only their shape is used ``[images, height, width, channels]``.
      masked: latents of the image with grey inside the mask.
      masks: ``[images, height, width]``, True where to redraw.
      context: ``[images, tokens, width]``.
      unconditional: ``[tokens, width]``.
      noise: the start, of the shape of the latents.
      steps: of DDIM.
      scale: of guidance.

    Raises:
      ValueError: if the UNet is no inpainting one.
    """
    expected = 2 * latents.shape[-1] + 1
    if unet.in_channels != expected:
        raise ValueError(
            f"A UNet of {unet.in_channels} input channels; expected {expected}: the "
            "latents, the mask and the masked image's latents."
        )
    extra = jnp.concatenate([masks[..., None].astype(masked.dtype), masked], axis=-1)

    def call(x, timestep, contexts):
        given = jnp.concatenate([x, jnp.concatenate([extra, extra])], axis=-1)
        return unet.apply({"params": params}, given, timestep, contexts)

    predict = ddim.guided(call, context, unconditional, scale)
    return ddim.sample(predict, noise, ddim.table(steps))


@partial(jax.jit, static_argnums=(0, 1))
def _inpaint(
    static, steps, params, latents, masks, context, unconditional, noise, scale
):
    backbone = static.backbone
    table = ddim.table(steps, alphas=backbone.alphas)
    # Nothing is left of the noise at the end, so that the rest is the image itself.
    table = table._replace(alpha_next=table.alpha_next.copy())
    table.alpha_next[-1] = 1.0

    def call(x, timestep, contexts):
        return backbone.noise(params, x, timestep, contexts, plain_attention, None)[0]

    def project(x, alpha):
        outside = noise_tables.add_noise(latents, noise, alpha)
        return jnp.where(masks[..., None], x, outside)

    predict = ddim.guided(call, context, unconditional, scale)
    start = noise_tables.add_noise(latents, noise, table.alpha[0])
    start = jnp.where(masks[..., None], noise, start)
    return ddim.sample(predict, start, table, project=project)
