"""Hand-crafted descriptors of handwriting: pixels, HOG and GSC-style binary features.

They are the baselines that a learned encoder has to beat. Images are ink maps
``[n, height, width]``: 1 where there is ink and 0 on paper.
"""

import numpy as np

GRID = 4  # cells of the GSC-style features along each axis
INK = 0.5  # of the darkest value of an image: what counts as ink
EDGE = 0.5  # least Sobel magnitude of an edge, for ink in [0, 1]


def ink_of(images: np.ndarray) -> np.ndarray:
    """Converts uint8 ``[n, h, w, channels]``, dark on white, to ink maps."""
    grey = images.astype(np.float32).mean(axis=-1)
    return 1 - grey / 255


def hog(ink: np.ndarray, *, cell: int = 8) -> np.ndarray:
    """Computes histograms of oriented gradients, by scikit-image.

    Nine unsigned orientations, blocks of 2 x 2 cells, L2-Hys: 1764 values for 64 x 64
    pixels and cells of 8.

    Args:
      ink: ``[n, height, width]``.
      cell: side of a cell in pixels.

    Returns:
      float32 ``[n, features]``.

    Source: Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection",
    CVPR 2005.
    """
    from skimage.feature import hog as compute

    rows = [
        compute(
            image,
            orientations=9,
            pixels_per_cell=(cell, cell),
            cells_per_block=(2, 2),
            block_norm="L2-Hys",
        )
        for image in ink
    ]
    return np.asarray(rows, np.float32)


def gsc_style(ink: np.ndarray) -> np.ndarray:
    """Computes 512 bits in the layout of GSC: gradient, structure, concavity.

    Every image is cut into 4 x 4 cells with equal ink in each row and in each column of
    cells. A cell has 12 bits of gradient directions, 12 of small strokes and corners,
    and 8 of density, long strokes, bays and holes.

    The original extractor was never published; this is our own, of the same layout
    (192 + 192 + 128 bits), and is not expected to give its bits.

    Args:
      ink: ``[n, height, width]`` in [0, 1].

    Returns:
      Booleans ``[n, 512]``: 192 of gradients, 192 of structure, 128 of concavity.

    Source: the layout is that of Favata and Srikantan, "A multiple feature/resolution
    approach to handprinted digit and character recognition" (1996).
    """
    ink = np.asarray(ink, np.float32)
    black = ink > INK * np.maximum(ink.max(axis=(1, 2), keepdims=True), 1e-6)
    rows, columns = _cells(black.sum(2)), _cells(black.sum(1))
    counts = _Counter(rows, columns)
    edge, angle = _gradients(ink)
    return np.concatenate(
        [
            _gradient_bits(edge, angle, counts),
            _structure_bits(edge, angle, counts),
            _concavity_bits(black, counts),
        ],
        axis=-1,
    ).reshape(len(ink), -1)[:, _ORDER]


# Cells first, then 32 bits each -> gradients of all cells, structure, concavity.
_ORDER = np.concatenate(
    [
        np.arange(GRID**2 * 32).reshape(GRID**2, 32)[:, part].ravel()
        for part in (slice(0, 12), slice(12, 24), slice(24, 32))
    ]
)


def binary_similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Computes the correlation similarity of binary descriptors, in [0, 1].

    ``1/2 + (s11 s00 - s10 s01) / (2 sqrt((s10+s11)(s01+s00)(s11+s01)(s00+s10)))``,
    where ``s10`` counts bits set in the first alone. A constant descriptor correlates
    with nothing: 1/2.

    Args:
      a: booleans ``[..., bits]``.
      b: booleans ``[..., bits]``.

    Returns:
      float64 ``[...]``.

    Source: Zhang and Srihari, "Binary vector dissimilarity measures for handwriting
    identification" (2003).

    >>> bits = np.array([True, True, False, False])
    >>> float(binary_similarity(bits, bits)), float(binary_similarity(bits, ~bits))
    (1.0, 0.0)
    """
    a, b = np.asarray(a, bool), np.asarray(b, bool)
    s11, s10 = (a & b).sum(-1).astype(float), (a & ~b).sum(-1).astype(float)
    s01, s00 = (~a & b).sum(-1).astype(float), (~a & ~b).sum(-1).astype(float)
    scale = np.sqrt((s10 + s11) * (s01 + s00) * (s11 + s01) * (s00 + s10))
    safe = np.where(scale > 0, scale, 1)
    return 0.5 + np.where(scale > 0, (s11 * s00 - s10 * s01) / (2 * safe), 0)


class _Counter:
    """Counts marked pixels in every cell of every image: ``[n, 16, kinds]``."""

    def __init__(self, rows: np.ndarray, columns: np.ndarray):
        self.rows = rows.astype(np.float32)  # [n, height, 4], one-hot
        self.columns = columns.astype(np.float32)  # [n, width, 4]
        area = np.einsum("nhr,nwc->nrc", self.rows, self.columns)
        self.area = area.reshape(len(rows), -1, 1)

    def __call__(self, marks: list[np.ndarray]) -> np.ndarray:
        kinds = [
            np.swapaxes(self.rows, 1, 2) @ mark.astype(np.float32) @ self.columns
            for mark in marks
        ]
        return np.stack(kinds, axis=-1).reshape(len(self.rows), -1, len(marks))


def _cells(mass: np.ndarray) -> np.ndarray:
    """Cuts an axis ``[n, length]`` into cells of equal mass: one-hot ``[n, l, 4]``."""
    total = np.maximum(mass.sum(1, keepdims=True), 1)
    middle = (np.cumsum(mass, axis=1) - mass / 2) / total
    index = np.minimum((GRID * middle).astype(int), GRID - 1)
    return index[..., None] == np.arange(GRID)


def _gradients(ink: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes by Sobel where edges are, and their direction in [0, 1) of a turn."""
    p = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    smooth_rows = p[:, :-2] + 2 * p[:, 1:-1] + p[:, 2:]
    smooth_columns = p[:, :, :-2] + 2 * p[:, :, 1:-1] + p[:, :, 2:]
    dx = smooth_rows[:, :, 2:] - smooth_rows[:, :, :-2]
    dy = smooth_columns[:, 2:] - smooth_columns[:, :-2]
    return np.hypot(dx, dy) > EDGE, np.arctan2(dy, dx) / (2 * np.pi) % 1.0


