"""The augmentation of face forgery detectors against NumPy, Pillow and its counts."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.source import Info
from jaxkd.views import face_quality

INFO = Info("faces", 2, (32, 32, 3), (0.5,) * 3, (0.5,) * 3, ("real", "fake"))


def images(count=2, side=32):
    rng = np.random.default_rng(0)
    return jnp.asarray(rng.random((count, side, side, 3)), jnp.float32)


def test_blocks_go_with_the_area():
    for side, most in ((32, 1), (128, 8)):
        found = face_quality._with_blocks(
            jax.random.key(0), jnp.ones((side, side, 3)), 1
        )
        grey = float(jnp.sum(found[..., 0] == 0.5)) / 64
        assert 0 < grey <= most


def test_noise_has_its_variance_in_ycbcr():
    grey = jnp.full((64, 64, 3), 0.5)
    for level, variance in enumerate(face_quality.NOISE):
        noise = face_quality._with_noise(jax.random.key(1), grey, level) - grey
        brightness = noise @ jnp.array([0.299, 0.587, 0.114])
        assert float(brightness.var()) == pytest.approx(variance, rel=0.1)
        blue = (noise[..., 2] - brightness) / 1.772
        assert float(blue.var()) == pytest.approx(variance, rel=0.1)


def test_blur_is_a_gaussian_of_seven_or_nine_taps():
    from scipy.ndimage import gaussian_filter

    image = images(1)[0]
    for level, taps in enumerate(face_quality.KERNELS):
        wanted = gaussian_filter(
            np.asarray(image, np.float64),
            (taps / 6, taps / 6, 0),
            radius=(taps // 2, taps // 2, 0),
            mode="nearest",
        )
        found = face_quality._blurred(image, level)
        np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_pixels():
    found = np.asarray(face_quality._pixelated(images(1)[0], 0))
    blocks = found.reshape(16, 2, 16, 2, 3)
    np.testing.assert_array_equal(blocks[:, 0], blocks[:, 1])


def test_the_share_of_changed_images_and_their_kinds():
    from PIL import Image

    many = jnp.tile(images(1, 16), (200, 1, 1, 1))
    found = np.asarray(
        jax.jit(face_quality.degrade, static_argnums=2)(jax.random.key(0), many, 0.3)
    )
    changed = np.abs(found - np.asarray(many)).max(axis=(1, 2, 3)) > 1e-6
    assert 0.2 < changed.mean() < 0.4
    assert found.min() >= 0
    assert found.max() <= 1
    # Some of them are exactly what Pillow's JPEG makes of the image, or nearly so.
    content = io.BytesIO()
    picture = Image.fromarray(np.asarray(255 * many[0]).round().astype(np.uint8))
    picture.save(content, "jpeg", quality=80, subsampling=0)
    stored = np.asarray(Image.open(content)) / 255
    nearest = np.abs(found[changed] - stored).mean(axis=(1, 2, 3)).min()
    assert nearest < 0.01


@pytest.mark.slow
def test_evaluation_is_clean_unless_asked():
    pixels = jnp.asarray(255 * images(), jnp.uint8)
    batch = {"image": pixels, "label": jnp.zeros(2)}
    clean = face_quality.quality(INFO).evaluate(batch)["image"]
    np.testing.assert_allclose(clean, (pixels / 255 - 0.5) / 0.5, 1e-5, 1e-6)
    view = face_quality.quality(INFO, perturb=1.0)
    first, second = (view.evaluate(batch)["image"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert float(jnp.abs(first - clean).max()) > 0.05
    trained = face_quality.quality(INFO, probability=0.0).train(
        jax.random.key(0), batch
    )
    np.testing.assert_allclose(trained["image"], clean, 1e-5, 1e-5)
