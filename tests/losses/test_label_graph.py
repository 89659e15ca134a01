"""Label graphs against enumeration in float64, closed forms and finite differences."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import losses
from jaxkd.losses import label_graph
from jaxkd.losses.label_graph import LabelGraph

FFSC, FFPP = LabelGraph.ffsc(), LabelGraph.ffpp()
# Section 2.1 of the specification by number: attribute -> regions it can touch.
PARTS = {
    1: {6, 11},
    2: {6, 8, 9, 10, 11},
    3: {6, 7, 8, 9, 11},
    4: {6, 7, 8, 9, 10, 11},
    5: {6, 7, 8, 9, 10, 11},
}


def legal(state):
    """The three rules of the FFSC graph, one vector at a time."""
    on = {i for i, bit in enumerate(state) if bit}
    attributes, regions = on & set(range(1, 6)), on & set(range(6, 12))
    return (
        (not attributes or 0 in on)
        and all(PARTS[a] & regions for a in attributes)
        and all(any(r in PARTS[a] for a in attributes) for r in regions)
    )


def brute_force(logits):
    """Marginals by a loop over all 4096 vectors, in float64."""
    total, on = 0.0, np.zeros(12)
    for state in itertools.product((0, 1), repeat=12):
        if legal(state):
            weight = np.exp(np.dot(np.asarray(logits, np.float64), state))
            total += weight
            on += weight * np.array(state)
    return on / total


def draw(*shape, scale=2.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_the_consistent_vectors_are_those_of_the_rules():
    wanted = [s for s in itertools.product((0, 1), repeat=12) if legal(s)]
    assert FFSC.states.tolist() == [list(state) for state in wanted]
    assert FFSC.states.shape == (1544, 12)
    assert FFPP.states.shape == (251, 10)
    assert [len(level) for level in FFSC.levels] == [1, 5, 6]
    assert [len(level) for level in FFPP.levels] == [1, 3, 6]


def test_marginals_against_brute_force():
    logits = draw(4, 12)
    log_p, log_not_p = jax.jit(losses.log_marginals, static_argnums=1)(logits, FFSC)
    wanted = np.stack([brute_force(row) for row in logits])
    np.testing.assert_allclose(np.exp(log_p), wanted, 2e-5, 1e-7)
    np.testing.assert_allclose(np.exp(log_not_p), 1 - wanted, 2e-5, 1e-6)
    assert np.all(log_p[:, :1] >= log_p[:, 1:])  # no attribute exceeds the root


def test_marginals_in_double_precision_are_exact():
    with jax.enable_x64(True):
        logits = draw(2, 12).astype(np.float64)
        log_p, _ = losses.log_marginals(logits, FFSC)
        wanted = np.stack([brute_force(row) for row in logits])
        np.testing.assert_allclose(np.exp(log_p), wanted, 1e-12)


def test_a_constant_on_the_root_moves_its_log_odds_by_that_constant():
    logits = draw(3, 12)
    moved = logits + 1.5 * np.eye(12, dtype=np.float32)[0]
    odds = [np.subtract(*losses.log_marginals(z, FFSC)) for z in (logits, moved)]
    np.testing.assert_allclose(odds[1][:, 0] - odds[0][:, 0], 1.5, 1e-4)
    # What the face has, if it is fake, stays as it was.
    np.testing.assert_allclose(
        losses.given_fake(moved, FFSC), losses.given_fake(logits, FFSC), 1e-4
    )


def test_the_gradient_of_a_state_is_the_marginals_minus_the_state():
    logits, state = draw(12), FFSC.states[700]

    def negative_log_likelihood(f):
        scores = FFSC.states.astype(np.float32) @ f
        return jax.nn.logsumexp(scores) - f @ state.astype(np.float32)

    gradient = jax.grad(negative_log_likelihood)(jnp.asarray(logits))
    log_p, _ = losses.log_marginals(logits, FFSC)
    np.testing.assert_allclose(gradient, np.exp(log_p) - state, 1e-4, 1e-5)


def test_the_root_bias_makes_an_untrained_network_undecided():
    prior, _ = losses.log_marginals(jnp.zeros(12), FFSC)
    np.testing.assert_allclose(np.exp(prior[0]), 1543 / 1544, 1e-6)
    assert FFSC.root_bias == pytest.approx(-np.log(1543))
    biased, _ = losses.log_marginals(jnp.zeros(12).at[0].set(FFSC.root_bias), FFSC)
    np.testing.assert_allclose(np.exp(biased[0]), 0.5, 1e-5)


def test_extreme_logits_have_finite_values_and_gradients():
    logits = jnp.array([[1e4] * 12, [-1e4] * 12, [1e4, -1e4] * 6, [-1e4, 1e4] * 6])
    labels = jnp.tile(jnp.asarray(FFSC.check("101000001100")), (4, 1))

    for kind in label_graph.KINDS:

        def total(f, kind=kind):
            return losses.level_losses(f, labels, FFSC, kind=kind).sum()

        value, gradient = jax.jit(jax.value_and_grad(total))(logits)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))
    half = losses.log_marginals(logits[:1].astype(jnp.bfloat16), FFSC)
    assert half[0].dtype == jnp.float32


def test_map_state_and_explanation():
    logits = draw(20, 12)
    scores = logits.astype(np.float64) @ FFSC.states.T
    found = losses.most_probable_state(logits, FFSC)
    np.testing.assert_array_equal(found, FFSC.states[scores.argmax(axis=1)])
    marginals = np.stack([brute_force(row) for row in logits[:2]])
    np.testing.assert_allclose(
        losses.given_fake(logits[:2], FFSC), marginals / marginals[:, :1], 1e-4
    )


CODES = ("000000000000", "120110111101", "101000101111")


def reference(p, labels, kind, mean):
    """The levels' losses written out node by node, as in section 3.2."""
    levels = []
    for level in ((0,), range(1, 6), range(6, 12)):
        nodes = []
        for j in level:
            known = labels[:, j] != 2
            y, q = labels[known, j].astype(np.float64), p[known, j]
            if kind == "bce":
                terms = -np.log(np.where(y == 1, q, 1 - q))
            else:
                terms = 1 - np.sqrt(q * y + 1e-8) - np.sqrt((1 - q) * (1 - y) + 1e-8)
            nodes.append(terms.sum() / (len(p) if mean == "batch" else known.sum()))
        levels.append(np.mean(nodes))
    return levels


