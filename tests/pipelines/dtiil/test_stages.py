import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.drawing import scenes
from jaxkd.pipelines.dtiil import alignment, difference, inpainting, localization, words
from jaxkd.pipelines.dtiil.localization import Settings, localise
from tests.pipelines import tiny_scenes

OTHER = "a green circle left of a blue square on white background"
FAST = Settings(
    align_steps=6,
    align_lr=0.02,
    align_batch=2,
    samples=2,
    mask_steps=4,
    edit_steps=3,
    draws=4,
    single_words=True,
)


def texts():
    hidden = tiny_scenes.backbone().contexts([tiny_scenes.SOURCE, OTHER, ""])
    return hidden[:1], hidden[1:2], hidden[2]


def latents():
    return tiny_scenes.image()[None]


def measure(first, second, **options):
    usual = {"samples": 2, "steps": 4}
    return difference.difference(
        tiny_scenes.backbone(),
        latents(),
        first,
        second,
        texts()[2],
        jax.random.key(0),
        **{**usual, **options},
    )


@pytest.mark.slow
@pytest.mark.parametrize("solver", difference.SOLVERS)
def test_difference_of_equal_texts_is_zero_and_order_does_not_matter(solver):
    first, second, _ = texts()
    same = measure(first, first, solver=solver)
    np.testing.assert_allclose(same, 0.0, atol=1e-5)
    one, other = (
        measure(first, second, solver=solver),
        measure(second, first, solver=solver),
    )
    np.testing.assert_allclose(one, other, atol=1e-4)
    assert np.max(one) > 1e-3
    np.testing.assert_array_equal(one, measure(first, second, solver=solver))


@pytest.mark.slow
def test_single_step_by_hand():
    first, second, _ = texts()
    backbone = tiny_scenes.backbone()
    got = measure(first, second, solver="single_step", strength=0.5)
    key = jax.random.fold_in(jax.random.key(0), 0)
    from jaxkd.models.stable_diffusion import plain_attention

    alpha, total = backbone.alphas[499], 0.0
    for i in range(2):
        noise = jax.random.normal(jax.random.fold_in(key, i), latents()[0].shape)
        x = np.sqrt(alpha) * latents() + np.sqrt(1 - alpha) * noise
        e = [
            backbone.noise(backbone.params, x, 499, c, plain_attention, None)[0]
            for c in (first, second)
        ]
        total = total + jnp.sqrt(jnp.sum((e[0] - e[1]) ** 2, axis=-1))
    np.testing.assert_allclose(got, total / 2, atol=1e-4)


def test_masks_by_hand():
    values = np.zeros((8, 8))
    values[2:6, 2:6] = 3.0
    assert difference.normalise(values).max() == 255
    assert not difference.normalise(np.full((4, 4), 2.0)).any()
    found = difference.mask(values, 0.5)
    assert found[3:5, 3:5].all() and not found[0].any()
    assert difference.mask(values, "otsu")[3, 3]
    assert not difference.mask(np.ones((4, 4)), 0.3).any()
    level = difference.smooth(np.eye(1, 9, 4) * np.ones((9, 1)))
    taps = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    np.testing.assert_allclose(level[4, 2:7], taps / taps.sum())
    # Mirrored without repeating the border: beside row 0 lies row 1.
    ramp = np.arange(6.0)[:, None] * np.ones((1, 6))
    weights = taps / taps.sum()
    expected = 2 * (weights[3] * 1 + weights[4] * 2)
    assert difference.smooth(ramp)[0, 0] == pytest.approx(expected)
    assert difference.enlarge(np.eye(2, dtype=bool), (4, 6)).sum() == 12
    with pytest.raises(UserError, match="multiples"):
        difference.enlarge(np.eye(3, dtype=bool), (4, 6))
    with pytest.raises(UserError, match="0 to 1"):
        difference.mask(values, 3)


