"""Reads and writes NIfTI files (``.nii``, ``.nii.gz``); needs the extra ``medical``."""

import gzip
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxkd.core import optional, parsing
from jaxkd.core.errors import UserError
from jaxkd.readers.ct import volumes
from jaxkd.readers.ct.volumes import AIR, Volume

SUFFIXES = (".nii", ".nii.gz")
PAIRED = (".hdr", ".img", ".img.gz")  # header and values in two files
_GZIP = 1100  # times smaller than its content a packed file can be
_VOXELS = 1 << 31


def library() -> Any:
    """Imports nibabel.

    Raises:
      UserError: if it is not installed.
    """
    return optional.load("nibabel", extra="medical", purpose="NIfTI files")


def is_named(path: Path) -> bool:
    """Tells whether a file is named as NIfTI files are."""
    return path.name.lower().endswith((*SUFFIXES, *PAIRED))


def unpaired(paths: Iterable[Path]) -> list[Path]:
    """Returns those that are named as NIfTI files; of a pair the header alone."""
    found = [path for path in paths if is_named(path) and not path.is_dir()]
    stems = {path.with_suffix("") for path in found if path.suffix.lower() == ".hdr"}

    def is_values(path: Path) -> bool:
        name = path.name.lower().removesuffix(".gz")
        stem = path.with_name(path.name[: len(name) - len(".img")])
        return name.endswith(".img") and stem in stems

    return [path for path in found if not is_values(path)]


def read(
    path: Path,
    *,
    intensity_offset: float = 0.0,
    already_windowed: bool = False,
    allow_tilt: bool = False,
    volume: int | None = None,
) -> Volume:
    """Reads a CT volume.

    Args:
      path: of the file.
      intensity_offset: added to all values, such as -1024 for files that store
        Hounsfield units from zero up.
      already_windowed: whether the values are shades from 0 to 255 instead of
        Hounsfield units; they are spread over the default window.
      allow_tilt: whether axes may meet at other than right angles.
      volume: place along the fourth axis, in a file with one.

    Raises:
      UserError: if the file is damaged, or not a CT volume in Hounsfield units.
    """
    try:
        return _read(Path(path), intensity_offset, already_windowed, allow_tilt, volume)
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
        image = _open(Path(path))
        values = _values(Path(path), image, None)
        if not np.isfinite(values).all():
            raise ValueError("its values are not all finite, expected 0 and others")
        if values.min() < 0:
            raise ValueError(
                f"its values are {values.min():.3g} to {values.max():.3g}, expected a "
                "mask: 0 outside and positive numbers inside"
            )
        mask = volumes.to_frame(values > 0, _orientation(image)[0])
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


def _read(
    path: Path, offset: float, windowed: bool, allow_tilt: bool, volume: int | None
) -> Volume:
    image = _open(path)
    affine, notes = _orientation(image)
    notes += _storage(path, image)
    values = _values(path, image, volume)
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
    volumes.check_intensities(values)
    result = volumes.to_frame(values, affine, notes)
    angle = volumes.tilt(affine)
    if angle > volumes.MAX_TILT and not allow_tilt:
        raise ValueError(
            f"its axes miss a right angle by {angle:.1f} degrees, expected at most "
            f"{volumes.MAX_TILT:.0f}; say --allow-tilt to read it as it is"
        )
    volumes.check_size(result)
    return result


def _open(path: Path):
    """Opens an image and checks its header, before its values are read."""
    nibabel = library()
    if not path.exists():
        raise ValueError("there is no such file")
    try:
        image = nibabel.load(path)
        shape, dtype = image.shape, image.header.get_data_dtype()
        parts = [image.file_map.get(part) for part in ("header", "image")]
        files = {part.filename for part in parts if part is not None}
        stored = sum(Path(name).stat().st_size for name in files)
    except Exception as error:  # a damaged file fails in many ways
        raise _damaged(path, error) from error
    _check_header(path)
    if len(shape) < 3 or not math.prod(shape):
        raise ValueError(f"it holds an array of {shape}, expected one volume (3 axes)")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        what = "colours" if dtype.kind == "V" else f"numbers of type {dtype}"
        raise ValueError(
            f"its voxels are {what}, expected one real number each; convert it"
        )
    declared = math.prod(shape) * dtype.itemsize
    packed = str(path).lower().endswith(".gz")
    most = stored * (_GZIP if packed else 1)
    if declared > most or math.prod(shape) > _VOXELS:
        raise ValueError(
            f"it declares {' x '.join(map(str, shape))} voxels ({declared:,} bytes), "
            f"more than its {stored:,} bytes can hold, so it is damaged or cut short"
        )
    for name in files:
        if name.lower().endswith(".gz"):
            _check_sum(Path(name), declared)
    return image


