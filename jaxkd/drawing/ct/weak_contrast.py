"""The third law: small round lesions among vessels of the same brightness.

Two or three lesions lie close to the lungs' border (class ``Peripheral``) or deep in
the lungs (``Central``). Where a scan of one class has lesions, one of the other has as
many pieces of vessels of the same law of size, and both zones of every scan hold
further, thicker pieces. All have one law of brightness: a voxel does not tell what it
belongs to, bright voxels lie at the same places in both classes, and being thick makes
no lesion. What differs is the shape: lesions are compact, pieces of vessels five times
as long as wide along the lungs' border.

Scans of the classes ``Lesions`` and ``Vessels`` hold four to six small objects of one
of the two shapes in each zone, and nothing else: what has to be told apart before
lesions can be found among vessels.
"""

import numpy as np

from jaxkd.drawing.ct import parts

CLASSES = ("Peripheral", "Central")
SHAPES = ("Lesions", "Vessels")
SHAPE = (24, 48, 48)
SPACING = (10.0, 7.5, 7.5)  # mm
LENGTH = 5.0  # of a piece of vessel, in its widths

_BRIGHTNESS = (-300.0, 0.0)
_SMALL, _LARGE = (24, 41), (60, 101)  # voxels of an object
_LEVEL = 1.9  # voxels that an object may lie deeper or less deep than its middle
_HALF = 9  # of the box in which an object lies, in voxels
_TRIES = 30


def draw(
    label: int, body_rng: np.random.Generator, rng: np.random.Generator
) -> parts.Scan:
    """Draws one scan.

    Args:
      label: index into ``CLASSES``, which are the zones.
      body_rng: draws the body.
      rng: draws everything else.
    """
    lesions = int(rng.integers(2, 4))
    objects = [(label, True, _SMALL)] * lesions + [(1 - label, False, _SMALL)] * lesions
    for zone in (0, 1):
        objects += [(zone, False, _LARGE)] * int(rng.integers(1, 4))
    return _with_objects(objects, body_rng, rng)


def draw_shape(
    label: int, body_rng: np.random.Generator, rng: np.random.Generator
) -> parts.Scan:
    """Draws one scan of objects of one shape; ``label`` is an index into ``SHAPES``.

    Other arguments as of ``draw``.
    """
    objects = [
        (zone, SHAPES[label] == "Lesions", _SMALL)
        for zone in (0, 1)
        for _ in range(int(rng.integers(4, 7)))
    ]
    return _with_objects(objects, body_rng, rng)


def _with_objects(objects, body_rng, rng) -> parts.Scan:
    """Draws a scan with objects: zone, whether compact, and range of their voxels."""
    image, lungs = parts.body(body_rng, SHAPE)
    depth = parts.depth(lungs.inside)
    zones = (depth >= 3) & (depth < 4), depth >= 5.5
    masks = {True: np.zeros(SHAPE, bool), False: np.zeros(SHAPE, bool)}
    for index in rng.permutation(len(objects)):
        zone, round_, sizes = objects[index]
        taken = masks[True] | masks[False]
        length = 1.0 if round_ else LENGTH
        voxels = _place(zones[zone], depth, taken, length, sizes, rng)
        image[voxels] = rng.uniform(*_BRIGHTNESS, len(voxels[0]))
        masks[round_][voxels] = True
    lesion, pieces = (masks[key].astype(np.uint8) for key in (True, False))
    return parts.Scan(
        parts.finish(image, rng), lesion, lungs.inside.astype(np.uint8), pieces
    )


def _place(
    zone: np.ndarray,
    depth: np.ndarray,
    taken: np.ndarray,
    length: float,
    sizes: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[np.ndarray, ...]:
    """Finds the voxels of an object with its middle in a zone.

    Of ``_TRIES`` places it takes the first that touches no other object, or the one
    that touches fewest of their voxels; voxels that are taken stay with their object.
    """
    from scipy.ndimage import binary_dilation

    near = binary_dilation(taken, iterations=2)
    count = int(rng.integers(*sizes))
    best: tuple[np.ndarray, ...] | None = None
    fewest = np.inf
    for _ in range(_TRIES):
        centre = parts.pick(zone, rng)
        found = _object(centre, depth, taken, length, count, rng)
        touching = int(near[found].sum())
        if best is None or touching < fewest:
            best, fewest = found, touching
        if not touching:
            break
    assert best is not None  # there was at least one try
    return best


def _object(centre, depth, taken, length, count, rng) -> tuple[np.ndarray, ...]:
    """Returns the ``count`` free voxels nearest to a place.

    Distance is measured across the lung's border, straight or by the voxels' depth
    below it, whichever is more, and along the border, where it is stretched in one
    direction as much as it is shrunk in the other. Objects of one size so reach as far
    across the border, whatever their shape; bright voxels would else lie deeper in one
    class.
    """
    low = np.maximum(centre - _HALF, 0)
    box = tuple(slice(a, c + _HALF + 1) for a, c in zip(low, centre, strict=True))
    inwards, axis = _slope(depth, centre), rng.normal(size=3)
    axis -= (axis @ inwards) * inwards
    axis /= np.linalg.norm(axis)
    across = depth[box] - depth[tuple(centre)]
    free = (np.abs(across) <= _LEVEL) & (depth[box] >= 1.5) & ~taken[box]
    places = np.argwhere(free) + low
    way = places - centre - rng.uniform(-0.5, 0.5, 3)
    along, inward = way @ axis, way @ inwards
    beside = (way**2).sum(1) - along**2 - inward**2
    thick = np.maximum(across[free] ** 2, inward**2)
    distance = thick + length * beside + along**2 / length
    chosen = places[np.argsort(distance, kind="stable")[:count]]
    return tuple(chosen.T)


def _slope(depth: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns the direction in which the lung's border recedes, of length 1 or 0."""
    slope = np.array(
        [
            depth[tuple(centre + step)] - depth[tuple(centre - step)]
            for step in np.eye(3, dtype=int)
        ]
    )
    length = float(np.linalg.norm(slope))
    return slope / length if length else slope
