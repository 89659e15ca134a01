"""Views of clips: packing, and one change for all frames of a clip."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.models.talknet import packed
from jaxkd.views import clips

INFO = Info("clips", 2, (5, 16, 16), (0.0,), (1.0,), ("real", "fake"))
RNG = np.random.default_rng(0)


def batch(count=3):
    return {
        "video": RNG.integers(0, 256, (count, 5, 16, 16)).astype(np.uint8),
        "mfcc": RNG.normal(size=(count, 20, 13)).astype(np.float32),
        "present": np.arange(5) < np.array([5, 3, 1])[:count, None],
        "label": np.zeros(count, np.int32),
    }


def test_packing_is_undone():
    given = batch()
    seen = clips.clips(INFO).evaluate(given)
    assert set(seen) == {"clip", "present", "label"}
    video, mfcc, present = packed.unpack(seen["clip"])
    np.testing.assert_array_equal(video, given["video"])
    np.testing.assert_array_equal(mfcc, given["mfcc"])
    np.testing.assert_array_equal(present, given["present"])
    with pytest.raises(ValueError, match=r"has 60 columns, expected size\^2 \+ 53"):
        packed.unpack(jnp.zeros((1, 5, 60)))


def test_changes_are_the_four_published_and_alike_in_all_frames():
    count = 64
    still = np.repeat(RNG.uniform(0, 255, (count, 1, 16, 16)), 5, 1).astype(np.float32)
    moved = np.asarray(
        jax.jit(clips.change, static_argnums=(2, 3))(
            jax.random.key(1), still, 0.7, 15.0
        )
    )
    np.testing.assert_allclose(moved, moved[:, :1].repeat(5, 1), atol=1e-3)
    same = np.abs(moved - still).max((1, 2, 3)) < 1e-3
    flipped = np.abs(moved - still[..., ::-1]).max((1, 2, 3)) < 1e-3
    assert 6 < same.sum() < 28
    assert 6 < flipped.sum() < 28
    assert 12 < (~same & ~flipped).sum() < 56


def test_a_crop_is_a_part_of_the_image_enlarged():
    """A ramp stays a ramp under a crop: its slope is the side, within its range."""
    ramp = np.broadcast_to(np.arange(16.0)[:, None] * 10, (64, 1, 16, 16))
    moved = np.asarray(clips.change(jax.random.key(2), ramp, 0.7, 0.0))[:, 0]
    slopes = np.diff(moved, axis=1)[:, 2:-2].mean((1, 2)) / 10
    cropped = slopes < 0.999
    assert cropped.any()
    assert slopes.min() >= 0.69
    assert slopes.max() <= 1.001
    assert moved.min() >= -1e-3
    assert moved.max() <= 150 + 1e-3


def test_cut_to_the_shortest_of_the_batch():
    view = clips.clips(INFO, augment=False, cut_to_shortest=True)
    given = batch()
    given["present"] = np.arange(5) < np.array([[5], [3], [4]])
    seen = view.train(jax.random.key(0), given)
    np.testing.assert_array_equal(seen["present"], [[True] * 3 + [False] * 2] * 3)
    np.testing.assert_array_equal(packed.unpack(seen["clip"])[2], seen["present"])
    # Testing cuts nothing.
    np.testing.assert_array_equal(view.evaluate(given)["present"], given["present"])
    with pytest.raises(UserError, match=r"batch of 1 clip, expected 2 or more.*visits"):
        view.train(jax.random.key(0), {k: v[:1] for k, v in given.items()})
