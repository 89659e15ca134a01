"""Draws procedural writers: the word "and" in many hands, with known parameters.

A writer is 24 numbers (slant, size, letter forms, joins, pen ...), drawn from
``PARAMETERS``. A sample varies them within the writer, lays Catmull-Rom strokes through
the letters' control points and covers the pixels by their distance to the pen's path.
The numbers are kept: they are gold attributes that no scan of real writing has.

Coordinates are glyph units with y upwards; the x-height is 1 and ascenders reach 2.
"""

from typing import NamedTuple

import numpy as np

from jaxkd.drawing import and_strokes

SIDE = 64  # pixels for which pen widths and sizes are stated
WORD_PIXELS = 50.0  # length of an average word ...
WORD_UNITS = 3.6  # ... and the same in glyph units
LONGEST_PIXELS = 58.0
CHUNK = 64  # images rasterised at once: bounds the memory
KNOTS = 80  # of the tremor of one sample, one per POINTS_PER_KNOT points
POINTS_PER_KNOT = 10


class Parameter(NamedTuple):
    """The distribution of one number over writers: a clipped normal one."""

    mean: float
    std: float
    low: float
    high: float


PARAMETERS: dict[str, Parameter] = {
    "slant": Parameter(6.0, 11.0, -25.0, 35.0),  # degrees, to the right
    "aspect": Parameter(0.0, 0.14, -0.4, 0.4),  # logarithm of width over height
    "size": Parameter(0.0, 0.10, -0.3, 0.3),  # logarithm
    "tilt": Parameter(0.0, 2.5, -8.0, 8.0),  # degrees of the baseline
    "spacing": Parameter(0.12, 0.10, -0.1, 0.45),  # between letters
    "pen": Parameter(1.25, 0.32, 0.7, 2.2),  # width in pixels of 64
    "pressure": Parameter(0.0, 0.22, -0.5, 0.5),  # down-strokes wider than up-strokes
    "a_round": Parameter(0.5, 0.22, 0.0, 1.0),
    "a_close": Parameter(0.0, 0.13, -0.3, 0.4),  # gap at the bowl's top
    "a_entry": Parameter(0.15, 0.25, 0.0, 0.8),  # entry stroke, drawn above .12
    "a_style": Parameter(0.35, 0.30, 0.0, 1.2),  # double-storey above .78
    "n_arch": Parameter(0.45, 0.25, 0.0, 1.2),
    "n_height": Parameter(0.0, 0.10, -0.25, 0.3),
    "n_width": Parameter(0.0, 0.13, -0.3, 0.4),
    "n_stem": Parameter(0.5, 0.30, 0.0, 1.2),  # printed stem above .3
    "d_ascender": Parameter(2.0, 0.25, 1.4, 2.7),
    "d_loop": Parameter(0.12, 0.18, 0.0, 0.6),
    "d_curl": Parameter(0.0, 0.22, -0.5, 0.6),
    "d_exit": Parameter(0.25, 0.22, 0.0, 0.9),  # drawn above .02
    "d_angle": Parameter(0.15, 0.35, -0.8, 1.0),
    "d_round": Parameter(0.5, 0.22, 0.0, 1.0),
    "tremor": Parameter(0.012, 0.010, 0.0, 0.05),
    "join_an": Parameter(0.55, 0.35, -0.5, 1.5),  # pen lift up to .5
    "join_nd": Parameter(0.5, 0.35, -0.5, 1.5),
}


class HandwritingSamples(NamedTuple):
    """Drawn words and what they were drawn from.

    Attributes:
      image: uint8 ``[n, side, side, 1]``, dark ink on white paper.
      writer: int32 ``[n]``, numbers of the writers.
      writer_parameters: float32 ``[writers, 24]``, in the order of ``PARAMETERS``; of
        writer ``writer[0]`` first.
      sample_parameters: float32 ``[n, 24]``: as each sample was drawn.
    """

    image: np.ndarray
    writer: np.ndarray
    writer_parameters: np.ndarray
    sample_parameters: np.ndarray


