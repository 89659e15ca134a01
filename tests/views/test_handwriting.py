"""Views of handwriting: what they keep, what they destroy, what they refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.drawing.handwriting import draw_writers
from jaxkd.views import handwriting

INFO = Info("words", 0, (32, 32, 1), (0.0,), (1.0,), ())
IMAGES = draw_writers(12, 1, side=32).image
STILL = {
    "translate": 0.0,
    "scale": (1.0, 1.0),
    "rotation": 0.0,
    "shear": 0.0,
    "elastic": 0.0,
    "thickness": (1.0, 1.0),
    "gain": (1.0, 1.0),
    "noise": 0.0,
    "cutout": 0.0,
    "crop": (1.0, 1.0),
    "ratio": (1.0, 1.0),
}


def see(name="handwriting", batch=None, key=0, **options):
    view = views.build(name, INFO, **options)
    return jax.jit(view.train)(jax.random.key(key), batch or {"image": IMAGES})


def test_without_distortion_views_are_the_image():
    seen = see(**STILL)
    ink = 1 - IMAGES / 255
    assert seen["views"].shape == (12, 2, 32, 32, 1)
    np.testing.assert_allclose(seen["image"], ink, atol=1e-6)
    for place in range(2):
        np.testing.assert_allclose(seen["views"][:, place], ink, atol=1e-5)


def test_poses_are_affine_maps():
    """Against scipy's affine transformation with the matrix that was drawn."""
    key = jax.random.key(3)
    pose = handwriting._draw_pose(key, 12, 0.04, (0.9, 1.1), 3.0, 3.0)
    pose = np.asarray(handwriting._crop(key, pose, (0.6, 1.0), (0.9, 1.1)), float)
    ink = 1 - IMAGES[:, ..., 0].astype(float) / 255
    field = jnp.zeros((32, 32, 2))
    for place in range(3):
        found = handwriting._warp(ink[place][..., None], pose[place], field, 32)
        matrix, shift = pose[place][::-1, 1::-1], pose[place][::-1, 2]
        middle = np.full(2, 15.5)
        exact = ndimage.affine_transform(
            ink[place],
            matrix,
            middle + 32 * shift - matrix @ middle,
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(found[..., 0], exact, atol=1e-4)
    area = np.linalg.det(pose[:, :, :2])
    assert np.all((area > 0.6 / 1.1**2 - 1e-3) & (area < 1 / 0.9**2 + 1e-3))


@pytest.mark.slow
def test_writers_stay_nearer_than_by_natural_image_policies():
    """The share of words whose own view is the nearest picture."""

    def found(seen):
        a, b = (np.asarray(seen["views"][:, v]).reshape(12, -1) for v in (0, 1))
        distance = ((a[:, None] - b[None]) ** 2).sum(-1)
        return np.mean(distance.argmin(1) == np.arange(12))

    gentle = np.mean([found(see(key=k, crop=(0.9, 1.0))) for k in range(3)])
    harsh = np.mean([found(see("lightly", key=k)) for k in range(3)])
    assert gentle > harsh + 0.2


@pytest.mark.slow
def test_views_differ_and_repeat():
    first, again = see(), see()
    np.testing.assert_array_equal(first["views"], again["views"])
    assert np.abs(first["views"][:, 0] - first["views"][:, 1]).max() > 0.3
    assert np.abs(see(key=1)["views"] - first["views"]).max() > 0.3
    values = np.asarray(first["views"])
    assert values.min() >= 0 and values.max() <= 1


@pytest.mark.slow
def test_local_views_pairs_and_labels():
    seen = see(local_views=3)
    assert seen["local_views"].shape == (12, 3, 16, 16, 1)
    batch = {"image": IMAGES, "other": IMAGES[::-1], "label": np.zeros(12, np.int32)}
    seen = see(batch=batch, views=0, distort_image=True)
    assert "views" not in seen and seen["pair"].shape == (12, 2, 32, 32, 1)
    np.testing.assert_array_equal(seen["pair"][:, 1], seen["other"])
    clean = 1 - IMAGES / 255
    assert np.abs(seen["image"] - clean).max() > 0.3
    # Both pictures of a pair are distorted on their own.
    assert np.abs(seen["image"] - seen["other"][::-1]).max() > 0.3
    view = views.build("handwriting", INFO)
    np.testing.assert_allclose(view.evaluate(batch)["pair"][:, 0], clean, atol=1e-6)


@pytest.mark.slow
def test_lightly_flips():
    """A word and its mirror image are equally likely."""
    mirrored = []
    for key in range(4):
        view = np.asarray(see("lightly", method="byol", key=key)["views"])
        ink = (1 - IMAGES / 255)[:, None]
        plain, mirror = (
            np.sum(view * x, axis=(2, 3, 4)) for x in (ink, ink[:, :, :, ::-1])
        )
        mirrored.append(np.mean(mirror > plain))
    assert 0.2 < np.mean(mirrored) < 0.8
    with pytest.raises(UserError, match="method of view 'lightly'"):
        views.build("lightly", INFO, method="jigsaw")


def test_errors():
    with pytest.raises(UserError, match=r"crop is .*, expected the lower one first"):
        views.build("handwriting", INFO, crop=(0.9, 0.1))
    with pytest.raises(UserError, match="thicknes"):
        views.build("handwriting", INFO, thicknes=1.0)
