"""One CT scan from whatever holds it: DICOM folder, NIfTI file, slice images."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.readers import images
from jaxkd.readers.ct import dicom, nifti, volumes
from jaxkd.readers.ct.volumes import Volume

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
# Of neighbouring slices: below it they may be out of order.
CORRELATION = 0.5
# Slice images say nothing of their size: mm between voxels that are assumed.
ASSUMED = (5.0, 0.7, 0.7)


class Options(NamedTuple):
    """How to read; see ``dicom.read`` and ``nifti.read``."""

    fill_gaps: int = 0
    pick_largest: bool = False
    allow_tilt: bool = False
    intensity_offset: float = 0.0
    already_windowed: bool = False


STRICT = Options()


def read(path: Path, options: Options = STRICT) -> Volume:
    """Reads a scan.

    Args:
      path: a NIfTI file, the folder of a DICOM series, or of slice images.
      options: for reading.

    Raises:
      UserError: if it is not one whole CT scan; the message names the file and why.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist, expected a CT scan.")
    if path.is_file():
        if not path.name.lower().endswith(nifti.SUFFIXES):
            raise UserError(
                f"{path} is no CT scan by its name, expected .nii or .nii.gz, or the "
                "folder of a DICOM series."
            )
        return nifti.read(
            path,
            intensity_offset=options.intensity_offset,
            already_windowed=options.already_windowed,
            allow_tilt=options.allow_tilt,
        )
    if _pictures(path):
        return _read_pictures(path, options.already_windowed)
    files = [p for p in path.iterdir() if p.name.lower().endswith(nifti.SUFFIXES)]
    if len(files) == 1:
        return read(files[0], options)
    return dicom.read(
        path,
        fill_gaps=options.fill_gaps,
        pick_largest=options.pick_largest,
        allow_tilt=options.allow_tilt,
    )


def is_scan(path: Path) -> bool:
    """Tells whether a path is a single scan, by its name or first files."""
    if path.is_file():
        return path.name.lower().endswith(nifti.SUFFIXES)
    return path.is_dir() and (bool(_pictures(path)) or dicom.is_series(path))


def below(folder: Path) -> Iterator[Path]:
    """Yields the scans in a folder and in those inside it, by name."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if is_scan(path):
            yield path
        elif path.is_dir():
            yield from below(path)


def _pictures(folder: Path) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix.lower() in PICTURES]
    return sorted(found, key=_by_number)


def _by_number(path: Path) -> list[Any]:
    """Sorts 2 before 10."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _read_pictures(folder: Path, windowed: bool) -> Volume:
    """Reads slice images, first slice at the feet, as shades of the default window."""
    files = _pictures(folder)
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


class Cache:
    """Keeps arrays on disk, by path, time of change and how they were made."""

    def __init__(self, folder: str | None, made: Any):
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        default = Path(base) / "jaxkd" / "ct"
        self.folder = Path(folder).expanduser() if folder else default
        self.made = repr(made)

    def __call__(self, make: Callable[[], np.ndarray], *paths: Path) -> np.ndarray:
        """Returns ``make()``, from disk if it was made of these files before."""
        files = [f"{path.absolute()}|{_changed(path)}" for path in paths]
        key = "|".join([*files, self.made])
        kept = self.folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
        try:
            with kept.open("rb") as file:
                return np.load(file)
        except (OSError, ValueError, EOFError):
            pass
        array = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.{id(array)}.part")
        try:
            with part.open("wb") as file:
                np.save(file, array)
            part.replace(kept)
        except OSError as error:  # a full disk only costs time
            print(f"{kept} cannot be kept: {error}", file=sys.stderr)
            part.unlink(missing_ok=True)
        return array


def _changed(path: Path) -> int:
    files = [path] if path.is_file() else list(path.rglob("*"))
    return max((file.stat().st_mtime_ns for file in files), default=0)
