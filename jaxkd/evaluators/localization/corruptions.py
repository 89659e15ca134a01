"""Disturbances that photographs meet on their way: what a detector must survive.

Images are uint8 ``[height, width, 3]``; masks only follow changes of size. The grid is
that of the IMDL-BenCo benchmark, with changes of size added.
"""

import io
from collections.abc import Callable, Mapping

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.lookup import choose
from jaxkd.core.source import Example, Source

# Kind -> levels, from mild to harsh; at the first nothing, or nearly, is changed.
GRID: Mapping[str, tuple[float, ...]] = {
    "jpeg": (100, 90, 80, 70, 60, 50),
    "noise": (3, 7, 11, 15, 19, 23),
    "blur": (3, 7, 11, 15, 19, 23),
    "resize": (1.5, 1.25, 0.75, 0.5),
}
LABELS: Mapping[str, str] = {
    "jpeg": "JPEG quality",
    "noise": "variance of the noise",
    "blur": "kernel of the blur",
    "resize": "scale",
}


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
    return _resize(image, scale, "BILINEAR")


_KINDS: Mapping[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "jpeg": jpeg,
    "noise": noise,
    "blur": blur,
    "resize": resize,
}


def apply(example: Example, kind: str, level: float) -> Example:
    """Disturbs an example's image; its mask follows a change of size, to the nearest.

    Raises:
      UserError: if there is no such kind.
    """
    function = choose(kind, _KINDS, what="disturbance")
    changed = {"image": function(example["image"], level)}
    if kind == "resize" and "target_mask" in example:
        changed["target_mask"] = _resize(example["target_mask"], level, "NEAREST")
    return example | changed


class Disturbed:
    """A source whose examples are disturbed as they are read."""

    def __init__(self, source: Source, kind: str, level: float):
        if not len(source):
            raise UserError("There is nothing to disturb: the source has no examples.")
        self.source, self.kind, self.level = source, kind, level

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return apply(self.source[index], self.kind, self.level)


def _resize(image: np.ndarray, scale: float, filter_name: str) -> np.ndarray:
    from PIL import Image

    height, width = (max(round(side * scale), 1) for side in image.shape[:2])
    chosen = Image.Resampling[filter_name]
    return np.array(Image.fromarray(image).resize((width, height), chosen))
