"""DeFI-Net against PyTorch in float64, its size, its switches and odd image sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxkd import models
from jaxkd.convert.torch import names
from jaxkd.models.defi_net import high_pass
from jaxkd.models.defi_net.feature_pyramid import double, resize_to
from jaxkd.models.hrnet import resize_corners

SMALL = {
    "stem_width": 6,
    "stage1_planes": 3,
    "widths": (4, 5, 6, 7),
    "pyramid_width": 5,
}
# Compiling takes longer than running.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


def images(height=24, width=16, seed=0):
    return np.random.default_rng(seed).normal(size=(2, height, width, 3))


def sizes(name, **options):
    network = models.build(name, 2, **options)
    shape = jnp.zeros((1, 16, 16, 3))
    params = jax.eval_shape(network.init, jax.random.key(0), shape)["params"]
    return {
        part: sum(x.size for x in jax.tree.leaves(tree))
        for part, tree in params.items()
    }


def test_parameters_of_the_official_configuration():
    parts = sizes("defi_net")
    assert parts == {"hrnet": 2_028_572, "dfpl": 603_136, "ream": 185_507, "saff": 5743}
    assert sum(parts.values()) == 2_822_958


@pytest.mark.slow
def test_presets_grow():
    tiny, small, full = (
        sum(sizes(f"defi_net{name}").values()) for name in ("_tiny", "_small", "")
    )
    assert tiny < small / 3 < full / 9


@functools.cache
def torch_network():
    torch = pytest.importorskip("torch")
    zoo = pytest.importorskip("tests.torch_defi")
    torch.manual_seed(0)
    network = zoo.DefiNet(6, 3, (4, 5, 6, 7), 5).double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def run_torch(train):
    import torch

    network = torch_network()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        x = torch.from_numpy(images().transpose(0, 3, 1, 2))
        logits, taps = network.train(train)(x)
    updated = {k: tensor.numpy().copy() for k, tensor in network.state_dict().items()}
    network.load_state_dict(state)
    outputs = {"logits": logits, **taps}
    return {k: np.moveaxis(v.numpy(), 1, -1) for k, v in outputs.items()}, updated


def run_ours(train):
    state = {key: t.numpy() for key, t in torch_network().state_dict().items()}
    with jax.enable_x64(True):
        network = models.build("defi_net", 2, dtype=jnp.float64, **SMALL)
        table = names.leaves("defi_net", network)
        assert {leaf.key for leaf in table} == set(state)
        pairs = [(leaf.path, leaf.key) for leaf in table if leaf.path]
        flat = {path: in_float64(path, state[key]) for path, key in pairs}
        apply = functools.partial(network.apply, train=train, mutable=["batch_stats"])
        compiled = jax.jit(apply, compiler_options=QUICK)
        variables = traverse_util.unflatten_dict(flat)
        (logits, taps), updated = compiled(variables, images())
    flat |= traverse_util.flatten_dict(updated)
    updated = {key: names.to_torch(path, np.asarray(flat[path])) for path, key in pairs}
    return {"logits": logits, **taps}, updated


def in_float64(path, value):
    return np.transpose(value, (2, 3, 1, 0)) if path[-1] == "kernel" else value


@pytest.fixture(scope="module", params=[False, True], ids=["evaluation", "training"])
def both(request):
    return run_ours(request.param), run_torch(request.param), request.param


@pytest.mark.torch
def test_every_module_is_that_of_torch(both):
    (ours, _), (theirs, _), _ = both
    assert set(ours) == set(theirs)
    for name, wanted in theirs.items():
        # Heads compute in float32.
        tolerance = 1e-5 if name in ("logits", "edge") else 1e-9
        error = np.max(np.abs(np.asarray(ours[name]) - wanted)) / np.std(wanted)
        assert error < tolerance, name


@pytest.mark.torch
def test_running_statistics_are_those_of_torch(both):
    (_, ours), (_, theirs), train = both
    before = {key: t.numpy() for key, t in torch_network().state_dict().items()}
    for key, value in ours.items():
        np.testing.assert_allclose(value, theirs[key], atol=1e-9, err_msg=key)
    moved = [k for k in ours if "running" in k and (ours[k] != before[k]).any()]
    assert len(moved) == (len([k for k in ours if "running" in k]) if train else 0)


@pytest.mark.torch
@pytest.mark.parametrize("shape", [(3, 5), (7, 2), (4, 4), (1, 1)])
def test_resizing_is_that_of_torch(shape):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(1).normal(size=(2, 4, 3, 2))
    theirs = torch.from_numpy(np.moveaxis(x, -1, 1))

    def wanted(size, corners):
        y = torch.nn.functional.interpolate(
            theirs, size=size, mode="bilinear", align_corners=corners
        )
        return np.moveaxis(y.numpy(), 1, -1)

    with jax.enable_x64(True):
        corners = resize_corners(jnp.asarray(x), shape)
        doubled = double(jnp.asarray(x))
        larger = resize_to(jnp.asarray(x), (12, 15))
    np.testing.assert_allclose(corners, wanted(shape, True), atol=1e-12)
    np.testing.assert_allclose(doubled, wanted((8, 6), False), atol=1e-12)
    np.testing.assert_allclose(larger, wanted((12, 15), False), atol=1e-12)


def shapes(size, **options):
    network = models.build("defi_net_tiny", 2, **options)
    x = jnp.zeros((2, *size, 3))
    (logits, features), _ = jax.eval_shape(
        network.init_with_output, jax.random.key(0), x
    )
    return logits.shape, features["edge"].shape


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"stem_stride": 2}, {"noise": "srm"}])
@pytest.mark.parametrize("size", [(64, 64), (41, 67), (8, 9)])
def test_images_of_any_size(size, options):
    assert shapes(size, **options) == ((2, *size, 1),) * 2


@pytest.mark.slow
def test_switches_leave_out_their_part():
    whole = sizes("defi_net_tiny")
    assert sizes("defi_net_tiny", pyramid="plain")["dfpl"] < whole["dfpl"] / 3
    assert sizes("defi_net_tiny", reverse=False)["ream"] == whole["ream"] - 2 * 49
    assert sizes("defi_net_tiny", fusion="sum")["saff"] < whole["saff"] / 3
    wider = sizes("defi_net_tiny", noise="residual")["hrnet"] - whole["hrnet"]
    assert wider == 9 * 3 * 16


@pytest.mark.parametrize(
    "options",
    [{"pyramid": "thick"}, {"noise": "loud"}, {"fusion": "cold"}],
)
def test_wrong_options_are_explained(options):
    with pytest.raises(ValueError, match="expected"):
        shapes((8, 8), **options)


def test_high_pass_filters_see_no_flat_regions():
    flat = jnp.full((1, 6, 7, 3), 0.7)
    for kind in ("residual", "srm"):
        np.testing.assert_allclose(high_pass(flat, kind), 0, atol=1e-6)
    x = np.random.default_rng(0).normal(size=(1, 5, 6, 1))
    padded = np.pad(x[0, ..., 0], 1, mode="edge")
    mean = sum(padded[i : i + 5, j : j + 6] for i in range(3) for j in range(3)) / 9
    got = high_pass(jnp.asarray(x), "residual")[0, ..., 0]
    np.testing.assert_allclose(got, x[0, ..., 0] - mean, atol=1e-6)


def test_half_precision_stays_inside():
    network = models.build("defi_net_tiny", 2, dtype=jnp.bfloat16)
    x = jnp.zeros((1, 16, 16, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    logits, features = jax.eval_shape(network.apply, variables, x)
    assert logits.dtype == features["edge"].dtype == jnp.float32
    assert features["level1"].dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
