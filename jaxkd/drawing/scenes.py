"""Draws scenes of one or two coloured shapes, with captions and exact masks.

Every edit of a scene and every contradiction of a caption has an exact answer: the
scene is drawn again with other attributes, and the mask of each object is known.
``read`` finds the attributes in an image again, without knowing the scene.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from jaxkd.core.errors import UserError

SIDE = 32  # pixels
SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.10, 0.70, 0.20),
    "blue": (0.12, 0.25, 0.92),
    "yellow": (0.96, 0.86, 0.10),
}
BACKGROUNDS = {
    "white": (0.96, 0.96, 0.96),
    "black": (0.04, 0.04, 0.04),
    "gray": (0.50, 0.50, 0.50),
}
COLOUR_NAMES, BACKGROUND_NAMES = tuple(COLOURS), tuple(BACKGROUNDS)
# Shape and colour that never meet where ``held_out`` combinations are left out.
HELD_OUT = (("triangle", "yellow"),)

START, END = "<start>", "<end>"
WORDS = (
    *(START, END, "a", "left", "of", "on", "background"),
    *SHAPES,
    *COLOUR_NAMES,
    *BACKGROUND_NAMES,
)
LENGTH = 13  # tokens: the longest caption, a start and an end
SPECIAL = -1

_SUPERSAMPLE = 2
_MIN_AREA = 16  # pixels, below which an object counts as absent
_SQUARE = 0.88  # half the side of a square, in units of the radius
_BASE = 0.8  # where a triangle ends, in units of the radius below its centre


@dataclasses.dataclass(frozen=True)
class Scenes:
    """A batch of scenes; index 0 is the left object, 1 the right one.

    Attributes:
      shape: ``[n, 2]``, places in ``SHAPES``.
      colour: ``[n, 2]``, places in ``COLOUR_NAMES``.
      background: ``[n]``, places in ``BACKGROUND_NAMES``.
      present: ``[n, 2]``, whether there is such an object.
      x: ``[n, 2]``, centres in pixels from the left.
      y: ``[n, 2]``, centres in pixels from the top.
      radius: ``[n, 2]``, in pixels.
    """

    shape: np.ndarray
    colour: np.ndarray
    background: np.ndarray
    present: np.ndarray
    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray

    def __len__(self) -> int:
        return len(self.background)

    def take(self, rows: np.ndarray | Sequence[int]) -> "Scenes":
        """Returns some of the scenes."""
        fields = (getattr(self, field.name) for field in dataclasses.fields(self))
        return Scenes(*(np.asarray(field)[rows] for field in fields))

    def change(self, **fields: np.ndarray) -> "Scenes":
        """Returns the scenes with other attributes, at the same places."""
        arrays = {name: np.asarray(value) for name, value in fields.items()}
        return dataclasses.replace(self, **arrays)


def draw_scenes(
    rng: np.random.Generator,
    count: int,
    *,
    single: float = 0.0,
    held_out: bool = False,
) -> Scenes:
    """Draws random scenes.

    Args:
      rng: source of randomness.
      count: of scenes.
      single: share of the scenes that have the left object alone.
      held_out: whether to leave out the combinations ``HELD_OUT``.
    """
    shape = rng.integers(len(SHAPES), size=(count, 2))
    colour = rng.integers(len(COLOURS), size=(count, 2))
    if held_out:
        for name, tint in HELD_OUT:
            clash = (shape == SHAPES.index(name)) & (colour == COLOUR_NAMES.index(tint))
            others = rng.integers(len(COLOURS) - 1, size=(count, 2))
            others += others >= COLOUR_NAMES.index(tint)
            colour = np.where(clash, others, colour)
    left = rng.uniform(7.0, 9.5, size=(count, 1))
    right = rng.uniform(7.0, 9.5, size=(count, 1)) + SIDE / 2
    present = np.ones((count, 2), bool)
    present[:, 1] = rng.uniform(size=count) >= single
    return Scenes(
        shape,
        colour,
        rng.integers(len(BACKGROUNDS), size=count),
        present,
        np.concatenate([left, right], axis=1),
        rng.uniform(10.0, 22.0, size=(count, 2)),
        rng.uniform(5.0, 6.5, size=(count, 2)),
    )


def draw(scenes: Scenes) -> tuple[np.ndarray, np.ndarray]:
    """Draws images ``[n, 32, 32, 3]`` in [0, 1] and masks ``[n, 2, 32, 32]``.

    A mask is the covered part of each pixel, zero for an object that is absent. Both
    are float32, averaged over 2 x 2 points a pixel.
    """
    masks = np.stack([_coverage(scenes, i) for i in range(2)], axis=1)
    masks *= scenes.present[:, :, None, None]
    tints = np.array(list(COLOURS.values()), np.float32)[scenes.colour]
    grounds = np.array(list(BACKGROUNDS.values()), np.float32)[scenes.background]
    images = np.broadcast_to(
        grounds[:, None, None], (len(scenes), SIDE, SIDE, 3)
    ).astype(np.float32)
    for i in range(2):  # the objects never touch
        alpha = masks[:, i, :, :, None]
        images = (1 - alpha) * images + alpha * tints[:, i, None, None]
    return images, masks


def captions(scenes: Scenes) -> list[str]:
    """Describes scenes, such as "a red circle left of a blue square on white
    background"; one object as "a red circle on white background".
    """
    texts = []
    for i in range(len(scenes)):
        words = [
            f"a {COLOUR_NAMES[scenes.colour[i, j]]} {SHAPES[scenes.shape[i, j]]}"
            for j in range(2)
            if scenes.present[i, j]
        ]
        ground = BACKGROUND_NAMES[scenes.background[i]]
        texts.append(f"{' left of '.join(words)} on {ground} background")
    return texts


class Tokenizer:
    """Turns captions of scenes into token numbers, one a word, as CLIP's would.

    Attributes:
      length: tokens of a row, with the start and the end.
    """

    length = LENGTH

    def encode(self, prompts: str | Sequence[str]) -> np.ndarray:
        """Returns token numbers ``[batch, length]``, int32; an empty one is allowed.

        Raises:
          UserError: for a word that is not in ``WORDS``, or too many.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        rows = np.full((len(prompts), LENGTH), WORDS.index(END), np.int32)
        for row, prompt in zip(rows, prompts, strict=True):
            words = prompt.lower().split()
            self._check(prompt, words)
            row[: len(words) + 1] = [WORDS.index(word) for word in (START, *words)]
        return rows

    def words(self, prompt: str) -> np.ndarray:
        """Returns for each token the number of its word; ``SPECIAL`` for the others."""
        count = len(prompt.split())
        found = np.full(LENGTH, SPECIAL, np.int32)
        found[1 : count + 1] = np.arange(count)
        return found

    def _check(self, prompt: str, words: list[str]) -> None:
        unknown = sorted({word for word in words if word not in WORDS[2:]})
        if unknown or len(words) > LENGTH - 2:
            raise UserError(
                f"The caption {prompt!r} has {len(words)} words; not known to the "
                f"scene model: {unknown}. Expected at most {LENGTH - 2} of "
                f"{', '.join(WORDS[2:])}."
            )


