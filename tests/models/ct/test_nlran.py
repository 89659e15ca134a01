"""NL-RAN against PyTorch in float64 and NumPy, its size, its switches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.models.ct import attention as attention3d
from jaxkd.models.ct.attention import CBAM, AttentionModule
from jaxkd.models.ct.non_local import NonLocalBlock
from jaxkd.models.ct.resnet import BasicUnit, BottleneckUnit

SHAPE = (1, 64, 128, 128, 1)
# Compiling takes longer than running.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def apply(network, variables, x):
    """Computes what a network says, compiled quickly."""
    lowered = jax.jit(network.apply).lower(variables, x)
    return lowered.compile(compiler_options=QUICK)(variables, x)


def sizes(name, shape=SHAPE, **options):
    network = models.build(name, 3, **options)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros(shape))["params"]
    return {
        part: sum(x.size for x in jax.tree.leaves(tree))
        for part, tree in params.items()
    }


@pytest.mark.slow
def test_parameters_of_the_full_network():
    parts = sizes("nlran56")
    assert parts["stage1_attention"] == 467_968
    assert parts["stage2_attention"] == 1_429_248
    assert parts["stage3_attention"] == 3_976_192
    assert parts["non_local"] == 526_080
    fourth = sum(size for part, size in parts.items() if part.startswith("stage4"))
    assert fourth == 7_282_688
    assert sum(parts.values()) == 14_576_611
    without = sum(sizes("resnet3d56").values())
    assert without < sum(sizes("nlran56", non_local=0).values()) < 14_576_611


def test_features_of_the_full_network():
    shapes = models.feature_shapes(models.build("nlran56", 3), SHAPE[1:])
    assert shapes["attention1"] == (16, 32, 32, 128)
    assert shapes["last"] == (2, 4, 4, 1024)


def module(kind="mixed", extra_skips=True, levels=2):
    conv, norm = attention3d.factories(False, jnp.float64)
    return AttentionModule(
        *(levels, lambda name: BottleneckUnit(8, 1, conv, norm, name=name)),
        *(conv, norm),
        kind=kind,
        extra_skips=extra_skips,
    )


def variables_of(network, x, seed=0):
    """Returns random variables, of which no norm is trivial."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape) * 0.3
        name = path[-1].key
        values = np.exp(values) if name == "var" else values
        values = values + 1 if name == "scale" else values
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


