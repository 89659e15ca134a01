"""Losses of language models, for vocabularies too large to keep all logits of."""

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import reject_labels


def chunked_cross_entropy(
    hidden: jax.Array, table: jax.Array, targets: jax.Array, *, chunks: int = 1
) -> jax.Array:
    """Computes the cross-entropy of tokens without holding all logits at once.

    ``log sum_v exp(h . E_v) - h . E_target``. The sum runs over ``chunks`` parts of the
    vocabulary, and the backward pass computes each part's logits anew, so that memory
    holds ``1 / chunks`` of them. A part takes every ``chunks``-th row of the table:
    then a table that is split over devices by rows stays where it is.

    >>> import jax.numpy as jnp
    >>> loss = chunked_cross_entropy(
    ...     jnp.zeros((2, 3)), jnp.zeros((8, 3)), jnp.array([0, 5]), chunks=4)
    >>> [round(float(x), 4) for x in loss]  # log 8
    [2.0794, 2.0794]

    Args:
      hidden: ``[..., width]``.
      table: embedding table, tied to the output, ``[vocabulary, width]``.
      targets: integers ``[...]``; one that is no row of the table gives NaN.
      chunks: parts of the vocabulary; 1 for all at once.

    Returns:
      float32 ``[...]``.

    Raises:
      ValueError: if shapes do not fit, or the parts are not equal.
    """
    if hidden.shape[:-1] != targets.shape or table.shape[1:] != hidden.shape[-1:]:
        raise ValueError(
            f"Got hidden {hidden.shape}, table {table.shape} and targets "
            f"{targets.shape}, expected [..., width], [vocabulary, width] and [...]."
        )
    if chunks < 1 or len(table) % chunks:
        raise ValueError(
            f"A vocabulary of {len(table)} tokens does not make {chunks} equal chunks. "
            "Choose a divisor."
        )
    parts = table.reshape(len(table) // chunks, chunks, -1)

    @jax.checkpoint
    def add(total, number):
        rows = jax.lax.dynamic_index_in_dim(parts, number, 1, keepdims=False)
        logits = _dot("...d,vd->...v", hidden, rows)
        return jnp.logaddexp(total, jax.nn.logsumexp(logits, axis=-1)), None

    start = jnp.full(targets.shape, -jnp.inf, jnp.float32)
    total, _ = jax.lax.scan(add, start, jnp.arange(chunks))
    loss = total - _dot("...d,...d->...", hidden, table[targets])
    return reject_labels(loss, targets, len(table))


def _dot(equation: str, hidden: jax.Array, table: jax.Array) -> jax.Array:
    table = table.astype(hidden.dtype)
    return jnp.einsum(equation, hidden, table, preferred_element_type=jnp.float32)
