"""Draws images of characters: the law they follow, and the jitted sampler.

Each image shows one character in a random font, pose and colour on a textured
background, with part of a second character intruding from an edge. The fonts ship
with matplotlib and are rendered once, by Pillow, into a bank of grey cells; the images
are warps of those cells, computed on the accelerator.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

CLASSES = tuple(
    "0123456789"
    "ABCDEFGHJKLMNPQRSTUVWXYZ"
    "abdefghijmnqrt"
    "ΓΔΘΛΞΠΣΦΨΩαβγδεζηθλμξπσφψω"
    "БДЖИЙЦЧШЩЫЬЭЮЯ"
    "&@#$%?+€£¥§¶"
)
FONTS = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Bold"),
    *("DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique"),
    *(
        "DejaVuSerif",
        "DejaVuSerif-Bold",
        "DejaVuSerif-Italic",
        "DejaVuSerif-BoldItalic",
    ),
    *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
)
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # (row, column) of a bilinear cell
CHUNK = 500  # images drawn at once: bounds the memory
SCALARS = 23  # uniform variables of one image


class Law(NamedTuple):
    """The distribution of images: ``(low, high)`` ranges of uniform variables.

    Characters are drawn on a grid of twice the image's side and averaged 2 x 2.

    Attributes:
      font_pixels: size of the font on the grid.
      rotation: degrees.
      scale: factor on the character's size.
      aspect: logarithm of the factor on width over height.
      shear: horizontal shift per unit of height.
      shift: of the character, in image pixels, along each axis.
      distance: of the intruding character from the centre, in image pixels.
      texture: standard deviation of the background's grey texture.
      contrast: between character and background, in [0, 1] colour units.
      tint: standard deviation of the character's colour around that contrast.
      blur: standard deviation of the Gaussian blur, in image pixels.
      noise: standard deviation of the pixel noise.
    """

    font_pixels: int
    rotation: tuple[float, float]
    scale: tuple[float, float]
    aspect: tuple[float, float]
    shear: tuple[float, float]
    shift: tuple[float, float]
    distance: tuple[float, float]
    texture: float
    contrast: tuple[float, float]
    tint: float
    blur: tuple[float, float]
    noise: tuple[float, float]


LAWS = {
    16: Law(
        font_pixels=23,
        rotation=(-8.0, 8.0),
        scale=(0.95, 1.25),
        aspect=(-0.15, 0.15),
        shear=(-0.1, 0.1),
        shift=(-0.75, 0.75),
        distance=(7.5, 10.0),
        texture=0.2,
        contrast=(0.40, 0.95),
        tint=0.15,
        blur=(0.0, 0.0),
        noise=(0.0, 0.06),
    ),
    32: Law(
        font_pixels=46,
        rotation=(-10.0, 10.0),
        scale=(0.95, 1.3),
        aspect=(-0.15, 0.15),
        shear=(-0.1, 0.1),
        shift=(-2.0, 2.0),
        distance=(15.0, 20.0),
        texture=0.2,
        contrast=(0.45, 0.95),
        tint=0.15,
        blur=(0.0, 0.5),
        noise=(0.0, 0.06),
    ),
}


@functools.cache
def glyph_bank(size: int) -> np.ndarray:
    """Draws every class in every font: uint8 ``[classes, fonts, cell, cell]``.

    Each is centred by the bounding box of its ink. Cells are a little larger than the
    grid, so that the widest characters keep an empty margin.
    """
    import matplotlib
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    cell, pixels = 2 * size + 4, LAWS[size].font_pixels
    fonts = [ImageFont.truetype(str(folder / f"{n}.ttf"), pixels) for n in FONTS]
    drawn = [[_draw_glyph(text, font, cell) for font in fonts] for text in CLASSES]
    return np.asarray(drawn)


def _draw_glyph(text, font, cell: int) -> np.ndarray:
    from PIL import Image, ImageDraw

    canvas = Image.new("L", (3 * cell, 3 * cell))
    ImageDraw.Draw(canvas).text((cell, cell), text, fill=255, font=font)
    ink = canvas.crop(canvas.getbbox())
    image = Image.new("L", (cell, cell))
    image.paste(ink, ((cell - ink.width) // 2, (cell - ink.height) // 2))
    return np.asarray(image)


def pack(bank: np.ndarray) -> np.ndarray:
    """Packs every pixel with its right, lower and lower right neighbours in 32 bits.

    Bilinear interpolation then takes one gather, the costly part on CPU, not four.
    """
    height, width = bank.shape[-2:]
    wide = np.pad(bank, ((0, 0), (0, 0), (0, 1), (0, 1))).astype(np.uint32)
    packed = np.zeros(bank.shape, np.uint32)
    for place, (row, column) in enumerate(CORNERS):
        packed |= wide[..., row:, column:][..., :height, :width] << (8 * place)
    return packed


def draw_images(key: jax.Array, labels: np.ndarray, size: int) -> np.ndarray:
    """Draws one image per label; image ``i`` depends on the key, its label and ``i``.

    Args:
      key: random key.
      labels: ``[n]`` class numbers.
      size: side of the images, a key of ``LAWS``.

    Returns:
      uint8 ``[n, size, size, 3]``.
    """
    bank = jnp.asarray(pack(glyph_bank(size)))
    count, chunks = len(labels), -(-len(labels) // CHUNK)
    padded = np.resize(labels, chunks * CHUNK).astype(np.int32)
    places = np.arange(chunks * CHUNK, dtype=np.uint32)
    drawn = [
        np.asarray(_draw_chunk(key, bank, padded[part], places[part], LAWS[size]))
        for part in np.split(np.arange(chunks * CHUNK), chunks)
    ]
    return np.concatenate(drawn)[:count]


@functools.partial(jax.jit, static_argnames="law")
def _draw_chunk(key, bank, labels, places, law: Law) -> jax.Array:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return jax.vmap(lambda key, label: _draw_image(key, bank, label, law))(keys, labels)


def _draw_image(key, bank, label, law: Law) -> jax.Array:
    """Draws one image: background, intruding character, character, blur, noise."""
    size = (bank.shape[-1] - 4) // 2
    # Two calls for all variables: every call of the generator costs compile time.
    scalar_key, normal_key = jax.random.split(key)
    scalars = iter(jax.random.uniform(scalar_key, (SCALARS,), jnp.float32))
    normals = jax.random.normal(normal_key, (22 + 3 * size**2,), jnp.float32)
    background = jnp.stack([next(scalars) for _ in range(3)])
    texture = jax.image.resize(normals[:16].reshape(4, 4), (size, size), "linear")
    image = background + law.texture * texture[..., None]

    other = (next(scalars) * len(CLASSES)).astype(jnp.int32)
    centre = _intrusion(scalars, law)
    side = jnp.where(next(scalars) < 0.5, -1.0, 1.0)
    mask = _mask(bank, other, centre, scalars, law)
    image = _paint(image, mask, background, side, scalars, normals[16:19], law)

    centre = [_between(next(scalars), *law.shift) for _ in range(2)]
    side = jnp.where(background.mean() > 0.5, -1.0, 1.0)
    mask = _mask(bank, label, centre, scalars, law)
    image = _paint(image, mask, background, side, scalars, normals[19:22], law)

    if law.blur[1] > 0:
        image = _blur(image, _between(next(scalars), *law.blur))
    deviation = _between(next(scalars), *law.noise)
    image = image + deviation * normals[22:].reshape(image.shape)
    return jnp.round(255 * jnp.clip(image, 0, 1)).astype(jnp.uint8)


def _between(uniform, low: float, high: float):
    return low + (high - low) * uniform


def _intrusion(scalars: Iterator, law: Law):
    """Draws the centre ``(across, down)`` of the intruding character."""
    angle = _between(next(scalars), 0.0, 2 * jnp.pi)
    distance = _between(next(scalars), *law.distance)
    return distance * jnp.cos(angle), distance * jnp.sin(angle)


def _mask(bank, label, centre, scalars: Iterator, law: Law) -> jax.Array:
    """Returns the coverage ``[size, size]`` of a character centred at ``centre``."""
    fonts, cell = bank.shape[1:3]
    font = (next(scalars) * fonts).astype(jnp.int32)
    (xx, xy), (yx, yy) = _inverse_pose(scalars, law)
    grid = jnp.arange(cell - 4, dtype=jnp.float32) - (cell - 5) / 2
    across, down = grid[None, :] - 2 * centre[0], grid[:, None] - 2 * centre[1]
    # Clipping is exact: the margins of every cell are empty.
    top, middle = cell - 1.001, (cell - 1) / 2
    column = jnp.clip(xx * across + xy * down + middle, 0, top)
    row = jnp.clip(yx * across + yy * down + middle, 0, top)
    column_index, row_index = column.astype(jnp.int32), row.astype(jnp.int32)
    start = (label * fonts + font) * cell * cell
    packed = bank.reshape(-1)[start + row_index * cell + column_index]
    corners = [(packed >> (8 * place) & 255).astype(jnp.float32) for place in range(4)]
    right, lower = column - column_index, row - row_index
    above = corners[0] + right * (corners[1] - corners[0])
    below = corners[2] + right * (corners[3] - corners[2])
    fine = (above + lower * (below - above)) / 255
    half = (cell - 4) // 2
    return fine.reshape(half, 2, half, 2).mean((1, 3))


def _inverse_pose(scalars: Iterator, law: Law):
    """Draws rotation, shear, aspect and scale: the 2 x 2 map from grid to cell."""
    angle = jnp.deg2rad(_between(next(scalars), *law.rotation))
    scale = _between(next(scalars), *law.scale)
    stretch = jnp.exp(_between(next(scalars), *law.aspect) / 2)
    shear = _between(next(scalars), *law.shear)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x_row = jnp.stack([cos + shear * sin, sin - shear * cos]) / (scale * stretch)
    y_row = jnp.stack([-sin, cos]) / (scale / stretch)
    return x_row, y_row


def _paint(image, mask, background, side, scalars, normals, law: Law) -> jax.Array:
    """Covers ``image`` where ``mask`` is 1 with a colour off the background's."""
    contrast = side * _between(next(scalars), *law.contrast)
    colour = jnp.clip(background + contrast + law.tint * normals, 0, 1)
    return image + mask[..., None] * (colour - image)


def _blur(image: jax.Array, sigma) -> jax.Array:
    """Blurs by a Gaussian with five taps along each axis; edges are replicated."""
    taps = jnp.arange(-2.0, 3.0, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * (taps / jnp.maximum(sigma, 1e-3)) ** 2)
    weights = weights / weights.sum()
    size = image.shape[0]
    padded = jnp.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    rows = sum(w * padded[i : i + size] for i, w in enumerate(weights))
    return sum(w * rows[:, i : i + size] for i, w in enumerate(weights))
