"""Running means against sums written out."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.metric_accumulator import MetricAccumulator


def call(loss, skipped, steps):
    """What a call over some steps returns for one group of two members."""
    assert all(s <= steps for s in skipped)
    return {"g": {"loss": jnp.array(loss), "skipped": jnp.array(skipped, jnp.float32)}}


def test_means_weigh_the_steps_that_were_not_skipped():
    accumulator = MetricAccumulator()
    accumulator.add(call([2.0, 3.0], [0, 1], 4), 4)
    accumulator.add(call([5.0, 7.0], [1, 0], 2), 2)
    means = accumulator.take()["g"]
    np.testing.assert_allclose(means["loss"], [(4 * 2 + 5) / 5, (3 * 3 + 2 * 7) / 5])
    np.testing.assert_array_equal(accumulator.skipped()["g"], [1, 1])


def test_taking_starts_anew_but_skipped_steps_are_counted_on():
    accumulator = MetricAccumulator()
    accumulator.add(call([2.0, 3.0], [0, 2], 2), 2)
    # Of the second member nothing was measured.
    np.testing.assert_array_equal(accumulator.take()["g"]["loss"], [2.0, np.nan])
    accumulator.add(call([4.0, 9.0], [0, 1], 3), 3)
    np.testing.assert_allclose(accumulator.take()["g"]["loss"], [4, 9])
    np.testing.assert_array_equal(accumulator.skipped()["g"], [0, 3])


@pytest.mark.parametrize("taken", [False, True])
def test_a_saved_tally_goes_on_exactly(taken):
    accumulator = MetricAccumulator()
    accumulator.add(call([0.1, jnp.nan], [0, 1], 3), 3)
    if taken:
        accumulator.take()
    again = MetricAccumulator(json.loads(json.dumps(accumulator.to_json())))
    for one in (accumulator, again):
        one.add(call([0.7, 0.3], [0, 0], 1), 1)
    for ours, theirs in zip(
        accumulator.take()["g"].values(), again.take()["g"].values(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(accumulator.skipped()["g"], again.skipped()["g"])
