"""Pre-training methods: what their losses see, what moves, what collapses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd import losses, methods, models
from jaxkd.core.errors import UserError
from jaxkd.core.types import LossInputs, Spec
from jaxkd.drawing.handwriting import draw_writers
from jaxkd.methods import aim, bigan
from jaxkd.methods.common import self_supervised
from jaxkd.views import handwriting as views

SIDE, BATCH = 16, 16
IMAGES = draw_writers(BATCH, 1, side=SIDE).image
CONV = {"name": "small_conv", "widths": (4, 8)}
VIT = {"name": "vit_micro4", "width": 8, "depth": 1, "heads": 2}
HEADS = {"hidden": 8, "output": 4}

# method -> options, network, view
CASES = {
    "moco": ({**HEADS, "queue": 48, "symmetric": True}, CONV, {}),
    "simclr": (HEADS, CONV, {}),
    "byol": (HEADS, CONV, {}),
    "simsiam": ({**HEADS, "bottleneck": 4}, CONV, {}),
    "fastsiam": ({**HEADS, "bottleneck": 4}, CONV, {"views": 3}),
    "dino": (
        {"hidden": 8, "bottleneck": 4, "prototypes": 6, "freeze": 2.0},
        CONV,
        {"local_views": 2},
    ),
    "barlow_twins": ({"width": 8}, CONV, {}),
    "vicreg": ({"width": 8}, CONV, {}),
    "vae": ({"latents": 4, "widths": (4, 4)}, CONV, {"views": 0}),
    "mae": ({"width": 8, "heads": 2}, VIT, {"views": 0}),
    "aim": (
        {"width": 8},
        VIT | {"pool": "mean", "positions": "sincos"},
        {"views": 0},
    ),
    "bigan": ({"latents": 4, "widths": (4, 4)}, CONV, {"views": 0}),
    "flow": (
        {},
        {"name": "real_nvp", "couplings": (1, 1, 1), "width": 4, "depth": 1},
        {"views": 0},
    ),
}
FAST = ("vicreg",)  # the others compile for seconds


def _spec(network, view, steps=10, seen_too=True):
    network = models.build(**network, num_classes=1)
    batch = {"image": IMAGES, "label": np.zeros(BATCH, np.int32)}
    train = views.handwriting(None, **view).train
    see = jax.jit(train) if seen_too else functools.partial(jax.eval_shape, train)
    seen = see(jax.random.key(0), batch)
    fields = {
        name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in seen.items()
    }
    return Spec(network, {}, 0, fields, 1.0, num_examples=4 * BATCH, steps=steps), seen


def _step(method):
    """Compiles a step of loss, gradient and what comes after it, without optimiser."""

    @jax.jit
    def step(params, state, batch, key, number):
        def value(params):
            outputs, new = method.forward(params, state, batch, key)
            found = method.loss(
                LossInputs(params, new, outputs, batch, {}, key, number)
            )
            return found.value, (found, outputs)

        grads, (found, outputs) = jax.grad(value, has_aux=True)(params)
        state = found.model_state
        if method.after_step is not None:
            state = method.after_step(params, state, number)
        return grads, found._replace(model_state=state), outputs

    return step


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in CASES],
)
def test_every_trained_part_gets_a_gradient(name):
    options, network, view = CASES[name]
    spec, batch = _spec(network, view)
    method = methods.make(name, spec, options)
    params, state = jax.jit(method.init)(jax.random.key(0))
    if name == "flow":  # its last layers start at 0 and pass no gradient on
        params = jax.tree.map(lambda x: x + 0.01, params)
    grads, found, _ = _step(method)(params, state, batch, jax.random.key(1), 3)
    assert np.isfinite(found.value)
    assert all(np.isfinite(x) for x in jax.tree.leaves(found.metrics))
    assert jax.tree.structure(found.model_state) == jax.tree.structure(state)
    if name != "bigan":
        assert set(found.metrics) >= {"feature_std"}
        for part, tree in grads.items():
            moved = [np.abs(x).max() > 0 for x in jax.tree.leaves(tree)]
            # The encoder's own logits, and dino's frozen prototypes, stay.
            assert np.mean(moved) > 0.4, part
    outputs = jax.jit(method.predict)(params, state, batch)
    assert outputs["embedding"].ndim == 2
    evaluated = method.evaluate(outputs, batch | {"mask": np.ones(BATCH, bool)})
    scores = evaluated.compute()
    assert 0 < scores["feature_std"] <= 1
    assert 0 < scores["effective_rank"] <= outputs["embedding"].shape[1]


def test_targets_move_and_queues_fill():
    spec, batch = _spec(*CASES["moco"][1:])
    method = methods.make("moco", spec, CASES["moco"][0] | {"symmetric": False})
    params, state = jax.jit(method.init)(jax.random.key(0))
    moved = jax.tree.map(lambda x: x + 1, params)
    _, found, outputs = _step(method)(moved, state, batch, jax.random.key(1), 0)
    new = found.model_state
    kernel = ("projector", "dense0", "kernel")

    def leaf(tree):
        for part in kernel:
            tree = tree[part]
        return np.asarray(tree)

    expected = 0.99 * leaf(state["target"]["params"]) + 0.01 * leaf(moved)
    np.testing.assert_allclose(leaf(new["target"]["params"]), expected, 1e-5)
    # The loss read the queue from before; the new one holds the second view's keys.
    value = losses.moco(
        outputs["z"][0], outputs["target"][1], state["memory"]["queue"], temperature=0.1
    )
    np.testing.assert_allclose(found.metrics["moco"], value.mean(), 1e-5)
    assert int(new["memory"]["position"]) == BATCH % 48


def test_dino_freezes_its_prototypes_at_first():
    options, network, view = CASES["dino"]
    spec, batch = _spec(network, view | {"local_views": 0})
    method = methods.make("dino", spec, options)
    params, state = jax.jit(method.init)(jax.random.key(0))
    step, found = _step(method), []
    for number in range(3):
        grads, loss, _ = step(params, state, batch, jax.random.key(1), number)
        state = loss.model_state
        found.append(float(np.abs(grads["projector"]["prototypes"]).max()))
    assert found[0] == found[1] == 0 < found[2]
    assert np.any(state["memory"]["centre"] != 0)


def test_aim_does_not_see_what_it_predicts():
    """Changing a patch leaves the prediction for it alone; unshifted code leaks."""
    options, network, view = CASES["aim"]
    spec, batch = _spec(network, view)
    method = methods.make("aim", spec, options)
    params, state = jax.jit(method.init)(jax.random.key(0))
    forward = jax.jit(method.forward)
    before, _ = forward(params, state, batch, jax.random.key(2))
    place = 9
    changed = np.asarray(batch["image"]).copy()
    changed[:, 8:12, 4:8] += 1.0  # patch 9 of 4 x 4
    after, _ = forward(params, state, batch | {"image": changed}, jax.random.key(2))
    free = np.asarray(before["prefix"])[:, 0] <= place
    difference = np.abs(after["predicted"] - before["predicted"]).max(axis=-1)
    assert free.any() and not free.all()
    # Its own prediction is made one place earlier, which has not seen it ...
    assert difference[free, place - 1].max() == 0
    # ... unlike the place itself, whose prediction is for the next patch.
    assert difference[:, place].min() > 0
    mask = np.asarray(aim.prefix_mask(jnp.array([2]), 4))[0]
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(mask, np.array(expected, bool))


def _pretrain(name, options, steps=100):
    """Trains on one batch; returns projections of a view and the encoder's spread."""
    spec, batch = _spec(CONV, {}, steps=steps)
    method = methods.make(name, spec, options)
    params, state = jax.jit(method.init)(jax.random.key(0))
    optimizer = optax.adam(0.02)
    memory, step = optimizer.init(params), _step(method)
    update = jax.jit(optimizer.update)
    for number in range(steps):
        key = jax.random.key(number)
        grads, found, outputs = step(params, state, batch, key, number)
        changes, memory = update(grads, memory)
        params = jax.tree.map(jnp.add, params, changes)
        state = found.model_state
    embedding = jax.jit(method.predict)(params, state, batch)["embedding"]
    return outputs["z"][0], float(self_supervised.feature_std(embedding))


