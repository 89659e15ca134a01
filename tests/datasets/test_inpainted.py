"""The embedded set: which pictures, what is changed in them, and what is not."""

from collections import Counter

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import inpainted, inpainters

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
        authentic = arrays["kind"] == len(inpainters.METHODS)
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


@pytest.mark.parametrize("method", inpainters.METHODS)
def test_only_the_hole_is_changed(method):
    picture = inpainted.photographs(["skimage/chelsea.png"])["skimage/chelsea.png"]
    crop = np.ascontiguousarray(picture[100:140, 100:140])
    rng = np.random.default_rng(0)
    mask = inpainted.draw_mask(SIZE, rng)
    filled = inpainters.inpaint(crop, mask, method, rng)
    np.testing.assert_array_equal(filled[mask == 0], crop[mask == 0])
    assert np.abs(filled.astype(int) - crop)[mask > 0].mean() > 1


def test_what_is_under_the_hole_does_not_matter():
    rng = np.random.default_rng(0)
    crop = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    mask = inpainted.draw_mask(SIZE, rng)
    other = np.where(mask[..., None] > 0, 255 - crop, crop)
    for method in inpainters.METHODS:
        first, second = (
            inpainters.inpaint(image, mask, method, np.random.default_rng(1))
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
    filled = inpainters.inpaint(crop, mask, "exemplar", rng)
    known = {tuple(pixel) for pixel in crop[mask == 0].tolist()}
    assert all(tuple(pixel) in known for pixel in filled[mask > 0].tolist())


def invert(image, hole, rng):
    """An inpainter whose work can be told."""
    return 255 - image


PICTURES = ("skimage/chelsea.png", "sklearn/flower.jpg")


@pytest.fixture(scope="module")
def crops():
    kinds = inpainted.KINDS * 2
    pictures = list(inpainted.photographs(PICTURES).values())
    return kinds, pictures, inpainted.make(pictures, kinds, SIZE, 3, invert)


def source_of(image, region, pictures):
    """The crop that was there before, found by the pixels that nobody changed."""
    kept = region == 0
    for picture in pictures:
        for whole in (picture, inpainted._half(picture)):
            windows = np.lib.stride_tricks.sliding_window_view(
                whole, (SIZE, SIZE), axis=(0, 1)
            )
            fits = np.ones(windows.shape[:2], bool)
            for y, x in np.argwhere(kept)[:: max(kept.sum() // 12, 1)]:
                fits &= (windows[..., y, x] == image[y, x]).all(-1)
            for top, left in np.argwhere(fits):
                crop = whole[top : top + SIZE, left : left + SIZE]
                if (crop[kept] == image[kept]).all():
                    return crop
    return None


def test_all_that_lies_outside_of_a_region_is_the_photograph(crops):
    kinds, pictures, made = crops
    for row, kind in enumerate(kinds):
        crop = source_of(made.image[row], made.region[row], pictures)
        assert crop is not None, kind
        changed = np.abs(made.image[row].astype(int) - crop)
        inside = made.region[row] > 0
        assert not changed[~inside].any()
        if kind != inpainted.AUTHENTIC:
            assert changed[inside].mean() >= 2
        if kind == inpainted.GENERATIVE:
            np.testing.assert_array_equal(made.image[row][inside], 255 - crop[inside])


def test_hard_negatives_are_authentic(crops):
    kinds, _, made = crops
    for row, kind in enumerate(kinds):
        forged = kind in inpainted.FORGED
        assert inpainted.KINDS[made.kind[row]] == kind
        assert made.label[row] == forged
        expected = made.region[row] if forged else np.zeros((SIZE, SIZE))
        np.testing.assert_array_equal(made.target_mask[row], expected)
        assert made.region[row].any() == (kind != inpainted.AUTHENTIC)


def test_parts_of_the_training_crops():
    made = inpainted.load(
        size=SIZE,
        train=20,
        test=2,
        train_methods=("telea", "navier_stokes"),
        test_methods=("telea",),
        authentic=0.1,
        hard_negatives=0.4,
        train_negatives=("blurred", "resized"),
        test_negatives=("recompressed",),
    )
    arrays = made.train(0).arrays
    counts = Counter(inpainted.KINDS[kind] for kind in arrays["kind"])
    assert counts == {
        **{"telea": 5, "navier_stokes": 5, "blurred": 4, "resized": 4},
        "authentic": 2,
    }
    kinds = [inpainted.KINDS[kind] for kind in made.test.arrays["kind"]]
    assert kinds == ["telea"] * 2 + ["authentic"] * 2 + ["recompressed"] * 2


def test_mistakes_are_explained():
    with pytest.raises(UserError, match="telea"):
        inpainted.load(size=SIZE, train=4, test=1, test_methods=("magic",))
    flat = np.full((100, 100, 3), 7, np.uint8)
    with pytest.raises(UserError, match="less flat"):
        inpainted.make([flat], ["telea"], SIZE, 0)
    with pytest.raises(UserError, match="at most 1 together"):
        inpainted.load(size=SIZE, train=10, authentic=0.6, hard_negatives=0.5)
    with pytest.raises(UserError, match="expected some"):
        inpainted.load(size=SIZE, train=10, train_methods=())
    with pytest.raises(UserError, match="defi:inpainter"):
        inpainted.load(size=SIZE, train=2, train_methods=("generative",))
    with pytest.raises(UserError, match="no finished run"):
        inpainted.load(size=SIZE, inpainter="nowhere")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_methods": ("blurred",)}, "methods name blurred"),
        ({"test_methods": ("authentic",)}, "methods name authentic"),
        ({"train_negatives": ("telea",)}, "negatives name telea"),
        ({"test_negatives": ("nope",)}, "negatives name nope"),
        ({"test_methods": ("generative",)}, "defi:inpainter"),
        ({"size": 301}, "16 to 300 pixels.*chelsea"),
        ({"size": 4}, "size is 4"),
    ],
)
def test_mistakes_are_found_before_a_crop_is_drawn(monkeypatch, options, message):
    monkeypatch.setattr(inpainted, "make", lambda *a: pytest.fail("it draws"))
    with pytest.raises(UserError, match=message):
        inpainted.load(**{"size": SIZE, "train": 4, "test": 1} | options)


def test_pictures_that_are_missing_are_named():
    with pytest.raises(UserError, match=r"Of 2 pictures .*: skimage/nothing\.png\."):
        inpainted.photographs(["skimage/chelsea.png", "skimage/nothing.png"])


def test_parts_that_are_both_rounded_up_are_possible():
    kinds = inpainted._mixed(7, 0.5, 0.5, ["telea"], ["blurred"])
    assert Counter(kinds) == {"authentic": 4, "blurred": 3}
