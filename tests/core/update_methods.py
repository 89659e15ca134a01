"""Methods with a step of their own, on unlabelled rows of numbers, and how to run them.

Run as a script, it trains each on four CPU devices and writes the parameters to a file.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.aot import hlo
from jaxkd.core import config as configs
from jaxkd.core import optim, sharding
from jaxkd.core.partition import leaf_labels
from jaxkd.core.step import Settings, make_train_call
from jaxkd.core.study import Student, init_group, make_groups
from jaxkd.core.types import FROZEN, MAIN, Loss, Method, Update

WIDTH, EXAMPLES, BATCH, STEPS = 3, 24, 8, 4
RATES = {MAIN: 0.1, "critic": 0.2, "weights": 0.5}


def table(seed=0):
    """Examples without labels: rows ``x`` and what belongs to them, ``y``."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(EXAMPLES, WIDTH)).astype(np.float32),
        "y": rng.normal(size=EXAMPLES).astype(np.float32),
    }


def _init(key):
    draw = jax.random.normal(key, (WIDTH,))
    params = {"student": {"w": draw, "base": jnp.sin(jnp.arange(3.0))}}
    params |= {"critic": {"c": jnp.cos(draw)}, "weights": {"z": jnp.zeros(2)}}
    return params, {"student": {}, "target": {"w": draw}}


def error(params, batch):
    """Squared errors of the student's linear model, ``[batch]``."""
    own = params["student"]
    return (batch["x"] @ (own["w"] + own["base"]) - batch["y"]) ** 2


def critic_loss(params, inputs):
    """The critic predicts the student's errors."""
    known = jax.lax.stop_gradient(error(params, inputs.batch))
    told = inputs.batch["x"] @ params["critic"]["c"]
    value = jnp.mean((told - known) ** 2)
    return Loss(value, inputs.model_state, {"critic": value})


def student_loss(params, inputs):
    """The student lowers its error and what the critic expects."""
    told = inputs.batch["x"] @ params["critic"]["c"]
    value = jnp.mean(error(params, inputs.batch) + 0.1 * told**2)
    return Loss(value, inputs.model_state, {"error": value})


def two_players(inputs):
    """A step of the critic, then one of the student against the new critic."""
    params, state = inputs.params, inputs.opt_state
    grads, one = inputs.gradients(
        critic_loss, params, inputs.model_state, label="critic"
    )
    params, state = inputs.apply(params, grads, state, label="critic")
    grads, two = inputs.gradients(student_loss, params, one.model_state, label=MAIN)
    params, state = inputs.apply(params, grads, state, label=MAIN)
    return Update(params, two.model_state, state, two.value, one.metrics | two.metrics)


def weighted(params, inputs):
    """Two terms, weighted by the softmax of what is learned at the upper level."""
    weights = jax.nn.softmax(params["weights"]["z"])
    size = jnp.sum(params["student"]["w"] ** 2)
    value = weights[0] * jnp.mean(error(params, inputs.batch)) + weights[1] * size
    return Loss(value, inputs.model_state, {})


def primary(params, inputs):
    """What the upper level wants low."""
    value = jnp.mean(error(params, inputs.batch))
    return Loss(value, inputs.model_state, {"primary": value})


def bi_level(inputs):
    """A virtual step, the hyper-gradient through it, and then the real step."""
    rate = inputs.learning_rate[MAIN]

    def ahead(weights, micro):
        def inner(student):
            return weighted(
                {**micro.params, **student, "weights": weights}, micro
            ).value

        student = {"student": micro.params["student"]}
        moved = jax.tree.map(
            lambda p, g: p - rate * g, student, jax.grad(inner)(student)
        )
        return primary({**micro.params, **moved}, micro)

    def upper(params, micro):
        return ahead(params["weights"], micro._replace(params=inputs.params))

    params, state = inputs.params, inputs.opt_state
    hyper, one = inputs.gradients(upper, params, inputs.model_state, label="weights")
    params, state = inputs.apply(params, hyper, state, label="weights")
    grads, two = inputs.gradients(weighted, params, one.model_state, label=MAIN)
    params, state = inputs.apply(params, grads, state, label=MAIN)
    measured = {f"hyper{i}": hyper["weights"]["z"][i] for i in range(2)}
    return Update(params, two.model_state, state, two.value, one.metrics | measured)


