"""Networks of timm's and torchvision's names: weights, outputs, features, sizes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxkd import models
from jaxkd.convert import load_torch, save_torch
from jaxkd.convert.torch import names, weights

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch
zoo = pytest.importorskip("tests.torch_photographs")

CLASSES = 5
QUICK = {"xla_backend_optimization_level": 0}
VIT = {"patch": 8, "width": 12, "depth": 2, "heads": 3}
CONVNEXT = {"blocks": (1, 2, 1), "widths": (4, 6, 8)}
# As many groups as torchvision counts.
GROUPS = (
    *((1, 8, 1, 1, 3), (6, 8, 2, 2, 3), (6, 12, 1, 2, 5), (6, 12, 1, 2, 3)),
    *((6, 16, 1, 1, 5), (6, 16, 1, 1, 5), (6, 24, 1, 1, 3)),
)
EFFICIENTNET = {"stem": 8, "groups": GROUPS, "head": 20}
RESNET = {"stem": 8, "widths": (4, 6), "strides": (1, 2), "blocks": 1}

# Name, options, the torch network, side of the images.
CASES = {
    "vit": (
        "vit_tiny_patch16_224",
        {**VIT, "grid": (3, 3)},
        lambda: zoo.ViT(CLASSES, **VIT, grid=3, distilled=False),
        24,
    ),
    "deit_distilled": (
        "deit_tiny_distilled_patch16_224",
        {**VIT, "grid": (3, 3)},
        lambda: zoo.ViT(CLASSES, **VIT, grid=3, distilled=True),
        24,
    ),
    "convnext": (
        "convnext_tiny",
        CONVNEXT,
        lambda: zoo.ConvNeXt(CLASSES, **CONVNEXT),
        32,
    ),
    "efficientnet": (
        "efficientnet_b0",
        EFFICIENTNET,
        lambda: zoo.EfficientNet(CLASSES, **EFFICIENTNET, tapped=(0, 1, 2, 6)),
        32,
    ),
    "resnet_d": (
        "resnet50d",
        RESNET,
        lambda: zoo.ResNetD(CLASSES, 8, (4, 6)),
        34,  # odd maps
    ),
}


@functools.cache
def torch_network(case):
    """A network whose every variable is random."""
    network = CASES[case][2]().eval()
    generator = torch.Generator().manual_seed(0)
    for key, tensor in network.state_dict().items():
        if tensor.dtype == torch.int64:
            continue
        noise = torch.rand(tensor.shape, generator=generator)
        small = tensor.ndim == 1 or "pos_embed" in key or "token" in key
        tensor.copy_(noise + 0.5 if small else (2 * noise - 1) * _bound(tensor))
    return network


def _bound(tensor):
    return 2 * np.prod(tensor.shape[1:]) ** -0.5


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_weights_are_torchs(case, tmp_path):
    name, options, _, side = CASES[case]
    network = torch_network(case)
    images = np.random.default_rng(0).normal(size=(2, side, side, 3))
    images = images.astype(np.float32)
    with torch.no_grad():
        logits, taps = network(torch.tensor(images.transpose(0, 3, 1, 2).copy()))

    torch.save(network.state_dict(), tmp_path / "there.pth")
    variables = load_torch(tmp_path / "there.pth", name, CLASSES, options=options)
    ours = models.build(name, CLASSES, **options)
    apply = jax.jit(ours.apply, compiler_options=QUICK)
    got, features = apply(variables, images)
    np.testing.assert_allclose(got, logits, 1e-4, 1e-5)
    for tap, tensor in taps.items():
        expected = np.moveaxis(tensor.numpy(), 1, -1)
        np.testing.assert_allclose(
            *(features[tap], expected, 1e-4, 1e-5 * np.abs(expected).max()), tap
        )
    stages = {tap for tap in features if tap.removeprefix("stage").isdigit()}
    assert stages == {tap for tap in taps if tap.removeprefix("stage").isdigit()}

    save_torch(tmp_path / "back.safetensors", variables, name, options=options)
    state = weights.read_state(tmp_path / "back.safetensors")
    for key, tensor in network.state_dict().items():
        if not key.endswith(names.COUNTER):
            np.testing.assert_array_equal(state.pop(key), tensor, key)
    assert all(key.endswith(names.COUNTER) for key in state)
    # A file is sorted by name, so that the classifier is not its last matrix.
    state = {k: t.numpy() for k, t in sorted(network.state_dict().items())}
    assert weights.count_classes(state, "file", name, 3, options) == CLASSES


# Names of timm's and of torchvision's files, as these libraries have them.
OTHER_NAMES = {
    "vit": {
        "cls_token": "class_token",
        "pos_embed": "encoder.pos_embedding",
        "patch_embed.proj.weight": "conv_proj.weight",
        "blocks.1.norm1.bias": "encoder.layers.encoder_layer_1.ln_1.bias",
        "blocks.1.attn.qkv.weight": (
            "encoder.layers.encoder_layer_1.self_attention.in_proj_weight"
        ),
        "blocks.0.attn.qkv.bias": (
            "encoder.layers.encoder_layer_0.self_attention.in_proj_bias"
        ),
        "blocks.0.attn.proj.weight": (
            "encoder.layers.encoder_layer_0.self_attention.out_proj.weight"
        ),
        "blocks.0.mlp.fc1.weight": "encoder.layers.encoder_layer_0.mlp.0.weight",
        "blocks.0.mlp.fc2.bias": "encoder.layers.encoder_layer_0.mlp.3.bias",
        "norm.weight": "encoder.ln.weight",
        "head.weight": "heads.head.weight",
    },
    "convnext": {
        "stem.0.weight": "features.0.0.weight",
        "stem.1.bias": "features.0.1.bias",
        "stages.0.blocks.0.gamma": "features.1.0.layer_scale",
        "stages.1.downsample.0.weight": "features.2.0.weight",
        "stages.1.downsample.1.bias": "features.2.1.bias",
        "stages.1.blocks.1.conv_dw.weight": "features.3.1.block.0.weight",
        "stages.2.blocks.0.norm.weight": "features.5.0.block.2.weight",
        "stages.2.blocks.0.mlp.fc1.bias": "features.5.0.block.3.bias",
        "stages.2.blocks.0.mlp.fc2.weight": "features.5.0.block.5.weight",
        "head.norm.weight": "classifier.0.weight",
        "head.fc.weight": "classifier.2.weight",
    },
    "efficientnet": {
        "conv_stem.weight": "features.0.0.weight",
        "bn1.running_mean": "features.0.1.running_mean",
        "blocks.0.0.conv_dw.weight": "features.1.0.block.0.0.weight",
        "blocks.0.0.se.conv_expand.bias": "features.1.0.block.1.fc2.bias",
        "blocks.0.0.conv_pw.weight": "features.1.0.block.2.0.weight",
        "blocks.0.0.bn2.bias": "features.1.0.block.2.1.bias",
        "blocks.1.1.conv_pw.weight": "features.2.1.block.0.0.weight",
        "blocks.1.1.bn1.weight": "features.2.1.block.0.1.weight",
        "blocks.1.1.conv_dw.weight": "features.2.1.block.1.0.weight",
        "blocks.1.1.se.conv_reduce.weight": "features.2.1.block.2.fc1.weight",
        "blocks.1.1.conv_pwl.weight": "features.2.1.block.3.0.weight",
        "blocks.6.0.bn3.running_var": "features.7.0.block.3.1.running_var",
        "conv_head.weight": "features.8.0.weight",
        "bn2.weight": "features.8.1.weight",
        "classifier.bias": "classifier.1.bias",
    },
}


@pytest.mark.parametrize("case", OTHER_NAMES)
def test_torchvisions_names_hold_the_same(case):
    name, options, _, _ = CASES[case]
    network = models.build(name, CLASSES, **options)
    state = {k: t.numpy() for k, t in torch_network(case).state_dict().items()}
    known = OTHER_NAMES[case]
    tables = [
        names.leaves(name, network, keys=keys) for keys in (state, known.values())
    ]
    keys = [{leaf.path: leaf.key for leaf in table if leaf.path} for table in tables]
    assert keys[0].keys() == keys[1].keys()
    renamed = {keys[0][path]: keys[1][path] for path in keys[0]}
    assert renamed.items() >= known.items()
    assert len(set(renamed.values())) == len(renamed)  # no two names are one

    theirs = {renamed[key]: state[key] for key in renamed}
    for key in theirs:
        if key.endswith("layer_scale"):  # has axes of pixels there
            theirs[key] = theirs[key][:, None, None]
    variables = [
        weights.to_variables(each, "file", name, CLASSES, options=options)
        for each in (state, theirs)
    ]
    jax.tree.map(np.testing.assert_array_equal, *variables)


# As timm and torchvision publish them.
PARAMETERS = {
    "vit_tiny_patch16_224": 5_717_416,
    "vit_base_patch16_224": 86_567_656,
    "deit_small_patch16_224": 22_050_664,
    "deit_tiny_distilled_patch16_224": 5_910_800,
    "deit_small_distilled_patch16_224": 22_436_432,
    "deit_base_distilled_patch16_224": 87_338_192,
    "convnext_tiny": 28_589_128,
    "convnext_small": 50_223_688,
    "convnext_base": 88_591_464,
    "convnext_large": 197_767_336,
    "resnet50": 25_557_032,
    "resnet18d": 11_708_744,
    "resnet50d": 25_576_264,
    "resnet101d": 44_568_392,
    "efficientnet_b0": 5_288_548,
    "efficientnet_b1": 7_794_184,
    "efficientnet_b2": 9_109_994,
}


QUICKLY_COUNTED = ("deit_tiny_distilled_patch16_224", "convnext_tiny", "resnet50d")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICKLY_COUNTED else pytest.param(name, marks=pytest.mark.slow)
        for name in PARAMETERS
    ],
)
def test_parameter_counts(name):
    network = models.build(name, 1000)
    images = jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == PARAMETERS[name]


# Sides and channels of stage1 ... of images of 224 pixels, and the width of the last.
SHAPES = {
    "deit_small_distilled_patch16_224": ([(14, 384)] * 4, 384),
    "convnext_tiny": ([(56, 96), (28, 192), (14, 384), (7, 768)], 768),
    "resnet50d": ([(56, 256), (28, 512), (14, 1024), (7, 2048)], 2048),
    "efficientnet_b2": ([(112, 16), (56, 24), (28, 48), (14, 120), (7, 352)], 1408),
}


@pytest.mark.parametrize("name", SHAPES)
def test_feature_shapes(name):
    stages, width = SHAPES[name]
    shapes = models.feature_shapes(models.build(name, 10), (224, 224, 3))
    for stage, (side, channels) in enumerate(stages, 1):
        assert shapes[f"stage{stage}"] == (side, side, channels)
        assert shapes[f"stage{stage}_preact"] == (side, side, channels)
    assert f"stage{len(stages) + 1}" not in shapes
    assert shapes["pooled"] == (width,)


def test_norms_before_taps_exist():
    """What OFD reads: the norm whose output is tapped."""
    name, options, _, _ = CASES["efficientnet"]
    network = models.build(name, CLASSES, **options)
    variables = jax.eval_shape(
        network.init, jax.random.key(0), np.zeros((1, 32, 32, 3))
    )
    shapes = models.feature_shapes(network, (32, 32, 3))
    flat = traverse_util.flatten_dict(variables["params"])
    for stage, path in network.preact_norms.items():
        assert flat[(*path, "scale")].shape == shapes[stage][-1:]


def test_distilled_logits_are_the_mean_of_both():
    name, options, _, side = CASES["deit_distilled"]
    network = models.build(name, CLASSES, **options)
    images = np.random.default_rng(0).normal(size=(1, side, side, 3))
    init = jax.jit(network.init_with_output, compiler_options=QUICK)
    (logits, features), _ = init(jax.random.key(0), images)
    both = features["class_logits"], features["distillation_logits"]
    np.testing.assert_allclose(logits, np.mean(both, axis=0), 1e-5, 1e-6)
    assert not np.allclose(*both)
    with pytest.raises(ValueError, match="distilled network with pool='mean'"):
        models.build(name, CLASSES, **options, pool="mean").init(
            jax.random.key(0), images
        )
