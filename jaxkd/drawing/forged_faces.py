"""Draws faces with semantic attributes, and forgeries of one attribute at a time.

A face is drawn from eight numbers: age, expression, gender, four of identity, pose.
Each attribute shows in several regions at once (age in wrinkles, in the brows and in
the eyes), so a forger who changes one attribute in its regions alone leaves a face that
contradicts itself. The forged regions pass through a *method*, which leaves a trace of
its own, and are blended in. A change too small to notice, and a filter over the whole
image, make no forgery: the definition of arXiv:2405.08487.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.drawing import shapes

ATTRIBUTES = ("age", "expression", "gender", "identity", "pose")
REGIONS = ("eye", "eyebrow", "lip", "mouth", "nose", "skin")
METHODS = ("blur", "grid", "quantize", "sharpen", "tone", "denoise")
# Label codes of the FFSC graph: real, then what is done to a face.
CODES = {
    "real": "000000000000",
    "age": "110000100001",
    "smile": "101000001100",
    "surprise": "101000101111",
    "gender": "120110111101",
    "identity": "120010111111",
    "pose": "100001111111",
}
REAL = -1  # the attribute and the method of an image that is not forged
CHUNK = 100  # images drawn at once: bounds the memory
VISIBLE, WEAK = (0.8, 1.4), (0.02, 0.12)  # changes of an attribute in [-1, 1]
UNIFORMS = 32  # uniform variables of one image

_CODE_ROWS = np.array([[int(c) for c in code] for code in CODES.values()], np.int8)
_FORGED_REGIONS = _CODE_ROWS[:, 6:].astype(np.float32)


class Latents(NamedTuple):
    """What a face is like, each number in about [-1, 1], ``[...]``; identity has 4.

    Attributes:
      age: from young to old.
      expression: from surprise to smile.
      gender: from soft to hard features.
      identity: ``[..., 4]``: width of the head, distance of the eyes, nose, skin.
      pose: from a head turned left to one turned right.
    """

    age: jax.Array
    expression: jax.Array
    gender: jax.Array
    identity: jax.Array
    pose: jax.Array


class Plan(NamedTuple):
    """What is done to each image, arrays ``[images]``.

    Attributes:
      attribute: that is forged, an index into ``ATTRIBUTES``; -1 leaves the face.
      method: of the forged regions, or of the whole image where no attribute is
        forged; an index into ``METHODS``, -1 for none.
      weak: whether the change is too small to notice, which makes the image real.
    """

    attribute: np.ndarray
    method: np.ndarray
    weak: np.ndarray

    @property
    def is_fake(self) -> np.ndarray:
        """Whether an attribute is changed enough to notice."""
        return (self.attribute >= 0) & ~self.weak


class Faces(NamedTuple):
    """Drawn faces.

    Attributes:
      images: uint8 ``[images, size, size, 3]``.
      codes: int8 ``[images, 12]``, labels of the FFSC graph, 2 where unknown.
      regions: uint8 ``[images, size, size, 6]``, how much of each pixel was replaced
        as part of each region, in 255ths; zero throughout in a real image.
    """

    images: np.ndarray
    codes: np.ndarray
    regions: np.ndarray


def draw_faces(key: jax.Array, plan: Plan, size: int) -> Faces:
    """Draws one face per entry of a plan; it depends on the key, the entry and its row.

    Args:
      key: random key.
      plan: what is done to each.
      size: side of the images.
    """
    count = len(plan.attribute)
    chunks = -(-count // CHUNK)
    rows = Plan(*(np.resize(np.asarray(x), chunks * CHUNK) for x in plan))
    places = np.arange(chunks * CHUNK, dtype=np.uint32)
    drawn = []
    for part in np.split(np.arange(chunks * CHUNK), chunks):
        entries = Plan(*(x[part] for x in rows))
        result = _draw_chunk(key, places[part], entries, size)
        drawn.append(jax.tree.map(np.asarray, result))
    images, codes, regions = (
        np.concatenate(parts)[:count] for parts in zip(*drawn, strict=True)
    )
    return Faces(images, codes, regions)


def draw_latents(key: jax.Array) -> Latents:
    """Draws the numbers of one face, each uniform in [-1, 1]."""
    draws = jax.random.uniform(key, (8,), jnp.float32, -1, 1)
    return Latents(draws[0], draws[1], draws[2], draws[3:7], draws[7])


def edit(key: jax.Array, face: Latents, attribute: jax.Array, bounds) -> Latents:
    """Changes one attribute of a face, towards the far side of its range.

    Args:
      key: random key.
      face: numbers of one face.
      attribute: index into ``ATTRIBUTES``; -1 changes nothing.
      bounds: least and largest change.

    Returns:
      The changed numbers, kept within [-1.2, 1.2].
    """
    changes = jax.random.uniform(key, (8,), jnp.float32, *bounds)

    def moved(old, change, index):
        new = jnp.clip(old - jnp.where(old < 0, -1, 1) * change, -1.2, 1.2)
        return jnp.where(attribute == index, new, old)

    return Latents(
        moved(face.age, changes[0], 0),
        moved(face.expression, changes[1], 1),
        moved(face.gender, changes[2], 2),
        moved(face.identity, changes[3:7], 3),
        moved(face.pose, changes[7], 4),
    )


def render(face: Latents, backdrop: jax.Array, size: int):
    """Draws a face without noise.

    Args:
      face: its numbers.
      backdrop: colour behind it, ``[3]``.
      size: side of the image.

    Returns:
      The image ``[size, size, 3]`` in about [0, 1], and the cover of each region,
      ``[size, size, 6]``, in the order of ``REGIONS``.
    """
    pixel = 2 / size
    grid = (jnp.arange(size, dtype=jnp.float32) + 0.5) * pixel - 1
    x, y = jnp.meshgrid(grid, grid)
    old, hard = (face.age + 1) / 2, (face.gender + 1) / 2
    turn = 0.12 * face.pose
    canvas = _Canvas(x, y, pixel)
    skin_colour = jnp.array([0.88, 0.7, 0.58]) * (0.86 + 0.13 * face.identity[3])
    hair = jnp.array([0.3, 0.2, 0.13]) + 0.35 * old
    head = _head(canvas, turn, hard, face.identity[0])
    image = jnp.broadcast_to(backdrop, (size, size, 3))
    image = shapes.paint(image, canvas.ellipse(0, -0.08, 0.74, 0.82), hair)
    tones = skin_colour * _skin_shade(canvas, turn, old, hard, face)[..., None]
    image = shapes.paint(image, head, tones)
    eye_x = 0.29 + 0.05 * face.identity[1]
    image, eye = _eyes(image, canvas, turn, eye_x, old, hard, face.expression)
    brow = _brows(canvas, turn, eye_x, hard, face.expression)
    image = shapes.paint(image, brow, hair * (0.9 - 0.35 * hard))
    nose = _nose(canvas, turn, face)
    image = shapes.paint(image, 0.8 * nose, 0.68 * skin_colour)
    lip, mouth = _mouth(canvas, turn, old, hard, face.expression)
    red = jnp.array([0.72, 0.3, 0.32]) * (1 - 0.25 * hard)
    image = shapes.paint(image, lip, 0.25 * skin_colour + 0.75 * red)
    open_colour = jnp.where(face.expression > 0, 0.92, 0.12)
    image = shapes.paint(image, mouth, jnp.full(3, open_colour))
    inner = jnp.maximum(jnp.maximum(eye, brow), jnp.maximum(lip, nose))
    skin = head * (1 - jnp.maximum(inner, mouth))
    covers = (eye, brow, lip * (1 - mouth), mouth, nose, skin)
    return image, jnp.stack(covers, axis=-1)


def apply_method(image: jax.Array, method: jax.Array) -> jax.Array:
    """Passes an image through a generator's stand-in, which leaves its trace.

    Args:
      image: ``[size, size, 3]`` in about [0, 1].
      method: index into ``METHODS``; -1 leaves the image as it is.
    """
    size = image.shape[0]
    smooth = shapes.blur(image, 1.0)

    def grid():
        half = jax.image.resize(image, (size // 2, size // 2, 3), "linear")
        return jax.image.resize(half, image.shape, "nearest")

    def denoise():
        """Takes the median of 3x3 pixels, by the columns' sorted thirds."""
        padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
        low, middle, high = _sorted3(*(padded[i : i + size] for i in range(3)))

        def columns(z):
            return [z[:, j : j + size] for j in range(3)]

        low, middle, high = map(columns, (low, middle, high))
        greatest_low, least_high = _sorted3(*low)[2], _sorted3(*high)[0]
        return _sorted3(greatest_low, _sorted3(*middle)[1], least_high)[1]

    results = {
        "blur": smooth,
        "grid": grid(),
        "quantize": jnp.round(image * 7) / 7,
        "sharpen": image + 1.2 * (image - smooth),
        "tone": jnp.clip(image, 0, 1) ** 1.3 * jnp.array([1.08, 1.0, 0.92]),
        "denoise": denoise(),
    }
    stacked = jnp.stack([image, *(results[name] for name in METHODS)])
    return stacked[method + 1]


