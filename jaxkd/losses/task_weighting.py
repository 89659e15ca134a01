"""Weights of several losses: learned for the sake of one of them, or by uncertainty.

Auto-lambda raises the weight of a loss whose gradient also lowers the primary loss on
other examples, and lowers it otherwise. Liu et al., "Auto-Lambda: Disentangling Dynamic
Task Relationships" (arXiv:2202.03091).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.losses.numerics import at_least_float32

Params = Any


class HyperGradient(NamedTuple):
    """The outcome of ``auto_lambda``.

    Attributes:
      gradient: ``[losses]``, of the primary loss after the virtual step by the weights.
      alignment: ``[losses]``, inner products of each loss's gradient with that of the
        primary loss; the gradient is minus the learning rate times these.
      losses: ``[losses]``, at the parameters before the step.
      primary: scalar, the primary loss after the virtual step.
      pullback: ``weights [losses] -> gradient of sum_i weights_i losses_i`` at the
        parameters before the step: the ordinary step needs no forward pass of its own.
      aux: as ``losses`` returned it, or None.
    """

    gradient: jax.Array
    alignment: jax.Array
    losses: jax.Array
    primary: jax.Array
    pullback: Callable[[jax.Array], Params]
    aux: Any


def auto_lambda(
    losses: Callable[[Params], Any],
    primary: Callable[[Params], jax.Array],
    params: Params,
    weights: jax.Array,
    *,
    learning_rate: float | jax.Array = 1.0,
    weight_decay: float = 0.0,
    has_aux: bool = False,
) -> HyperGradient:
    """Computes the gradient of the primary loss by the weights, through one step.

    After the virtual step ``v = params - lr (grad sum_i w_i L_i(params) + decay
    params)``, with ``d = grad P(v)``, it is ``dP(v)/dw_i = -lr <d, grad L_i(params)>``
    (arXiv:2202.03091, section 3). All inner products are the derivative of the vector
    of losses along ``d``: one Jacobian-vector product, exact, of the cost of a backward
    pass. The published code takes central differences along ``d`` instead: two more
    passes, and their error.

    Randomness (dropout) must be the same at every call of ``losses``; close over the
    key. Statistics of batch normalisation that ``losses`` returns as ``aux`` are those
    of the parameters before the step, not of the virtual ones.

    Args:
      losses: ``params -> [losses]`` on the training batch, or with ``has_aux``
        ``params -> ([losses], aux)``.
      primary: ``params -> scalar`` on another batch.
      params: parameters to be trained.
      weights: ``[losses]``.
      learning_rate: of the virtual step. It scales the gradient, which matters to Adam
        through its epsilon alone; follow minus the alignment where it is tiny.
      weight_decay: of the virtual step.
      has_aux: whether ``losses`` returns more than the losses.

    Returns:
      The gradient and what was found on the way, see ``HyperGradient``.

    >>> result = auto_lambda(lambda x: jnp.stack([x**2, -x]), lambda x: x**2,
    ...                      jnp.float32(1.0), jnp.ones(2), learning_rate=0.1)
    >>> print(result.gradient, result.losses)  # the second loss leads away
    [-0.35999998  0.17999999] [ 1. -1.]
    """

    def with_aux(params):
        found = losses(params)
        return found if has_aux else (found, None)

    values, backward, aux = jax.vjp(with_aux, params, has_aux=True)

    def pullback(weights: jax.Array) -> Params:
        return backward(jnp.asarray(weights, values.dtype))[0]

    virtual = jax.tree.map(
        lambda p, g: p - jnp.asarray(learning_rate * (g + weight_decay * p), p.dtype),
        params,
        pullback(weights),
    )
    primary_value, direction = jax.value_and_grad(primary)(virtual)
    # The pullback is the transposed Jacobian, so its transpose is the product wanted.
    # It needs no forward pass of its own and, unlike jax.jvp, nothing but reverse mode
    # of the network: convolutions with a custom gradient have no other.
    (products,) = jax.linear_transpose(pullback, values)(direction)
    gradient = -learning_rate * products
    return HyperGradient(gradient, products, values, primary_value, pullback, aux)


def uncertainty_weighting(losses: jax.Array, log_variances: jax.Array) -> jax.Array:
    """Weighs losses by learned uncertainties.

    ``sum_i exp(-s_i) L_i + s_i / 2`` with ``s_i`` the logarithm of a variance, trained
    with the network. Kendall et al. (arXiv:1705.07115, equation 10, for a
    classification loss).

    Args:
      losses: ``[..., losses]``.
      log_variances: ``[losses]``, zero at the start.

    Returns:
      ``[...]``.

    >>> print(uncertainty_weighting(jnp.array([1.0, 2.0]), jnp.zeros(2)))
    3.0
    """
    losses, log_variances = map(at_least_float32, (losses, log_variances))
    return jnp.sum(jnp.exp(-log_variances) * losses + log_variances / 2, axis=-1)
