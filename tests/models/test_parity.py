"""Every family against PyTorch, in float64: values, features, statistics, names."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxkd import models
from jaxkd.convert.torch import names
from jaxkd.models import layers

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
zoo = pytest.importorskip("tests.torch_zoo")

CLASSES = 7
TOLERANCE = 1e-9
# Compiling takes longer than running.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}

WIDTHS = {"widths": (8, 12, 16, 24), "strides": (1, 2, 2, 2), "stem": 8, "blocks": 1}
VGG_BLOCKS = ((8,), (8, 12), (12,), (16, 16), (16,))
GROUPS = ((1, 4, 1, 1), (6, 6, 2, 1), (6, 8, 1, 2), (6, 8, 2, 1), (6, 10, 1, 2))
DEEP = {"shortcut": "shortcut", "head": "linear"}
SHUFFLE_V1 = {"widths": (48, 96, 144), "blocks": (2, 2, 1)}
SHUFFLE_V2 = {"widths": (24, 32, 48), "blocks": (1, 2, 1), "head": 64}

# Name of the variant, its options, the torch network.
CASES = {
    "resnet": (
        "resnet8x4",
        {"stem": 8, "widths": (12, 16, 24), "blocks": 2},
        lambda: zoo.ResNet(CLASSES, 2, 8, (12, 16, 24)),
    ),
    "resnet_basic": (
        "ResNet18",
        WIDTHS,
        lambda: zoo.ResNet(CLASSES, **WIDTHS, **DEEP),
    ),
    "resnet_bottleneck": (
        "ResNet50",
        WIDTHS,
        lambda: zoo.ResNet(CLASSES, **WIDTHS, **DEEP, block=zoo.Bottleneck),
    ),
    "resnet_photographs": (
        "resnet34_imagenet",
        WIDTHS,
        lambda: zoo.ResNet(CLASSES, **WIDTHS, photographs=True),
    ),
    "resnet_photographs_bottleneck": (
        "resnet50_imagenet",
        WIDTHS,
        lambda: zoo.ResNet(CLASSES, **WIDTHS, photographs=True, block=zoo.Bottleneck),
    ),
    "wrn": ("wrn_16_2", {}, lambda: zoo.WideResNet(CLASSES, 2, 2)),
    "wrn_narrow": ("wrn_16_1", {"blocks": 1}, lambda: zoo.WideResNet(CLASSES, 1, 1)),
    "vgg": ("vgg13", {"blocks": VGG_BLOCKS}, lambda: zoo.VGG(CLASSES, VGG_BLOCKS)),
    "mobilenet_v2": (
        "MobileNetV2",
        {"stem": 8, "groups": GROUPS, "head": 32},
        lambda: zoo.MobileNetV2(CLASSES, 8, GROUPS, 32, tapped=(1, 3, 4)),
    ),
    "mobilenet_v1": ("MobileNetV1", {}, lambda: zoo.MobileNetV1(CLASSES)),
    "shufflenet_v1": (
        "ShuffleV1",
        SHUFFLE_V1,
        lambda: zoo.ShuffleV1(CLASSES, **SHUFFLE_V1),
    ),
    "shufflenet_v2": (
        "ShuffleV2",
        SHUFFLE_V2,
        lambda: zoo.ShuffleV2(CLASSES, **SHUFFLE_V2),
    ),
}


@functools.cache
def torch_network(case):
    """A network with random weights and random statistics of its norms."""
    torch.manual_seed(0)
    network = CASES[case][2]().double()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.3)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.3)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return network


def random_images(size=16):
    return np.random.default_rng(0).normal(size=(3, size, size, 3))


def run_torch(case, images, train=False):
    network = torch_network(case)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        x = torch.from_numpy(images.transpose(0, 3, 1, 2))
        logits, taps = network.train(train)(x)
    updated = {
        key: tensor.numpy().copy() for key, tensor in network.state_dict().items()
    }
    network.load_state_dict(state)
    taps = {name: np.moveaxis(tap.numpy(), 1, -1) for name, tap in taps.items()}
    return {"logits": logits.numpy(), **taps}, updated


@functools.cache
def our_network(case):
    """The same network, and what torch calls its variables."""
    name, options, _ = CASES[case]
    network = models.build(
        name, CLASSES, dtype=jnp.float64, unbiased_variance=True, **options
    )
    with jax.enable_x64(True):
        return network, names.leaves(name, network)


def run_ours(case, images, train=False):
    network, table = our_network(case)
    state = {key: t.numpy() for key, t in torch_network(case).state_dict().items()}
    assert [leaf.key for leaf in table] == list(state)
    pairs = [(leaf.path, leaf.key) for leaf in table if leaf.path]
    flat = {path: float64_from_torch(path, state[key]) for path, key in pairs}
    apply = functools.partial(network.apply, train=train, mutable=["batch_stats"])
    with jax.enable_x64(True):
        compiled = jax.jit(apply, compiler_options=QUICK)
        variables = traverse_util.unflatten_dict(flat)
        (logits, taps), updated = compiled(variables, images)
    flat |= traverse_util.flatten_dict(updated)
    updated = {key: names.to_torch(path, np.asarray(flat[path])) for path, key in pairs}
    return {"logits": logits, **taps}, updated


def float64_from_torch(path, value):
    """As ``names.from_torch``, which rounds to float32."""
    if path[-1] == "kernel":
        return np.transpose(value, (2, 3, 1, 0) if value.ndim == 4 else (1, 0))
    return value


def worst(ours, theirs):
    """The largest difference of any entry, in standard deviations of its array."""
    assert set(ours) == set(theirs)
    errors = {
        name: np.max(np.abs(np.asarray(ours[name]) - value)) / np.std(value)
        for name, value in theirs.items()
    }
    return max(errors.values())


@pytest.mark.parametrize("case", CASES)
def test_evaluation(case):
    theirs, _ = run_torch(case, random_images())
    ours, _ = run_ours(case, random_images())
    assert worst(ours, theirs) < TOLERANCE


@pytest.mark.parametrize("case", CASES)
def test_training(case):
    theirs, their_state = run_torch(case, random_images(), train=True)
    ours, our_state = run_ours(case, random_images(), train=True)
    assert worst(ours, theirs) < 1e-7  # norms of few values amplify rounding
    for name, value in our_state.items():
        np.testing.assert_allclose(value, their_state[name], atol=1e-9, err_msg=name)
    moved = [name for name in our_state if "running" in name]
    before = torch_network(case).state_dict()
    assert moved
    assert all((before[name].numpy() != our_state[name]).any() for name in moved)


@pytest.mark.parametrize("case", ["resnet", "vgg"])
@pytest.mark.parametrize("size", [31, 64])
def test_other_sizes(case, size):
    theirs, _ = run_torch(case, random_images(size))
    ours, _ = run_ours(case, random_images(size))
    assert worst(ours, theirs) < TOLERANCE


def test_same_padding_would_show(monkeypatch):
    original = layers.nn.Conv

    def same(width, size, strides, *, padding, **options):
        far_side = ((0, 1), (0, 1)) if size == (3, 3) and strides == (2, 2) else padding
        return original(width, size, strides, padding=far_side, **options)

    monkeypatch.setattr(layers.nn, "Conv", same)
    for case in ("resnet", "mobilenet_v2"):
        theirs, _ = run_torch(case, random_images())
        ours, _ = run_ours(case, random_images())
        assert worst(ours, theirs) > 0.1


def test_a_missed_relu_before_the_shortcut_would_show(monkeypatch):
    def wrong(block, x):
        preact = block.bn1(x)
        y = block.conv1(torch.relu(preact))
        y = block.conv2(torch.relu(block.bn2(y)))
        return (x if block.equal else block.convShortcut(preact)) + y, preact

    monkeypatch.setattr(zoo.WideBlock, "forward", wrong)
    theirs, _ = run_torch("wrn", random_images())
    ours, _ = run_ours("wrn", random_images())
    assert worst(ours, theirs) > 0.1


@pytest.mark.parametrize("case", ["shufflenet_v1", "shufflenet_v2"])
def test_a_swapped_shuffle_would_show(case, monkeypatch):
    original = layers.shuffle_channels

    def swapped(x, groups):
        return original(x, x.shape[-1] // groups)

    monkeypatch.setattr(layers, "shuffle_channels", swapped)
    theirs, _ = run_torch(case, random_images())
    ours, _ = run_ours(case, random_images())
    assert worst(ours, theirs) > 0.1
