"""What self-supervised methods remember: queues of keys, centres, momentum.

Pure functions of the old state, for the losses of ``self_supervised``.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from jaxkd.losses._masked import Scalar
from jaxkd.losses.numerics import at_least_float32, unit


def queue_init(key: jax.Array, size: int, dim: int) -> jax.Array:
    """Draws a queue of random directions, ``[size, dim]``, each of length 1.

    Rows of another length would make the first negatives hard or easy without reason;
    with long rows MoCo stays at its initial loss.

    >>> queue = queue_init(jax.random.key(0), 8, 3)
    >>> bool(jnp.allclose(jnp.linalg.norm(queue, axis=-1), 1))
    True
    """
    return unit(jax.random.normal(key, (size, dim), jnp.float32))


def queue_update(
    queue: jax.Array,
    position: jax.Array,
    keys: jax.Array,
    *,
    wrap: Literal["ring", "truncate"] = "ring",
) -> tuple[jax.Array, jax.Array]:
    """Writes a batch of keys over the oldest rows of a queue.

    ``"ring"`` goes on at the beginning when the end is reached. ``"truncate"`` fills
    the rows up to the end, drops the keys that are left and starts anew at 0, as the
    lightly library does; where the size is a multiple of the batch both are equal.

    Args:
      queue: ``[size, dim]``.
      position: integer scalar in ``[0, size)``: the row to write next.
      keys: ``[batch, dim]``, at most ``size`` of them; scaled to length 1 here.
      wrap: what happens at the end.

    Returns:
      The new queue, of the old one's type, and the new position; without gradient.

    Raises:
      ValueError: if shapes do not fit, or ``wrap`` is unknown.

    >>> queue, position = queue_update(jnp.zeros((3, 1)), 2, jnp.ones((2, 1)))
    >>> queue[:, 0].tolist(), int(position)
    ([1.0, 0.0, 1.0], 1)
    """
    size, batch = jnp.shape(queue)[0], jnp.shape(keys)[0]
    if jnp.shape(queue)[1:] != jnp.shape(keys)[1:] or batch > size:
        raise ValueError(
            f"queue has shape {jnp.shape(queue)} and keys {jnp.shape(keys)}, expected "
            "[size, dim] and [batch, dim] with batch <= size. Enlarge the queue or "
            "shrink the batch."
        )
    queue = jax.lax.stop_gradient(jnp.asarray(queue))
    new = unit(jax.lax.stop_gradient(at_least_float32(keys))).astype(queue.dtype)
    end = jnp.asarray(position) + batch
    rows = end - batch + jnp.arange(batch)
    if wrap == "ring":
        return queue.at[rows % size].set(new), end % size
    if wrap == "truncate":
        # Rows beyond the end are dropped by the scatter.
        return queue.at[rows].set(new, mode="drop"), jnp.where(end >= size, 0, end)
    raise ValueError(f"wrap is {wrap!r}, expected 'ring' or 'truncate'.")


def centre_update(
    centre: jax.Array, teacher: jax.Array, *, momentum: Scalar = 0.9
) -> jax.Array:
    """Moves DINO's centre towards the mean of the teacher's outputs.

    ``centre <- momentum centre + (1 - momentum) mean(teacher)``, over the global batch.

    Args:
      centre: ``[prototypes]``.
      teacher: ``[..., prototypes]``, of all views and examples, uncentred.
      momentum: in [0, 1].

    Returns:
      The new centre, of the old one's type, without gradient.

    Raises:
      ValueError: if shapes do not fit.

    Source: Caron et al. (arXiv:2104.14294), equation 4.

    >>> centre_update(jnp.zeros(1), jnp.ones((2, 4, 1)), momentum=0.75).tolist()
    [0.25]
    """
    if jnp.ndim(teacher) < 2 or jnp.shape(centre) != jnp.shape(teacher)[-1:]:
        raise ValueError(
            f"centre has shape {jnp.shape(centre)} and teacher {jnp.shape(teacher)}, "
            "expected [prototypes] and [..., prototypes]."
        )
    old, new = (at_least_float32(x) for x in (centre, teacher))
    mean = jnp.mean(new, axis=tuple(range(new.ndim - 1)))
    moved = momentum * old + (1 - momentum) * mean
    return jax.lax.stop_gradient(moved).astype(jnp.asarray(centre).dtype)


def cosine_momentum(
    step: jax.Array | int, steps: int, start: float, end: float = 1.0
) -> jax.Array:
    """Computes the momentum of a target network at a step, rising along a cosine.

    ``end - (end - start) (cos(pi k / (K - 1)) + 1) / 2``: ``start`` at step 0, ``end``
    at the last step ``K - 1`` and after it. With one step it is ``end``.

    Args:
      step: ``k``, from 0.
      steps: ``K``, at least 1.
      start: momentum at the beginning, 0.996 for BYOL.
      end: momentum at the end.

    Returns:
      A float32 scalar.

    Raises:
      ValueError: if ``steps`` is not positive.

    Source: Grill et al., BYOL (arXiv:2006.07733), section 3.2.

    >>> [round(float(cosine_momentum(k, 3, 0.9)), 3) for k in range(4)]
    [0.9, 0.95, 1.0, 1.0]
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}, expected at least 1.")
    done = jnp.clip(jnp.asarray(step, jnp.float32) / max(steps - 1, 1), 0, 1)
    done = jnp.where(steps == 1, 1.0, done)
    return end - (end - start) * (jnp.cos(jnp.pi * done) + 1) / 2
