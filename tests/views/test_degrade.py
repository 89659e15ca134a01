"""The degradations against Pillow, OpenCV, SciPy and torch."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from jaxkd.core.errors import UserError
from jaxkd.views import degrade, jpeg


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).uniform(0, 1, (24, 30)).astype(np.float32)


def _ours(image, rows, columns, kernel):
    return np.asarray(degrade.resize(image[None, :, :, None], (rows, columns), kernel))[
        0, :, :, 0
    ]


# No centre of an output pixel falls on an edge, where libraries differ.
SIDES = [(8, 10), (7, 9), (24, 16), (40, 50), (1, 7)]
PILLOW = {
    "bicubic_aa": Image.Resampling.BICUBIC,
    "bilinear_aa": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
}


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kernel", PILLOW)
def test_resize_as_pillow(image, sides, kernel):
    wanted = Image.fromarray(image).resize(sides[::-1], PILLOW[kernel])
    np.testing.assert_allclose(_ours(image, *sides, kernel), wanted, atol=1e-5)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("kernel", ["bicubic_noaa", "bilinear", "area"])
def test_resize_as_opencv(image, sides, kernel):
    cv2 = pytest.importorskip("cv2")
    if kernel == "area" and sides[0] > 24:
        pytest.skip("OpenCV enlarges by another rule")
    flag = {
        "bicubic_noaa": cv2.INTER_CUBIC,
        "bilinear": cv2.INTER_LINEAR,
        "area": cv2.INTER_AREA,
    }[kernel]
    wanted = cv2.resize(image, sides[::-1], interpolation=flag)
    np.testing.assert_allclose(_ours(image, *sides, kernel), wanted, atol=1e-5)


@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("sides", SIDES)
def test_resize_as_torch(image, sides):
    torch = pytest.importorskip("torch")
    for kernel, mode in (
        ("bicubic_noaa", "bicubic"),
        ("bilinear", "bilinear"),
        ("nearest", "nearest-exact"),
    ):
        wanted = torch.nn.functional.interpolate(
            torch.tensor(image)[None, None], sides, mode=mode
        )[0, 0]
        np.testing.assert_allclose(_ours(image, *sides, kernel), wanted, atol=1e-5)


def test_area_is_the_mean_of_whole_blocks(image):
    wanted = image.reshape(8, 3, 10, 3).mean((1, 3))
    np.testing.assert_allclose(_ours(image, 8, 10, "area"), wanted, atol=1e-6)


@pytest.mark.parametrize("kernel", degrade.KERNELS)
def test_every_kernel_keeps_a_constant_and_its_own_size(kernel, image):
    flat = jnp.full((1, 12, 12, 3), 0.25)
    np.testing.assert_allclose(degrade.resize(flat, 5, kernel), 0.25, atol=1e-6)
    np.testing.assert_array_equal(_ours(image, 24, 30, kernel), image)
    # Half-pixel centres: a mirrored image gives the mirrored result. (Nearest breaks
    # ties to one side, so its factor is odd.)
    once = _ours(image, 8, 10, kernel)
    again = _ours(image[::-1, ::-1], 8, 10, kernel)[::-1, ::-1]
    np.testing.assert_allclose(once, again, atol=1e-5)


def test_blur_as_scipy(image):
    sigmas = np.array([0.0, 0.6, 1.7])
    images = jnp.asarray(np.stack([image] * 3))[..., None]
    found = degrade.blur(images, jnp.asarray(sigmas, jnp.float32), 7)[..., 0]
    np.testing.assert_allclose(found[0], image, atol=1e-6)
    for one, sigma in zip(found[1:], sigmas[1:], strict=True):
        wanted = gaussian_filter(image, sigma, mode="nearest", radius=7)
        np.testing.assert_allclose(one, wanted, atol=1e-5)


def _smooth(height, width):
    rng = np.random.default_rng(1)
    coarse = rng.uniform(0, 1, (1, 5, 5, 3))
    images = degrade.resize(
        jnp.asarray(coarse, jnp.float32), (height, width), "bilinear"
    )
    return jnp.round(images * 255) / 255


@pytest.mark.parametrize("quality", [15, 50, 90])
@pytest.mark.parametrize("sides", [(32, 32), (19, 26)])
def test_jpeg_as_pillow(quality, sides):
    images = _smooth(*sides)
    pixels = np.asarray(jnp.round(images[0] * 255)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    wanted = np.asarray(Image.open(file)).astype(float)
    found = 255 * np.asarray(jpeg.compress(images, jnp.array([quality])))[0]
    # libjpeg transforms in integers, so that some coefficients round the other way,
    # which moves a block by up to half a step of its table.
    assert np.abs(found - wanted).mean() < 0.6
    assert np.quantile(np.abs(found - wanted), 0.9) <= 2
    assert np.abs(wanted - pixels).mean() > 2 * np.abs(found - wanted).mean()


def test_jpeg_of_grey_images_and_other_channels():
    images = _smooth(16, 16)
    grey = jpeg.compress(images[..., :1], jnp.array([100]))
    np.testing.assert_allclose(grey, images[..., :1], atol=1.5 / 255)
    with pytest.raises(ValueError, match="2 channels"):
        jpeg.compress(images[..., :2], jnp.array([50]))


def test_degrade_is_a_function_of_key_and_images():
    images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3), minval=-2, maxval=2)
    how = degrade.Degradation(
        8,
        up_to=16,
        blur=(0.2, 1.0),
        noise=(0.02, 0.1),
        quality=(20, 60),
        levels=(-2.0, 2.0),
    )
    run = jax.jit(lambda key: degrade.degrade(key, images, how))
    one, again, other = (run(jax.random.key(k)) for k in (1, 1, 2))
    assert one.shape == images.shape and jnp.isfinite(one).all()
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.9
    # Without anything random, only the resize is left.
    plain = degrade.degrade(jax.random.key(1), images, degrade.Degradation(8))
    np.testing.assert_allclose(
        plain, images.reshape(4, 8, 2, 8, 2, 3).mean((2, 4)), atol=1e-6
    )


def test_noise_has_the_deviation_asked_for():
    images = jnp.zeros((64, 16, 16, 1))
    how = degrade.Degradation(16, noise=(0.1, 0.1), levels=(-2.0, 2.0))
    noisy = degrade.degrade(jax.random.key(0), images, how)
    np.testing.assert_allclose(noisy.std(), 0.4, 0.02)


def test_errors():
    images = jnp.zeros((1, 8, 8, 3))
    for how, message in (
        (degrade.Degradation(9), "smaller side, or larger images"),
        (degrade.Degradation(4, kernel="cubic"), "bicubic_aa"),
        (degrade.Degradation(4, up_to=2), "at least the side"),
        (degrade.Degradation(4, blur=(2.0, 1.0)), "low <= high"),
        (degrade.Degradation(4, quality=(0, 50)), "1 <= low"),
    ):
        with pytest.raises(UserError, match=message):
            degrade.degrade(jax.random.key(0), images, how)
