"""A student that stays as it begins costs its steps nothing."""

import jax
import jax.numpy as jnp
import pytest

from jaxkd.core.types import LossInputs, Method, Score
from jaxkd.methods.common.untrained import untrained


def _refuse(*_):
    pytest.fail("A step applies the network.")


def test_a_step_applies_no_network_and_evaluation_does():
    method = untrained(
        Method(
            init=lambda key: ({"student": {"w": jnp.full(2, 3.0)}}, {"student": {}}),
            targets={"teacher": _refuse},
            forward=_refuse,
            loss=_refuse,
            predict=lambda params, state, batch: params["student"]["w"] * batch["x"],
            evaluate=_refuse,
            score=Score("x", "x"),
        )
    )
    params, state = method.init(jax.random.key(0))
    assert method.trainable(params) == {"student": "frozen", "idle": "main"}
    assert not method.targets

    def value(params):
        outputs, after = method.forward(params, state, {}, None)
        inputs = LossInputs(params, after, outputs, {}, {}, None, None)
        return method.loss(inputs).value

    loss, slope = jax.value_and_grad(value)(params)
    assert loss == 0 and slope["idle"] == 0
    assert method.predict(params, state, {"x": 2.0}).tolist() == [6, 6]
