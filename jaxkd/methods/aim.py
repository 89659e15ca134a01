"""AIM: each patch is predicted from those before it (arXiv:2401.08541)."""

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised
from jaxkd.methods.mae import standardized, vit_of
from jaxkd.models.decoders import PatchHead
from jaxkd.models.vit import patchify


def make(
    spec: Spec, *, shift: bool = True, width: int = 2048, depth: int = 1
) -> Method:
    """Makes a vision transformer that predicts patches in turn.

    A random prefix of each image is visible to all places, the patches after it only to
    themselves and to those behind them. The place of patch ``i`` predicts patch
    ``i + 1``; those of the prefix are not counted.

    Args:
      spec: the run; its network is a ViT with ``pool="mean"`` and sine-cosine
        positions.
      shift: False predicts patch ``i`` at its own place, which sees it, and counts all
        patches, as the code of arXiv:2405.18320 does: for parity.
      width: of the head.
      depth: of the head.

    Raises:
      UserError: if the network is no such ViT.
    """
    network, grid, values = vit_of(spec, "aim")
    if network.pool != "mean":
        raise UserError(
            "Method 'aim' needs a ViT without class token: set config.model.pool to "
            "'mean'."
        )
    patches = grid[0] * grid[1]
    head = PatchHead(values, grid, width, depth)

    def init(key):
        images = jnp.zeros((2, *spec.image_shape))
        tokens = jnp.zeros((2, patches, network.width))
        return self_supervised.init_modules(
            key, {"student": (network, (images,)), "head": (head, (tokens,))}
        )

    def forward(params, model_state, batch, key):
        images = batch[spec.input_key]
        prefix = jax.random.randint(key, (len(images), 1), 0, patches)
        mask = prefix_mask(prefix[:, 0], patches)[:, None]
        _, features = network.apply({"params": params["student"]}, images, mask=mask)
        predicted = head.apply({"params": params["head"]}, features["patches"])
        outputs = {
            "predicted": predicted,
            "prefix": prefix,
            "h": features["pooled"],
        }
        return outputs, model_state

    def loss(inputs: LossInputs) -> Loss:
        outputs = inputs.outputs
        target = standardized(patchify(inputs.batch[spec.input_key], network.patch))
        predicted, where = outputs["predicted"], jnp.ones(target.shape[:2], bool)
        if shift:
            # Patch 0 is predicted by nothing.
            predicted, target = predicted[:, :-1], target[:, 1:]
            where = jnp.arange(1, patches) >= outputs["prefix"]
        value = jnp.mean(losses.patch_error(predicted, target, where))
        spread = self_supervised.feature_std(outputs["h"])
        metrics = {"patch_error": value, "feature_std": spread}
        return Loss(value, inputs.model_state, metrics)

    return self_supervised.pretrainer(spec, init, forward, loss)


def prefix_mask(prefix: jax.Array, patches: int) -> jax.Array:
    """Makes attention masks ``[batch, queries, keys]``: a prefix, and causal after it.

    Args:
      prefix: ``[batch]``, lengths from 0.
      patches: number of queries and keys.
    """
    place = jnp.arange(patches)
    causal = place[None, :] <= place[:, None]
    return causal | (place < prefix[:, None])[:, None, :]
