import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.diffusion import attention_control as control
from jaxkd.diffusion import ddcm
from jaxkd.pipelines.parallel_edits import aspects, edit, plan
from jaxkd.pipelines.parallel_edits.edit import Settings
from jaxkd.pipelines.parallel_edits.grouping import Group
from tests.pipelines import tiny_scenes

SOURCE = tiny_scenes.SOURCE
TARGET = "a green circle left of a blue triangle on black background"
SETTINGS = Settings(steps=4, scale=2.0)


def edits():
    return aspects.between(SOURCE, TARGET, whole=("white", "black"))


def planned(kinds=(control.RIGID, control.NON_RIGID)):
    groups = [Group(kinds[0], (0,)), Group(kinds[1], (1, 2))]
    return plan.of_groups(tiny_scenes.backbone(), SOURCE, edits(), groups)


def run(branches, settings=SETTINGS, seed=0):
    key = jax.random.key(seed)
    return edit.edit(
        tiny_scenes.backbone(), tiny_scenes.image(), branches, key, settings
    )


@pytest.mark.slow
def test_prompts_and_selectors_of_the_branches():
    made = planned()
    assert [prompt.text for prompt in made.prompts] == [
        SOURCE,
        "a green circle left of a blue square on white background",
        TARGET,
    ]
    local = np.asarray(made.branches.local)
    assert np.flatnonzero(local[0]).tolist() == [2]  # green, after the start token
    assert np.flatnonzero(local[1]).tolist() == [8, 10]  # triangle, black
    assert np.asarray(made.branches.replace).tolist() == [True, False]
    deletion = aspects.between(SOURCE, "a red circle on white background")
    one = plan.of_groups(
        tiny_scenes.backbone(), SOURCE, deletion, [Group(control.NON_RIGID, (0,))]
    )
    removed = np.flatnonzero(np.asarray(one.branches.removed)[0])
    assert removed.tolist() == [4, 5, 6, 7, 8]
    padded = plan.pad(made, sizes=(3,))
    assert np.asarray(padded.kind).tolist() == [
        control.RIGID,
        control.NON_RIGID,
        control.GLOBAL,
    ]
    np.testing.assert_array_equal(padded.contexts[3], made.branches.contexts[2])


@pytest.mark.slow
def test_identity_edit_is_the_source_exactly():
    made = planned()
    contexts = jnp.broadcast_to(made.branches.contexts[0], made.branches.contexts.shape)
    tokens = made.branches.mapper.shape[1]
    same = made.branches._replace(
        contexts=contexts,
        mapper=jnp.broadcast_to(jnp.arange(tokens), (2, tokens)),
        mapped=jnp.ones((2, tokens)),
        matrix=jnp.broadcast_to(jnp.eye(tokens), (2, tokens, tokens)),
        replace=jnp.array([False, False]),
    )
    settings = SETTINGS._replace(source_scale=2.0)
    found = run(same, settings)
    # The same rows of one batch may differ in their last bits on some machines.
    expected = jnp.broadcast_to(tiny_scenes.image(), found.latents.shape)
    np.testing.assert_allclose(found.latents, expected, atol=2e-5)
    edited = run(made.branches)
    assert np.max(np.abs(edited.latents[1] - tiny_scenes.image())) > 1e-2


@pytest.mark.slow
def test_scan_without_control_equals_a_loop_of_plain_calls():
    """Two global branches: no attention is shared, no blend is made."""
    made = planned((control.GLOBAL, control.GLOBAL))
    settings = SETTINGS._replace(eta=0.3)
    found = run(made.branches, settings)
    backbone, clean = tiny_scenes.backbone(), tiny_scenes.image()
    steps = edit.table(backbone, settings.steps)
    keys = [jax.random.fold_in(jax.random.key(0), i) for i in range(5)]
    noise = [jax.random.normal(k, clean.shape) for k in keys]
    from jaxkd.models.stable_diffusion import plain_attention

    call = jax.jit(
        lambda x, t, c: backbone.noise(backbone.params, x, t, c, plain_attention, None)[
            0
        ]
    )
    c = made.branches.contexts
    prompts = jnp.stack([c[0], c[1], c[0], c[2], c[1]])
    empty = jnp.broadcast_to(made.branches.unconditional, prompts.shape)
    x = {"s": noise[0], "t": [noise[0]] * 2, "m": [noise[0]] * 2}
    known = [clean, clean]
    for i in range(4):
        a, b = float(steps.alpha[i]), float(steps.alpha_next[i])
        rows = jnp.stack([x["s"], x["t"][0], x["m"][0], x["t"][1], x["m"][1]])
        without = call(rows, steps.timestep[i], empty)
        given = call(rows, steps.timestep[i], prompts)
        scale = jnp.array([1.0, 2.0, 1.0, 2.0, 1.0])[:, None, None, None]
        e = without + scale * (given - without)
        chained = i >= 2  # 0.45 of 4 steps, rounded up
        new = {"t": [], "m": []}
        clean_next = []
        for n in range(2):
            base = x["t"][n - 1] if chained and n else x["s"]
            base_e = e[2 * n - 1] if chained and n else e[0]
            base_0 = known[n - 1] if chained and n else clean
            args = (base_0, noise[i + 1], a, b)
            _, t, predicted = ddcm.step(
                base, x["t"][n], base_e, e[2 * n + 1], *args, eta=0.3
            )
            _, m, _ = ddcm.step(base, x["m"][n], base_e, e[2 * n + 2], *args, eta=0.3)
            new["t"].append(t)
            new["m"].append(m)
            clean_next.append(predicted)
        args = (clean, noise[i + 1], a, b)
        source, _, _ = ddcm.step(x["s"], x["m"][0], e[0], e[2], *args, eta=0.3)
        x, known = {"s": source, **new}, clean_next
    np.testing.assert_allclose(found.latents, jnp.stack(known), atol=2e-3)
    assert np.asarray(found.masks).all()


