"""What refined logit distillation is for: no pull away from the label.

The motivation of arXiv:2408.07703, measured. On rows where the teacher is wrong, a
descent step on the distillation loss alone may lower the student's margin of the
label over the teacher's choice. KD and DKD do so nearly always. RLD does so exactly
where the student is surer of the label than the teacher is of its choice.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses

CLASSES = 100
ROWS = 3000
T = 4.0


@jax.jit
def _margin_slopes(s, t, y):
    """Derivative of each loss along (label logit - logit of the teacher's choice)."""
    options = {"temperature": T}
    weights = {"alpha": 1.0, "beta": 8.0, "temperature": T}
    measured = {
        "kd": lambda s: losses.kd(s, t, **options),
        "dkd": lambda s: losses.dkd(s, t, y, **weights),
        "rld": lambda s: losses.rld(s, t, y, **weights),
        "correlation": lambda s: losses.masked_correlation(s, t, y, **options),
    }
    rows, top = jnp.arange(len(y)), jnp.argmax(t, axis=1)
    gradients = {
        name: jax.grad(lambda s, loss=loss: loss(s).sum())(s)
        for name, loss in measured.items()
    }
    return {name: g[rows, y] - g[rows, top] for name, g in gradients.items()}


@pytest.fixture(scope="module")
def teacher():
    """Logits and labels of the rows on which a random teacher is wrong."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS)
    t = rng.normal(0, 2, (ROWS, CLASSES)) + 4 * (np.arange(CLASSES) == y[:, None])
    wrong = t.argmax(axis=1) != y
    return t[wrong], y[wrong]


def _students(t, y):
    rng = np.random.default_rng(1)
    return {
        "fresh": rng.normal(0, 0.3, t.shape),
        "half way": 0.5 * t + rng.normal(0, 1, t.shape),
        "right and over-confident": 0.5 * t + 4 * (np.arange(CLASSES) == y[:, None]),
    }


def _softmax(z):
    p = np.exp(z / T)
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("name", ["fresh", "half way", "right and over-confident"])
def test_rld_lowers_the_margin_only_where_the_student_is_surer(teacher, name):
    t, y = teacher
    s = _students(t, y)[name]
    with jax.enable_x64(True):
        slopes = jax.device_get(_margin_slopes(jnp.float64(s), jnp.float64(t), y))
    # A descent step lowers the margin where its derivative is positive.
    lowered = {loss: slope > 0 for loss, slope in slopes.items()}

    student_confidence = _softmax(s)[np.arange(len(y)), y]
    teacher_confidence = _softmax(t).max(axis=1)
    surer = student_confidence > teacher_confidence
    np.testing.assert_array_equal(lowered["rld"], surer)
    assert (slopes["correlation"] == 0).all()
    if name == "right and over-confident":
        assert surer.mean() > 0.5
    else:
        assert lowered["kd"].mean() > 0.8
        assert lowered["dkd"].mean() > 0.8
        assert lowered["rld"].mean() < 0.02
