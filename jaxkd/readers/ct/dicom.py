"""Assembles a CT series from DICOM files, and refuses what is not one whole series.

Slices are put in order by their positions in space, never by file name or number, and
their distance is measured, not read from the slice thickness. Needs the extra
``medical`` (pydicom). No tag that could identify a patient is kept or shown.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.readers.ct import dicom_files, stacks, volumes
from jaxkd.readers.ct import series as ct_series
from jaxkd.readers.ct.dicom_files import library
from jaxkd.readers.ct.headers import Slice
from jaxkd.readers.ct.series import Series, Survey
from jaxkd.readers.ct.volumes import AIR, Volume

# From DICOM's world (left, posterior, superior) to NIfTI's (right, anterior, superior).
TO_RAS = np.diag([-1.0, -1.0, 1.0])

__all__ = ["TO_RAS", "library", "read", "read_survey"]


def read(path: Path, **options) -> Volume:
    """Reads the CT series in a folder, and in those inside it.

    Args:
      path: of the folder.
      **options: see ``read_survey``.

    Raises:
      UserError: if the files are not one whole CT series.
    """
    path = Path(path)
    return read_survey(ct_series.survey(path), path, **options)


def read_survey(
    found: Survey,
    origin: Path,
    *,
    fill_gaps: int = 0,
    pick_largest: bool = False,
    allow_tilt: bool = False,
    series: str = "",
    correct_tilt: bool = False,
    even_spacing: bool = False,
) -> Volume:
    """Reads the one CT series among the files of a survey.

    Args:
      found: of ``series.survey``.
      origin: begins the error messages: the folder.
      fill_gaps: how many missing or damaged slices may be interpolated in one place.
      pick_largest: of several series take the axial one with most slices, of those
        that can be read.
      allow_tilt: whether the stack of slices may lean.
      series: UID, number or description of the series to take.
      correct_tilt: whether a stack that leans is straightened, each slice being shifted
        in its plane.
      even_spacing: whether a stack of several distances is interpolated to the
        smallest.

    Raises:
      UserError: if there is none or several, or it is not whole.
    """
    try:
        choice, notes = ct_series.candidates(found, series)

        def assemble(one: Series) -> Volume:
            return _assemble(one, found, fill_gaps, allow_tilt, correct_tilt, even)

        even = even_spacing
        if len(choice) > 1:
            if not pick_largest:
                listed = "; ".join(each.describe() for each in choice)
                raise ValueError(
                    f"it holds {len(choice)} series or mixed slices ({listed}), "
                    "expected slices of one series, size, spacing and orientation; "
                    "choose one by series, or say --pick-largest"
                )
            volume = _largest(choice, assemble, notes)
        else:
            volume = assemble(choice[0])
    except ValueError as error:
        raise UserError(f"{origin}: {error}.") from error
    left_out = ct_series.summarize([a for a in found.aside if not a.damage])
    return volume._replace(notes=(*notes, *left_out, *volume.notes))


def _largest(
    choice: Sequence[Series], assemble: Callable[[Series], Volume], notes: list[str]
) -> Volume:
    """Reads the largest axial series that can be read; equals are refused."""
    axial = [each for each in choice if each.plane == "axial"]
    if not axial:
        listed = "; ".join(each.describe() for each in choice)
        raise ValueError(f"none of its series is axial ({listed})")
    problems = []
    for size in sorted({len(each.slices) for each in axial}, reverse=True):
        readable = []
        for each in axial:
            if len(each.slices) == size:
                try:
                    readable.append((each, assemble(each)))
                except ValueError as error:
                    problems.append(f"{each.describe()}: {error}")
        if len(readable) > 1:
            listed = "; ".join(each.describe() for each, _ in readable)
            raise ValueError(
                f"{len(readable)} series are the largest ({listed}); choose one by "
                "series"
            )
        if readable:
            picked, volume = readable[0]
            notes.append(f"picked one of {len(choice)} series: {picked.describe()}")
            notes += [f"cannot be read: {problem}" for problem in problems]
            return volume
    raise ValueError(f"none of its series can be read: {'; '.join(problems)}")


def _assemble(
    chosen: Series,
    found: Survey,
    fill_gaps: int,
    allow_tilt: bool,
    correct_tilt: bool,
    even_spacing: bool,
) -> Volume:
    """Orders the slices, reads their pixels and closes permitted gaps."""
    notes: list[str] = []
    # What is damaged beside the series, or bears its name, may be a part of it.
    broken = [
        ct_series.damaged(each)
        for each in found.damage
        if each.path.parent in chosen.folders or (each.series or None) == chosen.uid
    ]
    kept, pictures, padded = [], [], 0
    files: dict[Path, np.ndarray] = {}
    for each in sorted(chosen.slices, key=lambda one: one.path):
        try:
            picture, padding = _hounsfield(each, files)
        except ValueError as error:
            broken.append(str(error))
            continue
        kept.append(each)
        pictures.append(picture)
        padded += padding
    if broken and not fill_gaps:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise ValueError(
            f"{broken[0]}{more}; replace it, remove it, or say --fill-gaps to "
            "interpolate it like a missing slice"
        )
    if len(kept) < 2:
        raise ValueError(
            f"it holds {len(kept)} slices that can be read, expected at least "
            f"{volumes.MIN_SLICES}"
        )
    stack = stacks.order(kept, pictures, notes)
    stacks.check_line(stack, allow_tilt or correct_tilt)
    if correct_tilt:
        stack = stacks.straighten(stack, notes)
    stacks.check_tags(stack, notes)
    if even_spacing:
        stack = stacks.even(stack, notes)
    stack, filled = stacks.fill(stack, fill_gaps, notes)
    if len(broken) > filled:
        raise ValueError(
            f"{'; '.join(broken)}; {len(broken)} files are damaged, but {filled} "
            "slices are missing between the others, so that the first or last may be "
            "lost; remove the damaged files to read the others"
        )
    notes += [f"{problem}; interpolated" for problem in broken]
    if padded:
        notes.append(f"{padded} voxels outside of the scan (padding) taken for air")
    positions = {each.patient_position for each in kept} - {""}
    notes += [f"patient position {each}" for each in sorted(positions)]
    stored = np.stack(stack.pictures).round().astype(np.int16).transpose(2, 1, 0)
    volumes.check_intensities(stored)
    volume = volumes.to_frame(stored, _affine(stack), notes)
    volumes.check_size(volume)
    return volume._replace(uid=chosen.uid)


def _hounsfield(header: Slice, files: dict[Path, np.ndarray]) -> tuple[np.ndarray, int]:
    """Reads one slice as Hounsfield units, float32, and counts its padding.

    Args:
      header: of the slice.
      files: keeps the pixels of the last multi-frame file.
    """
    name = header.name
    if header.problem:
        raise ValueError(f"{name} is damaged: {header.problem}")
    if header.path not in files:
        files.clear()
        files[header.path] = _pixels(header)
    stored = files[header.path]
    if header.frame is not None:
        if stored.ndim != 3 or len(stored) <= header.frame:
            raise ValueError(f"{name} is damaged: it has no pixels of that frame")
        stored = stored[header.frame]
    if stored.shape != header.size:
        raise ValueError(
            f"{name} is damaged: it holds pixels of {stored.shape}, expected "
            f"{header.size}"
        )
    slope, intercept = header.rescale
    values = stored.astype(np.float32) * slope + intercept
    outside = _outside(header, stored)
    values[outside] = AIR
    top = np.iinfo(np.int16).max
    return np.clip(np.round(values), AIR, top), int(outside.sum())


def _pixels(header: Slice) -> np.ndarray:
    try:
        data = dicom_files.load(header.path)
        dicom_files.check_pixels(header.path, data)
        return np.asarray(data.pixel_array)
    except (RuntimeError, NotImplementedError) as error:
        raise UserError(
            f"{header.path} is compressed in a way that needs another package: pip "
            "install 'pylibjpeg[all]'."
        ) from error
    except Exception as error:  # a damaged file fails in many ways
        raise ValueError(
            f"{header.path.name} is damaged: its pixels cannot be read "
            f"({' '.join(str(error).split())[:100]})"
        ) from error


def _outside(header: Slice, stored: np.ndarray) -> np.ndarray:
    """Returns where pixels have the padding value, or lie in its range."""
    if header.padding is None:
        return np.zeros(stored.shape, bool)
    low, high = sorted(header.padding)
    return (stored >= low) & (stored <= high)


def _affine(stack: stacks.Stack) -> np.ndarray:
    """Returns the affine of the array ``[column, row, slice]`` (NIfTI's world)."""
    first = stack.slices[0]
    affine = np.eye(4)
    affine[:3, 0] = TO_RAS @ first.row * first.spacing[1]
    affine[:3, 1] = TO_RAS @ first.column * first.spacing[0]
    affine[:3, 2] = TO_RAS @ stack.way / (len(stack.pictures) - 1)
    affine[:3, 3] = TO_RAS @ stack.origin
    return affine
