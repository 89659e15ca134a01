"""One hundred characters in sixteen fonts, drawn on demand: nothing to download.

Two ways to use it for distillation. A teacher is trained on the *pool*, 8,000 images by
default; a student either shares the pool or, with ``per_class``, owns few labelled
images, drawn anew for each training seed. Pool, students' images, test and validation
images are independent draws from one law (``glyph_images.LAWS``).
"""

import functools

import jax
import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Info, Source
from jaxkd.drawing.glyphs import CLASSES, LAWS, draw_images

POOL, TEST, FEW, VALIDATION = range(4)  # folded into the key, so never renumber
POOL_SIZE = 8_000
SHIFTED = 12  # classes whose labels labels="shifted" moves if nothing is said
# Of the pool's pixels in [0, 1]: equal for the three colours up to sampling error.
STATISTICS = {16: (0.499, 0.306), 32: (0.496, 0.316)}


def load(
    size: int = 16,
    train: int | None = None,
    test: int = 5_000,
    per_class: int | None = None,
    labels: str = "clean",
    shifted: int = SHIFTED,
    evaluate_on: str = "test",
    seed: int = 0,
) -> Dataset:
    """Makes the data set; training images are drawn when they are first asked for.

    Image ``i`` of a split has class ``i % 100`` and does not depend on how many there
    are, so a smaller split is the beginning of a larger one.

    Args:
      size: side of the images, 16 or 32.
      train: images in the pool, a multiple of 100; 8,000 if not given.
      test: images to evaluate on, a multiple of 100.
      per_class: if given, training seed ``s`` has its own ``100 * per_class`` images,
        independent of the pool and of the other seeds, instead of the pool.
      labels: ``"clean"``, or ``"shifted"``: training labels of the first ``shifted``
        classes are moved on, ``k -> (k + 1) mod shifted``, which makes a teacher that
        is confidently wrong about them. Test labels stay clean.
      shifted: see ``labels``, 2 to 100; of no effect on clean labels.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of the pool, test and validation images, and part of the students' seeds.

    Raises:
      UserError: if an option is out of its range, or two contradict each other.
    """
    lookup.choose(size, LAWS, what="size")
    splits = {"test": TEST, "validation": VALIDATION}
    held_out = lookup.choose(evaluate_on, splits, what="evaluate_on")
    moved = lookup.choose(labels, {"clean": False, "shifted": True}, what="labels")
    _check_counts(train, test, per_class, labels)
    if not 2 <= shifted <= len(CLASSES):
        raise UserError(
            f"shifted is {shifted}, expected 2 to {len(CLASSES)} classes; for none, "
            "leave labels at 'clean'."
        )

    def training_images(training_seed: int) -> Source:
        if per_class is not None:
            return ArraySource(_draw(size, 100 * per_class, seed, FEW, training_seed))
        arrays = _draw(size, train or POOL_SIZE, seed, POOL, 0)
        label = shift_labels(arrays["label"], shifted) if moved else arrays["label"]
        return ArraySource(arrays | {"label": label})

    mean, std = STATISTICS[size]
    name = f"glyph100-{size}"
    info = Info(name, len(CLASSES), (size, size, 3), (mean,) * 3, (std,) * 3, CLASSES)
    examples = ArraySource(_draw(size, test, seed, held_out, 0))
    return Dataset(info, training_images, examples)


def shift_labels(labels: np.ndarray, classes: int = SHIFTED) -> np.ndarray:
    """Moves the labels below ``classes`` on, ``k -> (k + 1) mod classes``."""
    return np.where(labels < classes, (labels + 1) % classes, labels).astype(np.int32)


def _check_counts(train, test, per_class, labels) -> None:
    for name, count in (("train", train), ("test", test)):
        if count is not None and (count <= 0 or count % len(CLASSES)):
            raise UserError(
                f"{name} is {count}, expected a positive multiple of {len(CLASSES)}: "
                "as many images of every class."
            )
    if per_class is None:
        return
    if per_class <= 0:
        raise UserError(f"per_class is {per_class}, expected at least 1.")
    if train is not None or labels != "clean":
        raise UserError(
            f"per_class={per_class} replaces the pool, so train ({train}) and labels "
            f"({labels!r}) have no effect: leave them out, or leave out per_class."
        )


@functools.lru_cache(maxsize=16)  # a run of several stages asks for the same images
def _draw(size: int, count: int, seed: int, split: int, training_seed: int):
    key = jax.random.key(seed, impl="threefry2x32")
    key = jax.random.fold_in(jax.random.fold_in(key, split), training_seed)
    labels = (np.arange(count) % len(CLASSES)).astype(np.int32)
    arrays = {"image": draw_images(key, labels, size), "label": labels}
    for array in arrays.values():
        array.setflags(write=False)
    return arrays
