"""Hard negatives: authentic photographs with a region that is merely smooth.

What blurs, denoises, recompresses or rescales a part of a photograph takes its noise
away as diffusion-based inpainting does, but invents nothing. A detector that has learnt
to find smoothness marks such a region; one that has learnt to find forgery does not.

Needs the extra ``forensics`` (OpenCV, for the denoiser).
"""

from collections.abc import Callable, Mapping

import numpy as np

from jaxkd.core import optional
from jaxkd.drawing import disturbances

Smoother = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def smooth(
    image: np.ndarray, mask: np.ndarray, kind: str, rng: np.random.Generator
) -> np.ndarray:
    """Smooths the masked pixels; the others are exactly those of the image.

    Args:
      image: uint8 ``[h, w, 3]``.
      mask: uint8 ``[h, w]``, not zero where to smooth.
      kind: one of ``KINDS``.
      rng: of the strength.

    Raises:
      UserError: if the extra ``forensics`` is not installed.
    """
    return np.where((mask > 0)[..., None], _SMOOTHERS[kind](image, rng), image)


def _blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return disturbances.blur(image, int(rng.choice((3, 5, 7))))


def _denoised(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Averages similar patches (Buades et al., "A non-local algorithm", 2005)."""
    cv2 = optional.load("cv2", extra="forensics", purpose="Denoising")
    strength = float(rng.uniform(6, 15))  # grey levels
    return cv2.fastNlMeansDenoisingColored(image, None, strength, strength, 5, 13)


def _recompressed(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return disturbances.jpeg(image, int(rng.integers(20, 71)))


def _resized(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    small = disturbances.resize(image, float(rng.uniform(0.3, 0.7)))
    filter_name = ("BILINEAR", "BICUBIC")[rng.integers(2)]
    return disturbances.resize_to(small, image.shape[:2], filter_name)


_SMOOTHERS: Mapping[str, Smoother] = {
    "blurred": _blurred,
    "denoised": _denoised,
    "recompressed": _recompressed,
    "resized": _resized,
}
KINDS = tuple(_SMOOTHERS)
