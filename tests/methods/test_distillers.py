"""Each method's loss on a fixed batch, against the papers' formulas in NumPy."""

import functools
import inspect

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxkd import methods
from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, Spec
from tests.fields import fields
from tests.fields import loss_of as value_and_loss

CLASSES, ROWS = 6, 40
DISTILLERS = ("kd", "dkd", "rld", "la", "rc", "lr")


class Net(nn.Module):
    """Never run: losses are fed with fixed logits."""

    num_classes: int = CLASSES


def log_softmax(z):
    return z - np.logaddexp.reduce(z, axis=1, keepdims=True)


def kl(log_p, log_q):
    return (np.exp(log_p) * (log_p - log_q)).sum(1)


def ce(s, y):
    return -log_softmax(s)[np.arange(len(y)), y].mean()


def kd(s, t, temperature=4.0):
    soft = log_softmax(t / temperature), log_softmax(s / temperature)
    return temperature**2 * kl(*soft).mean()


def split(z, index):
    """The logarithms of one class's probability and of all others' together."""
    p = np.exp(log_softmax(z))[np.arange(len(z)), index]
    return np.log(np.stack([p, 1 - p], 1))


def without(z, drop):
    """Row by row, log-softmax over the classes that are not dropped."""
    return [log_softmax(row[~out][None]) for row, out in zip(z, drop, strict=True)]


def masked(s, t, drop, temperature):
    pairs = zip(
        without(t / temperature, drop), without(s / temperature, drop), strict=True
    )
    rows = [kl(a, b)[0] if a.size else 0.0 for a, b in pairs]
    return temperature**2 * np.mean(rows)


def label_mask(y):
    return np.arange(CLASSES) == y[:, None]


def dkd(s, t, y, alpha=1.0, beta=8.0, temperature=4.0):
    pair = split(t / temperature, y), split(s / temperature, y)
    target = temperature**2 * kl(*pair).mean()
    return alpha * target + beta * masked(s, t, label_mask(y), temperature)


def rld(s, t, y, alpha=1.0, beta=8.0, temperature=4.0, own=None, mask="ge"):
    own = temperature if own is None else own
    confidence = own**2 * kl(split(t / own, t.argmax(1)), split(s / own, y)).mean()
    at_label = t[np.arange(len(y)), y][:, None]
    drop = {"ge": t >= at_label, "g": t > at_label, "gt_only": label_mask(y)}[mask]
    return alpha * confidence + beta * masked(s, t, drop, temperature)


def swap(t, y):
    rows, top = np.arange(len(y)), t.argmax(1)
    swapped = t.copy()
    swapped[rows, y], swapped[rows, top] = t[rows, top], t[rows, y]
    return swapped


def self_correction(s, y, temperature=4.0):
    raised = s + label_mask(y) * s.max(1, keepdims=True)
    return kd(s, raised, temperature)


def label_revision(s, t, y, eta=0.8):
    rows = np.arange(len(y))
    p, q = np.exp(log_softmax(t)), np.exp(log_softmax(s))
    share = (eta / (p.max(1) - p[rows, y] + 1))[:, None]
    revised = share * p + (1 - share) * label_mask(y)
    right = t.argmax(1) == y
    wrong = ((q - revised) ** 2)[~right].mean()
    return ce(s[right], y[right]) + 4 * ((s - t)[right] ** 2).mean() + wrong


def standardize(z):
    return (z - z.mean(1, keepdims=True)) / (z.std(1, ddof=1, keepdims=True) + 1e-7)


@pytest.fixture(scope="module")
def fixed():
    rng = np.random.default_rng(5)
    s, t = rng.normal(0, 2, (2, ROWS, CLASSES))
    y = rng.integers(0, CLASSES, ROWS)
    y[::2] = t.argmax(1)[::2]  # the teacher is right about half of them, or more
    return s, t, y


def make(name, options=None, per_unit=10.0, teacher=True):
    frozen = {"teacher": FrozenNetwork(Net())} if teacher else {}
    spec = Spec(Net(), frozen, CLASSES, fields((8, 8, 3)), per_unit)
    return methods.make(name, spec, options or {})


