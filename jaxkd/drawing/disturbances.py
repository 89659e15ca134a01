"""Disturbs photographs as they are on their way: JPEG, noise, blur, changes of size.

Images are uint8 ``[height, width, 3]``, and stay so. They are what a detector of
forgeries has to survive (``jaxkd.evaluators.localization``), and, within a region, what
it must not take for one (``jaxkd.datasets.hard_negatives``).
"""

import io

import numpy as np


def jpeg(image: np.ndarray, quality: float) -> np.ndarray:
    """Compresses and decompresses, with subsampled colour as is usual."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=int(quality))
    return np.array(Image.open(file))


def noise(image: np.ndarray, variance: float, seed: int = 0) -> np.ndarray:
    """Adds normal noise of this variance in grey levels, the same for each call."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(0, np.sqrt(variance), image.shape)
    return np.clip(np.round(image + grain), 0, 255).astype(np.uint8)


def blur(image: np.ndarray, kernel: float) -> np.ndarray:
    """Blurs with a normal kernel of this many pixels, of OpenCV's deviation for it."""
    from scipy import ndimage

    reach = (int(kernel) - 1) // 2
    sigma = 0.3 * (reach - 1) + 0.8
    grown = ndimage.gaussian_filter(
        image.astype(np.float32), (sigma, sigma, 0), mode="mirror", radius=(reach,) * 3
    )
    return np.clip(np.round(grown), 0, 255).astype(np.uint8)


def resize(image: np.ndarray, scale: float) -> np.ndarray:
    """Resizes bilinearly, antialiased where smaller."""
    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    return resize_to(image, (height, width))


def resize_to(
    image: np.ndarray, size: tuple[int, int], filter_name: str = "BILINEAR"
) -> np.ndarray:
    """Resizes to ``(height, width)`` with one of Pillow's filters.

    Args:
      image: uint8 ``[h, w, 3]``, or a mask ``[h, w]``.
      size: of the result.
      filter_name: of ``PIL.Image.Resampling``, such as ``"NEAREST"``.
    """
    from PIL import Image

    chosen = Image.Resampling[filter_name]
    return np.array(Image.fromarray(image).resize(size[::-1], chosen))
