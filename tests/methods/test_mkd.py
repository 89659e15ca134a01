"""MKD's bi-level gradient against differences and closed forms; its options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, Loss, LossInputs, Spec
from jaxkd.methods import mkd, super_resolution
from jaxkd.models.edsr import EDSR


def toy(params, inputs):
    """A student of one number, which knowledge of one number pulls at."""
    theta, phi = params["student"], params["knowledge"]
    x, y = inputs.batch["x"], inputs.batch["y"]
    error = jnp.mean((theta * x - y) ** 2)
    pull = 0.5 * jnp.mean((theta - phi * inputs.targets["t"]) ** 2)
    return Loss(error + 0.7 * pull, inputs.model_state, {"l1": error})


def test_the_meta_gradient_is_that_of_differences():
    rng = np.random.default_rng(0)
    x, y, t = rng.normal(size=(3, 8))
    with jax.enable_x64(True):
        inputs = LossInputs(
            None,
            {},
            None,
            {"x": jnp.asarray(x), "y": jnp.asarray(y)},
            {"t": jnp.asarray(t)},
            jax.random.key(0),
            jnp.zeros((), int),
        )

        def value(theta, phi, first_order=False):
            params = {"student": theta, "knowledge": phi}
            return mkd.meta_loss(toy, params, inputs, 0.1, first_order).value

        theta, phi, step = jnp.asarray(0.3), jnp.asarray(-0.8), 1e-6
        slope = jax.grad(value, argnums=1)(theta, phi)
        numeric = (value(theta, phi + step) - value(theta, phi - step)) / (2 * step)
        np.testing.assert_allclose(slope, numeric, 1e-6)
        # By hand: theta' = theta - r (g + 0.7 mean(theta - phi t)), on the first half.
        a, b = slice(0, 4), slice(4, 8)
        g = np.mean(2 * (0.3 * x[a] - y[a]) * x[a]) + 0.7 * np.mean(0.3 + 0.8 * t[a])
        moved = 0.3 - 0.1 * g
        error = np.mean((moved * x[b] - y[b]) ** 2)
        np.testing.assert_allclose(value(theta, phi), error, 1e-10)
        by_theta = np.mean(2 * (moved * x[b] - y[b]) * x[b])
        np.testing.assert_allclose(slope, by_theta * 0.1 * 0.7 * t[a].mean(), 1e-8)
        first = jax.grad(value, argnums=1)(theta, phi, True)
        by_phi = 0.7 * np.mean(-(moved + 0.8 * t[b]) * t[b])
        np.testing.assert_allclose(first, by_phi, 1e-8)


def spec(**fields):
    network = EDSR(scale=2, blocks=2, width=4, taps=2)
    shapes = {"image": (8, 8, 3), "low": (4, 4, 3)} | fields
    return Spec(
        network=network,
        frozen={"teacher": FrozenNetwork(EDSR(scale=2, blocks=2, width=6), "low")},
        num_classes=0,
        fields={k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in shapes.items()},
        steps_per_unit=1.0,
        input_key="low",
    )


@pytest.fixture(scope="module")
def made():
    run = spec()
    method = mkd.make(run)
    params, model_state = jax.jit(method.init)(jax.random.key(0))
    teacher = run.frozen["teacher"].network
    key = jax.random.key(1)
    batch = {
        name: jax.random.normal(key, (4, *x.shape)) for name, x in run.fields.items()
    }
    frozen = {"teacher": jax.jit(teacher.init)(key, batch["low"])}
    targets = {"teacher": jax.jit(method.targets["teacher"])(frozen, batch, key)}
    outputs, _ = jax.jit(method.forward)(params, model_state, batch, key)
    inputs = LossInputs(
        params, model_state, outputs, batch, targets, key, jnp.zeros((), int)
    )
    return method, inputs


def test_the_second_order_reaches_every_knowledge_network(made):
    method, inputs = made

    def whole(params, inputs):
        outputs, _ = method.forward(params, {"student": {}}, inputs.batch, None)
        return method.loss(inputs._replace(params=params, outputs=outputs))

    def value(knowledge):
        params = inputs.params | {"knowledge": knowledge}
        return mkd.meta_loss(whole, params, inputs, 0.1).value

    knowledge = inputs.params["knowledge"]
    slopes = jax.jit(jax.grad(value))(knowledge)
    for tap in ("stage1", "stage2"):
        size = sum(float(jnp.abs(x).sum()) for x in jax.tree.leaves(slopes[tap]))
        assert np.isfinite(size) and size > 0
    assert set(method.trainable(inputs.params).values()) == {"main", "meta"}


@pytest.mark.slow
def test_terms_and_quality(made):
    method, inputs = made
    loss = method.loss(inputs)
    error = jnp.abs(inputs.outputs["image"] - inputs.batch["image"]).mean()
    np.testing.assert_allclose(loss.metrics["l1"], error, 1e-5)
    total = error + 0.1 * loss.metrics["knowledge"]
    np.testing.assert_allclose(loss.value, total, 1e-5)
    truth = inputs.batch["image"]
    batch = inputs.batch | {"mask": jnp.array([True, True, True, False])}
    # Images of 8 pixels are below SSIM's window
    with pytest.raises(ValueError, match="at least 11 pixels"):
        method.evaluate({"image": truth}, batch)
    large = jnp.repeat(jnp.repeat(truth, 2, 1), 2, 2)
    found = method.evaluate({"image": large}, batch | {"image": large}).compute()
    assert found["psnr"] == pytest.approx(100) and found["edges"] == pytest.approx(1)


def test_options_that_do_not_fit():
    with pytest.raises(UserError, match="use the method 'super_resolution'"):
        mkd.make(spec(), knowledge_weight=0.0)
    with pytest.raises(UserError, match="expected >= 0"):
        super_resolution.make(spec(), feature_weight=-1.0)
    with pytest.raises(UserError, match=r"or the scale of config\.view"):
        super_resolution.make(spec(image=(12, 12, 3)))
    with pytest.raises(UserError, match="does not name it"):
        mkd.make(spec()._replace(frozen={}))
    one = LossInputs(None, {}, None, {}, {"t": jnp.zeros(1)}, None, None)
    with pytest.raises(UserError, match=r"Lower config\.accumulate"):
        mkd.meta_loss(toy, {}, one, 0.1)
