"""CT volumes in one frame: reorientation, resampling, Hounsfield windows, views.

The frame: depth runs from the patient's feet to the head, height from front to back,
width from the patient's right to the left. Readers (``dicom``, ``nifti``) return
volumes in it, with what is needed to put a heat map back on the grid of the file.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import lookup

# Lowest and highest Hounsfield unit, which become 0 and 1.
WINDOWS = {
    "default": (-1000.0, 400.0),
    "lung": (-1350.0, 150.0),  # level -600, width 1500
    "covnet": (-1250.0, 250.0),
}
AIR = -1024
MIN_SLICES = 16
EXTENT = (80.0, 800.0)  # mm from the first slice to the last
MAX_TILT = 1.0  # degrees
# Hounsfield units below which there must be air, and above which tissue: in a chest,
# and around any patient, each fills far more of a volume than this share.
AIR_BELOW, TISSUE_ABOVE, LEAST_SHARE = -600, -200, 0.001

# What the frame's axes point to, in the world of NIfTI: right, anterior, superior.
_FRAME = np.array([[0, 0, 1], [0, -1, 0], [-1, 0, 0]], float)


class Volume(NamedTuple):
    """A volume in the frame.

    Attributes:
      voxels: int16 ``[depth, height, width]``, Hounsfield units.
      spacing: mm between voxels along depth, height and width.
      affine: ``[4, 4]``, from indices of the *stored* array to mm (right, anterior,
        superior), as in NIfTI.
      stored_shape: of the array in the file, ``(i, j, k)``.
      axes: for each axis of the frame, the stored axis that it was.
      flips: for each axis of the frame, whether the stored axis runs the other way.
      notes: what a reader should know, such as slices filled in; no identifiers.
      uid: SeriesInstanceUID, of DICOM alone.
    """

    voxels: np.ndarray
    spacing: tuple[float, float, float]
    affine: np.ndarray
    stored_shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    notes: tuple[str, ...] = ()
    uid: str = ""


def to_frame(
    stored: np.ndarray, affine: np.ndarray, notes: Sequence[str] = ()
) -> Volume:
    """Turns an array as stored in a file into the frame.

    Args:
      stored: ``[i, j, k]``, Hounsfield units.
      affine: ``[4, 4]``, see ``Volume``.
      notes: likewise.

    Raises:
      ValueError: if the affine is not finite or has an axis without extent.
    """
    directions = np.asarray(affine, float)[:3, :3]
    lengths = np.linalg.norm(directions, axis=0)
    if not np.isfinite(affine).all() or (lengths <= 0).any():
        raise ValueError(
            f"its voxels measure {_millimetres(lengths)}, expected above 0"
        )
    along = _FRAME @ (directions / lengths)  # [axis of the frame, stored axis]
    axes = _assign(np.abs(along))
    flips = [bool(along[axis, stored] < 0) for axis, stored in enumerate(axes)]
    voxels = _flip(np.transpose(stored, axes), flips)
    return Volume(
        np.ascontiguousarray(voxels),
        tuple(float(lengths[axis]) for axis in axes),  # type: ignore[arg-type]
        np.asarray(affine, float),
        stored.shape,
        axes,
        tuple(flips),  # type: ignore[arg-type]
        tuple(notes),
    )


def from_frame(array: np.ndarray, volume: Volume) -> np.ndarray:
    """Puts ``[depth, height, width]`` back on the stored axes ``[i, j, k]``."""
    inverse = np.argsort(volume.axes)
    return np.ascontiguousarray(np.transpose(_flip(array, volume.flips), inverse))


def _assign(along: np.ndarray) -> tuple[int, int, int]:
    """Returns the order of stored axes that follows the frame best."""
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    return max(orders, key=lambda order: along[range(3), order].sum())


def _flip(array: np.ndarray, flips: Sequence[bool]) -> np.ndarray:
    return array[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _millimetres(lengths: Sequence[float]) -> str:
    return " x ".join(f"{length:.3g}" for length in lengths) + " mm"


def tilt(affine: np.ndarray) -> float:
    """Returns by how many degrees the axes of an affine miss a right angle."""
    directions = np.asarray(affine, float)[:3, :3]
    directions = directions / np.linalg.norm(directions, axis=0)
    cosines = np.abs(directions.T @ directions - np.eye(3)).max()
    return float(np.rad2deg(np.arcsin(min(cosines, 1.0))))


def check_size(volume: Volume) -> None:
    """Checks that a volume may be a chest.

    Raises:
      ValueError: if it has too few slices, or is too short or too long.
    """
    slices, (low, high) = volume.voxels.shape[0], EXTENT
    if slices < MIN_SLICES:
        raise ValueError(f"it has {slices} slices, expected at least {MIN_SLICES}")
    extent = slices * volume.spacing[0]
    if not low <= extent <= high:
        raise ValueError(
            f"it is {extent:.0f} mm long ({slices} slices, {volume.spacing[0]:.3g} mm "
            f"apart), expected {low:.0f} to {high:.0f} mm"
        )


def check_intensities(voxels: np.ndarray, advice: str = "") -> None:
    """Checks that values may be Hounsfield units of a patient: both air and tissue.

    Raises:
      ValueError: if they are constant, or air or tissue is nowhere.
    """
    air = float(np.mean(voxels < AIR_BELOW))
    tissue = float(np.mean(voxels > TISSUE_ABOVE))
    if min(air, tissue) < LEAST_SHARE:
        raise ValueError(
            f"its values are {voxels.min():.0f} to {voxels.max():.0f}, {air:.1%} of "
            f"them below {AIR_BELOW} (air) and {tissue:.1%} above {TISSUE_ABOVE} "
            "(tissue), expected Hounsfield units, in which air is about -1000 and "
            f"water 0{advice}"
        )


class Placement(NamedTuple):
    """Where a volume went on a grid of another size; see ``fit``.

    Attributes:
      shape: of the volume.
      box: the part of it that was kept, from and up to along each axis.
      resampled: of that part after resampling.
      offsets: of the grid's first voxel in it; negative where the grid is larger.
    """

    shape: tuple[int, int, int]
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    resampled: tuple[int, int, int]
    offsets: tuple[int, int, int]


def fit(
    volume: Volume,
    size: Sequence[int],
    spacing: Sequence[float] | None = None,
    box: Sequence[tuple[int, int]] | None = None,
) -> tuple[np.ndarray, Placement]:
    """Brings a volume to the size that a network wants.

    Args:
      volume: in the frame.
      size: ``(depth, height, width)`` of the result.
      spacing: mm between the result's voxels; the middle is kept and air added. None
        stretches the volume to ``size``.
      box: the part to keep, from and up to along each axis; None keeps all.

    Returns:
      int16 ``[depth, height, width]``, and where it went.
    """
    placement = place(volume, size, spacing, box)
    voxels = put(volume.voxels, placement, size, AIR)
    return np.round(voxels).astype(np.int16), placement


def place(volume: Volume, size, spacing=None, box=None) -> Placement:
    """Returns where ``fit``, which see, puts a volume."""
    shape: Any = volume.voxels.shape
    box = tuple((0, n) for n in shape) if box is None else tuple(box)
    resampled = tuple(size)
    if spacing is not None:
        kept = [stop - start for start, stop in box]
        pairs = zip(kept, volume.spacing, spacing, strict=True)
        resampled = tuple(max(round(n * old / new), 1) for n, old, new in pairs)
    offsets = tuple((n - m) // 2 for n, m in zip(resampled, size, strict=True))
    return Placement(shape, box, resampled, offsets)  # type: ignore[arg-type]


def put(array: np.ndarray, placement: Placement, size, fill: float) -> np.ndarray:
    """Puts an array of the volume's shape where the volume went; float32."""
    kept = array[tuple(slice(*ends) for ends in placement.box)]
    resampled = resample(kept, placement.resampled)
    return _window(resampled, placement.offsets, size, fill)