def _sorted3(a, b, c):
    """Sorts three arrays element by element: least, middle, greatest."""
    low, high = jnp.minimum(a, b), jnp.maximum(a, b)
    middle = jnp.minimum(high, jnp.maximum(low, c))
    return jnp.minimum(low, c), middle, jnp.maximum(high, c)


@functools.partial(jax.jit, static_argnames="size")
def _draw_chunk(key, places, plan: Plan, size: int):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, places)
    draw = functools.partial(_draw_face, size=size)
    return jax.vmap(draw)(keys, Plan(*(jnp.asarray(x) for x in plan)))


def _draw_face(key, plan: Plan, size: int):
    """Draws one image: a face, its forgery blended in, light, noise."""
    face_key, edit_key, light_key, noise_key = jax.random.split(key, 4)
    face = draw_latents(face_key)
    light = jax.random.uniform(light_key, (6,), jnp.float32, -1, 1)
    backdrop = 0.45 + 0.25 * light[:3]
    image, covers = render(face, backdrop, size)
    bounds = [jnp.where(plan.weak, *ends) for ends in zip(WEAK, VISIBLE, strict=True)]
    edited = edit(edit_key, face, plan.attribute, bounds)
    other, other_covers = render(edited, backdrop, size)
    kind = _kind(plan.attribute, edited.expression > face.expression)
    chosen = jnp.asarray(_FORGED_REGIONS)[kind]
    regions = _soften(jnp.maximum(covers, other_covers)) * chosen
    mask = jnp.max(regions, axis=-1, keepdims=True)
    forged = image + mask * (apply_method(other, plan.method) - image)
    image = jnp.where(plan.attribute >= 0, forged, apply_method(image, plan.method))
    ramp = jnp.linspace(-1, 1, size)
    shade = 1 + 0.12 * (light[3] * ramp[:, None] + light[4] * ramp)
    image = image * jnp.exp(0.12 * light[5]) * shade[..., None]
    image = image + 0.015 * jax.random.normal(noise_key, image.shape)
    fake = (plan.attribute >= 0) & ~plan.weak
    codes = jnp.asarray(_CODE_ROWS)[jnp.where(fake, kind, 0)]
    to_bytes = [jnp.round(255 * jnp.clip(z, 0, 1)) for z in (image, fake * regions)]
    return to_bytes[0].astype(jnp.uint8), codes, to_bytes[1].astype(jnp.uint8)


