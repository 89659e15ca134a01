"""The second-order degradation of Real-ESRGAN, on the device.

Wang et al., "Real-ESRGAN" (arXiv:2107.10833): blur, resize, noise and JPEG, twice; then
the last size and a sinc filter, before or after the second JPEG. Defaults are the
published values for enlargement by 4. Every example draws its own; shapes are static
(``jaxkd.views.canvas``).

Differences from the public code: JPEG keeps the colours' resolution, borders repeat
their pixels instead of mirroring, ``area`` weighs pixels by what is covered of them,
and the levels of Poisson noise are 256 whatever an image holds (the code counts
distinct levels, and takes the next power of two). The truth is not sharpened.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import views
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import SHARE, Interval, Items, PositiveInterval, Range, Stretch
from jaxkd.core.source import Info
from jaxkd.core.types import Batch
from jaxkd.views import blur_kernels, canvas, degrade, jpeg, ops
from jaxkd.views.low_resolution import Quality

LEVELS = 256  # that photons are counted in
LUMA = (0.2989, 0.587, 0.114)
Chance = Annotated[float, SHARE]


class Round(NamedTuple):
    """One of the two rounds; ranges are uniform.

    Attributes:
      blur_chance: of a blur.
      shapes: weights of ``blur_kernels.KINDS``.
      sinc_chance: of a sinc filter in place of these.
      sigma: range of the Gaussians' standard deviations, in pixels.
      generalized_beta: range of the generalised Gaussians' exponents.
      plateau_beta: of the plateau-shaped kernels'.
      directions: weights of enlarging, shrinking and keeping the size.
      scales: the smallest and the largest side over that of the image (in the second
        round, of the final small image).
      gaussian_chance: of Gaussian noise; Poisson's otherwise.
      noise: range of the Gaussian's standard deviation, black to white being 1.
      poisson: range of the factor of Poisson's noise, see ``add_noise``.
      grey_chance: that noise is alike in all channels.
      quality: range of JPEG's, whole numbers; None leaves it out.
    """

    blur_chance: Chance = 1.0
    shapes: Annotated[Sequence[float], Items(least=6, some=True)] = (
        *(0.45, 0.25, 0.12),
        *(0.03, 0.12, 0.03),
    )
    sinc_chance: Chance = 0.1
    sigma: PositiveInterval = (0.2, 3.0)
    generalized_beta: PositiveInterval = (0.5, 4.0)
    plateau_beta: PositiveInterval = (1.0, 2.0)
    directions: Annotated[Sequence[float], Items(least=3, some=True)] = (0.2, 0.7, 0.1)
    scales: PositiveInterval = (0.15, 1.5)
    gaussian_chance: Chance = 0.5
    noise: Annotated[tuple[float, float], Items(rising=True), SHARE] = (
        1 / 255,
        30 / 255,
    )
    poisson: Interval = (0.05, 3.0)
    grey_chance: Chance = 0.4
    quality: Quality | None = (30, 95)


FIRST = Round()
SECOND = Round(
    blur_chance=0.8,
    sigma=(0.2, 1.5),
    directions=(0.3, 0.4, 0.3),
    scales=(0.3, 1.2),
    noise=(1 / 255, 25 / 255),
    poisson=(0.05, 2.5),
)


class Chain(NamedTuple):
    """Both rounds, and what follows them.

    Attributes:
      first: round.
      second: round.
      scale: from the small image to the large one.
      sizes: range of the kernels' sizes, odd.
      final_sinc_chance: of the last sinc filter.
      kernels: of ``degrade.KERNELS``, each resize draws one.
    """

    first: Round = FIRST
    second: Round = SECOND
    scale: int = 4
    sizes: tuple[int, int] = (7, 21)
    final_sinc_chance: float = 0.8
    kernels: tuple[str, ...] = ("area", "bilinear", "bicubic_noaa")


PUBLISHED = Chain()


def real_esrgan(
    info: Info,
    *,
    base: Mapping[str, Any],
    scale: int = 4,
    first: Mapping[str, Any] | None = None,
    second: Mapping[str, Any] | None = None,
    sizes: Annotated[tuple[int, int], Items(rising=True), Range(1)] = PUBLISHED.sizes,
    final_sinc_chance: Chance = PUBLISHED.final_sinc_chance,
    kernels: Sequence[str] = PUBLISHED.kernels,
    levels: Annotated[Stretch, Range(None)] = (-1.0, 1.0),
) -> ops.View:
    """Adds the degraded small images to another view, as the batch's field ``low``.

    In evaluation they are drawn, too, but always alike.

    Args:
      info: of the data set.
      base: the other view, which leaves images within ``levels``: its ``name`` and
        options, such as of ``signed_dihedral``.
      scale: from the small to the large side.
      first: what differs from ``FIRST``, by the names of ``Round``.
      second: what differs from ``SECOND``, likewise.
      sizes: see ``Chain``, as the next two.
      final_sinc_chance: likewise.
      kernels: likewise.
      levels: black and white as the other view leaves them.

    Raises:
      UserError: if an option is unknown or out of its range, or the scale does not
        divide the images; or, of the view, if a batch has the field already.
    """
    options = dict(base)
    other = views.build(str(options.pop("name", "")), info, **options)
    how = Chain(
        _round(FIRST, first, "first of view 'real_esrgan'"),
        _round(SECOND, second, "second of view 'real_esrgan'"),
        scale,
        (sizes[0], sizes[1]),
        final_sinc_chance,
        tuple(kernels),
    )
    check(how, info.image_shape[:2])
    low, high = levels

    def add(key: jax.Array, batch: Batch) -> Batch:
        if "low" in batch:
            raise UserError(
                "View 'real_esrgan' would replace the field 'low', which the data or a "
                "view below already have. Load the data without it (config.data.low = "
                "False)."
            )
        images = (batch["image"] - low) / (high - low)
        return batch | {"low": low + (high - low) * degraded(key, images, how)}

    def train(key: jax.Array, batch: Batch) -> Batch:
        return add(jax.random.fold_in(key, 2), other.train(key, batch))

    return ops.View(train, lambda batch: add(jax.random.key(0), other.evaluate(batch)))


def _round(default: Round, given: Mapping[str, Any] | None, what: str) -> Round:
    options = default._asdict() | dict(given or {})
    return lookup.call(Round, options, what=what)


def check(how: Chain, sides: Sequence[int]) -> None:
    """Checks a degradation for images of some height and width.

    Raises:
      UserError: if the scale does not divide them, sizes are not odd, lists have
        another length, or there is no such kernel.
    """
    if any(side % how.scale for side in sides):
        raise UserError(
            f"Images of {' x '.join(map(str, sides))} pixels cannot be reduced by "
            f"scale {how.scale}, expected a divisor. Change scale or the data's size."
        )
    if not all(size % 2 for size in how.sizes):
        raise UserError(f"sizes is {how.sizes}, expected odd numbers, such as (7, 21).")
    for name in how.kernels:
        lookup.choose(name, degrade.KERNELS, what="kernels of view 'real_esrgan'")
    for one in (how.first, how.second):
        lengths = {"shapes": 6, "directions": 3, "scales": 2}
        for name, length in lengths.items():
            if len(getattr(one, name)) != length:
                raise UserError(
                    f"{name} is {getattr(one, name)}, expected {length} numbers."
                )


def degraded(key: jax.Array, images: jax.Array, how: Chain) -> jax.Array:
    """Degrades images; each depends on the key and its place in the batch alone.

    Args:
      key: of the draw.
      images: ``[batch, h, w, c]`` in [0, 1], of one channel or three.
      how: the degradation.

    Returns:
      ``[batch, h / scale, w / scale, c]`` in [0, 1], in steps of 1/255.
    """
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda key, image: _degrade(key, image, how))(keys, images)


def _degrade(key: jax.Array, image: jax.Array, how: Chain) -> jax.Array:
    keys = jax.random.split(key, 6)
    shape = image.shape[:2]
    small = (shape[0] // how.scale, shape[1] // how.scale)
    size = jnp.array(shape)
    image, size = _blur_resize_noise(keys[0], image, size, shape, how.first, how)
    image = canvas.extend(_jpeg(keys[1], image, how.first), size)
    image, size = _blur_resize_noise(keys[2], image, size, small, how.second, how)
    choice = jax.random.randint(keys[3], (), 0, len(how.kernels))
    kernel = _final_kernel(keys[4], how)

    def finish(image):
        after = jnp.array(small)
        image = canvas.resize(image, size, after, small, how.kernels, choice)
        return blur_kernels.apply(image, kernel) if how.final_sinc_chance else image

    order_key, quality_key = jax.random.split(keys[5])
    last = _jpeg(quality_key, finish(image), how.second)
    if how.second.quality is not None:
        before = _jpeg(quality_key, image, how.second)
        before = finish(canvas.extend(before, size))
        last = jnp.where(jax.random.bernoulli(order_key), last, before)
    return jnp.round(255 * jnp.clip(last, 0, 1)) / 255


def _blur_resize_noise(key, image, size, unit: Sequence[int], one: Round, how: Chain):
    """Applies a round but JPEG; sizes are drawn relative to ``unit``.

    Returns:
      The image in a canvas of the largest size, and its size.
    """
    blur_key, size_key, choice_key, noise_key = jax.random.split(key, 4)
    if one.blur_chance:
        image = blur_kernels.apply(image, draw_kernel(blur_key, one, how.sizes))
        image = canvas.extend(image, size)
    factor = draw_factor(size_key, one)
    most = max(one.scales[1], 1.0) if one.directions[0] else 1.0
    wide = (int(np.ceil(unit[0] * most)), int(np.ceil(unit[1] * most)))
    after = jnp.floor(factor * np.array(unit, np.float32) + 1e-4).astype(jnp.int32)
    after = jnp.clip(after, 1, np.array(wide))
    choice = jax.random.randint(choice_key, (), 0, len(how.kernels))
    image = canvas.resize(image, size, after, wide, how.kernels, choice)
    image = jnp.clip(image, 0, 1)
    if one.noise[1] or one.poisson[1]:
        image = canvas.extend(add_noise(noise_key, image, one), after)
    return image, after


def draw_kernel(key: jax.Array, one: Round, sizes: tuple[int, int]) -> jax.Array:
    """Draws the blur of a round, ``[sizes[1], sizes[1]]``, which sums to 1."""
    size_key, chance_key, sinc_key, shape_key, own_key = jax.random.split(key, 5)
    size, reach = blur_kernels.draw_size(size_key, sizes), sizes[1] // 2
    gaussian = blur_kernels.draw_gaussian(
        shape_key,
        size,
        reach,
        shapes=one.shapes,
        sigma=one.sigma,
        generalized_beta=one.generalized_beta,
        plateau_beta=one.plateau_beta,
    )
    ringing = blur_kernels.draw_sinc(sinc_key, size, reach, low=True)
    kernel = jnp.where(
        jax.random.bernoulli(own_key, one.sinc_chance), ringing, gaussian
    )
    blurred = jax.random.bernoulli(chance_key, one.blur_chance)
    return jnp.where(blurred, kernel, blur_kernels.delta(reach))


def _final_kernel(key: jax.Array, how: Chain) -> jax.Array:
    size_key, sinc_key, chance_key = jax.random.split(key, 3)
    size, reach = blur_kernels.draw_size(size_key, how.sizes), how.sizes[1] // 2
    kernel = blur_kernels.draw_sinc(sinc_key, size, reach, low=False)
    ringing = jax.random.bernoulli(chance_key, how.final_sinc_chance)
    return jnp.where(ringing, kernel, blur_kernels.delta(reach))


def draw_factor(key: jax.Array, one: Round) -> jax.Array:
    """Draws a factor of both sides by ``one.directions``.

    It is in the part of ``one.scales`` that is above 1, in that below 1, or 1.
    """
    way_key, place_key = jax.random.split(key)
    weights = jnp.asarray(one.directions, jnp.float32)
    way = jax.random.choice(way_key, 3, p=weights / weights.sum())
    least, most = one.scales
    part = jax.random.uniform(place_key)
    up, down = (
        bound(least, 1.0) + part * (bound(most, 1.0) - bound(least, 1.0))
        for bound in (max, min)
    )
    return jnp.stack([up, down, jnp.ones(())])[way]


def add_noise(key: jax.Array, image: jax.Array, one: Round) -> jax.Array:
    """Adds Gaussian or Poisson noise to ``[h, w, c]`` in [0, 1], and clips.

    Gaussian noise has the standard deviation that is drawn from ``one.noise``.
    Poisson's is ``factor (P(256 x) / 256 - x)``, of mean 0 and variance ``factor^2 x /
    256``. Grey noise is drawn once for all channels; Poisson's, of the luma.
    """
    kind_key, grey_key, level_key, normal_key, poisson_key = jax.random.split(key, 5)
    grey = jax.random.bernoulli(grey_key, one.grey_chance)
    part = jax.random.uniform(level_key)
    sigma, factor = (
        low + part * (high - low) for low, high in (one.noise, one.poisson)
    )
    normal = jax.random.normal(normal_key, image.shape)
    gaussian = sigma * jnp.where(grey, normal[..., :1], normal)
    noise = gaussian
    if one.gaussian_chance < 1:
        # The luma's photons are drawn beside those of the colours: shapes are static.
        light = jnp.round(255 * image) / 255
        luma = light
        if image.shape[-1] == 3:
            luma = jnp.sum(light * np.asarray(LUMA, np.float32), axis=-1, keepdims=True)
        both = jnp.concatenate([light, luma], axis=-1)
        counts = jax.random.poisson(poisson_key, LEVELS * both).astype(jnp.float32)
        apart = factor * (counts / LEVELS - both)
        channels = image.shape[-1]
        photons = jnp.where(grey, apart[..., channels:][..., :1], apart[..., :channels])
        normal_chance = jax.random.bernoulli(kind_key, one.gaussian_chance)
        noise = jnp.where(normal_chance, gaussian, photons)
    return jnp.clip(image + noise, 0, 1)


def _jpeg(key: jax.Array, image: jax.Array, one: Round) -> jax.Array:
    if one.quality is None:
        return image
    quality = jax.random.randint(key, (1,), one.quality[0], one.quality[1] + 1)
    return jpeg.compress(image[None], quality)[0]
