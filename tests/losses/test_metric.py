"""ArcFace and the distance-weighted triplet loss against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import metric
from tests.losses.feature_reference import gradient

LABELS = np.array([0, 0, 1, 1, 2])


def arcface_reference(cosines, labels, margin, scale):
    cosines = cosines.copy()
    for row, label in enumerate(labels):
        angle = np.arccos(cosines[row, label])
        if angle < np.pi - margin:
            cosines[row, label] = np.cos(angle + margin)
        else:
            cosines[row, label] -= margin * np.sin(margin)
    z = scale * cosines
    z = z - z.max(1, keepdims=True)
    log = z - np.log(np.exp(z).sum(1, keepdims=True))
    return -log[np.arange(len(labels)), labels]


def cosines(seed=0):
    rng = np.random.default_rng(seed)
    values = rng.uniform(-0.9, 0.9, (5, 4))
    values[4, 2] = -0.95  # beyond pi - margin
    return values


def test_arcface():
    x = cosines()
    with jax.enable_x64(True):
        loss = lambda x: metric.arcface(x, LABELS, margin=0.5, scale=8.0)  # noqa: E731
        value, pull = jax.vjp(loss, jnp.asarray(x))
        slope = pull(jnp.ones(5))[0]
    wanted = arcface_reference(x, LABELS, 0.5, 8.0)
    np.testing.assert_allclose(value, wanted, 1e-10)
    numeric = gradient(lambda x: arcface_reference(x, LABELS, 0.5, 8.0).sum(), x)
    np.testing.assert_allclose(slope, numeric, 1e-6, 1e-7)


def test_arcface_without_margin_is_a_scaled_softmax():
    x = jnp.asarray(cosines(), jnp.float32)
    log = jax.nn.log_softmax(8 * x)
    np.testing.assert_allclose(
        metric.arcface(x, LABELS, margin=0.0, scale=8.0),
        -log[jnp.arange(5), LABELS],
        1e-5,
    )


def test_arcface_at_the_ends():
    x = jnp.array([[1.0, -1.0], [-1.0, 1.0], [1.0000001, 0.0]])
    value, pull = jax.vjp(lambda x: metric.arcface(x, jnp.zeros(3, int)), x)
    assert np.isfinite(value).all() and np.isfinite(pull(jnp.ones(3))[0]).all()
    assert value[0] < 1e-6 and value[1] > 100


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3, 4), {}, r"cosines have shape \(3, 4\) and labels \(5,\)"),
        ((5, 4), {"margin": 1.6}, "margin is 1.6"),
        ((5, 4), {"scale": 0.0}, "and scale 0.0"),
    ],
)
def test_arcface_refuses(shape, options, message):
    with pytest.raises(ValueError, match=message):
        metric.arcface(jnp.zeros(shape), LABELS, **options)


def unit_rows(seed=0, features=4, rows=5):
    x = np.random.default_rng(seed).normal(size=(rows, features))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pair_distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def expected_triplet(x, labels, margin=0.2, cutoff=0.5, upper=1.4):
    """The mean over draws, from the probabilities of the paper."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    n, d = x.shape[1], pair_distances(x)
    losses = []
    for a in range(len(x)):
        others = np.flatnonzero(labels != labels[a])
        if not len(others):
            continue
        near = others[np.maximum(d[a, others], cutoff) < upper]
        far = np.maximum(d[a, near], cutoff)
        density = far ** (n - 2) * (1 - far**2 / 4) ** ((n - 3) / 2)
        chance = (1 / density) / (1 / density).sum()
        if not len(near):
            near, chance = others, np.full(len(others), 1 / len(others))
        for p in np.flatnonzero(labels == labels[a]):
            if p != a:
                losses.append(chance @ np.maximum(d[a, p] - d[a, near] + margin, 0))
    return np.mean(losses)


def test_triplet_is_the_expected_one_on_average():
    # A margin so large that every draw counts, and rows near and far.
    x, labels = unit_rows(rows=9), np.repeat(np.arange(3), 3)
    keys = jax.random.split(jax.random.key(0), 4000)
    options = {"margin": 2.0, "cutoff": 0.9}
    draw = jax.jit(
        jax.vmap(
            lambda key: metric.distance_weighted_triplet(3 * x, labels, key, **options)
        )
    )
    values = np.asarray(draw(keys), np.float64)
    error = values.std() / np.sqrt(len(values))
    assert abs(values.mean() - expected_triplet(x, labels, **options)) < 4 * error
    # A control: with nearly even probabilities the mean is another.
    even = expected_triplet(x, labels, margin=2.0, cutoff=1.399)
    assert abs(values.mean() - even) > 8 * error


def test_where_one_negative_exists_the_loss_is_exact():
    x, labels = unit_rows(3, rows=3), np.array([0, 0, 1])
    d = pair_distances(x)
    wanted = np.mean([max(d[a, 1 - a] - d[a, 2] + 0.2, 0) for a in (0, 1)])
    value = metric.distance_weighted_triplet(
        x, labels, jax.random.key(1), upper_cutoff=3.0
    )
    np.testing.assert_allclose(value, wanted, 1e-5)


def test_far_negatives_are_drawn_only_where_there_is_no_other():
    distance = jnp.array([[0.0, 1.0, 1.5, 1.6]])
    different = jnp.array([[False, True, True, False]])
    weigh = lambda upper: metric.negative_log_weights(  # noqa: E731
        distance, different, 4, upper_cutoff=upper
    )
    assert np.isfinite(weigh(1.4)).tolist() == [[False, True, False, False]]
    assert np.isfinite(weigh(0.9)).tolist() == [[False, True, True, False]]
    assert float(weigh(0.9)[0, 1]) == float(weigh(0.9)[0, 2])


@pytest.mark.slow
def test_triplet_gradient_is_finite_on_twins_and_zeros():
    x = jnp.array([[1.0, 0], [1, 0], [1, 0], [0, 0], [0, 0]])
    loss = lambda x: metric.distance_weighted_triplet(  # noqa: E731
        x, LABELS, jax.random.key(0)
    )
    value, slope = jax.value_and_grad(loss)(x)
    assert np.isfinite(value) and np.isfinite(slope).all()


def test_triplet_without_pairs_is_zero():
    x = jnp.asarray(unit_rows())
    for labels in (np.arange(5), np.zeros(5, int)):
        loss = lambda x, y=labels: metric.distance_weighted_triplet(  # noqa: E731
            x, y, jax.random.key(0)
        )
        value, slope = jax.value_and_grad(loss)(x)
        assert value == 0 and not np.asarray(slope).any()


def test_rotation_and_scale_change_nothing():
    x = unit_rows()
    turn, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(4, 4)))
    key = jax.random.key(2)
    plain = metric.distance_weighted_triplet(x, LABELS, key)
    turned = metric.distance_weighted_triplet(7 * x @ turn, LABELS, key)
    np.testing.assert_allclose(plain, turned, 1e-5)
