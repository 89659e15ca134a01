"""Steps of a method's own: two players, two levels, target networks, frozen leaves."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.types import MAIN, LossInputs
from tests.core import update_methods as methods
from tests.core.update_methods import METHODS, RATES, STEPS, table, train


@pytest.fixture(scope="module")
def trained():
    """Each method once: its state and metrics after all steps."""
    return {name: train(name) for name in METHODS}


def steps(name):
    """The batches that training saw, one after the other, and the first parameters."""
    groups = methods.make_groups_of(name)
    index = methods.batches(groups, 0, STEPS)["data"]["index"][:, 0]
    rows = [{k: jnp.asarray(v[i]) for k, v in table().items()} for i in index]
    key = jax.random.fold_in(jax.random.key(1), 0)  # of the first seed
    return rows, METHODS[name].init(key)


def micro(batch):
    return LossInputs(None, {}, None, batch, {}, jax.random.key(0), jnp.int32(0))


def momentum_step(params, velocity, grads, rate, part):
    """SGD with momentum 0.5 and weight decay 0.1, of one part of the parameters."""
    grads = jax.tree.map(lambda g, p: g + 0.1 * p, grads, params[part])
    velocity = jax.tree.map(lambda v, g: 0.5 * v + g, velocity, grads)
    moved = jax.tree.map(lambda p, v: p - rate * v, params[part], velocity)
    return {**params, part: moved}, velocity


def first(state, *path):
    """A leaf of the first member."""
    for name in path:
        state = state[name]
    return np.asarray(state)[0]


def test_two_players_take_turns(trained):
    rows, (params, _) = steps("two_players")
    params["student"] = {"w": params["student"]["w"]}
    base = jnp.sin(jnp.arange(3.0))

    def whole(params):
        return {**params, "student": {**params["student"], "base": base}}

    zeros = jax.tree.map(jnp.zeros_like, params)
    critic, own = zeros["critic"], zeros["student"]
    for batch in rows:
        grads = jax.grad(lambda p: methods.critic_loss(whole(p), micro(batch)).value)(  # noqa: B023
            params
        )
        params, critic = momentum_step(
            params, critic, grads["critic"], RATES["critic"], "critic"
        )
        grads = jax.grad(lambda p: methods.student_loss(whole(p), micro(batch)).value)(  # noqa: B023
            params
        )
        params, own = momentum_step(
            params, own, grads["student"], RATES[MAIN], "student"
        )
    state, metrics = trained["two_players"]
    np.testing.assert_allclose(
        first(state.params, "student", "w"), params["student"]["w"], rtol=1e-5
    )
    np.testing.assert_allclose(
        first(state.params, "critic", "c"), params["critic"]["c"], rtol=1e-5
    )
    assert set(metrics) == {"loss", "critic", "error", "skipped"}


def test_the_hyper_gradient_is_exact():
    """Against differences of the loss after the virtual step, in float64."""
    with jax.enable_x64(True):
        rows, (params, _) = steps("bi_level")
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
        params["weights"]["z"] = jnp.array([0.3, -0.2])
        batch = {k: v.astype(jnp.float64) for k, v in rows[0].items()}

        def after(z):
            at = {**params, "weights": {"z": z}}
            slope = jax.grad(
                lambda s: methods.weighted({**at, "student": s}, micro(batch)).value
            )(params["student"])
            moved = jax.tree.map(lambda p, g: p - 0.1 * g, params["student"], slope)
            return methods.primary({**at, "student": moved}, micro(batch)).value

        found = {}

        def gradients(function, params, model_state, *, label=None, salt=0):
            def value(part):
                whole = {**params, key: part}
                return function(whole, micro(batch)._replace(params=whole)).value

            key = "weights" if label == "weights" else "student"
            slope = jax.grad(value)(params[key])
            found.setdefault(label, slope)
            full = jax.tree.map(jnp.zeros_like, params) | {key: slope}
            return full, function(params, micro(batch)._replace(params=params))

        methods.bi_level(methods_inputs(params, gradients))
        z, width = params["weights"]["z"], 1e-6
        expected = [
            (after(z + width * e) - after(z - width * e)) / (2 * width)
            for e in np.eye(2)
        ]
        np.testing.assert_allclose(found["weights"]["z"], expected, rtol=1e-6)


def methods_inputs(params, gradients):
    from jaxkd.core.types import UpdateInputs

    rates = {name: jnp.float64(rate) for name, rate in RATES.items()}
    return UpdateInputs(
        params, {}, (), gradients, lambda p, g, s, label: (p, s), rates, jnp.int32(0)
    )


def test_the_target_network_follows(trained):
    """By hand, from the parameters after every step."""
    states = [train("ema_target", stops=(*range(1, stop), stop))[0]
              for stop in range(1, STEPS + 1)]  # fmt: skip
    _, (params, _) = steps("ema_target")
    target = np.asarray(params["student"]["w"])
    for state in states:
        target = 0.9 * target + 0.1 * first(state.params, "student", "w")
    got = first(trained["ema_target"][0].model_state, "target", "w")
    np.testing.assert_allclose(got, target, rtol=1e-5)


def test_frozen_leaves_have_no_state_and_do_not_move():
    """Weight decay would move them."""
    state, _ = train("frozen_base", weight_decay=0.3)
    _, (params, _) = steps("frozen_base")
    for path in (("student", "base"), ("critic", "c"), ("weights", "z")):
        kept = params[path[0]][path[1]]
        np.testing.assert_array_equal(first(state.params, *path), kept)
    assert (first(state.params, "student", "w") != params["student"]["w"]).all()
    sizes = [leaf.shape for leaf in jax.tree.leaves(state.opt_state)]
    assert sizes == [(2, 3)]  # the momentum of w, of two members


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_stops_goes_on_bit_for_bit(name, trained):
    stopped, _ = train(name, stops=(1, 3, STEPS))
    for got, whole in zip(
        jax.tree.leaves(stopped), jax.tree.leaves(trained[name][0]), strict=True
    ):
        np.testing.assert_array_equal(got, whole)


@pytest.mark.parametrize("name", ["two_players", "ema_target", "frozen_base"])
def test_micro_batches_add_up(name, trained):
    """Losses are means over examples, so that halves average to the whole."""
    halves, _ = train(name, accumulate=2)
    for got, whole in zip(
        jax.tree.leaves(halves.params),
        jax.tree.leaves(trained[name][0].params),
        strict=True,
    ):
        np.testing.assert_allclose(got, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_four_devices_equal_one(tmp_path):
    subprocess.run(
        [sys.executable, methods.__file__, tmp_path / "out.npz"],
        check=True,
        timeout=300,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
        | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with np.load(tmp_path / "out.npz") as found:
        for name in METHODS:
            # Micro-batches lie on all devices; no device computes all of one.
            assert found[f"{name}/gathers"] == 0
            for parts in (1, 2):
                expected = jax.tree.leaves(train(name, parts)[0].params)
                for place, leaf in enumerate(expected):
                    got = found[f"{name}/{parts}/{place}"]
                    np.testing.assert_allclose(got, leaf, rtol=1e-5, atol=1e-6)
