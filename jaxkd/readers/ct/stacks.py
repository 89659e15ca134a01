"""Puts slices in order and makes an even, upright stack of them, or says why not."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxkd.readers.ct import volumes
from jaxkd.readers.ct.headers import Slice
from jaxkd.readers.ct.volumes import AIR

GAP = 1.5  # times the usual distance of slices: beyond it one is missing
SAME = 0.01  # mm between two positions that are one
_BESIDE = 1.0  # mm by which a slice may miss the line of the others
_UNEVEN = 0.25  # of a distance: beyond it there are two
_NOTED = 0.02  # of a distance: beyond it the unevenness is noted


class Stack(NamedTuple):
    """Slices from one end to the other.

    Attributes:
      slices: their headers.
      heights: mm along the normal of the slices.
      pictures: float32 ``[rows, columns]`` each, Hounsfield units.
      origin: mm, position of the first slice's first voxel; zeros if not known.
      way: mm, from the first slice's first voxel to the last one's.
    """

    slices: tuple[Slice, ...]
    heights: tuple[float, ...]
    pictures: tuple[np.ndarray, ...]
    origin: np.ndarray
    way: np.ndarray

    def where(self, index: int) -> str:
        """Names the place before a slice."""
        low, high = self.slices[index - 1 : index + 1]
        return (
            f"between {low.name} ({self.heights[index - 1]:.1f} mm) and {high.name} "
            f"({self.heights[index]:.1f} mm)"
        )


def order(
    slices: Sequence[Slice], pictures: Sequence[np.ndarray], notes: list[str]
) -> Stack:
    """Sorts slices by height; without positions, by number, which is noted.

    A slice that is there twice is left out and noted.

    Raises:
      ValueError: if positions are missing, or two slices at one place differ.
    """
    without = [header for header in slices if header.position is None]
    normal = slices[0].normal
    if without:
        thickness = without[0].thickness
        if len(without) < len(slices) or thickness <= 0:
            raise ValueError(
                f"{without[0].name} has no position (ImagePositionPatient), so the "
                "slices cannot be put in order"
            )
        if len({header.number for header in slices}) < len(slices):
            raise ValueError(
                "its slices have no positions (ImagePositionPatient), and several have "
                "one InstanceNumber, so that they cannot be put in order"
            )
        notes.append(
            "no positions: order by InstanceNumber, distance by SliceThickness"
        )
        heights = [header.number * thickness for header in slices]
    else:
        heights = [float(normal @ header.position) for header in slices]  # type: ignore[operator]
    if not slices[0].oriented:
        notes.append("no orientation in the files: left and right may be exchanged")
    places = sorted(range(len(slices)), key=lambda i: heights[i])
    kept = [places[0]]
    for place in places[1:]:
        last = kept[-1]
        if heights[place] - heights[last] > SAME:
            kept.append(place)
            continue
        if not np.array_equal(pictures[place], pictures[last]):
            raise ValueError(
                f"{slices[place].name} and {slices[last].name} differ, but both lie at "
                f"{heights[place]:.1f} mm: two scans (phases) in one series; separate "
                "them"
            )
        notes.append(f"{slices[place].name} repeats {slices[last].name}, left out")
    start, end = slices[kept[0]].position, slices[kept[-1]].position
    length = heights[kept[-1]] - heights[kept[0]]
    return Stack(
        tuple(slices[i] for i in kept),
        tuple(heights[i] for i in kept),
        tuple(pictures[i] for i in kept),
        np.zeros(3) if start is None else start,
        normal * length if start is None or end is None else end - start,
    )


def _lean(stack: Stack) -> np.ndarray | None:
    """Returns the way of the stack for each mm of height; None without positions."""
    if stack.slices[0].position is None or len(stack.slices) < 2:
        return None
    positions = np.stack([header.position for header in stack.slices])  # type: ignore[misc]
    ways = np.diff(positions, axis=0) / np.diff(stack.heights)[:, None]
    return np.median(ways, axis=0)


def _angle(way: np.ndarray, normal: np.ndarray) -> float:
    """Returns by how many degrees a stack leans."""
    cosine = abs(way @ normal) / np.linalg.norm(way)
    return float(np.rad2deg(np.arccos(min(cosine, 1.0))))


def check_line(stack: Stack, allow_tilt: bool) -> None:
    """Checks that slices lie in line, and at right angles to them.

    Raises:
      ValueError: if one lies beside the others, or the stack leans.
    """
    way = _lean(stack)
    if way is None:
        return
    normal = stack.slices[0].normal
    positions = np.stack([header.position for header in stack.slices])  # type: ignore[misc]
    along = np.asarray(stack.heights)[:, None] * way
    across = positions - along
    offsets = np.linalg.norm(across - np.median(across, axis=0), axis=1)
    worst = int(np.argmax(offsets))
    if offsets[worst] > _BESIDE:
        raise ValueError(
            f"{stack.slices[worst].name} lies {offsets[worst]:.1f} mm beside the line "
            "of the other slices, expected it in line: its ImagePositionPatient is "
            "wrong, or it is of another scan"
        )
    angle = _angle(way, normal)
    if angle > volumes.MAX_TILT and not allow_tilt:
        raise ValueError(
            f"its stack of slices leans by {angle:.1f} degrees (gantry tilt, "
            f"{stack.slices[0].name} to {stack.slices[-1].name}), expected at most "
            f"{volumes.MAX_TILT:.0f}; say --correct-tilt to straighten it, or "
            "--allow-tilt to read it as it is"
        )


def straighten(stack: Stack, notes: list[str]) -> Stack:
    """Shifts slices in their plane until they lie above each other.

    The slice in the middle stays; voxels that come from outside are air.
    """
    from scipy import ndimage

    way = _lean(stack)
    if way is None:
        return stack
    header = stack.slices[0]
    normal, middle = header.normal, stack.heights[len(stack.heights) // 2]
    angle = _angle(way, normal)
    if angle <= volumes.MAX_TILT:
        return stack
    pictures = []
    for height, picture in zip(stack.heights, stack.pictures, strict=True):
        lean = (way - normal) * (height - middle)
        shift = (
            lean @ header.column / header.spacing[0],
            lean @ header.row / header.spacing[1],
        )
        moved = ndimage.shift(picture, shift, order=1, mode="constant", cval=AIR)
        pictures.append(moved.astype(np.float32))
    notes.append(f"a tilt of {angle:.1f} degrees was straightened by interpolation")
    first, length = stack.heights[0], stack.heights[-1] - stack.heights[0]
    return stack._replace(
        pictures=tuple(pictures),
        origin=stack.origin + (way - normal) * (middle - first),
        way=normal * length,
    )


def check_tags(stack: Stack, notes: list[str]) -> None:
    """Notes where the series' own tags count other slices than there are."""
    slices = stack.slices
    numbers = np.sort([header.number for header in slices])
    steps = np.diff(numbers)
    if len(slices) > 2 and (steps > 0).all():
        if numbers[0] > 1 and (steps == steps[0]).all():
            notes.append(
                f"InstanceNumber begins at {numbers[0]}: slices at one end may be "
                "missing"
            )
        if steps.min() > 1:
            notes.append(
                f"InstanceNumber counts in steps of {steps.min()}: slices may be "
                "missing throughout"
            )
    counted = {header.images for header in slices}
    if len(counted) == 1 and (count := counted.pop()) > len(slices):
        notes.append(
            f"ImagesInAcquisition is {count}, but there are {len(slices)} slices: some "
            "may be missing at the ends"
        )
    step = float(np.median(np.diff(stack.heights)))
    told = float(np.median([header.step for header in slices]))
    if told and slices[0].position is not None and abs(step - told) > 0.1 * told:
        notes.append(
            f"slices are {step:.2f} mm apart, but SpacingBetweenSlices is {told:.2f} mm"
        )
    for name, values in (
        ("slope or intercept", [header.rescale for header in slices]),
        ("form of pixels", [header.stored for header in slices]),
    ):
        usual = Counter(values).most_common(1)[0][0]
        pairs = zip(slices, values, strict=True)
        rare = next((pair for pair in pairs if pair[1] != usual), None)
        if rare:
            notes.append(
                f"the {name} differs between slices: {usual}, but {rare[0].name} has "
                f"{rare[1]}"
            )


