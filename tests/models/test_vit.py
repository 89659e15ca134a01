"""The vision transformer against torch's encoder; what subsets and masks change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models import vit

IMAGES = np.random.default_rng(0).normal(size=(2, 8, 12, 2)).astype(np.float32)
TINY = {"patch": 4, "width": 8, "depth": 2, "heads": 2, "ratio": 2.0}


def _network(**options):
    network = vit.ViT(num_classes=3, **TINY | options)
    variables = jax.jit(network.init)(jax.random.key(0), IMAGES)
    # Norms that do something.
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(1)
    leaves = [x + 0.1 * rng.normal(size=x.shape).astype(np.float32) for x in leaves]
    return network, jax.tree.unflatten(structure, leaves)


def _torch_block(torch, width, params):
    """Copies a block into torch's own layer, which is written independently."""
    layer = torch.nn.TransformerEncoderLayer(
        width,
        TINY["heads"],
        int(width * TINY["ratio"]),
        dropout=0.0,
        activation="gelu",
        layer_norm_eps=vit.EPSILON,
        batch_first=True,
        norm_first=True,
    ).eval()
    attention = params["attention"]
    kernels = [attention[k]["kernel"].reshape(width, width) for k in PROJECTIONS]
    biases = [attention[k]["bias"].reshape(width) for k in PROJECTIONS]
    state = {
        "self_attn.in_proj_weight": np.concatenate(kernels, axis=1).T,
        "self_attn.in_proj_bias": np.concatenate(biases),
        "self_attn.out_proj.weight": attention["out"]["kernel"].reshape(width, width).T,
        "self_attn.out_proj.bias": attention["out"]["bias"],
        "linear1.weight": params["feed_forward"]["in"]["kernel"].T,
        "linear1.bias": params["feed_forward"]["in"]["bias"],
        "linear2.weight": params["feed_forward"]["out"]["kernel"].T,
        "linear2.bias": params["feed_forward"]["out"]["bias"],
    }
    for norm in ("norm1", "norm2"):
        state[f"{norm}.weight"] = params[norm]["scale"]
        state[f"{norm}.bias"] = params[norm]["bias"]
    layer.load_state_dict({k: torch.tensor(np.array(v)) for k, v in state.items()})
    return layer


PROJECTIONS = ("query", "key", "value")


@pytest.mark.torch
def test_forward_is_torchs():
    torch = pytest.importorskip("torch")
    network, variables = _network()
    logits, features = jax.jit(network.apply)(variables, IMAGES)
    params = jax.device_get(variables["params"])
    kernel = params["patch_embedding"]["kernel"].reshape(4, 4, 2, 8)
    with torch.no_grad():
        x = torch.nn.functional.conv2d(
            torch.tensor(IMAGES.transpose(0, 3, 1, 2)),
            torch.tensor(kernel.transpose(3, 2, 0, 1).copy()),
            torch.tensor(params["patch_embedding"]["bias"]),
            stride=4,
        )
        x = x.flatten(2).transpose(1, 2) + torch.tensor(params["positions"])
        token = torch.tensor(params["class_token"]).expand(2, 1, 8)
        x = torch.cat([token, x], dim=1)
        for index in range(2):
            x = _torch_block(torch, 8, params[f"block{index}"])(x)
        scale, bias = (torch.tensor(params["norm"][k]) for k in ("scale", "bias"))
        x = torch.nn.functional.layer_norm(x, (8,), scale, bias, vit.EPSILON)
        head = [torch.tensor(params["fc"][k]) for k in ("kernel", "bias")]
        expected = x[:, 0] @ head[0] + head[1]
    np.testing.assert_allclose(logits, expected, 1e-4, 1e-5)
    np.testing.assert_allclose(features["patches"], x[:, 1:], 1e-4, 1e-5)


def test_kept_patches_and_masks():
    network, variables = _network(pool="mean")
    forward = jax.jit(network.apply)
    keep = np.array([[4, 1, 3], [0, 2, 5]])
    _, part = forward(variables, IMAGES, keep=keep)
    # A masked-out key is as good as an absent one, for the queries that remain.
    hidden = np.zeros((2, 1, 1, 6), bool)
    for row, kept in enumerate(keep):
        hidden[row, ..., kept] = True
    _, masked = forward(variables, IMAGES, mask=hidden)
    expected = np.take_along_axis(
        np.asarray(masked["patches"]), keep[..., None], axis=1
    )
    np.testing.assert_allclose(part["patches"], expected, 1e-4, 1e-5)
    np.testing.assert_allclose(part["pooled"], expected.mean(1), 1e-4, 1e-5)
    # What is not kept is not seen.
    changed = IMAGES.copy()
    changed[0, :4, :4] += 1  # patch 0
    _, other = forward(variables, changed, keep=keep)
    np.testing.assert_array_equal(other["patches"][0], part["patches"][0])


def test_patches_are_cut_row_by_row():
    patches = np.asarray(vit.patchify(IMAGES, 4))
    np.testing.assert_array_equal(patches[1, 4], IMAGES[1, 4:, 4:8].ravel())
    np.testing.assert_array_equal(vit.unpatchify(patches, (2, 3), 4), IMAGES)


def test_positions():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(1, 6, 4)))
    assert vit.resize_positions(table, (2, 3), (2, 3)) is table
    ramp = jnp.arange(8.0).reshape(1, 8, 1)  # of an 8 x 1 grid
    larger = vit.resize_positions(ramp, (8, 1), (16, 1))[0, :, 0]
    # Cubic interpolation keeps a ramp, but for the border.
    np.testing.assert_allclose(larger[4:-4], np.arange(4, 12) / 2 - 0.25, atol=1e-5)
    found = vit.sincos_positions((2, 3), 8)[0]
    frequency = np.array([1, 1e-2])
    row, column = 1, 2  # patch 5
    for part, place in ((0, column), (4, row)):
        expected = [*np.sin(place * frequency), *np.cos(place * frequency)]
        np.testing.assert_allclose(found[5, part : part + 4], expected, 1e-5)


def test_stored_positions_serve_other_images():
    network, variables = _network(grid=(2, 3))
    larger = np.tile(IMAGES, (1, 2, 2, 1))
    logits, _ = jax.jit(network.apply)(variables, larger)
    assert logits.shape == (2, 3) and np.isfinite(logits).all()
    assert variables["params"]["positions"].shape == (1, 6, 8)


def test_published_sizes():
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    # Published: 86.6 million and 88.2 million, class token's position included.
    for name, count in {"vit_base16": 86_567_656, "vit_base32": 88_224_232}.items():
        network = models.build(name, num_classes=1000)
        shapes = jax.eval_shape(network.init, jax.random.key(0), images)
        total = sum(x.size for x in jax.tree.leaves(shapes))
        assert total == count - 768


def test_errors():
    with pytest.raises(ValueError, match="multiples of the patch, 4"):
        vit.ViT(3, **TINY).init(jax.random.key(0), IMAGES[:, :7])
    with pytest.raises(ValueError, match="pool is 'max'"):
        vit.ViT(3, **TINY, pool="max").init(jax.random.key(0), IMAGES)
    with pytest.raises(ValueError, match="multiple of 4"):
        vit.sincos_positions((2, 2), 6)
