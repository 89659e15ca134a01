"""Reads a CT scan from slice images, which hold shades and no Hounsfield units."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.readers import images, listing
from jaxkd.readers.ct import nifti, volumes
from jaxkd.readers.ct.volumes import Volume

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Of neighbouring slices: below it they may be out of order.
CORRELATION = 0.5
# Slice images say nothing of their size: mm between voxels that are assumed.
ASSUMED = (5.0, 0.7, 0.7)


def find(folder: Path) -> list[Path]:
    """Lists the slice images in a folder, by number."""
    names = listing.entries(folder)
    found = [folder / n for n in names if n.lower().endswith(SUFFIXES)]
    return sorted((path for path in found if path.is_file()), key=_by_number)


def _by_number(path: Path) -> list[Any]:
    """Sorts 2 before 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def read(folder: Path, windowed: bool) -> Volume:
    """Reads slice images, first slice at the feet, as shades of the default window.

    Raises:
      UserError: if shades were not announced, or the images make no stack.
    """
    files = find(folder)
    if not windowed:
        raise UserError(
            f"{folder}: {files[0].name} and others are images, which hold no "
            "Hounsfield units; say --already-windowed to read shades from 0 to 255."
        )
    slices = [images.decode(file)[..., 0] for file in files]
    for file, each in zip(files, slices, strict=True):
        if each.shape != slices[0].shape:
            raise UserError(
                f"{folder}: {file.name} has {each.shape[0]}x{each.shape[1]} pixels, "
                f"{files[0].name} has {slices[0].shape[0]}x{slices[0].shape[1]}."
            )
    notes = _check_order(folder, files, slices)
    stored = nifti.spread(np.stack(slices)).round().astype(np.int16)
    directions = np.array([[0, 0, -1], [0, -1, 0], [1, 0, 0]]) * np.array(ASSUMED)
    affine = np.eye(4)
    affine[:3, :3] = directions
    volume = volumes.to_frame(stored, affine, notes)
    try:
        volumes.check_intensities(stored)
        volumes.check_size(volume)
    except ValueError as error:
        raise UserError(f"{folder}: {error}.") from error
    return volume


def _check_order(folder: Path, files: list[Path], slices: list[np.ndarray]):
    """Refuses repeated slices, and notes neighbours that hardly resemble each other."""
    seen: dict[bytes, Path] = {}
    for file, each in zip(files, slices, strict=True):
        digest = hashlib.sha256(each.tobytes()).digest()
        if digest in seen and np.ptp(each):
            raise UserError(
                f"{folder}: {file.name} repeats {seen[digest].name}; remove one."
            )
        seen[digest] = file
    notes = ["slice images: size of voxels assumed, no Hounsfield units"]
    flat = [each.reshape(-1).astype(np.float32) for each in slices]
    for index in range(1, len(flat)):
        if min(np.ptp(flat[index]), np.ptp(flat[index - 1])) == 0:
            continue
        if np.corrcoef(flat[index - 1], flat[index])[0, 1] < CORRELATION:
            notes.append(
                f"{files[index - 1].name} and {files[index].name} hardly resemble each "
                "other: missing slices or a wrong order?"
            )
    return notes
