"""Self-supervised losses and their gradients against NumPy; their limits."""

import doctest
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from tests.losses import self_supervised_reference as reference

rng = np.random.default_rng(0)
A, B, QUEUE = (rng.normal(size=(n, 4)) for n in (5, 5, 7))
CENTRE = rng.normal(size=4)
VIEWS = rng.normal(size=(4, 5, 4))
TARGETS = rng.normal(size=(4, 5, 4))

# name -> (loss, reference, arguments, how many of the first are differentiated)
CASES = {
    "nt_xent": (
        lambda *z: losses.nt_xent(*z, temperature=0.3),
        lambda *z: reference.nt_xent(*z, 0.3),
        (A, B),
        2,
    ),
    "moco": (
        lambda *z: losses.moco(*z, temperature=0.2),
        lambda *z: reference.moco(*z, 0.2),
        (A, B, QUEUE),
        1,
    ),
    "negative_cosine": (losses.negative_cosine, reference.negative_cosine, (A, B), 1),
    "fast_siam": (losses.fast_siam, reference.fast_siam, (VIEWS, TARGETS), 1),
    "dino": (
        lambda *z: losses.dino(*z, student_temperature=0.5, teacher_temperature=0.25),
        lambda *z: reference.dino(*z, 0.5, 0.25),
        (VIEWS, TARGETS[:2], CENTRE),
        1,
    ),
    "barlow_twins": (
        lambda *z: losses.barlow_twins(*z, weight=0.02),
        lambda *z: reference.barlow_twins(*z, 0.02),
        (A, B),
        2,
    ),
    "vicreg": (
        lambda *z: losses.vicreg(*z, invariance=2.0, variance=3.0, covariance=0.5),
        lambda *z: reference.vicreg(*z, 2.0, 3.0, 0.5),
        (A, B),
        2,
    ),
}


