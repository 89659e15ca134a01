"""The second law: lesions in one lung or in both, and no place that tells which.

Every scan has three lesions in front and three at the back, each three at the side of a
lung. In the class ``One-sided`` all lie in the same lung, in ``Bilateral`` those in
front and those at the back in different ones. Which lungs is a coin's toss, so that a
voxel is as often inside a lesion in one class as in the other; number, size, texture
and density of the lesions have one law. What tells the classes apart is where lesions
lie in relation to each other: between the voxels of those in front and of those at the
back there are always at least ``GAP`` others along some axis, so that no place of a
network that sees no more than those sees both.

Scans of the classes ``Right`` and ``Left`` have the same lesions in front or at the
back alone, by a coin's toss, in that lung: what has to be known before any can be
related.
"""

import numpy as np

from jaxkd.drawing.ct import parts

CLASSES = ("Bilateral", "One-sided")
SIDES = ("Right", "Left")
SHAPE = (16, 64, 64)
SPACING = (15.0, 5.6, 5.6)  # mm
GAP = 16
LESIONS = 3  # at each place

# Where lesions may have their middle, in voxels: distances from the planes that divide
# left from right and front from back, and depth below the lung's border.
_ASIDE, _ALONG = 14.0, 10.5
_DEPTHS = (3.1, 6.0)
_REACH = 2  # of a lesion along each axis, from its middle
# Few, since lesions are to be related here, not to be found.
_VESSELS = (0.005, 0.015)


def draw(
    label: int, body_rng: np.random.Generator, rng: np.random.Generator
) -> parts.Scan:
    """Draws one scan.

    Args:
      label: index into ``CLASSES``.
      body_rng: draws the body.
      rng: draws everything else.
    """
    front = int(rng.choice((-1, 1)))  # the side of the lesions in front
    back = front if CLASSES[label] == "One-sided" else -front
    return _with_lesions(((front, -1), (back, 1)), body_rng, rng)


def draw_side(
    label: int, body_rng: np.random.Generator, rng: np.random.Generator
) -> parts.Scan:
    """Draws one scan with lesions at one place; ``label`` is an index into ``SIDES``.

    Other arguments as of ``draw``.
    """
    end = int(rng.choice((-1, 1)))
    return _with_lesions(((-1 if SIDES[label] == "Right" else 1, end),), body_rng, rng)


def _with_lesions(where, body_rng, rng) -> parts.Scan:
    """Draws a scan with lesions at some places, each a side and an end."""
    image, lungs = parts.body(body_rng, SHAPE)
    parts.add_vessels(image, lungs, rng, _VESSELS)
    lesion = np.zeros(SHAPE, bool)
    texture = parts.smooth_noise(rng, 1.0, SHAPE)
    for side, end in where:
        middles = places(lungs.inside, side, end)
        for _ in range(LESIONS):
            focus = _focus(parts.pick(middles, rng), rng)
            free = focus & ~lesion & (image < parts.DENSE)
            image[free] += rng.uniform(600, 850) * (1 + 0.3 * texture[free])
            lesion |= focus
    return parts.Scan(
        parts.finish(image, rng), lesion.astype(np.uint8), lungs.inside.astype(np.uint8)
    )


def places(inside: np.ndarray, side: int, end: int) -> np.ndarray:
    """Returns where the middle of a lesion may lie.

    Args:
      inside: bool ``SHAPE``, the lungs.
      side: −1 for the patient's right, 1 for the left.
      end: −1 for the front, 1 for the back.

    Returns:
      bool ``SHAPE``.
    """
    depth = parts.depth(inside)
    middle = (np.array(SHAPE) - 1) / 2
    _, y, x = parts.way(middle, SHAPE)
    where = (x * side >= _ASIDE) & (y * end >= _ALONG)
    return where & (depth >= _DEPTHS[0]) & (depth < _DEPTHS[1])


def _focus(centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns a lesion of about 2.5 voxels radius with a ragged border.

    It stays within a ball of three voxels, so that all of it is in the lung, whatever
    its place: sizes have one law everywhere.
    """
    z, y, x = parts.way(centre, SHAPE)
    distance = np.sqrt(z**2 + y**2 + x**2)
    near = np.maximum(np.maximum(np.abs(z), np.abs(y)), np.abs(x)) <= _REACH
    ragged = 0.4 * rng.standard_normal(SHAPE, np.float32)
    return near & (distance <= 3) & (distance + ragged < rng.uniform(2.2, 2.9))
