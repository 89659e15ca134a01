"""Floating-point operations of a traced program, with loops counted as often as run.

Compilers count the body of a loop once; here scans count fully. Only matrix products
and convolutions are counted, as is usual: two operations for each multiply-add.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count(jaxpr: Any) -> int:
    """Counts the operations of a (closed) jaxpr.

    A loop whose length is not known before it runs counts once, a conditional as its
    most expensive branch, and a ``shard_map`` as all its shards together.
    """
    if isinstance(jaxpr, ClosedJaxpr):
        jaxpr = jaxpr.jaxpr
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        return _dot(equation)
    if name == "conv_general_dilated":
        return _convolution(equation)
    inner = [count(each) for each in _inner(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * _repeats(name, params) if inner else 0


def _repeats(name: str, params: dict[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        # Its name is not the same in all versions of JAX.
        axes = params.get("newly_manual_axes") or params["manual_axes"]
        return math.prod(params["mesh"].shape[axis] for axis in axes)
    return 1


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if isinstance(each, ClosedJaxpr | Jaxpr):
                yield each


def _dot(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    depth = math.prod(left[axis] for axis in contracted)
    return 2 * depth * math.prod(equation.outvars[0].aval.shape)


def _convolution(equation: Any) -> int:
    """Counts as the forward convolution: each output with every tap of its kernel.

    The gradients are convolutions too, one of them with a dilated kernel of the size
    of an image; their products with the zeros between are not counted.
    """
    kernel = equation.invars[1].aval.shape
    numbers = equation.params["dimension_numbers"]
    inputs = kernel[numbers.rhs_spec[1]]
    taps = math.prod(kernel[axis] for axis in numbers.rhs_spec[2:])
    outputs = math.prod(equation.outvars[0].aval.shape)
    holes = math.prod(equation.params["lhs_dilation"])
    return 2 * inputs * taps * outputs // holes


def of(function: Any, *arguments: Any) -> int:
    """Traces a function on arrays or their shapes, and counts."""
    return count(jax.make_jaxpr(function)(*arguments))