@pytest.mark.slow
def test_alignment_lowers_the_loss_and_leaves_the_network_alone():
    backbone, (first, _, _) = tiny_scenes.backbone(), texts()
    before = jax.tree.map(np.copy, backbone.params)
    fitted, losses = alignment.align(
        backbone, latents(), first, jax.random.key(0), steps=30, lr=0.05, batch=4
    )
    assert losses.shape == (1, 30)
    assert np.mean(losses[0, -8:]) < np.mean(losses[0, :8])
    assert np.max(np.abs(fitted - first)) > 0.01
    jax.tree.map(np.testing.assert_array_equal, before, backbone.params)


@pytest.mark.slow
def test_alignment_follows_the_gradient_of_its_loss():
    """In float64, but for the softmax of attention, which JAX computes in float32.

    Its rounding, 1e-8 in a mean of squares, is what steps below 1e-3 would measure.
    """
    with jax.enable_x64(True):
        backbone = tiny_scenes.backbone(jnp.float64)
        rng = np.random.default_rng(2)
        noise, start = rng.normal(size=(2, 32, 32, 3)), np.asarray(texts()[0][0])
        fixed = np.asarray(latents()[0], np.float64), np.array([120, 640]), noise

        @jax.jit
        def loss(context):
            image, times, noise = fixed
            return jnp.mean(
                alignment.denoising_loss(
                    backbone, backbone.params, image, context, times, noise
                )
            )

        start = start.astype(np.float64)
        slope = jax.jit(jax.grad(loss))(start)
        for _ in range(3):
            along = rng.normal(size=start.shape)
            along /= np.linalg.norm(along)
            step = 1e-2 * along
            difference = float(loss(start + step) - loss(start - step)) / 2e-2
            assert float(np.sum(slope * along)) == pytest.approx(difference, rel=2e-3)


@pytest.mark.slow
def test_alignment_scan_equals_a_loop_of_adam():
    backbone, (first, _, _) = tiny_scenes.backbone(), texts()
    lr, steps = 0.03, 3
    fitted, _ = alignment.align(
        backbone, latents(), first, jax.random.key(4), steps=steps, lr=lr, batch=2
    )
    key = jax.random.fold_in(jax.random.key(4), 0)

    @jax.jit
    def gradient(context, step):
        drawn = alignment.draw(backbone, latents()[0], jax.random.fold_in(key, step), 2)
        return jax.grad(
            lambda c: jnp.mean(
                alignment.denoising_loss(
                    backbone, backbone.params, latents()[0], c, *drawn
                )
            )
        )(context)

    context, m, v = np.asarray(first[0], np.float64), 0.0, 0.0
    for i in range(steps):
        g = np.asarray(gradient(jnp.asarray(context, jnp.float32), i), np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        unbiased = m / (1 - 0.9 ** (i + 1)), v / (1 - 0.999 ** (i + 1))
        context = context - lr * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    # Adam divides tiny gradients by themselves, so a few entries may differ.
    close = np.abs(np.asarray(fitted[0]) - context) < 2e-3
    assert close.mean() > 0.97


def test_inpainting_keeps_what_is_outside_exactly():
    first, _, empty = texts()
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 8:20, 4:12] = True
    out = inpainting.inpaint(
        tiny_scenes.backbone(),
        latents(),
        jnp.asarray(masks),
        first,
        empty,
        jax.random.key(0),
        steps=3,
    )
    np.testing.assert_allclose(out[~masks], latents()[~masks], atol=1e-6)
    assert np.max(np.abs((out - latents())[masks])) > 0.01


def test_phrases():
    found = words.phrases("A young man in the red car of Paris")
    assert [phrase.text for phrase in found] == ["young man", "red car", "Paris"]
    single = words.phrases("the red car", single=True)
    assert [(phrase.start, phrase.text) for phrase in single] == [
        (1, "red"),
        (2, "car"),
    ]
    assert words.without("A young man in red", found[0]) == "A in red"
    tagged = words.phrases("big dogs bark", keep=lambda word: word == "dogs")
    assert [phrase.text for phrase in tagged] == ["dogs"]
    with pytest.raises(UserError, match="has content"):
        words.phrases("it is on the")


