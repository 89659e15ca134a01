"""Disturbances: what they change, and by how much."""

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.evaluators.localization import corruptions


def example(size=(40, 48)):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]]
    waves = 128 + 60 * np.sin(y / 5)[..., None] * np.cos(
        x[..., None] / 7 + np.arange(3)
    )
    image = np.clip(waves + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
    mask = np.zeros(size, np.uint8)
    mask[10:20, 12:30] = 255
    return {"image": image, "target_mask": mask, "label": np.int32(1)}


def change(kind, level):
    before = example()
    after = corruptions.apply(before, kind, level)
    return np.abs(after["image"].astype(int) - before["image"]).mean()


@pytest.mark.parametrize("kind", ["jpeg", "noise", "blur"])
def test_harsher_levels_change_more(kind):
    changes = [change(kind, level) for level in corruptions.GRID[kind]]
    assert changes == sorted(changes) and changes[-1] > changes[0] > 0
    after = corruptions.apply(example(), kind, corruptions.GRID[kind][-1])
    np.testing.assert_array_equal(after["target_mask"], example()["target_mask"])
    assert after["image"].dtype == np.uint8


@pytest.mark.parametrize("variance", [3, 23])
def test_noise_has_its_variance(variance):
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = corruptions.noise(grey, variance).astype(float)
    # Rounding adds a twelfth.
    assert noisy.var() == pytest.approx(variance + 1 / 12, rel=0.03)
    np.testing.assert_array_equal(noisy, corruptions.noise(grey, variance))


@pytest.mark.parametrize("kernel", [3, 7, 23])
def test_blur_is_that_of_opencv(kernel):
    cv2 = pytest.importorskip("cv2")
    image = example()["image"]
    wanted = cv2.GaussianBlur(image, (kernel, kernel), 0).astype(int)
    assert np.abs(corruptions.blur(image, kernel) - wanted).max() <= 2


@pytest.mark.parametrize("scale", corruptions.GRID["resize"])
def test_masks_follow_a_change_of_size(scale):
    after = corruptions.apply(example(), "resize", scale)
    assert after["image"].shape[:2] == after["target_mask"].shape
    assert after["target_mask"].shape == (round(40 * scale), round(48 * scale))
    assert set(np.unique(after["target_mask"])) == {0, 255}
    before = (example()["target_mask"] > 0).mean()
    assert (after["target_mask"] > 0).mean() == pytest.approx(before, rel=0.15)


def test_sources():
    one = example()
    source = ArraySource({name: np.stack([x, x]) for name, x in one.items()})
    disturbed = corruptions.Disturbed(source, "jpeg", 50)
    assert len(disturbed) == 2
    wanted = corruptions.jpeg(one["image"], 50)
    np.testing.assert_array_equal(disturbed[1]["image"], wanted)
    with pytest.raises(UserError, match="jpeg"):
        corruptions.apply(one, "jpg", 50)
    with pytest.raises(UserError, match="no examples"):
        corruptions.Disturbed(ArraySource({"label": np.zeros(0)}), "jpeg", 50)
