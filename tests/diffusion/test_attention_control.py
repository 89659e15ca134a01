import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.diffusion import attention_control as control
from jaxkd.diffusion.attention import Site

TOKENS, HEADS, WIDTH = 5, 2, 4
SELF = Site("up", 0, 0, 0, "self", 2, 2)
CROSS = Site("up", 0, 0, 0, "cross", 2, 2)


def state(kinds, *, early, cross, replace=None, mapper=None, mapped=None, matrix=None):
    n = len(kinds)
    identity = jnp.broadcast_to(jnp.arange(TOKENS), (n, TOKENS))
    return control.BranchState(
        jnp.array(kinds),
        identity if mapper is None else mapper,
        jnp.ones((n, TOKENS)) if mapped is None else mapped,
        jnp.broadcast_to(jnp.eye(TOKENS), (n, TOKENS, TOKENS))
        if matrix is None
        else matrix,
        jnp.zeros(n, bool) if replace is None else jnp.array(replace),
        jnp.array(early),
        jnp.array(cross),
    )


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def draw(rows, count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(rows, HEADS, n, WIDTH)).astype(np.float32)
        for n in (4, count, count)
    ]


def attend_by_hand(q, k, v):
    return softmax(0.5 * q @ k.swapaxes(-1, -2)) @ v


@pytest.mark.parametrize("early", [True, False])
def test_self_attention_row_by_row(early):
    kinds = (control.RIGID, control.NON_RIGID, control.GLOBAL)
    count = control.rows(3)
    q, k, v = draw(2 * count, 4)
    attend = control.branch_attention((2, 2))
    out, aux = attend(SELF, q, k, v, 0.5, state(kinds, early=early, cross=True))
    assert aux is None
    # (queries, keys, values) of [s, t1, m1, t2, m2, t3, m3], from the table of 3.1.
    routes = {
        True: [
            (0, 0, 0),
            (0, 0, 1),
            (0, 0, 0),
            (3, 3, 3),
            (1, 1, 1),
            (5,) * 3,
            (6,) * 3,
        ],
        False: [
            (0, 0, 0),
            (1, 1, 1),
            (1, 0, 0),
            (3, 1, 1),
            (3, 1, 1),
            (5,) * 3,
            (6,) * 3,
        ],
    }[early]
    for half in (0, count):
        for row, (a, b, c) in enumerate(routes):
            expected = attend_by_hand(q[half + a], k[half + b], v[half + c])
            np.testing.assert_allclose(out[half + row], expected, atol=1e-5)


@pytest.mark.parametrize("cross_from", ["base", "mutual"])
def test_cross_attention_row_by_row(cross_from):
    count = control.rows(2)
    q, k, v = draw(2 * count, TOKENS)
    rng = np.random.default_rng(1)
    mapper = rng.integers(TOKENS, size=(2, TOKENS))
    mapped = rng.integers(2, size=(2, TOKENS)).astype(np.float32)
    matrix = rng.uniform(size=(2, TOKENS, TOKENS)).astype(np.float32)
    given = state(
        (control.RIGID, control.NON_RIGID),
        early=False,
        cross=True,
        replace=(True, False),
        mapper=jnp.array(mapper),
        mapped=jnp.array(mapped),
        matrix=jnp.array(matrix),
    )
    attend = control.branch_attention((2, 2), cross_from=cross_from)
    out, aux = jax.jit(attend, static_argnums=(0, 4))(CROSS, q, k, v, 0.5, given)
    p = softmax(0.5 * q @ k.swapaxes(-1, -2))[count:]
    base = np.zeros((2, HEADS, 4, TOKENS)), np.zeros((2, HEADS, 4, TOKENS))
    for w in range(TOKENS):
        base[0][0][..., w] = p[0] @ matrix[0][:, w]
        base[1][0][..., w] = p[0] @ matrix[0][:, w]
        for i, row in enumerate((1, 4)):
            own = p[3][..., w]
            taken = p[row][..., mapper[1, w]]
            base[i][1][..., w] = taken if mapped[1, w] else own
    taken = base[0 if cross_from == "base" else 1]
    used = [p[0], taken[0], p[2], taken[1], p[4]]
    for row in range(count):
        np.testing.assert_allclose(
            out[count + row], used[row] @ v[count + row], atol=1e-5
        )
        np.testing.assert_allclose(
            out[row], attend_by_hand(q[row], k[row], v[row]), atol=1e-5
        )
    expected = np.stack(
        [base[0].mean(1), base[1].mean(1), p[[1, 3]].mean(1), p[[0, 1]].mean(1)], axis=1
    )
    np.testing.assert_allclose(aux, expected.reshape(2, 4, 2, 2, TOKENS), atol=1e-5)


def test_global_branches_and_late_steps_keep_their_own_attention():
    q, k, v = draw(6, TOKENS)
    attend = control.branch_attention((9, 9))
    for kinds, cross in (((control.GLOBAL,), True), ((control.RIGID,), False)):
        mapped = jnp.ones((1, TOKENS))
        mapper = jnp.zeros((1, TOKENS), int)
        given = state(kinds, early=True, cross=cross, mapper=mapper, mapped=mapped)
        out, aux = attend(CROSS, q, k, v, 0.5, given)
        np.testing.assert_allclose(out, attend_by_hand(q, k, v), atol=1e-5)
        assert aux is None  # another resolution


def test_word_mask_by_hand():
    maps = np.zeros((2, 2, 3), np.float32)
    maps[..., 1] = [[0.1, 0.4], [0.8, 0.2]]
    maps[..., 2] = [[0.9, 0.0], [0.0, 0.0]]
    got = control.word_mask(maps, jnp.array([0, 1, 0]), (4, 2), 0.4)
    assert got.tolist() == [[False, True]] * 2 + [[True, False]] * 2
    both = control.word_mask(maps, jnp.array([0, 1, 1]), (2, 2), 0.4)
    assert both.tolist() == [[True, True], [True, False]]
    assert not control.word_mask(maps, jnp.zeros(3), (2, 2), 0.0).any()


def test_bad_words_and_resolutions():
    with pytest.raises(ValueError, match="expected one of base, mutual"):
        control.branch_attention((2, 2), cross_from="source")
    with pytest.raises(ValueError, match="resolution of the blend"):
        control.mean_maps({})