class Reading(NamedTuple):
    """The attributes found in images; -1 where nothing is found.

    Attributes:
      shape: ``[n, 2]``, places in ``SHAPES``.
      colour: ``[n, 2]``, places in ``COLOUR_NAMES``.
      background: ``[n]``, places in ``BACKGROUND_NAMES``.
      present: ``[n, 2]``, whether there is an object in the left and the right half.
    """

    shape: np.ndarray
    colour: np.ndarray
    background: np.ndarray
    present: np.ndarray


def read(images: np.ndarray) -> Reading:
    """Reads the attributes of scenes off images ``[n, 32, 32, 3]`` in [0, 1].

    Pixels take the nearest colour of the palette; the background is the commonest one
    at the border, an object the largest connected part of one other colour in its half,
    and its shape the template of the same bounding box that overlaps it best.
    """
    palette = np.array([*COLOURS.values(), *BACKGROUNDS.values()])
    distance = np.sum((np.asarray(images)[..., None, :] - palette) ** 2, axis=-1)
    labels = np.argmin(distance, axis=-1)
    rows = [_read_one(one) for one in labels]
    shape, colour, ground = (np.array(part) for part in zip(*rows, strict=True))
    return Reading(shape, colour, ground, colour >= 0)


def attributes_match(reading: Reading, scenes: Scenes) -> dict[str, np.ndarray]:
    """Compares what was read with what should be there.

    Returns:
      "background" ``[n]``, and "shape", "colour", "present" ``[n, 2]``, bool. Shape and
      colour of an object that should be absent match if it is absent.
    """
    gone = ~scenes.present & ~reading.present
    return {
        "background": reading.background == scenes.background,
        "present": reading.present == scenes.present,
        "shape": np.where(scenes.present, reading.shape == scenes.shape, gone),
        "colour": np.where(scenes.present, reading.colour == scenes.colour, gone),
    }


