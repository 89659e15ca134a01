"""Inpainters: fill in a hole of a photograph from what is around it.

Telea's and the Navier-Stokes method (OpenCV) and the biharmonic one (scikit-image)
continue what meets the border, smoothly; "exemplar" copies patches, so that what it
fills in is as rough as the rest; "generative" is a diffusion model
(``jaxkd.datasets.diffusion_inpainter``).

All but the last need the extra ``forensics`` (OpenCV and scikit-image).
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError

METHODS = ("telea", "navier_stokes", "biharmonic", "exemplar")
GENERATIVE = "generative"

# (uint8 image [h, w, 3], bool hole [h, w], generator) -> uint8 image, whose pixels
# count within the hole alone.
Filler = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def inpaint(
    image: np.ndarray,
    mask: np.ndarray,
    method: str,
    rng: np.random.Generator,
    generate: Filler | None = None,
) -> np.ndarray:
    """Fills in the masked pixels; the others are exactly those of the image.

    Args:
      image: uint8 ``[h, w, 3]``.
      mask: uint8 ``[h, w]``, not zero where to fill in.
      method: "telea" or "navier_stokes" (OpenCV, radius 3), "biharmonic"
        (scikit-image), "exemplar", which copies patches of the same image, or
        "generative".
      rng: for the last two.
      generate: the filler that is "generative".

    Raises:
      UserError: if the extra ``forensics`` is not installed, or "generative" is asked
        for without one.
    """
    require_generative([method], generate)
    hole = mask > 0
    fill = generate if method == GENERATIVE else _FILLERS[method]
    assert fill is not None  # checked above
    filled = fill(image, hole, rng)
    return np.where(hole[..., None], filled, image)


def require_generative(methods: Sequence[str], generate: Filler | None) -> None:
    """Checks that there is a filler where "generative" is one of the methods.

    Raises:
      UserError: if there is none.
    """
    if GENERATIVE in methods and generate is None:
        raise UserError(
            "The inpainter 'generative' is a trained diffusion model, and none is "
            "given. Expected the folder of its run as data.inpainter, or --inpainter "
            "of forged_photographs, such as "
            "`jaxkd --config=defi:inpainter --workdir=runs/inpainter` trains."
        )


def _opencv(flag: str) -> Filler:
    def fill(image: np.ndarray, hole: np.ndarray, rng) -> np.ndarray:
        cv2 = optional.load("cv2", extra="forensics", purpose="Inpainting")
        return cv2.inpaint(image, hole.astype(np.uint8), 3, getattr(cv2, flag))

    return fill


def _biharmonic(image: np.ndarray, hole: np.ndarray, rng) -> np.ndarray:
    restoration = optional.load(
        "skimage.restoration", extra="forensics", purpose="Inpainting"
    )

    filled = restoration.inpaint_biharmonic(image / 255.0, hole, channel_axis=-1)
    return np.round(np.clip(filled, 0, 1) * 255).astype(np.uint8)


def _exemplar(
    image: np.ndarray, hole: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Copies, from the border inwards, what fits best of randomly chosen patches.

    In the manner of Criminisi et al., "Region Filling and Object Removal by
    Exemplar-Based Image Inpainting", 2004: patches of 9x9 pixels, 150 candidates.
    """
    reach, candidates = 4, 150
    pad = ((reach, reach), (reach, reach))
    filled = np.pad(image, (*pad, (0, 0)), mode="reflect").astype(np.float64)
    # What is mirrored from the hole is not known either.
    known = ~np.pad(hole, pad, mode="reflect")
    side = 2 * reach + 1
    windows = np.lib.stride_tricks.sliding_window_view(known, (side, side))
    whole = np.argwhere(windows.all((-2, -1)))  # top left corners of known patches
    if not len(whole):
        return image
    missing = ~known
    while missing[reach:-reach, reach:-reach].any():
        top, left = _most_known(missing, reach)
        target = filled[top : top + side, left : left + side]
        seen = ~missing[top : top + side, left : left + side]
        tried = whole[rng.integers(len(whole), size=candidates)]
        patches = np.stack([filled[y : y + side, x : x + side] for y, x in tried])
        errors = (((patches - target) ** 2).sum(-1) * seen).sum((1, 2))
        target[~seen] = patches[np.argmin(errors)][~seen]
        missing[top : top + side, left : left + side] = False
    return np.round(filled[reach:-reach, reach:-reach]).astype(np.uint8)


def _most_known(missing: np.ndarray, reach: int) -> tuple[int, int]:
    """Returns the patch about a missing pixel that misses fewest, its corner."""
    side = 2 * reach + 1
    windows = np.lib.stride_tricks.sliding_window_view(missing, (side, side))
    counts = windows.sum((-2, -1)).astype(float)
    counts[~missing[reach:-reach, reach:-reach]] = np.inf
    top, left = np.unravel_index(np.argmin(counts), counts.shape)
    return int(top), int(left)


_FILLERS: Mapping[str, Filler] = {
    "telea": _opencv("INPAINT_TELEA"),
    "navier_stokes": _opencv("INPAINT_NS"),
    "biharmonic": _biharmonic,
    "exemplar": _exemplar,
}
