"""Photographs with inpainted holes, made from what ships inside installed packages.

Nothing is downloaded: the pictures are files of the scikit-image, scikit-learn and
matplotlib wheels. Crops are taken from them, and part of each is filled in by one of
several methods; others are left as they are, or smoothed in part, which is no forgery.
Training and test crops never share a photograph.

Needs the extra ``forensics`` (OpenCV and scikit-image).
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Items, Range
from jaxkd.core.source import ArraySource, Dataset, Info, statistics
from jaxkd.datasets import diffusion_inpainter
from jaxkd.datasets.hard_negatives import KINDS as NEGATIVES
from jaxkd.datasets.hard_negatives import smooth
from jaxkd.datasets.inpainters import (
    GENERATIVE,
    METHODS,
    Filler,
    inpaint,
    require_generative,
)
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
AUTHENTIC = "authentic"
# What was done to a crop; the field ``kind`` is the place in this list.
KINDS = (*METHODS, AUTHENTIC, GENERATIVE, *NEGATIVES)
FORGED = (*METHODS, GENERATIVE)

_LEAST_DEVIATION = 8.0  # grey levels; flatter crops show nothing
_LEAST_CHANGE = 2.0  # grey levels; a smaller change cannot be seen by anyone
_AREA = (0.04, 0.30)
_ATTEMPTS = 200
_LEAST_SIDE = 16  # of crops, in which patches of 9 pixels are still found


def photographs(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads pictures of installed packages.

    Args:
      names: such as ``"skimage/coffee.png"``; see ``TRAIN`` and ``TEST``.

    Returns:
      Name -> uint8 ``[height, width, 3]``.

    Raises:
      UserError: if one of them is not there: without it, it would be another data set.
    """
    paths: dict[str, Path] = {}
    for name in names:
        package, _, file = name.partition("/")
        folder = _folder(package)
        if folder is not None and (folder / file).is_file():
            paths[name] = folder / file
    missing = [name for name in names if name not in paths]
    if missing:
        raise UserError(
            f"Of {len(names)} pictures these are not installed: {', '.join(missing)}. "
            f"Expected the extra forensics: {optional.install('forensics')}"
        )
    return {name: decode(path) for name, path in paths.items()}


def _folder(package: str) -> Path | None:
    name, inside = FOLDERS[package]
    spec = find_spec(name)  # which does not import the package
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / inside


class Crops(NamedTuple):
    """Crops with a hole filled in, a region smoothed, or untouched.

    Attributes:
      image: uint8 ``[n, size, size, 3]``.
      target_mask: uint8 ``[n, size, size]``, 255 where the picture was filled in.
      region: likewise, 255 where it was filled in or smoothed.
      label: int32 ``[n]``, 1 where any of it was filled in.
      kind: int32 ``[n]``: the place of what was done in ``KINDS``.
      origin: int32 ``[n]``: the place of the photograph among those that were read.
    """

    image: np.ndarray
    target_mask: np.ndarray
    region: np.ndarray
    label: np.ndarray
    kind: np.ndarray
    origin: np.ndarray