class Twin:
    """The same layers in PyTorch, from the same variables, written on their own."""

    def __init__(self, variables):
        self.torch = pytest.importorskip("torch")
        self.params = jax.tree.map(self.tensor, variables["params"])
        self.stats = jax.tree.map(self.tensor, variables.get("batch_stats", {}))

    def tensor(self, array):
        return self.torch.from_numpy(np.array(array))

    def bn(self, x, params, stats):
        return self.torch.nn.functional.batch_norm(
            *(x, stats["mean"], stats["var"], params["scale"], params["bias"])
        )

    def conv(self, x, params, stride=1):
        kernel = params["kernel"].permute(4, 3, 0, 1, 2)
        return self.torch.nn.functional.conv3d(
            *(x, kernel, params.get("bias"), stride, kernel.shape[-1] // 2)
        )

    def bottleneck(self, x, name):
        p, s = self.params[name], self.stats[name]
        y = self.conv(self.bn(x, p["bn1"], s["bn1"]).relu(), p["conv1"])
        y = self.conv(self.bn(y, p["bn2"], s["bn2"]).relu(), p["conv2"])
        return x + self.conv(self.bn(y, p["bn3"], s["bn3"]).relu(), p["conv3"])

    def interpolate(self, x, like):
        return self.torch.nn.functional.interpolate(
            x, size=like.shape[2:], mode="trilinear", align_corners=False
        )

    def attention(self, x, extra_skips):
        """An attention module of two levels; returns its result and its mask."""
        pool = self.torch.nn.MaxPool3d(3, 2, 1)
        x = self.bottleneck(x, "before0")
        trunk = self.bottleneck(self.bottleneck(x, "trunk0"), "trunk1")
        first = self.bottleneck(pool(x), "down0")
        side = self.bottleneck(first, "skip0")
        second = self.bottleneck(self.bottleneck(pool(first), "down1"), "deepest")
        up = self.interpolate(second, first) + side + (first if extra_skips else 0)
        up = self.interpolate(self.bottleneck(up, "up0"), trunk)
        up = up + trunk if extra_skips else up
        for index in range(2):
            p, s = self.params[f"mask_bn{index}"], self.stats[f"mask_bn{index}"]
            up = self.conv(self.bn(up, p, s).relu(), self.params[f"mask_conv{index}"])
        mask = self.torch.sigmoid(up)
        return self.bottleneck((1 + mask) * trunk, "after0"), mask

    def non_local(self, x):
        theta, phi, g = (
            self.conv(x, self.params[name]).flatten(2) for name in ("theta", "phi", "g")
        )
        weights = self.torch.softmax(theta.transpose(1, 2) @ phi, dim=-1)
        y = (weights @ g.transpose(1, 2)).transpose(1, 2)
        y = self.conv(y.reshape(*y.shape[:2], *x.shape[2:]), self.params["out"])
        return x + self.bn(y, self.params["bn"], self.stats["bn"])


def first(x):
    return np.moveaxis(np.asarray(x), -1, 1)


@pytest.mark.torch
@pytest.mark.parametrize("extra_skips", [True, False])
def test_attention_module_is_that_of_torch(extra_skips):
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 7, 9, 8)))
        network = module(extra_skips=extra_skips)
        variables = variables_of(network, x)
        got, mask = apply(network, variables, x)
        twin = Twin(variables)
        wanted = twin.attention(twin.tensor(first(x)), extra_skips)
        np.testing.assert_allclose(first(got), wanted[0], atol=1e-9)
        np.testing.assert_allclose(first(mask), wanted[1], atol=1e-9)


@pytest.mark.slow
def test_skips_matter():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 6, 6, 6, 8)))
        variables = variables_of(module(), x)
        masks = [apply(module(extra_skips=s), variables, x)[1] for s in (True, False)]
        assert np.abs(masks[0] - masks[1]).max() > 0.01


@pytest.mark.torch
def test_non_local_block_is_that_of_torch():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 4, 5, 6)))
        network = NonLocalBlock(False, dtype=jnp.float64)
        variables = variables_of(network, x)
        twin = Twin(variables)
        wanted = twin.non_local(twin.tensor(first(x)))
        np.testing.assert_allclose(first(apply(network, variables, x)), wanted, 1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "dot"])
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("scale", [False, True])
def test_non_local_block_in_numpy(kind, pooled, scale):
    with jax.enable_x64(True):
        x = np.random.default_rng(3).normal(size=(1, 2, 4, 4, 4))
        network = NonLocalBlock(False, kind, scale, pooled, jnp.float64)
        variables = variables_of(network, jnp.asarray(x))
        p = jax.tree.map(np.asarray, variables["params"])
        stats = jax.tree.map(np.asarray, variables["batch_stats"])["bn"]

        def project(name, reduce):
            y = x @ p[name]["kernel"][0, 0, 0] + p[name]["bias"]
            if reduce:
                y = y.reshape(1, 2, 2, 2, 2, 2, 2).max((3, 5))
            return y.reshape(-1, 2)

        theta, phi, g = (
            project("theta", 0),
            project("phi", pooled),
            project("g", pooled),
        )
        f = theta @ phi.T / (np.sqrt(2) if scale else 1)
        f = np.exp(f) if kind == "gaussian" else f
        f /= f.sum(1, keepdims=True) if kind == "gaussian" else len(phi)
        y = (f @ g).reshape(1, 2, 4, 4, 2) @ p["out"]["kernel"][0, 0, 0]
        y = (y - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
        wanted = x + y * p["bn"]["scale"] + p["bn"]["bias"]
        np.testing.assert_allclose(apply(network, variables, x), wanted, 1e-6)


def test_non_local_block_starts_as_the_identity():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, 2, 3, 3, 4)), jnp.float32)
    network = NonLocalBlock(True)
    variables = network.init(jax.random.key(0), x)
    got, _ = network.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(got, x)


