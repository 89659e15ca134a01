"""Chest CT scans drawn by formula, by one of several laws.

Nothing medical can be learnt from them: they show whether code works, and whether a
part of a network does what it is said to do.

- ``diseases``: two kinds of lesions of different texture, and normal scans.
- ``distribution``: lesions that lie in one lung or in both; no place alone tells.
- ``sides``: the same lesions at one place, in the right lung or in the left.
- ``weak_contrast``: small lesions among vessels of the same brightness.
- ``shapes``: lesions alone or pieces of such vessels alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxkd.drawing.ct import diseases, distribution, weak_contrast
from jaxkd.drawing.ct.parts import Scan


class Law(NamedTuple):
    """How the scans of a data set are drawn.

    Attributes:
      classes: their names.
      shape: of a scan: depth, height, width.
      spacing: mm between voxels.
      draw: ``(label, generator of the body, generator of the rest) -> Scan``.
    """

    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    draw: Callable[[int, np.random.Generator, np.random.Generator], Scan]


LAWS = {
    name: Law(classes, module.SHAPE, module.SPACING, draw)
    for name, module, classes, draw in (
        ("diseases", diseases, diseases.CLASSES, diseases.draw),
        ("distribution", distribution, distribution.CLASSES, distribution.draw),
        ("sides", distribution, distribution.SIDES, distribution.draw_side),
        ("weak_contrast", weak_contrast, weak_contrast.CLASSES, weak_contrast.draw),
        ("shapes", weak_contrast, weak_contrast.SHAPES, weak_contrast.draw_shape),
    )
}
