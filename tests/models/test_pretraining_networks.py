"""Networks of pre-training: heads, decoders, BiGAN's and RealNVP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models import bigan, decoders, projection, real_nvp, small_conv

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 5)).astype(np.float32)


def _randomized(variables, std=0.3):
    leaves, structure = jax.tree.flatten(variables)
    draws = np.random.default_rng(1)
    return jax.tree.unflatten(
        structure,
        [x + std * draws.normal(size=x.shape).astype(np.float32) for x in leaves],
    )


def test_head_is_dense_norm_relu():
    head = projection.Head(
        (
            projection.Layer(4, "batch", relu=True),
            projection.Layer(3, relu=True),
            projection.Layer(2, "plain"),
        )
    )
    variables = jax.jit(head.init)(jax.random.key(0), X)
    params = variables["params"]
    assert "bias" not in params["dense0"] and "bias" in params["dense1"]
    assert "norm2" not in params  # without scale and bias
    z, changed = jax.jit(lambda v: head.apply(v, X, train=True, mutable="batch_stats"))(
        variables
    )

    def norm(x):
        return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)

    y = np.maximum(norm(X @ params["dense0"]["kernel"]), 0)
    y = np.maximum(y @ params["dense1"]["kernel"] + params["dense1"]["bias"], 0)
    y = y @ params["dense2"]["kernel"]
    np.testing.assert_allclose(z, norm(y), 1e-3, 1e-4)
    mean = changed["batch_stats"]["norm2"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * y.mean(0), 1e-3, 1e-4)
    with pytest.raises(ValueError, match="norm is 'layer'"):
        projection.Head((projection.Layer(2, "layer"),)).init(jax.random.key(0), X)


def test_prototypes_give_cosines():
    head = projection.PrototypeHead(hidden=8, bottleneck=4, prototypes=7)
    variables = _randomized(jax.jit(head.init)(jax.random.key(0), X))
    scores = jax.jit(head.apply)(variables, X)
    params = variables["params"]
    longer = {**params, "prototypes": 3 * params["prototypes"]}
    np.testing.assert_allclose(
        jax.jit(head.apply)({"params": longer}, X), scores, 1e-4, 1e-5
    )
    assert scores.shape == (6, 7) and abs(scores).max() <= 1 + 1e-6
    assert abs(scores).max() > 0.1


def test_small_conv():
    images = rng.normal(size=(2, 16, 16, 1)).astype(np.float32)
    for name, width in (("small_conv", 6), ("small_conv_flat", 96)):
        network = models.build(name, num_classes=3, widths=(4, 6))
        variables = jax.jit(network.init)(jax.random.key(0), images)
        logits, features = jax.jit(network.apply)(variables, images)
        assert features["pooled"].shape == (2, width)
        fc = variables["params"]["fc"]
        expected = features["pooled"] @ fc["kernel"] + fc["bias"]
        np.testing.assert_allclose(logits, expected, 1e-4, 1e-5)
    stage = features["stage2"]
    np.testing.assert_array_equal(features["pooled"], stage.reshape(2, -1))
    with pytest.raises(ValueError, match="pool is 'max'"):
        small_conv.SmallConv(3, pool="max").init(jax.random.key(0), images)


def test_masked_decoder_puts_tokens_where_they_belong():
    """The order in which visible patches come does not matter, their place does."""
    decoder = decoders.MaskedDecoder(values=3, grid=(2, 3), width=8, heads=2)
    visible = rng.normal(size=(1, 2, 5)).astype(np.float32)
    keep = np.array([[4, 1]])
    variables = _randomized(jax.jit(decoder.init)(jax.random.key(0), visible, keep))
    forward = jax.jit(decoder.apply)
    found = forward(variables, visible, keep)
    assert found.shape == (1, 6, 3)
    turned = forward(variables, visible[:, ::-1], keep[:, ::-1])
    np.testing.assert_allclose(turned, found, 1e-4, 1e-5)
    swapped = forward(variables, visible[:, ::-1], keep)
    assert abs(swapped - found).max() > 1e-2


def test_decoders_shapes_and_errors():
    codes = X[:2]
    for network in (
        decoders.ConvDecoder((8, 8, 2), (6, 4)),
        bigan.DenseGenerator((8, 8, 2), (4, 6)),
    ):
        variables = jax.jit(network.init)(jax.random.key(0), codes)
        first = jax.jit(network.apply)(variables, codes)
        assert first.shape == (2, 8, 8, 2)
        assert abs(first[0] - first[1]).max() > 1e-3  # codes matter
    with pytest.raises(ValueError, match="multiples of 4"):
        decoders.ConvDecoder((6, 8, 1), (4, 4)).init(jax.random.key(0), codes)


@pytest.mark.parametrize(
    "network", [bigan.DenseDiscriminator((6, 4)), bigan.ConvDiscriminator((4,), 6)]
)
def test_discriminators_see_both(network):
    images = rng.normal(size=(2, 4, 4, 1)).astype(np.float32)
    variables = jax.jit(network.init)(jax.random.key(0), images, X[:2])

    def logits(images, codes):
        return jnp.sum(network.apply(variables, images, codes))

    slopes = jax.jit(jax.grad(logits, (0, 1)))(images, X[:2])
    assert all(np.abs(slope).max(axis=-1).any() for slope in slopes)
    dropped = [
        network.apply(
            variables, images, X[:2], train=True, rngs={"dropout": jax.random.key(k)}
        )
        for k in (0, 1)
    ]
    assert np.any(dropped[0] != dropped[1])


@pytest.mark.slow
def test_flow_inverts_and_its_likelihood_is_the_jacobians():
    """The likelihood against the determinant of the map's derivative."""
    network = real_nvp.RealNVP(num_classes=2, couplings=(1, 2, 1), width=4, depth=1)
    images = rng.uniform(0.1, 0.9, (1, 4, 4, 1)).astype(np.float32)

    def latents(variables, pixels):
        _, features = network.apply(variables, pixels.reshape(1, 4, 4, 1))
        parts = [features[f"latents{i}"] for i in (1, 2)]
        flat = jnp.concatenate([x.ravel() for x in parts])
        return flat, (parts, features["log_likelihood"])

    @jax.jit
    def measure(variables, pixels):
        jacobian, (parts, value) = jax.jacrev(latents, 1, has_aux=True)(
            variables, pixels
        )
        back = network.apply(variables, parts, method="generate")
        return jacobian, parts, value[0], back

    variables = _randomized(jax.jit(network.init)(jax.random.key(0), images), 0.2)
    jacobian, parts, value, back = measure(variables, images.ravel())
    np.testing.assert_allclose(back, images, atol=1e-4)
    z = np.concatenate([np.ravel(x) for x in parts]).astype(float)
    normal = -0.5 * np.sum(z**2 + np.log(2 * np.pi))
    expected = normal + np.linalg.slogdet(np.asarray(jacobian, float))[1]
    np.testing.assert_allclose(value, expected, 1e-3)
    # The couplings do something, and the squeeze undoes itself.
    start, _ = real_nvp._to_logits(images)
    assert abs(np.sort(start.ravel()) - np.sort(z)).max() > 0.1
    squared = real_nvp.unsqueeze(real_nvp.squeeze(images))
    np.testing.assert_array_equal(squared, images)