def test_non_local_block_refuses_what_does_not_fit():
    x = jax.ShapeDtypeStruct((4, 16, 32, 32, 8), jnp.float32)
    with pytest.raises(ValueError, match=r"16,384 positions.*later stage.*sub_sample"):
        jax.eval_shape(NonLocalBlock(False).init, jax.random.key(0), x)
    with pytest.raises(ValueError, match="kind is 'cosine'"):
        NonLocalBlock(False, "cosine").init(
            jax.random.key(0), jnp.zeros((1, 2, 2, 2, 4))
        )


@pytest.mark.slow
def test_kinds_of_masks():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(5).normal(size=(1, 4, 4, 4, 8)))
        variables = variables_of(module(), x)
        masks = {
            kind: np.asarray(apply(module(kind), variables, x)[1])
            for kind in ("mixed", "channel", "spatial")
        }
        with pytest.raises(ValueError, match="kind is 'soft', expected one of mixed"):
            jax.eval_shape(module("soft").init, jax.random.key(0), x)
    before = np.log(masks["mixed"] / (1 - masks["mixed"]))
    length = np.sqrt((before**2).sum(-1, keepdims=True))
    np.testing.assert_allclose(masks["channel"], before / length, atol=1e-4)
    spread = before - before.mean((1, 2, 3), keepdims=True)
    spread /= before.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(masks["spatial"], 1 / (1 + np.exp(-spread)), atol=1e-4)


def test_cbam_in_numpy():
    with jax.enable_x64(True):
        x = np.random.default_rng(6).normal(size=(2, 3, 4, 5, 8))
        conv, _ = attention3d.factories(False, jnp.float64)
        network = CBAM(conv, reduction=4, size=1)
        variables = variables_of(network, jnp.asarray(x))
        got, mask = apply(network, variables, jnp.asarray(x))
        p = jax.tree.map(np.asarray, variables["params"])

    def perceptron(v):
        hidden = np.maximum(v @ p["squeeze"]["kernel"] + p["squeeze"]["bias"], 0)
        return hidden @ p["excite"]["kernel"] + p["excite"]["bias"]

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    gates = sigmoid(perceptron(x.mean((1, 2, 3))) + perceptron(x.max((1, 2, 3))))
    y = x * gates[:, None, None, None]
    summary = np.stack([y.mean(-1), y.max(-1)], -1)
    wanted = sigmoid(summary @ p["voxels"]["kernel"][0, 0, 0])
    np.testing.assert_allclose(mask, wanted, 1e-6)
    np.testing.assert_allclose(got, y * wanted, 1e-6)


def test_levels_adapt_to_the_volume():
    assert [attention3d._levels((n, 32, 32), 3) for n in (2, 3, 4, 5, 8, 9, 16)] == [
        *(0, 1, 1, 2, 2, 3, 3)
    ]


def test_basic_unit_projects_when_the_shape_changes():
    conv, norm = attention3d.factories(False, jnp.float32)
    x = jnp.ones((1, 5, 6, 7, 4))
    unit = BasicUnit(6, 2, conv, norm)

    def init(unit):
        return jax.eval_shape(unit.init_with_output, jax.random.key(0), x)

    y, variables = init(unit)
    assert y.shape == (1, 3, 3, 4, 6)
    assert variables["params"]["shortcut"]["kernel"].shape == (1, 1, 1, 4, 6)
    _, same = init(BasicUnit(4, 1, conv, norm))
    assert "shortcut" not in same["params"]


