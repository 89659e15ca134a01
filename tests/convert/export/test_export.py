"""What is exported computes what the network computes, in every format."""

import json

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxkd import models
from jaxkd.convert import export
from jaxkd.convert.export import onnx, primitives, stablehlo
from jaxkd.core.errors import UserError

CLASSES = 5
SMALL = {"stem": 4, "widths": (4, 8), "strides": (1, 2)}
DEFI = {
    "stem_width": 4,
    "stage1_planes": 2,
    "widths": (2, 3, 4, 5),
    "pyramid_width": 4,
}
# Name -> (options, side of the images).
NETWORKS = {
    "resnet8": (SMALL, 8),
    "embed8": ({**SMALL, "width": 6}, 8),
    "defi_net": (DEFI, 16),
}


def randomized(network, shape):
    """Returns variables of which none is as it was initialised."""
    images = jnp.zeros((1, *shape))
    abstract = jax.eval_shape(lambda: network.init(jax.random.key(0), images))
    rng, values = np.random.default_rng(0), {}
    for path, leaf in traverse_util.flatten_dict(abstract).items():
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        noise = rng.normal(size=leaf.shape) / np.sqrt(fan_in)
        positive = path[-1] in ("var", "scale")
        values[path] = np.float32(1 + 0.1 * np.tanh(noise) if positive else noise)
    return traverse_util.unflatten_dict(values)


def exportable(name, options, side, **changes):
    network = models.build(name, CLASSES, **options)
    shape = (side, side, 3)
    described = {"class_names": ["a", "b"], "preprocessing": {"mean": [0.5]}}
    made = export.Exportable(
        network, randomized(network, shape), name, options, shape, described
    )
    return made._replace(**changes)


@pytest.fixture(
    scope="module",
    params=["resnet8", "embed8", pytest.param("defi_net", marks=pytest.mark.slow)],
)
def trained(request):
    """A network, images, and what it computes of them."""
    made = exportable(request.param, *NETWORKS[request.param])
    images = np.random.default_rng(1).normal(size=(3, *made.shape))
    images = images.astype(np.float32)
    logits, features = jax.jit(made.network.apply)(made.variables, images)
    expected = {"logits": np.asarray(logits)}
    if "embedding" in features:
        expected["embedding"] = np.asarray(features["embedding"])
    return made, images, expected


def assert_close(outputs, expected, tolerance):
    assert set(outputs) == set(expected)
    for name, value in expected.items():
        assert np.ptp(value) > 0.1  # a constant would fit anything
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=tolerance)


def test_stablehlo(trained, tmp_path):
    pytest.importorskip("flatbuffers")
    made, images, expected = trained
    path = tmp_path / "student.stablehlo"
    message = export.write(made, "stablehlo", path)
    assert str(path) in message and "student.stablehlo.json" in message
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert set(exported.platforms) == {"cpu", "cuda", "rocm", "tpu"}
    outputs = exported.call(images)  # another number of images than was compared
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    outputs = {name: np.asarray(value) for name, value in outputs.items()}
    assert_close(outputs, expected, 1e-5)
    beside = json.loads((tmp_path / "student.stablehlo.json").read_text())
    assert beside["class_names"] == ["a", "b"]
    assert beside["preprocessing"] == {"mean": [0.5]}
    assert beside["input"]["shape"] == ["batch", *made.shape]
    assert beside["outputs"] == {
        name: ["batch", *value.shape[1:]] for name, value in expected.items()
    }
    assert 0 <= beside["largest_difference"] <= 1e-5


@pytest.mark.slow
def test_onnx(trained, tmp_path):
    pytest.importorskip("jax2onnx")
    made, images, expected = trained
    path = tmp_path / "student.onnx"
    export.write(made, "onnx", path)
    assert_close(onnx.run(path, list(expected), images), expected, 1e-4)
    beside = json.loads((tmp_path / "student.onnx.json").read_text())
    assert beside["input"]["name"] == "images"
    assert beside["largest_difference"] <= 1e-4


def torch_twin(name):
    zoo = pytest.importorskip("tests.torch_zoo")
    torch = pytest.importorskip("torch")
    if name == "defi_net":
        from tests import torch_defi

        return torch_defi.DefiNet(4, 2, (2, 3, 4, 5), 4)
    if name == "resnet8":
        return zoo.ResNet(CLASSES, 1, 4, (4, 8), (1, 2))

    class Embedding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk = zoo.ResNet(6, 1, 4, (4, 8), (1, 2))
            self.directions = torch.nn.Parameter(torch.zeros(CLASSES, 6))

        def forward(self, images):
            unit = torch.nn.functional.normalize
            embedding, taps = self.trunk(images)
            return 16 * unit(embedding) @ unit(self.directions).T, taps

    return Embedding()


