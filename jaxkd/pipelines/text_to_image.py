"""One interface to text-to-image models, for the systems that edit with them.

``of_stable_diffusion`` wraps networks that ``jaxkd.convert`` loaded, ``of_scenes`` the
tiny model of drawn scenes. Functions are static, parameters an argument of whatever is
compiled.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.convert.stable_diffusion import StableDiffusion
from jaxkd.core.errors import UserError
from jaxkd.diffusion import noise_tables
from jaxkd.drawing import scenes
from jaxkd.models.stable_diffusion.scene_model import SceneDiffusion


class Backbone(NamedTuple):
    """A text-to-image model as functions of its parameters.

    Attributes:
      params: of all its networks.
      noise: ``(params, x, timestep, context, attn_fn, state) -> (noise, aux)``.
      encode_text: ``(params, ids) -> context``.
      encode_image: ``(params, images) -> latents``, images of [-1, 1].
      decode_image: ``(params, latents) -> images``, of about [-1, 1].
      tokenizer: ``encode(prompts) -> ids`` and ``words(prompt)``.
      factor: pixels of an image for each pixel of its latents, along one side; sides
        must be multiples of ``multiple`` pixels.
      multiple: see ``factor``.
      blend: pixels of the latents for each pixel of the maps that edits are blended by.
      alphas: ``alphas_cumprod`` of its training.
      distilled: whether it is a latent consistency model.
    """

    params: Any
    noise: Callable[..., tuple[jax.Array, dict[str, Any]]]
    encode_text: Callable[[Any, jax.Array], jax.Array]
    encode_image: Callable[[Any, jax.Array], jax.Array]
    decode_image: Callable[[Any, jax.Array], jax.Array]
    tokenizer: Any
    factor: int
    multiple: int
    blend: int
    alphas: np.ndarray
    distilled: bool = False

    def contexts(self, prompts: Sequence[str]) -> jax.Array:
        """Encodes prompts ``[prompts, tokens, width]``."""
        ids = jnp.asarray(self.tokenizer.encode(list(prompts)))
        return self.encode_text(self.params, ids)

    def check_image(self, image: np.ndarray) -> None:
        """Checks an image before anything is compiled.

        Raises:
          UserError: if it is not ``[height, width, 3]`` with sides that fit, uint8 or
            floats of [0, 1].
        """
        if image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(
                f"An image of shape {image.shape}; expected [height, width, 3]. Of a "
                "grey or transparent picture, take Pillow's image.convert('RGB')."
            )
        height, width = image.shape[:2]
        if not height or not width or height % self.multiple or width % self.multiple:
            raise UserError(
                f"An image of {height} x {width} pixels; expected multiples of "
                f"{self.multiple}. Crop or resize it."
            )
        if image.dtype == np.uint8:
            return
        low, high = float(np.min(image)), float(np.max(image))
        if not jnp.issubdtype(image.dtype, jnp.floating) or not 0 <= low <= high <= 1:
            raise UserError(
                f"An image of {image.dtype}, from {low:g} to {high:g}; expected "
                "uint8, or floating-point numbers of 0 to 1. Divide it by its largest "
                "possible value."
            )


class Static:
    """A backbone without its parameters: a static argument of compiled functions.

    Parameters are passed beside it, so that they are not constants of the program; two
    backbones of the same functions share it.

    Attributes:
      backbone: with None in place of the parameters.
    """

    def __init__(self, backbone: Backbone):
        self.backbone = backbone._replace(params=None)
        functions = (backbone.noise, backbone.encode_text, backbone.decode_image)
        names = [(f.func, f.args) if isinstance(f, partial) else f for f in functions]
        sizes = (backbone.factor, backbone.blend, backbone.distilled)
        self._key = (*names, *sizes, backbone.alphas.tobytes())

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._key == other._key


def of_stable_diffusion(sd: StableDiffusion, *, distilled: bool = False) -> Backbone:
    """Wraps Stable Diffusion; ``distilled`` for latent consistency models.

    As in ParallelEdits' code, the embedded scale of guidance of such a model is not
    used.

    Raises:
      UserError: for a UNet that takes more than latents, such as one for inpainting.
    """
    if sd.unet.in_channels != sd.vae.latent_channels:
        raise UserError(
            f"The UNet takes {sd.unet.in_channels} channels, the autoencoder makes "
            f"latents of {sd.vae.latent_channels}. Expected a text-to-image model; "
            "with one for inpainting a region is redrawn by dtiil.inpainting."
        )
    levels = 2 ** (len(sd.unet.widths) - 1)
    return Backbone(
        params=sd.params,
        noise=partial(_noise, sd.unet),
        encode_text=partial(_encode_text, sd.text_encoder),
        encode_image=partial(_encode_image, sd.vae),
        decode_image=partial(_decode_image, sd.vae),
        tokenizer=sd.tokenizer,
        factor=sd.vae.factor,
        multiple=sd.vae.factor * levels,
        blend=min(4, levels),
        alphas=noise_tables.alphas_cumprod(),
        distilled=distilled,
    )


def of_scenes(network: SceneDiffusion, params: Any) -> Backbone:
    """Wraps the tiny model of scenes, which works on pixels."""
    levels = 2 ** (len(network.widths) - 1)
    return Backbone(
        params=params,
        noise=partial(_scene_noise, network),
        encode_text=partial(_scene_text, network),
        encode_image=_identity,
        decode_image=_identity,
        tokenizer=scenes.Tokenizer(),
        factor=1,
        multiple=network.patch * levels,
        blend=network.patch,
        alphas=noise_tables.alphas_cumprod(),
    )


def to_signed(images: np.ndarray) -> jax.Array:
    """Maps images, uint8 or floats of [0, 1], to [-1, 1]."""
    pixels = jnp.asarray(images)
    if pixels.dtype == jnp.uint8:
        return pixels.astype(jnp.float32) / 127.5 - 1
    return 2 * pixels - 1


def to_unit(images: jax.Array | np.ndarray) -> np.ndarray:
    """Maps images of [-1, 1] to [0, 1], limited."""
    return np.clip(np.asarray(images, np.float32) / 2 + 0.5, 0, 1)


def check_finite(values: np.ndarray, what: str) -> None:
    """Checks what a model computed.

    Raises:
      UserError: if a number is NaN or infinite.
    """
    if not np.isfinite(values).all():
        raise UserError(
            f"{what} holds numbers that are not finite (NaN or infinity). Load the "
            "model in float32 or bfloat16, and check its weights and the settings."
        )


def _noise(unet, params, x, timestep, context, *control):
    variables = {"params": params["unet"]}
    return unet.apply(variables, x, timestep, context, *control, method="controlled")


def _encode_text(encoder, params, ids):
    return encoder.apply({"params": params["text_encoder"]}, ids)[0]


def _encode_image(vae, params, images):
    mean, _ = vae.apply({"params": params["vae"]}, images, method="encode")
    return vae.scaling_factor * mean


def _decode_image(vae, params, latents):
    latents = latents / vae.scaling_factor
    return vae.apply({"params": params["vae"]}, latents, method="decode")


def _scene_noise(network, params, x, timestep, context, *control):
    return network.apply(
        {"params": params}, x, timestep, context, *control, method="controlled"
    )


def _scene_text(network, params, ids):
    return network.apply({"params": params}, ids, method="encode_text")


def _identity(params, images):
    del params
    return images
