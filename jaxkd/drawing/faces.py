"""Draws faces: the law they follow, and the jitted sampler.

An identity is a row of numbers: the shape of the face, its eyes, brows, nose and mouth,
the tones of skin and hair, two freckles. An image shows it in a random pose, light and
expression. Everything is made of ellipses and quadratic strokes whose edges are
blended by their distance to the pixel's centre, so nothing has to be downloaded and
the sides of the image are free.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.drawing import shapes

IDENTITY = 16  # numbers of an identity, see _features
CHUNK = 100  # images drawn at once: bounds the memory
UNIFORMS = 20  # uniform variables of one image


class Law(NamedTuple):
    """The distribution of images. Lengths are in half sides of the image.

    Attributes:
      spread: factor on the differences between identities.
      rotation: degrees, either way.
      shear: of the pose, either way: horizontal shift per unit of height.
      turn: how far the inner parts shift sideways as the head turns, either way.
      shift: of the whole face along each axis, either way.
      zoom: logarithm of the factor on the size, either way.
      light: largest difference in brightness from the middle to an edge.
      exposure: logarithm of the factor on the brightness, either way.
      expression: of the mouth's bend and the eyes' opening, either way.
      blur: largest standard deviation of the Gaussian blur, for a side of 64 pixels.
      noise: largest standard deviation of the pixel noise.
    """

    spread: float = 1.0
    rotation: float = 7.0
    shear: float = 0.08
    turn: float = 0.08
    shift: float = 0.06
    zoom: float = 0.07
    light: float = 0.25
    exposure: float = 0.2
    expression: float = 1.0
    blur: float = 1.0
    noise: float = 0.06


def draw_identities(key: jax.Array, first: int, count: int) -> np.ndarray:
    """Draws identities; each depends on the key and its number alone.

    Args:
      key: random key.
      first: number of the first identity.
      count: how many.

    Returns:
      float32 ``[count, IDENTITY]``, uniform in (-1, 1).
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(count))
    draw = functools.partial(
        jax.random.uniform, shape=(IDENTITY,), dtype=jnp.float32, minval=-1, maxval=1
    )
    return np.asarray(jax.vmap(draw)(keys))


