"""Stage 1 of D-TIIL: moves a text's hidden states until they describe an image."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxkd.diffusion import noise_tables
from jaxkd.models.stable_diffusion import plain_attention
from jaxkd.pipelines.text_to_image import Backbone, Static


def denoising_loss(
    backbone: Backbone,
    params: Any,
    latents: jax.Array,
    context: jax.Array,
    timesteps: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Computes the error of the predicted noise, one value for each draw.

    ``mean (eps(sqrt(a) z + sqrt(1 - a) n, t, E) - n)^2``, without guidance.

    Args:
      backbone: the model.
      params: of it.
      latents: ``[height, width, channels]``.
      context: hidden states ``[tokens, width]``.
      timesteps: ``[draws]``.
      noise: ``[draws, height, width, channels]``.

    Returns:
      ``[draws, height, width]``, the mean over channels.
    """
    alphas = jnp.asarray(backbone.alphas)[timesteps]
    noisy = noise_tables.add_noise(
        jnp.broadcast_to(latents, noise.shape), noise, alphas
    )
    contexts = jnp.broadcast_to(context, (len(timesteps), *context.shape))
    predicted, _ = backbone.noise(
        params, noisy, timesteps, contexts, plain_attention, None
    )
    return jnp.mean((predicted - noise) ** 2, axis=-1)


def draw(
    backbone: Backbone, latents: jax.Array, key: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Draws timesteps, spread evenly over training's, and noise for each."""
    time_key, noise_key = jax.random.split(key)
    total = len(backbone.alphas)
    # One random offset for all: each timestep is as likely, and they differ.
    places = (jnp.arange(count) + jax.random.uniform(time_key)) / count
    timesteps = jnp.minimum((places * total).astype(jnp.int32), total - 1)
    return timesteps, jax.random.normal(noise_key, (count, *latents.shape))


def align(
    backbone: Backbone,
    latents: jax.Array,
    start: jax.Array,
    key: jax.Array,
    *,
    steps: int = 500,
    lr: float = 1e-3,
    batch: int = 1,
) -> tuple[jax.Array, jax.Array]:
    """Fits hidden states to images by Adam; the network does not change.

    Args:
      backbone: the model.
      latents: ``[images, height, width, channels]``.
      start: hidden states of the captions ``[images, tokens, width]``, all trained.
      key: of timesteps and noise, folded with the image and the step.
      steps: of Adam.
      lr: its rate, constant.
      batch: draws of timestep and noise a step; 1 as published, 4 is steadier.

    Returns:
      Fitted hidden states, and the loss of each step ``[images, steps]``.
    """
    keys = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(len(latents)))
    return _align(
        Static(backbone), steps, batch, backbone.params, latents, start, keys, lr
    )


def fine_tune(
    backbone: Backbone,
    latents: jax.Array,
    context: jax.Array,
    key: jax.Array,
    *,
    steps: int,
    lr: float = 4e-6,
    trained: str | None = "unet",
) -> Backbone:
    """Fits the network itself to one image; returns a new backbone.

    The one given keeps its weights, so that a second image starts from the same ones;
    the published code changes them for good.

    Args:
      backbone: the model.
      latents: ``[height, width, channels]``.
      context: fixed hidden states ``[tokens, width]``.
      key: of timesteps and noise.
      steps: of Adam.
      lr: its rate.
      trained: the part of the parameters that changes; None for all.
    """
    whole = backbone.params if trained is None else backbone.params[trained]
    tuned = _fine_tune(
        Static(backbone),
        steps,
        trained,
        backbone.params,
        whole,
        latents,
        context,
        key,
        lr,
    )
    params = tuned if trained is None else {**backbone.params, trained: tuned}
    return backbone._replace(params=params)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _align(static, steps, batch, params, latents, start, keys, lr):
    backbone, optimizer = static.backbone, optax.adam(lr)

    def one(latents, start, key):
        def loss(context, step):
            drawn = draw(backbone, latents, jax.random.fold_in(key, step), batch)
            return jnp.mean(denoising_loss(backbone, params, latents, context, *drawn))

        def advance(carry, step):
            context, state = carry
            value, gradient = jax.value_and_grad(loss)(context, step)
            change, state = optimizer.update(gradient, state)
            return (optax.apply_updates(context, change), state), value

        start = start.astype(jnp.promote_types(start.dtype, jnp.float32))
        carry = (start, optimizer.init(start))
        (context, _), losses = jax.lax.scan(advance, carry, jnp.arange(steps))
        return context, losses

    return jax.vmap(one)(latents, start, keys)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _fine_tune(static, steps, trained, params, part, latents, context, key, lr):
    backbone, optimizer = static.backbone, optax.adam(lr)

    def loss(part, step):
        whole = part if trained is None else {**params, trained: part}
        drawn = draw(backbone, latents, jax.random.fold_in(key, step), 1)
        return jnp.mean(denoising_loss(backbone, whole, latents, context, *drawn))

    def advance(carry, step):
        part, state = carry
        change, state = optimizer.update(jax.grad(loss)(part, step), state)
        return (optax.apply_updates(part, change), state), None

    (part, _), _ = jax.lax.scan(
        advance, (part, optimizer.init(part)), jnp.arange(steps)
    )
    return part
