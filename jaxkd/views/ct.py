"""Views of CT volumes, on the device: window, and small moves of training scans."""

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.readers.ct.volumes import apply_window, window_of
from jaxkd.views.ops import View, check_shift, warp

# Fields that tell where lesions are. Networks do not see them in training.
MASKS = ("lesion", "lungs", "distractors")
_SIDES = {"left", "right"}


def ct(
    info: Info,
    *,
    window: str = "default",
    flip: bool = True,
    shift: float = 8.0,
    depth_shift: int = 2,
    rotation: float = 10.0,
    zoom: float = 0.1,
    intensity: float = 0.1,
    noise: float = 0.03,
) -> View:
    """Maps Hounsfield units to [0, 1] and moves training scans a little.

    ``image`` int16 ``[b, depth, height, width]`` becomes float32 with one channel;
    masks of lesions, lungs and distractors are dropped from training batches, and kept
    as they are for evaluation.

    Args:
      info: of the data set.
      window: of Hounsfield units, one of ``volumes.WINDOWS``.
      flip: whether to exchange left and right in half of the scans. Bodies are not
        symmetric, but most classes are.
      shift: voxels within a slice, either way along each axis, uniform.
      depth_shift: slices, either way; the outermost slice is repeated.
      rotation: degrees within a slice, either way, uniform.
      zoom: logarithm of the zoom factor within a slice, either way, uniform.
      intensity: of contrast and brightness, either way, uniform.
      noise: largest standard deviation of the noise; each scan draws its own.

    Raises:
      UserError: if there is no such window, a shift is longer than the volume, or
        scans are to be flipped whose classes are called left and right.
    """
    window_of(window)
    sides = [name for name in info.class_names if _SIDES & set(name.lower().split())]
    if flip and sides:
        raise UserError(
            f"view.flip exchanges left and right, but classes are {', '.join(sides)}: "
            "half of the labels would be wrong. Set view.flip = False."
        )
    check_shift(depth_shift, info.image_shape[:1], "depth_shift")
    check_shift(shift, info.image_shape[1:3])

    def train(key: jax.Array, batch: Batch) -> Batch:
        keys = jax.random.split(key, 5)
        volumes = apply_window(batch["image"], window)
        if flip:
            volumes = _flip(keys[0], volumes)
        volumes = _move(keys[1], volumes, shift, rotation, zoom)
        volumes = _shift_depth(keys[2], volumes, depth_shift)
        volumes = _change(keys[3], keys[4], volumes, intensity, noise)
        kept = {name: field for name, field in batch.items() if name not in MASKS}
        return kept | {"image": volumes[..., None]}

    def evaluate(batch: Batch) -> Batch:
        return batch | {"image": apply_window(batch["image"], window)[..., None]}

    return View(train, evaluate)


def _flip(key: jax.Array, volumes: jax.Array) -> jax.Array:
    flipped = jax.random.bernoulli(key, 0.5, (len(volumes), 1, 1, 1))
    return jnp.where(flipped, volumes[..., ::-1], volumes)


def _move(key: jax.Array, volumes: jax.Array, shift, rotation, zoom) -> jax.Array:
    """Rotates, zooms and shifts all slices of a scan alike."""
    if not (shift or rotation or zoom):
        return volumes
    uniform = jax.random.uniform(key, (4, len(volumes)), jnp.float32, -1, 1)
    slices_last = jnp.moveaxis(volumes, 1, -1)
    angle, factor = jnp.deg2rad(rotation) * uniform[0], jnp.exp(zoom * uniform[1])
    return jnp.moveaxis(warp(slices_last, angle, factor, shift * uniform[2:].T), -1, 1)


def _shift_depth(key: jax.Array, volumes: jax.Array, most: int) -> jax.Array:
    if not most:
        return volumes
    depth = volumes.shape[1]
    shift = jax.random.randint(key, (len(volumes), 1), -most, most + 1)
    places = jnp.clip(jnp.arange(depth) + shift, 0, depth - 1)
    return jnp.take_along_axis(volumes, places[:, :, None, None], axis=1)


def _change(key: jax.Array, noise_key: jax.Array, volumes, intensity, noise):
    """Changes contrast and brightness, and adds noise, within [0, 1]."""
    if not (intensity or noise):
        return volumes
    uniform = jax.random.uniform(key, (3, len(volumes), 1, 1, 1), jnp.float32, -1, 1)
    volumes = volumes * (1 + intensity * uniform[0]) + intensity * uniform[1]
    if noise:
        level = noise * (uniform[2] + 1) / 2
        volumes += level * jax.random.normal(noise_key, volumes.shape, jnp.float32)
    return jnp.clip(volumes, 0, 1)
