"""RandAugment and cutout against Pillow, image by image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from jaxkd.core.errors import UserError
from jaxkd.views import randaugment

COUNT = 300
SHAPES = {"rgb": (32, 32, 3), "odd": (17, 23, 3), "grey": (20, 21, 1)}
# Share of the numbers that may differ, and by how much. Pillow spreads levels in
# float64, which falls short of some whole numbers and then loses one level; this is
# frequent only among few levels. Blends round like Pillow's float32 unless a compiler
# joins product and sum. Angles reach Pillow's fixed-point numbers through float32.
ROUNDED, MOVED = (1e-4, 1), (1e-4, 255)
TOLERANCES = {
    "auto_contrast": (5e-3, 1),
    "rotate": MOVED,
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), ROUNDED),
}


def affine(image, *matrix):
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


PILLOW = {
    "auto_contrast": lambda x, v: ImageOps.autocontrast(x),
    "brightness": lambda x, v: ImageEnhance.Brightness(x).enhance(v),
    "color": lambda x, v: ImageEnhance.Color(x).enhance(v),
    "contrast": lambda x, v: ImageEnhance.Contrast(x).enhance(v),
    "equalize": lambda x, v: ImageOps.equalize(x),
    "identity": lambda x, v: x,
    "posterize": lambda x, v: ImageOps.posterize(x, int(v)),
    "rotate": lambda x, v: x.rotate(v),
    "sharpness": lambda x, v: ImageEnhance.Sharpness(x).enhance(v),
    "shear_x": lambda x, v: affine(x, 1, v, 0, 0, 1, 0),
    "shear_y": lambda x, v: affine(x, 1, 0, 0, v, 1, 0),
    "solarize": lambda x, v: ImageOps.solarize(x, v),
    "translate_x": lambda x, v: affine(x, 1, 0, v * x.width, 0, 1, 0),
    "translate_y": lambda x, v: affine(x, 1, 0, 0, 0, 1, v * x.height),
}


def to_pillow(image):
    return Image.fromarray(image if image.shape[-1] == 3 else image[..., 0])


def by_pillow(name, images, magnitudes):
    results = [
        np.asarray(PILLOW[name](to_pillow(image), float(magnitude)))
        for image, magnitude in zip(images, magnitudes, strict=True)
    ]
    return np.reshape(results, images.shape)


def random_images(shape, count=COUNT, seed=0):
    """Noise, noise of few levels, gradients with noise, and uniform images."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (count, *shape))
    low = rng.integers(0, 200, (count, 1, 1, shape[-1]))
    few = low + noise * rng.integers(1, 56, low.shape) // 256
    ramp = np.linspace(0, 1, shape[1])[:, None] * low + noise // 8
    flat = np.broadcast_to(low, noise.shape)
    kinds = np.stack([noise, few, ramp, flat])
    return kinds[np.arange(count) % 4, np.arange(count)].astype(np.uint8)


def random_magnitudes(name, count=COUNT, seed=1):
    low, high = randaugment.OPS[name]
    drawn = np.random.default_rng(seed).uniform(low, high, count)
    return np.concatenate([[low, high], drawn[2:]]).astype(np.float32)


@pytest.fixture(scope="module")
def apply():
    return jax.jit(randaugment.apply)


def check(name, got, images, magnitudes):
    wanted = by_pillow(name, images, magnitudes).astype(int)
    difference = np.abs(np.asarray(got).astype(int) - wanted)
    share, largest = TOLERANCES.get(name, (0, 0))
    assert (difference > 0).mean() <= share
    assert difference.max() <= largest
    return wanted


@pytest.mark.parametrize("kind", SHAPES)
def test_operations_equal_pillow(apply, kind):
    images = random_images(SHAPES[kind])
    for index, name in enumerate(randaugment.NAMES):
        magnitudes = random_magnitudes(name)
        got = apply(images, np.full(COUNT, index), magnitudes)
        assert got.dtype == jnp.uint8
        wanted = check(name, got, images, magnitudes)
        unchanged = name == "identity" or (name == "color" and kind == "grey")
        assert (wanted == images).all() == unchanged


