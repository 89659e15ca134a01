"""MLKD on one view and on two, against the formulas in float64 NumPy."""

import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import methods
from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, Spec
from jaxkd.losses.multilevel import TEMPERATURES
from tests.fields import fields
from tests.fields import loss_of as value_and_loss

CLASSES, ROWS, SHAPE, STEPS_PER_UNIT = 5, 12, (2, 3, 1), 10.0
LATE = 10_000  # after every ramp
QUICK = {"xla_backend_optimization_level": 0}  # tests compile more than they compute


class Net(nn.Module):
    """Batch norm, then one product: quick to write out in NumPy."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, images, train=False):
        x = images.reshape(len(images), -1)
        norm = nn.BatchNorm(
            use_running_average=not train, momentum=0.75, dtype=x.dtype, name="bn"
        )
        x = norm(x)
        return nn.Dense(self.num_classes, dtype=x.dtype, name="fc")(x), {"flat": x}


class Teacher(Net):
    """Another network of the same kind."""


def make(name, options=None, teacher=True, strong=True):
    frozen = {"teacher": FrozenNetwork(Teacher())} if teacher else {}
    more = {"strong": jax.ShapeDtypeStruct(SHAPE, jnp.float32)} if strong else {}
    spec = Spec(Net(), frozen, CLASSES, fields(SHAPE, **more), STEPS_PER_UNIT)
    return methods.make(name, spec, options or {})


def softmax(z):
    p = np.exp(z - z.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def ce(z, y):
    return -np.log(softmax(z)[np.arange(len(y)), y]).mean()


def kd(s, t, temperature):
    """KD of each row."""
    p, q = softmax(t / temperature), softmax(s / temperature)
    return temperature**2 * (p * np.log(p / q)).sum(1)


def noaug(s, t, masked="per_sample", temperatures=TEMPERATURES):
    p = softmax(t)
    rows = p.max(1) <= np.percentile(p.max(1), 50)
    classes = p.sum(0) <= np.percentile(p.sum(0), 50)
    if masked == "official":
        rows, classes = np.full(len(s), rows.mean()), np.full(CLASSES, classes.mean())
    total = 0.0
    for temperature in temperatures:
        q, p = softmax(s / temperature), softmax(t / temperature)
        by_row = kd(s, t, temperature) + ((q @ q.T - p @ p.T) ** 2).sum(1)
        by_class = ((q.T @ q - p.T @ p) ** 2).sum(1)
        total += (rows * by_row).mean() + (classes * by_class).mean()
    return total


def two_views(s, t, ss, ts, masked="per_sample", temperatures=TEMPERATURES):
    total = noaug(s, t, masked, temperatures)
    for index, temperature in enumerate(temperatures):
        slip = masked == "official" and index > 2
        total += kd(*((s, t) if slip else (ss, ts)), temperature).mean()
    return total


def standardize(z):
    return (z - z.mean(1, keepdims=True)) / (z.std(1, ddof=1, keepdims=True) + 1e-7)


@pytest.fixture(scope="module")
def fixed():
    """Logits of student and teacher on both views, and labels."""
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (4, ROWS, CLASSES))
    return *logits, rng.integers(0, CLASSES, ROWS)


def loss_of(method, s, t, ss, ts, y, step=LATE):
    """The loss on fixed logits, and its metrics."""

    def loss(s, t, ss, ts):
        outputs = {"logits": s, "features": {}, "strong": {"logits": ss}}
        targets = {"teacher": {"logits": t}, "teacher_strong": {"logits": ts}}
        total, aux = value_and_loss(
            method, {}, {}, outputs, {"label": y}, targets, None, step
        )
        assert aux.model_state == {}
        return total, aux.metrics

    with jax.enable_x64(True):
        run = jax.jit(
            jax.value_and_grad(loss, (0, 1, 2, 3), has_aux=True), compiler_options=QUICK
        )
        return jax.device_get(run(s, t, ss, ts))


CASES = {
    "mlkd_noaug": [
        ({}, lambda s, t, _, __, y: 0.1 * ce(s, y) + 0.9 * noaug(s, t)),
        (
            {
                "masked": "official",
                "mlkd_noaug_weight": 2.0,
                "temperatures": (2.0, 3.0),
            },
            lambda s, t, _, __, y: (
                0.1 * ce(s, y) + 2 * noaug(s, t, "official", (2.0, 3.0))
            ),
        ),
        (
            {"standardize": True, "ce_weight": 0.5},
            lambda s, t, _, __, y: (
                0.5 * ce(s, y) + 0.9 * noaug(standardize(s), standardize(t))
            ),
        ),
    ],
    "mlkd": [
        (
            {},
            lambda s, t, ss, ts, y: (
                0.1 * (ce(s, y) + ce(ss, y)) + 0.9 * two_views(s, t, ss, ts)
            ),
        ),
        (
            {"masked": "official", "mlkd_weight": 2.0, "ce_weight": 0.5},
            lambda s, t, ss, ts, y: (
                0.5 * (ce(s, y) + ce(ss, y)) + 2 * two_views(s, t, ss, ts, "official")
            ),
        ),
        (
            {"standardize": True, "ce_weight": 0.0, "temperatures": (3.0, 1.5)},
            lambda s, t, ss, ts, _: (
                0.9
                * two_views(*map(standardize, (s, t, ss, ts)), temperatures=(3.0, 1.5))
            ),
        ),
    ],
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("case", range(3))
def test_loss_equals_the_formula(fixed, name, case):
    options, formula = CASES[name][case]
    method = make(name, options)
    (total, metrics), gradients = loss_of(method, *fixed)
    np.testing.assert_allclose(total, formula(*fixed), rtol=1e-9)
    s, t, _, _, y = fixed
    assert {"ce", "top1", "teacher_top1", name} <= set(metrics)
    np.testing.assert_allclose(metrics["ce"], ce(s, y), rtol=1e-9)
    np.testing.assert_allclose(metrics["top1"], (s.argmax(1) == y).mean())
    np.testing.assert_allclose(metrics["teacher_top1"], (t.argmax(1) == y).mean())
    for side in (1, 3):
        assert not gradients[side].any()
    assert gradients[0].any()
    assert gradients[2].any() == (name == "mlkd")


def test_every_option_is_covered_above():
    for name, cases in CASES.items():
        module = __import__(f"jaxkd.methods.{name}", fromlist=["make"])
        options = set(inspect.signature(module.make).parameters) - {"spec", "warmup"}
        assert options == set().union(*(case[0] for case in cases))


@pytest.mark.parametrize("name", CASES)
def test_warmup_scales_the_distillation_alone(fixed, name):
    s, _, ss, _, y = fixed
    entropy = 0.1 * (ce(s, y) + (ce(ss, y) if name == "mlkd" else 0))
    steady = loss_of(make(name), *fixed)[0][0]
    rising = loss_of(make(name, {"warmup": 4.0}), *fixed, step=12)[0][0]  # epoch 2 of 4
    np.testing.assert_allclose(rising - entropy, 0.5 * (steady - entropy), rtol=1e-6)


@pytest.fixture(scope="module")
def views():
    rng = np.random.default_rng(0)
    weak, strong = rng.normal([[1.0], [-2.0]], [[2.0], [1.0]], (2, ROWS * 6))
    labels = rng.integers(0, CLASSES, ROWS)
    images = {"image": weak, "strong": strong}
    batch = {n: jnp.float32(x.reshape(ROWS, *SHAPE)) for n, x in images.items()}
    return batch | {"label": jnp.asarray(labels)}


def forward_by_hand(params, images):
    """Returns logits, and batch statistics."""
    flat = np.asarray(images, np.float64).reshape(ROWS, -1)
    mean, var = flat.mean(0), flat.var(0)
    bn, fc = (
        {k: np.asarray(v, np.float64) for k, v in params[n].items()}
        for n in ("bn", "fc")
    )
    normal = (flat - mean) / np.sqrt(var + 1e-5) * bn["scale"] + bn["bias"]
    return normal @ fc["kernel"] + fc["bias"], {"mean": mean, "var": var}


def test_the_student_sees_both_views_one_after_the_other(views):
    method = make("mlkd")
    params, model_state = method.init(jax.random.key(0))
    model_state["beside"] = {"queue": jnp.ones(2)}
    forward = jax.jit(method.forward, compiler_options=QUICK)
    outputs, changed = forward(params, model_state, views, jax.random.key(1))
    weak, first = forward_by_hand(params["student"], views["image"])
    strong, second = forward_by_hand(params["student"], views["strong"])
    np.testing.assert_allclose(outputs["logits"], weak, atol=1e-4)
    np.testing.assert_allclose(outputs["strong"]["logits"], strong, atol=1e-4)
    assert np.abs(weak - strong).max() > 0.1
    moved = changed["student"]["batch_stats"]["bn"]
    for name, start in (("mean", 0.0), ("var", 1.0)):
        wanted = 0.75 * (0.75 * start + 0.25 * first[name]) + 0.25 * second[name]
        np.testing.assert_allclose(moved[name], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(changed["beside"]["queue"], np.ones(2))


def teacher_variables():
    variables = Teacher().init(jax.random.key(7), jnp.zeros((1, *SHAPE)))
    return jax.tree.map(lambda x: x + 0.3, variables)


def step_loss(method, params, model_state, frozen, batch):
    """What a training step computes, from images to loss."""
    key = jax.random.key(0)
    targets = {n: f(frozen, batch, key) for n, f in method.targets.items()}
    outputs, model_state = method.forward(params, model_state, batch, key)
    return value_and_loss(
        method, params, model_state, outputs, batch, targets, key, LATE
    )[0]


def test_a_whole_step_equals_the_formula_and_the_teacher_gets_no_gradient(views):
    method = make("mlkd")
    params, model_state = method.init(jax.random.key(0))
    frozen = {"teacher": teacher_variables()}

    @jax.jit
    def measure(params, frozen, batch):
        def loss(params, frozen):
            return step_loss(method, params, model_state, frozen, batch)

        return jax.value_and_grad(loss, (0, 1))(params, frozen)

    value, (gradients, teacher_gradients) = measure(params, frozen, views)
    s, _ = forward_by_hand(params["student"], views["image"])
    ss, _ = forward_by_hand(params["student"], views["strong"])
    t, ts = (
        np.asarray(Teacher().apply(frozen["teacher"], views[name])[0], np.float64)
        for name in ("image", "strong")
    )
    wanted = CASES["mlkd"][0][1](s, t, ss, ts, np.asarray(views["label"]))
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    assert not any(leaf.any() for leaf in jax.tree.leaves(teacher_gradients))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradients))
    other = measure(
        params, frozen, views | {"strong": views["strong"] + views["image"]}
    )
    assert abs(other[0] - value) > 1e-3  # negative control: the strong view counts


def test_functions_are_shared_with_other_students():
    made, again, kd_method = (
        make("mlkd"),
        make("mlkd", {"mlkd_weight": 2.0}),
        make("kd"),
    )
    assert made.forward is again.forward and made.init is again.init
    assert made.forward is not kd_method.forward
    assert made.init is kd_method.init and made.predict is kd_method.predict
    assert made.targets["teacher"] is kd_method.targets["teacher"]
    assert made.targets["teacher_strong"] is again.targets["teacher_strong"]
    single = make("mlkd_noaug", strong=False)
    assert single.forward is kd_method.forward and set(single.targets) == {"teacher"}


def test_a_missing_strong_view_is_refused():
    with pytest.raises(UserError, match=r"'mlkd' .*config.view.name = 'weak_strong'"):
        make("mlkd", strong=False)


@pytest.mark.parametrize("name", CASES)
def test_other_mistakes_are_refused(name):
    with pytest.raises(UserError, match=rf"'{name}' learns from .*config.needs"):
        make(name, teacher=False)
    with pytest.raises(
        UserError, match="masked is 'all', expected one of official, per"
    ):
        make(name, {"masked": "all"})
    with pytest.raises(UserError, match=rf"'{name}' has no option 'mask'.*masked"):
        make(name, {"mask": "ge"})


def test_sums_of_methods():
    with pytest.raises(UserError, match="run the student in different ways"):
        make("mlkd+kd")
    assert make("kd+mlkd_noaug").targets.keys() == {"teacher"}
