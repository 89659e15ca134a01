"""Reads the header of a file of a CT export, and tells slices from their company.

Content decides: an index, a structure set or a dose page is known by its class, and a
file that is no DICOM at all by its first bytes, whatever their names. Only of what is
too damaged to have a class does the name remain: it counts as damage if it is named
like its neighbours. Needs the extra ``medical`` (pydicom). No tag that could identify a
patient is kept or shown.
"""

import hashlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.readers.ct import dicom_files, foreign

INDEX = "1.2.840.10008.1.3.10"
SINGLE_FRAME = "1.2.840.10008.5.1.4.1.1.2"
# Enhanced CT, and legacy CT converted to it.
MULTI_FRAME = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")
# Endings of names, where content is lost altogether.
ENDINGS = (".dcm", ".dicom", ".ima")

_REGISTERED = "1.2.840.10008."
# In ImageType: what a CT scanner stores beside slices.
_SCOUTS = ("LOCALIZER", "SCOUT")
_PAGES = ("SCREEN SAVE", "DOSE_INFO", "CT_SOM5 PROT", "CT_SOM7 PROT")
# In RescaleType: "US" is unspecified, which many scanners write for Hounsfield units.
_HOUNSFIELD = ("", "HU", "HU_MOD", "US")
_STRAIGHT = 0.01  # by how much directions may miss length 1 and right angles
_DEFLATED_SYNTAX = "1.2.840.10008.1.2.1.99"


class Aside(NamedTuple):
    """A file that is no slice.

    Attributes:
      path: of the file.
      reason: the class of its content, or the damage.
      damage: whether it may have been a slice.
      series: UID of its series, where it is known.
    """

    path: Path
    reason: str
    damage: bool = False
    series: str = ""


class Tags(NamedTuple):
    """What the slices of a series have in common.

    Attributes:
      uid: SeriesInstanceUID.
      number: SeriesNumber.
      description: SeriesDescription.
      study: StudyInstanceUID.
      patient: a digest of PatientID, to tell patients apart.
      frame: FrameOfReferenceUID.
    """

    uid: str
    number: str
    description: str
    study: str
    patient: str
    frame: str


class Slice(NamedTuple):
    """The header of one slice.

    Attributes:
      path: of the file.
      tags: of its series.
      frame: place in a multi-frame file; None in a file of one slice.
      position: mm, of the first voxel's centre; None where the file has none.
      row: direction along which columns are counted, ``column`` likewise rows.
      column: see ``row``.
      oriented: whether the file gives these directions; else they are assumed.
      size: rows and columns.
      spacing: mm between rows and between columns.
      number: of the instance.
      thickness: mm, for series without positions.
      step: SpacingBetweenSlices in mm; 0 where the file has none.
      images: images that the acquisition has by its tags; 0 where the file has none.
      rescale: slope and intercept.
      stored: how pixels lie in the file: bits allocated, stored, and whether signed.
      padding: first and last stored value of pixels outside of the scan.
      patient_position: such as ``"HFS"``.
      problem: why the slice cannot be used, or nothing.
    """

    path: Path
    tags: Tags
    frame: int | None = None
    position: np.ndarray | None = None
    row: np.ndarray = np.array([1.0, 0, 0])
    column: np.ndarray = np.array([0.0, 1, 0])
    oriented: bool = False
    size: tuple[int, int] = (0, 0)
    spacing: tuple[float, float] = (0.0, 0.0)
    number: int = 0
    thickness: float = 0.0
    step: float = 0.0
    images: int = 0
    rescale: tuple[float, float] = (1.0, 0.0)
    stored: tuple[int, int, int] = (16, 16, 0)
    padding: tuple[int, int] | None = None
    patient_position: str = ""
    problem: str = ""

    @property
    def normal(self) -> np.ndarray:
        """Direction at right angles to the slice."""
        return np.cross(self.row, self.column)

    @property
    def name(self) -> str:
        """Name of the file, and the place in it."""
        place = "" if self.frame is None else f" (frame {self.frame + 1})"
        return f"{self.path.name}{place}"


