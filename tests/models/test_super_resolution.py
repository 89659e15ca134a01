"""Networks of super-resolution: published sizes, torch's shuffle, dynamic kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.models import edsr, krnet, rcan, super_resolution


def count(model):
    shapes = jax.eval_shape(
        model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    )
    return sum(x.size for x in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("module", "name", "scale", "parameters"),
    [
        (edsr, "edsr", 2, 40_729_603),
        (edsr, "edsr", 3, 43_680_003),
        (edsr, "edsr", 4, 43_089_923),
        (edsr, "edsr_baseline", 2, 1_369_859),
        (edsr, "edsr_baseline", 4, 1_517_571),
        (rcan, "rcan", 4, 15_592_355),
    ],
)
def test_published_sizes(module, name, scale, parameters):
    network, options = module.VARIANTS[name]
    assert count(network(scale=scale, **options)) == parameters


@pytest.mark.torch
def test_pixel_shuffle_is_torchs():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 18)).astype(np.float32)
    reference = torch.nn.PixelShuffle(3)(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    found = super_resolution.pixel_shuffle(jnp.asarray(x), 3)
    np.testing.assert_array_equal(found, reference.numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("network", [edsr.EDSR, rcan.RCAN])
def test_a_silent_network_enlarges_bicubically(network):
    options = {"blocks": 2, "width": 4, "scale": 2, "image_skip": True}
    options |= {"groups": 2} if network is rcan.RCAN else {}
    model = network(**options)
    images = jax.random.uniform(jax.random.key(0), (1, 4, 6, 3))
    variables = model.init(jax.random.key(1), images)
    output, features = model.apply(variables, images)
    assert output.shape == (1, 8, 12, 3) and set(features) == {"stage1", "stage2"}
    assert features["stage1"].shape == (1, 4, 6, 4)
    silent = jax.tree.map(jnp.zeros_like, variables)
    plain, _ = model.apply(silent, images)
    reference = jax.image.resize(images, (1, 8, 12, 3), "cubic")
    np.testing.assert_allclose(plain, reference, 1e-5, 1e-6)
    assert jnp.abs(output - plain).max() > 1e-3


@pytest.mark.torch
def test_edsr_agrees_with_torch():
    torch = pytest.importorskip("torch")
    model = edsr.EDSR(blocks=2, width=4, scale=4, branch_scale=0.1, taps=1)
    images = jax.random.uniform(jax.random.key(0), (2, 4, 5, 3))
    variables = model.init(jax.random.key(1), images)
    output, _ = model.apply(variables, images)
    params = variables["params"]

    def conv(x, *path):
        layer = params
        for name in path:
            layer = layer[name]
        weight = torch.from_numpy(np.array(layer["kernel"])).permute(3, 2, 0, 1)
        bias = torch.from_numpy(np.array(layer["bias"]))
        return torch.nn.functional.conv2d(x, weight, bias, padding=1)

    x = first = conv(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2), "head")
    for i in range(2):
        y = torch.relu(conv(x, f"block{i}_conv1"))
        x = x + 0.1 * conv(y, f"block{i}_conv2")
    x = first + conv(x, "body")
    for i in (1, 2):
        x = torch.nn.functional.pixel_shuffle(conv(x, "enlarge", f"conv{i}"), 2)
    reference = conv(x, "tail").permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(output, reference, 1e-4, 1e-5)


def test_dynamic_kernels_pixel_by_pixel():
    rng = np.random.default_rng(0)
    s = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    t = rng.normal(size=(2, 4, 5, 6)).astype(np.float32)
    model = krnet.KRNet(kinds=2, hidden=4)
    variables = model.init(jax.random.key(0), s, t)
    own, other, gates = model.apply(variables, s, t)
    np.testing.assert_allclose(gates.sum(-1), 1, 1e-5)
    p = jax.tree.map(np.asarray, variables["params"])
    adapted = t @ p["adapt"]["kernel"][0, 0] + p["adapt"]["bias"]
    norm = np.linalg.norm(s, axis=-1) * np.linalg.norm(adapted, axis=-1)
    cosine = (s * adapted).sum(-1) / norm
    seen = np.concatenate([s, adapted, cosine[..., None]], -1)
    hidden = seen.mean((1, 2)) @ p["squeeze"]["kernel"] + p["squeeze"]["bias"]
    raw = np.maximum(hidden, 0) @ p["kernels"]["kernel"] + p["kernels"]["bias"]
    raw = np.exp(raw.reshape(2, 9, 2, 3))
    kernels = raw / raw.sum(1, keepdims=True)
    for maps, x in ((own, s), (other, adapted)):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        for b, i, j, g in np.ndindex(2, 4, 5, 2):
            window = padded[b, i : i + 3, j : j + 3].reshape(9, 3)
            expected = (window * kernels[b, :, g]).sum(0)
            np.testing.assert_allclose(maps[b, i, j, g], expected, 1e-4, 1e-5)
    with pytest.raises(ValueError, match="same batch, height and width"):
        model.apply(variables, s, t[:, :3])


def test_wrong_sizes():
    with pytest.raises(ValueError, match="3 or a power of 2"):
        super_resolution.factors(6)
    with pytest.raises(ValueError, match="expected 1 to 3, the blocks"):
        edsr.tap_places(3, 4)
    with pytest.raises(ValueError, match=r"multiple of factor\^2 = 4"):
        super_resolution.pixel_shuffle(jnp.zeros((1, 2, 2, 6)), 2)