def _labels(params):
    del params
    student = {"w": MAIN, "base": FROZEN}
    return {"student": student, "critic": "critic", "weights": "weights"}


def _only_w(params):
    return dict.fromkeys(params, FROZEN) | {"student": {"w": MAIN, "base": FROZEN}}


def _follow(params, model_state, step):
    del step
    old, new = model_state["target"]["w"], params["student"]["w"]
    return {**model_state, "target": {"w": 0.9 * old + 0.1 * new}}


def _method(**changes):
    return Method(
        init=_init,
        targets={},
        forward=lambda params, model_state, batch, key: ({}, model_state),
        loss=lambda inputs: student_loss(inputs.params, inputs),
        predict=lambda params, model_state, batch: {},
        evaluate=lambda outputs, batch: None,
        **changes,
    )


METHODS = {
    "two_players": _method(trainable=_labels, update=two_players),
    "bi_level": _method(trainable=_labels, update=bi_level),
    "ema_target": _method(after_step=_follow),
    "frozen_base": _method(trainable=_only_w),
}


def make_groups_of(name, seeds=(1, 2), weight_decay=0.1):
    """Returns the groups of one student of a method."""
    method = METHODS[name]
    chosen = dict(configs.default().optim) | {"schedule": "constant", "momentum": 0.5}
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    labels = set(leaf_labels(method.trainable, params) or {MAIN}) - {FROZEN}
    optimizers = optim.optimizations(
        chosen | {"weight_decay": weight_decay},
        {label: {"lr": RATES[label]} for label in labels},
        labels,
        STEPS,
        1.0,
    )
    student = Student(name, method, None, "x", STEPS, optimizers)
    return make_groups([student], seeds, True)


def batches(groups, start, count, mesh=None):
    """Returns the inputs of some steps."""
    index = np.random.default_rng(5).integers(0, EXAMPLES, (STEPS, 1, BATCH))
    index = index[start : start + count].astype(np.int32)
    rates = {g.name: g.learning_rates(start, count) for g in groups}
    if mesh is not None:
        index = sharding.put(index, sharding.batch(mesh, axis=2))
    return {"data": {"index": index}, "lr": rates}


def train(name, accumulate=1, stops=(STEPS,), mesh=None, weight_decay=0.1):
    """Trains and returns the state and the metrics, on the host."""
    groups = make_groups_of(name, weight_decay=weight_decay)
    settings = Settings(
        view=lambda key, batch: batch, draw_seeds=(1,), accumulate=accumulate, mesh=mesh
    )
    call = jax.jit(make_train_call(groups, settings))
    state = jax.jit(lambda: {g.name: init_group(g, {}, False) for g in groups})()
    start = 0
    for stop in stops:
        inputs = batches(groups, start, stop - start, mesh)
        state, metrics = call(state, {}, table(), inputs, stop - start)
        state, start = jax.device_get(state), stop
    return state["group0"], jax.device_get(metrics["group0"])


def gathers(name, mesh):
    """Counts the arrays that all devices gather in a step of two micro-batches."""
    groups = make_groups_of(name)
    settings = Settings(
        view=lambda key, batch: batch, draw_seeds=(1,), accumulate=2, mesh=mesh
    )
    call = jax.jit(make_train_call(groups, settings), static_argnums=4)
    state = jax.jit(lambda: {g.name: init_group(g, {}, False) for g in groups})()
    lowered = call.lower(state, {}, table(), batches(groups, 0, 1, mesh), 1)
    return sum(
        sent.number
        for kind, sent in hlo.collectives(lowered.compile().as_text()).items()
        if kind == "all-gather"
    )


if __name__ == "__main__":
    four = sharding.make_mesh({"seed": 1, "data": 4, "fsdp": 1}, [2])
    np.savez(
        sys.argv[1],
        **{
            f"{name}/{parts}/{place}": leaf
            for name in METHODS
            for parts in (1, 2)
            for place, leaf in enumerate(
                jax.tree.leaves(train(name, parts, mesh=four)[0].params)
            )
        },
        **{f"{name}/gathers": gathers(name, four) for name in METHODS},
    )
