"""Disturbances that photographs meet on their way: what a detector must survive.

Images are uint8 ``[height, width, 3]``; masks only follow changes of size. The grid is
that of the IMDL-BenCo benchmark, with changes of size added.
"""

from collections.abc import Callable, Mapping

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.lookup import choose
from jaxkd.core.source import Example, Source
from jaxkd.drawing.disturbances import blur, jpeg, noise, resize, resize_to

# Kind -> levels, from mild to harsh; at the first nothing, or nearly, is changed.
GRID: Mapping[str, tuple[float, ...]] = {
    "jpeg": (100, 90, 80, 70, 60, 50),
    "noise": (3, 7, 11, 15, 19, 23),
    "blur": (3, 7, 11, 15, 19, 23),
    "resize": (1.5, 1.25, 0.75, 0.5),
}
LABELS: Mapping[str, str] = {
    "jpeg": "JPEG quality",
    "noise": "variance of the noise",
    "blur": "kernel of the blur",
    "resize": "scale",
}


_KINDS: Mapping[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "jpeg": jpeg,
    "noise": noise,
    "blur": blur,
    "resize": resize,
}


def apply(example: Example, kind: str, level: float) -> Example:
    """Disturbs an example's image; its mask follows a change of size, to the nearest.

    Raises:
      UserError: if there is no such kind.
    """
    function = choose(kind, _KINDS, what="disturbance")
    changed = {"image": function(example["image"], level)}
    if kind == "resize" and "target_mask" in example:
        size = changed["image"].shape[:2]
        changed["target_mask"] = resize_to(example["target_mask"], size, "NEAREST")
    return example | changed


class Disturbed:
    """A source whose examples are disturbed as they are read."""

    def __init__(self, source: Source, kind: str, level: float):
        if not len(source):
            raise UserError("There is nothing to disturb: the source has no examples.")
        self.source, self.kind, self.level = source, kind, level

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        return apply(self.source[index], self.kind, self.level)
