"""The receptive field that is computed, against gradients with respect to the input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models.ct.receptive_field import receptive_field
from tests.models.ct.test_nlran import QUICK, variables_of

NAMES = {"resnet3d_micro": 87, "resnet3d_local": 15}


def seen_along(network, axis, length):
    """How many voxels along an axis have a gradient, of the place in the middle."""
    shape = [1, 5, 5, 5, 1]
    shape[1 + axis] = length
    x = jnp.asarray(np.random.default_rng(axis).normal(size=shape), jnp.float32)
    variables = variables_of(network, x)

    def middle(x):
        features = network.apply(variables, x)[1]["last"]
        place = [0, *(size // 2 for size in features.shape[1:4])]
        return jnp.sum(features[tuple(place)])

    gradient = jax.jit(jax.grad(middle)).lower(x).compile(QUICK)(x)
    others = tuple(k for k in range(5) if k != 1 + axis)
    return np.flatnonzero(np.abs(np.asarray(gradient)).max(others))


@pytest.mark.parametrize("name", NAMES)
def test_a_place_depends_on_its_receptive_field_and_on_nothing_else(name):
    network = models.build(name, 2)
    field = receptive_field(network)
    assert field == (NAMES[name],) * 3
    length = field[2] + 34
    seen = seen_along(network, 2, length)
    assert seen[0] > 0 and seen[-1] < length - 1  # the volume does not cut it off
    assert seen[-1] - seen[0] + 1 == field[2]


@pytest.mark.slow
def test_axes_may_differ():
    network = models.build("resnet3d_tiny", 2)  # whose first stride is (1, 2, 2)
    field = receptive_field(network)
    assert field[0] < field[1] == field[2]
    for axis in (0, 1):
        seen = seen_along(network, axis, field[axis] + 34)
        assert seen[-1] - seen[0] + 1 == field[axis]


def test_additions_have_no_such_field():
    for name in ("nlran_local", "cbam3d_local"):
        with pytest.raises(ValueError, match="expected 'none' and 0"):
            receptive_field(models.build(name, 2))
    with pytest.raises(ValueError, match="non_local 1"):
        receptive_field(models.build("nlran_local", 2, attention="none"))
