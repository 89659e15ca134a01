"""Views of handwriting: several distorted views of each word, on the device.

Networks see ink: 0 on paper and 1 where it is black, whatever the policy. A training
batch gets ``views`` ``[batch, views, h, w, channels]`` beside ``image``, and, if asked
for, ``local_views`` of a smaller size. Batches of pairs, ``image`` and ``other``, get
both as ``pair`` ``[batch, 2, h, w, channels]``.

``handwriting`` keeps what tells writers apart: each of its distortions is small against
the differences between hands. ``lightly`` has the natural-image defaults of the
library of that name, which mirror and crop a writer's slant and size away; it is here
to show by how much.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.core import lookup
from jaxkd.core.ranges import PartInterval, PositiveInterval
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views.ops import View, bilinear

Range = Sequence[float]
Distort = Callable[[jax.Array, jax.Array, int], jax.Array]  # key, ink, side -> ink
REFERENCE = 64  # pixels for which the elastic shift is stated
ELASTIC_KNOTS = 6  # of the smooth field along each axis: about 12 of 64 pixels apart


def handwriting(
    info: Info,
    *,
    views: int = 2,
    local_views: int = 0,
    local_size: int | None = None,
    local_crop: PartInterval = (0.3, 0.6),
    distort_image: bool = False,
    translate: float = 0.04,
    scale: PositiveInterval = (0.9, 1.1),
    rotation: float = 3.0,
    shear: float = 3.0,
    elastic: float = 1.0,
    thickness: PositiveInterval = (0.8, 1.25),
    gain: PositiveInterval = (0.7, 1.0),
    noise: float = 0.03,
    cutout: float = 0.075,
    crop: PartInterval = (0.6, 1.0),
    ratio: PositiveInterval = (0.9, 1.1),
) -> View:
    """Makes views that preserve the writer; draws are uniform, anew for each view.

    Args:
      info: of the data set; unused, since ink is scaled alike for all.
      views: of each image, in the field ``views``; 0 leaves the field out.
      local_views: smaller crops of each image, in the field ``local_views``.
      local_size: their side; half of the image's if not given.
      local_crop: share of the area that they keep.
      distort_image: whether ``image`` itself is distorted, and ``other`` if the batch
        has one: for training with labels.
      translate: share of the side, either way.
      scale: factor, the same along both axes.
      rotation: degrees, either way: pages are skewed, but tilt is a feature.
      shear: degrees, either way; must stay far below the 10 degrees by which slant
        varies between writers; 0 is strict.
      elastic: standard deviation of the tremor in pixels of a 64-pixel image, never
        beyond twice that.
      thickness: exponent of the ink; below 1 thickens.
      gain: factor on the ink.
      noise: standard deviation added to it.
      cutout: largest share of the picture that each of two patches paints over.
      crop: share of the area that is kept, and enlarged again.
      ratio: of width to height of the crop.

    Raises:
      UserError: if a number is out of its range.
    """
    del info

    def distort(key: jax.Array, ink: jax.Array, side: int, crop: Range) -> jax.Array:
        keys = jax.random.split(key, 4)
        pose = _draw_pose(keys[0], len(ink), translate, scale, rotation, shear)
        pose = _crop(keys[1], pose, crop, ratio)
        field = elastic * ink.shape[1] / REFERENCE * _smooth(keys[2], len(ink), side)
        ink = jax.vmap(_warp, (0, 0, 0, None))(ink, pose, field, side)
        return _pen(keys[3], ink, thickness, gain, noise, cutout)

    return _view(
        lambda key, ink, side: distort(key, ink, side, crop),
        lambda key, ink, side: distort(key, ink, side, local_crop),
        views,
        local_views,
        local_size,
        distort_image,
    )


class _Natural(NamedTuple):
    """Natural-image defaults of one method; ranges as lightly states them."""

    crop: tuple[float, float] = (0.08, 1.0)
    brightness: float = 0.4
    contrast: float = 0.4
    upside_down: float = 0.0
    quarter_turn: float = 0.0
    solarize: float = 0.0


NATURAL = {
    "simclr": _Natural((0.08, 1.0), 0.8, 0.8, upside_down=0.5, quarter_turn=0.5),
    "byol": _Natural((0.08, 1.0)),
    "vicreg": _Natural((0.08, 1.0), solarize=0.1),
    "barlow_twins": _Natural((0.08, 1.0)),
    "moco": _Natural((0.2, 1.0)),
    "simsiam": _Natural((0.2, 1.0)),
    "fastsiam": _Natural((0.2, 1.0)),
    "dino": _Natural((0.4, 1.0)),
}


def lightly(
    info: Info,
    *,
    method: str = "simclr",
    views: int = 2,
    local_views: int = 0,
    local_size: int | None = None,
) -> View:
    """Makes views by the natural-image defaults that arXiv:2405.18320 used.

    Random resized crops, horizontal flips, colour jitter with probability 0.8; of
    SimCLR also vertical flips and quarter turns. Hue, saturation and greying change
    nothing about grey pictures and are left out, as is blur, which the official code
    mostly switches off.

    Args:
      info: of the data set; unused.
      method: whose defaults, a key of ``NATURAL``.
      views: of each image, in the field ``views``.
      local_views: small crops of each image (5 to 40 percent of the area), in the
        field ``local_views``.
      local_size: their side; half of the image's if not given.

    Raises:
      UserError: if there is no such method.
    """
    del info
    policy = lookup.choose(method, NATURAL, what="method of view 'lightly'")

    def distort(key: jax.Array, ink: jax.Array, side: int, crop: Range) -> jax.Array:
        crop_key, flip_key, colour_key = jax.random.split(key, 3)
        count = len(ink)
        still = _draw_pose(crop_key, count, 0.0, (1.0, 1.0), 0.0, 0.0)
        pose = _crop(crop_key, still, crop, (3 / 4, 4 / 3))
        field = jnp.zeros((count, side, side, 2))
        ink = jax.vmap(_warp, (0, 0, 0, None))(ink, pose, field, side)
        return _jitter(colour_key, _flips(flip_key, ink, policy), policy)

    return _view(
        lambda key, ink, side: distort(key, ink, side, policy.crop),
        lambda key, ink, side: distort(key, ink, side, (0.05, 0.4)),
        views,
        local_views,
        local_size,
        False,
    )


def _view(
    wide: Distort,
    narrow: Distort,
    views: int,
    local_views: int,
    local_size: int | None,
    distort_image: bool,
) -> View:
    """Makes a view of the distortions of global and of local views."""

    def train(key: jax.Array, batch: Batch) -> Batch:
        clean = evaluate(batch)
        ink = clean["image"]
        side = ink.shape[1]
        drawn = [
            wide(jax.random.fold_in(key, place), ink, side) for place in range(views)
        ]
        local_key = jax.random.fold_in(key, views)
        small = [
            narrow(jax.random.fold_in(local_key, place), ink, local_size or side // 2)
            for place in range(local_views)
        ]
        result = dict(clean)
        if drawn:
            result["views"] = jnp.stack(drawn, axis=1)
        if small:
            result["local_views"] = jnp.stack(small, axis=1)
        if distort_image:
            image_key = jax.random.fold_in(key, views + 1)
            for place, name in enumerate(("image", "other")):
                if name in clean:
                    own = jax.random.fold_in(image_key, place)
                    result[name] = wide(own, clean[name], side)
        return _paired(result)

    def evaluate(batch: Batch) -> Batch:
        names = [name for name in ("image", "other") if name in batch]
        return _paired(batch | {name: _ink(batch[name]) for name in names})

    return View(train, evaluate)


def _paired(batch: Batch) -> Batch:
    """Adds ``pair``, ``[batch, 2, h, w, channels]``, where there are two pictures."""
    if "other" not in batch:
        return batch
    return batch | {"pair": jnp.stack([batch["image"], batch["other"]], axis=1)}


def _ink(images: jax.Array) -> jax.Array:
    """Converts uint8, dark on white, to ink in [0, 1]."""
    return 1 - images.astype(jnp.float32) / 255


def _draw_pose(key, count, translate, scale, rotation, shear) -> jax.Array:
    """Draws ``[count, 2, 3]``: from places in a view to places in the image.

    Both are (across, down) in units of the side, from the centre.
    """
    draw = jax.random.uniform(key, (5, count), jnp.float32, -1, 1)
    angle, slant = jnp.deg2rad(rotation) * draw[0], jnp.deg2rad(shear) * draw[1]
    zoom = (scale[0] + scale[1]) / 2 + (scale[1] - scale[0]) / 2 * draw[2]
    cos, sin, tan = jnp.cos(angle) / zoom, jnp.sin(angle) / zoom, jnp.tan(slant)
    across = jnp.stack([cos, cos * tan + sin, translate * draw[3]])
    down = jnp.stack([-sin, cos - sin * tan, translate * draw[4]])
    return jnp.moveaxis(jnp.stack([across, down]), -1, 0)


def _crop(key, pose: jax.Array, area: Range, ratio: Range) -> jax.Array:
    """Narrows poses to a random box of the picture."""
    draw = jax.random.uniform(key, (4, len(pose)), jnp.float32)
    share = area[0] + (area[1] - area[0]) * draw[0]
    shape = jnp.exp(
        jnp.log(ratio[0]) + (jnp.log(ratio[1]) - jnp.log(ratio[0])) * draw[1]
    )
    size = jnp.sqrt(share * jnp.stack([shape, 1 / shape])).T  # [count, (across, down)]
    size = jnp.minimum(size, 1)
    centre = (1 - size) * (draw[2:].T - 0.5)
    matrix = pose[:, :, :2] * size[:, None, :]
    shift = pose[:, :, 2] + jnp.einsum("nij,nj->ni", pose[:, :, :2], centre)
    return jnp.concatenate([matrix, shift[..., None]], axis=-1)


def _smooth(key, count: int, side: int) -> jax.Array:
    """Draws smooth fields of shifts ``[count, side, side, 2]`` of deviation about 1."""
    knots = (count, ELASTIC_KNOTS, ELASTIC_KNOTS, 2)
    rough = jnp.clip(jax.random.normal(key, knots, jnp.float32), -2, 2)
    return jax.image.resize(rough, (count, side, side, 2), "linear")


def _warp(image: jax.Array, pose: jax.Array, field: jax.Array, side: int) -> jax.Array:
    """Reads an image ``[h, w, c]`` where a pose and a field say; paper beyond it."""
    height, width = image.shape[:2]
    # A rim of paper: bilinear clips places to the border, which must be empty.
    image = jnp.pad(image, ((1, 1), (1, 1), (0, 0)))
    grid = (jnp.arange(side, dtype=jnp.float32) + 0.5) / side - 0.5
    places = jnp.stack(
        [*jnp.broadcast_arrays(grid[None, :], grid[:, None]), jnp.ones((side, side))],
        axis=-1,
    )
    across, down = jnp.moveaxis(places @ pose.T, -1, 0)
    column = (across + 0.5) * width + 0.5 + field[..., 0]
    row = (down + 0.5) * height + 0.5 + field[..., 1]
    return bilinear(image, row, column)


def _pen(key, ink, thickness, gain, noise, cutout) -> jax.Array:
    """Changes the stroke's thickness and darkness, adds noise, paints patches over."""
    level_key, noise_key, patch_key = jax.random.split(key, 3)
    draw = jax.random.uniform(level_key, (2, len(ink), 1, 1, 1), jnp.float32)
    low, high = jnp.log(thickness[0]), jnp.log(thickness[1])
    # The smallest positive ink, since the power's gradient is not needed at zero.
    ink = jnp.maximum(ink, 1e-6) ** jnp.exp(low + (high - low) * draw[0])
    ink = ink * (gain[0] + (gain[1] - gain[0]) * draw[1])
    ink = ink * _outside_patches(patch_key, ink.shape, cutout)
    ink = ink + noise * jax.random.normal(noise_key, ink.shape, jnp.float32)
    return jnp.clip(ink, 0, 1)