def draw_images(
    key: jax.Array, identities: np.ndarray, size: int, law: Law
) -> np.ndarray:
    """Draws one image per row; image ``i`` depends on the key, its row and ``i``.

    Args:
      key: random key.
      identities: ``[n, IDENTITY]``.
      size: side of the images.
      law: how they vary.

    Returns:
      uint8 ``[n, size, size, 3]``.
    """
    count, chunks = len(identities), -(-len(identities) // CHUNK)
    rows = np.resize(np.asarray(identities, np.float32), (chunks * CHUNK, IDENTITY))
    places = np.arange(chunks * CHUNK, dtype=np.uint32)
    drawn = [
        np.asarray(_draw_chunk(key, rows[part], places[part], size, law))
        for part in np.split(np.arange(chunks * CHUNK), chunks)
    ]
    return np.concatenate(drawn)[:count]


@functools.partial(jax.jit, static_argnames=("size", "law"))
def _draw_chunk(key, rows, places, size: int, law: Law) -> jax.Array:
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    return jax.vmap(lambda key, row: _draw_image(key, row, size, law))(keys, rows)


def _draw_image(key, row, size: int, law: Law) -> jax.Array:
    """Draws one image: pose, face, light, blur, noise."""
    uniform_key, noise_key = jax.random.split(key)
    draws = iter(jax.random.uniform(uniform_key, (UNIFORMS,), jnp.float32, -1, 1))
    pixel = 2 / size
    grid = (jnp.arange(size, dtype=jnp.float32) + 0.5) * pixel - 1
    across, down = jnp.meshgrid(grid, grid)
    x, y = _pose(across, down, draws, law)
    turn = law.turn * next(draws)
    face = _features(law.spread * row, law.expression * next(draws), next(draws))
    backdrop = 0.5 + 0.25 * jnp.stack([next(draws) for _ in range(3)])
    image = _paint_face(x, y, turn, face, backdrop, pixel)
    slope = law.light * jnp.stack([next(draws), next(draws)])
    shade = 1 + slope[0] * across + slope[1] * down
    image = image * (jnp.exp(law.exposure * next(draws)) * shade)[..., None]
    image = shapes.blur(image, law.blur * (next(draws) + 1) / 2 * size / 64)
    grain = jax.random.normal(noise_key, image.shape, jnp.float32)
    image = image + law.noise * (next(draws) + 1) / 2 * grain
    return jnp.round(255 * jnp.clip(image, 0, 1)).astype(jnp.uint8)


def _pose(across, down, draws, law: Law):
    """Maps pixels to the face's own axes, ``x`` across and ``y`` down."""
    angle = jnp.deg2rad(law.rotation) * next(draws)
    zoom = jnp.exp(law.zoom * next(draws))
    shear = law.shear * next(draws)
    across = (across - law.shift * next(draws)) / zoom
    down = (down - law.shift * next(draws)) / zoom
    x = jnp.cos(angle) * across + jnp.sin(angle) * down
    y = jnp.cos(angle) * down - jnp.sin(angle) * across
    return x + shear * y, y


class _Face(NamedTuple):
    """What is drawn, in the face's own axes."""

    width: jax.Array
    height: jax.Array
    eye_x: jax.Array
    eye_size: jax.Array
    eye_open: jax.Array
    eye_tilt: jax.Array
    brow_y: jax.Array
    brow_bend: jax.Array
    nose_length: jax.Array
    nose_width: jax.Array
    mouth_width: jax.Array
    mouth_bend: jax.Array
    skin: jax.Array
    hair: jax.Array
    hairline: jax.Array
    freckles: jax.Array


def _features(row, smile, squint) -> _Face:
    """Turns an identity and an expression into lengths and colours."""
    tone, warmth = row[11], row[12]
    light_skin = jnp.array([0.93, 0.76, 0.65])
    skin = light_skin * (0.75 + 0.22 * tone) + jnp.array([0.03, 0.0, -0.05]) * warmth
    hair = jnp.array([0.45, 0.32, 0.2]) * (0.75 + 0.7 * row[13])
    return _Face(
        width=0.56 + 0.08 * row[0],
        height=0.76 - 0.05 * row[0],
        eye_x=0.24 + 0.05 * row[1],
        eye_size=0.105 + 0.028 * row[2],
        eye_open=0.62 + 0.12 * squint,
        eye_tilt=0.22 * row[3],
        brow_y=-0.33 + 0.06 * row[4],
        brow_bend=0.05 + 0.05 * row[5],
        nose_length=0.27 + 0.07 * row[6],
        nose_width=0.1 + 0.04 * row[7],
        mouth_width=0.23 + 0.07 * row[8],
        mouth_bend=0.06 * row[9] + 0.06 * smile,
        skin=skin,
        hair=jnp.clip(hair, 0.04, 0.9),
        hairline=-0.5 + 0.1 * row[10],
        freckles=jnp.stack([row[14], row[15]]),
    )


def _paint_face(x, y, turn, face: _Face, backdrop, pixel: float) -> jax.Array:
    """Paints from back to front; inner parts shift by ``turn``, the nose by more."""
    image = jnp.broadcast_to(backdrop, (*x.shape, 3))
    ellipse = functools.partial(shapes.ellipse, pixel=pixel)
    stroke = functools.partial(shapes.stroke, x, y, pixel=pixel)
    around = ellipse(x, y + 0.06, face.width + 0.1, face.height + 0.08)
    image = shapes.paint(image, around, face.hair)
    head = ellipse(x, y, face.width, face.height)
    forehead = jax.nn.sigmoid((y - face.hairline - 0.25 * x**2) / pixel)
    image = shapes.paint(image, head * forehead, face.skin)
    for side in (-1.0, 1.0):
        eye = x - turn - side * face.eye_x
        image = _paint_eye(image, ellipse, eye, y, side, face)
        image = shapes.paint(image, _brow(stroke, turn, side, face), 0.8 * face.hair)
        spot = ellipse(
            x - turn - side * 0.3 - 0.08 * face.freckles[0],
            y - 0.18 - 0.14 * side * face.freckles[1],
            *(0.035, 0.035),
        )
        image = shapes.paint(image, 0.8 * spot, 0.5 * face.skin)
    image = shapes.paint(image, _nose(stroke, turn, face), 0.62 * face.skin)
    mouth = stroke(
        (turn - face.mouth_width, 0.4 - face.mouth_bend / 2),
        (turn, 0.4 + 1.5 * face.mouth_bend),
        (turn + face.mouth_width, 0.4 - face.mouth_bend / 2),
        0.075,
    )
    return shapes.paint(image, mouth, face.skin * jnp.array([0.8, 0.45, 0.45]))


def _brow(stroke, turn, side: float, face: _Face) -> jax.Array:
    middle = turn + side * face.eye_x
    return stroke(
        (middle - side * 0.12, face.brow_y),
        (middle, face.brow_y - 2 * face.brow_bend),
        (middle + side * 0.13, face.brow_y + 0.02),
        0.05,
    )


def _nose(stroke, turn, face: _Face) -> jax.Array:
    """Covers the ridge, lightly, and the base, which sticks out and so turns more."""
    top, tip, out = -0.12, -0.1 + face.nose_length, 1.8 * turn
    ridge = stroke(
        (turn - 0.02, top),
        (1.3 * turn - 0.03, (top + tip) / 2),
        (out - face.nose_width, tip),
        0.035,
    )
    base = stroke(
        (out - face.nose_width, tip),
        (out, tip + 0.06),
        (out + face.nose_width, tip),
        0.04,
    )
    return jnp.maximum(0.6 * ridge, base)


def _paint_eye(image, ellipse, x, y, side: float, face: _Face) -> jax.Array:
    """Paints the white and the iris of an eye whose centre is at ``x = 0``."""
    y = y + 0.14
    cos, sin = jnp.cos(face.eye_tilt), side * jnp.sin(face.eye_tilt)
    along, over = cos * x - sin * y, sin * x + cos * y
    height = face.eye_size * face.eye_open
    white = ellipse(along, over, 1.25 * face.eye_size, height)
    image = shapes.paint(image, white, jnp.array([0.95, 0.95, 0.93]))
    iris = ellipse(x, y, 0.62 * face.eye_size, 0.62 * face.eye_size)
    return shapes.paint(image, white * iris, jnp.array([0.12, 0.1, 0.1]))
