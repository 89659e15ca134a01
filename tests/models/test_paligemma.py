import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file

from jaxkd.convert import load_paligemma
from jaxkd.models import paligemma
from jaxkd.models.paligemma import PaliGemma, lora
from jaxkd.models.paligemma.gemma import prefix_mask
from tests import hub_paligemma as hub


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A random checkpoint: its tensors, and what the converter makes of it."""
    state = hub.draw()
    folder = tmp_path_factory.mktemp("hub")
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(hub.description())
    config, params = load_paligemma(folder, dtype="float32")
    return state, config, params


@pytest.fixture(scope="module")
def logits_of(loaded):
    """The compiled forward pass."""
    _, config, _ = loaded
    model = PaliGemma(config)

    def apply(params, images, tokens, causal, valid):
        return model.apply(
            {"params": params}, images, tokens, causal=causal, valid=valid
        )

    return jax.jit(apply)


def test_logits_are_those_of_numpy(loaded, logits_of):
    state, _, params = loaded
    images, tokens, causal, valid = hub.sequence()
    got = logits_of(params, images, tokens, causal, valid)
    assert got.dtype == jnp.float32
    for row in range(2):
        expected = hub.forward(state, images[row], tokens[row], causal[row], valid[row])
        real = valid[row]
        np.testing.assert_allclose(got[row][real], expected[real], atol=2e-4)
    # Rows of padding are never defined, yet never spoil a mean either.
    assert np.isfinite(got).all()


def test_padding_may_stand_anywhere(loaded, logits_of):
    _, _, params = loaded
    images, tokens, causal, valid = hub.sequence(batch=1)
    got = logits_of(params, images, tokens, causal, valid)
    gap = hub.Sizes.tokens + 2
    wide = [np.insert(x, [gap] * 3, 0, axis=1) for x in (tokens, causal, valid)]
    moved = logits_of(params, images, *wide)
    keep = np.flatnonzero(wide[2][0])
    np.testing.assert_allclose(moved[0, keep], got[0], atol=1e-4)


def test_suffix_does_not_leak(loaded, logits_of):
    _, _, params = loaded
    images, tokens, causal, valid = hub.sequence()
    base = logits_of(params, images, tokens, causal, valid)
    start, length = hub.Sizes.tokens + 5, tokens.shape[1]
    for place in (start, start + 1):
        changed = tokens.copy()
        changed[:, place] = changed[:, place] % 200 + 3
        other = logits_of(params, images, changed, causal, valid)
        # Nothing earlier moves; everything from there on does.
        np.testing.assert_array_equal(other[:, :place], base[:, :place])
        moved = np.abs(other - base).max(-1)
        assert (moved[0, place:length] > 1e-4).all()


def test_prefix_sees_all_of_itself_and_padding_is_never_seen(loaded, logits_of):
    _, _, params = loaded
    images, tokens, causal, valid = hub.sequence()
    base = logits_of(params, images, tokens, causal, valid)
    for place in (hub.Sizes.tokens, hub.Sizes.tokens + 4):
        changed = tokens.copy()
        changed[:, place] = changed[:, place] % 200 + 3
        other = logits_of(params, images, changed, causal, valid)
        assert (np.abs(other - base).max(-1)[valid] > 1e-5).all()
    other = logits_of(params, images[:, ::-1], tokens, causal, valid)
    assert (np.abs(other - base).max(-1)[valid] > 1e-5).all()
    changed = np.where(valid, tokens, 77)
    other = logits_of(params, images, changed, causal, valid)
    np.testing.assert_array_equal(other[valid], base[valid])


def test_prefix_mask_by_hand():
    causal = jnp.array([[False, False, True, True, False]])
    valid = jnp.array([[True, True, True, True, False]])
    expected = [
        [1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(prefix_mask(causal, valid)[0], expected)


@pytest.mark.slow
def test_gradient_is_the_finite_difference(loaded):
    state, config, _ = loaded
    del state
    with jax.enable_x64(True):
        wide = dataclasses.replace(config, dtype="float64")
        params = paligemma.init(config, jax.random.key(1))
        params = jax.tree.map(
            lambda x: 0.1 + jnp.asarray(np.asarray(x), jnp.float64), params
        )
        images, tokens, causal, valid = hub.sequence(batch=1)

        @jax.jit
        def loss(params):
            logits = PaliGemma(wide).apply(
                {"params": params}, images, tokens, causal=causal, valid=valid
            )
            scores = jax.nn.log_softmax(logits.astype(jnp.float64))
            return -jnp.sum(scores[0, jnp.arange(24), tokens[0, 1:]] * causal[0, 1:])

        gradient = jax.jit(jax.grad(loss))(params)
        rng = np.random.default_rng(0)
        for _ in range(2):
            way = jax.tree.map(lambda x: rng.normal(size=x.shape), params)
            slope = sum(
                jnp.vdot(g, w)
                for g, w in zip(
                    jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True
                )
            )
            step = 1e-4
            ahead, back = (
                loss(jax.tree.map(lambda p, w, s=s: p + s * w, params, way))
                for s in (step, -step)
            )
            # Norms, attention and logits are float32 inside.
            np.testing.assert_allclose((ahead - back) / (2 * step), slope, rtol=2e-2)


@pytest.mark.slow
def test_remat_changes_no_gradient(loaded):
    _, config, params = loaded
    images, tokens, causal, valid = hub.sequence()

    def gradient(config):
        def loss(params):
            logits = PaliGemma(config).apply(
                {"params": params}, images, tokens, causal=causal, valid=valid
            )
            return jnp.mean(jnp.tanh(logits))

        return jax.jit(jax.grad(loss))(params)

    plain = gradient(config)
    anew = gradient(dataclasses.replace(config, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, anew)


@pytest.mark.slow
def test_several_images_come_one_after_the_other(loaded):
    _, config, params = loaded
    model, tokens = PaliGemma(config), hub.Sizes.tokens
    images, text, _, _ = hub.sequence(prompt=3, suffix=0)
    both = np.stack([images, images[::-1]], 1)
    text = np.concatenate([np.zeros((2, tokens), np.int32), text], 1)
    valid = np.ones(text.shape, bool)

    def apply(images):
        return model.apply({"params": params}, images, text, causal=~valid, valid=valid)

    got, other = jax.jit(apply)(both), jax.jit(apply)(both[:, ::-1])
    assert np.abs(got - other).max() > 1e-3  # their order counts
    with pytest.raises(ValueError, match=r"at least 32 tokens"):
        model.apply(
            {"params": params},
            both,
            text[:, :20],
            causal=~valid[:, :20],
            valid=valid[:, :20],
        )


def test_sizes_are_the_published_ones():
    def count(name):
        config = paligemma.preset(name)
        return jax.eval_shape(lambda k: paligemma.init(config, k), jax.random.key(0))

    whole = count("3b-224")
    assert lora.count(whole) == 2_923_466_480
    assert lora.count(whole["img"]["head"]) == 2_361_344
    assert lora.count(whole["img"]) - 2_361_344 == 412_442_352
    assert lora.count(count("3b-448")) - lora.count(whole) == 768 * 1152
    for targets, expected in (
        (lora.DECODER, 9_805_824),
        (lora.DECODER + lora.VISION, 11_298_816),
    ):
        adapted = jax.eval_shape(
            lambda p, k, t=targets: lora.add(p, k, rank=8, targets=t),
            whole,
            jax.random.key(0),
        )
        assert lora.count(lora.split(adapted)[1]) == expected


def test_fresh_adapters_change_nothing_and_merging_is_exact(loaded, logits_of):
    _, config, params = loaded
    batch = hub.sequence()
    base = logits_of(params, *batch)
    names = lora.DECODER + lora.VISION
    adapted = lora.add(params, jax.random.key(0), rank=3, targets=names)
    np.testing.assert_array_equal(logits_of(adapted, *batch), base)
    own, adapters = lora.split(adapted)
    jax.tree.map(np.testing.assert_array_equal, own, params)
    rng = np.random.default_rng(0)
    adapters = jax.tree.map(
        lambda x: (0.1 * rng.normal(size=x.shape)).astype(np.float32), adapters
    )
    adapted = lora.combine(own, adapters)
    got = logits_of(adapted, *batch)
    assert np.abs(got - base).max() > 0.1
    merged = lora.merge(adapted, alpha=config.lora_alpha)
    np.testing.assert_allclose(logits_of(merged, *batch), got, atol=1e-3)
    back = lora.unmerge(merged, adapted, alpha=config.lora_alpha)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), back, params)
    # Each target is heard: without it, the logits are others.
    for name in names:
        place = lora.TARGETS[name].parent
        less = jax.tree.map(lambda x: x, adapted)
        holder = less
        for key in place:
            holder = holder[key]
        holder[f"lora_{name}"]["b"] = 0 * holder[f"lora_{name}"]["b"]
        assert np.abs(logits_of(less, *batch) - got).max() > 1e-4, name


@pytest.mark.slow
def test_adapters_are_drawn_as_published():
    config = paligemma.preset("tiny")
    params = paligemma.init(config, jax.random.key(0))
    adapted = lora.add(params, jax.random.key(1), rank=16)
    adapter = adapted["llm"]["layers"]["mlp"]["lora_down"]
    assert abs(float(adapter["a"].std()) - 0.25) < 0.02  # N(0, 1 / rank)
    assert not adapter["b"].any()
    labels = lora.labels(adapted)
    kinds = {
        label: lora.count(
            jax.tree.map(lambda x, y, lb=label: x if y == lb else None, adapted, labels)
        )
        for label in ("train", "frozen")
    }
    assert kinds["train"] == lora.count(lora.split(adapted)[1])
    with pytest.raises(ValueError, match="hold adapters"):
        lora.add(adapted, jax.random.key(1), rank=2)
    with pytest.raises(ValueError, match="no target 'query'"):
        lora.add(params, jax.random.key(1), rank=2, targets=("query",))


def test_dropout_of_adapters_keeps_the_mean():
    rng = np.random.default_rng(0)
    x, a, b = rng.normal(size=(1, 6)), rng.normal(size=(6, 2)), rng.normal(size=(2, 3))
    adapter = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
    many = jnp.broadcast_to(x, (40_000, 6))
    got = lora.delta(
        adapter, many, inputs=1, alpha=4.0, dropout=0.3, key=jax.random.key(0)
    )
    expected = 2 * x @ a @ b
    error = np.asarray(got).std(0) / 200
    assert (np.abs(np.asarray(got).mean(0) - expected[0]) < 4 * error).all()
    assert np.asarray(got).std(0).min() > 0.1


@pytest.mark.slow
def test_bfloat16_base_is_left_bit_identical_by_training(loaded):
    _, config, params = loaded
    config = dataclasses.replace(config, dtype="bfloat16", lora_dropout=0.1)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    adapted = lora.add(params, jax.random.key(0), rank=2)
    images, tokens, causal, valid = hub.sequence()
    optimiser = optax.partition(
        {"train": optax.adamw(1e-2, weight_decay=0.1), "frozen": optax.set_to_zero()},
        lora.labels(adapted),
    )
    state = optimiser.init(adapted)
    moments = [x.size for x in jax.tree.leaves(state) if x.ndim]
    assert sum(moments) == 2 * lora.count(lora.split(adapted)[1])

    @jax.jit
    def step(params, state, key):
        def loss(params):
            logits = PaliGemma(config).apply(
                {"params": params},
                images,
                tokens,
                causal=causal,
                valid=valid,
                train=True,
                rngs={"dropout": key},
            )
            nll = optax.softmax_cross_entropy_with_integer_labels(
                logits[:, :-1], tokens[:, 1:]
            )
            return jnp.sum(nll * causal[:, 1:]) / jnp.sum(causal[:, 1:])

        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    values = []
    for number in range(12):
        adapted, state, value = step(adapted, state, jax.random.key(number))
        values.append(float(value))
    assert values[-1] < values[0] - 0.5
    jax.tree.map(np.testing.assert_array_equal, lora.split(adapted)[0], params)


def test_images_are_brought_to_the_models_range():
    images = np.zeros((1, 4, 4, 1), np.uint8)
    images[:, :, 2:] = 255
    same = paligemma.to_model_range(images, (4, 4))
    np.testing.assert_allclose(same[0, 0, :, 0], [-1, -1, 1, 1])
    assert same.shape == (1, 4, 4, 3)
    larger = paligemma.to_model_range(np.full((1, 5, 3, 3), 51, np.uint8), (8, 8))
    np.testing.assert_allclose(larger, 51 / 127.5 - 1, atol=1e-6)


def test_wrong_shapes_are_named(loaded):
    _, config, params = loaded
    images, tokens, causal, valid = hub.sequence()
    model = PaliGemma(config)
    with pytest.raises(ValueError, match=r"expected \[batch, 28, 28, 3\]"):
        model.apply(
            {"params": params}, images[:, :20], tokens, causal=causal, valid=valid
        )
    with pytest.raises(ValueError, match="causal is int32"):
        model.apply(
            {"params": params},
            images,
            tokens,
            causal=causal.astype(np.int32),
            valid=valid,
        )
    with pytest.raises(ValueError, match="no preset '7b'"):
        paligemma.preset("7b")