def _gradient_bits(edge, angle, counts: _Counter) -> np.ndarray:
    """Marks directions, of 30 degrees each, with more than their share of edges."""
    direction = np.minimum((12 * angle).astype(int), 11)
    found = counts([edge & (direction == k) for k in range(12)])
    return found > found.sum(-1, keepdims=True) / 12


def _structure_bits(edge, angle, counts: _Counter) -> np.ndarray:
    """Marks eight directions of small strokes, and four corners.

    A stroke is an edge whose neighbours on both sides, along it, have its direction; a
    corner a square of 2 x 2 pixels with edges a quarter turn apart.
    """
    octant = np.where(edge, np.round(8 * angle).astype(int) % 8, -1)
    # The tangent of an edge is at right angles to its gradient.
    tangents = ((1, 0), (1, -1), (0, 1), (1, 1))
    marks = []
    for k in range(8):
        down, across = tangents[k % 4]
        same = octant == k
        marks.append(same & _shift(same, down, across) & _shift(same, -down, -across))
    for k in (0, 2, 4, 6):
        first, second = (_near(octant == i % 8) for i in (k, k + 2))
        marks.append(first & second)
    return counts(marks) >= 2


def _concavity_bits(black, counts: _Counter) -> np.ndarray:
    """Marks dense cells, long strokes along both axes, four bays and holes."""
    seen = {side: _blocked(black, *side) for side in ((1, 1), (1, -1), (2, 1), (2, -1))}
    up, down, left, right = (seen[side] for side in seen)
    paper = ~black
    bays = [
        paper & ~up & down & left & right,
        paper & up & ~down & left & right,
        paper & up & down & ~left & right,
        paper & up & down & left & ~right,
        paper & up & down & left & right,
    ]
    side = black.shape[1]
    long = [_run(black, axis) >= side / 10 for axis in (2, 1)]
    found = counts([black, *(black & run for run in long), *bays])
    density = found[..., :1] / np.maximum(counts.area, 1)
    mean = black.mean(axis=(1, 2))[:, None, None]
    return np.concatenate([density > 2 * mean, found[..., 1:] >= 2], axis=-1)


def _shift(mask: np.ndarray, down: int, across: int) -> np.ndarray:
    """Reads each pixel's neighbour ``(down, across)``; False beyond the border."""
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)))
    height, width = mask.shape[1:]
    return padded[:, 1 + down :, 1 + across :][:, :height, :width]


def _near(mask: np.ndarray) -> np.ndarray:
    """Marks pixels that are, or touch to the right and below, a marked one."""
    beside = mask | _shift(mask, 0, 1)
    return beside | _shift(beside, 1, 0)


def _blocked(black: np.ndarray, axis: int, step: int) -> np.ndarray:
    """Marks pixels with ink before them along an axis, counted from one end."""
    order = black[:, ::step] if axis == 1 else black[:, :, ::step]
    seen = np.maximum.accumulate(order, axis=axis)
    return seen[:, ::step] if axis == 1 else seen[:, :, ::step]


def _run(black: np.ndarray, axis: int) -> np.ndarray:
    """Computes the length of the run of ink that each pixel is in, along an axis."""
    moved = np.moveaxis(black, axis, -1)
    forward, backward = np.zeros(moved.shape, int), np.zeros(moved.shape, int)
    length = moved.shape[-1]
    for i in range(length):
        j = length - 1 - i
        before = forward[..., i - 1] if i else 0
        after = backward[..., j + 1] if i else 0
        forward[..., i] = np.where(moved[..., i], before + 1, 0)
        backward[..., j] = np.where(moved[..., j], after + 1, 0)
    return np.moveaxis(np.maximum(forward + backward - 1, 0), -1, axis)
