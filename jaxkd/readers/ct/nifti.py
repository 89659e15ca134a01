"""Reads and writes NIfTI files (``.nii``, ``.nii.gz``); needs the extra ``medical``."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.readers.ct import volumes
from jaxkd.readers.ct.volumes import AIR, Volume

SUFFIXES = (".nii", ".nii.gz")


def library() -> Any:
    """Imports nibabel.

    Raises:
      UserError: if it is not installed.
    """
    return optional.load("nibabel", extra="medical", purpose="NIfTI files")


def read(
    path: Path,
    *,
    intensity_offset: float = 0.0,
    already_windowed: bool = False,
    allow_tilt: bool = False,
) -> Volume:
    """Reads a CT volume.

    Args:
      path: of the file.
      intensity_offset: added to all values, such as -1024 for files that store
        Hounsfield units from zero up.
      already_windowed: whether the values are shades from 0 to 255 instead of
        Hounsfield units; they are spread over the default window.
      allow_tilt: whether axes may meet at other than right angles.

    Raises:
      UserError: if the file is damaged, or not a CT volume in Hounsfield units.
    """
    try:
        return _read(Path(path), intensity_offset, already_windowed, allow_tilt)
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from error


def read_mask(path: Path, scan: Volume) -> np.ndarray:
    """Reads a mask drawn on a scan.

    Args:
      path: of the file; voxels other than 0 are inside.
      scan: that it belongs to, read from DICOM or NIfTI.

    Returns:
      bool, of the scan's shape in the frame.

    Raises:
      UserError: if the file is damaged, or its grid is not the scan's.
    """
    try:
        image, values = _load(Path(path))
        mask = volumes.to_frame(_squeeze(values) > 0, image.affine)
        if mask.voxels.shape != scan.voxels.shape or not np.allclose(
            mask.spacing, scan.spacing, rtol=0.01
        ):
            raise ValueError(
                f"its grid is {mask.voxels.shape} of {np.round(mask.spacing, 2)} mm, "
                f"expected the scan's, {scan.voxels.shape} of "
                f"{np.round(scan.spacing, 2)} mm"
            )
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from error
    return mask.voxels


def _read(path: Path, offset: float, windowed: bool, allow_tilt: bool) -> Volume:
    image, values = _load(path)
    values, affine, notes = _squeeze(values), *_orientation(image)
    finite = np.isfinite(values)
    if not finite.all():
        count = int(values.size - finite.sum())
        notes.append(f"{count} voxels were not finite and are taken for air")
        values = np.where(finite, values, AIR - offset)
    values = spread(values) if windowed else values + offset
    if not windowed and values.min() >= 0:
        raise ValueError(
            f"its values are {values.min():.0f} to {values.max():.0f}, expected "
            "Hounsfield units, in which air is about -1000; say --intensity-offset "
            "-1024 if they are stored from zero up, or --already-windowed if they are "
            "shades from 0 to 255"
        )
    values = np.clip(np.round(values), AIR, np.iinfo(np.int16).max).astype(np.int16)
    volume = volumes.to_frame(values, affine, notes)
    angle = volumes.tilt(affine)
    if angle > volumes.MAX_TILT and not allow_tilt:
        raise ValueError(
            f"its axes miss a right angle by {angle:.1f} degrees, expected at most "
            f"{volumes.MAX_TILT:.0f}; say --allow-tilt to read it as it is"
        )
    volumes.check_size(volume)
    return volume


def _load(path: Path):
    """Returns the image and its values, scaled as the file says."""
    nibabel = library()
    damage = (
        *(OSError, EOFError, ValueError, OverflowError, zlib.error),
        *(
            nibabel.filebasedimages.ImageFileError,
            nibabel.spatialimages.HeaderDataError,
        ),
    )
    try:
        image = nibabel.load(path)
        return image, np.asarray(image.dataobj, np.float32)
    except FileNotFoundError as error:
        raise ValueError("there is no such file") from error
    except damage as error:
        size = path.stat().st_size
        raise ValueError(
            f"it cannot be read as NIfTI, so it is damaged or cut short ({size:,} "
            f"bytes): {' '.join(str(error).split())}"
        ) from error


def _squeeze(values: np.ndarray) -> np.ndarray:
    shape = values.shape
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim != 3 or not values.size:
        raise ValueError(f"it holds an array of {shape}, expected one volume (3 axes)")
    return values


def _orientation(image) -> tuple[np.ndarray, list[str]]:
    """Returns the affine, preferring ``sform``, and what is odd about it."""
    header, notes = image.header, []
    if not np.all(header.get_zooms()[:3]):
        raise ValueError(
            f"its voxel size is {header.get_zooms()[:3]}, expected above 0"
        )
    affine = np.asarray(image.affine, float)
    if "sform_code" in header:
        sform, qform = (int(header[f"{kind}_code"]) for kind in ("sform", "qform"))
        if not sform and not qform:
            notes.append("no orientation in the file: left and right may be exchanged")
        elif sform and qform and not np.allclose(affine, image.get_qform(), atol=0.1):
            notes.append("sform and qform disagree; sform is taken")
    return affine, notes


def spread(shades: np.ndarray) -> np.ndarray:
    """Spreads shades from 0 to 255 over the default window of Hounsfield units.

    So that the view maps them back to 0 to 1 and nothing is cut off.

    Raises:
      ValueError: if a value is outside of 0 to 255.
    """
    lowest, highest = float(shades.min()), float(shades.max())
    if lowest < 0 or highest > 255:
        raise ValueError(
            f"its values are {lowest:.0f} to {highest:.0f}, expected 0 to 255 because "
            "of --already-windowed"
        )
    low, high = volumes.WINDOWS["default"]
    return low + np.asarray(shades, np.float32) * ((high - low) / 255)


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Writes an array ``[i, j, k]`` with its affine; complete or not at all."""
    nibabel = library()
    image = nibabel.Nifti1Image(np.asarray(array), affine)
    image.header.set_xyzt_units("mm")
    part = path.with_name(f"part-{path.name}")
    nibabel.save(image, part)
    part.replace(path)