@pytest.mark.torch
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_torch(trained, tmp_path, suffix):
    torch = pytest.importorskip("torch")
    made, images, expected = trained
    path = tmp_path / f"student{suffix}"
    export.write(made, "torch", path)
    twin = torch_twin(made.name).eval()
    if suffix == ".pth":
        state = torch.load(path, weights_only=True)["model"]
    else:
        from safetensors.torch import load_file

        state = load_file(path)
    twin.load_state_dict(state, strict=True)
    with torch.no_grad():
        logits, _ = twin(torch.tensor(images.transpose(0, 3, 1, 2)))
    logits = logits.numpy()
    if logits.ndim == 4:
        logits = logits.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-4)
    beside = json.loads(path.with_name(path.name + ".json").read_text())
    assert beside["input"]["layout"] == "channels first"
    assert beside["class_names"] == ["a", "b"]


@pytest.fixture(scope="module")
def small():
    return exportable("resnet8", *NETWORKS["resnet8"])


@pytest.mark.parametrize(
    ("format", "output", "message"),
    [
        ("tflite", "a.tflite", r"--format is 'tflite', expected one of stablehlo"),
        ("onnx", "a.pth", r"--output is 'a.pth', expected a file that ends in \.onnx"),
        ("torch", None, r"--output is None, expected .*\.pth or \.pt or \.safetensors"),
        ("torch", "no/such/a.pth", r"the folder no/such does not exist"),
    ],
)
def test_refused_before_work(small, format, output, message):
    with pytest.raises(UserError, match=message):
        export.write(small, format, output)


def test_torch_names_that_do_not_exist_are_refused(small, tmp_path):
    odd = small._replace(name="waveresnet8", options={})
    with pytest.raises(UserError, match="give to 'waveresnet8' are not known"):
        export.write(odd, "torch", tmp_path / "a.pth")


class Asks(nn.Module):
    """Does something that only this process can do."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train=False):
        bias = self.param("bias", nn.initializers.zeros, (self.num_classes,))
        shape = jax.ShapeDtypeStruct((), jnp.float32)
        total = jax.pure_callback(lambda x: np.float32(x.sum()), shape, images)
        return bias + total, {}


def test_what_cannot_be_exported_is_refused_with_its_reason(small, tmp_path):
    pytest.importorskip("flatbuffers")
    network = Asks(CLASSES)
    odd = small._replace(
        network=network, variables=randomized(network, small.shape), name="asks"
    )
    with pytest.raises(
        UserError, match=r"asks cannot be exported as stablehlo: .*callback"
    ):
        export.write(odd, "stablehlo", tmp_path / "a.stablehlo")
    assert not list(tmp_path.iterdir())


def test_file_that_computes_anything_else_is_refused(small, tmp_path, monkeypatch):
    def wrong(path, names, images):
        path.write_bytes(b"")
        return {name: np.full((2, CLASSES), 1e6, np.float32) for name in names}

    monkeypatch.setattr(stablehlo, "write", lambda *arguments: None)
    monkeypatch.setattr(stablehlo, "run", wrong)
    with pytest.raises(UserError, match="outputs differ from the network's by"):
        export.write(small, "stablehlo", tmp_path / "a.stablehlo")
    assert not list(tmp_path.iterdir())


def test_missing_library_is_named_with_its_extra(small, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flatbuffers", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[export\]'"):
        export.write(small, "stablehlo", tmp_path / "a.stablehlo")


def test_calls_and_platforms_are_inlined():
    @jax.custom_vjp
    def gated(x):
        return jax.lax.platform_dependent(
            x, cpu=lambda x: x * jnp.nan, default=lambda x: x * 2
        )

    gated.defvjp(lambda x: (gated(x), None), lambda _, g: (g,))

    @jax.jit
    def function(x):
        y = jax.checkpoint(lambda x: jax.nn.relu(gated(x)))(x)
        return jax.lax.cond(x.sum() > 0, lambda y: y + 1, lambda y: y - 1, y), y

    for values, expected in (
        ([-1.0, 0.5, 3.0], [1, 2, 7]),
        ([1.0, -0.5, -3.0], [1, -1, -1]),
    ):
        x = np.array(values, np.float32)
        flat = primitives.inline(function, x)
        np.testing.assert_array_equal(flat(x)[0], expected)
    names = {equation.primitive.name for equation in jax.make_jaxpr(flat)(x).jaxpr.eqns}
    assert not names & {"custom_vjp_call", "platform_index", "custom_jvp_call", "jit"}
    assert "cond" in names  # which does not hang on the platform


def test_padding_and_pooling_by_other_primitives():
    """jax2onnx knows neither for a batch of open size, or channels last."""

    def function(x):
        padded = jnp.pad(x, ((0, 0), (1, 0), (2, 1), (0, 0)), constant_values=3.0)
        pooled = nn.max_pool(padded, (3, 2), (2, 3), padding=((1, 1), (0, 1)))
        return padded, pooled

    x = np.random.default_rng(0).normal(size=(3, 5, 6, 2)).astype(np.float32)
    flat = primitives.inline(function, x, replace=onnx._REPLACED)
    for got, expected in zip(flat(x), function(x), strict=True):
        np.testing.assert_array_equal(got, expected)
    names = {eqn.primitive.name for eqn in jax.make_jaxpr(flat)(x).jaxpr.eqns}
    assert not names & {"pad", "reduce_window_max"}
