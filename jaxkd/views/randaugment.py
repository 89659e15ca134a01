"""RandAugment and cutout of whole batches, on the device, as Pillow would do them.

RandAugment (Cubuk et al., arXiv:1909.13719) applies a few operations drawn at random to
each image; here the magnitude is random as well, as in FixMatch (Sohn et al.,
arXiv:2001.07685, appendix D) and its followers. Cutout is DeVries & Taylor,
arXiv:1708.04552.

Images are uint8 ``[batch, height, width, channels]``, RGB or greyscale. Magnitudes are
float32 ``[batch]``, one per image. Results equal those of Pillow, in which these
recipes were published: nearest pixels, black borders, its way to round. Where Pillow
computes in floating point, rare numbers differ. ``auto_contrast`` and the blends may be
off by one level, where rounding takes a whole number below itself in one of the two.
``rotate`` may pick the neighbour of a pixel, a few times in a million, where a position
lies within 1/65536 of the line between two.

Images of a batch draw different operations, and a ``switch`` over them would compute
all fourteen for every image. Instead, operations of a kind are one computation with
parameters per image: one gather for the five affine maps, one blend for the four that
blend with a duller image. Two operations on 64 images of 32 by 32 take about 10 ms on
one CPU core, half of it in ``equalize``.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError

# The range that each operation's magnitude is drawn from, uniformly.
OPS: dict[str, tuple[float, float]] = {
    "auto_contrast": (0.0, 0.0),
    "brightness": (0.05, 0.95),
    "color": (0.05, 0.95),
    "contrast": (0.05, 0.95),
    "equalize": (0.0, 0.0),
    "identity": (0.0, 0.0),
    "posterize": (4.0, 8.0),
    "rotate": (-30.0, 30.0),
    "sharpness": (0.05, 0.95),
    "shear_x": (-0.3, 0.3),
    "shear_y": (-0.3, 0.3),
    "solarize": (0.0, 256.0),
    "translate_x": (-0.3, 0.3),
    "translate_y": (-0.3, 0.3),
}
NAMES = tuple(OPS)
_ONE = 1 << 16  # positions are fixed-point numbers with 16 bits after the point


def randaugment(key: jax.Array, images: jax.Array, *, ops: int = 2) -> jax.Array:
    """Applies ``ops`` operations to each image, one after the other.

    They are drawn uniformly and with replacement from ``OPS``, with magnitudes uniform
    in their ranges.

    Args:
      key: of the random numbers.
      images: uint8 ``[batch, height, width, channels]``.
      ops: operations per image.

    Returns:
      uint8, of the shape of ``images``.

    Raises:
      UserError: if images are not uint8, or neither RGB nor greyscale.
    """
    _check(images)
    op_key, magnitude_key = jax.random.split(key)
    shape = (ops, len(images))
    op = jax.random.randint(op_key, shape, 0, len(OPS))
    low, high = jnp.asarray(list(OPS.values()), jnp.float32).T
    share = jax.random.uniform(magnitude_key, shape, jnp.float32)
    magnitude = low[op] + (high - low)[op] * share

    def layer(images, drawn):
        return apply(images, *drawn), None

    return jax.lax.scan(layer, images, (op, magnitude))[0]


def apply(images: jax.Array, op: jax.Array, magnitude: jax.Array) -> jax.Array:
    """Applies one operation to each image.

    Args:
      images: uint8 ``[batch, height, width, channels]``.
      op: ``[batch]``, indices into ``NAMES``.
      magnitude: ``[batch]``; see the function of the operation's name.

    Returns:
      uint8, of the shape of ``images``.

    Raises:
      UserError: if images are not uint8, or neither RGB nor greyscale.
    """
    _check(images)
    height, width = images.shape[1:3]
    pose = {
        "rotate": _rotation(magnitude, height, width),
        "shear_x": _shear(magnitude, 0),
        "shear_y": _shear(magnitude, 1),
        "translate_x": _translation(magnitude * width, 0),
        "translate_y": _translation(magnitude * height, 1),
    }
    moved = _move(images, _pick(op, pose, _unmoved(len(images))))
    faint = {
        "color": _grey(images),
        "contrast": _mean_grey(images),
        "sharpness": _smooth(images),
    }
    blended = _blend(_pick(op, faint, jnp.zeros_like(images)), images, magnitude)
    results = {
        **dict.fromkeys(pose, moved),
        **dict.fromkeys(("brightness", *faint), blended),
        "auto_contrast": auto_contrast(images),
        "equalize": equalize(images),
        "posterize": posterize(images, magnitude),
        "solarize": solarize(images, magnitude),
    }
    return _pick(op, results, images)


def _pick(op: jax.Array, choices: Mapping[str, jax.Array], default: jax.Array):
    """Picks, image by image, the choice of the operation's name."""
    for name, choice in choices.items():
        chosen = _per_image(op == NAMES.index(name), default.ndim)
        default = jnp.where(chosen, choice, default)
    return default


