"""Images and masks move together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import views
from jaxkd.core.source import Info
from jaxkd.views import masks as mask_views

SIZE = 24
INFO = Info("x", 2, (SIZE, SIZE, 3), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25), ("a", "b"))


def batch(count=32, shape=(SIZE, SIZE)):
    """Images whose every channel is the mask itself."""
    rng = np.random.default_rng(0)
    masks = np.zeros((count, *shape), np.uint8)
    for mask in masks:
        y, x = rng.integers(4, 14, 2)
        mask[y : y + 6, x : x + 8] = 255
    images = np.repeat(masks[..., None], 3, -1)
    return {"image": images, "target_mask": masks, "label": np.ones(count, np.int32)}


def undo(images):
    return images * jnp.asarray(INFO.std) + jnp.asarray(INFO.mean)


@pytest.mark.parametrize("name", ["mask_dihedral", "mask_crop_rotate"])
def test_the_mask_stays_on_its_image(name):
    view = views.build(name, INFO)
    seen = jax.jit(view.train)(jax.random.key(0), batch())
    pixels = undo(seen["image"])
    for channel in range(3):
        np.testing.assert_allclose(pixels[..., channel], seen["target_mask"], atol=1e-5)
    moved = (seen["target_mask"] != batch()["target_mask"] / 255).any((1, 2))
    assert moved.mean() > 0.6
    assert seen["target_mask"].dtype == jnp.float32
    np.testing.assert_array_equal(seen["label"], 1)


def test_right_angles_move_every_pixel_to_one_place():
    x = batch()
    images = np.random.default_rng(1).integers(0, 256, x["image"].shape, np.uint8)
    turned, masks = mask_views.turn(jax.random.key(2), images, x["target_mask"])
    ways = set()
    for before, after, mask, moved in zip(
        images, np.asarray(turned), x["target_mask"], np.asarray(masks), strict=True
    ):
        fits = [
            (k, flip)
            for k in range(4)
            for flip in (False, True)
            if (np.rot90(before[::-1] if flip else before, k) == after).all()
        ]
        ((k, flip),) = fits
        np.testing.assert_array_equal(np.rot90(mask[::-1] if flip else mask, k), moved)
        ways.add((k, flip))
    assert len(ways) == 8


def test_images_that_are_not_square_keep_their_shape():
    x = batch(16, (16, 24))
    seen, masks = mask_views.turn(jax.random.key(0), x["image"], x["target_mask"])
    assert seen.shape == x["image"].shape and masks.shape == x["target_mask"].shape
    np.testing.assert_array_equal(seen[..., 0], masks)


@pytest.mark.torch
def test_crop_and_turn_are_those_of_the_formula():
    """A turn by 90 degrees and no crop is exact; a crop alone enlarges."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(8, 8, 2)), jnp.float32)
    quarter = mask_views._resample(image, jnp.array([8, 8]), jnp.deg2rad(90.0))
    candidates = [np.rot90(image, k) for k in (1, 3)]
    errors = [np.abs(quarter - c).max() for c in candidates]
    assert min(errors) < 1e-4
    torch = pytest.importorskip("torch")
    part = torch.from_numpy(np.array(image)[1:7, 1:7]).permute(2, 0, 1)[None]
    wanted = torch.nn.functional.interpolate(part, (8, 8), mode="bilinear")
    cropped = mask_views._resample(image, jnp.array([6, 6]), jnp.array(0.0))
    np.testing.assert_allclose(cropped, wanted[0].permute(1, 2, 0).numpy(), atol=1e-5)


def test_beyond_the_border_it_is_black():
    white = jnp.ones((16, 16, 1))
    turned = mask_views._resample(white, jnp.array([14, 14]), jnp.deg2rad(45.0))
    assert turned[0, 0] == turned[-1, -1] == 0 and turned[8, 8] == 1


def test_evaluation_changes_nothing_but_the_scale():
    view = views.build("mask_dihedral", INFO)
    seen = view.evaluate(batch())
    np.testing.assert_allclose(undo(seen["image"]) * 255, batch()["image"], atol=1e-3)
    np.testing.assert_array_equal(seen["target_mask"], batch()["target_mask"] / 255)
    assert set(view.evaluate({"image": batch()["image"]})) == {"image"}


def test_official_statistics_differ_between_training_and_test():
    view = views.build("mask_dihedral", INFO, official_statistics=True)
    black = {
        "image": np.zeros((1, SIZE, SIZE, 3), np.uint8),
        "target_mask": np.zeros((1, SIZE, SIZE), np.uint8),
    }
    train = view.train(jax.random.key(0), black)["image"][0, 0, 0]
    test = view.evaluate(black)["image"][0, 0, 0]
    np.testing.assert_allclose(
        train, [-0.448 / 0.23, -0.433 / 0.226, -0.397 / 0.235], rtol=1e-5
    )
    np.testing.assert_allclose(
        test, [-0.485 / 0.239, -0.43 / 0.225, -0.387 / 0.23], rtol=1e-5
    )
