"""ResShift's network against attention window by window; the discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.models import latent_discriminator as discriminator
from jaxkd.models import swin_unet


@pytest.mark.parametrize("shift", [0, 1])
def test_window_attention_pixel_by_pixel(shift):
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 4)).astype(np.float32)
    model = swin_unet.WindowAttention(heads=2, window=2, shift=shift)
    variables = model.init(jax.random.key(0), x)
    p = jax.tree.map(np.asarray, variables["params"])
    qkv = x[0] @ p["qkv"]["kernel"] + p["qkv"]["bias"]
    q, k, v = (qkv.reshape(4, 6, 3, 2, 2)[:, :, i] for i in range(3))
    expected = np.zeros((4, 6, 4))

    def window(i, j):  # which window a pixel is in, and no wrapping around
        return (i - shift) // 2, (j - shift) // 2

    for i, j in np.ndindex(4, 6):
        peers = [c for c in np.ndindex(4, 6) if window(*c) == window(i, j)]
        mixed = []
        for head in range(2):
            scores = []
            for a, b in peers:
                place = (i - a + 1) * 3 + (j - b + 1)
                bias = p["positions"][place, head]
                scores.append(q[i, j, head] @ k[a, b, head] / np.sqrt(2) + bias)
            w = np.exp(scores) / np.exp(scores).sum()
            mixed.append(
                sum(w_ * v[a, b, head] for w_, (a, b) in zip(w, peers, strict=True))
            )
        expected[i, j] = np.concatenate(mixed) @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(model.apply(variables, x)[0], expected, 1e-4, 1e-5)


@pytest.mark.slow
def test_the_small_network_sees_step_condition_and_shift():
    network, options = swin_unet.VARIANTS["resshift_small"]
    options = options | {"width": 8, "embed": 8, "multipliers": (1, 1), "groups": 2}
    model = network(**options | {"attention": (1,)})
    noisy, other = jax.random.normal(jax.random.key(0), (2, 2, 16, 16, 3))
    packed = swin_unet.pack(noisy, other, jnp.array([0.0, 1.0]))
    assert packed.shape == (2, 16, 16, 7)
    variables = model.init(jax.random.key(1), packed)

    def perturb(v):
        return v + 0.05 * jax.random.normal(jax.random.key(v.size), v.shape)

    variables = jax.tree.map(perturb, variables)
    apply = jax.jit(lambda x: model.apply(variables, x))
    output, features = apply(packed)
    assert output.shape == (2, 16, 16, 3)
    assert features["encoder2"].shape == features["middle"].shape == (2, 8, 8, 8)
    for changed in (
        swin_unet.pack(noisy, other, 0.5),
        swin_unet.pack(noisy, other + 1, jnp.array([0.0, 1.0])),
    ):
        assert jnp.abs(apply(changed)[0] - output).max() > 1e-3
    with pytest.raises(ValueError, match=r"divide by 8 \(strides times windows\)"):
        model.init(jax.random.key(0), jnp.zeros((1, 12, 16, 7)))


def test_the_published_size():
    network, options = swin_unet.VARIANTS["resshift"]
    image = jax.ShapeDtypeStruct((1, 64, 64, 7), jnp.float32)
    (_, features), variables = jax.eval_shape(
        network(**options).init_with_output, jax.random.key(0), image
    )
    total = sum(x.size for x in jax.tree.leaves(variables))
    assert total == 118_593_583  # ResShift reports 118.59 million
    # What TAD-SR's discriminator sees: c, 2 c, 2 c, 4 c and 4 c channels.
    widths = [features[name].shape[-1] for name in sorted(features)]
    assert widths == [160, 320, 320, 640, 640]


@pytest.mark.slow
def test_activations_computed_anew_change_nothing():
    options = {"width": 8, "multipliers": (1, 2), "blocks": 1, "attention": (1,)}
    options |= {"depth": 2, "embed": 8, "heads": 2, "window": 4, "groups": 4}
    image = jax.random.normal(jax.random.key(1), (2, 8, 8, 7))
    model = swin_unet.SwinUNet(**options)
    variables = jax.jit(model.init)(jax.random.key(0), image)

    def slope(remat):
        model = swin_unet.SwinUNet(**options, remat=remat)

        def loss(variables):
            return jnp.mean(model.apply(variables, image)[0] ** 2)

        return jax.jit(jax.value_and_grad(loss))(variables)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-6),
        slope(False),
        slope(True),
    )


def test_spectral_normalisation_finds_the_largest_singular_value():
    x = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
    model = discriminator.SpectralConv(width=3, size=3)
    variables = model.init(jax.random.key(0), x, False)
    step = jax.jit(lambda v: model.apply(v, x, True, mutable=["batch_stats"])[1])
    for _ in range(100):
        variables = variables | step(variables)
    kernel = np.asarray(variables["params"]["kernel"])
    kernel = kernel / np.linalg.svd(kernel)[1][0]
    padded = np.concatenate([x[:, -1:], x, x[:, :1]], axis=1)  # circular
    expected = np.stack(
        [padded[:, i : i + 3].reshape(2, -1) @ kernel for i in range(7)], axis=1
    )
    np.testing.assert_allclose(model.apply(variables, x, False), expected, 1e-3, 1e-4)


@pytest.mark.slow
def test_the_discriminator_and_its_blind_start():
    def draw(i):
        return jax.random.normal(jax.random.key(i), (2, 4, 4, 8))

    features = {"encoder1": draw(0), "middle": draw(1)[:, :2, :2]}
    step = jnp.array([0.0, 0.5])
    logits = {}
    for blind in (False, True):
        model = discriminator.Discriminator(8, 8, 2, zero_start=blind)
        variables = model.init(jax.random.key(2), features, step)
        seen = model.apply(variables, features, step)
        other = jax.tree.map(lambda x: x[::-1], features)
        logits[blind] = jnp.abs(model.apply(variables, other, step) - seen).max()
        assert seen.shape == (2, 16 + 4)
    assert logits[True] == 0 and logits[False] > 1e-3
