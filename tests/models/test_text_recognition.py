"""Readers against torch's layers, and a teacher's parameters in its student."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.models import text_recognition as readers

SMALL = {
    "num_classes": 5,
    "slots": 3,
    "blocks": (1, 1, 1, 1, 1),
    "widths": (4, 4, 4, 8, 8),
    "depth": 1,
    "heads": 2,
    "hidden": 8,
    "key_width": 4,
    "key_levels": 2,
}
SMALL_VIT = {"num_classes": 5, "slots": 3, "width": 12, "depth": 1, "heads": 2}
SMALL_VIT |= {"hidden": 16, "dropout": 0.0}


def tensors(params):
    torch = pytest.importorskip("torch")
    return jax.tree.map(lambda x: torch.from_numpy(np.array(x)), params)


@pytest.mark.torch
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_layers_are_torchs(norm_first):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    model = readers.EncoderLayer(2, 12, 0.1, False, norm_first)
    variables = model.init(jax.random.key(0), x)

    # Norms that do something, and biases
    def draw(v):
        return v + 0.1 * jax.random.normal(jax.random.key(v.size), v.shape)

    variables = jax.tree.map(draw, variables)
    p = tensors(variables["params"])
    layer = torch.nn.TransformerEncoderLayer(
        8,
        2,
        12,
        0.1,
        "gelu" if norm_first else "relu",
        batch_first=True,
        norm_first=norm_first,
    ).eval()
    a = p["attention"]

    def join(leaf):
        return torch.cat([a[n][leaf].T for n in ("query", "key", "value")])

    state = {
        "self_attn.in_proj_weight": join("kernel"),
        "self_attn.in_proj_bias": torch.cat(
            [a[n]["bias"] for n in ("query", "key", "value")]
        ),
        "self_attn.out_proj.weight": a["out"]["kernel"].T,
        "self_attn.out_proj.bias": a["out"]["bias"],
    }
    for theirs, ours in (("linear1", "dense1"), ("linear2", "dense2")):
        state[f"{theirs}.weight"] = p[ours]["kernel"].T
        state[f"{theirs}.bias"] = p[ours]["bias"]
    for name in ("norm1", "norm2"):
        state |= {f"{name}.weight": p[name]["scale"], f"{name}.bias": p[name]["bias"]}
    layer.load_state_dict(state)
    with torch.no_grad():
        reference = layer(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model.apply(variables, x), reference, 1e-4, 1e-5)


@pytest.mark.torch
def test_the_projection_is_torchs_lstm():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(2, 4, 6)).astype(np.float32)
    model = readers.SequenceProjection(hidden=3, width=5)
    variables = model.init(jax.random.key(0), x)
    p = tensors(variables["params"])
    lstm = torch.nn.LSTM(6, 3, bidirectional=True, batch_first=True)
    state = {}
    for name, suffix in (("forward", ""), ("backward", "_reverse")):
        state |= {
            f"weight_ih_l0{suffix}": p[f"{name}_input"].T,
            f"weight_hh_l0{suffix}": p[f"{name}_state"].T,
            f"bias_ih_l0{suffix}": p[f"{name}_bias"],
            f"bias_hh_l0{suffix}": torch.zeros(12),
        }
    lstm.load_state_dict(state)
    with torch.no_grad():
        y, _ = lstm(torch.from_numpy(x))
        reference = (y @ p["out"]["kernel"] + p["out"]["bias"]).numpy()
    np.testing.assert_allclose(model.apply(variables, x), reference, 1e-4, 1e-5)


def test_a_student_of_half_the_size_has_its_teachers_maps():
    large = jax.random.normal(jax.random.key(0), (2, 16, 32, 3))
    small = large[:, ::2, ::2]
    teacher = readers.Reader(**SMALL)
    student = readers.Reader(**SMALL, first_stride=1)
    variables = teacher.init(jax.random.key(1), large)
    own = student.init(jax.random.key(2), small)
    moved = readers.for_half_size(variables["params"], own["params"])
    first = moved["stage1_block0"]  # the teacher's has a shortcut around its stride
    assert set(variables["params"]["stage1_block0"]) - set(first) == {
        "shortcut_conv",
        "shortcut_bn",
    }
    reference = variables["params"] | {"stage1_block0": first}
    jax.tree.map(np.testing.assert_array_equal, moved, reference)
    kernel = variables["params"]["stage1_block0"]["conv2"]["kernel"]
    np.testing.assert_array_equal(first["conv2"]["kernel"], kernel)
    logits, features = teacher.apply(variables, large)
    found = student.apply(own | {"params": moved}, small)
    assert found[0].shape == logits.shape == (2, 3, 5)
    for name in ("stage3", "stage5", "semantic", "attention"):
        assert found[1][name].shape == features[name].shape
    attention = features["attention"]
    assert attention.shape == (2, 3, 4, 8)
    np.testing.assert_allclose(attention.sum((2, 3)), 1, 1e-5)
    vectors = features["semantic"]  # each slot looks elsewhere
    assert np.abs(vectors[:, 0] - vectors[:, 1]).max() > 1e-4


def test_a_vit_for_half_the_size_sees_repeated_pixels_alike():
    small = jax.random.normal(jax.random.key(0), (2, 4, 16, 3))
    large = jnp.repeat(jnp.repeat(small, 2, axis=1), 2, axis=2)
    teacher = readers.ViTReader(**SMALL_VIT, patch=(4, 8))
    student = readers.ViTReader(**SMALL_VIT, patch=(2, 4))
    variables = teacher.init(jax.random.key(1), large)
    own = student.init(jax.random.key(2), small)
    moved = readers.for_half_size(variables["params"], own["params"])
    logits, features = teacher.apply(variables, large)
    found, theirs = student.apply({"params": moved}, small)
    np.testing.assert_allclose(found, logits, 1e-4, 1e-5)
    np.testing.assert_allclose(theirs["tokens"], features["tokens"], 1e-4, 1e-4)


def test_what_does_not_fit():
    with pytest.raises(ValueError, match=r"neither|Give both the same sizes"):
        readers.for_half_size({"a": jnp.zeros(3)}, {"a": jnp.zeros(4)})
    model = readers.ViTReader(**SMALL_VIT)
    with pytest.raises(ValueError, match="multiples of the patch's 4 and 8"):
        model.init(jax.random.key(0), jnp.zeros((1, 6, 16, 3)))
    with pytest.raises(ValueError, match="multiple of 3 heads"):
        readers.Attention(3).init(
            jax.random.key(0), jnp.zeros((1, 2, 8)), jnp.zeros((1, 2, 8))
        )


def test_published_sizes():
    for name, shape, low, high in (
        ("abinet_vision", (1, 32, 128, 3), 23.4e6, 23.7e6),
        ("parseq_vit", (1, 32, 128, 3), 23.0e6, 24.0e6),
    ):
        network, options = readers.VARIANTS[name]
        image = jax.ShapeDtypeStruct(shape, jnp.float32)
        shapes = jax.eval_shape(network(37, **options).init, jax.random.key(0), image)
        total = sum(x.size for x in jax.tree.leaves(shapes["params"]))
        assert low < total < high, (name, total)
