"""MAE: hidden patches are drawn from those that are seen (arXiv:2111.06377)."""

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised
from jaxkd.models.decoders import MaskedDecoder
from jaxkd.models.vit import ViT, patchify


def make(
    spec: Spec,
    *,
    mask_ratio: float = 0.75,
    normalize_patches: bool = False,
    width: int = 512,
    depth: int = 1,
    heads: int = 16,
) -> Method:
    """Makes a vision transformer that sees few patches and predicts the others.

    Args:
      spec: the run; its network is a ViT.
      mask_ratio: share of hidden patches; 0.2 in arXiv:2405.18320.
      normalize_patches: whether each patch's pixels are standardised first, the paper's
        better variant.
      width: of the decoder.
      depth: of the decoder.
      heads: of the decoder's attention.

    Raises:
      UserError: if the network is no ViT, or no patch would be hidden or seen.
    """
    network, grid, values = vit_of(spec, "mae")
    patches = grid[0] * grid[1]
    kept = round((1 - mask_ratio) * patches)
    if not 0 < kept < patches:
        raise UserError(
            f"mask_ratio is {mask_ratio}, so {kept} of {patches} patches are seen, "
            "expected at least one seen and one hidden."
        )
    decoder = MaskedDecoder(values, grid, width, depth, heads)

    def init(key):
        images, keep = jnp.zeros((2, *spec.image_shape)), jnp.zeros((2, kept), int)
        visible = jnp.zeros((2, kept, network.width))
        return self_supervised.init_modules(
            key,
            {"student": (network, (images,)), "decoder": (decoder, (visible, keep))},
        )

    def forward(params, model_state, batch, key):
        images = batch[spec.input_key]
        noise = jax.random.uniform(key, (len(images), patches))
        keep = jnp.argsort(noise, axis=1)[:, :kept]
        _, features = network.apply({"params": params["student"]}, images, keep=keep)
        predicted = decoder.apply(
            {"params": params["decoder"]}, features["patches"], keep
        )
        rows = jnp.arange(len(images))[:, None]
        hidden = jnp.ones((len(images), patches), bool).at[rows, keep].set(False)
        outputs = {"predicted": predicted, "hidden": hidden, "h": features["pooled"]}
        return outputs, model_state

    def loss(inputs: LossInputs) -> Loss:
        target = patchify(inputs.batch[spec.input_key], network.patch)
        target = standardized(target) if normalize_patches else target
        outputs = inputs.outputs
        errors = losses.patch_error(outputs["predicted"], target, outputs["hidden"])
        value, spread = jnp.mean(errors), self_supervised.feature_std(outputs["h"])
        metrics = {"patch_error": value, "feature_std": spread}
        return Loss(value, inputs.model_state, metrics)

    return self_supervised.pretrainer(spec, init, forward, loss)


def vit_of(spec: Spec, name: str) -> tuple[ViT, tuple[int, int], int]:
    """Returns the run's ViT, its grid of patches, and the values of a patch.

    Raises:
      UserError: if the network is another one, or the image does not fit.
    """
    network, (height, width, channels) = spec.network, spec.image_shape
    if not isinstance(network, ViT):
        raise UserError(
            f"Method {name!r} needs a vision transformer, but config.model.name gives "
            f"a {type(network).__name__}. Take one such as 'vit_micro4'."
        )
    if height % network.patch or width % network.patch:
        raise UserError(
            f"Images have {height} x {width} pixels, expected multiples of the "
            f"network's patch, {network.patch}."
        )
    grid = height // network.patch, width // network.patch
    return network, grid, network.patch**2 * channels


def standardized(patches: jax.Array) -> jax.Array:
    """Subtracts each patch's mean and divides by its deviation."""
    mean = jnp.mean(patches, axis=-1, keepdims=True)
    variance = jnp.var(patches, axis=-1, keepdims=True)
    return (patches - mean) / jnp.sqrt(variance + 1e-6)
