import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.types import LossInputs, Spec
from jaxkd.diffusion import noise_tables
from jaxkd.methods import captions
from jaxkd.models.stable_diffusion.scene_model import SceneDiffusion, fold, unfold

NETWORK = SceneDiffusion(widths=(16, 24), text_width=16, groups=4)


def spec(network=NETWORK, **fields):
    known = {
        "image": jax.ShapeDtypeStruct((8, 8, 3), jnp.float32),
        "tokens": jax.ShapeDtypeStruct((13,), jnp.int32),
    }
    return Spec(network, {}, 0, {**known, **fields}, 1.0)


def batch():
    rng = np.random.default_rng(0)
    return {
        "image": jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32),
        "tokens": jnp.asarray(rng.integers(2, 17, size=(4, 13))),
        "mask": jnp.ones(4, bool),
    }


@pytest.mark.slow
def test_loss_of_a_network_that_predicts_nothing_is_the_noise():
    """The last convolution starts at zero, so that the first error is E[n^2] = 1."""
    method = captions.make(spec())
    params, state = jax.jit(method.init)(jax.random.key(0))

    @jax.jit
    def loss(params, key):
        outputs, _ = method.forward(params, state, batch(), key)
        return method.loss(
            LossInputs(params, state, outputs, batch(), {}, key, jnp.int32(0))
        ).value

    value = loss(params, jax.random.key(1))
    assert value == pytest.approx(1.0, abs=0.1)
    gradient = jax.jit(jax.grad(loss))(params, jax.random.key(1))
    bias = gradient["student"]["unet"]["conv_out"]["bias"]
    assert np.isfinite(bias).all() and np.abs(bias).max() > 1e-4


@pytest.mark.slow
def test_weighting_by_velocity_is_the_error_of_the_velocity():
    """Of one that says nothing: ``v = sqrt(a) n - sqrt(1 - a) x`` squared."""
    network = NETWORK.clone(predicts="velocity")
    method = captions.make(spec(network=network), weighting="velocity")
    params, state = jax.jit(method.init)(jax.random.key(0))
    key, data = jax.random.key(1), batch()
    found, _ = jax.jit(method.forward)(params, state, data, key)
    keys = jax.random.split(key, 3)
    places = (np.arange(4) / 4 + float(jax.random.uniform(keys[0]))) % 1
    alphas = noise_tables.alphas_cumprod()[(1000 * places).astype(int)]
    alphas = alphas.astype(np.float64)[:, None, None, None]
    noise = np.asarray(jax.random.normal(keys[1], data["image"].shape), np.float64)
    velocity = np.sqrt(alphas) * noise - np.sqrt(1 - alphas) * np.asarray(data["image"])
    np.testing.assert_allclose(found, (velocity**2).mean((1, 2, 3)), rtol=2e-5)


@pytest.mark.slow
def test_evaluation_by_hand():
    method = captions.make(spec(), levels=2)
    params, state = jax.jit(method.init)(jax.random.key(0))
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda x: x + 0.05 * rng.normal(size=x.shape), params)
    got = jax.jit(method.predict)(params, state, batch())["loss"]
    alphas, errors = noise_tables.alphas_cumprod(), []
    for level, timestep in enumerate((250, 750)):
        key = jax.random.fold_in(jax.random.key(0), level)
        noise = jax.random.normal(key, (4, 8, 8, 3))
        a = alphas[timestep]
        noisy = np.sqrt(a) * batch()["image"] + np.sqrt(1 - a) * noise
        variables = {"params": params["student"]}
        out, _ = NETWORK.apply(variables, noisy, timestep, batch()["tokens"])
        errors.append(np.mean((out - noise) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(got, np.mean(errors, axis=0), rtol=1e-4)


def test_folding_keeps_neighbours_together():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cells = fold(x, 2)
    assert cells.shape == (2, 2, 3, 12)
    block = np.asarray(x)[1, 2:4, 4:6].reshape(-1)
    np.testing.assert_array_equal(cells[1, 1, 2], block)
    np.testing.assert_array_equal(unfold(cells, 2), x)


def test_what_it_cannot_be_made_for():
    for options, message in (
        ({"dropout": 1.0}, "a share of 0"),
        ({"levels": 0}, "level"),
    ):
        with pytest.raises(UserError, match=message):
            captions.make(spec(), **options)
    bare = spec()._replace(fields={"image": spec().fields["image"]})
    with pytest.raises(UserError, match="expected tokens"):
        captions.make(bare)