@pytest.mark.parametrize("mean", label_graph.MEANS)
@pytest.mark.parametrize("kind", label_graph.KINDS)
def test_level_losses_in_closed_form(kind, mean):
    logits = draw(3, 12)
    labels = np.stack([FFSC.check(code) for code in CODES])
    p = np.stack([brute_force(row) for row in logits])
    found = losses.level_losses(logits, labels, FFSC, kind=kind, mean=mean)
    np.testing.assert_allclose(found, reference(p, labels, kind, mean), 2e-5)
    # The same unknown entries by a mask, and rows left out by one per example.
    known = labels != 2
    masked = np.where(known, labels, 1)
    again = losses.level_losses(logits, masked, FFSC, kind=kind, where=known, mean=mean)
    np.testing.assert_allclose(again, found, 1e-6)
    rows = losses.level_losses(
        logits, labels, FFSC, kind=kind, where=np.array([True, False, True]), mean=mean
    )
    left = reference(p[::2], labels[::2], kind, mean)
    scale = 2 / 3 if mean == "batch" else 1
    np.testing.assert_allclose(rows, np.multiply(left, scale), 2e-5)


def test_gradients_of_level_losses_by_finite_differences():
    with jax.enable_x64(True):
        logits = draw(3, 12).astype(np.float64)
        labels = np.stack([FFSC.check(code) for code in CODES])
        direction = draw(3, 12, seed=1).astype(np.float64)
        for kind in label_graph.KINDS:

            def along(t, kind=kind):
                moved = logits + t * direction
                return losses.level_losses(moved, labels, FFSC, kind=kind)

            along = jax.jit(along)
            _, slope = jax.jvp(along, (0.0,), (1.0,))
            step = 1e-5
            wanted = (along(step) - along(-step)) / (2 * step)
            np.testing.assert_allclose(slope, wanted, 1e-6, 1e-9)


