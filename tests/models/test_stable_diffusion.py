import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.convert import stable_diffusion as convert
from jaxkd.convert.stable_diffusion import names
from jaxkd.diffusion.attention import probabilities
from jaxkd.models import stable_diffusion as models
from jaxkd.models.stable_diffusion import clip
from jaxkd.models.stable_diffusion.unet import PUBLISHED
from tests import tiny_stable_diffusion as tiny

OPTIONS = {
    "widths": tiny.WIDTHS,
    "layers": 1,
    "attention": (True, False),
    "heads": tiny.HEADS,
    "groups": tiny.GROUPS,
}


def torch_state(params):
    torch = pytest.importorskip("torch")
    return {k: torch.tensor(v) for k, v in names.to_state(params).items()}


def nchw(x):
    torch = pytest.importorskip("torch")
    return torch.tensor(np.transpose(x, (0, 3, 1, 2)))


def nhwc(x):
    return np.transpose(x.numpy(), (0, 2, 3, 1))


def count(network):
    shapes = convert.param_shapes(network)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def test_size_of_stable_diffusion():
    assert count(models.UNet()) == 859_520_964


@pytest.mark.slow
def test_published_sizes():
    unets = {name: count(models.UNet(**o)) for name, o in PUBLISHED.items()}
    assert unets == {
        "sd-1.5": 859_520_964,
        "sd-2.1": 865_910_724,
        "sd-1.5-inpainting": 859_535_364,
        "lcm-dreamshaper-v7": 859_520_964 + 256 * 320,
    }
    assert count(models.Autoencoder()) == 83_653_863
    assert count(models.ClipTextEncoder()) == 123_060_480
    sizes = {
        name: count(
            models.Clip(
                models.ClipTextEncoder(**clip.TEXT_VARIANTS[name]),
                models.ClipImageEncoder(**clip.IMAGE_VARIANTS[name]),
            )
        )
        for name in clip.TEXT_VARIANTS
    }
    assert sizes == {"ViT-L/14": 427_616_513, "ViT-B/32": 151_277_313}


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["plain", "linear", "guided"])
def test_unet_as_in_torch(kind):
    torch = pytest.importorskip("torch")
    from tests import torch_stable_diffusion as reference

    guided = kind == "guided"
    network = tiny.unet(
        linear_projection=kind == "linear", guidance_width=16 if guided else None
    )
    params = tiny.random_params(network)
    # Not square: rows and columns must not change places.
    x, t = tiny.normal(0, 2, 4, 6, 4), np.array([3.0, 740.0], np.float32)
    context, embedded = tiny.normal(1, 2, 5, tiny.CONTEXT), None
    if guided:
        embedded = np.asarray(models.guidance_embedding(jnp.array([1.0, 7.5]), 16))
    ours = jax.jit(network.apply)({"params": params}, x, t, context, embedded)
    theirs = reference.unet(
        torch_state(params),
        nchw(x),
        torch.tensor(t),
        torch.tensor(context),
        guidance=None if embedded is None else torch.tensor(embedded),
        **OPTIONS,
    )
    np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-4)
    assert np.std(ours) > 0.1


def test_velocity_is_returned_as_noise():
    x, context = tiny.normal(0, 1, 4, 4, 4), tiny.normal(1, 1, 3, tiny.CONTEXT)
    network = tiny.unet()
    variables = {"params": tiny.random_params(network)}
    as_velocity = jax.jit(network.apply)
    as_noise = jax.jit(network.clone(predicts="velocity").apply)
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    table = np.cumprod(1 - betas)
    # Between two timesteps, where multistep solvers stop, the signal is between theirs.
    for time, alpha in ((500.0, table[500]), (500.5, np.sqrt(table[500] * table[501]))):
        velocity = as_velocity(variables, x, time, context)
        # v = sqrt(alpha) e - sqrt(1 - alpha) x0 with x = sqrt(alpha) x0 + sqrt(1 -
        # alpha) e
        clean = np.sqrt(alpha) * x - np.sqrt(1 - alpha) * velocity
        recovered = (x - np.sqrt(alpha) * clean) / np.sqrt(1 - alpha)
        noise = as_noise(variables, x, time, context)
        np.testing.assert_allclose(noise, recovered, atol=2e-5)


def test_guidance_embedding_by_hand():
    got = models.guidance_embedding(jnp.array([1.0, 2.5]), 8)
    f = 10_000.0 ** (-np.arange(4) / 3)
    expected = [
        [0, 0, 0, 0, 1, 1, 1, 1],
        [*np.sin(1500 * f), *np.cos(1500 * f)],
    ]
    np.testing.assert_allclose(got, expected, atol=1e-3)


def test_hook_sees_every_site_and_may_be_absent():
    network = tiny.unet()
    variables = {"params": tiny.random_params(network)}
    x, context = tiny.normal(0, 2, 4, 4, 4), tiny.normal(1, 2, 5, tiny.CONTEXT)

    def by_probabilities(site, q, k, v, scale, state):
        p = probabilities(q, k, scale)
        return p @ v * state, jnp.sum(p, -1) if site.kind == "cross" else None

    @jax.jit
    def both(state):
        plain = network.apply(variables, x, 10, context)
        hooked, aux = network.apply(
            variables, x, 10, context, by_probabilities, state, method="controlled"
        )
        return plain, hooked, aux

    plain, hooked, aux = both(1.0)
    np.testing.assert_allclose(hooked, plain, atol=1e-5)
    assert sorted(aux) == [
        "down_0_0_0_cross",
        "mid_0_0_0_cross",
        "up_1_0_0_cross",
        "up_1_1_0_cross",
    ]
    np.testing.assert_allclose(aux["mid_0_0_0_cross"], np.ones((2, 4, 4)), rtol=1e-5)
    assert np.max(np.abs(both(0.5)[1] - plain)) > 1e-3


