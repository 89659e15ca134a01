"""The non-local block: every position looks at all others (arXiv:1711.07971)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.ct import conv

# Bytes of the largest matrix of similarities that is worth trying.
LIMIT = 2**30


class NonLocalBlock(nn.Module):
    """Adds to each position what it gathers from all others.

    Wang et al., "Non-local Neural Networks", CVPR 2018, equations 1 to 6 and section
    3.3: ``z_i = x_i + BN(W y_i)``, ``y_i = sum_j f(x_i, x_j) g(x_j) / C(x)``, with half
    as many channels inside. The norm's scale starts at zero, so that the block starts
    as the identity.

    Attributes:
      train: whether the norm uses, and updates, the statistics of the batch.
      kind: ``"gaussian"``: ``f / C`` is the softmax over ``j`` of
        ``theta(x_i) . phi(x_j)``; ``"dot"``: ``f`` is that product and ``C`` the number
        of positions.
      scale: whether to divide the product by the root of its channels, as in
        transformers; the paper does not.
      sub_sample: whether ``phi`` and ``g`` see maxima over 2x2 pixels of each slice.
      dtype: of the computation; the softmax is in at least float32.
    """

    train: bool
    kind: str = "gaussian"
    scale: bool = False
    sub_sample: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, depth, height, width, channels]`` to the same shape.

        Raises:
          ValueError: if ``kind`` is unknown, or the similarities of all positions
            would take more than a gibibyte.
        """
        half = max(x.shape[-1] // 2, 1)

        def project(name: str, pooled: bool = False) -> jax.Array:
            y = conv.conv(half, 1, use_bias=True, dtype=self.dtype, name=name)(x)
            if pooled:
                y = nn.max_pool(y, (1, 2, 2), (1, 2, 2))
            return y.reshape(y.shape[0], -1, half)

        theta = project("theta")
        phi, g = project("phi", self.sub_sample), project("g", self.sub_sample)
        _check_size(theta.shape, phi.shape, self.sub_sample)
        y = (_weights(theta, phi, self.kind, self.scale) @ g).astype(self.dtype)
        y = y.reshape(*x.shape[:-1], half)
        y = conv.conv(x.shape[-1], 1, dtype=self.dtype, name="out")(y)
        norm = nn.BatchNorm(
            not self.train,
            momentum=layers.MOMENTUM,
            epsilon=layers.EPSILON,
            scale_init=nn.initializers.zeros,
            use_fast_variance=False,
            dtype=self.dtype,
            name="bn",
        )
        return x + norm(y)


def _weights(theta: jax.Array, phi: jax.Array, kind: str, scale: bool) -> jax.Array:
    """Returns ``f / C``, ``[batch, queries, keys]``."""
    if kind not in ("gaussian", "dot"):
        raise ValueError(f"kind is {kind!r}, expected 'gaussian' or 'dot'.")
    wide = jnp.promote_types(theta.dtype, jnp.float32)
    product = jnp.einsum("bqc,bkc->bqk", theta, phi, preferred_element_type=wide)
    if scale:
        product = product / math.sqrt(theta.shape[-1])
    if kind == "dot":
        return product / phi.shape[1]
    return jax.nn.softmax(product, axis=-1)


def _check_size(queries: tuple[int, ...], keys: tuple[int, ...], pooled: bool) -> None:
    size = queries[0] * queries[1] * keys[1] * 4
    if size > LIMIT:
        advice = "" if pooled else "set sub_sample=True, "
        raise ValueError(
            f"The non-local block compares {queries[1]:,} positions with {keys[1]:,} "
            f"for {queries[0]} volumes: {size / 2**30:.1f} GiB, expected at most "
            f"{LIMIT / 2**30:.0f}. Move the block to a later stage, {advice}or make "
            "the volumes or the batch smaller."
        )
