"""Views that add a small copy of the very same augmented image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.views import degrade

INFO = Info("test", 2, (16, 16, 3), (0.5,) * 3, (0.25,) * 3, ("a", "b"))
BASE = {"name": "recolour", "shift": 2}


@pytest.fixture(scope="module")
def batch():
    images = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.arange(6)}


def test_the_copy_is_made_of_what_the_teacher_sees(batch):
    view = views.build("low", INFO, base=BASE, side=4)
    seen = jax.jit(view.train)(jax.random.key(0), batch)
    assert seen["low"].shape == (6, 4, 4, 3) and seen["image"].shape == (6, 16, 16, 3)
    wanted = seen["image"].reshape(6, 4, 4, 4, 4, 3).mean((2, 4))
    np.testing.assert_allclose(seen["low"], wanted, atol=1e-6)
    plain = views.build("recolour", INFO, shift=2)
    alone = plain.train(jax.random.key(0), batch)
    np.testing.assert_allclose(seen["image"], alone["image"], atol=1e-5)
    np.testing.assert_array_equal(seen["label"], batch["label"])
    still = view.evaluate(batch)
    scaled = (np.asarray(batch["image"]) / 255 - 0.5) * 4
    np.testing.assert_allclose(still["image"], scaled, atol=1e-5)


def test_recolour_only_moves_and_recolours(batch):
    seen = views.build("recolour", INFO, shift=2).train(jax.random.key(3), batch)
    scaled = (np.asarray(batch["image"], float) / 255 - 0.5) * 4
    kinds = set()
    for found, image in zip(np.asarray(seen["image"]), scaled, strict=True):
        matches = [
            (down, across, sign)
            for down in range(-2, 3)
            for across in range(-2, 3)
            for sign in (1, -1)
            if np.allclose(
                np.sort(found, axis=-1),
                np.sort(sign * np.roll(image, (down, across), (0, 1)), axis=-1),
                atol=1e-5,
            )
        ]
        assert len(matches) == 1
        kinds.add(matches[0])
    assert len(kinds) > 3


def test_several_resolutions_of_one_image(batch):
    middle = {"name": "low", "base": BASE, "side": 8, "field": "mid"}
    view = views.build("low", INFO, base=middle, side=4, source="mid", up_to=16)
    seen = view.train(jax.random.key(1), batch)
    small = degrade.resize(seen["mid"], 4, "area")
    wanted = degrade.resize(small, 16, "bicubic_aa")
    np.testing.assert_allclose(seen["low"], wanted, atol=1e-5)


def test_noise_differs_in_training_and_repeats_in_evaluation(batch):
    view = views.build(
        "low",
        INFO,
        base=BASE,
        side=8,
        noise=(0.1, 0.2),
        quality=(30, 60),
        levels=(-2.0, 2.0),
    )
    one, other = (view.train(jax.random.key(k), batch)["low"] for k in (1, 2))
    assert (one != other).any() and jnp.isfinite(one).all()
    again = view.evaluate(batch)["low"]
    np.testing.assert_array_equal(view.evaluate(batch)["low"], again)


def test_errors(batch):
    for options, message in (
        ({"side": 32}, "smaller side, or larger images"),
        ({"side": 4, "noise": (0.0, 0.1)}, "Set levels"),
        ({"side": 4, "base": {"name": "nothing"}}, "recolour"),
        ({"side": 4, "kernel": "lanczos"}, "bicubic_aa"),
    ):
        with pytest.raises(UserError, match=message):
            views.build("low", INFO, **({"base": BASE} | options))
    view = views.build("low", INFO, base=BASE, side=4, source="mid")
    with pytest.raises(UserError, match="source"):
        view.evaluate(batch)
    view = views.build("low", INFO, base=BASE, side=4)
    with pytest.raises(UserError, match="would replace the field 'low'"):
        view.evaluate(batch | {"low": batch["image"][:, ::2, ::2]})