def _kind(attribute, smiles):
    """Returns the row of ``CODES`` of a forgery."""
    expression = jnp.where(smiles, 2, 3)
    later = attribute + 2  # gender, identity, pose
    kinds = jnp.where(attribute == 1, expression, later)
    return jnp.where(attribute < 1, attribute + 1, kinds)


def _soften(covers):
    """Widens regions by a pixel and blurs their edges."""
    padded = jnp.pad(covers, ((1, 1), (1, 1), (0, 0)))
    size = covers.shape[0]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    wide = functools.reduce(
        jnp.maximum, [padded[i : i + size, j : j + size] for i, j in shifts]
    )
    return shapes.blur(wide, 0.7)


class _Canvas(NamedTuple):
    """Pixel centres, and shapes about given places."""

    x: jax.Array
    y: jax.Array
    pixel: float

    def ellipse(self, x, y, width, height):
        return shapes.ellipse(self.x - x, self.y - y, width, height, self.pixel)

    def stroke(self, *points_and_width):
        return shapes.stroke(self.x, self.y, *points_and_width, self.pixel)


def _head(canvas: _Canvas, turn, hard, wide):
    """Covers the head: an upper ellipse and a jaw, square where features are hard."""
    width = 0.6 + 0.06 * wide
    upper = canvas.ellipse(0.3 * turn, -0.06, width, 0.72)
    jaw = canvas.ellipse(0.6 * turn, 0.42, width * (0.62 + 0.26 * hard), 0.42)
    return jnp.maximum(upper, jaw)


