"""What JPEG does to an image, as arithmetic on the device.

The lossy part of baseline JPEG without subsampling of colours: YCbCr, cosine transform
of 8 x 8 blocks, division by the standard's tables (ITU T.81, annex K.1), rounding, and
back. Entropy coding loses nothing and is left out.
"""

import jax
import jax.numpy as jnp
import numpy as np

_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)
_CHROMINANCE = np.full((8, 8), 99)
_CHROMINANCE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
# ITU-R BT.601, as JFIF takes it.
_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ]
)


def _cosines() -> np.ndarray:
    """Returns the orthonormal cosine transform of length 8, ``[frequency, place]``."""
    frequency, place = np.mgrid[:8, :8]
    matrix = np.cos(np.pi * frequency * (2 * place + 1) / 16) / 2
    matrix[0] /= np.sqrt(2)
    return matrix


def compress(images: jax.Array, quality: jax.Array) -> jax.Array:
    """Compresses and decompresses images as JPEG would.

    Rounding has no gradient, and neither has this.

    Args:
      images: ``[b, h, w, c]`` in [0, 1], of one channel or three (red, green, blue);
        values beyond are clipped.
      quality: ``[b]``, 1 to 100, as in libjpeg.

    Returns:
      ``[b, h, w, c]``, in steps of 1/255.

    Raises:
      ValueError: if there are neither one nor three channels.
    """
    channels = images.shape[-1]
    if channels not in (1, 3):
        raise ValueError(f"The images have {channels} channels, expected 1 or 3.")
    levels = jnp.round(jnp.clip(images, 0, 1) * 255)
    if channels == 3:
        levels = jnp.round(_mix(levels, _TO_YCBCR))
    levels = levels.at[..., 0].add(-128)
    decoded = _through_blocks(levels, _tables(quality, channels))
    decoded = jnp.round(decoded.at[..., 0].add(128))
    if channels == 3:
        decoded = _mix(decoded, np.linalg.inv(_TO_YCBCR))
    return jnp.clip(jnp.round(decoded), 0, 255) / 255


def _tables(quality: jax.Array, channels: int) -> jax.Array:
    """Scales the tables as libjpeg does: ``[b, 8, 8, c]``."""
    tables = np.stack([_LUMINANCE, _CHROMINANCE, _CHROMINANCE][:channels], axis=-1)
    quality = jnp.asarray(quality, jnp.int32)
    scale = jnp.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    scaled = (tables * scale[:, None, None, None] + 50) // 100
    return jnp.clip(scaled, 1, 255).astype(jnp.float32)


def _through_blocks(levels: jax.Array, tables: jax.Array) -> jax.Array:
    """Quantises the blocks' cosine transforms; part blocks repeat the border."""
    count, height, width, channels = levels.shape
    pad = ((0, 0), (0, -height % 8), (0, -width % 8), (0, 0))
    padded = jnp.pad(levels, pad, mode="edge")
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = padded.reshape(count, rows, 8, columns, 8, channels)
    matrix = jnp.asarray(_cosines(), jnp.float32)
    exact = jax.lax.Precision.HIGHEST
    found = jnp.einsum("bripjc,ui,vj->brupvc", blocks, matrix, matrix, precision=exact)
    steps = tables[:, None, :, None]
    found = jnp.round(found / steps) * steps
    back = jnp.einsum("brupvc,ui,vj->bripjc", found, matrix, matrix, precision=exact)
    return back.reshape(padded.shape)[:, :height, :width]


def _mix(images: jax.Array, matrix: np.ndarray) -> jax.Array:
    return jnp.einsum(
        "bhwc,dc->bhwd",
        images,
        jnp.asarray(matrix, images.dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
