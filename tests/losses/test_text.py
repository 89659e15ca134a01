"""KD-LTR's losses against float64 NumPy and brute force over all readings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.losses import text
from tests.losses.feature_reference import gradient


def visual(s, t, m):
    values = []
    for a, b, w in zip(s, t, m, strict=True):
        cosines = []
        for c in range(s.shape[-1]):
            za = w * (a[..., c] - a[..., c].mean()) / (a[..., c].std(ddof=1) + 1e-6)
            zb = w * (b[..., c] - b[..., c].mean()) / (b[..., c].std(ddof=1) + 1e-6)
            cosines.append((za * zb).sum() / np.sqrt((za**2).sum() * (zb**2).sum()))
        values.append(1 - np.mean(cosines))
    return np.array(values)


def test_focused_visual_and_its_gradient():
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 2, 3, 4, 2))
    m = rng.uniform(size=(2, 3, 4))
    with jax.enable_x64(True):
        value, pull = jax.vjp(text.focused_visual, *map(jnp.asarray, (s, t, m)))
        slopes = pull(jnp.ones(2))
    np.testing.assert_allclose(value, visual(s, t, m), 1e-9)
    numeric = gradient(lambda s: visual(s, t, m).sum(), s)
    np.testing.assert_allclose(slopes[0], numeric, 1e-5, 1e-8)
    assert not slopes[1].any() and not slopes[2].any()
    tokens = text.focused_visual(s.reshape(2, 12, 2), t.reshape(2, 12, 2))
    np.testing.assert_allclose(tokens, visual(s, t, np.ones_like(m)), 1e-4)


def test_constant_channels_are_finite():
    s, t = jnp.ones((1, 2, 2, 3)), jnp.arange(12.0).reshape(1, 2, 2, 3)
    value, pull = jax.vjp(lambda s: text.focused_visual(s, t), s)
    np.testing.assert_allclose(value, 1)
    assert np.isfinite(pull(jnp.ones(1))[0]).all()


def contrast(s, t, valid, temperature):
    items = np.concatenate([s[valid], t[valid]])
    items = items / np.linalg.norm(items, axis=1, keepdims=True)
    e, count, losses = np.exp(items @ items.T / temperature), valid.sum(), []
    for i in range(2 * count):
        partner = (i + count) % (2 * count)
        others = sum(e[i, j] for j in range(2 * count) if j != i)
        losses.append(-np.log(e[i, partner] / others))
    return np.mean(losses)


def test_semantic_contrast_and_its_gradient():
    rng = np.random.default_rng(1)
    s, t = rng.normal(size=(2, 3, 4, 5))
    valid = np.arange(4) < np.array([[2], [4], [0]])
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (s, t)]

        def loss(s, t):
            return text.semantic_contrast(s, t, jnp.asarray(valid), temperature=0.5)

        value, pull = jax.vjp(loss, *arrays)
        slopes = pull(jnp.ones(()))
    np.testing.assert_allclose(value, contrast(s, t, valid, 0.5), 1e-10)
    for place, slope in enumerate(slopes):
        pair = [s, t]

        def one(x, place=place, pair=pair):
            return contrast(*pair[:place], x, *pair[place + 1 :], valid, 0.5)

        np.testing.assert_allclose(slope, gradient(one, pair[place]), 1e-5, 1e-8)
    assert not slopes[0][~valid].any()  # padding learns nothing


def test_semantic_contrast_of_nothing_is_zero():
    x = jnp.ones((2, 3, 4))

    def loss(x):
        return text.semantic_contrast(x, x, jnp.zeros((2, 3), bool))

    value, slope = jax.value_and_grad(loss)(x)
    assert value == 0 and not slope.any()


def readings(p, width):
    """Lists all readings: (probability, tokens padded with the end, length)."""
    found, (slots, _) = [], p.shape
    tops = [np.argsort(-row, kind="stable")[:width] for row in p]
    for length in range(1, slots + 1):
        for tokens in itertools.product(*tops[:length]):
            ended = tokens[-1] == 0 or length == slots
            if ended and all(token != 0 for token in tokens[:-1]):
                value = np.prod([p[i, token] for i, token in enumerate(tokens)])
                found.append((value, (*tokens, *[0] * (slots - length)), length))
    return sorted(found, key=lambda one: -one[0] / one[2])


@pytest.mark.parametrize("width", [2, 3])
def test_best_paths_are_those_of_brute_force(width):
    rng = np.random.default_rng(width)
    p = rng.dirichlet(np.full(5, 0.4), (4, 4)) + 1e-4
    paths = text.best_paths(jnp.asarray(p), width=width, num_paths=4)
    for i, row in enumerate(p):
        best = readings(row, width)[:4]
        np.testing.assert_allclose(paths.probability[i], [b[0] for b in best], 1e-4)
        assert paths.tokens[i].tolist() == [list(b[1]) for b in best]
        assert paths.length[i].tolist() == [b[2] for b in best]


def test_soft_path_targets_mix_in_the_readings():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(3, 3, 4)) * 6
    logits[2] = 0  # no reading is probable enough
    targets, lengths = text.soft_path_targets(
        jnp.asarray(logits), temperature=2.0, alpha=0.3, threshold=0.26, num_paths=3
    )
    for i, row in enumerate(logits):
        p = np.exp(row / 2) / np.exp(row / 2).sum(1, keepdims=True)
        best = readings(p, 3)[:3]
        graph = np.zeros_like(p)
        for value, tokens, _ in best:
            graph[np.arange(3), tokens] += value / sum(b[0] for b in best)
        part = 0.3 if best[0][0] >= 0.26 else 0.0
        np.testing.assert_allclose(
            targets[i], part * graph + (1 - part) * p, 1e-4, 1e-6
        )
        if i < 2:  # of equal readings any may come first
            assert lengths[i] == best[0][2]
    np.testing.assert_allclose(targets.sum(-1), 1, 1e-5)
    assert np.ptp(targets[2]) < 1e-6


def test_path_kd_and_its_gradient():
    rng = np.random.default_rng(4)
    z, lengths = rng.normal(size=(2, 3, 4)) * 2, np.array([2, 3])
    z[0, 0, 1] = -60  # below the floor at T = 4: -15
    p = rng.dirichlet(np.ones(4), (2, 3))
    p[0, 1] = [0, 0, 1, 0]

    def reference(z):
        q = z / 4 - np.log(np.exp(z / 4).sum(-1, keepdims=True))
        q = np.maximum(q, -10)
        terms = np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - q), 0).sum(-1)
        return np.array(
            [row[:n].sum() / n for row, n in zip(terms, lengths, strict=True)]
        )

    with jax.enable_x64(True):

        def loss(z):
            return text.path_kd(z, jnp.asarray(p), jnp.asarray(lengths))

        value, pull = jax.vjp(loss, jnp.asarray(z))
        slopes = pull(jnp.ones(2))[0]
    np.testing.assert_allclose(value, reference(z), 1e-9)
    numeric = gradient(lambda z: reference(z).sum(), z)
    np.testing.assert_allclose(slopes, numeric, 1e-5, 1e-8)
    assert not slopes[0, 2].any()


def test_character_cross_entropy():
    rng = np.random.default_rng(5)
    z, labels = rng.normal(size=(2, 3, 4)), rng.integers(0, 4, (2, 3))
    valid = np.array([[True, True, False], [False] * 3])
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    picked = -np.log(np.take_along_axis(p, labels[..., None], -1))[..., 0]
    loss = text.character_cross_entropy(z, jnp.asarray(labels), jnp.asarray(valid))
    np.testing.assert_allclose(loss, [picked[0, :2].mean(), 0], 1e-5)


def test_wrong_shapes():
    x = jnp.zeros((2, 3, 4))
    with pytest.raises(ValueError, match="Halve the student's first stride"):
        text.focused_visual(jnp.zeros((2, 4, 4, 1)), jnp.zeros((2, 2, 2, 1)))
    with pytest.raises(ValueError, match="one weight per position"):
        text.focused_visual(x, x, jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="slots, width"):
        text.semantic_contrast(x, x, jnp.zeros((2, 4), bool))
    with pytest.raises(ValueError, match=r"\[batch, slots, classes\]"):
        text.soft_path_targets(jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"twice and \[batch\]"):
        text.path_kd(x, x, jnp.zeros(3, int))