def _outside_patches(key, shape, cutout: float) -> jax.Array:
    """Marks what two random rectangles of at most ``cutout`` of the area leave."""
    count, height, width = shape[:3]
    draw = jax.random.uniform(key, (4, count, 2, 1, 1), jnp.float32)
    share = cutout * draw[0]
    shape_ratio = jnp.exp(jnp.log(2.0) * (2 * draw[1] - 1))
    half_down = jnp.sqrt(share * shape_ratio) / 2
    half_across = jnp.sqrt(share / shape_ratio) / 2
    down = (jnp.arange(height) + 0.5)[:, None] / height - draw[2]
    across = (jnp.arange(width) + 0.5)[None, :] / width - draw[3]
    inside = (abs(down) < half_down) & (abs(across) < half_across)
    return 1.0 - jnp.any(inside, axis=1).astype(jnp.float32)[..., None]


def _flips(key, ink: jax.Array, policy: _Natural) -> jax.Array:
    draw = jax.random.uniform(key, (3, len(ink), 1, 1, 1), jnp.float32)
    ink = jnp.where(draw[0] < 0.5, ink[:, :, ::-1], ink)
    ink = jnp.where(draw[1] < policy.upside_down, ink[:, ::-1], ink)
    turned = jnp.swapaxes(ink, 1, 2)[:, ::-1]
    return jnp.where(draw[2] < policy.quarter_turn, turned, ink)


def _jitter(key, ink: jax.Array, policy: _Natural) -> jax.Array:
    """Jitters brightness and contrast of the paper's picture, and solarises some."""
    draw = jax.random.uniform(key, (4, len(ink), 1, 1, 1), jnp.float32)
    paper = 1 - ink
    brightness = 1 + policy.brightness * (2 * draw[0] - 1)
    contrast = 1 + policy.contrast * (2 * draw[1] - 1)
    changed = jnp.clip(paper * brightness, 0, 1)
    mean = jnp.mean(changed, axis=(1, 2, 3), keepdims=True)
    changed = jnp.clip(mean + contrast * (changed - mean), 0, 1)
    paper = jnp.where(draw[2] < 0.8, changed, paper)
    solar = jnp.where(paper >= 0.5, 1 - paper, paper)
    return 1 - jnp.where(draw[3] < policy.solarize, solar, paper)
