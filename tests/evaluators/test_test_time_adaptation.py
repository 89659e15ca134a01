"""What is done to test images, and what the statistics of a batch undo of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import methods, views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Spec
from jaxkd.evaluators import test_time_adaptation as adaptation
from jaxkd.models.resnet import ResNet

KEY = jax.random.key(0)
GAIN, OFFSET = (0.6, 0.3, 0.15), (0.1, 0.35, 0.6)
NETWORK = ResNet(4, 1, 2, (2, 3), (1, 2))
FIELDS = {
    "image": jax.ShapeDtypeStruct((16, 16, 3), jnp.float32),
    "low": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32),
    "label": jax.ShapeDtypeStruct((), jnp.int32),
}
SPEC = Spec(NETWORK, {}, 4, FIELDS, 10.0, 20, "low")
NONE = {"instance_weight": 0.0, "relation_weight": 0.0, "distance_weight": 0.0}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), np.uint8)


def test_a_disturbed_view_is_that_of_disturbed_images(images):
    """Against float64 NumPy: [0, 1], gain, offset, means of 2 x 2, [-2, 2]."""
    info = Info("test", 4, (16, 16, 3), (0.5,) * 3, (0.25,) * 3, tuple("abcd"))
    view = views.build("low", info, base={"name": "recolour"}, side=8)
    batch = {"image": jnp.asarray(images), "label": jnp.arange(12) % 4}
    seen = adaptation.disturb(view, "low", 8, "cast", batch)
    exact = images / 255 * np.array(GAIN) + np.array(OFFSET)
    wanted = 4 * (exact.reshape(12, 8, 2, 8, 2, 3).mean((2, 4)) - 0.5)
    np.testing.assert_allclose(seen["low"], wanted, 1e-4, 1e-4)
    np.testing.assert_array_equal(seen["label"], batch["label"])
    np.testing.assert_array_equal(seen["image"], view.evaluate(batch)["image"])


@pytest.mark.parametrize("name", adaptation.DISTURBANCES)
@pytest.mark.parametrize("shade", [0.0, 1.0])
def test_black_and_white_stay_shades(name, shade):
    apply = adaptation.DISTURBANCES[name].apply
    small = np.asarray(apply(jnp.full((2, 8, 8, 3), shade), 4))
    assert small.shape == (2, 4, 4, 3)
    assert small.min() >= -1e-6 and small.max() <= 1 + 1e-6


@pytest.fixture(scope="module")
def outputs():
    """Logits by mode and map of the channels, first kernels of the middle alone or not.

    Where the first convolution is 1 x 1, it sees no padding at the border.
    """
    method = methods.make("aird", SPEC, NONE)
    params, state = jax.jit(method.init)(KEY)
    kernel = params["student"]["conv1"]["kernel"]
    middle = jnp.zeros_like(kernel).at[1, 1].set(kernel[1, 1])
    narrow = {"student": {**params["student"], "conv1": {"kernel": middle}}}
    # Large, so that the constant beside the variance does not count.
    low = 100 * jax.random.normal(KEY, (12, 8, 8, 3))
    maps = {
        "plain": low,
        "gain": 0.3 * low,
        "fog": 0.3 * low + 50 * jnp.array([1.0, -2.0, 3.0]),
        "cast": low * jnp.array([0.6, 0.3, 0.15]),
    }

    @functools.cache
    def get(mode, name, whole=True):
        run = jax.jit(adaptation.make_adapted(method, mode))
        batch = {"low": maps[name], "label": jnp.arange(12) % 4}
        return np.asarray(run(params if whole else narrow, state, batch)[0]["logits"])

    return get


def gap(a, b):
    return np.abs(a - b).max() / np.abs(b).max()


def test_the_batch_undoes_one_gain_for_all_channels(outputs):
    """A convolution without bias is linear, and its batch norm divides the gain out."""
    assert gap(outputs("batch", "gain"), outputs("batch", "plain")) < 1e-4
    assert gap(outputs("source", "gain"), outputs("source", "plain")) > 0.1


def test_the_batch_undoes_offsets_but_for_the_border(outputs):
    narrow = functools.partial(outputs, "batch", whole=False)
    assert gap(narrow("fog"), narrow("plain")) < 1e-4
    assert gap(outputs("batch", "fog"), outputs("batch", "plain")) > 1e-3


def test_the_batch_does_not_undo_a_gain_for_each_channel(outputs):
    narrow = functools.partial(outputs, "batch", whole=False)
    assert gap(narrow("cast"), narrow("plain")) > 1e-2


def test_unknown_disturbances_are_refused():
    with pytest.raises(UserError, match="disturbance is 'smog', expected one of"):
        methods.make("aird", SPEC, {**NONE, "disturbances": ("smog",)})