def compiled_loss(method):
    """The loss as a function of arrays alone."""

    def loss(s, t, y, step):
        outputs, targets = {"logits": s, "features": {}}, {"teacher": {"logits": t}}
        total, aux = value_and_loss(
            method, None, {}, outputs, {"label": y}, targets, None, step
        )
        assert aux.model_state == {}
        return total, aux.metrics

    return jax.jit(loss, compiler_options={"xla_backend_optimization_level": 0})


def loss_of(name, options, fixed, step):
    with jax.enable_x64(True):
        return jax.device_get(made(name, tuple(options.items()))(*fixed, step))


@functools.cache
def made(name, options):
    return compiled_loss(make(name, dict(options)))


LATE = 10_000  # after every ramp

CASES = [
    ("supervised", {}, lambda s, t, y: ce(s, y)),
    (
        "supervised",
        {"label_smoothing": 0.1},
        lambda s, t, y: 0.9 * ce(s, y) - 0.1 * log_softmax(s).mean(),
    ),
    ("kd", {}, lambda s, t, y: 0.9 * kd(s, t) + 0.1 * ce(s, y)),
    (
        "kd",
        {"temperature": 2.5, "kd_weight": 3.0, "ce_weight": 0.5},
        lambda s, t, y: 3 * kd(s, t, 2.5) + 0.5 * ce(s, y),
    ),
    (
        "kd",
        {"standardize": True, "kd_weight": 2.0},
        lambda s, t, y: 2 * kd(standardize(s), standardize(t)) + 0.1 * ce(s, y),
    ),
    ("dkd", {}, lambda s, t, y: ce(s, y) + dkd(s, t, y)),
    (
        "dkd",
        {"alpha": 0.5, "beta": 2.0, "temperature": 3.0, "dkd_weight": 0.7},
        lambda s, t, y: ce(s, y) + 0.7 * dkd(s, t, y, 0.5, 2.0, 3.0),
    ),
    (
        "dkd",
        {"standardize": True, "ce_weight": 2.0},
        lambda s, t, y: 2 * ce(s, y) + dkd(standardize(s), standardize(t), y),
    ),
    ("rld", {}, lambda s, t, y: ce(s, y) + rld(s, t, y)),
    (
        "rld",
        {"alpha": 2.0, "beta": 3.0, "temperature": 2.0, "alpha_temperature": 1.0},
        lambda s, t, y: ce(s, y) + rld(s, t, y, 2.0, 3.0, 2.0, 1.0),
    ),
    ("rld", {"mask": "g"}, lambda s, t, y: ce(s, y) + rld(s, t, y, mask="g")),
    (
        "rld",
        {"mask": "gt_only", "rld_weight": 0.25, "ce_weight": 0.0},
        lambda s, t, y: 0.25 * rld(s, t, y, mask="gt_only"),
    ),
    (
        "rld",
        {"standardize": True},
        lambda s, t, y: ce(s, y) + rld(standardize(s), standardize(t), y),
    ),
    ("la", {}, lambda s, t, y: kd(s, swap(t, y))),
    (
        "la",
        {"temperature": 2.0, "la_weight": 0.5, "ce_weight": 0.1},
        lambda s, t, y: 0.5 * kd(s, swap(t, y), 2.0) + 0.1 * ce(s, y),
    ),
    (
        "rc",
        {},
        lambda s, t, y: ce(s, y) + kd(s, t) + 0.1 * self_correction(s, y),
    ),
    (
        "rc",
        {
            "temperature": 2.0,
            "rc_weight": 3.0,
            "correction_weight": 0.5,
            "ce_weight": 0.2,
        },
        lambda s, t, y: (
            0.2 * ce(s, y) + 3 * (kd(s, t, 2.0) + 0.5 * self_correction(s, y, 2.0))
        ),
    ),
    ("lr", {}, label_revision),
    (
        "lr",
        {"eta": 0.5, "lr_weight": 2.0},
        lambda s, t, y: 2 * label_revision(s, t, y, 0.5),
    ),
]


@pytest.mark.parametrize(("name", "options", "formula"), CASES)
def test_loss_equals_the_formula(fixed, name, options, formula):
    total, metrics = loss_of(name, options, fixed, LATE)
    np.testing.assert_allclose(total, formula(*fixed), rtol=1e-9)
    expected = {"ce", "top1"} | ({name} - {"supervised"})
    assert expected <= set(metrics)
    np.testing.assert_allclose(metrics["top1"], np.mean(fixed[0].argmax(1) == fixed[2]))
    if name in DISTILLERS:
        teacher = np.mean(fixed[1].argmax(1) == fixed[2])
        assert 0.4 < teacher < 0.9
        np.testing.assert_allclose(metrics["teacher_top1"], teacher)
        np.testing.assert_allclose(metrics["ce"], ce(fixed[0], fixed[2]), rtol=1e-9)


