"""Flattens a traced function into plain primitives, for converters that know no more.

Networks hold calls with gradients of their own (``custom_vjp``), nested ``jit`` and
branches that differ by platform (``lax.platform_dependent``). None of these matters for
an exported forward pass: calls are inlined, and of platforms' branches the default one
is taken, which every platform can run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.extend.core as jex

# Primitives that call a function -> the parameter that holds it.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


class _Branch(int):
    """The number of the platform branch that is taken."""


# Of a primitive: ``(*inputs, **parameters) -> outputs``, or None to leave it as it is.
Replacement = Callable[..., Sequence[jax.Array] | None]


def inline(
    function: Callable[..., Any],
    *shapes: jax.ShapeDtypeStruct,
    replace: Mapping[str, Replacement] | None = None,
) -> Callable[..., list[jax.Array]]:
    """Traces a function and returns it as primitives without calls.

    Args:
      function: of arrays, returning a tree of arrays.
      *shapes: of its arguments; sizes may be symbolic (``jax.export``).
      replace: name of a primitive -> the same of other primitives.

    Returns:
      A function of the same arguments that returns the leaves of the result.
    """
    closed = jax.make_jaxpr(function)(*shapes)

    def flat(*arguments: jax.Array) -> list[jax.Array]:
        return _evaluate(closed, arguments, replace or {})

    return jex.jaxpr_as_fun(jax.make_jaxpr(flat)(*shapes))


def _evaluate(
    closed: Any, arguments: Sequence[Any], replace: Mapping[str, Replacement]
) -> list[Any]:
    # Some primitives hold a plain jaxpr, which closes over nothing.
    jaxpr, constants = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    values: dict[Any, Any] = {}

    def read(variable: Any) -> Any:
        if isinstance(variable, jex.Literal):
            return variable.val
        return values[variable]

    values.update(zip(jaxpr.constvars, constants, strict=True))
    values.update(zip(jaxpr.invars, arguments, strict=True))
    for equation in jaxpr.eqns:
        inputs = [read(variable) for variable in equation.invars]
        outputs = _apply(equation, inputs, replace)
        values.update(zip(equation.outvars, outputs, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _apply(
    equation: Any, inputs: list[Any], replace: Mapping[str, Replacement]
) -> Sequence[Any]:
    name, params = equation.primitive.name, equation.params
    if name == "platform_index":
        return [_Branch(params["platforms"].index(None))]
    if name == "cond" and isinstance(inputs[0], _Branch):
        return _evaluate(params["branches"][inputs[0]], inputs[1:], replace)
    if name in _CALLS:
        return _evaluate(params[_CALLS[name]], inputs, replace)
    if name in replace:
        replaced = replace[name](*inputs, **params)
        if replaced is not None:
            return replaced
    outputs = equation.primitive.bind(*inputs, **params)
    return outputs if equation.primitive.multiple_results else [outputs]
