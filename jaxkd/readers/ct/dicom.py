"""Assembles a CT series from DICOM files, and refuses what is not one whole series.

Slices are put in order by their positions in space, never by file name or number, and
their distance is measured, not read from the slice thickness. Needs the extra
``medical`` (pydicom). No tag that could identify a patient is kept or shown.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.readers.ct import volumes
from jaxkd.readers.ct.volumes import AIR, Volume

GAP = 1.5  # times the usual distance of slices: beyond it one is missing
# From DICOM's world (left, posterior, superior) to NIfTI's (right, anterior, superior).
TO_RAS = np.diag([-1.0, -1.0, 1.0])
_SAME = 0.01  # mm between two positions that are one
_PLANES = ("sagittal", "coronal", "axial")


class Slice(NamedTuple):
    """The header of one file.

    Attributes:
      path: of the file.
      position: mm, of the first voxel's centre; None where the file has none.
      row: direction along which columns are counted, ``column`` likewise rows.
      column: see ``row``.
      size: rows and columns.
      spacing: mm between rows and between columns.
      key: of the series that it belongs to; not for showing.
      number: of the instance.
      thickness: mm, for series without positions.
      scout: whether it is an overview for planning.
    """

    path: Path
    position: np.ndarray | None
    row: np.ndarray
    column: np.ndarray
    size: tuple[int, int]
    spacing: tuple[float, float]
    key: tuple
    number: int
    thickness: float
    scout: bool

    @property
    def normal(self) -> np.ndarray:
        """Direction at right angles to the slice."""
        return np.cross(self.row, self.column)


def library() -> Any:
    """Imports pydicom.

    Raises:
      UserError: if it is not installed.
    """
    return optional.load("pydicom", extra="medical", purpose="DICOM files")


def read(
    path: Path,
    *,
    fill_gaps: int = 0,
    pick_largest: bool = False,
    allow_tilt: bool = False,
) -> Volume:
    """Reads the CT series in a folder.

    Args:
      path: of the folder; folders inside it are searched, too.
      fill_gaps: how many missing or damaged slices may be interpolated in one place.
      pick_largest: of several series take the axial one with most slices.
      allow_tilt: whether the stack of slices may lean.

    Raises:
      UserError: if the files are not one whole CT series.
    """
    try:
        headers, notes = _read_headers(Path(path))
        chosen = _choose(headers, pick_largest, notes)
        _check_tilt(chosen, allow_tilt)
        return _assemble(chosen, fill_gaps, notes)
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from error


def is_series(path: Path) -> bool:
    """Tells whether a folder holds a file that begins as DICOM files do."""
    return any(_has_magic(file) for file in path.iterdir() if file.is_file())


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _read_headers(folder: Path) -> tuple[list[Slice], list[str]]:
    """Reads the headers of all CT slices below a folder."""
    pydicom = library()
    headers, notes = [], []
    positions = set()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        if path.name.upper() == "DICOMDIR" or path.name.startswith("."):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd values in tags nobody needs
                data = pydicom.dcmread(path, stop_before_pixels=True)
        except Exception as error:  # whatever a damaged file makes of the parser
            if path.suffix.lower() in (".dcm", ".dicom", ".ima") or _has_magic(path):
                size = path.stat().st_size
                raise ValueError(
                    f"{path.name} is damaged: its DICOM header cannot be read "
                    f"({size:,} bytes)"
                ) from error
            continue  # a text file or the like
        header = _header(path, data)
        positions.add(str(data.get("PatientPosition", "")))
        if header.scout:
            notes.append(f"overview image {path.name} left out")
        else:
            headers.append(header)
    if not headers:
        raise ValueError("it holds no DICOM files of CT slices")
    known = sorted(positions - {""})
    return headers, [*notes, *(f"patient position {each}" for each in known)]


def _header(path: Path, data: Any) -> Slice:
    """Takes from a header what is needed."""
    modality = str(data.get("Modality", "")) or "unknown"
    if modality != "CT":
        raise ValueError(f"{path.name} has modality {modality}, expected CT")
    if int(data.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError(
            f"{path.name} is a multi-frame (enhanced) CT file, which is not supported; "
            "convert it to one file per slice or to NIfTI"
        )
    try:
        cosines = np.array(
            data.get("ImageOrientationPatient", [1, 0, 0, 0, 1, 0]), float
        )
        position = data.get("ImagePositionPatient")
        spacing = [float(value) for value in data.PixelSpacing]
        size = int(data.Rows), int(data.Columns)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path.name} is damaged: its header lacks size or spacing"
        ) from error
    row, column = cosines[:3], cosines[3:]
    scout = "LOCALIZER" in [str(part).upper() for part in data.get("ImageType", [])]
    key = (
        str(data.get("SeriesInstanceUID", "")),
        str(data.get("FrameOfReferenceUID", "")),
        *(size, tuple(np.round(spacing, 3)), tuple(np.round(cosines, 2) + 0.0)),
    )
    return Slice(
        path=path,
        position=None if position is None else np.array(position, float),
        row=row,
        column=column,
        size=size,
        spacing=(spacing[0], spacing[1]),
        key=key,
        number=int(data.get("InstanceNumber", 0) or 0),
        thickness=float(
            data.get("SpacingBetweenSlices") or data.get("SliceThickness") or 0
        ),
        scout=scout,
    )


def _choose(headers: list[Slice], pick_largest: bool, notes: list[str]) -> list[Slice]:
    """Returns the slices of the one series, or of the one to pick."""
    groups: dict[tuple, list[Slice]] = {}
    for header in headers:
        groups.setdefault(header.key, []).append(header)
    if len(groups) == 1:
        return headers
    listed = "; ".join(map(_describe, groups.values()))
    if not pick_largest:
        raise ValueError(
            f"it holds {len(groups)} series or mixed slices ({listed}), expected "
            "slices of one series, size, spacing and orientation; separate them, or "
            "say --pick-largest"
        )
    axial = [group for group in groups.values() if _plane(group[0]) == "axial"]
    if not axial:
        raise ValueError(f"none of its series is axial ({listed})")
    chosen = max(axial, key=len)
    notes.append(f"picked one of {len(groups)} series: {_describe(chosen)}")
    return chosen


def _plane(header: Slice) -> str:
    return _PLANES[int(np.argmax(np.abs(header.normal)))]


def _describe(group: Sequence[Slice]) -> str:
    first = group[0]
    rows, columns = first.size
    return (
        f"{len(group)} {_plane(first)} of {rows}x{columns} voxels of "
        f"{first.spacing[0]:.3g} mm, such as {first.path.name}"
    )


def _check_tilt(slices: list[Slice], allow: bool) -> None:
    if allow or any(header.position is None for header in slices):
        return
    ordered = sorted(slices, key=_height)
    way = ordered[-1].position - ordered[0].position  # type: ignore[operator]
    length = np.linalg.norm(way)
    if length < _SAME:
        return
    cosine = abs(way @ ordered[0].normal) / length
    angle = float(np.rad2deg(np.arccos(min(cosine, 1.0))))
    if angle > volumes.MAX_TILT:
        raise ValueError(
            f"its stack of slices leans by {angle:.1f} degrees (gantry tilt, "
            f"{ordered[0].path.name} to {ordered[-1].path.name}), expected at most "
            f"{volumes.MAX_TILT:.0f}; say --allow-tilt to read it as it is"
        )


def _height(header: Slice) -> float:
    return float(header.normal @ header.position)  # type: ignore[operator]


def _assemble(slices: list[Slice], fill_gaps: int, notes: list[str]) -> Volume:
    """Orders the slices, reads their pixels and closes permitted gaps."""
    pictures = {}
    kept = []
    for header in slices:
        try:
            pictures[header.path] = _hounsfield(header)
            kept.append(header)
        except ValueError:
            if not fill_gaps:
                raise
            notes.append(f"{header.path.name} is damaged and left out")
    if len(kept) < 2:
        raise ValueError(
            f"it holds {len(kept)} slices that can be read, expected at least "
            f"{volumes.MIN_SLICES}"
        )
    ordered, heights = _order(kept, notes)
    ordered, heights = _drop_copies(ordered, heights, pictures, notes)
    step = float(np.median(np.diff(heights))) if len(heights) > 1 else 0.0
    stack = [pictures[ordered[0].path]]
    for index in range(1, len(ordered)):
        gap = heights[index] - heights[index - 1]
        below, above = pictures[ordered[index - 1].path], pictures[ordered[index].path]
        missing = round(gap / step) - 1
        _check_gap(ordered, heights, index, step, missing, fill_gaps)
        for place in range(1, missing + 1):
            share = place / (missing + 1)
            stack.append(np.round((1 - share) * below + share * above))
        if missing:
            notes.append(
                f"{missing} slices interpolated at {heights[index - 1]:.1f} mm"
            )
        stack.append(above)
    stored = np.stack(stack).astype(np.int16).transpose(2, 1, 0)
    volume = volumes.to_frame(stored, _affine(ordered, heights, len(stack)), notes)
    volumes.check_size(volume)
    return volume


def _order(slices: list[Slice], notes: list[str]) -> tuple[list[Slice], list[float]]:
    """Sorts slices by height; without positions, by number, which is noted."""
    without = [header for header in slices if header.position is None]
    if not without:
        ordered = sorted(slices, key=_height)
        return ordered, [_height(header) for header in ordered]
    thickness = without[0].thickness
    if len(without) < len(slices) or thickness <= 0:
        raise ValueError(
            f"{without[0].path.name} has no position (ImagePositionPatient), so the "
            "slices cannot be put in order"
        )
    notes.append("no positions: order by InstanceNumber, distance by SliceThickness")
    ordered = sorted(slices, key=lambda header: header.number)
    return ordered, [header.number * thickness for header in ordered]


def _drop_copies(ordered, heights, pictures, notes):
    """Leaves out slices that are there twice, and refuses two that differ."""
    kept, at = [ordered[0]], [heights[0]]
    for header, height in zip(ordered[1:], heights[1:], strict=True):
        if height - at[-1] > _SAME:
            kept.append(header)
            at.append(height)
            continue
        if not np.array_equal(pictures[header.path], pictures[kept[-1].path]):
            raise ValueError(
                f"{header.path.name} and {kept[-1].path.name} differ, but both lie at "
                f"{height:.1f} mm: two scans (phases) in one series; separate them"
            )
        notes.append(f"{header.path.name} repeats {kept[-1].path.name}, left out")
    return kept, at


def _check_gap(ordered, heights, index, step, missing, fill_gaps) -> None:
    gap = heights[index] - heights[index - 1]
    where = (
        f"between {ordered[index - 1].path.name} ({heights[index - 1]:.1f} mm) and "
        f"{ordered[index].path.name} ({heights[index]:.1f} mm)"
    )
    if gap > GAP * step and missing > fill_gaps:
        raise ValueError(
            f"a gap of {gap:.1f} mm {where}, where slices are {step:.2f} mm apart: "
            f"{missing} missing; say --fill-gaps {missing} to interpolate them"
        )
    uneven = abs(gap - (missing + 1) * step) > 0.25 * step
    if uneven:
        raise ValueError(
            f"a distance of {gap:.2f} mm {where}, where slices are {step:.2f} mm "
            "apart: two spacings in one series"
        )


def _hounsfield(header: Slice) -> np.ndarray:
    """Reads the pixels of one slice as Hounsfield units, float32."""
    pydicom, name = library(), header.path.name
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = pydicom.dcmread(header.path)
            stored = np.asarray(data.pixel_array)
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{header.path} is compressed in a way that needs another package: pip "
            "install 'pylibjpeg[all]'."
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(
            f"{name} is damaged: its pixels cannot be read "
            f"({' '.join(str(error).split())[:100]})"
        ) from error
    if stored.shape != header.size or "RescaleIntercept" not in data:
        raise ValueError(
            f"{name} holds pixels of {stored.shape}, expected grey values of "
            f"{header.size} with RescaleSlope and RescaleIntercept"
        )
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.RescaleIntercept)
    values = stored.astype(np.float32) * slope + intercept
    padding = data.get("PixelPaddingValue")
    if padding is not None:
        values[stored == int(padding)] = AIR
    return np.clip(np.round(values), AIR, np.iinfo(np.int16).max)


def _affine(ordered: list[Slice], heights: list[float], count: int) -> np.ndarray:
    """Returns the affine of the array ``[column, row, slice]`` (NIfTI's world)."""
    first, last = ordered[0], ordered[-1]
    origin = np.zeros(3) if first.position is None else first.position
    way = first.normal * (heights[-1] - heights[0])
    if first.position is not None and last.position is not None:
        way = last.position - first.position
    affine = np.eye(4)
    affine[:3, 0] = TO_RAS @ first.row * first.spacing[1]
    affine[:3, 1] = TO_RAS @ first.column * first.spacing[0]
    affine[:3, 2] = TO_RAS @ way / (count - 1)
    affine[:3, 3] = TO_RAS @ origin
    return affine
