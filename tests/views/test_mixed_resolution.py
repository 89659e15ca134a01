"""The view of mixed resolutions against one image at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.views import degrade, mixed_resolution, standard

INFO = Info("squares", 2, (12, 12, 3), (0.5,) * 3, (0.25,) * 3, ("a", "b"))
KERNELS = ("area", "bicubic_aa")


def make(**options):
    options = {"base": {"name": "plain"}, "sides": (4, 6, 12), "kernels": KERNELS} | (
        options
    )
    return views.build("mixed_low", INFO, **options)


def batch(count=24, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, 12, 12, 3), np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.zeros(count, jnp.int32)}


def test_each_image_is_one_of_the_plain_resizes():
    seen = jax.jit(make().train)(jax.random.key(0), batch())
    images = seen["image"]
    np.testing.assert_allclose(
        images, standard.plain(INFO).evaluate(batch())["image"], 1e-6
    )
    options = [images]
    for side in (4, 6):
        for kernel in KERNELS:
            small = degrade.resize(images, side, kernel)
            options.append(degrade.resize(small, 12, "bicubic_aa"))
    gap = np.stack([np.abs(seen["low"] - one).max((1, 2, 3)) for one in options])
    assert (gap.min(0) < 1e-4).all()
    assert set(gap.argmin(0)) == set(range(5))  # all of them are drawn


def test_evaluation_is_at_one_side():
    seen = make().evaluate(batch())
    np.testing.assert_allclose(
        seen["low"], mixed_resolution.reduced(seen["image"], 4), 1e-5
    )
    full = make(evaluate_at=12).evaluate(batch())
    np.testing.assert_array_equal(full["low"], full["image"])


def test_noise_lies_within_the_small_image():
    """At one pixel a side, noise is a change of the whole image's colour."""
    view = make(sides=(1,), kernels=("area",), noise=(0.5, 0.5), probability=1.0)
    seen = view.train(jax.random.key(1), batch(200))
    low = np.asarray(seen["low"])
    np.testing.assert_allclose(low.std((1, 2)), 0, atol=1e-5)
    change = low[:, 0, 0] - np.asarray(seen["image"]).mean((1, 2))
    assert abs(change.std() - 0.5) < 0.05


@pytest.mark.slow
def test_blur_takes_detail_away():
    plain, blurred = (
        make(sides=(12,), blur=blur, probability=1.0).train(jax.random.key(2), batch())
        for blur in ((0.0, 0.0), (1.5, 1.5))
    )
    np.testing.assert_array_equal(plain["low"], plain["image"])
    assert np.std(blurred["low"]) < 0.5 * np.std(plain["low"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sides": (4, 13)}, r"sides is \(4, 13\), expected some from 1 to 12"),
        ({"sides": ()}, "sides is .., expected a list of one or more"),
        ({"kernels": ("cubic",)}, "kernel is 'cubic', expected one of"),
        ({"kernels": ()}, "kernels is .., expected a list of one or more"),
        ({"probability": 2.0}, "probability is 2.0"),
        ({"blur": (3.0, 0.0)}, r"blur is \(3.0, 0.0\), expected the lower one first"),
        ({"noise": (0.2, 0.1)}, r"noise is \(0.2, 0.1\), expected the lower one first"),
        ({"evaluate_at": 0}, "evaluate_at is 0, expected 1 to 12"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_images_must_be_square():
    with pytest.raises(UserError, match="12 x 10 pixels, expected square"):
        mixed_resolution.mixed_low(
            INFO._replace(image_shape=(12, 10, 3)),
            base={"name": "plain"},
            sides=(4,),
        )
