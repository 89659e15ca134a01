import math

import numpy as np
import pytest

from jaxkd.metrics import image_editing as metrics


def images():
    rng = np.random.default_rng(0)
    first = rng.uniform(size=(24, 20, 3))
    return first, np.clip(first + 0.1 * rng.normal(size=first.shape), 0, 1)


def test_cosines_by_hand():
    a, b = np.array([3.0, 4.0]), np.array([4.0, 3.0])
    assert metrics.clip_score(a, b) == pytest.approx(96.0)
    assert metrics.clip_score(a, -b) == 0
    steps = np.array([[1.0, 0.0], [1.0, 1.0]])
    got = metrics.directional_similarity(a, a + steps[0], b, b + steps[1])
    assert got == pytest.approx(math.sqrt(0.5))
    reverted = np.array([[1.0, 0.0], [3.0, 3.9]])
    assert metrics.aspect_accuracy(a, np.array([3.0, 3.8]), reverted) == 0.5


def test_asking_a_model():
    def ask(image, question):
        assert "a [blue] [fox]" in question
        return [1, 0]

    assert metrics.asked_accuracy(ask, np.zeros(1), "a [blue] [fox]") == 0.5
    with pytest.raises(ValueError, match="2 answers for 1"):
        metrics.asked_accuracy(lambda image, text: [1, 0], np.zeros(1), "a [fox]")


def test_ssim_as_in_scikit_image():
    skimage = pytest.importorskip("skimage.metrics")
    first, second = images()
    _, expected = skimage.structural_similarity(
        first,
        second,
        channel_axis=-1,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    got = metrics.ssim_map(first, second)
    # The border is handled otherwise there.
    np.testing.assert_allclose(
        got[5:-5, 5:-5], expected.mean(-1)[5:-5, 5:-5], atol=1e-6
    )


def test_what_stayed_as_it_was():
    first, second = images()
    mask = np.zeros((24, 20), bool)
    mask[:, 10:] = True
    second[:, 10:] = 0.5
    right = metrics.unedited(first, second, mask)
    squared = np.mean((first - second)[:, :10] ** 2)
    assert right["mse"] == pytest.approx(squared)
    assert right["psnr"] == pytest.approx(-10 * math.log10(squared))
    compat = metrics.unedited(first, second, mask, compat=True)
    # The published one counts the zeros inside the mask too.
    assert compat["mse"] == pytest.approx(squared / 2)
    assert compat["ssim"] > right["ssim"]
    same = metrics.unedited(first, first, mask)
    assert same["psnr"] == math.inf and same["ssim"] == pytest.approx(1.0)
    assert math.isnan(metrics.unedited(first, second, ~np.zeros_like(mask))["mse"])


def test_structure_distance():
    keys = np.array([[1.0, 0.0], [0.0, 2.0]])
    turned = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert metrics.structure_distance(keys, 3 * keys) == 0
    # Two of the four similarities change from 0 to 1.
    assert metrics.structure_distance(keys, turned) == pytest.approx(0.5)
