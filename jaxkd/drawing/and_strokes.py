"""Control points of the word "and" in glyph units, y upwards, for many samples at once.

Samples of one form (the same letter shapes and joins) have the same number of points,
so their strokes are arrays over samples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

SAMPLES_PER_SPAN = 14

Values = Mapping[str, np.ndarray]
Points = list[tuple]


def forms(values: Values) -> np.ndarray:
    """Decides the discrete letter forms: boolean ``[n, 6]``.

    In turn: double-storey a, its entry stroke, printed stem of n, exit stroke of d, and
    the joins a-n and n-d. The a of print form has no entry stroke and is never joined.
    """
    printed = values["a_style"] > 0.78
    return np.stack(
        [
            printed,
            (values["a_entry"] > 0.12) & ~printed,
            values["n_stem"] > 0.3,
            values["d_exit"] > 0.02,
            (values["join_an"] > 0.5) & ~printed,
            values["join_nd"] > 0.5,
        ],
        axis=1,
    )


def strokes(values: Values, form: Sequence[bool]) -> list[np.ndarray]:
    """Draws the strokes of samples of one form.

    Args:
      values: parameter -> ``[n]``.
      form: a row of ``forms``.

    Returns:
      One array ``[n, points, 2]`` for each stroke, a pen lift between them.
    """
    printed, entry, stem, leave, join_an, join_nd = form
    lines = _a(values, printed, entry)
    n_at = 0.95 + 0.6 * values["spacing"]
    height = 1 + values["n_height"]
    width = 0.62 * (1 + values["n_width"])
    n_points = _n(values, n_at, height, width, stem)
    if join_an:
        lines[-1] += [(n_at - 0.12, 0.42 * height), *n_points]
    else:
        lines.append(n_points)
    n_end = n_at + width
    d_at = n_end + 0.30 + 0.6 * values["spacing"]
    d_points = _d(values, d_at, leave)
    if join_nd:
        lines[-1] += [(n_end + 0.14, 0.06), (d_at + 0.02, 0.52), *d_points[1:]]
    else:
        lines.append(d_points)
    count = len(values["spacing"])
    return [catmull_rom(_stack(line, count)) for line in lines]


def _bowl(roundness, gap, at=0.0, w: float = 0.72) -> Points:
    k = 0.12 * (roundness - 0.5)
    return [
        (at + w, 0.8 + 0.1 * gap),
        (at + 0.55 * w, 1 + 0.3 * k),
        (at + 0.06 - k, 0.62),
        (at + 0.10 - k, 0.25),
        (at + 0.45 * w, -0.02),
        (at + 0.85 * w, 0.28),
        (at + w + 0.02 - gap, 0.78),
    ]


def _a(values: Values, printed: bool, entry: bool) -> list[Points]:
    if printed:
        stem = [(0.12, 0.82), (0.38, 1), (0.66, 0.82), (0.68, 0.4), (0.68, 0.02)]
        bowl = [(0.66, 0.56), (0.35, 0.60), (0.08, 0.32)]
        return [stem, [*bowl, (0.28, -0.02), (0.6, 0.12), (0.68, 0.35)]]
    e = values["a_entry"]
    start = [(-0.25 - 0.5 * e, 0.25), (0.0, 0.6 + 0.2 * e), (0.42, 1.02)]
    end = [(0.75, 0.98), (0.77, 0.5), (0.80, 0.08), (0.92, 0.0)]
    bowl = _bowl(values["a_round"], values["a_close"])
    return [[*(start if entry else []), *bowl, *end]]


def _n(values: Values, x, height, width, stem: bool) -> Points:
    arch = values["n_arch"]
    printed = [(x, 0.98 * height), (x + 0.03, 0.5 * height), (x + 0.04, 0.0)]
    cursive = [
        (x - 0.05, 0.62 * height),
        (x + 0.02, 0.95 * height),
        (x + 0.05, 0.5 * height),
        (x + 0.05, 0.0),
    ]
    return [
        *(printed if stem else cursive),
        (x + 0.06, 0.45 * height),
        (x + width * (0.30 + 0.1 * arch), 0.98 * height),
        (x + width * (0.62 + 0.25 * arch), 0.92 * height),
        (x + width, 0.5 * height),
        (x + width + 0.02, 0.04),
    ]


def _d(values: Values, x, leave: bool) -> Points:
    top, loop, curl = (values[f"d_{name}"] for name in ("ascender", "loop", "curl"))
    e, angle = values["d_exit"], values["d_angle"]
    ascender = [
        (x + 0.76 + 0.04 * loop, 1.25),
        (x + 0.80 + 0.5 * loop, 0.82 * top),
        (x + 0.76 + 0.2 * loop - 0.5 * curl, top),
        (x + 0.72 - 0.2 * loop - 0.3 * curl, 0.86 * top),
        (x + 0.74, 0.9),
        (x + 0.76, 0.12),
    ]
    out = [(x + 0.84 + 0.2 * e, 0.1 * angle), (x + 0.9 + 0.7 * e, 0.02 + e * angle)]
    last = out if leave else [(x + 0.77, -0.05)]
    return [*_bowl(values["d_round"], 0.0, at=x), *ascender, *last]


def _stack(line: Points, count: int) -> np.ndarray:
    """Broadcasts control points of numbers and arrays to ``[count, points, 2]``."""
    columns = [
        np.stack([np.broadcast_to(x, count), np.broadcast_to(y, count)], axis=-1)
        for x, y in line
    ]
    return np.stack(columns, axis=1)


def catmull_rom(points: np.ndarray, samples: int = SAMPLES_PER_SPAN) -> np.ndarray:
    """Draws Catmull-Rom curves through points, with tension 1/2.

    Args:
      points: ``[n, points, 2]``, at least two.
      samples: of each span, its beginning included.

    Returns:
      ``[n, (points - 1) * samples + 1, 2]``, through every point. At both ends the
      curve leaves along the first and last span.
    """
    padded = np.concatenate([points[:, :1], points, points[:, -1:]], axis=1)
    before, start, end, after = (
        padded[:, i : padded.shape[1] - 3 + i, None] for i in range(4)
    )
    t = (np.arange(samples) / samples)[:, None]
    spans = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    curve = spans.reshape(len(points), -1, 2)
    return np.concatenate([curve, points[:, -1:]], axis=1)
