"""How close images are: PSNR and SSIM, on luminance, as super-resolution reports them.

Images are ``[batch, height, width, channels]`` in [0, 1]. All functions return one
value per image, and can be compiled.
"""

import jax
import jax.numpy as jnp
import numpy as np

_SIGMA, _RADIUS = 1.5, 5  # SSIM's window, as scikit-image cuts it off


def luminance(images: jax.Array) -> jax.Array:
    """Computes luma as MATLAB's ``rgb2ycbcr`` (BT.601, in [16, 235] / 255).

    Args:
      images: RGB ``[..., 3]`` in [0, 1]; one channel is returned as it is.

    Returns:
      ``[..., 1]``.

    Raises:
      ValueError: for other numbers of channels.

    >>> import jax.numpy as jnp
    >>> [round(255 * float(luminance(jnp.full(3, x))[0])) for x in (0.0, 1.0)]
    [16, 235]
    """
    images = jnp.asarray(images, jnp.float32)
    if images.shape[-1] == 1:
        return images
    if images.shape[-1] != 3:
        raise ValueError(
            f"images have {images.shape[-1]} channels, expected 3 (RGB) or 1."
        )
    weights = jnp.array([65.481, 128.553, 24.966], jnp.float32)
    return (jnp.sum(images * weights, axis=-1, keepdims=True) + 16) / 255


def crop_border(images: jax.Array, border: int) -> jax.Array:
    """Drops ``border`` pixels on every side, as the super-resolution protocol does."""
    if min(images.shape[1:3]) <= 2 * border:
        raise ValueError(
            f"images are {images.shape[1:3]}, expected more than twice the border "
            f"{border}."
        )
    return images[:, border : -border or None, border : -border or None]


def psnr(images: jax.Array, truths: jax.Array) -> jax.Array:
    """Computes the peak signal-to-noise ratio in dB, ``-10 log10 mean (a - b)^2``.

    Returns:
      ``[batch]``; 100 for equal images, whose ratio is infinite.
    """
    error = (jnp.asarray(images, jnp.float32) - truths) ** 2
    error = jnp.mean(error, axis=tuple(range(1, error.ndim)))
    return -10 * jnp.log10(jnp.maximum(error, 1e-10))


def ssim(images: jax.Array, truths: jax.Array) -> jax.Array:
    """Computes the structural similarity with a Gaussian window.

    Wang et al., "Image Quality Assessment" (2004): windows of standard deviation 1.5
    and 11 pixels, constants 0.01^2 and 0.03^2, population covariances; borders that the
    window crosses are left out. It is ``skimage.metrics.structural_similarity(...,
    gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)``.

    Args:
      images: ``[batch, h, w, c]`` in [0, 1], at least 11 pixels a side.
      truths: the same shape.

    Returns:
      ``[batch]``, averaged over pixels and channels.

    Raises:
      ValueError: for images below 11 pixels.
    """
    a, b = (jnp.asarray(x, jnp.float32) for x in (images, truths))
    if min(a.shape[1:3]) <= 2 * _RADIUS:
        raise ValueError(
            f"images are {a.shape[1:3]}, expected at least {2 * _RADIUS + 1} pixels."
        )
    mean_a, mean_b = _smooth(a), _smooth(b)
    var_a, var_b = _smooth(a * a) - mean_a**2, _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    first = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    second = (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    return jnp.mean(first * second, axis=(1, 2, 3))


def _smooth(x: jax.Array) -> jax.Array:
    """Averages by a Gaussian, where its window fits."""
    place = np.arange(-_RADIUS, _RADIUS + 1)
    taps = np.exp(-0.5 * (place / _SIGMA) ** 2)
    taps = (taps / taps.sum()).astype(np.float32)
    for axis in (1, 2):
        size = x.shape[axis] - 2 * _RADIUS
        x = sum(
            tap * jax.lax.slice_in_dim(x, i, i + size, axis=axis)
            for i, tap in enumerate(taps)
        )
    return x


def edge_energy(images: jax.Array) -> jax.Array:
    """Computes the mean squared difference of neighbouring pixels.

    Its ratio to that of the truth falls below 1 where restored images are blurred.

    Returns:
      ``[batch]``.

    >>> import jax.numpy as jnp
    >>> float(edge_energy(jnp.array([0.0, 1, 0, 1]).reshape(1, 2, 2, 1))[0])
    1.0
    """
    x = jnp.asarray(images, jnp.float32)
    across = jnp.mean((x[:, :, 1:] - x[:, :, :-1]) ** 2, axis=(1, 2, 3))
    down = jnp.mean((x[:, 1:] - x[:, :-1]) ** 2, axis=(1, 2, 3))
    return across + down