def draw_writers(
    writers: int,
    samples: int,
    *,
    side: int = SIDE,
    intra: float = 0.5,
    inter: float = 1.0,
    first: int = 0,
    seed: int = 0,
) -> HandwritingSamples:
    """Draws ``samples`` words of each of ``writers`` writers.

    Writer ``w`` and its samples depend on ``seed`` and ``w`` alone, so that writers can
    be drawn in parts, and more samples begin with the same ones.

    Args:
      writers: how many.
      samples: words of each.
      side: of the square images in pixels; pen and size scale with it.
      intra: variation within a writer, in standard deviations between writers: .35 is
        easy, .5 the default, .8 hard.
      inter: scales the standard deviations between writers.
      first: number of the first writer.
      seed: of everything.

    Returns:
      The images, writer by writer.

    Raises:
      ValueError: if a count is not positive or a spread is negative.
    """
    if min(writers, samples, side) < 1 or min(intra, inter) < 0 or first < 0:
        raise ValueError(
            f"writers={writers}, samples={samples}, side={side}, intra={intra}, "
            f"inter={inter}, first={first}: expected positive counts and spreads and a "
            "first writer of at least 0."
        )
    mean, std, low, high = np.array(list(PARAMETERS.values())).T
    std = inter * std
    hands, words, chance = [], [], []
    for writer in range(first, first + writers):
        rng = np.random.default_rng([seed, writer])
        hand = np.clip(mean + std * rng.standard_normal(len(mean)), low, high)
        draws = [_draw(rng, side) for _ in range(samples)]
        chance += draws
        hands.append(hand)
        within = intra * std * np.array([one.parameters for one in draws])
        words.append(np.clip(hand + within, low, high))
    parameters = np.concatenate(words)
    images = [
        _render(parameters[start : start + CHUNK], chance[start : start + CHUNK], side)
        for start in range(0, len(parameters), CHUNK)
    ]
    return HandwritingSamples(
        np.concatenate(images)[..., None],
        np.repeat(np.arange(first, first + writers, dtype=np.int32), samples),
        np.array(hands, np.float32),
        parameters.astype(np.float32),
    )


class _Chance(NamedTuple):
    """Standard random numbers of one sample."""

    parameters: np.ndarray  # normal [24]
    tremor: np.ndarray  # normal [KNOTS, 2]
    shift: np.ndarray  # uniform in [-1, 1], [2]
    gain: float  # uniform in [0, 1]
    noise: np.ndarray  # normal [side, side]


def _draw(rng: np.random.Generator, side: int) -> _Chance:
    return _Chance(
        rng.standard_normal(len(PARAMETERS)),
        rng.standard_normal((KNOTS, 2)),
        rng.uniform(-1, 1, 2),
        float(rng.uniform()),
        rng.standard_normal((side, side), np.float32),
    )


def _render(parameters: np.ndarray, chance: list[_Chance], side: int) -> np.ndarray:
    """Draws uint8 ``[n, side, side]`` of the samples' parameters ``[n, 24]``."""
    named = dict(zip(PARAMETERS, parameters.T, strict=True))
    forms = and_strokes.forms(named)
    ink = np.zeros((len(parameters), side, side), np.float32)
    for form in np.unique(forms, axis=0):
        rows = np.flatnonzero((forms == form).all(axis=1))
        part = {name: values[rows] for name, values in named.items()}
        points, lengths = _with_tremor(
            and_strokes.strokes(part, form),
            part,
            np.array([chance[r].tremor for r in rows]),
        )
        shift = 1.5 * np.array([chance[row].shift for row in rows])
        pixels = _place(points, part, shift) * (side / SIDE)
        ink[rows] = _cover(pixels, lengths, part, side)
    gain = np.array([0.8 + 0.2 * one.gain for one in chance], np.float32)
    noise = np.array([one.noise for one in chance])
    paper = 1 - gain[:, None, None] * ink + 0.02 * noise
    return np.round(255 * np.clip(paper, 0, 1)).astype(np.uint8)


