"""Photographs with inpainted holes, made from what ships inside installed packages.

Nothing is downloaded: the pictures are files of the scikit-image, scikit-learn and
matplotlib wheels. Crops are taken from them, and part of each is filled in by one of
several methods. Training and test crops never share a photograph.

Needs the extra ``forensics`` (OpenCV and scikit-image).
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info, statistics
from jaxkd.readers.images import decode

# Package, folder within it, and files. Only these are asked for: other pictures of
# scikit-image are fetched over the network.
FOLDERS = {
    "skimage": ("skimage", "data"),
    "sklearn": ("sklearn", "datasets/images"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data"),
}
TRAIN = (
    "skimage/coffee.png",
    "skimage/rocket.jpg",
    "skimage/motorcycle_left.png",
    "skimage/motorcycle_right.png",
    "skimage/brick.png",
    "skimage/gravel.png",
    "skimage/camera.png",
    "skimage/coins.png",
    "skimage/ihc.png",
    "sklearn/china.jpg",
)
TEST = (
    "skimage/astronaut.png",
    "skimage/chelsea.png",
    "skimage/grass.png",
    "skimage/hubble_deep_field.jpg",
    "sklearn/flower.jpg",
    "matplotlib/grace_hopper.jpg",
)
METHODS = ("telea", "navier_stokes", "biharmonic", "exemplar")
AUTHENTIC = "authentic"

_LEAST_DEVIATION = 8.0  # grey levels; flatter crops show nothing
_LEAST_CHANGE = 2.0  # grey levels; a smaller change cannot be seen by anyone
_AREA = (0.04, 0.30)
_ATTEMPTS = 200


def photographs(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads pictures of installed packages.

    Args:
      names: such as ``"skimage/coffee.png"``; see ``TRAIN`` and ``TEST``.

    Returns:
      Name -> uint8 ``[height, width, 3]``; what is not installed is left out.

    Raises:
      UserError: if none of them is there.
    """
    found = {}
    for name in names:
        package, _, file = name.partition("/")
        path = _folder(package)
        if path is not None and (path / file).is_file():
            found[name] = decode(path / file)
    if not found:
        raise UserError(
            f"None of the pictures {', '.join(names)} is installed. Expected the extra "
            f"forensics: {optional.install('forensics')}"
        )
    return found


def _folder(package: str) -> Path | None:
    name, inside = FOLDERS[package]
    spec = find_spec(name)  # which does not import the package
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / inside


class Crops(NamedTuple):
    """Crops with a hole filled in, or untouched.

    Attributes:
      image: uint8 ``[n, size, size, 3]``.
      target_mask: uint8 ``[n, size, size]``, 255 where the picture was filled in.
      label: int32 ``[n]``, 1 where any of it was.
      kind: int32 ``[n]``: the place of the method in ``METHODS``, or its length for
        authentic crops.
      origin: int32 ``[n]``: the place of the photograph among those that were read.
    """

    image: np.ndarray
    target_mask: np.ndarray
    label: np.ndarray
    kind: np.ndarray
    origin: np.ndarray


def make(
    pictures: Sequence[np.ndarray],
    kinds: Sequence[str],
    size: int,
    seed: int,
) -> Crops:
    """Makes one crop for each of ``kinds``.

    Pictures are taken in turn. A crop is at full scale or half of it, and not flat; a
    filled region covers 4 to 30 % of it and differs visibly from what was there.

    Args:
      pictures: uint8 ``[height, width, 3]``, larger than ``2 size``.
      kinds: of ``METHODS``, or ``AUTHENTIC``.
      size: side of the crops.
      seed: of everything that is drawn.

    Raises:
      UserError: if a method is unknown, or the pictures do not give such crops.
    """
    unknown = sorted(set(kinds) - {*METHODS, AUTHENTIC})
    if unknown:
        raise UserError(
            f"Inpainting methods {', '.join(unknown)} are not known, expected some of "
            f"{', '.join(METHODS)}."
        )
    rng = np.random.default_rng([seed, size])
    halves = [_half(picture) for picture in pictures]
    rows = []
    for place, kind in enumerate(kinds):
        origin = place % len(pictures)
        scales = (pictures[origin], halves[origin])
        rows.append((*_draw(scales, kind, size, rng), origin))
    images, masks, places, origins = zip(*rows, strict=True)
    drawn = np.asarray(places, np.int32)
    return Crops(
        np.stack(images),
        np.stack(masks),
        (drawn < len(METHODS)).astype(np.int32),
        drawn,
        np.asarray(origins, np.int32),
    )