def test_every_option_is_covered_above():
    for name in (*DISTILLERS, "supervised"):
        module = __import__(f"jaxkd.methods.{name}", fromlist=["make"])
        options = set(inspect.signature(module.make).parameters) - {"spec", "warmup"}
        tried = [set(case[1]) for case in CASES if case[0] == name]
        assert options == set().union(*tried)


@pytest.mark.parametrize(("name", "warmup"), [("dkd", 20), ("rld", 20), ("kd", 0)])
def test_the_recipes_ramp_is_the_default(fixed, name, warmup):
    s, _, y = fixed
    weight = 0.1 if name == "kd" else 1.0
    last = loss_of(name, {}, fixed, LATE)[0] - weight * ce(s, y)
    for step in (0, 9, 10, 55, 190, 200):
        now = loss_of(name, {}, fixed, step)[0] - weight * ce(s, y)
        share = min((step // 10 + 1) / warmup, 1) if warmup else 1
        np.testing.assert_allclose(now, share * last, rtol=1e-6)


@pytest.mark.parametrize("name", ["kd", "dkd", "rld", "la", "rc"])
def test_warmup_scales_the_distillation_alone(fixed, name):
    s, _, y = fixed
    plain = {"warmup": 0.0, "ce_weight": 0.3}
    steady, metrics = loss_of(name, plain, fixed, 0)
    rising, _ = loss_of(name, plain | {"warmup": 4.0}, fixed, 12)  # epoch 2 of 4
    np.testing.assert_allclose(
        rising - 0.3 * ce(s, y), 0.5 * (steady - 0.3 * ce(s, y)), rtol=1e-6
    )
    # What is recorded is the term itself, without its weight.
    np.testing.assert_allclose(metrics[name] * (steady - 0.3 * ce(s, y)) > 0, True)


@pytest.mark.parametrize("name", DISTILLERS)
def test_distillers_need_a_teacher(name):
    with pytest.raises(UserError, match=rf"'{name}' learns from .* 'teacher'.*needs"):
        make(name, teacher=False)


@pytest.mark.parametrize("name", ["supervised", *DISTILLERS])
def test_unknown_option_lists_those_that_there_are(name):
    module = __import__(f"jaxkd.methods.{name}", fromlist=["make"])
    with pytest.raises(UserError) as error:
        make(name, {"tempature": 3.0})
    message = str(error.value)
    assert f"'{name}' has no option 'tempature'" in message
    for option in set(inspect.signature(module.make).parameters) - {"spec"}:
        assert option in message


@pytest.mark.parametrize("name", ["rdl", "classification", "distillation", "../kd", ""])
def test_unknown_method_lists_those_that_there_are(name):
    with pytest.raises(UserError) as error:
        make(name)
    for known in ("supervised", *DISTILLERS):
        assert known in str(error.value)
    assert "one of classification" not in str(error.value)


def test_distillers_share_the_teachers_target_and_the_network():
    made = [make(name) for name in DISTILLERS]
    assert len({method.targets["teacher"] for method in made}) == 1
    assert len({method.forward for method in [*made, make("supervised")]}) == 1
    assert not make("supervised").targets


def test_an_unknown_mask_is_refused(fixed):
    with pytest.raises((UserError, ValueError), match="mask is 'le'"):
        loss_of("rld", {"mask": "le"}, fixed, 0)


@pytest.mark.parametrize("name", ["supervised", *DISTILLERS])
def test_gradients_are_finite_at_extreme_logits(name, fixed):
    _, t, y = fixed
    s = np.float32(1e4) * np.sign(fixed[0]).astype(np.float32)

    def loss(logits):
        targets = {"teacher": {"logits": np.float32(1e3) * t.astype(np.float32)}}
        outputs, batch = {"logits": logits}, {"label": y}
        return value_and_loss(make(name), None, {}, outputs, batch, targets, None, 0)

    options = {"xla_backend_optimization_level": 0}
    gradient, _ = jax.jit(jax.grad(loss, has_aux=True), compiler_options=options)(s)
    assert np.isfinite(gradient).all()
