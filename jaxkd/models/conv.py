"""A 2-D convolution that is fast on CPU, also inside loops and on small maps.

XLA's CPU compiler has one fast kernel for convolutions, and leaves it in three cases,
each at a loss of up to tenfold (``benchmarks/conv_in_loop.py``):

- In the body of ``lax.scan``, ``lax.map`` or ``lax.cond``, unless images are laid out
  NHWC and kernels HWIO, which those of a gradient are not by themselves.
- Where the map is smaller than the kernel: both change places.
- For the gradient of the kernel, whose window is as large as the map.

So here the gradient of the images keeps the fast layout, and the other cases are
written as matrix products. A convolution of each channel by itself (depthwise), which
has no fast kernel in loops, is the sum of shifted images. On other platforms JAX's own
convolution and gradient are used, whose form their compilers recognise.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

# Below this many input channels one product is faster than XLA's convolution.
FEW_CHANNELS = 4
# Above this many cells of a kernel a sum over them takes long to compile.
MANY_CELLS = 25

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
    few = images.shape[-1] < FEW_CHANNELS
    if not few and not _is_small(images.shape, kernel.shape):
        return _lax_conv(images, kernel, strides, padding)
    return lax.platform_dependent(
        images,
        kernel,
        cpu=functools.partial(_as_product, strides=strides, padding=padding),
        default=functools.partial(_lax_conv, strides=strides, padding=padding),
    )


def _lax_conv(images, kernel, strides, padding):
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=_NHWC
    )


def _is_small(images: Sequence[int], kernel: Sequence[int]) -> bool:
    """Tells whether XLA would exchange images and kernel, given their shapes."""
    return images[1] * images[2] < kernel[0] * kernel[1]


def _windows(kernel: Sequence[int], grid: Sequence[int], strides: Strides):
    """Lists, for each cell of the kernel, the part of the padded images it sees."""
    (height, width), (rows, columns), (down, across) = kernel[:2], grid, strides
    return [
        (
            slice(None),
            slice(top, top + (rows - 1) * down + 1, down),
            slice(left, left + (columns - 1) * across + 1, across),
        )
        for top in range(height)
        for left in range(width)
    ]


def _grid(padded: jax.Array, kernel: jax.Array, strides: Strides) -> list[int]:
    return [
        (padded.shape[1 + axis] - kernel.shape[axis]) // strides[axis] + 1
        for axis in (0, 1)
    ]


def _as_product(images, kernel, strides, padding):
    """Convolves as one product of all windows with the kernel."""
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    windows = _windows(kernel.shape, _grid(images, kernel, strides), strides)
    seen = jnp.concatenate([images[window] for window in windows], axis=-1)
    return seen @ kernel.reshape(-1, kernel.shape[-1])


def _forward(images, kernel, strides, padding):
    return conv2d(images, kernel, strides, padding), (images, kernel)


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
    if _is_small(cotangent.shape, kernel.shape):
        return _images_gradient_as_products(strides, padding, shape, kernel, cotangent)
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


def _images_gradient_as_products(strides, padding, shape, kernel, cotangent):
    """Adds, for each cell of the kernel, what it passes back to where it looked."""
    (top, bottom), (left, right) = padding
    batch, height, width, channels = shape
    padded = (batch, top + height + bottom, left + width + right, channels)
    gradient = jnp.zeros(padded, cotangent.dtype)
    windows = _windows(kernel.shape, cotangent.shape[1:3], strides)
    cells = kernel.reshape(-1, *kernel.shape[2:])
    for window, cell in zip(windows, cells, strict=True):
        gradient = gradient.at[window].add(cotangent @ cell.T)
    return gradient[:, top : top + height, left : left + width]


def _kernel_gradient(strides, padding, images, shape, cotangent):
    """Multiplies, for each cell of the kernel, what it saw with what came of it."""
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    windows = _windows(shape, cotangent.shape[1:3], strides)
    cotangent = cotangent.reshape(-1, cotangent.shape[-1])
    cells = [images[w].reshape(-1, images.shape[-1]).T @ cotangent for w in windows]
    return jnp.stack(cells).reshape(shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise2d(
    images: jax.Array, kernel: jax.Array, strides: Strides, padding: Padding
) -> jax.Array:
    """Convolves each channel by itself; differentiable in reverse mode only.

    Args:
      images: ``[batch, height, width, channels]``.
      kernel: ``[kernel height, kernel width, 1, channels]``.
      strides: of the output grid, in pixels.
      padding: zeros before and after each of height and width.

    Returns:
      ``[batch, out height, out width, channels]``, as ``lax.conv_general_dilated`` with
      as many groups as channels.
    """
    return lax.platform_dependent(
        images,
        kernel,
        cpu=functools.partial(_as_sum, strides=strides, padding=padding),
        default=functools.partial(_lax_depthwise, strides=strides, padding=padding),
    )


def _as_sum(images, kernel, strides, padding):
    """Adds what each cell of the kernel sees, times the cell."""
    images = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    windows = _windows(kernel.shape, _grid(images, kernel, strides), strides)
    cells = kernel.reshape(-1, kernel.shape[-1])
    return sum(images[w] * cell for w, cell in zip(windows, cells, strict=True))


def _lax_depthwise(images, kernel, strides, padding):
    return lax.conv_general_dilated(
        images,
        kernel,
        strides,
        padding,
        dimension_numbers=_NHWC,
        feature_group_count=images.shape[-1],
    )


def _depthwise_forward(images, kernel, strides, padding):
    return depthwise2d(images, kernel, strides, padding), (images, kernel)


def _depthwise_backward(strides, padding, residuals, cotangent):
    def pullback(function):
        def gradients(images, kernel, cotangent):
            convolve = functools.partial(function, strides=strides, padding=padding)
            return jax.vjp(convolve, images, kernel)[1](cotangent)

        return gradients

    cpu, default = pullback(_as_sum), pullback(_lax_depthwise)
    return lax.platform_dependent(*residuals, cotangent, cpu=cpu, default=default)


depthwise2d.defvjp(_depthwise_forward, _depthwise_backward)


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

    Plain convolutions (one group, no dilation) take ``conv2d``, those of each channel
    by itself ``depthwise2d``; all others JAX's own.
    """
    dilated = {*lhs_dilation, *rhs_dilation} != {1}
    depthwise = (
        rhs.shape[-2] == 1
        and rhs.shape[-1] == lhs.shape[-1]
        and rhs.shape[0] * rhs.shape[1] <= MANY_CELLS
    )
    if lhs.ndim == 4 and not dilated and precision is None:
        (top, bottom), (left, right) = padding
        down, across = window_strides
        settings = (down, across), ((top, bottom), (left, right))
        if feature_group_count == 1:
            return conv2d(lhs, rhs, *settings)
        if depthwise:
            return depthwise2d(lhs, rhs, *settings)
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