BROKEN = {
    "vicreg": ({"width": 8}, {"variance_weight": 0.0, "covariance_weight": 0.0}),
    "simsiam": ({**HEADS, "bottleneck": 4}, {"predictor": False}),
    "byol": (HEADS | {"momentum": 0.9}, {"predictor": False}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BROKEN)
def test_features_collapse_without_what_keeps_them_apart(name):
    """VICReg without variance ends in one point, SimSiam's projections on a line.

    Batch norm in their projectors keeps SimSiam and BYOL from one point, so that what
    falls is the number of directions (SimSiam) and the spread (BYOL). Whole methods
    keep a spread of the encoder's own features of about 0.3 (BYOL: 0.24), of which a
    full sphere has 1.
    """
    options, broken = BROKEN[name]
    (whole, spread), (collapsed, _) = (
        _pretrain(name, options | extra) for extra in ({}, broken)
    )
    stds, spreads, ranks = (
        [float(measure(z)) for z in (whole, collapsed)]
        for measure in (
            lambda z: z.std(axis=0).mean(),
            self_supervised.feature_std,
            lambda z: self_supervised.EffectiveRank.from_model_output(
                embedding=z, mask=jnp.ones(len(z), bool)
            ).compute(),
        )
    )
    assert spread > (0.2 if name == "byol" else 0.25)
    if name == "vicreg":
        assert stds[1] < 0.1 < 0.5 < stds[0]
    if name == "simsiam":
        assert ranks[1] < 1.5 < 2.5 < ranks[0]
    if name == "byol":
        assert spreads[1] < 0.65 < 0.7 < spreads[0]


def test_bigan_rewards_opposite_labels():
    real, fake = jnp.array([2.0]), jnp.array([-2.0])
    right = np.log1p(np.exp(-2.0))
    np.testing.assert_allclose(bigan.adversarial(real, fake, False), right, 1e-6)
    np.testing.assert_allclose(bigan.adversarial(real, fake, True), right + 2, 1e-6)
    spec, _ = _spec(CONV, {"views": 0}, seen_too=False)
    options = {"latents": 4, "widths": (4, 4)}
    for train_encoder, label in ((True, "main"), (False, "frozen")):
        method = methods.make("bigan", spec, options | {"train_encoder": train_encoder})
        assert method.trainable({})["student"] == label
        assert method.trainable({})["discriminator"] == "discriminator"


def test_spread_and_rank_of_known_features():
    rng = np.random.default_rng(0)
    full = rng.normal(size=(2000, 6))
    flat = np.concatenate([rng.normal(size=(2000, 2)), np.zeros((2000, 4))], axis=1)
    point = np.ones((2000, 6))
    near = point + 1e-4 * full  # all directions but that of the point itself
    cases = ((full, 1, 6), (flat, 0.577, 2), (near, 1e-4, 5), (point, 0, 0))
    for rows, std, rank in cases:
        half = [
            self_supervised.Unlabelled.single_from_model_output(
                embedding=jnp.asarray(part), mask=jnp.ones(1000, bool)
            )
            for part in np.split(rows, 2)
        ]
        found = half[0].merge(half[1]).compute()
        assert abs(found["feature_std"] - std) < 0.02
        assert abs(found["effective_rank"] - rank) < 0.1
        assert abs(self_supervised.feature_std(jnp.asarray(rows)) - std) < 0.02


@pytest.mark.parametrize(
    ("name", "network", "view", "message"),
    [
        ("simclr", CONV, {"views": 3}, "compares two views"),
        ("fastsiam", CONV, {}, "compares 3 views"),
        ("mae", CONV, {"views": 0}, "needs a vision transformer"),
        ("aim", VIT, {"views": 0}, "without class token"),
        ("flow", CONV, {"views": 0}, "real_nvp"),
        ("moco", CONV, {}, "queue is 4096"),
    ],
)
def test_errors_say_what_to_do(name, network, view, message):
    spec, _ = _spec(network, view, seen_too=False)
    with pytest.raises(UserError, match=message):
        methods.make(name, spec, {})
