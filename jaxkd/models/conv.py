"""A 2-D convolution whose gradient stays fast inside loops on CPU.

XLA's CPU compiler rewrites convolutions into the one layout that its fast kernel
accepts (images NHWC, kernel HWIO) only at the top level of a program. The gradients
of a convolution in the body of ``lax.scan``, ``lax.map`` or ``lax.cond`` keep their
transposed layout and run as a scalar loop instead, more than ten times slower. And
everywhere, the gradient of the kernel is slower as a convolution than as a few matrix
products (``benchmarks/conv_in_loop.py``). Here both gradients are written in the form
that is fast on CPU, inside loops and outside. On other platforms JAX's own gradient is
used, whose form their compilers recognise.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

_NHWC = ("NHWC", "HWIO", "NHWC")

Strides = tuple[int, int]
Padding = tuple[tuple[int, int], tuple[int, int]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(
    images: jax.Array, kernel: jax.Array, strides: Strides, padding: Padding
) -> jax.Array:
    """Convolves images with a kernel; differentiable in reverse mode only.

    Args:
      images: ``[batch, height, width, in]``.
      kernel: ``[kernel height, kernel width, in, out]``.
      strides: of the output grid, in pixels.
      padding: zeros before and after each of height and width.

    Returns:
      ``[batch, out height, out width, out]``, as ``lax.conv_general_dilated``.
    """
    return _lax_conv(images, kernel, strides, padding)


def _lax_conv(images, kernel, strides, padding):
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=_NHWC
    )


def _forward(images, kernel, strides, padding):
    return _lax_conv(images, kernel, strides, padding), (images, kernel)


def _backward(strides, padding, residuals, cotangent):
    return lax.platform_dependent(
        *residuals,
        cotangent,
        cpu=functools.partial(_canonical_gradients, strides, padding),
        default=functools.partial(_lax_gradients, strides, padding),
    )


conv2d.defvjp(_forward, _backward)


def _lax_gradients(strides, padding, images, kernel, cotangent):
    _, pullback = jax.vjp(
        lambda x, w: _lax_conv(x, w, strides, padding), images, kernel
    )
    return pullback(cotangent)


def _canonical_gradients(strides, padding, images, kernel, cotangent):
    return (
        _images_gradient(strides, padding, images.shape, kernel, cotangent),
        _kernel_gradient(strides, padding, images, kernel.shape, cotangent),
    )


def _images_gradient(strides, padding, shape, kernel, cotangent):
    """Convolves the output grid, spread by the stride, with the flipped kernel."""
    spread = []
    for axis, (stride, (before, _)) in enumerate(zip(strides, padding, strict=True)):
        size, window = shape[1 + axis], kernel.shape[axis]
        reach = (cotangent.shape[1 + axis] - 1) * stride
        spread.append((window - 1 - before, size + before - reach - 1))
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    return lax.conv_general_dilated(
        cotangent,
        flipped,
        (1, 1),
        spread,
        lhs_dilation=strides,
        dimension_numbers=_NHWC,
    )


def _kernel_gradient(strides, padding, images, shape, cotangent):
    """Multiplies, for each cell of the kernel, what it saw with what came of it.

    As a convolution whose window is the output grid this takes up to eight times as
    long as these few matrix products.
    """
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    height, width, channels, out = shape
    rows, columns = cotangent.shape[1:3]
    down, across = strides
    cotangent = cotangent.reshape(-1, out)

    def cell(top: int, left: int) -> jax.Array:
        bottom, right = top + (rows - 1) * down + 1, left + (columns - 1) * across + 1
        seen = images[:, top:bottom:down, left:right:across]
        return seen.reshape(-1, channels).T @ cotangent

    cells = [cell(top, left) for top in range(height) for left in range(width)]
    return jnp.stack(cells).reshape(shape)


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: lax.ConvDimensionNumbers,
    feature_group_count: int = 1,
    precision: Any = None,
) -> jax.Array:
    """Stands in for ``lax.conv_general_dilated`` as ``nn.Conv(conv_general_dilated=)``.

    Plain convolutions (one group, no dilation) take ``conv2d``; all others JAX's own.
    """
    dilated = {*lhs_dilation, *rhs_dilation} != {1}
    if lhs.ndim == 4 and feature_group_count == 1 and not dilated and precision is None:
        (top, bottom), (left, right) = padding
        down, across = window_strides
        return conv2d(lhs, rhs, (down, across), ((top, bottom), (left, right)))
    return lax.conv_general_dilated(
        lhs,
        rhs,
        window_strides,
        padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        dimension_numbers=dimension_numbers,
        feature_group_count=feature_group_count,
        precision=precision,
    )