def identity(images: jax.Array) -> jax.Array:
    """Returns the images."""
    return images


def rotate(images: jax.Array, degrees: jax.Array) -> jax.Array:
    """Rotates images about their centres, anticlockwise."""
    return _move(images, _rotation(degrees, *images.shape[1:3]))


def shear_x(images: jax.Array, slope: jax.Array) -> jax.Array:
    """Moves each row left by ``slope`` times its middle's distance from the top."""
    return _move(images, _shear(slope, 0))


def shear_y(images: jax.Array, slope: jax.Array) -> jax.Array:
    """Moves each column up by ``slope`` times its middle's distance from the left."""
    return _move(images, _shear(slope, 1))


def translate_x(images: jax.Array, share: jax.Array) -> jax.Array:
    """Moves images to the left by a share of their width."""
    return _move(images, _translation(share * images.shape[2], 0))


def translate_y(images: jax.Array, share: jax.Array) -> jax.Array:
    """Moves images up by a share of their height."""
    return _move(images, _translation(share * images.shape[1], 1))


def brightness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends images with black; factor 1 leaves them as they are, 0 is black."""
    return _blend(jnp.zeros_like(images), images, factor)


def color(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends images with their grey versions, 0 is grey."""
    return _blend(_grey(images), images, factor)


