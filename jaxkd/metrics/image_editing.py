"""Metrics of edited images: agreement with texts, and what was left alone.

Embeddings are arguments, such as CLIP's (``jaxkd.convert.load_clip``), so that any
model of images and texts can be used.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

# (C1, C2) of SSIM for values of [0, 1], and its window.
_SSIM = (0.01**2, 0.03**2)
_SIGMA, _REACH = 1.5, 5


def clip_score(image: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Computes CLIPScore: ``100 cos`` of embeddings ``[..., width]``, not below 0."""
    return 100 * np.maximum(_cosine(image, text), 0)


def directional_similarity(
    source_image: np.ndarray,
    target_image: np.ndarray,
    source_text: np.ndarray,
    target_text: np.ndarray,
) -> np.ndarray:
    """Computes D-CLIP: the cosine of the change of the image and that of the text.

    All are embeddings ``[..., width]`` of unit norm.
    """
    return _cosine(target_image - source_image, target_text - source_text)


def aspect_accuracy(
    image: np.ndarray, target: np.ndarray, reverted: np.ndarray
) -> float:
    """Computes AspAcc-CLIP of one image: the share of the edits that it shows.

    An edit succeeded if the image fits the target prompt better than the prompt in
    which that edit alone is undone (arXiv 2406.00985).

    Args:
      image: embedding of the edited image ``[width]``.
      target: embedding of the target prompt ``[width]``.
      reverted: embeddings of the prompts without each edit ``[edits, width]``.
    """
    return float(np.mean(_cosine(image, target) > _cosine(image, reverted)))


def asked_accuracy(
    ask: Callable[[np.ndarray, str], Sequence[int]], image: np.ndarray, marked: str
) -> float:
    """Computes AspAcc by a model that answers questions about images.

    Args:
      ask: ``(image, question) -> 0 or 1 for each marked aspect``; any model.
      image: the edited image.
      marked: the target prompt with its aspects in square brackets.

    Raises:
      ValueError: if the answer has another length, or nothing is marked.
    """
    count = marked.count("[")
    question = (
        "Is each aspect in square brackets shown by the image? Answer with a list of 0 "
        f"and 1, one for each: {marked}"
    )
    answer = list(ask(image, question))
    if len(answer) != count or not count:
        raise ValueError(
            f"{len(answer)} answers for {count} marked aspects; expected one for each."
        )
    return float(np.mean([bool(one) for one in answer]))


def unedited(
    source: np.ndarray,
    edited: np.ndarray,
    mask: np.ndarray,
    *,
    compat: bool = False,
) -> dict[str, float]:
    """Measures what should have stayed as it was.

    Args:
      source: ``[height, width, 3]`` of [0, 1].
      edited: likewise.
      mask: ``[height, width]``, True where the edit is.
      compat: whether to measure as PIE-Bench does: both images are set to zero inside
        the mask, and the whole frame is averaged, which makes large masks look good.

    Returns:
      ``mse``, ``psnr`` and ``ssim``; NaN if nothing is outside the mask.
    """
    keep = ~np.asarray(mask, bool)
    if not keep.any():
        return dict.fromkeys(("mse", "psnr", "ssim"), math.nan)
    a, b = (np.where(keep[..., None], image, 0.0) for image in (source, edited))
    squared, similar = np.mean((a - b) ** 2, axis=-1), ssim_map(a, b)
    if compat:
        mse, ssim = float(squared.mean()), float(similar.mean())
    else:
        mse, ssim = float(squared[keep].mean()), float(similar[keep].mean())
    return {"mse": mse, "psnr": psnr(mse), "ssim": ssim}


def psnr(mse: float) -> float:
    """Computes the peak signal-to-noise ratio in dB, of values of [0, 1]."""
    return 10 * math.log10(1 / mse) if mse > 0 else math.inf


def ssim_map(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Computes structural similarity at each pixel (Wang et al. 2004).

    Gaussian windows of 11 x 11 with deviation 1.5, mirrored at the border; the mean
    over channels of images ``[height, width, channels]`` of [0, 1].
    """

    def blur(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = ndimage.gaussian_filter1d(
                x, _SIGMA, axis=axis, mode="mirror", radius=_REACH
            )
        return x

    x, y = np.asarray(first, np.float64), np.asarray(second, np.float64)
    mx, my = blur(x), blur(y)
    vx, vy = blur(x * x) - mx**2, blur(y * y) - my**2
    cov = blur(x * y) - mx * my
    c1, c2 = _SSIM
    top = (2 * mx * my + c1) * (2 * cov + c2)
    return np.mean(top / ((mx**2 + my**2 + c1) * (vx + vy + c2)), axis=-1)


def structure_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Computes the distance of self-similarities of keys ``[tokens, width]``.

    PIE-Bench takes the keys of layer 11 of DINO's ViT-B/8; a feature extractor is an
    argument of whoever calls this, since none is part of the library.
    """
    a, b = (_cosine(x[:, None], x[None]) for x in (first, second))
    return float(np.mean((a - b) ** 2))


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.sum(a * b, axis=-1) / np.maximum(norms, 1e-12)
