"""Heat maps of an ``NLRAN``: which voxels its answer hangs on.

- ``attention``: the mask of the first attention module, averaged over its channels. It
  does not depend on the class. High values need not mean lesions: the mask may as well
  weaken them.
- ``cam``: class activation map (arXiv:1512.04150): the last feature map, weighted as
  the classifier weights its mean for the predicted class.
- ``gradcam``: Grad-CAM (arXiv:1610.02391) of the first stage, which has the grid of the
  attention: the feature map weighted by its mean gradients. For the last feature map it
  would be ``cam``.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.ct import conv

MAPS = ("attention", "cam", "gradcam")


def explain(
    network: nn.Module, variables: Mapping[str, Any], volumes: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes logits and heat maps.

    Args:
      network: an ``NLRAN``.
      variables: of the network.
      volumes: ``[batch, depth, height, width, channels]``.

    Returns:
      Logits ``[batch, classes]``, and name -> ``[batch, depth, height, width]``,
      float32, interpolated to the grid of the volumes. There is no ``attention``
      where the network has none, and no ``cam`` where its head has a hidden layer.
    """
    feature = "stage1"
    shape = jax.eval_shape(lambda v: network.apply(variables, v)[1][feature], volumes)

    def predicted(shift: jax.Array):
        logits, features = network.apply(variables, volumes, shifts={feature: shift})
        return jnp.sum(jnp.max(logits, axis=-1)), (logits, features)

    zeros = jnp.zeros(shape.shape, shape.dtype)
    gradient, (logits, features) = jax.grad(predicted, has_aux=True)(zeros)
    params, maps = variables["params"], {}
    if "hidden" not in params:
        maps["cam"] = class_activation(
            features["last"], params["fc"]["kernel"], logits.argmax(-1)
        )
    maps["gradcam"] = grad_cam(features[feature], gradient)
    if "attention1" in features:
        maps["attention"] = jnp.mean(features["attention1"].astype(jnp.float32), -1)
    size = volumes.shape[1:4]
    return logits, {k: conv.resize(m[..., None], size)[..., 0] for k, m in maps.items()}


def class_activation(
    last: jax.Array, kernel: jax.Array, classes: jax.Array
) -> jax.Array:
    """Returns the positive part of what each voxel says for a class.

    Args:
      last: ``[batch, d, h, w, channels]``, what the classifier sees the mean of.
      kernel: ``[channels, classes]``.
      classes: int ``[batch]``.

    Returns:
      ``[batch, d, h, w]``.
    """
    weights = jnp.asarray(kernel).T[classes]
    return nn.relu(jnp.einsum("bdhwc,bc->bdhw", last.astype(jnp.float32), weights))


def grad_cam(feature: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the positive part of a feature map weighted by its mean gradients.

    Args:
      feature: ``[batch, d, h, w, channels]``.
      gradient: of the class's logit, likewise.

    Returns:
      ``[batch, d, h, w]``.
    """
    weights = conv.global_mean(gradient)
    return nn.relu(jnp.einsum("bdhwc,bc->bdhw", feature.astype(jnp.float32), weights))