def _half(picture: np.ndarray) -> np.ndarray:
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    parts = picture[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.round(parts.astype(np.float64).mean((1, 3))).astype(np.uint8)


def _draw(scales, kind: str, size: int, rng: np.random.Generator):
    """Draws until a crop and its change are visible; returns crop, mask and kind."""
    for _ in range(_ATTEMPTS):
        picture = scales[rng.integers(2)]
        if min(picture.shape[:2]) < size:
            continue
        top, left = (rng.integers(side - size + 1) for side in picture.shape[:2])
        crop = np.ascontiguousarray(picture[top : top + size, left : left + size])
        if crop.std(axis=(0, 1)).mean() < _LEAST_DEVIATION:
            continue
        if kind == AUTHENTIC:
            return crop, np.zeros((size, size), np.uint8), len(METHODS)
        mask = draw_mask(size, rng)
        filled = inpaint(crop, mask, kind, rng)
        change = np.abs(filled.astype(int) - crop)[mask > 0]
        if change.mean() >= _LEAST_CHANGE:
            return filled, mask, METHODS.index(kind)
    raise UserError(
        f"A picture of {scales[0].shape} gives no crop of {size} pixels with a visible "
        f"{kind} change in {_ATTEMPTS} attempts. Expected larger or less flat pictures."
    )


def draw_mask(size: int, rng: np.random.Generator) -> np.ndarray:
    """Draws one or two ellipses, polygons or thick strokes.

    Returns:
      uint8 ``[size, size]``, 255 inside; 4 to 30 % of the pixels.
    """
    from PIL import Image, ImageDraw

    while True:
        layer = Image.new("L", (size, size))
        pen = ImageDraw.Draw(layer)
        for _ in range(rng.integers(1, 3)):
            _SHAPES[rng.integers(len(_SHAPES))](pen, size, rng)
        mask = np.array(layer)
        if _AREA[0] <= (mask > 0).mean() <= _AREA[1]:
            return mask


def _ellipse(pen, size: int, rng: np.random.Generator) -> None:
    x, y = rng.uniform(0, size, 2)
    a, b = rng.uniform(0.08, 0.3, 2) * size
    pen.ellipse((x - a, y - b, x + a, y + b), fill=255)


def _polygon(pen, size: int, rng: np.random.Generator) -> None:
    centre, count = rng.uniform(0.1, 0.9, 2) * size, int(rng.integers(3, 8))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    reach = rng.uniform(0.1, 0.35, count) * size
    corners = centre + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    pen.polygon([tuple(corner) for corner in corners.tolist()], fill=255)


def _stroke(pen, size: int, rng: np.random.Generator) -> None:
    points = rng.uniform(0, size, (int(rng.integers(2, 5)), 2))
    width = int(rng.integers(3, max(size // 8, 4) + 1))
    line = [tuple(point) for point in points.tolist()]
    pen.line(line, fill=255, width=width, joint="curve")


_SHAPES: tuple[Callable, ...] = (_ellipse, _polygon, _stroke)


def inpaint(
    image: np.ndarray, mask: np.ndarray, method: str, rng: np.random.Generator
) -> np.ndarray:
    """Fills in the masked pixels; the others are exactly those of the image.

    Args:
      image: uint8 ``[h, w, 3]``.
      mask: uint8 ``[h, w]``, not zero where to fill in.
      method: "telea" or "navier_stokes" (OpenCV, radius 3), "biharmonic"
        (scikit-image), or "exemplar", which copies patches of the same image.
      rng: for "exemplar".

    Raises:
      UserError: if the extra ``forensics`` is not installed.
    """
    hole = mask > 0
    filled = _FILLERS[method](image, hole, rng)
    return np.where(hole[..., None], filled, image)


def _opencv(flag: str) -> Callable:
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


_FILLERS: dict[str, Callable] = {
    "telea": _opencv("INPAINT_TELEA"),
    "navier_stokes": _opencv("INPAINT_NS"),
    "biharmonic": _biharmonic,
    "exemplar": _exemplar,
}


def load(
    size: int = 64,
    train: int = 600,
    test: int = 60,
    train_methods: Sequence[str] = ("telea", "biharmonic"),
    test_methods: Sequence[str] = METHODS,
    authentic: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Makes the data set.

    Examples have, beside ``image`` and ``label`` (1 where any pixel was filled in),
    ``target_mask``, ``kind`` and ``origin`` (see ``Crops``).

    Args:
      size: side of the crops, a multiple of 8.
      train: training crops, of ``TRAIN``.
      test: test crops of each method, of ``TEST``; and as many authentic ones.
      train_methods: that training crops are filled in by, in turn.
      test_methods: that test crops are filled in by; one that is not in
        ``train_methods`` tells of transfer.
      authentic: part of the training crops that are left as they are.
      seed: of crops, masks and fillings.

    Raises:
      UserError: for an unknown method, or if packages are not installed.
    """
    untouched = round(train * authentic)
    kinds = [train_methods[i % len(train_methods)] for i in range(train - untouched)]
    order = np.random.default_rng(seed).permutation(train)
    mixed = [([*kinds, *[AUTHENTIC] * untouched])[i] for i in order]
    wanted = [kind for kind in (*test_methods, AUTHENTIC) for _ in range(test)]
    sources = []
    for part, chosen, number in (
        (TRAIN, mixed, 2 * seed),
        (TEST, wanted, 2 * seed + 1),
    ):
        pictures = list(photographs(part).values())
        crops = make(pictures, chosen, size, number)
        sources.append(ArraySource(crops._asdict()))
    mean, std = statistics(sources[0].arrays["image"], "inpainted")
    names = (AUTHENTIC, "inpainted")
    info = Info("inpainted", 2, (size, size, 3), mean, std, names)
    return Dataset(info, lambda _: sources[0], sources[1])