@pytest.mark.slow
def test_remat_changes_neither_values_nor_gradients():
    x, context = tiny.normal(0, 1, 4, 4, 4), tiny.normal(1, 1, 3, tiny.CONTEXT)
    variables = {"params": tiny.random_params(tiny.unet())}

    def gradient(network):
        def loss(c):
            return jnp.mean(network.apply(variables, x, 10, c) ** 2)

        return jax.jit(jax.value_and_grad(loss))(context)

    plain, again = gradient(tiny.unet()), gradient(tiny.unet(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), plain, again)
    assert np.max(np.abs(plain[1])) > 1e-4


@pytest.mark.torch
def test_autoencoder_as_in_torch():
    pytest.importorskip("torch")
    from tests import torch_stable_diffusion as reference

    network = tiny.vae()
    params = tiny.random_params(network)
    images, latents = tiny.normal(0, 2, 8, 12, 3), tiny.normal(1, 2, 4, 6, 4)
    state = torch_state(params)
    mean, logvar = network.apply({"params": params}, images, method="encode")
    expected = reference.vae_encode(state, nchw(images), 2, 1, 4)
    np.testing.assert_allclose(mean, nhwc(expected[0]), atol=1e-4)
    np.testing.assert_allclose(logvar, nhwc(expected[1]), atol=1e-4)
    decoded = network.apply({"params": params}, latents, method="decode")
    expected = nhwc(reference.vae_decode(state, nchw(latents), 2, 1, 4))
    np.testing.assert_allclose(decoded, expected, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_as_in_torch(activation):
    torch = pytest.importorskip("torch")
    from tests import torch_stable_diffusion as reference

    texts = tiny.text(activation=activation, projection_width=12)
    images = models.ClipImageEncoder(8, 4, 24, 2, 2, 48, activation, 12)
    network = models.Clip(texts, images)
    params = tiny.random_params(network)
    ids = tiny.tokenizer().encode(["a red fox", "the blue cat in snow"])[:, :9]
    pixels = tiny.normal(0, 3, 8, 8, 3)
    state = torch_state(params)
    hidden, pooled = texts.apply({"params": params["text"]}, ids)
    expected = reference.clip_text(state, torch.tensor(ids).long(), 2, 2, activation)
    np.testing.assert_allclose(hidden, expected[0].numpy(), atol=1e-4)
    np.testing.assert_allclose(pooled, expected[1].numpy(), atol=1e-4)
    embedded, features = images.apply({"params": params["image"]}, pixels)
    vision = reference.clip_image(state, nchw(pixels), 2, 2, activation)
    np.testing.assert_allclose(embedded, vision.numpy(), atol=1e-4)
    assert features["tokens"].shape == (3, 5, 24)
    logits = network.apply({"params": params}, ids, pixels)
    unit = torch.nn.functional.normalize
    words = unit(expected[1] @ state["text_projection.weight"].T, dim=-1)
    scale = min(float(state["logit_scale"].exp()), 100.0)
    cosine = scale * unit(vision, dim=-1) @ words.T
    np.testing.assert_allclose(logits, cosine.numpy(), atol=1e-4)


def test_pooling_at_the_first_end_token():
    ids = jnp.array([[5, 3, 1, 1], [5, 1, 7, 1]])
    network = tiny.text(eos_id=1)
    params = tiny.random_params(network)
    hidden, pooled = network.apply({"params": params}, ids)
    np.testing.assert_array_equal(pooled, hidden[jnp.arange(2), jnp.array([2, 1])])


def test_preprocess_crops_the_centre_and_normalises():
    images = np.zeros((1, 16, 24, 3), np.float32)
    images[:, :, 4:20] = 1.0  # the square in the middle
    out = models.preprocess(images, 16)
    expected = (1 - np.array(clip.MEAN)) / np.array(clip.STD)
    np.testing.assert_allclose(out, np.broadcast_to(expected, out.shape), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((1, 4, 4, 3), (1, 2, tiny.CONTEXT)), "expected .batch, height, width, 4"),
        (((1, 5, 4, 4), (1, 2, tiny.CONTEXT)), "multiples of 2"),
        (((1, 4, 4, 4), (1, 2, 7)), "Hidden states of shape"),
    ],
)
def test_shapes_that_do_not_fit(arguments, message):
    x, context = (jnp.zeros(shape) for shape in arguments)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(tiny.unet().init, jax.random.key(0), x, 0, context)


def test_images_that_do_not_fit():
    network = tiny.vae()
    params = convert.param_shapes(network)
    for shape in ((1, 8, 9, 3), (1, 8, 8, 1)):
        with pytest.raises(ValueError, match="Crop or resize"):
            network.apply({"params": params}, jnp.zeros(shape), method="encode")
    with pytest.raises(ValueError, match="at most 77 tokens"):
        jax.eval_shape(tiny.text().init, jax.random.key(0), jnp.zeros((1, 78), int))