def even(stack: Stack, notes: list[str]) -> Stack:
    """Interpolates a stack of several distances to the smallest of them.

    Raises:
      ValueError: if a distance occurs once, since it is then a gap.
    """
    distances = np.diff(stack.heights)
    step = float(np.percentile(distances, 5))
    if np.abs(distances - step).max() <= _NOTED * step:
        return stack
    for index, distance in enumerate(distances, 1):
        if (np.abs(distances - distance) <= 0.05 * distance).sum() < 2:
            raise ValueError(
                f"a gap of {distance:.2f} mm {stack.where(index)} occurs once, which "
                "is no second spacing but missing slices"
            )
    start, length = stack.heights[0], stack.heights[-1] - stack.heights[0]
    count = max(round(length / step), 1)
    grid = start + np.arange(count + 1) * (length / count)
    places = np.interp(grid, stack.heights, np.arange(len(stack.heights)))
    below = np.minimum(places.astype(int), len(stack.heights) - 2)
    pictures = [
        (1 - share) * stack.pictures[i] + share * stack.pictures[i + 1]
        for i, share in zip(below, places - below, strict=True)
    ]
    notes.append(
        f"slices {distances.min():.2f} to {distances.max():.2f} mm apart interpolated "
        f"to {length / count:.2f} mm"
    )
    nearest = [stack.slices[round(float(place))] for place in places]
    return stack._replace(
        slices=tuple(nearest), heights=tuple(grid.tolist()), pictures=tuple(pictures)
    )