@pytest.mark.parametrize("name", PILLOW)
def test_functions_of_single_operations_equal_pillow(name):
    images, magnitudes = random_images((9, 8, 3), 40), random_magnitudes(name, 40)
    function = getattr(randaugment, name)
    if randaugment.OPS[name] == (0, 0):
        got = jax.jit(function)(images)
    else:
        got = jax.jit(function)(images, magnitudes)
    check(name, got, images, magnitudes)


@pytest.mark.parametrize("name", ["brightness", "color", "contrast", "sharpness"])
def test_factors_above_one_exaggerate(name):
    images = random_images((9, 8, 3), 40)
    factors = np.linspace(1, 3, 40, dtype=np.float32)
    got = jax.jit(getattr(randaugment, name))(images, factors)
    check(name, got, images, factors)
    np.testing.assert_array_equal(got[0], images[0])


@pytest.mark.parametrize(
    "how", [randaugment._equalize_by_index, randaugment._equalize_by_products]
)
@pytest.mark.parametrize("pixels", [3, 256, 509, 513, 1024])
def test_equalizing_on_any_device(how, pixels):
    rng = np.random.default_rng(pixels)
    levels = rng.integers(0, rng.integers(1, 257, (40, 1, 3)), (40, pixels, 3))
    levels[0] = 255  # nothing to equalise
    got = jax.jit(how)(levels)
    images = levels.reshape(40, pixels, 1, 3).astype(np.uint8)
    wanted = by_pillow("equalize", images, np.zeros(40))
    np.testing.assert_array_equal(got, wanted.reshape(levels.shape))


def test_each_image_has_an_operation_of_its_own(apply):
    images = random_images(SHAPES["odd"])
    names = [randaugment.NAMES[i % 14] for i in range(COUNT)]
    magnitudes = np.array([random_magnitudes(n)[i] for i, n in enumerate(names)])
    got = np.asarray(apply(images, np.arange(COUNT) % 14, magnitudes))
    for name in randaugment.NAMES:
        mine = np.array(names) == name
        check(name, got[mine], images[mine], magnitudes[mine])


def test_directions():
    """What Pillow's signs mean, without Pillow."""
    image = np.zeros((1, 5, 5, 1), np.uint8)
    image[0, 2, 4] = 200  # right of the middle
    quarter = randaugment.rotate(image, jnp.array([90.0]))
    assert quarter[0, 0, 2, 0] == 200  # anticlockwise: now above the middle
    moved = randaugment.translate_x(image, jnp.array([0.4]))
    assert moved[0, 2, 2, 0] == 200 and (moved > 0).sum() == 1
    moved = randaugment.translate_y(image, jnp.array([-0.2]))
    assert moved[0, 3, 4, 0] == 200
    gone = randaugment.translate_x(image, jnp.array([-0.4]))
    assert not gone.any()  # black comes in, nothing comes round
    # The middle of row 2 is 2.5 pixels from the top; half a pixel rounds up.
    assert randaugment.shear_x(image, jnp.array([1.0]))[0, 2, 1, 0] == 200
    assert randaugment.shear_y(image, jnp.array([0.2]))[0, 1, 4, 0] == 200


def test_operations_and_magnitudes_are_uniform(monkeypatch):
    drawn = []

    def record(images, op, magnitude):
        jax.debug.callback(lambda *x: drawn.append(x), op, magnitude)
        return images

    monkeypatch.setattr(randaugment, "apply", record)
    images = jnp.zeros((7000, 2, 2, 3), jnp.uint8)
    randaugment.randaugment(jax.random.key(0), images, ops=3)
    jax.effects_barrier()
    op, magnitude = (np.stack(x) for x in zip(*drawn, strict=True))
    assert op.shape == (3, 7000)
    for layer in op:
        counts = np.bincount(layer, minlength=14)
        # Chi-square with 13 degrees of freedom: 34.5 is exceeded once in a thousand.
        assert ((counts - 500) ** 2 / 500).sum() < 34.5
    # With replacement: the same operation again as often as any other.
    assert abs((op[0] == op[1]).mean() - 1 / 14) < 4 * np.sqrt(1 / 14 / 7000)
    for index, (low, high) in enumerate(randaugment.OPS.values()):
        values = magnitude[op == index]
        assert low <= values.min() and values.max() <= high
        np.testing.assert_allclose(
            values.mean(), (low + high) / 2, atol=(high - low) / 20
        )
        np.testing.assert_allclose(values.std(), (high - low) / 12**0.5, rtol=0.1)