def unfit(array: np.ndarray, placement: Placement) -> np.ndarray:
    """Brings a map of the network's size, or coarser, back to the volume's grid.

    Args:
      array: float ``[depth, height, width]``, as large as what ``fit`` returned.
      placement: what ``fit`` returned.

    Returns:
      float32 of the volume's shape; 0 where the network did not look.
    """
    back = [-offset for offset in placement.offsets]
    seen = _window(array, back, placement.resampled, 0.0)
    result = np.zeros(placement.shape, np.float32)
    inside = tuple(slice(*ends) for ends in placement.box)
    result[inside] = resample(seen, [stop - start for start, stop in placement.box])
    return result


def _window(array, offsets, size, fill) -> np.ndarray:
    """Cuts ``size`` voxels from ``offsets`` on, filling what lies outside."""
    result = np.full(size, fill, np.float32)
    source, target = [], []
    for have, want, offset in zip(array.shape, size, offsets, strict=True):
        start, stop = max(offset, 0), min(offset + want, have)
        source.append(slice(start, stop))
        target.append(slice(start - offset, stop - offset))
    result[tuple(target)] = array[tuple(source)]
    return result


def resample(array: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Interpolates linearly along each axis, with smoothing where it shrinks.

    Voxels keep the place of their centres; as ``jax.image.resize``.

    Args:
      array: ``[depth, height, width]``.
      size: of the result.

    Returns:
      float32.
    """
    array = np.asarray(array, np.float32)
    for axis, (old, new) in enumerate(zip(array.shape, size, strict=True)):
        if old != new:
            moved = np.tensordot(_weights(old, new), array, axes=(1, axis))
            array = np.moveaxis(moved, 0, axis)
    return np.ascontiguousarray(array)


def _weights(old: int, new: int) -> np.ndarray:
    """Returns what each old voxel gives to each new one, ``[new, old]``."""
    ratio = old / new
    places = (np.arange(new) + 0.5) * ratio - 0.5
    reach = max(ratio, 1.0)
    weights = 1 - np.abs(places[:, None] - np.arange(old)) / reach
    weights = np.maximum(weights, 0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def window_of(name: str) -> tuple[float, float]:
    """Returns the limits of a window of Hounsfield units.

    Raises:
      UserError: if there is no such window.
    """
    return lookup.choose(name, WINDOWS, what="window")


def apply_window(voxels: jax.Array, name: str = "default") -> jax.Array:
    """Maps Hounsfield units to float32 in [0, 1]: below the window 0, above it 1."""
    low, high = window_of(name)
    return jnp.clip((voxels.astype(jnp.float32) - low) / (high - low), 0, 1)