def test_ablation_shares_the_trunk():
    shape = (1, 8, 16, 16, 1)
    full, plain, cbam = (
        sizes(f"{n}_micro", shape) for n in ("nlran", "resnet3d", "cbam3d")
    )
    assert set(full) - set(plain) == {"non_local"}
    assert plain["stage1"] == full["stage1"] == cbam["stage1"]
    assert (
        plain["stage1_attention"] < cbam["stage1_attention"] < full["stage1_attention"]
    )


def test_dropout_only_in_training():
    small = {"stem": 2, "widths": (2,), "strides": (2,), "levels": (), "non_local": 0}
    network = models.build("nlran_micro", 3, dropout=0.5, **small)
    x = jnp.asarray(np.random.default_rng(7).normal(size=(2, 8, 8, 8, 1)), jnp.float32)
    variables = jax.jit(network.init)(jax.random.key(0), x)
    keys = [{"dropout": jax.random.key(i)} for i in range(2)]
    drop = jax.jit(
        lambda rngs: network.apply(
            variables, x, train=True, rngs=rngs, mutable=["batch_stats"]
        )[0][0]
    )
    assert np.abs(drop(keys[0]) - drop(keys[1])).max() > 1e-3


def test_covnet_takes_the_maximum_over_slices():
    network = models.build("covnet_micro", 3, stem=4, widths=(4, 6))
    x = jnp.asarray(
        np.random.default_rng(8).normal(size=(2, 5, 16, 16, 1)), jnp.float32
    )
    variables = variables_of(network, x)
    logits, features = apply(network, variables, x)
    slices = np.asarray(features["slices"])
    assert slices.shape == (2, 5, 6)
    np.testing.assert_array_equal(features["pooled"], slices.max(1))
    head = variables["params"]["fc"]
    wanted = slices.max(1) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    # Each slice is seen on its own, so that their order does not matter.
    turned, _ = apply(network, variables, x[:, ::-1])
    np.testing.assert_allclose(turned, logits, atol=1e-4)


def test_covnet_has_the_parameters_of_resnet50():
    # torchvision's 25,557,032 without its 1000 classes, and three of its own.
    assert sum(sizes("covnet50", (1, 2, 64, 64, 1)).values()) == (
        25_557_032 - 2048 * 1000 - 1000 + 2048 * 3 + 3
    )


def test_the_head_with_a_hidden_layer_by_hand():
    network = models.build("resnet3d_local", 2, stem=2, widths=(4,), hidden=3)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 8, 8, 8, 1)), jnp.float32)
    variables = variables_of(network, x)
    logits, features = apply(network, variables, x)
    head = jax.tree.map(np.asarray, variables["params"])
    hidden = features["pooled"] @ head["hidden"]["kernel"] + head["hidden"]["bias"]
    wanted = np.maximum(hidden, 0) @ head["fc"]["kernel"] + head["fc"]["bias"]
    np.testing.assert_allclose(logits, wanted, rtol=1e-5, atol=1e-5)


def test_the_non_local_block_relates_contents_not_places():
    """Where alike things lie on an even ground is nothing that the network can tell.

    It knows no positions: only what is seen around a place, such as the wall of the
    chest, can say where that place is.
    """
    network = models.build(
        "nlran_local", 2, attention="none", dropout=0.0, stem=3, widths=(6,)
    )
    x = np.zeros((3, 40, 56, 56, 1), np.float32)
    patch = 20 * np.random.default_rng(0).normal(size=(4, 4, 4, 1))
    first, beside, behind = (16, 16, 16), (16, 16, 36), (20, 36, 36)
    # No place sees a patch and a border, and all patches lie alike on the strides.
    pairs = ((first, beside), (first, behind), (first,))
    for scan, places in zip(x, pairs, strict=True):
        for z, h, w in places:
            scan[z : z + 4, h : h + 4, w : w + 4] = patch
    variables = variables_of(network, jnp.asarray(x))
    near, apart, alone = apply(network, variables, jnp.asarray(x))[0]
    second = np.abs(near - alone).max()
    assert second > 1e-3 and np.abs(near - apart).max() < 1e-3 * second
