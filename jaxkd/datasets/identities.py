"""A folder of identities, ``root/<identity>/<image files>``: faces, animals, products.

The images of a person may be split, for identification (UCCS and the like: the closed
set), or the persons may be split, for verification and retrieval of people who were not
there in training (the open set).
"""

from pathlib import Path

import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Info
from jaxkd.readers import listing
from jaxkd.readers.identity_pairs import ImageFiles, draw_pairs, resize_only
from jaxkd.readers.images import SUFFIXES

MEAN = STD = (0.5, 0.5, 0.5)  # scales to [-1, 1], as is usual for faces
_ADVICE = "Expected {root}/<identity>/<image files>."


def load(
    root: str,
    size: int = 112,
    split: str = "images",
    top: int | None = None,
    test_share: float = 0.2,
    min_images: int = 2,
    leave_out_small: bool = False,
    pairs: int | None = None,
    folds: int = 10,
    enlarge: bool = False,
    seed: int = 0,
) -> Dataset:
    """Lists the images; none is decoded yet.

    The middle square of each image is resized to ``size``. For the usual protocol of
    UCCS at low resolution: ``top=180``, images split about 4 to 1.

    Args:
      root: the folder.
      size: side of the images as the view gets them.
      split: ``"images"``: of every identity, some images are for the test; or
        ``"identities"``: some identities are.
      top: take only the identities with the most images, so many of them.
      test_share: share of each identity's images, or of the identities, for the test.
      min_images: that each identity must have, at least 2.
      leave_out_small: whether identities with fewer images are left out, not refused.
      pairs: verification pairs of test images, half of them of one identity, for
        ``split="identities"``; none if not given.
      folds: that the pairs are in; folds share no identity.
      enlarge: whether images smaller than ``size`` are enlarged, not refused.
      seed: of the split and the pairs.

    Raises:
      UserError: if a folder is missing or empty, a file is no image by its name, an
        identity has too few images, or an option is out of its range.
    """
    folder = Path(root).expanduser()
    lookup.choose(split, dict.fromkeys(("images", "identities")), what="split")
    _check_options(split, test_share, min_images, pairs)
    files = _select(list_identities(folder), folder, top, min_images, leave_out_small)
    names = tuple(sorted(files))
    paths = [path for name in names for path in files[name]]
    counts = [len(files[name]) for name in names]
    labels = np.repeat(np.arange(len(names), dtype=np.int32), counts)
    rng = np.random.default_rng(seed)
    if split == "images":
        for_test = _some_images(counts, test_share, rng)
    else:
        for_test = np.isin(labels, _some_identities(len(names), test_share, rng))
    drawn = draw_pairs(labels[for_test], pairs, folds, seed) if pairs else None
    least = 1 if enlarge else size
    train = _part_of(paths, labels, ~for_test, least, None)
    test = _part_of(paths, labels, for_test, least, drawn)
    title, shape = f"{folder.absolute().name}-{split}", (size, size, 3)
    info = Info(title, len(names), shape, MEAN, STD, names)
    return Dataset(info, lambda seed: train, test, *resize_only(size))


def _part_of(paths, labels, part: np.ndarray, least: int, pairs) -> ImageFiles:
    chosen = [paths[i] for i in np.flatnonzero(part)]
    return ImageFiles(chosen, labels[part], least=least, pairs=pairs)


def list_identities(folder: Path) -> dict[str, list[str]]:
    """Lists the image files of each identity, sorted; hidden files are left out.

    Raises:
      UserError: if the folder is missing or empty, or holds anything else or a name
        that is not UTF-8.
    """
    advice = _ADVICE.format(root=folder)
    if not folder.is_dir():
        raise UserError(f"{folder.absolute()} is not a folder. {advice}")
    found: dict[str, list[str]] = {}
    for name in listing.entries(folder):
        if not (folder / name).is_dir():
            raise UserError(f"{folder / name} is not a folder. {advice}")
        files = listing.entries(folder / name)
        if not files:
            raise UserError(f"{folder / name} is empty. {advice} Or remove it.")
        for file in files:
            if not file.lower().endswith(SUFFIXES):
                raise UserError(
                    f"{folder / name / file} is not an image by its name. Expected one "
                    f"of {', '.join(SUFFIXES)}; remove other files and folders."
                )
        found[name] = [f"{folder / name}/{file}" for file in files]
    if not found:
        raise UserError(f"{folder} is empty. {advice}")
    return found


def _check_options(split, test_share, min_images, pairs) -> None:
    if not 0 < test_share < 1:
        raise UserError(f"test_share is {test_share}, expected between 0 and 1.")
    if min_images < 2:
        raise UserError(
            f"min_images is {min_images}, expected at least 2: one image of an "
            "identity must be compared with another."
        )
    if pairs and split != "identities":
        raise UserError(
            f"pairs={pairs} goes with split='identities', where the people of the test "
            "are new; with split='images' identification is measured. Leave one out."
        )


def _select(files, folder: Path, top, min_images: int, leave_out_small: bool):
    """Keeps the identities with the most images; of equal ones, the first by name."""
    if top is not None:
        if not 2 <= top <= len(files):
            raise UserError(
                f"top is {top}, expected 2 to {len(files)}, the identities in {folder}."
            )
        ranked = sorted(files, key=lambda name: (-len(files[name]), name))
        files = {name: files[name] for name in ranked[:top]}
    small = sorted(name for name, paths in files.items() if len(paths) < min_images)
    if small and not leave_out_small:
        raise UserError(
            f"{folder / small[0]} has {len(files[small[0]])} image(s), expected at "
            f"least {min_images} of each identity ({len(small)} have fewer). Add "
            "images, take those with the most by top=..., or set leave_out_small=True."
        )
    kept = {name: paths for name, paths in files.items() if name not in set(small)}
    if len(kept) < 2:
        raise UserError(
            f"{folder} has {len(kept)} identities with at least {min_images} images, "
            "expected at least 2."
        )
    return kept


def _some_images(counts: list[int], share: float, rng) -> np.ndarray:
    """Marks images of every identity for the test: at least one, never all."""
    parts = []
    for count in counts:
        chosen = np.zeros(count, bool)
        chosen[rng.permutation(count)[: _part(count, share)]] = True
        parts.append(chosen)
    return np.concatenate(parts)


def _some_identities(count: int, share: float, rng) -> np.ndarray:
    return rng.permutation(count)[: _part(count, share)]


def _part(count: int, share: float) -> int:
    return min(max(round(count * share), 1), count - 1)
