"""The hyper-gradient of Auto-lambda against autodiff through the virtual step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from jaxkd.losses.label_graph import LabelGraph

GRAPH = LabelGraph.ffpp()


def problem():
    """A two-layer network on two batches of labelled vectors, in float64."""
    rng = np.random.default_rng(0)
    params = {
        "first": rng.normal(size=(6, 8)) / 2,
        "second": {"w": rng.normal(size=(8, 10)) / 2, "b": np.zeros(10)},
    }
    params = jax.tree.map(jnp.asarray, params)
    images = jnp.asarray(rng.normal(size=(2, 5, 6)))
    labels = jnp.asarray(GRAPH.states[rng.integers(0, 251, (2, 5))])

    def levels(params, batch):
        hidden = jnp.tanh(images[batch] @ params["first"])
        logits = hidden @ params["second"]["w"] + params["second"]["b"]
        return losses.level_losses(logits, labels[batch], GRAPH)

    return params, levels


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_against_autodiff_through_the_virtual_step(decay):
    with jax.enable_x64(True):
        params, levels = problem()
        weights, rate = jnp.array([1.0, 0.7, 1.8]), 0.3

        def after_step(weights):
            """The definition: take the step, then look at the primary loss."""
            gradient = jax.grad(lambda p: weights @ levels(p, 0))(params)
            virtual = jax.tree.map(
                lambda p, g: p - rate * (g + decay * p), params, gradient
            )
            return levels(virtual, 1)[0]

        found = jax.jit(
            lambda params, weights: losses.auto_lambda(
                lambda p: levels(p, 0),
                lambda p: levels(p, 1)[0],
                params,
                weights,
                learning_rate=rate,
                weight_decay=decay,
            )._replace(pullback=None)
        )(params, weights)
        after_step = jax.jit(after_step)
        value, gradient = jax.value_and_grad(after_step)(weights)
        np.testing.assert_allclose(found.gradient, gradient, 1e-10)
        np.testing.assert_allclose(found.primary, value, 1e-12)
        np.testing.assert_allclose(found.losses, levels(params, 0), 1e-12)
        # And neither knows the other's code: differences of the definition.
        for i, unit in enumerate(np.eye(3)):
            high, low = (after_step(weights + t * unit) for t in (1e-5, -1e-5))
            np.testing.assert_allclose(
                found.gradient[i], (high - low) / 2e-5, 1e-5, 1e-10
            )


def test_the_pullback_is_the_gradient_of_the_weighted_sum():
    params, levels = problem()
    found = losses.auto_lambda(
        lambda p: (levels(p, 0), "statistics"),
        lambda p: levels(p, 1)[0],
        params,
        jnp.ones(3),
        has_aux=True,
    )
    assert found.aux == "statistics"
    weights = jnp.array([0.2, 2.0, 0.0])
    wanted = jax.grad(lambda p: weights @ levels(p, 0))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-7),
        found.pullback(weights),
        wanted,
    )


def test_a_loss_that_helps_the_primary_one_gains_weight_and_one_that_hurts_loses():
    found = losses.auto_lambda(
        lambda x: jnp.stack([(x - 1) ** 2, (x - 3) ** 2, (x + 3) ** 2]),
        lambda x: (x - 1) ** 2,
        jnp.float32(0.0),
        jnp.array([1.0, 0.0, 0.0]),
        learning_rate=0.1,
    )
    assert found.gradient[1] < found.gradient[0] < 0 < found.gradient[2]


def test_uncertainty_weighting():
    values, logs = np.array([0.5, 2.0]), np.array([0.3, -0.4])
    wanted = np.exp(-0.3) * 0.5 + 0.15 + np.exp(0.4) * 2 - 0.2
    np.testing.assert_allclose(losses.uncertainty_weighting(values, logs), wanted, 1e-6)
    # The best variance of a loss L is 2 L.
    slope = jax.grad(lambda s: losses.uncertainty_weighting(values, s))
    np.testing.assert_allclose(slope(jnp.log(2 * values)), 0, atol=1e-6)


def test_a_function_with_a_gradient_of_its_own_will_do():
    """As the networks' convolutions are: jax.jvp would refuse them."""

    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    found, wanted = (
        losses.auto_lambda(
            lambda x, f=f: jnp.stack([f(x).sum(), jnp.sin(f(x)).sum()]),
            lambda x, f=f: jnp.cos(f(x)).sum(),
            jnp.array([0.3, 1.2]),
            jnp.array([1.0, 2.0]),
            learning_rate=0.1,
        )
        for f in (square, lambda x: x**2)
    )
    np.testing.assert_allclose(found.gradient, wanted.gradient, 1e-5)