def _measure(loss):
    """Compiles ``(weights, *arguments) -> (value, gradients)`` once."""

    @jax.jit
    def measure(weights, *arguments):
        value, pullback = jax.vjp(loss, *arguments)
        return value, pullback(jnp.asarray(weights, value.dtype))

    return measure


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name):
    loss, formula, arguments, differentiated = CASES[name]
    with jax.enable_x64(True):
        weights = 1.0 + np.arange(np.size(formula(*arguments)))
        weights = weights.reshape(np.shape(formula(*arguments)))
        value, slopes = _measure(loss)(weights, *arguments)
    np.testing.assert_allclose(value, formula(*arguments), 1e-10)
    for place, slope in enumerate(slopes):
        if place >= differentiated:
            assert not np.any(slope), "a target got a gradient"
            continue

        def total(x, place=place):
            changed = [*arguments[:place], x, *arguments[place + 1 :]]
            return np.sum(weights * formula(*changed))

        expected = reference.gradient(total, arguments[place])
        np.testing.assert_allclose(slope, expected, 1e-5, 1e-7)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_float32(name):
    loss, formula, arguments, _ = CASES[name]
    half = [jnp.asarray(x, jnp.bfloat16) for x in arguments]
    value = jax.jit(loss)(*half)
    assert value.dtype == jnp.float32
    exact = formula(*(np.asarray(x, float) for x in half))
    np.testing.assert_allclose(value, exact, 2e-5, 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_finite_for_equal_zero_and_long_rows(name):
    loss, formula, arguments, _ = CASES[name]
    measure = _measure(loss)
    for factor in (0.0, 1e4):
        equal = [np.full(x.shape, factor, np.float32) for x in arguments]
        value, slopes = measure(np.ones(np.shape(formula(*arguments))), *equal)
        assert np.all(np.isfinite(value))
        assert all(np.all(np.isfinite(slope)) for slope in slopes)


def test_two_views_of_fast_siam_are_simsiam():
    both = losses.negative_cosine(VIEWS[0], TARGETS[1])
    both += losses.negative_cosine(VIEWS[1], TARGETS[0])
    found = losses.fast_siam(VIEWS[:2], TARGETS[:2])
    np.testing.assert_allclose(found, 0.5 * both, 1e-5)


def test_vicreg_terms_sum_to_vicreg():
    terms = losses.vicreg_terms(A, B)
    weighted = sum(w * t for w, t in zip((25.0, 25.0, 1.0), terms, strict=True))
    np.testing.assert_allclose(losses.vicreg(A, B), weighted, 1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: losses.nt_xent(A, B[:3], temperature=1.0), r"z0 .* z1 .*expected"),
        (lambda: losses.moco(A, B, QUEUE[:, :2], temperature=1.0), "queue has shape"),
        (lambda: losses.negative_cosine(A, B[:, :1]), "p has shape"),
        (lambda: losses.fast_siam(VIEWS[:1], VIEWS[:1]), "at least two views"),
        (lambda: losses.dino(VIEWS[:1], VIEWS[:2], CENTRE), "student has shape"),
        (lambda: losses.vicreg(A[:1], B[:1]), "at least 2"),
        (lambda: losses.barlow_twins(A[None], B[None]), "Flatten"),
        (lambda: losses.queue_update(QUEUE, 0, np.ones((8, 4))), "Enlarge the queue"),
        (lambda: losses.queue_update(QUEUE, 0, A, wrap="stop"), "wrap is 'stop'"),
        (lambda: losses.centre_update(CENTRE, A[:, :2]), "centre has shape"),
        (lambda: losses.cosine_momentum(0, 0, 0.9), "steps is 0"),
    ],
)
def test_errors_name_shapes(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_queue_sequences():
    """Seven rows, batches of three: a list with a write head says what is where."""
    for wrap in ("ring", "truncate"):
        queue = losses.queue_init(jax.random.key(0), 7, 2)
        np.testing.assert_allclose(np.linalg.norm(queue, axis=-1), 1, 1e-6)
        expected, head, position = list(np.asarray(queue)), 0, jnp.asarray(0)
        for step in range(6):
            keys = np.random.default_rng(step).normal(size=(3, 2))
            queue, position = jax.jit(losses.queue_update, static_argnames="wrap")(
                queue, position, keys, wrap=wrap
            )
            for row in reference.unit(keys):
                if head < 7:
                    expected[head] = row
                head += 1
                if wrap == "ring":
                    head %= 7
            head = 0 if wrap == "truncate" and head >= 7 else head
            assert int(position) == head
            np.testing.assert_allclose(queue, expected, 1e-5)


def test_centre_sequence_is_a_moving_average():
    centre, exact = jnp.zeros(4), np.zeros(4)
    for step in range(4):
        teacher = np.random.default_rng(step).normal(size=(2, 3, 4))
        centre = losses.centre_update(centre, teacher, momentum=0.9)
        exact = 0.9 * exact + 0.1 * teacher.reshape(-1, 4).mean(0)
    np.testing.assert_allclose(centre, exact, 1e-5)


def test_momentum_schedule():
    exact = [1 - 0.004 * (np.cos(np.pi * k / 9) + 1) / 2 for k in range(10)]
    found = [losses.cosine_momentum(k, 10, 0.996) for k in range(10)]
    np.testing.assert_allclose(found, exact, 1e-6)
    assert losses.cosine_momentum(50, 10, 0.9) == 1
    assert losses.cosine_momentum(0, 1, 0.9) == 1


@pytest.mark.parametrize("name", ["self_supervised", "self_supervised_state"])
def test_docstring_examples(name):
    module = importlib.import_module(f"jaxkd.losses.{name}")
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted and not found.failed


@pytest.mark.slow
def test_eight_devices_equal_one():
    script = Path(__file__).with_name("sharded_self_supervised.py")
    run = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    line = next(x for x in run.stdout.splitlines() if x.startswith("RESULT"))
    found = json.loads(line.removeprefix("RESULT"))
    assert found.pop("control") > 1e-3
    assert found.pop("views") == []  # images stay on their devices
    assert set(found) >= set(CASES)
    for name, (value, slope, devices) in found.items():
        assert devices == 8
        assert value < 1e-5 and slope < 1e-5, name
