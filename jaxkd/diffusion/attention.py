"""The contract of controlled attention: sites, attention functions, and the plain one.

Every attention of a network calls ``attn_fn(site, q, k, v, scale, state) -> (out,
aux)``. The function sees all rows of the batch, may move queries, keys and values
between them or change the probabilities, and returns statistics, which the network
hands out by the name of the site. ``state`` holds what changes with the step; nothing
is mutable.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Site(NamedTuple):
    """Where in the UNet an attention stands; static.

    Attributes:
      place: "down", "mid" or "up".
      block: number of the block in its place.
      layer: number of the transformer in its block.
      depth: number of the attention in its transformer.
      kind: "self" or "cross".
      height: of the feature map, in its pixels.
      width: of the feature map, in its pixels.
    """

    place: str
    block: int
    layer: int
    depth: int
    kind: str
    height: int
    width: int

    @property
    def name(self) -> str:
        """A key that sorts and reads well, such as ``up_1_2_0_cross``."""
        return f"{self.place}_{self.block}_{self.layer}_{self.depth}_{self.kind}"


AttentionFn = Callable[
    [Site, jax.Array, jax.Array, jax.Array, float, Any], tuple[jax.Array, Any]
]


def plain_attention(
    site: Site,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    scale: float,
    state: Any = None,
) -> tuple[jax.Array, None]:
    """Computes ``softmax(scale q k^T) v`` without keeping the probabilities.

    Args:
      site: not used.
      q: queries ``[batch, heads, n, d]``.
      k: keys ``[batch, heads, m, d]``.
      v: values ``[batch, heads, m, d]``.
      scale: factor on the products.
      state: not used.

    Returns:
      ``[batch, heads, n, d]``, and no statistics.
    """
    del site, state
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, scale=scale)
    return jnp.swapaxes(out, 1, 2), None


def probabilities(q: jax.Array, k: jax.Array, scale: float) -> jax.Array:
    """Computes ``softmax(scale q k^T)`` ``[batch, heads, n, m]``, at least float32."""
    dtype = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=dtype)
    return jax.nn.softmax(scale * scores.astype(dtype), axis=-1)