def _coverage(scenes: Scenes, i: int) -> np.ndarray:
    """Returns the covered part of each pixel ``[n, 32, 32]``."""
    fine = SIDE * _SUPERSAMPLE
    points = (np.arange(fine, dtype=np.float32) + 0.5) / _SUPERSAMPLE
    u = points[None, None, :] - scenes.x[:, i, None, None].astype(np.float32)
    v = points[None, :, None] - scenes.y[:, i, None, None].astype(np.float32)
    radius = scenes.radius[:, i, None, None].astype(np.float32)
    inside = _inside(scenes.shape[:, i, None, None], u / radius, v / radius)
    cells = inside.reshape(-1, SIDE, _SUPERSAMPLE, SIDE, _SUPERSAMPLE)
    return cells.mean(axis=(2, 4), dtype=np.float32)


def _inside(shape: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    circle = u**2 + v**2 <= 1
    square = np.maximum(np.abs(u), np.abs(v)) <= _SQUARE
    triangle = (v <= _BASE) & (np.abs(u) <= (v + 1) / (1 + _BASE))
    return np.where(shape == 0, circle, np.where(shape == 1, square, triangle))


def _read_one(labels: np.ndarray) -> tuple[list[int], list[int], int]:
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    counts = np.bincount(border, minlength=len(COLOURS) + len(BACKGROUNDS))
    ground = int(np.argmax(counts[len(COLOURS) :]))
    shapes, colours = [], []
    for half in (labels[:, : SIDE // 2], labels[:, SIDE // 2 :]):
        part, colour = _largest_part(half)
        found = part.sum() >= _MIN_AREA
        colours.append(colour if found else -1)
        shapes.append(_best_shape(part) if found else -1)
    return shapes, colours, ground


def _largest_part(labels: np.ndarray) -> tuple[np.ndarray, int]:
    best, best_colour = np.zeros(labels.shape, bool), -1
    for colour in range(len(COLOURS)):
        parts, count = ndimage.label(labels == colour)
        for k in range(1, count + 1):
            if np.sum(parts == k) > best.sum():
                best, best_colour = parts == k, colour
    return best, best_colour


def _best_shape(part: np.ndarray) -> int:
    rows, columns = np.nonzero(part)
    top, bottom = rows.min(), rows.max() + 1.0
    left, right = columns.min(), columns.max() + 1.0
    half_height, half_width = (bottom - top) / 2, (right - left) / 2
    v = np.arange(part.shape[0])[:, None] + 0.5 - (top + bottom) / 2
    u = np.arange(part.shape[1])[None, :] + 0.5 - (left + right) / 2
    u, v = u / half_width, v / half_height  # the bounding box is [-1, 1] squared
    # In the units of each template its bounding box is as high and wide.
    circle, square = (1.0, 1.0, 0.0), (_SQUARE, _SQUARE, 0.0)
    boxes = (circle, square, (1.0, (1 + _BASE) / 2, (_BASE - 1) / 2))
    overlaps = []
    for k, (wide, high, shift) in enumerate(boxes):
        template = _inside(np.array(k), u * wide, v * high + shift)
        overlaps.append(np.sum(template & part) / np.sum(template | part))
    return int(np.argmax(overlaps))