def _check_header(path: Path) -> None:
    """Checks voxel sizes and scaling as they are stored: nibabel replaces odd ones."""
    name = str(path)
    if name.lower().endswith((".img", ".img.gz")):
        name = name[: name.lower().rindex(".img")] + ".hdr"
    nibabel = library()
    opened = gzip.open if name.lower().endswith(".gz") else open
    try:
        with opened(name, "rb") as file:
            block = file.read(540)
        two = block[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")
        kind = nibabel.Nifti2Header if two else nibabel.Nifti1Header
        header = kind(block[: 540 if two else 348], check=False)
        sizes = np.asarray(header["pixdim"][1:4], float)
        scaling = float(header["scl_slope"]), float(header["scl_inter"])
    except Exception as error:
        raise _damaged(path, error) from error
    if not np.isfinite(sizes).all() or (sizes == 0).any():
        raise ValueError(f"its voxel size is {tuple(sizes.tolist())}, expected above 0")
    if np.isinf(scaling).any():  # NaN is how nibabel writes that there is none
        raise ValueError(f"its scl_slope and scl_inter are {scaling}, expected numbers")


def _check_sum(path: Path, declared: int) -> None:
    """Unpacks a file to its end, where its checksum lies; reading voxels stops short.

    Raises:
      ValueError: if it is damaged.
    """
    total = 0
    try:
        with gzip.open(path) as file:
            while part := file.read(1 << 22):
                total += len(part)
                if total > 2 * declared + (1 << 24):
                    break
            else:
                return
    except Exception as error:
        raise _damaged(path, error) from error
    raise ValueError(f"it unpacks to more than twice the {declared:,} bytes declared")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"it cannot be read as NIfTI, so it is damaged or cut short "
        f"({path.stat().st_size:,} bytes): {parsing.reason(error)}"
    )


def _values(path: Path, image, volume: int | None) -> np.ndarray:
    """Returns one volume as float32, scaled as the file says.

    Args:
      path: of the file.
      image: of ``_open``.
      volume: place along the fourth axis; None where there is one alone.
    """
    shape = image.shape
    more = math.prod(shape[3:])
    if more > 1 and volume is None:
        raise ValueError(
            f"it holds an array of {shape}, expected one volume (3 axes); say "
            f"--volume 0 (to {more - 1}) to choose one"
        )
    if volume is not None and not 0 <= volume < more:
        raise ValueError(f"it holds {more} volumes, expected --volume from 0")
    try:
        values = np.asarray(image.dataobj, np.float32)
    except Exception as error:
        raise _damaged(path, error) from error
    return values.reshape(*shape[:3], more, order="F")[..., volume or 0]


def _storage(path: Path, image) -> list[str]:
    """Returns what is odd about how values are stored."""
    notes = []
    slope, offset = image.dataobj.slope, image.dataobj.inter
    if (slope, offset) not in ((1, 0), (1, AIR)):
        notes.append(
            f"its values are scaled: {slope:g} times the stored, plus {offset:g}"
        )
    ends = int(image.dataobj.offset) + image.dataobj.dtype.itemsize * math.prod(
        image.shape
    )
    name = Path(image.file_map["image"].filename)
    if not name.name.lower().endswith(".gz") and name.stat().st_size != ends:
        notes.append(
            f"it has {name.stat().st_size - ends:,} bytes after its last voxel"
        )
    return notes


def _orientation(image) -> tuple[np.ndarray, list[str]]:
    """Returns the affine, preferring ``sform``, and what is odd about it."""
    header, notes = image.header, []
    sizes = np.asarray(header.get_zooms()[:3], float)
    affine = np.asarray(image.affine, float)
    unit = header.get_xyzt_units()[0] if "xyzt_units" in header else "mm"
    if (scale := _MILLIMETRES.get(unit, 1.0)) != 1:
        notes.append(f"its unit of length is {unit}, converted to mm")
        sizes, affine = sizes * scale, np.diag([*[scale] * 3, 1.0]) @ affine
    codes = [int(header[f"{k}_code"]) if f"{k}_code" in header else 0 for k in _FORMS]
    if not any(codes):
        notes.append("no orientation in the file: left and right may be exchanged")
    other = _qform(header) if codes[0] else None
    if other is not None and not np.allclose(image.affine, other, atol=0.02 / scale):
        notes.append("sform and qform disagree; sform is taken")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if codes[0] and not np.allclose(lengths, sizes, rtol=0.01):
        notes.append(
            f"its voxels measure {np.round(lengths, 3).tolist()} mm by sform, which is "
            f"taken, but {np.round(sizes, 3).tolist()} by pixdim"
        )
    return affine, notes


_MILLIMETRES = {"meter": 1000.0, "micron": 0.001}  # in a unit of nibabel's names
_FORMS = ("sform", "qform")
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y")


def _qform(header) -> np.ndarray | None:
    """Returns the second orientation that a file holds, if it does."""
    stored = any(float(header[name]) for name in _QUATERNION)
    if not stored and not int(header["qform_code"]):
        return None
    try:
        return header.get_qform()
    except Exception:  # of no rotation: it disagrees with any
        return np.full((4, 4), np.nan)


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
