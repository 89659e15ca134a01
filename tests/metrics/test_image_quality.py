"""PSNR and SSIM against scikit-image."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.metrics import image_quality as quality


def pair(seed=0, channels=3):
    rng = np.random.default_rng(seed)
    a = rng.uniform(size=(2, 20, 17, channels))
    return a, np.clip(a + 0.1 * rng.normal(size=a.shape), 0, 1)


def test_psnr_and_ssim_are_scikit_images():
    measure = pytest.importorskip("skimage.metrics")
    a, b = pair()
    for x, y, psnr, ssim in zip(
        a, b, quality.psnr(a, b), quality.ssim(a, b), strict=True
    ):
        reference = measure.peak_signal_noise_ratio(x, y, data_range=1)
        np.testing.assert_allclose(psnr, reference, 1e-4)
        reference = measure.structural_similarity(
            x,
            y,
            channel_axis=-1,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
        )
        np.testing.assert_allclose(ssim, reference, 1e-4)


def test_luminance_is_scikit_images():
    colour = pytest.importorskip("skimage.color")
    a, _ = pair()
    reference = colour.rgb2ycbcr(a)[..., :1] / 255
    np.testing.assert_allclose(quality.luminance(a), reference, 1e-4)
    np.testing.assert_array_equal(
        quality.luminance(a[..., :1]), a[..., :1].astype("f4")
    )


def test_equal_images_and_borders():
    a, _b = pair()
    np.testing.assert_allclose(quality.psnr(a, a), 100, 1e-5)
    np.testing.assert_allclose(quality.ssim(a, a), 1, 1e-5)
    cut = quality.crop_border(jnp.asarray(a), 2)
    np.testing.assert_array_equal(cut, a[:, 2:-2, 2:-2].astype("f4"))
    assert quality.crop_border(jnp.asarray(a), 0).shape == a.shape
    smooth = (a + np.roll(a, 1, 1) + np.roll(a, 1, 2)) / 3
    assert (quality.edge_energy(smooth) < quality.edge_energy(a)).all()


def test_what_is_too_small():
    with pytest.raises(ValueError, match="at least 11 pixels"):
        quality.ssim(jnp.zeros((1, 10, 20, 1)), jnp.zeros((1, 10, 20, 1)))
    with pytest.raises(ValueError, match="twice the border 4"):
        quality.crop_border(jnp.zeros((1, 8, 20, 1)), 4)
    with pytest.raises(ValueError, match="expected 3"):
        quality.luminance(jnp.zeros((1, 8, 20, 4)))
