"""The view of text lines: large and small images of the same line."""

import jax

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import degrade
from jaxkd.views.ops import View, normalize

LOW, ENLARGED = "low", "enlarged"


def text_line(
    info: Info, *, factor: int = 2, kernel: str = "bicubic_aa", jitter: float = 0.1
) -> View:
    """Makes ``image`` (normalised), ``low`` and ``enlarged``, of its size again.

    Where the data have a field ``low`` of their own (TextZoom), it is normalised
    instead of being made. Training images get a random brightness, the same for all.

    Args:
      info: of the data set.
      factor: of both sides between the large and the small image.
      kernel: that shrinks, see ``degrade``; enlarged bicubically.
      jitter: largest change of the normalised brightness.

    Raises:
      UserError: if the sides do not divide by the factor.
    """
    height, width = info.image_shape[:2]
    if factor < 1 or height % factor or width % factor:
        raise UserError(
            f"View 'text_line' got factor={factor} for lines of {height} x {width} "
            "pixels, expected a divisor of both."
        )

    def evaluate(batch: Batch) -> Batch:
        image = normalize(batch["image"], info)
        if LOW in batch:
            small = normalize(batch[LOW], info)
        else:
            small = degrade.resize(image, (height // factor, width // factor), kernel)
        enlarged = degrade.resize(small, (height, width), "bicubic_aa")
        return batch | {"image": image, LOW: small, ENLARGED: enlarged}

    def train(key: jax.Array, batch: Batch) -> Batch:
        batch = evaluate(batch)
        shape = (len(batch["image"]), 1, 1, 1)
        shift = jax.random.uniform(key, shape, minval=-jitter, maxval=jitter)
        return batch | {n: batch[n] + shift for n in ("image", LOW, ENLARGED)}

    return View(train, evaluate)
