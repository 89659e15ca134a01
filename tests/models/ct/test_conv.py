import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxkd.models.ct import conv as conv3d

# Channels, size, kernel, stride, padding on every side.
CASES = [
    (3, 5, 3, (1, 1, 1), 1),
    (3, 6, 3, (2, 2, 2), 1),
    (1, 7, 5, (1, 2, 2), 2),
    (4, 5, 1, (2, 2, 2), 0),
    (4, 1, 3, (1, 1, 1), 1),
    (4, 2, 3, (2, 1, 2), 1),
]


def plain(volumes, kernel, strides, padding):
    return lax.conv_general_dilated(
        *(volumes, kernel, strides, padding),
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "size", "kernel", "strides", "pad"), CASES)
def test_value_and_gradients(channels, size, kernel, strides, pad):
    rng = np.random.default_rng(0)
    padding = ((pad, pad),) * 3
    with jax.enable_x64(True):
        volumes = jnp.asarray(rng.normal(size=(2, size, size + 1, size + 2, channels)))
        weights = jnp.asarray(rng.normal(size=(kernel,) * 3 + (channels, 2)))

        def run(conv):
            return jax.value_and_grad(
                lambda x, w: jnp.sum(jnp.sin(conv(x, w, strides, padding))), (0, 1)
            )(volumes, weights)

        got, wanted = run(conv3d.conv3d), run(plain)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9), got, wanted)


def test_layer_refuses_what_it_cannot_do():
    layer = nn.Conv(
        *(4, (3, 3, 3)),
        feature_group_count=2,
        conv_general_dilated=conv3d.conv_general_dilated,
    )
    with pytest.raises(ValueError, match="2 groups"):
        layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4, 5, 6), (1, 2, 3)])
def test_max_pool(size):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, *size, 3)), jnp.float32)
    wanted = nn.max_pool(x, (3, 3, 3), (2, 2, 2), padding=((1, 1),) * 3)
    np.testing.assert_array_equal(conv3d.max_pool(x), wanted)
    # Of values that differ, one voxel of each window has the gradient.
    pooled = jax.grad(lambda x: jnp.sum(jnp.sin(conv3d.max_pool(x))))(x)
    plain = jax.grad(
        lambda x: jnp.sum(
            jnp.sin(nn.max_pool(x, (3, 3, 3), (2, 2, 2), padding=((1, 1),) * 3))
        )
    )(x)
    np.testing.assert_allclose(pooled, plain, atol=1e-6)


def test_resize_keeps_the_centres():
    x = np.arange(4.0)[None, :, None, None, None]
    got = conv3d.resize(jnp.asarray(x, jnp.float32), (8, 1, 1))
    inside = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(got[0, :, 0, 0, 0], inside, atol=1e-6)
