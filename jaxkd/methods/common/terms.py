"""Weighted terms of a loss, summed in one way by every method."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Metrics

Schedule = Callable[[jax.Array], jax.Array]


class Term(NamedTuple):
    """A term of a loss.

    Attributes:
      weight: of its mean in the total; one of 0 is measured and not added.
      function: ``LossInputs -> value``, one value per example or a scalar; or
        ``(value, model_state)`` where it changes the non-trainable state.
      ramp: step -> factor of the weight; None for 1 throughout.
    """

    weight: float
    function: Callable[[LossInputs], Any]
    ramp: Schedule | None = None


def add_up(inputs: LossInputs, terms: Mapping[str, Term]) -> Loss:
    """Computes ``total = sum_t weight_t * ramp_t(step) * mean(term_t)``.

    Each term is measured under its own name and draws its own random numbers.

    Args:
      inputs: of the loss.
      terms: by name.
    """
    total, metrics, model_state = jnp.zeros(()), Metrics(), inputs.model_state
    for number, (name, term) in enumerate(terms.items()):
        key = jax.random.fold_in(inputs.key, number)
        value = term.function(inputs._replace(model_state=model_state, key=key))
        if isinstance(value, tuple):
            value, model_state = value
        metrics[name] = jnp.mean(value)
        if term.weight:
            weight = term.weight if term.ramp is None else _at(term, inputs.step)
            total += weight * metrics[name]
    return Loss(total, model_state, metrics)


def _at(term: Term, step: jax.Array) -> jax.Array:
    assert term.ramp is not None
    return term.ramp(step) * term.weight


def ramp(step: jax.Array, duration: float, steps_per_unit: float) -> jax.Array:
    """Returns a weight that rises from ``1 / duration`` to 1 over ``duration`` units.

    A unit (an epoch) counts from 1 and the weight is constant within it, as in the
    DKD and RLD recipes: ``min(epoch / duration, 1)``. No duration means 1 throughout.
    """
    if not duration:
        return jnp.ones(())
    # Half a step guards the floor against the rounding of the division.
    unit = jnp.floor((step + 0.5) / steps_per_unit) + 1
    return jnp.minimum(unit / duration, 1.0)


def rise_and_fall(
    warmup: float, fade: tuple[float, float] | None, steps_per_unit: float
) -> Schedule:
    """Returns a factor that rises over ``warmup`` and falls from 1 to 0 over ``fade``.

    Args:
      warmup: units over which it rises, see ``ramp``.
      fade: units between which it falls, linearly; None keeps it.
      steps_per_unit: steps per epoch, or 1.

    Raises:
      UserError: if ``fade`` is no interval of time.
    """
    if fade is not None and not (len(fade) == 2 and 0 <= fade[0] < fade[1]):
        raise UserError(
            f"fade is {tuple(fade)}, expected the times, in units, at which the weight "
            "begins to fall and reaches 0."
        )

    def factor(step: jax.Array) -> jax.Array:
        rising = ramp(step, warmup, steps_per_unit)
        if fade is None:
            return rising
        begin, end = fade
        now = step / steps_per_unit
        return rising * jnp.clip((end - now) / (end - begin), 0.0, 1.0)

    return factor


def check_weights(weights: Mapping[str, float], method: str) -> None:
    """Checks that no weight is negative.

    Raises:
      UserError: naming those that are.
    """
    wrong = {name: value for name, value in weights.items() if not value >= 0}
    if wrong:
        raise UserError(f"Method {method!r} got the weights {wrong}, expected >= 0.")
