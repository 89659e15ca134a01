"""A 2-D convolution whose gradient stays fast inside loops on CPU.

XLA's CPU compiler rewrites convolutions into the one layout that its fast kernel
accepts (images NHWC, kernel HWIO) only at the top level of a program. The gradients
of a convolution in the body of ``lax.scan``, ``lax.map`` or ``lax.cond`` keep their
transposed layout and run as a scalar loop instead, more than ten times slower
(``benchmarks/conv_in_loop.py``). Written in the fast layout to begin with, they cost
the same inside a loop as outside. On other platforms JAX's own gradient is used,
whose form their compilers recognise.
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
    conv = functools.partial(lax.conv_general_dilated, dimension_numbers=_NHWC)
    image_padding, kernel_padding = [], []
    for axis, (stride, (before, _)) in enumerate(zip(strides, padding, strict=True)):
        size, window = images.shape[1 + axis], kernel.shape[axis]
        reach = (cotangent.shape[1 + axis] - 1) * stride
        image_padding.append((window - 1 - before, size + before - reach - 1))
        kernel_padding.append((before, reach + window - size - before))
    # The images' gradient: the output grid, spread by the stride, against the
    # flipped kernel.
    flipped = jnp.swapaxes(kernel[::-1, ::-1], 2, 3)
    d_images = conv(cotangent, flipped, (1, 1), image_padding, lhs_dilation=strides)
    # The kernel's gradient: channels take the place of the batch and the batch that
    # of the channels.
    d_kernel = conv(
        jnp.transpose(images, (3, 1, 2, 0)),
        jnp.transpose(cotangent, (1, 2, 0, 3)),
        (1, 1),
        kernel_padding,
        rhs_dilation=strides,
    )
    return d_images, jnp.transpose(d_kernel, (1, 2, 0, 3))


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