def test_crop_around_the_largest_part():
    mask = np.zeros((8, 8), bool)
    mask[0, 0] = mask[2:5, 3:7] = True
    rows, columns = words.largest_box(mask)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (2, 5, 3, 7)
    image = np.zeros((8, 8, 3))
    edited = np.ones((8, 8, 3))

    def similarity(crop, prompts):
        assert crop.shape == (3, 4, 3)
        return np.array([crop.mean() * len(prompt) for prompt in prompts])

    found = words.phrases("red fox", single=True)
    claimed, gain = words.clip_scores(similarity, image, edited, mask, found)
    assert claimed.tolist() == [len("A photo of red")] * 2
    assert (gain == -claimed).all()


@pytest.mark.slow
def test_all_stages_and_their_errors():
    backbone = tiny_scenes.backbone()
    image, _ = scenes.draw(scenes.draw_scenes(np.random.default_rng(0), 2))
    captions = [tiny_scenes.SOURCE, OTHER]
    before = jax.tree.map(np.copy, backbone.params)
    found = localise(backbone, list(image), captions, jax.random.key(0), FAST)
    again = localise(backbone, list(image), captions, jax.random.key(0), FAST)
    for i, (one, other) in enumerate(zip(found, again, strict=True)):
        np.testing.assert_array_equal(one.mask, other.mask)
        assert one.mask.shape == (32, 32)
        assert one.phrase in one.phrases and len(one.phrase_scores) == 6
        assert one.mean_difference > 0 and -1 <= one.embedding_similarity <= 1
        outside = ~one.first_mask
        np.testing.assert_allclose(one.edited[outside], image[i][outside], atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, backbone.params)

    def similarity(crop, prompts):
        return np.array([0.3 if "circle" in prompt else 0.1 for prompt in prompts])

    judged = localise(
        backbone, list(image), captions, jax.random.key(0), FAST, similarity=similarity
    )
    assert judged[0].phrase.text == "circle"
    assert judged[0].score == pytest.approx(30.0) and found[0].score is None
    for images, texts, message in (
        (list(image), captions[:1], "2 images and 1 captions"),
        ([image[0][:30]], captions[:1], "multiples of 4"),
        ([image[0], image[1][:28]], captions, "one size"),
        ([image[0]], ["a purple circle"], "not known"),
    ):
        with pytest.raises(UserError, match=message):
            localise(backbone, images, texts, jax.random.key(0), FAST)


def test_what_is_refused_before_anything_is_compiled():
    image = scenes.draw(scenes.draw_scenes(np.random.default_rng(0), 1))[0][0]
    for changes, message in (
        ({"align_steps": -1}, "align_steps is -1"),
        ({"align_lr": float("nan")}, "align_lr is nan"),
        ({"align_batch": 0}, "align_batch is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"solver": "euler"}, "solver is 'euler', expected one of 'ddim'"),
        ({"mask_strength": 1.5}, "mask_strength is 1.5"),
        ({"mask_strength": 0.1}, "leaves none"),
        ({"first_threshold": 2.0}, "first_threshold is 2.0"),
        ({"threshold": "best"}, "threshold is 'best', expected .* or one of 'otsu'"),
        ({"edit_steps": 1001}, "edit_steps is 1001"),
        ({"edit_scale": float("inf")}, "edit_scale is inf"),
        ({"draws": 0}, "draws is 0"),
        ({"latents": "redrawn"}, "latents is 'redrawn'"),
    ):
        with pytest.raises(UserError, match=message):
            localise(
                tiny_scenes.backbone(),
                [image],
                [OTHER],
                jax.random.key(0),
                FAST._replace(**changes),
            )
    localization.check(FAST._replace(threshold="otsu", solver="lms", mask_strength=0.1))
    for images, captions, message in (
        (np.stack([image, image]), [OTHER], "2 images and 1 captions"),
        ([image], OTHER, "one text"),
        ([], [], "0 images"),
        ([255 * image], [OTHER], "expected uint8, or floating-point"),
    ):
        with pytest.raises(UserError, match=message):
            localise(tiny_scenes.backbone(), images, captions, jax.random.key(0), FAST)


def test_differences_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="not finite"):
        difference.mask(np.array([[0.0, np.nan]]), 0.3)
    for steps, strength in ((4, 0.0), (4, 1.1), (0, 0.5), (4, float("nan"))):
        with pytest.raises(UserError, match="steps of a difference"):
            difference.check_steps(steps, strength, "ddim")
