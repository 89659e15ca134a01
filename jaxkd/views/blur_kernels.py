"""Random blur kernels of Real-ESRGAN: Gaussians of six kinds, and the sinc filter.

Wang et al., "Real-ESRGAN" (arXiv:2107.10833), sections 3.1 and 3.3. Kernels are
``[2 reach + 1, 2 reach + 1]`` and sum to 1; smaller ones are zero outside of their
size, so that shapes are static.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

KINDS = (
    "isotropic",
    "anisotropic",
    "generalized_isotropic",
    "generalized_anisotropic",
    "plateau_isotropic",
    "plateau_anisotropic",
)
_NODES = 64  # of the integral of a Bessel function


def squared_distance(sigma: jax.Array, angle: jax.Array, reach: int) -> jax.Array:
    """Computes ``x^T S^-1 x`` with ``S = R diag(sigma^2) R^T``.

    Args:
      sigma: ``[2]``, standard deviations along both axes, in pixels.
      angle: of the first axis, radians, from across towards down.
      reach: offsets run from ``-reach`` to ``reach``.
    """
    down, across = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    along, beside = cos * across + sin * down, cos * down - sin * across
    return (along / sigma[0]) ** 2 + (beside / sigma[1]) ** 2


def generalized(squared: jax.Array, beta: jax.Array | float) -> jax.Array:
    """Computes the generalised Gaussian, ``exp(-squared^beta / 2)``; 1 is the usual."""
    return jnp.exp(-0.5 * squared**beta)


def plateau(squared: jax.Array, beta: jax.Array | float) -> jax.Array:
    """Computes the plateau-shaped kernel, ``1 / (1 + squared^beta)``."""
    return 1 / (1 + squared**beta)


def cut(kernel: jax.Array, size: jax.Array | int) -> jax.Array:
    """Sets a kernel to 0 outside of ``size`` pixels, odd, and its sum to 1."""
    reach = len(kernel) // 2
    inside = np.abs(np.arange(-reach, reach + 1)) <= size // 2
    kernel = kernel * (inside[:, None] & inside)
    return kernel / jnp.sum(kernel)


def sinc(cutoff: jax.Array | float, size: jax.Array | int, reach: int) -> jax.Array:
    """Makes the circular low-pass filter, ``c J1(c r) / (2 pi r)``.

    Cut off at ``size``, it rings and overshoots, as sharpened and compressed images do.

    Args:
      cutoff: ``c``, radians a pixel, up to pi.
      size: of the kernel, odd.
      reach: see above.
    """
    offsets = np.arange(-reach, reach + 1)
    radius = np.hypot(offsets[:, None], offsets).astype(np.float32)
    radius[reach, reach] = 1
    kernel = cutoff * bessel_j1(cutoff * jnp.asarray(radius)) / (2 * np.pi * radius)
    # The limit at r = 0.
    return cut(kernel.at[reach, reach].set(cutoff**2 / (4 * np.pi)), size)


def bessel_j1(x: jax.Array) -> jax.Array:
    """Computes the Bessel function ``J1``, for arguments of 0 to 64.

    Its integral, ``mean cos(t - x sin t)`` over a period, is that of an entire periodic
    function, of which equidistant nodes find all digits.
    """
    t = (np.arange(_NODES) + 0.5) * np.pi / _NODES
    angle = t - x[..., None] * np.sin(t)
    return jnp.mean(jnp.cos(angle), axis=-1).astype(jnp.float32)


def draw_gaussian(
    key: jax.Array,
    size: jax.Array,
    reach: int,
    *,
    shapes: Sequence[float],
    sigma: tuple[float, float],
    generalized_beta: tuple[float, float],
    plateau_beta: tuple[float, float],
) -> jax.Array:
    """Draws a kernel of one of ``KINDS``.

    Args:
      key: of the draw.
      size: of the kernel, odd.
      reach: see above.
      shapes: weight of each kind.
      sigma: range of the standard deviations, in pixels.
      generalized_beta: range of the exponents; one half of them is below 1.
      plateau_beta: likewise.
    """
    kind_key, sigma_key, angle_key, *beta_keys = jax.random.split(key, 5)
    weights = jnp.asarray(shapes, jnp.float32)
    kind = jax.random.choice(kind_key, len(KINDS), p=weights / weights.sum())
    deviations = jax.random.uniform(sigma_key, (2,), minval=sigma[0], maxval=sigma[1])
    isotropic = kind % 2 == 0
    deviations = jnp.where(isotropic, deviations[0], deviations)
    angle = jax.random.uniform(angle_key, minval=-jnp.pi, maxval=jnp.pi)
    squared = squared_distance(deviations, angle, reach)
    kernels = jnp.stack(
        [
            generalized(squared, 1.0),
            generalized(squared, _exponent(beta_keys[0], generalized_beta)),
            plateau(squared, _exponent(beta_keys[1], plateau_beta)),
        ]
    )
    return cut(kernels[kind // 2], size)


def _exponent(key: jax.Array, limits: tuple[float, float]) -> jax.Array:
    """Draws below 1 or above it, with equal chances; uniformly in either part."""
    side_key, place_key = jax.random.split(key)
    middle = min(max(1.0, limits[0]), limits[1])
    low = jax.random.bernoulli(side_key) & (limits[0] < middle)
    low |= limits[1] <= middle
    place = jax.random.uniform(place_key)
    below = limits[0] + place * (middle - limits[0])
    return jnp.where(low, below, middle + place * (limits[1] - middle))


def draw_sinc(key: jax.Array, size: jax.Array, reach: int, *, low: bool) -> jax.Array:
    """Draws a sinc filter, of a cut-off from pi / 3, or pi / 5 for larger ones, to pi.

    Args:
      key: of the draw.
      size: of the kernel, odd.
      reach: see above.
      low: whether kernels of 13 pixels and more begin at pi / 5.
    """
    least = jnp.where((size >= 13) & low, jnp.pi / 5, jnp.pi / 3)
    part = jax.random.uniform(key)
    return sinc(least + part * (jnp.pi - least), size, reach)


def draw_size(key: jax.Array, sizes: tuple[int, int]) -> jax.Array:
    """Draws an odd size of a range of odd ones, both ends included."""
    half = jax.random.randint(key, (), sizes[0] // 2, sizes[1] // 2 + 1)
    return 2 * half + 1


def delta(reach: int) -> jax.Array:
    """Makes the kernel that changes nothing."""
    return jnp.zeros((2 * reach + 1,) * 2).at[reach, reach].set(1)


def apply(image: jax.Array, kernel: jax.Array) -> jax.Array:
    """Filters ``[h, w, c]`` by a symmetric kernel; beyond the border, pixels repeat."""
    reach = len(kernel) // 2
    wide = jnp.pad(image, [(reach, reach), (reach, reach), (0, 0)], mode="edge")
    planes = wide.transpose(2, 0, 1)[:, None]  # every channel by itself
    found = jax.lax.conv_general_dilated(
        planes,
        kernel[None, None],
        (1, 1),
        "VALID",
        precision=jax.lax.Precision.HIGHEST,
    )
    return found[:, 0].transpose(1, 2, 0)
