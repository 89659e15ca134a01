"""The conditional denoiser: its view, its network, its training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import methods, models, views
from jaxkd.core import config as configs
from jaxkd.core import optim
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.types import Spec
from jaxkd.models.lowres_denoiser import depth_to_space, space_to_depth
from jaxkd.recipes import cross_resolution
from tests.fields import loss_of

INFO = Info("test", 2, (16, 16, 3), (0.5,) * 3, (0.25,) * 3, ("a", "b"))
LOW = {"name": "low", "base": {"name": "recolour"}, "side": 4}
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def seen():
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    view = views.build("noisy", INFO, base=LOW, time=0.25)
    return view.evaluate({"image": jnp.asarray(images), "label": jnp.arange(3)})


def _method(shape=(16, 16, 7)):
    fields = {
        "image": jax.ShapeDtypeStruct((16, 16, 3), jnp.float32),
        "noisy": jax.ShapeDtypeStruct(shape, jnp.float32),
    }
    network = models.build("lowres_denoiser", 2, widths=(8, 8, 16))
    return methods.make(
        "gdrd_generator", Spec(network, {}, 2, fields, 1.0, 9, "noisy"), {}
    )


def test_the_view_joins_noise_condition_and_time(seen):
    assert seen["noisy"].shape == (3, 16, 16, 7)
    np.testing.assert_array_equal(seen["noisy"][..., -1], 0.25)
    small = seen["noisy"][..., 3:6].reshape(3, 4, 4, 4, 4, 3).mean((2, 4))
    np.testing.assert_allclose(small, seen["low"], atol=0.6)
    noise = seen["noisy"][..., :3] - np.cos(np.pi / 8) * seen["image"]
    np.testing.assert_allclose(noise.std() / np.sin(np.pi / 8), 1, 0.05)
    with pytest.raises(UserError, match="> 0 and <= 1"):
        views.build("noisy", INFO, base=LOW, time=0.0)


def test_depth_and_space():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    deep = space_to_depth(x)
    assert deep.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(deep[1, 0, 2].reshape(2, 2, 3), x[1, :2, 4:])
    np.testing.assert_array_equal(depth_to_space(deep), x)


@pytest.mark.slow
def test_training_lowers_the_error_of_the_noise(seen):
    method = _method()
    params, model_state = jax.jit(method.init)(KEY)
    predict = jax.jit(method.predict)
    before = predict(params, model_state, seen)["error"]
    assert before.shape == (3,) and 0.5 < before.mean() < 3

    def loss(params, key):
        outputs, _ = method.forward(params, model_state, seen, key)
        return loss_of(method, params, model_state, outputs, seen, {}, key, 0)[0]

    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(params):
        def step(carry, key):
            params, state = carry
            value, slope = jax.value_and_grad(loss)(params, key)
            updates, state = optimizer.update(slope, state)
            return (optax.apply_updates(params, updates), state), value

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, jax.random.split(KEY, 100))

    (params, _), values = train(params)
    assert values[-20:].mean() < 0.92  # 1 is what predicting no noise costs
    batch = seen | {"mask": jnp.array([True, True, False])}
    errors = predict(params, model_state, batch)["error"]
    found = method.evaluate({"error": errors}, batch).compute()
    np.testing.assert_allclose(found["error"], errors[:2].mean(), 1e-5)
    assert method.score.lower


def test_another_number_of_channels_is_refused():
    with pytest.raises(UserError, match="Expected 7"):
        _method((16, 16, 3))


def _unlabelled():
    config = cross_resolution.gdrd(cross_resolution.glyphs("test"))
    return cross_resolution.share_unlabelled(config, 6.0)


def test_the_control_differs_in_the_training_of_its_generator_alone():
    needs = _unlabelled().needs
    trained, untrained = (
        configs.resolved(needs[name]) for name in ("backbone", "untrained")
    )
    changed = configs.changes(trained, untrained)
    place = "needs.generator."
    assert set(changed) == {
        *(f"{place}optim.lr", f"{place}optim.warmup"),
        *(f"{place}duration", f"{place}eval_every"),
    }
    # Both see the generator's images, not the students' few.
    assert trained["data"] == trained["needs"]["generator"]["data"]
    assert trained["data"]["train"] == 10_000 and "per_class" not in trained["data"]


def test_the_control_keeps_its_first_weights():
    options = configs.resolved(_unlabelled().needs.untrained.needs.generator.optim)
    weights = {"kernel": jnp.array([1.0, -2.0])}
    one = optim.optimizer(options)
    rate = optim.schedule(options, 1, 156.25)(0)
    transformation = one(rate, options["weight_decay"])
    updates, _ = transformation.update(
        {"kernel": jnp.array([3.0, 4.0])}, transformation.init(weights), weights
    )
    np.testing.assert_array_equal(updates["kernel"], 0)
