"""RealNVP: an invertible network with an exact likelihood, as an encoder.

Dinh et al., "Density estimation using Real NVP" (arXiv:1605.08803): affine couplings
with checkerboard and channel masks at several scales, half of the channels leaving
after each. The couplings' networks are gated convolutions, as in the flow tutorial of
the University of Amsterdam.
"""

import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers

MARGIN = 0.05  # keeps the logarithm of pixels away from 0 and 1


class GatedNetwork(nn.Module):
    """Gated residual convolutions that start by predicting zeros.

    Attributes:
      outputs: channels of the result.
      width: of the hidden channels.
      depth: number of residual blocks.
    """

    outputs: int
    width: int = 64
    depth: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, h, w, channels]`` to ``[batch, h, w, outputs]``."""
        x = layers.conv(self.width, 3, use_bias=True, name="in")(x)
        for index in range(self.depth):
            y = nn.relu(layers.LayerNorm(name=f"norm{index}")(x))
            y = layers.conv(self.width, 3, use_bias=True, name=f"conv{index}")(y)
            y = layers.conv(2 * self.width, 1, use_bias=True, name=f"gate{index}")(
                nn.relu(y)
            )
            value, gate = jnp.split(y, 2, axis=-1)
            x = x + value * nn.sigmoid(gate)
        return layers.conv(
            self.outputs,
            3,
            use_bias=True,
            init=nn.initializers.zeros,
            name="out",
        )(nn.relu(x))


class Coupling(nn.Module):
    """An affine coupling: half of the values scale and shift the other half.

    Attributes:
      mask: ``"checkerboard"`` or ``"channels"``.
      odd: whether the other half is changed.
      width: of the network's hidden channels.
      depth: of the network.
    """

    mask: str
    odd: bool
    width: int = 64
    depth: int = 2

    @nn.compact
    def __call__(
        self, z: jax.Array, inverse: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Maps ``[batch, h, w, c]`` to the same shape, or back.

        Returns:
          The values, and the logarithm of the map's determinant ``[batch]``.
        """
        keep = self._mask(z.shape[1:])
        shape = (z.shape[-1],)
        network = GatedNetwork(2 * z.shape[-1], self.width, self.depth, name="network")
        scale, shift = jnp.split(network(z * keep), 2, axis=-1)
        # Bounded by a learned factor, so that a step cannot explode.
        bound = self.param("bound", nn.initializers.zeros, shape, jnp.float32)
        scale = jnp.tanh(scale / jnp.exp(bound)) * jnp.exp(bound) * (1 - keep)
        shift = shift * (1 - keep)
        if inverse:
            z = z * jnp.exp(-scale) - shift
            return z, -jnp.sum(scale, axis=(1, 2, 3))
        z = (z + shift) * jnp.exp(scale)
        return z, jnp.sum(scale, axis=(1, 2, 3))

    def _mask(self, shape: tuple[int, ...]) -> jax.Array:
        height, width, channels = shape
        if self.mask == "checkerboard":
            rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
            mask = ((rows + columns) % 2)[..., None]
        else:
            mask = (jnp.arange(channels) >= channels // 2)[None, None]
        return jnp.where(self.odd, 1 - mask, mask).astype(jnp.float32)


class RealNVP(nn.Module):
    """The whole network: pixels to latents of a standard normal distribution.

    Attributes:
      num_classes: number of logits, of a dense layer on the features.
      couplings: checkerboard couplings before the first squeeze, and channel couplings
        at each scale after it.
      width: of the couplings' hidden channels.
      depth: of the couplings' networks.
      dtype: float32 whatever it is: likelihoods need it.
    """

    num_classes: int
    couplings: Sequence[int] = (4, 2, 4)
    width: int = 64
    depth: int = 2
    dtype: Any = jnp.float32

    def setup(self):
        """Makes the couplings, scale by scale."""
        self.scales = [
            [
                Coupling(
                    "channels" if scale else "checkerboard",
                    bool(index % 2),
                    self.width,
                    self.depth,
                    name=f"scale{scale}_coupling{index}",
                )
                for index in range(count)
            ]
            for scale, count in enumerate(self.couplings)
        ]
        self.fc = layers.Linear(self.num_classes, name="fc")

    def __call__(
        self, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Computes logits and named features.

        Args:
          images: ``[batch, height, width, channels]`` in [0, 1]; in training already
            dequantised.
          train: unused; there is no batch norm.

        Returns:
          Logits ``[batch, num_classes]``, and the features ``log_likelihood``
          ``[batch]`` of the pixels in nats, ``latents1`` ... of the scales
          ``[batch, h, w, c]``, and ``pooled``: mean and standard deviation of the last
          scale's latents over the picture, ``[batch, 2 c]``.
        """
        del train
        z, log_det = _to_logits(images)
        latents = []
        for scale, couplings in enumerate(self.scales):
            z = squeeze(z) if scale else z
            for coupling in couplings:
                z, change = coupling(z)
                log_det = log_det + change
            if 0 < scale < len(self.scales) - 1:
                z, done = jnp.split(z, 2, axis=-1)
                latents.append(done)
        latents.append(z)
        prior = sum(
            -0.5 * jnp.sum(x**2 + math.log(2 * math.pi), axis=(1, 2, 3))
            for x in latents
        )
        deviation = jnp.sqrt(jnp.var(z, axis=(1, 2)) + 1e-6)
        pooled = jnp.concatenate([jnp.mean(z, axis=(1, 2)), deviation], axis=-1)
        features = {f"latents{i}": x for i, x in enumerate(latents, start=1)}
        features |= {"pooled": pooled, "log_likelihood": prior + log_det}
        return self.fc(pooled), features

    def generate(self, latents: Sequence[jax.Array]) -> jax.Array:
        """Maps latents of all scales, in the order of the features, to pixels."""
        *left, z = latents
        for scale in reversed(range(len(self.scales))):
            if 0 < scale < len(self.scales) - 1:
                z = jnp.concatenate([z, left.pop()], axis=-1)
            for coupling in reversed(self.scales[scale]):
                z, _ = coupling(z, inverse=True)
            z = unsqueeze(z) if scale else z
        return (nn.sigmoid(z) - MARGIN / 2) / (1 - MARGIN)


def _to_logits(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maps [0, 1] to the real line, with the logarithm of the determinant."""
    x = images.astype(jnp.float32) * (1 - MARGIN) + MARGIN / 2
    z = jnp.log(x) - jnp.log1p(-x)
    slope = math.log(1 - MARGIN) - jnp.log(x) - jnp.log1p(-x)
    return z, jnp.sum(slope, axis=(1, 2, 3))


def squeeze(x: jax.Array) -> jax.Array:
    """Turns squares of 2 x 2 pixels into channels: ``[b, h / 2, w / 2, 4 c]``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    x = jnp.moveaxis(x, 2, 3)
    return x.reshape(batch, height // 2, width // 2, 4 * channels)


def unsqueeze(x: jax.Array) -> jax.Array:
    """Turns channels back into squares of pixels: the inverse of ``squeeze``."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, 2, 2, channels // 4)
    return jnp.moveaxis(x, 3, 2).reshape(batch, 2 * height, 2 * width, channels // 4)


VARIANTS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "real_nvp": (RealNVP, {}),
    "real_nvp_small": (RealNVP, {"couplings": (2, 2, 2), "width": 16, "depth": 1}),
}
