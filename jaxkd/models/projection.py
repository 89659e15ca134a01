"""Heads behind an encoder: projectors and predictors of self-supervised learning."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.losses.numerics import unit
from jaxkd.models import layers


class Layer(NamedTuple):
    """One dense layer of a head.

    Attributes:
      width: outputs.
      norm: ``"batch"``; ``"plain"`` for batch norm without scale and bias; or None. A
        layer with a norm has no bias of its own.
      relu: whether a ReLU follows.
    """

    width: int
    norm: str | None = None
    relu: bool = False


class Head(nn.Module):
    """Dense layers with batch norm and ReLU where a method has them.

    Attributes:
      layers: from the encoder's side on.
    """

    layers: Sequence[Layer]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, features]`` to ``[batch, width of the last layer]``."""
        for index, layer in enumerate(self.layers):
            if layer.norm is None:
                x = layers.Linear(layer.width, name=f"dense{index}")(x)
            else:
                x = nn.Dense(
                    layer.width,
                    use_bias=False,
                    kernel_init=layers.TORCH_UNIFORM,
                    name=f"dense{index}",
                )(x)
                x = _norm(layer.norm, train, f"norm{index}")(x)
            x = nn.relu(x) if layer.relu else x
        return x


def _norm(kind: str, train: bool, name: str) -> Any:
    if kind == "batch":
        return layers.BatchNorm(train=train, name=name)
    if kind != "plain":
        raise ValueError(f"norm is {kind!r}, expected 'batch', 'plain' or None.")
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=layers.MOMENTUM,
        epsilon=layers.EPSILON,
        use_scale=False,
        use_bias=False,
        use_fast_variance=False,
        name=name,
    )


class PrototypeHead(nn.Module):
    """DINO's head: an MLP, a unit vector, and its cosines with prototypes.

    The last layer is weight-normalised with its gain held at 1.

    Attributes:
      hidden: width of the two hidden layers.
      bottleneck: width of the unit vector.
      prototypes: number of outputs.
    """

    hidden: int = 512
    bottleneck: int = 64
    prototypes: int = 2048

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[batch, features]`` to ``[batch, prototypes]``, in [-1, 1]."""
        del train
        init = nn.initializers.truncated_normal(0.02)
        for index in range(2):
            x = nn.Dense(self.hidden, kernel_init=init, name=f"dense{index}")(x)
            x = nn.gelu(x, approximate=False)
        x = nn.Dense(self.bottleneck, kernel_init=init, name="dense2")(x)
        shape = (self.bottleneck, self.prototypes)
        directions = self.param("prototypes", init, shape, jnp.float32)
        return unit(x.astype(jnp.float32)) @ unit(directions, axis=0)