def test_independent_labels_are_sigmoid_cross_entropy():
    logits, labels = draw(3, 12), np.stack([FFSC.check(code) for code in CODES[::2]])
    logits = logits[:2]
    found = losses.level_losses_of_marginals(
        jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits), labels, FFSC.levels
    )
    terms = optax.sigmoid_binary_cross_entropy(logits, labels).mean(axis=0)
    np.testing.assert_allclose(found, [terms[0], terms[1:6].mean(), terms[6:].mean()])


def test_published_codes_are_consistent():
    published = "000000000000 110000100001 101000001100 101000101111 120110111101"
    for code in f"{published} 120010111111 100001111111".split():
        assert FFSC.check(code).tolist() == [int(c) for c in code]
    for code in ["1001100000", "1001001100", "1001000010", "1101001100", "1011111111"]:
        FFPP.check(code)
    assert FFPP.check([0] * 10).sum() == 0


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1100", "'1100' has 4 entries, expected 12"),
        ("11000010000x", "'x' for 'skin', expected 0 (off), 1 (on) or 2"),
        ("010000100001", "'age' is on, so 'fake' must be on"),
        ("110000000000", "'age' is on, so 'eye' or 'skin' must be on"),
        ("110000100101", "'mouth' is on, so 'expression' or 'gender' or"),
        ("210000000000", "'age' is on, so 'eye' or 'skin' must be on"),
        # Age is off, so the unknown eye would need another attribute: all are off.
        ("000000200001", "'skin' is on, so 'age' or"),
    ],
)
def test_inconsistent_codes_are_refused_by_rule(code, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        FFSC.check(code)


def test_exclusions():
    graph = LabelGraph(
        ("fake", "a", "b"),
        ((0,), ("a", "b")),
        ((0, "a"), (0, "b")),
        exclusions=(("a", "b"),),
    )
    assert graph.states.tolist() == [[0, 0, 0], [1, 0, 0], [1, 0, 1], [1, 1, 0]]
    with pytest.raises(ValueError, match="exclude each other"):
        graph.check("111")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((("a", "a"), ((0,), (1,)), ((0, 1),)), "a name twice"),
        ((("a", "b"), ((0,),), ((0, 1),)), "each of the 2 nodes once"),
        ((("a", "b"), ((1,), (0,)), ((0, 1),)), "expected node 0"),
        ((("a", "b"), ((0,), (1,)), ()), "needs a parent"),
        ((("a", "b"), ((0,), ("c",)), ((0, 1),)), "'c' is no node"),
        ((("a", "b"), ((0,), (1,)), ((0, 0),)), "different nodes"),
        ((("a", "b"), ((0,), (1,)), ((0, 1),), ((0, 1),)), "can never be on"),
        (
            (("a", "b", "c", "d"), ((0,), (1, 2, 3)), ((0, 1), (2, 3), (3, 2))),
            r"\['c', 'd'\] can be on without the root",
        ),
        (([f"n{i}" for i in range(30)], ((0,),), ()), "at most 24"),
    ],
)
def test_graphs_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LabelGraph(*arguments)


def test_options_and_shapes_are_checked():
    labels = np.zeros((2, 12))
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 12\]"):
        losses.log_marginals(np.zeros((2, 11)), FFSC)
    for options, message in (
        ({"kind": "hinge"}, "kind is 'hinge'"),
        ({"mean": "all"}, "mean is 'all'"),
        ({"where": np.ones(3)}, "where has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.level_losses(labels, labels, FFSC, **options)
    with pytest.raises(ValueError, match=r"\[batch, nodes\] of both"):
        losses.level_losses(labels, labels[0], FFSC)
