"""Counted operations against closed forms and XLA's own count."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxkd.aot import flops

A, B = jnp.zeros((3, 5)), jnp.zeros((5, 7))
ONE = 2 * 3 * 5 * 7


def test_a_product():
    assert flops.of(jnp.matmul, A, B) == ONE
    assert flops.of(jax.vmap(jnp.matmul, (None, 0)), A, jnp.zeros((4, 5, 7))) == 4 * ONE


def test_loops_count_as_often_as_they_turn():
    def scanned(a, b):
        return lax.scan(lambda c, _: (c + a @ b, None), jnp.zeros((3, 7)), None, 6)[0]

    assert flops.of(scanned, A, B) == 6 * ONE
    assert (
        flops.of(lambda a, b: lax.map(lambda x: x @ b, a), jnp.zeros((9, 3, 5)), B)
        == 9 * ONE
    )


def test_loops_of_unknown_length_count_once():
    def looped(n, a, b):
        return lax.fori_loop(0, n, lambda i, c: c + a @ b, jnp.zeros((3, 7)))

    assert flops.of(looped, jnp.asarray(4), A, B) == ONE


def test_of_branches_the_most_expensive_counts():
    def choose(p, a, b):
        return lax.cond(p, lambda: a @ b, lambda: (a @ b) + (a @ b) * 2 @ jnp.eye(7))

    assert flops.of(choose, True, A, B) == 2 * ONE + 2 * 3 * 7 * 7


def test_jit_and_custom_derivatives_are_looked_into():
    @jax.custom_vjp
    def product(a, b):
        return a @ b

    product.defvjp(lambda a, b: (a @ b, (a, b)), lambda r, g: (g @ r[1].T, r[0].T @ g))
    assert flops.of(jax.jit(product), A, B) == ONE
    gradient = jax.grad(lambda a, b: product(a, b).sum(), (0, 1))
    assert flops.of(gradient, A, B) == 3 * ONE


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_and_their_gradients(stride):
    images, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))

    def convolve(images, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(
            images, kernel, (stride, stride), "VALID", dimension_numbers=numbers
        )

    side = convolve(images, kernel).shape[1]
    once = 2 * 2 * side * side * 4 * 3 * 3 * 3
    assert flops.of(convolve, images, kernel) == once
    assert jax.jit(convolve).lower(images, kernel).cost_analysis()["flops"] == once
    gradient = jax.grad(lambda *x: convolve(*x).sum(), (0, 1))
    # The images' gradient is counted with the padding around it.
    assert 2.9 * once <= flops.of(gradient, images, kernel) <= 4.3 * once


def test_grouped_convolutions_count_their_groups_apart():
    images, kernel = jnp.zeros((2, 8, 8, 6)), jnp.zeros((3, 3, 1, 6))

    def depthwise(images, kernel):
        return lax.conv_general_dilated(
            images,
            kernel,
            (1, 1),
            "VALID",
            feature_group_count=6,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    assert flops.of(depthwise, images, kernel) == 2 * 2 * 6 * 6 * 6 * 9