def make(
    pictures: Sequence[np.ndarray],
    kinds: Sequence[str],
    size: int,
    seed: int,
    generate: Filler | None = None,
) -> Crops:
    """Makes one crop for each of ``kinds``.

    Pictures are taken in turn. A crop is at full scale or half of it, and not flat; a
    region that is filled in or smoothed covers 4 to 30 % of it and differs visibly from
    what was there.

    Args:
      pictures: uint8 ``[height, width, 3]``, none smaller than ``size``; crops at half
        scale are taken of those that are larger than ``2 size``.
      kinds: of ``KINDS``.
      size: side of the crops.
      seed: of everything that is drawn.
      generate: the filler that is "generative".

    Raises:
      UserError: if a kind is unknown, or the pictures do not give such crops.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UserError(
            f"{', '.join(unknown)}: not known as a way to make crops. Expected "
            f"inpainting methods of {', '.join(FORGED)}, and hard negatives of "
            f"{', '.join(NEGATIVES)}."
        )
    rng = np.random.default_rng([seed, size])
    halves = [_half(picture) for picture in pictures]
    rows = []
    for place, kind in enumerate(kinds):
        origin = place % len(pictures)
        scales = (pictures[origin], halves[origin])
        rows.append((*_draw(scales, kind, size, rng, generate), origin))
    images, regions, origins = zip(*rows, strict=True)
    forged = np.isin(kinds, FORGED)
    region = np.stack(regions)
    return Crops(
        np.stack(images),
        np.where(forged[:, None, None], region, 0).astype(np.uint8),
        region,
        forged.astype(np.int32),
        np.asarray([KINDS.index(kind) for kind in kinds], np.int32),
        np.asarray(origins, np.int32),
    )


def _half(picture: np.ndarray) -> np.ndarray:
    height, width = (side // 2 * 2 for side in picture.shape[:2])
    parts = picture[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.round(parts.astype(np.float64).mean((1, 3))).astype(np.uint8)


def _draw(scales, kind: str, size: int, rng: np.random.Generator, generate):
    """Draws until a crop and its change are visible; returns crop and region."""
    for _ in range(_ATTEMPTS):
        picture = scales[rng.integers(2)]
        if min(picture.shape[:2]) < size:
            continue
        top, left = (rng.integers(side - size + 1) for side in picture.shape[:2])
        crop = np.ascontiguousarray(picture[top : top + size, left : left + size])
        if crop.std(axis=(0, 1)).mean() < _LEAST_DEVIATION:
            continue
        if kind == AUTHENTIC:
            return crop, np.zeros((size, size), np.uint8)
        mask = draw_mask(size, rng)
        if kind in NEGATIVES:
            changed = smooth(crop, mask, kind, rng)
        else:
            changed = inpaint(crop, mask, kind, rng, generate)
        change = np.abs(changed.astype(int) - crop)[mask > 0]
        if change.mean() >= _LEAST_CHANGE:
            return changed, mask
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


def load(
    size: int = 64,
    train: int = 600,
    test: int = 60,
    train_methods: Sequence[str] = ("telea", "biharmonic"),
    test_methods: Annotated[Sequence[str], Items(least=0)] = METHODS,
    authentic: float = 0.2,
    hard_negatives: Annotated[float, Range(0, 1)] = 0.0,
    train_negatives: Sequence[str] = NEGATIVES,
    test_negatives: Sequence[str] = (),
    inpainter: str = "",
    seed: int = 0,
) -> Dataset:
    """Makes the data set.

    Examples have, beside ``image`` and ``label`` (1 where any pixel was filled in),
    ``target_mask``, ``region``, ``kind`` and ``origin`` (see ``Crops``).

    Args:
      size: side of the crops, at most the shorter one of any photograph.
      train: training crops, of ``TRAIN``.
      test: test crops of each method, of ``TEST``; and as many authentic ones, and of
        each hard negative.
      train_methods: that training crops are filled in by, in turn.
      test_methods: that test crops are filled in by; one that is not in
        ``train_methods`` tells of transfer.
      authentic: part of the training crops that are left as they are.
      hard_negatives: part of them that are smoothed in a region, which is no forgery;
        see ``jaxkd.datasets.hard_negatives``.
      train_negatives: how, in turn.
      test_negatives: the same of test crops.
      inpainter: folder of the run that is the method "generative"; see
        ``jaxkd.datasets.diffusion_inpainter``.
      seed: of crops, masks and fillings.

    Raises:
      UserError: for an unknown method, impossible parts, crops larger than a
        photograph, or if packages or the inpainter are missing.
    """
    # All of it before the first crop is drawn, which takes minutes of many.
    methods, negatives = (*train_methods, *test_methods), train_negatives
    _check_names("methods", methods, FORGED)
    _check_names("negatives", (*negatives, *test_negatives), NEGATIVES)
    mixed = _mixed(train, authentic, hard_negatives, train_methods, train_negatives)
    order = np.random.default_rng(seed).permutation(train)
    shuffled = [mixed[i] for i in order]
    wanted = [
        kind
        for kind in (*test_methods, AUTHENTIC, *test_negatives)
        for _ in range(test)
    ]
    parts = [photographs(names) for names in (TRAIN, TEST)]
    for pictures in parts:
        check_size(pictures, size)
    generate = diffusion_inpainter.from_run(inpainter, size) if inpainter else None
    require_generative(methods, generate)
    sources = []
    for pictures, chosen, number in zip(
        parts, (shuffled, wanted), (2 * seed, 2 * seed + 1), strict=True
    ):
        crops = make(list(pictures.values()), chosen, size, number, generate)
        sources.append(ArraySource(crops._asdict()))
    mean, std = statistics(sources[0].arrays["image"], "inpainted")
    names = (AUTHENTIC, "inpainted")
    info = Info("inpainted", 2, (size, size, 3), mean, std, names)
    return Dataset(info, lambda _: sources[0], sources[1])


def _check_names(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise UserError(
            f"data.train_{what} and data.test_{what} name {', '.join(unknown)}; "
            f"expected some of {', '.join(known)}."
        )


def check_size(pictures: Mapping[str, np.ndarray], size: int) -> None:
    """Checks that squares of a size can be cut out of all pictures.

    Args:
      pictures: name -> uint8 ``[height, width, 3]``.
      size: side of the squares.

    Raises:
      UserError: if one of the pictures is smaller, or the squares are so small that
        nothing can be drawn in them.
    """
    name, least = min(
        ((name, min(one.shape[:2])) for name, one in pictures.items()),
        key=lambda pair: pair[1],
    )
    if not _LEAST_SIDE <= size <= least:
        raise UserError(
            f"size is {size}, expected {_LEAST_SIDE} to {least} pixels, the shorter "
            f"side of the smallest photograph, {name}."
        )


def _mixed(count, authentic, smoothed, methods, negatives) -> list[str]:
    """Lists what is done to training crops: methods in turn, negatives, nothing."""
    if min(authentic, smoothed) < 0 or authentic + smoothed > 1 + 1e-9:
        raise UserError(
            f"authentic={authentic} and hard_negatives={smoothed}; expected parts of "
            "the training crops, from 0 on and at most 1 together."
        )
    untouched = round(count * authentic)
    hard = min(round(count * smoothed), count - untouched)  # both may be rounded up
    forged = count - untouched - hard
    if (forged and not methods) or (hard and not negatives):
        raise UserError(
            f"{forged} training crops are to be filled in and {hard} smoothed, but "
            f"train_methods={methods} and train_negatives={negatives}; expected some."
        )
    filled = [methods[i % len(methods)] for i in range(forged)]
    softened = [negatives[i % len(negatives)] for i in range(hard)]
    return [*filled, *softened, *[AUTHENTIC] * untouched]
