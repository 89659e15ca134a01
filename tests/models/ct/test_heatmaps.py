from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models.ct import heatmaps

pytestmark = pytest.mark.slow

SHAPE = (2, 8, 8, 12, 1)


@pytest.fixture(scope="module")
def case():
    """A network with random variables, volumes, and what is said of them."""
    network = models.build("nlran_micro", 3, stem=4, widths=(4, 6))
    rng = np.random.default_rng(0)
    volumes = jnp.asarray(rng.normal(size=SHAPE), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), volumes)

    def draw(path, leaf):
        values = 0.5 * rng.normal(size=leaf.shape)
        if path[-1].key in ("scale", "var"):
            values = 1 + 0.1 * np.abs(values)
        return jnp.asarray(values, jnp.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    logits, features = jax.jit(network.apply)(variables, volumes)
    said = jax.jit(heatmaps.explain, static_argnums=0)(network, variables, volumes)
    return network, variables, volumes, logits, features, said


def test_logits_are_those_of_the_network(case):
    *_, logits, _, (explained, maps) = case
    np.testing.assert_allclose(explained, logits, rtol=1e-5, atol=1e-5)
    assert all(heat.shape == SHAPE[:4] for heat in maps.values())
    assert set(maps) == set(heatmaps.MAPS)


def test_class_activation_adds_up_to_the_logit(case):
    _, variables, _, logits, features, _ = case
    head = jax.tree.map(np.asarray, variables["params"]["fc"])
    last = np.asarray(features["last"], np.float64)
    for index, chosen in enumerate(np.argmax(logits, -1)):
        each = last[index] @ head["kernel"][:, chosen]
        total = each.mean() + head["bias"][chosen]
        assert total == pytest.approx(float(logits[index, chosen]), abs=1e-4)
    got = heatmaps.class_activation(
        features["last"], variables["params"]["fc"]["kernel"], logits.argmax(-1)
    )
    np.testing.assert_allclose(got[index], np.maximum(each, 0), atol=1e-4)


def test_attention_is_the_mean_of_the_mask(case):
    *_, features, (_, maps) = case
    mask = np.asarray(features["attention1"]).mean(-1)
    wanted = jax.image.resize(jnp.asarray(mask), SHAPE[:4], "linear")
    np.testing.assert_allclose(maps["attention"], wanted, atol=1e-5)


def test_gradient_of_grad_cam_by_finite_differences(case):
    network, variables, volumes, logits, features, (_, maps) = case
    chosen = np.argmax(logits, -1)
    shape = features["stage1"].shape
    apply = jax.jit(
        lambda shift: network.apply(variables, volumes, shifts={"stage1": shift})[0]
    )
    # The mean gradient of a channel is the slope when all of it rises alike.
    weights = np.zeros((2, shape[-1]))
    for channel in range(shape[-1]):
        shift = np.zeros(shape, np.float32)
        shift[..., channel] = 1e-3
        up, down = apply(shift), apply(-shift)
        for index in range(2):
            slope = (up - down)[index, chosen[index]] / 2e-3
            weights[index, channel] = slope / np.prod(shape[1:4])
    heat = np.maximum(np.einsum("bdhwc,bc->bdhw", features["stage1"], weights), 0)
    wanted = np.asarray(jax.image.resize(jnp.asarray(heat), SHAPE[:4], "linear"))
    np.testing.assert_allclose(
        maps["gradcam"], wanted, atol=0.03 * wanted.max(), rtol=0.05
    )


def test_grad_cam_of_the_last_map_is_the_class_activation(case):
    _, variables, _, logits, features, _ = case
    kernel, last = variables["params"]["fc"]["kernel"], features["last"]
    voxels = np.prod(last.shape[1:4])
    gradient = jnp.broadcast_to(
        kernel.T[logits.argmax(-1)][:, None, None, None] / voxels, last.shape
    )
    np.testing.assert_allclose(
        heatmaps.grad_cam(last, gradient) * voxels,
        heatmaps.class_activation(last, kernel, logits.argmax(-1)),
        atol=1e-4,
    )


def test_a_head_with_a_hidden_layer_has_no_class_activation():
    """The last features then do not add up to a logit."""
    network = models.build("resnet3d_micro", 2, stem=2, widths=(2, 2), hidden=3)
    volumes = jnp.zeros(SHAPE)
    variables = jax.eval_shape(network.init, jax.random.key(0), volumes)
    said = jax.eval_shape(partial(heatmaps.explain, network), variables, volumes)
    assert set(said[1]) == {"gradcam"}
