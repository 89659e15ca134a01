"""Finds the lungs in a CT volume by their air, well enough to crop to them."""

import numpy as np

from jaxkd.readers.ct.volumes import Volume

AIR_BELOW = -400  # Hounsfield units
MARGIN = 5.0  # mm
# Of the volume: outside of this, what was found are no lungs.
SHARES = (0.01, 0.6)

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


def find(volume: Volume) -> np.ndarray | None:
    """Finds the two largest pieces of air inside the body, with a margin.

    Air that reaches the edge of a slice is outside of the body. Holes are filled, so
    that vessels and lesions belong to the lungs.

    Returns:
      bool ``[depth, height, width]``, or None if what was found cannot be lungs.
    """
    from scipy import ndimage

    pieces, count = ndimage.label(volume.voxels < AIR_BELOW)
    outside = np.unique(
        np.concatenate([edge.ravel() for edge in _edges(pieces)], dtype=pieces.dtype)
    )
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    sizes[0] = 0
    sizes[outside] = 0
    largest = [piece for piece in np.argsort(-sizes)[:2] if sizes[piece]]
    inside = np.isin(pieces, largest)
    if not inside.any():
        return None
    away = ndimage.distance_transform_edt(~inside, sampling=volume.spacing)
    margin = max(MARGIN, *volume.spacing[1:])  # a voxel at least
    near = np.stack([ndimage.binary_fill_holes(each) for each in away <= margin])
    low, high = SHARES
    return near if low <= near.mean() <= high else None


def _edges(pieces: np.ndarray) -> list[np.ndarray]:
    return [pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]]


def box(mask: np.ndarray) -> Box:
    """Returns the first voxel of a mask, and the one after its last, by axis."""
    ranges = []
    for axis in range(3):
        others = tuple(one for one in range(3) if one != axis)
        places = np.flatnonzero(mask.any(others))
        ranges.append((int(places[0]), int(places[-1]) + 1))
    return ranges[0], ranges[1], ranges[2]