def _skin_shade(canvas: _Canvas, turn, old, hard, face: Latents):
    """Shades the skin: roundness, wrinkles of age, cheeks, beard, folds of a smile."""
    x, y = canvas.x, canvas.y
    shade = 1 - 0.22 * (x - 1.5 * turn) ** 2 - 0.08 * y**2
    forehead = jnp.exp(-(((y + 0.5) / 0.16) ** 2) - (x / 0.4) ** 2)
    cheeks = jnp.exp(
        -(((y - 0.28) / 0.2) ** 2) - ((jnp.abs(x - turn) - 0.4) / 0.14) ** 2
    )
    wrinkles = jnp.sin(26 * y + 3 * x**2) * forehead + jnp.sin(24 * (y + x)) * cheeks
    beard = jnp.exp(-(((y - 0.75) / 0.2) ** 2) - (x / 0.45) ** 2)
    smile = jnp.clip(face.expression, -1, 1)
    return shade - 0.2 * old * wrinkles - 0.22 * hard * beard + 0.08 * smile * cheeks


def _eyes(image, canvas: _Canvas, turn, eye_x, old, hard, expression):
    """Paints both eyes; returns the image and their cover."""
    cover = jnp.zeros_like(canvas.x)
    height = (0.095 - 0.035 * old) * (1 - 0.4 * expression)
    for side in (-1.0, 1.0):
        middle = turn + side * eye_x
        lash = canvas.ellipse(middle, -0.15, 0.17, height + 0.035)
        white = canvas.ellipse(middle, -0.14, 0.145, height)
        iris = canvas.ellipse(middle + 0.3 * turn, -0.14, 0.075, 0.075) * white
        image = shapes.paint(image, lash * (0.75 - 0.5 * hard), jnp.full(3, 0.12))
        image = shapes.paint(image, white, jnp.full(3, 0.95 - 0.1 * old))
        image = shapes.paint(image, iris, jnp.array([0.15, 0.12, 0.1]))
        cover = jnp.maximum(cover, lash)
    return image, cover


def _brows(canvas: _Canvas, turn, eye_x, hard, expression):
    """Covers the brows: thick where features are hard, raised in surprise."""
    y = -0.36 + 0.05 * expression
    cover = jnp.zeros_like(canvas.x)
    for side in (-1.0, 1.0):
        middle = turn + side * eye_x
        points = (
            (middle - side * 0.15, y),
            (middle, y - 0.12 + 0.08 * hard),
            (middle + side * 0.15, y + 0.03),
        )
        cover = jnp.maximum(cover, canvas.stroke(*points, 0.05 + 0.06 * hard))
    return cover


def _nose(canvas: _Canvas, turn, face: Latents):
    """Covers the nose, which sticks out and so turns most; surprise lengthens it."""
    width = 0.13 + 0.04 * face.identity[2]
    tip = 0.2 + 0.05 * face.identity[2] - 0.05 * face.expression
    out = 1.9 * turn
    ridge = canvas.stroke(
        (turn, -0.1), (1.4 * turn + 0.02, 0.05), (out - 0.04, tip), 0.06
    )
    base = canvas.stroke(
        (out - width, tip), (out, tip + 0.09), (out + width, tip), 0.07
    )
    return jnp.maximum(0.7 * ridge, base)


def _mouth(canvas: _Canvas, turn, old, hard, expression):
    """Covers lips and the opening: curved with teeth in a smile, round in surprise."""
    middle, y = 1.2 * turn, 0.52
    bend, width = 0.14 * expression, 0.24 + 0.07 * expression
    ends = (middle - width, y - bend), (middle + width, y - bend)
    full = 0.15 - 0.04 * old - 0.04 * hard + 0.06 * jnp.clip(-expression, 0, 1)
    lip = canvas.stroke(ends[0], (middle, y + 1.2 * bend), ends[1], full)
    opening = 0.03 + 0.1 * jnp.abs(expression)
    half = width * jnp.where(expression > 0, 0.75, 0.5)
    inner = canvas.ellipse(middle, y + 0.1 * bend, half, opening)
    lip = jnp.maximum(lip, canvas.ellipse(middle, y, half + 0.06, opening + 0.05))
    return lip, inner