def contrast(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends images with their mean grey, 0 is uniform."""
    return _blend(_mean_grey(images), images, factor)


def sharpness(images: jax.Array, factor: jax.Array) -> jax.Array:
    """Blends images with their smoothed versions, 0 is smooth."""
    return _blend(_smooth(images), images, factor)


def auto_contrast(images: jax.Array) -> jax.Array:
    """Spreads the levels of each image and channel linearly over 0 to 255."""
    levels = images.astype(jnp.int32)
    low = levels.min((1, 2), keepdims=True)
    span = levels.max((1, 2), keepdims=True) - low
    spread = (levels - low) * 255 // jnp.maximum(span, 1)
    return jnp.where(span > 0, spread, levels).astype(images.dtype)


def equalize(images: jax.Array) -> jax.Array:
    """Makes the histogram of each image and channel as flat as a map of levels can."""
    count, height, width, channels = images.shape
    levels = images.reshape(count, height * width, channels).astype(jnp.int32)
    equal = jax.lax.platform_dependent(
        levels, cpu=_equalize_by_index, default=_equalize_by_products
    )
    return equal.reshape(images.shape).astype(images.dtype)


def _equalize_by_index(levels: jax.Array) -> jax.Array:
    """Equalizes ``[batch, pixels, channels]`` by a scatter and a gather."""
    count, _, channels = levels.shape
    owner = jnp.arange(count * channels).reshape(count, 1, channels)
    index = 256 * owner + levels
    counts = jnp.zeros(256 * owner.size, jnp.int32).at[index.ravel()].add(1)
    return _equalizing(counts.reshape(-1, 256)).ravel()[index]


def _equalize_by_products(levels: jax.Array) -> jax.Array:
    """Equalizes ``[batch, pixels, channels]``; accelerators are slow at scatters.

    A level is two hexadecimal digits. Counts and looked-up levels are products of the
    digits' indicators; all are exact in bfloat16, and their sums in float32.
    """
    count, _, channels = levels.shape
    high, low = jax.nn.one_hot(levels // 16, 16), jax.nn.one_hot(levels % 16, 16)
    counts = jnp.einsum("bpch,bpcl->bchl", high, low).astype(jnp.int32)
    table = _equalizing(counts.reshape(count, channels, 256)).astype(jnp.float32)
    rows = jnp.einsum("bpch,bchl->bpcl", high, table.reshape(counts.shape))
    return jnp.sum(rows * low, axis=-1).astype(jnp.int32)


def _equalizing(counts: jax.Array) -> jax.Array:
    """Maps 256 counts to the levels that replace those counted."""
    total = jnp.sum(counts, -1, keepdims=True)
    highest = 255 - jnp.argmax(counts[..., ::-1] > 0, axis=-1)[..., None]
    last = jnp.take_along_axis(counts, highest, axis=-1)
    step = (total - last) // 255
    below = jnp.cumsum(counts, -1) - counts
    table = (step // 2 + below) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(table, 255), jnp.arange(256))


def posterize(images: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the upper ``bits`` of each level; a fraction of a bit is dropped."""
    kept = jnp.clip(bits.astype(jnp.int32), 1, 8)
    mask = (255 << (8 - kept)).astype(images.dtype)
    return images & _per_image(mask, images.ndim)


def solarize(images: jax.Array, threshold: jax.Array) -> jax.Array:
    """Inverts the levels that are not below a threshold."""
    below = images.astype(jnp.float32) < _per_image(threshold, images.ndim)
    return jnp.where(below, images, 255 - images)


def cutout(
    key: jax.Array,
    images: jax.Array,
    *,
    side: float = 0.5,
    colour: Sequence[int] = (125, 123, 114),
) -> jax.Array:
    """Paints a square of random size and place over each image.

    Its side is uniform in ``[0, side * width)``; its centre is uniform over the image,
    beyond whose border nothing is painted. As when Pillow draws it, both of its ends
    are included: it is up to a pixel longer than its side.

    Args:
      key: of the random numbers.
      images: uint8 ``[batch, height, width, channels]``.
      side: largest side, as a share of the width.
      colour: RGB; a greyscale image takes its luma.

    Returns:
      uint8, of the shape of ``images``.

    Raises:
      UserError: if images are not uint8, or neither RGB nor greyscale.
    """
    _check(images)
    side_key, centre_key = jax.random.split(key)
    count, (height, width) = len(images), images.shape[1:3]
    length = side * width * jax.random.uniform(side_key, (count,), jnp.float32)
    centre = jax.random.uniform(centre_key, (2, count), jnp.float32)
    rows = _interval(centre[0] * height, length, height)[:, :, None]
    columns = _interval(centre[1] * width, length, width)[:, None, :]
    paint = jnp.asarray(colour, images.dtype)
    if images.shape[-1] == 1:
        paint = _grey(paint)[:1]
    return jnp.where((rows & columns)[..., None], paint, images)


def _interval(centre: jax.Array, length: jax.Array, size: int) -> jax.Array:
    """Marks the pixels ``[batch, size]`` of an interval."""
    first = jnp.floor(jnp.maximum(centre - length / 2, 0))
    last = jnp.floor(first + length)
    place = jnp.arange(size)
    return (first[:, None] <= place) & (place <= last[:, None])


def _check(images: jax.Array) -> None:
    if images.dtype != jnp.uint8 or images.shape[-1] not in (1, 3):
        raise UserError(
            f"RandAugment and cutout got images {images.shape} of {images.dtype}, "
            "expected uint8 with 1 or 3 channels. Use another config.view.name."
        )


def _per_image(x: jax.Array, ndim: int) -> jax.Array:
    return x.reshape(-1, *[1] * (ndim - 1))


def _blend(faint: jax.Array, images: jax.Array, factor: jax.Array) -> jax.Array:
    faint, levels = faint.astype(jnp.float32), images.astype(jnp.float32)
    blended = faint + _per_image(factor, images.ndim) * (levels - faint)
    return jnp.clip(blended, 0, 255).astype(images.dtype)


def _grey(images: jax.Array) -> jax.Array:
    """Returns the luma of ITU-R 601-2 in every channel."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = jnp.moveaxis(images.astype(jnp.int32), -1, 0)
    luma = (19595 * red + 38470 * green + 7471 * blue + _ONE // 2) // _ONE
    return jnp.broadcast_to(luma[..., None], images.shape).astype(images.dtype)


def _mean_grey(images: jax.Array) -> jax.Array:
    """Returns the mean luma of each image, rounded, ``[batch, 1, 1, 1]``."""
    count = images.shape[1] * images.shape[2]
    total = jnp.sum(_grey(images)[..., :1].astype(jnp.int32), (1, 2), keepdims=True)
    return ((2 * total + count) // (2 * count)).astype(images.dtype)


def _smooth(images: jax.Array) -> jax.Array:
    """Averages 3 by 3 pixels, of which the middle counts five; the border stays."""
    levels = images.astype(jnp.int32)
    rows = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    total = total + 4 * levels[:, 1:-1, 1:-1]
    smooth = ((2 * total + 13) // 26).astype(images.dtype)
    return images.at[:, 1:-1, 1:-1].set(smooth)


def _move(images: jax.Array, matrix: jax.Array) -> jax.Array:
    """Fetches each pixel from where an affine map sends it; black beyond the image.

    Args:
      images: ``[batch, height, width, channels]``.
      matrix: int32 fixed-point ``[batch, 2, 3]``: the first row gives the column to
        fetch from as a sum over (column, row, 1), the second one the row.
    """
    count, height, width, channels = images.shape
    place = jnp.arange(height)[:, None], jnp.arange(width)[None, :]

    def along(axis: int) -> jax.Array:
        across, down, start = matrix[:, axis].T[..., None, None]
        return (across * place[1] + down * place[0] + start) >> 16

    column, row = along(0), along(1)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = jnp.where(inside, row * width + column, 0).reshape(count, -1, 1)
    pixels = jnp.take_along_axis(images.reshape(count, -1, channels), index, axis=1)
    return jnp.where(inside[..., None], pixels.reshape(images.shape), 0)


def _unmoved(count: int) -> jax.Array:
    # The middle of pixel 0 is at one half.
    still = jnp.array([[_ONE, 0, _ONE // 2], [0, _ONE, _ONE // 2]], jnp.int32)
    return jnp.broadcast_to(still, (count, 2, 3))


def _shear(slope: jax.Array, axis: int) -> jax.Array:
    matrix = _unmoved(len(slope))
    matrix = matrix.at[:, axis, 1 - axis].set(_fixed(slope))
    return matrix.at[:, axis, 2].add(_fixed(slope / 2))


def _translation(pixels: jax.Array, axis: int) -> jax.Array:
    whole = jnp.floor(pixels + 0.5).astype(jnp.int32)
    return _unmoved(len(pixels)).at[:, axis, 2].add(whole * _ONE)


def _rotation(degrees: jax.Array, height: int, width: int) -> jax.Array:
    angle = jnp.deg2rad(degrees)
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    down, across = (height - 1) / 2, (width - 1) / 2
    turned = sin * down - cos * across, -sin * across - cos * down
    column = _fixed(cos), _fixed(-sin), _fixed(turned[0]) + width * _ONE // 2
    row = _fixed(sin), _fixed(cos), _fixed(turned[1]) + height * _ONE // 2
    return jnp.stack([jnp.stack(column, -1), jnp.stack(row, -1)], 1)


def _fixed(x: jax.Array) -> jax.Array:
    """Rounds to the nearest fixed-point number, half up."""
    x = x * _ONE
    whole = jnp.floor(x)  # adding one half first would round in float32
    return (whole + (x - whole >= 0.5)).astype(jnp.int32)
