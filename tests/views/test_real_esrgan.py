"""The degradation of Real-ESRGAN: noise, stages switched off, keys, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.views import degrade, jpeg, real_esrgan

INFO = Info("x", 0, (24, 32, 3), (0.5,) * 3, (0.25,) * 3, ())
OFF = {
    "blur_chance": 0.0,
    "directions": (0, 0, 1),
    "noise": (0.0, 0.0),
    "poisson": (0.0, 0.0),
    "quality": None,
}


def images(count=3, shape=(24, 32, 3)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def build(**options):
    return views.build("real_esrgan", INFO, base={"name": "signed"}, **options)


@pytest.mark.parametrize(
    "kernel", ["bicubic_aa", pytest.param("bicubic_noaa", marks=pytest.mark.slow)]
)
def test_all_off_is_one_resize_in_8_bits(kernel):
    view = build(first=OFF, second=OFF, final_sinc_chance=0.0, kernels=(kernel,))
    found = jax.jit(view.train)(jax.random.key(0), {"image": images()})
    assert found["low"].shape == (3, 6, 8, 3)
    # The second round's sizes are relative to the small image: it resizes to it.
    unit = jnp.asarray(images(), jnp.float32) / 255
    small = jnp.clip(degrade.resize(unit, (6, 8), kernel), 0, 1)
    expected = 2 * jnp.round(255 * small) / 255 - 1
    np.testing.assert_allclose(found["low"], expected, atol=1.01 * 2 / 255)
    assert (np.abs(found["low"] - expected) < 1e-5).mean() > 0.99  # but for ties
    np.testing.assert_allclose(found["image"], 2 * unit - 1, atol=1e-6)


def test_a_size_between_and_a_blur_at_its_border():
    """Half the side, blurred there, then a quarter: as arrays of those sizes."""
    first = OFF | {"directions": (0, 1, 0), "scales": (0.5, 0.5)}
    second = OFF | {
        "blur_chance": 1.0,
        "shapes": (1, 0, 0, 0, 0, 0),
        "sinc_chance": 0.0,
    }
    second |= {"sigma": (1.5, 1.5)}
    still = {"final_sinc_chance": 0.0, "kernels": ("bilinear",), "sizes": (7, 7)}
    view = build(first=first, second=second, **still)
    found = jax.jit(view.train)(jax.random.key(0), {"image": images()})["low"]
    half = degrade.resize(
        jnp.asarray(images(), jnp.float32) / 255, (12, 16), "bilinear"
    )
    tap = np.exp(-0.5 * (np.arange(-3, 4) / 1.5) ** 2)
    kernel = np.outer(tap, tap)[None, ..., None] / tap.sum() ** 2
    blurred = ndimage.correlate(np.float64(half), kernel, mode="nearest")
    small = degrade.resize(jnp.asarray(blurred, jnp.float32), (6, 8), "bilinear")
    np.testing.assert_allclose((found + 1) / 2, small, atol=0.51 / 255)


def test_jpeg_alone_is_the_librarys():
    second = OFF | {"quality": (30, 30)}
    view = build(
        first=OFF, second=second, final_sinc_chance=0.0, kernels=("area",), scale=1
    )
    found = jax.jit(view.train)(jax.random.key(1), {"image": images()})["low"]
    unit = jnp.asarray(images(), jnp.float32) / 255
    expected = 2 * jpeg.compress(unit, jnp.full(3, 30)) - 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.fixture(scope="module")
def whole():
    return jax.jit(build(sizes=(3, 7)).train)


@pytest.mark.slow
def test_a_key_and_a_place_decide(whole):
    batch = {"image": images()}
    one, again, other = (
        np.asarray(whole(jax.random.key(seed), batch)["low"]) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).mean() > 0.02
    # Equal images at different places, and different ones at an equal place
    same = np.asarray(whole(jax.random.key(0), {"image": images()[[0, 0, 0]]})["low"])
    assert np.abs(same[0] - same[1]).mean() > 0.02
    np.testing.assert_array_equal(same[0], one[0])
    levels = (one + 1) / 2 * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    assert one.min() >= -1 and one.max() <= 1


def test_evaluation_draws_always_alike():
    noise = OFF | {"noise": (0.1, 0.1), "gaussian_chance": 1.0}
    still = {"final_sinc_chance": 0.0, "kernels": ("area",)}
    view = build(first=OFF, second=noise, **still)
    evaluate = jax.jit(view.evaluate)
    one, again = (np.asarray(evaluate({"image": images()})["low"]) for _ in range(2))
    np.testing.assert_array_equal(one, again)
    exact = jax.jit(build(first=OFF, second=OFF, **still).evaluate)
    apart = one - np.asarray(exact({"image": images()})["low"])
    # Black to white is 2 here; the noise of pixels near either end is cut off.
    assert apart.std() == pytest.approx(0.2, rel=0.15)


def noised(one, level, grey, channels=3):
    one = one._replace(grey_chance=float(grey))
    image = jnp.full((48, 48, channels), round(255 * level) / 255)
    keys = jax.random.split(jax.random.key(0), 40)
    found = jax.jit(jax.vmap(lambda key: real_esrgan.add_noise(key, image, one)))(keys)
    return np.asarray(found - image, np.float64), float(image[0, 0, 0])


@pytest.mark.parametrize("grey", [False, True])
def test_the_variance_of_gaussian_noise(grey):
    one = real_esrgan.Round(gaussian_chance=1.0, noise=(0.05, 0.05))
    apart, _ = noised(one, 0.5, grey)
    count = apart.size / (3 if grey else 1)
    tolerance = 5 * np.sqrt(2 / count)
    assert apart.var() == pytest.approx(0.05**2, rel=tolerance)
    assert (np.ptp(apart, axis=-1) < 1e-6).all() == grey
    wide = one._replace(noise=(0.02, 0.06))
    deviations = noised(wide, 0.5, grey)[0].std((1, 2, 3))
    assert 0.018 < deviations.min() < 0.03 and 0.05 < deviations.max() < 0.065


@pytest.mark.parametrize(("level", "grey"), [(0.2, False), (0.6, False), (0.4, True)])
def test_the_variance_of_poisson_noise(level, grey):
    """Variance over the mean is factor^2 / 256, whatever the mean."""
    one = real_esrgan.Round(gaussian_chance=0.0, poisson=(1.5, 1.5))
    apart, mean = noised(one, level, grey)
    tolerance = 5 * np.sqrt(2 / (apart.size / (3 if grey else 1)))
    assert apart.var() / mean == pytest.approx(1.5**2 / 256, rel=tolerance)
    assert abs(apart.mean()) < 5 * apart.std() / np.sqrt(apart.size / 3)
    assert (np.ptp(apart, axis=-1) < 1e-6).all() == grey


def test_factors():
    draw = jax.jit(
        jax.vmap(lambda key: real_esrgan.draw_factor(key, real_esrgan.FIRST))
    )
    found = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    assert 0.15 <= found.min() < 0.17 and 1.48 < found.max() <= 1.5
    for part, expected in ((found > 1, 0.2), (found < 1, 0.7), (found == 1, 0.1)):
        assert part.mean() == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"first": {"blurr": 1}}, "first of view 'real_esrgan' has no option 'blurr'"),
        ({"second": {"noise": (0.2, 0.1)}}, "second of .* the lower one first"),
        ({"second": {"noise": (1.0, 30.0)}}, "second of view 'real_esrgan': noise"),
        ({"scale": 5}, r"24 x 32 pixels cannot be reduced by scale 5"),
        ({"sizes": (7, 20)}, "expected odd numbers"),
        ({"kernels": ("bicubic",)}, "'bicubic'"),
        ({"first": {"shapes": (1.0,) * 7}}, "shapes is .*, expected 6 numbers"),
        ({"first": {"quality": (0, 95)}}, "quality"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_data_that_have_small_images():
    with pytest.raises(UserError, match=r"config\.data\.low = False"):
        build().evaluate({"image": images(), "low": images()})