@pytest.mark.slow
def test_vmap_equals_one_by_one():
    made = planned().branches
    images = jnp.stack([tiny_scenes.image(), -tiny_scenes.image()])
    both = jax.tree.map(lambda x: jnp.stack([x, x]), made)
    keys = jax.random.split(jax.random.key(1), 2)
    together = edit.edit_batch(
        tiny_scenes.backbone(), images, both, keys, SETTINGS
    ).latents
    for i in range(2):
        alone = edit.edit(tiny_scenes.backbone(), images[i], made, keys[i], SETTINGS)
        np.testing.assert_allclose(together[i], alone.latents, atol=1e-3)


@pytest.mark.slow
def test_unedited_words_leave_the_mask_empty():
    """With a threshold of one no pixel is edited, and targets follow their base."""
    made = planned().branches
    found = run(made, SETTINGS._replace(edit_threshold=1.0))
    assert not np.asarray(found.masks).any()


@pytest.mark.slow
def test_official_slips_change_chained_branches_only():
    made = planned((control.GLOBAL, control.GLOBAL)).branches
    right = run(made, SETTINGS)
    wrong = run(made, SETTINGS._replace(compat="official"))
    assert np.max(np.abs(right.latents[1] - wrong.latents[1])) > 1e-4
    # Never chained, only the prediction's source is at stake, which is the same.
    late = SETTINGS._replace(chain_start=1.0)
    np.testing.assert_allclose(
        run(made, late).latents,
        run(made, late._replace(compat="official")).latents,
        atol=1e-4,
    )


@pytest.mark.slow
def test_grouping_pass_reads_words():
    backbone = tiny_scenes.backbone()
    made = plan.make(backbone, tiny_scenes.image(), SOURCE, edits(), jax.random.key(0))
    assert made.prompts[-1].text == TARGET
    assert made.groups[-1].kind == control.GLOBAL
    assert sorted(i for one in made.groups for i in one.aspects) == [0, 1, 2]


def test_settings_out_of_range():
    made = planned().branches
    for wrong, message in (
        ({"compat": "paper"}, "expected one of '', 'official'"),
        ({"eta": 1.5}, "eta is 1.5"),
        ({"steps": 0}, "a whole number >= 1"),
        ({"steps": 1001}, "<= 1,000"),
        ({"steps": 2.5}, "a whole number"),
        ({"scale": float("nan")}, "scale is nan, expected a number >= 0"),
        ({"source_scale": -1.0}, "source_scale is -1.0"),
        ({"cross_from": "own"}, "cross_from is 'own', expected one of 'base'"),
        ({"kv_from": "soon"}, "kv_from is 'soon'"),
        ({"temperature": float("inf")}, "temperature is inf"),
    ):
        with pytest.raises(UserError, match=message):
            run(made, SETTINGS._replace(**wrong))
    distilled = tiny_scenes.backbone()._replace(distilled=True)
    with pytest.raises(UserError, match="51 steps; expected 1 to 50"):
        edit.check(SETTINGS._replace(steps=51), distilled)
    with pytest.raises(UserError, match="theta is 2"):
        plan.check(plan.Grouping(theta=2.0))


def test_pictures_that_do_not_fit():
    check = tiny_scenes.backbone().check_image
    check(np.zeros((32, 16, 3), np.uint8))
    check(np.ones((4, 4, 3), np.float16))
    for image, message in (
        (np.zeros((30, 32, 3)), "multiples of 4"),
        (np.zeros((0, 32, 3)), "multiples of 4"),
        (np.zeros((32, 32, 4), np.uint8), r"take Pillow's image\.convert"),
        (np.full((4, 4, 3), 255.0), "from 255 to 255; expected uint8, or"),
        (np.full((4, 4, 3), -1.0), "0 to 1"),
        (np.full((4, 4, 3), np.nan), "from nan to nan"),
        (np.zeros((4, 4, 3), np.uint16), "An image of uint16"),
    ):
        with pytest.raises(UserError, match=message):
            check(image)


def test_branches_that_do_not_fit():
    with pytest.raises(UserError, match="no aspects"):
        plan.of_groups(tiny_scenes.backbone(), SOURCE, [], [])