@pytest.mark.slow
def test_operations_follow_one_another(monkeypatch):
    images, key = random_images(SHAPES["odd"], 28), jax.random.key(4)
    once = jax.jit(lambda: randaugment.randaugment(key, images, ops=1))()
    assert 14 < (np.asarray(once) != images).any((1, 2, 3)).sum() < 28
    monkeypatch.setattr(randaugment, "apply", lambda images, *_: images // 2 + 1)
    thrice = randaugment.randaugment(key, jnp.asarray(images), ops=3)
    np.testing.assert_array_equal(thrice, ((images // 2 + 1) // 2 + 1) // 2 + 1)
    none = randaugment.randaugment(key, jnp.asarray(images), ops=0)
    np.testing.assert_array_equal(none, images)


@pytest.mark.parametrize(("kind", "colour"), [("rgb", None), ("odd", (1, 200, 3))])
def test_cutout_equals_pillows_rectangle(kind, colour):
    shape, side, key = SHAPES[kind], 0.7, jax.random.key(3)
    images = random_images(shape)
    options = {} if colour is None else {"colour": colour}
    got = jax.jit(lambda k, x: randaugment.cutout(k, x, side=side, **options))
    got = np.asarray(got(key, images))
    side_key, centre_key = jax.random.split(key)
    height, width = shape[:2]
    length = side * width * np.asarray(jax.random.uniform(side_key, (COUNT,)), float)
    centre = np.asarray(jax.random.uniform(centre_key, (2, COUNT)), float)
    for image, out, v, (down, across) in zip(
        images, got, length, centre.T, strict=True
    ):
        left = int(max(0, across * width - v / 2))
        top = int(max(0, down * height - v / 2))
        box = left, top, min(width, left + v), min(height, top + v)
        wanted = to_pillow(image).copy()
        ImageDraw.Draw(wanted).rectangle(box, colour or (125, 123, 114))
        np.testing.assert_array_equal(out, np.asarray(wanted))


def test_cutout_of_grey_images_paints_the_luma():
    images = np.zeros((5, 8, 8, 1), np.uint8)
    got = np.asarray(randaugment.cutout(jax.random.key(0), jnp.asarray(images)))
    luma = np.asarray(Image.new("RGB", (1, 1), (125, 123, 114)).convert("L")).item()
    assert set(np.unique(got)) == {0, luma}


@pytest.mark.slow
def test_batches_of_batches():
    images = random_images(SHAPES["odd"], 12).reshape(2, 6, *SHAPES["odd"])
    keys = jax.random.split(jax.random.key(0))
    for function in (randaugment.randaugment, randaugment.cutout):
        together = jax.jit(jax.vmap(function))(keys, images)
        for key, one, wanted in zip(keys, images, together, strict=True):
            np.testing.assert_array_equal(jax.jit(function)(key, one), wanted)


@pytest.mark.parametrize(
    "images", [np.zeros((2, 4, 4, 2), np.uint8), np.zeros((2, 4, 4, 3))]
)
def test_other_images_are_refused(images):
    for function in (randaugment.randaugment, randaugment.cutout):
        with pytest.raises(UserError, match="expected uint8 with 1 or 3 channels"):
            function(jax.random.key(0), images)
    with pytest.raises(UserError, match="expected uint8"):
        randaugment.apply(images, np.zeros(2, int), np.zeros(2))