def _with_tremor(strokes, part, normals) -> tuple[np.ndarray, list[int]]:
    """Joins the strokes' points ``[n, points, 2]`` and lets the hand tremble.

    Returns the points of all strokes, and how many each stroke has.
    """
    lengths = [stroke.shape[1] for stroke in strokes]
    points = np.concatenate(strokes, axis=1)
    at = np.arange(points.shape[1]) / POINTS_PER_KNOT
    left = at.astype(int)
    share = (at - left)[:, None]
    smooth = (1 - share) * normals[:, left] + share * normals[:, left + 1]
    return points + part["tremor"][:, None, None] * smooth, lengths


def _place(points: np.ndarray, part, shift: np.ndarray) -> np.ndarray:
    """Maps glyph units to pixels of a 64-pixel image, y downwards."""
    slant, tilt = (np.deg2rad(part[name])[:, None] for name in ("slant", "tilt"))
    x = points[..., 0] * np.exp(part["aspect"])[:, None]
    y = points[..., 1]
    x = x + np.tan(slant) * y
    x, y = (
        np.cos(tilt) * x - np.sin(tilt) * y,
        np.sin(tilt) * x + np.cos(tilt) * y,
    )
    word = np.stack([x, y], axis=-1)
    low, high = word.min(axis=1), word.max(axis=1)
    scale = WORD_PIXELS / WORD_UNITS * np.exp(part["size"])
    scale = np.minimum(scale, LONGEST_PIXELS / (high - low).max(axis=1))
    centred = (word - (low + high)[:, None] / 2) * scale[:, None, None]
    return SIDE / 2 + centred * (1, -1) + shift[:, None]


def _cover(pixels: np.ndarray, lengths: list[int], part, side: int) -> np.ndarray:
    """Computes how far the pen covers each pixel: ``[n, side, side]`` in [0, 1].

    A pixel is covered by ``radius + 1/2 - distance`` of its centre to the nearest
    piece of the path, clipped: round caps, and edges one pixel wide.
    """
    ends = np.cumsum(lengths)
    starts = np.setdiff1d(np.arange(pixels.shape[1] - 1), ends - 1)  # no pen lifts
    a, b = pixels[:, starts], pixels[:, starts + 1]
    step = b - a
    length = np.linalg.norm(step, axis=-1)
    down = step[..., 1] / np.maximum(length, 1e-9)  # of image rows
    width = part["pen"][:, None] * (1 + part["pressure"][:, None] * down)
    radius = np.maximum(width, 0.4) / 2 * (side / SIDE)
    middle = np.floor((a + b) / 2).astype(int)
    reach = int(np.ceil((length / 2 + radius).max() + 1))
    offsets = np.arange(-reach, reach + 1)
    grid = np.stack(np.meshgrid(offsets, offsets), axis=-1).reshape(-1, 2)
    cells = middle[:, :, None] + grid  # [n, pieces, cells, (x, y)]
    away = (cells + 0.5 - a[:, :, None]).astype(np.float32)
    along = step[:, :, None].astype(np.float32)
    square = np.maximum(length**2, 1e-9).astype(np.float32)[..., None]
    share = np.clip((away * along).sum(-1) / square, 0, 1)
    distance = np.linalg.norm(away - share[..., None] * along, axis=-1)
    covered = np.clip(radius[..., None] + 0.5 - distance, 0, 1)
    inside = ((cells >= 0) & (cells < side)).all(axis=-1) & (covered > 0)
    ink = np.zeros((len(pixels), side, side), np.float32)
    image = np.nonzero(inside)[0]
    x, y = cells[inside].T
    np.maximum.at(ink, (image, y, x), covered[inside].astype(np.float32))
    return ink