def read(path: Path) -> list[Slice] | Aside:
    """Reads the header of a file.

    Returns:
      Its slices, one unless it is a multi-frame file; or why it is none. What cannot be
      told from damage is an ``Aside`` with neither damage nor reason.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begin = file.read(132)
    except OSError as error:
        return Aside(path, f"cannot be opened: {error.strerror}", damage=True)
    magic = begin[128:] == b"DICM"
    if not magic and (kind := foreign.kind(begin)):
        lost = path.suffix.lower() in ENDINGS  # such as the page of a failed download
        return Aside(path, f"no DICOM file, but {kind}", damage=lost)
    try:
        data = dicom_files.load(path, stop_before_pixels=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = _class(data)
            if not kind and not magic:
                return Aside(path, "")  # garbage parses as well
            return _slices(path, data, kind)
    except Exception:  # whatever a damaged file makes of the parser
        if not magic:
            return Aside(path, "")
        reason = f"its DICOM header cannot be read ({size:,} bytes)"
        return Aside(path, reason, damage=True)


def _class(data: Any) -> str:
    meta = getattr(data, "file_meta", None)
    known = str(data.get("SOPClassUID") or "")
    known = known or str((meta or {}).get("MediaStorageSOPClassUID") or "")
    if not known.startswith(_REGISTERED):
        if "DirectoryRecordSequence" in data:
            return INDEX
        return SINGLE_FRAME if str(data.get("Modality") or "") == "CT" else ""
    return known


def _slices(path: Path, data: Any, kind: str) -> list[Slice] | Aside:
    modality = str(data.get("Modality") or "")
    series = str(data.get("SeriesInstanceUID") or "")
    if kind == INDEX:
        return Aside(path, "an index of files")
    if not kind:
        reason = "its DICOM header has no class (SOPClassUID)"
        return Aside(path, reason, damage=True, series=series)
    if kind not in (SINGLE_FRAME, *MULTI_FRAME):
        name = dicom_files.library().uid.UID(kind).name
        if name == kind:  # not registered, so perhaps one wrong digit
            reason = f"its class {kind} is unknown"
            return Aside(path, reason, damage=True, series=series)
        return Aside(path, name, series=series)
    if modality != "CT":
        reason = f"it has modality {modality or 'unknown'}, expected CT"
        return Aside(path, reason, damage=True, series=series)
    words = {str(word).upper().strip() for word in _words(data.get("ImageType"))}
    if words & set(_SCOUTS):
        return Aside(path, "an overview image (localizer)", series=series)
    if words & set(_PAGES):
        return Aside(path, "a dose page or screen capture", series=series)
    if kind == SINGLE_FRAME:
        return [_slice(path, data, [data], None)]
    return _frames(path, data)


def _frames(path: Path, data: Any) -> list[Slice] | Aside:
    """Reads the slices of a multi-frame file."""
    shared = list(data.get("SharedFunctionalGroupsSequence") or [])[:1]
    each = list(data.get("PerFrameFunctionalGroupsSequence") or [])
    count = int(data.get("NumberOfFrames") or 0)
    if count != len(each) or not count:
        reason = (
            f"it has {count} frames, but the places of {len(each)} "
            "(PerFrameFunctionalGroupsSequence)"
        )
        return Aside(path, reason, damage=True, series=str(data.SeriesInstanceUID))
    slices = []
    for place, groups in enumerate(each):
        layers = [item for group in (groups, *shared) for item in _items(group)]
        kinds = {str(w).upper() for a in layers for w in _words(a.get("FrameType"))}
        if not kinds & set(_SCOUTS):
            slices.append(_slice(path, data, [*layers, data], place))
    if not slices:
        return Aside(path, "overview images (localizers)")
    return slices


def _items(group: Any) -> list[Any]:
    return [item for element in group if element.VR == "SQ" for item in element.value]


def _words(value: Any) -> Sequence[Any]:
    if value is None:
        return ()
    return [value] if isinstance(value, str) else list(value)


def _slice(path: Path, data: Any, layers: Sequence[Any], frame: int | None) -> Slice:
    """Takes from a header what is needed; the first layer that has a tag gives it."""
    tags = Tags(
        uid=_text(data, "SeriesInstanceUID"),
        number=_text(data, "SeriesNumber"),
        description=_text(data, "SeriesDescription"),
        study=_text(data, "StudyInstanceUID"),
        patient=hashlib.sha256(_text(data, "PatientID").encode()).hexdigest()[:12],
        frame=_text(data, "FrameOfReferenceUID"),
    )
    plain = Slice(path, tags, frame)
    try:
        return _measured(plain, layers)
    except ValueError as error:
        return plain._replace(problem=str(error))
    except Exception as error:  # a value that the parser cannot make sense of
        reason = " ".join(str(error).split())[:100]
        return plain._replace(problem=f"its header is damaged ({reason})")


def _measured(plain: Slice, layers: Sequence[Any]) -> Slice:
    data = layers[-1]
    if plain.frame is None and int(data.get("NumberOfFrames") or 1) > 1:
        raise ValueError("it has several frames, but is of the class of single ones")
    size = _numbers(layers, "Rows", 1), _numbers(layers, "Columns", 1)
    spacing = _numbers(layers, "PixelSpacing", 2)
    if not size[0] or not size[1] or not spacing:
        raise ValueError("its header lacks size or spacing")
    if min(spacing) <= 0 or min(size[0][0], size[1][0]) < 1:
        raise ValueError(f"its PixelSpacing is {spacing}, expected above 0")
    cosines = _numbers(layers, "ImageOrientationPatient", 6)
    row, column = np.array(cosines or (1.0, 0, 0, 0, 1, 0)).reshape(2, 3)
    lengths = np.linalg.norm([row, column], axis=1)
    if abs(lengths - 1).max() > _STRAIGHT or abs(row @ column) > _STRAIGHT:
        raise ValueError(
            f"its ImageOrientationPatient is {cosines}, expected two directions of "
            "length 1 at a right angle"
        )
    position = _numbers(layers, "ImagePositionPatient", 3)
    step = (_numbers(layers, "SpacingBetweenSlices", 1) or (0.0,))[0]
    thickness = (_numbers(layers, "SliceThickness", 1) or (0.0,))[0]
    bits = tuple(int((_numbers(layers, name, 1) or (0,))[0]) for name in _BITS)
    return plain._replace(
        position=None if position is None else np.array(position),
        row=row,
        column=column,
        oriented=cosines is not None,
        size=(int(size[0][0]), int(size[1][0])),
        spacing=(spacing[0], spacing[1]),
        number=int((_numbers(layers, "InstanceNumber", 1) or (0,))[0]),
        thickness=abs(step) or thickness,
        step=abs(step),
        images=int((_numbers(layers, "ImagesInAcquisition", 1) or (0,))[0]),
        rescale=_rescale(layers),
        stored=(bits[0], bits[1], bits[2]),
        padding=_padding(layers, bits[0], bool(bits[2])),
        patient_position=_text(data, "PatientPosition"),
    )


_BITS = ("BitsAllocated", "BitsStored", "PixelRepresentation")


def _rescale(layers: Sequence[Any]) -> tuple[float, float]:
    data = layers[-1]
    photometric = _text(data, "PhotometricInterpretation")
    samples = _numbers(layers, "SamplesPerPixel", 1) or (1,)
    if samples[0] != 1 or photometric not in ("", "MONOCHROME2"):
        raise ValueError(
            f"its pixels are {photometric or 'colours'} of {samples[0]:.0f} samples, "
            "expected MONOCHROME2 of one"
        )
    slope = _numbers(layers, "RescaleSlope", 1)
    intercept = _numbers(layers, "RescaleIntercept", 1)
    if not slope or not intercept:
        raise ValueError("it lacks one of RescaleSlope and RescaleIntercept")
    if slope[0] == 0:
        raise ValueError("its RescaleSlope is 0, which leaves nothing of the pixels")
    kind = next((_text(a, "RescaleType") for a in layers if "RescaleType" in a), "")
    if kind.upper() not in _HOUNSFIELD:
        raise ValueError(f"its values are {kind} (RescaleType), expected HU")
    return slope[0], intercept[0]


def _padding(layers: Sequence[Any], bits: int, signed: bool) -> tuple[int, int] | None:
    first = _numbers(layers, "PixelPaddingValue", 1)
    if first is None:
        return None
    last = _numbers(layers, "PixelPaddingRangeLimit", 1) or first
    half = 1 << (bits - 1 if bits > 0 else 15)

    def as_stored(value: float) -> int:  # some write it unsigned whatever the pixels
        return int(value) - 2 * half if signed and value >= half else int(value)

    return as_stored(first[0]), as_stored(last[0])


def _text(data: Any, keyword: str) -> str:
    words = str(data.get(keyword) or "").split()
    return "".join(c for c in " ".join(words) if c.isprintable())


def _numbers(
    layers: Sequence[Any], keyword: str, count: int
) -> tuple[float, ...] | None:
    """Returns the numbers of a tag; None where it is absent or empty.

    Raises:
      ValueError: if they are not so many finite numbers.
    """
    value = next((a.get(keyword) for a in layers if keyword in a), None)
    if value is None or value == "" or (isinstance(value, list) and not value):
        return None
    parts = list(value) if not isinstance(value, str | int | float) else [value]
    if not parts:
        return None
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        shown = " ".join(str(value).split())[:60]
        raise ValueError(
            f"its {keyword} is {shown}, expected {count} finite "
            f"number{'s' if count > 1 else ''}"
        )
    return numbers
