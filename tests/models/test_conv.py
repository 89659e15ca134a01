import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxkd.models.conv import conv2d, conv_general_dilated

# Channels, size, kernel, stride, padding before and after.
CASES = [
    (5, 8, 3, 1, (1, 1)),
    (5, 8, 3, 2, (1, 1)),
    (5, 7, 3, 2, (1, 1)),
    (5, 9, 7, 2, (3, 3)),
    (5, 8, 1, 1, (0, 0)),
    (5, 8, 1, 2, (0, 0)),
    (5, 6, 2, 3, (0, 1)),
    # few channels
    (3, 8, 3, 2, (1, 1)),
    (1, 6, 2, 3, (0, 1)),
    # maps smaller than the kernel, before and after
    (5, 1, 3, 1, (1, 1)),
    (5, 2, 5, 1, (2, 2)),
    (5, 3, 3, 2, (1, 1)),
    (5, 2, 3, 2, (1, 0)),
]


def plain(images, kernel, strides, padding):
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(("channels", "size", "kernel", "stride", "padding"), CASES)
def test_value_and_gradients(channels, size, kernel, stride, padding):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        images = jnp.asarray(rng.normal(size=(2, size, size + 1, channels)))
        weights = jnp.asarray(rng.normal(size=(kernel, kernel, channels, 4)))
        settings = (stride, stride), (padding, padding)
        wanted, pullback = jax.vjp(lambda x, w: plain(x, w, *settings), images, weights)
        got, our_pullback = jax.vjp(
            lambda x, w: conv2d(x, w, *settings), images, weights
        )
        cotangent = jnp.asarray(rng.normal(size=wanted.shape))
        np.testing.assert_allclose(got, wanted, atol=1e-12)
        for ours, theirs in zip(
            our_pullback(cotangent), pullback(cotangent), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


DEPTHWISE = [(8, 3, 1, (1, 1)), (7, 3, 2, (0, 1)), (9, 7, 1, (3, 3)), (1, 5, 2, (2, 2))]


@pytest.mark.parametrize(("size", "kernel", "stride", "padding"), DEPTHWISE)
def test_each_channel_by_itself(size, kernel, stride, padding):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        images = jnp.asarray(rng.normal(size=(2, size, size + 1, 5)))
        weights = jnp.asarray(rng.normal(size=(kernel, kernel, 1, 5)))
        settings = (stride, stride), (padding, padding)
        numbers = ("NHWC", "HWIO", "NHWC")
        wanted, pullback = jax.vjp(
            lambda x, w: lax.conv_general_dilated(
                *(x, w, *settings), dimension_numbers=numbers, feature_group_count=5
            ),
            *(images, weights),
        )
        got, our_pullback = jax.vjp(
            lambda x, w: conv_general_dilated(
                *(x, w, *settings),
                lhs_dilation=(1, 1),
                rhs_dilation=(1, 1),
                dimension_numbers=numbers,
                feature_group_count=5,
            ),
            *(images, weights),
        )
        cotangent = jnp.asarray(rng.normal(size=wanted.shape))
        np.testing.assert_allclose(got, wanted, atol=1e-12)
        for ours, theirs in zip(
            our_pullback(cotangent), pullback(cotangent), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_groups_and_dilation_take_the_general_way():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(3, 3, 2, 4)), jnp.float32)
    numbers = lax.conv_dimension_numbers(
        images.shape, weights.shape, ("NHWC", "HWIO", "NHWC")
    )
    options = {
        "lhs_dilation": (1, 1),
        "rhs_dilation": (2, 2),
        "dimension_numbers": numbers,
        "feature_group_count": 2,
    }
    arguments = images, weights, (1, 1), ((2, 2), (2, 2))
    got = conv_general_dilated(*arguments, **options)
    wanted = lax.conv_general_dilated(*arguments, **options)
    np.testing.assert_array_equal(got, wanted)
