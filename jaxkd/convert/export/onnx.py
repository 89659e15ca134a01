"""Writes a function as ONNX by jax2onnx, for onnxruntime and what is built on it."""

import contextlib
import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxkd.convert.export import primitives
from jaxkd.core import optional

INPUT = "images"


def write(
    function: Callable[[jax.Array], tuple[jax.Array, ...]],
    names: Sequence[str],
    shape: Sequence[int],
    path: Path,
) -> None:
    """Writes a function of a batch of float32 arrays; the batch's size stays open.

    The input is called ``images``, laid out as in the library (channels last); the
    outputs have ``names``.

    Args:
      function: ``[batch, *shape] -> arrays``, weights closed over.
      names: of the arrays.
      shape: of one example.
      path: of the file, which is replaced if it exists.

    Raises:
      UserError: if jax2onnx is not installed.
      NotImplementedError: for an operation that jax2onnx does not know.
    """
    purpose = "ONNX files"
    jax2onnx = optional.load("jax2onnx", extra="onnx", purpose=purpose)
    onnx = optional.load("onnx", extra="onnx", purpose=purpose)
    optional.load("onnxruntime", extra="onnx", purpose=purpose)
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    # Traced here, since jax2onnx replaces functions of Flax by its own while it traces,
    # and these do not take all the arguments that Flax's take.
    flat = primitives.inline(function, images, replace=_REPLACED)
    with _quiet():
        model = jax2onnx.to_onnx(
            lambda x: tuple(flat(x)),
            [images],
            model_name=path.stem,
            return_mode="proto",
            input_names=[INPUT],
            output_names=list(names),
        )
    part = path.with_name(path.name + ".part")
    onnx.save(model, str(part))
    part.replace(path)


def _pad(x: jax.Array, value: jax.Array, *, padding_config: Any) -> Any:
    """Pads by joining blocks: jax2onnx's Pad takes no batch of open size."""
    if any(interior or min(low, high) < 0 for low, high, interior in padding_config):
        return None
    for axis, (low, high, _) in enumerate(padding_config):
        parts = [
            jnp.full((*x.shape[:axis], size, *x.shape[axis + 1 :]), value, x.dtype)
            for size in (low, high)
        ]
        parts.insert(1, x)
        kept = [part for part, size in zip(parts, (low, 1, high), strict=True) if size]
        x = lax.concatenate(kept, axis) if len(kept) > 1 else x
    return [x]


def _max_pool(
    x: jax.Array,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Any:
    """Takes the largest of shifted images, axis after axis.

    jax2onnx makes every axis one of MaxPool's, of which onnxruntime allows three.
    """
    if {*base_dilation, *window_dilation} != {1}:
        return None
    (x,) = _pad(x, -jnp.inf, padding_config=[(*pair, 0) for pair in padding])
    for axis, (window, stride) in enumerate(
        zip(window_dimensions, window_strides, strict=True)
    ):
        if window == stride == 1:
            continue
        reach = (x.shape[axis] - window) // stride * stride + 1
        shifted = [
            lax.slice_in_dim(x, first, first + reach, stride, axis)
            for first in range(window)
        ]
        x = functools.reduce(jnp.maximum, shifted)
    return [x]


_REPLACED = {"pad": _pad, "reduce_window_max": _max_pool}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps jax2onnx's notes on dtypes and unnamed shapes from the user."""
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def run(path: Path, names: Sequence[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Applies a file to a batch with onnxruntime, on CPU."""
    runtime = optional.load("onnxruntime", extra="onnx", purpose="ONNX files")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    session = runtime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    outputs = session.run(list(names), {INPUT: images})
    return dict(zip(names, outputs, strict=True))