def fill(stack: Stack, most: int, notes: list[str]) -> tuple[Stack, int]:
    """Interpolates missing slices.

    Args:
      stack: in order.
      most: slices that may be missing in one place.
      notes: takes where slices were filled in.

    Returns:
      The even stack, and how many were filled in.

    Raises:
      ValueError: if more are missing, or distances differ.
    """
    distances = np.diff(stack.heights)
    step = float(np.median(distances))
    pictures, filled, uneven = [stack.pictures[0]], 0, 0.0
    for index, gap in enumerate(distances, 1):
        missing = round(float(gap) / step) - 1
        _check_gap(stack, index, step, missing, most)
        below, above = stack.pictures[index - 1 : index + 1]
        for place in range(1, missing + 1):
            share = place / (missing + 1)
            pictures.append(np.round((1 - share) * below + share * above))
        if missing:
            notes.append(
                f"{missing} slices interpolated at {stack.heights[index - 1]:.1f} mm"
            )
        pictures.append(above)
        filled += missing
        uneven = max(uneven, abs(gap - (missing + 1) * step) / step)
    if uneven > _NOTED:
        notes.append(f"slices are up to {uneven:.0%} off an even distance")
    return stack._replace(pictures=tuple(pictures)), filled


def _check_gap(stack: Stack, index: int, step: float, missing: int, most: int) -> None:
    gap = stack.heights[index] - stack.heights[index - 1]
    where = stack.where(index)
    if gap > GAP * step and missing > most:
        raise ValueError(
            f"a gap of {gap:.1f} mm {where}, where slices are {step:.2f} mm apart: "
            f"{missing} missing; say --fill-gaps {missing} to interpolate them"
        )
    if abs(gap - (missing + 1) * step) > _UNEVEN * step:
        raise ValueError(
            f"a distance of {gap:.2f} mm {where}, where slices are {step:.2f} mm "
            "apart: two spacings in one series; say --even-spacing to interpolate"
        )
