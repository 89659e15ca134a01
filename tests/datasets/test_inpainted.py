"""The embedded set: which pictures, what is changed in them, and what is not."""

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import inpainted

pytest.importorskip("cv2")
pytest.importorskip("skimage")

SIZE = 40


@pytest.fixture(scope="module")
def dataset():
    return inpainted.load(size=SIZE, train=20, test=4)


def test_photographs_of_both_halves_differ():
    assert not set(inpainted.TRAIN) & set(inpainted.TEST)
    # Two pictures of one scene stay together.
    scene = {n for n in (*inpainted.TRAIN, *inpainted.TEST) if "motorcycle" in n}
    assert scene <= set(inpainted.TRAIN) and len(scene) == 2


def test_pictures_are_those_of_the_wheels():
    found = inpainted.photographs((*inpainted.TRAIN, *inpainted.TEST))
    assert set(found) == {*inpainted.TRAIN, *inpainted.TEST}
    from skimage import data

    np.testing.assert_array_equal(found["skimage/astronaut.png"], data.astronaut())
    with pytest.raises(UserError, match="forensics"):
        inpainted.photographs(["skimage/nothing.png"])


def test_kinds_and_labels(dataset):
    train, test = dataset.train(0).arrays, dataset.test.arrays
    count = np.bincount(train["kind"], minlength=5)
    assert count.tolist() == [8, 0, 8, 0, 4]  # Telea, biharmonic, authentic
    assert np.bincount(test["kind"]).tolist() == [4] * 5
    for arrays in (train, test):
        authentic = arrays["kind"] == len(inpainted.METHODS)
        np.testing.assert_array_equal(arrays["label"], 1 - authentic)
        assert not arrays["target_mask"][authentic].any()
        parts = (arrays["target_mask"][~authentic] > 0).mean((1, 2))
        assert (parts >= 0.04).all() and (parts <= 0.30).all()


def test_equal_seeds_make_equal_sets(dataset):
    again = inpainted.load(size=SIZE, train=20, test=4)
    other = inpainted.load(size=SIZE, train=20, test=4, seed=1)
    for name, array in dataset.test.arrays.items():
        np.testing.assert_array_equal(array, again.test.arrays[name])
    assert (dataset.test.arrays["image"] != other.test.arrays["image"]).any()


@pytest.mark.parametrize("method", inpainted.METHODS)
def test_only_the_hole_is_changed(method):
    picture = inpainted.photographs(["skimage/chelsea.png"])["skimage/chelsea.png"]
    crop = np.ascontiguousarray(picture[100:140, 100:140])
    rng = np.random.default_rng(0)
    mask = inpainted.draw_mask(SIZE, rng)
    filled = inpainted.inpaint(crop, mask, method, rng)
    np.testing.assert_array_equal(filled[mask == 0], crop[mask == 0])
    assert np.abs(filled.astype(int) - crop)[mask > 0].mean() > 1


def test_what_is_under_the_hole_does_not_matter():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = inpainted.draw_mask(SIZE, rng)
    other = np.where(mask[..., None] > 0, 255 - crop, crop)
    for method in inpainted.METHODS:
        first, second = (
            inpainted.inpaint(image, mask, method, np.random.default_rng(1))
            for image in (crop, other)
        )
        leak = np.abs(first.astype(int) - second)[mask > 0]
        # OpenCV looks at a few pixels of the hole.
        opencv = method in ("telea", "navier_stokes")
        assert (leak > 0).mean() < (0.1 if opencv else 1e-9)
        assert leak.mean() < 0.5


def test_exemplar_copies_pixels_of_the_image():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[15:22, 12:20] = 255
    filled = inpainted.inpaint(crop, mask, "exemplar", rng)
    known = {tuple(pixel) for pixel in crop[mask == 0].tolist()}
    assert all(tuple(pixel) in known for pixel in filled[mask > 0].tolist())


def test_mistakes_are_explained():
    with pytest.raises(UserError, match="telea"):
        inpainted.load(size=SIZE, train=4, test=1, test_methods=("magic",))
    flat = np.full((100, 100, 3), 7, np.uint8)
    with pytest.raises(UserError, match="less flat"):
        inpainted.make([flat], ["telea"], SIZE, 0)
