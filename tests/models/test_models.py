import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import models
from jaxkd.core.errors import UserError

# Trainable parameters as published: 1000 classes for photographs, 100 for others.
PARAMETERS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "ResNet18": 11_220_132,
    "ResNet50": 23_705_252,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_16_4": 2_772_020,
    "wrn_28_2": 1_479_220,
    "wrn_28_4": 5_872_180,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "MobileNetV2": 812_836,
    "ShuffleV1": 949_258,
    "ShuffleV2": 1_355_528,
    "resnet18_imagenet": 11_689_512,
    "resnet34_imagenet": 21_797_672,
    "resnet50_imagenet": 25_557_032,
    "resnet101_imagenet": 44_549_160,
    "MobileNetV1": 4_231_976,
}

# Features of one image: side and channels of each map, and the width of the last.
SHAPES = {
    "resnet20": ([(32, 16), (32, 16), (16, 32), (8, 64)], 64),
    "resnet8x4": ([(32, 32), (32, 64), (16, 128), (8, 256)], 256),
    "ResNet18": ([(32, 64), (32, 64), (16, 128), (8, 256), (4, 512)], 512),
    "ResNet50": ([(32, 64), (32, 256), (16, 512), (8, 1024), (4, 2048)], 2048),
    "wrn_40_2": ([(32, 16), (32, 32), (16, 64), (8, 128)], 128),
    "vgg13": ([(32, 64), (16, 128), (8, 256), (4, 512), (4, 512)], 512),
    "MobileNetV2": ([(16, 16), (16, 12), (8, 16), (4, 48), (2, 160)], 1280),
    "ShuffleV1": ([(32, 24), (16, 240), (8, 480), (4, 960)], 960),
    "ShuffleV2": ([(32, 24), (16, 116), (8, 232), (4, 464)], 1024),
    "resnet34_imagenet": (
        [(112, 64), (56, 64), (28, 128), (14, 256), (7, 512)],
        512,
    ),
    "MobileNetV1": ([(112, 32), (56, 128), (28, 256), (14, 512), (7, 1024)], 1024),
}


def is_large(name):
    return name.endswith("_imagenet") or name == "MobileNetV1"


def image_shape(name):
    return (224, 224, 3) if is_large(name) else (32, 32, 3)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    network = models.build(name, 1000 if is_large(name) else 100)
    images = jnp.zeros((1, *image_shape(name)))
    variables = jax.eval_shape(network.init, jax.random.key(0), images)
    count = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert count == PARAMETERS[name]


@pytest.mark.parametrize("name", SHAPES)
def test_feature_shapes(name):
    maps, width = SHAPES[name]
    shapes = models.feature_shapes(models.build(name, 10), image_shape(name))
    names = ["stem", *(f"stage{i}" for i in range(1, len(maps)))]
    wanted = {
        tap: (side, side, channels)
        for tap, (side, channels) in zip(names, maps, strict=True)
    }
    # A value before its ReLU has the shape of the value after it.
    wanted |= {f"{tap}_preact": wanted[tap] for tap in names[1:]}
    wanted["pooled"] = (width,)
    shapes.pop("stem_preact", None)
    assert shapes == wanted


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_half_precision_stays_inside(name):
    network = models.build(name, 10, dtype=jnp.bfloat16)
    images = jnp.zeros((2, *image_shape(name)))

    def run(key):
        variables = network.init(key, images)
        return variables, network.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )

    variables, ((logits, features), updated) = jax.eval_shape(run, jax.random.key(0))
    kept = [*jax.tree.leaves((variables, updated)), logits, features.pop("pooled")]
    assert all(array.dtype == jnp.float32 for array in kept)
    assert all(feature.dtype == jnp.bfloat16 for feature in features.values())


def test_names_are_unique():
    names = [
        name
        for info in pkgutil.walk_packages(models.__path__, "jaxkd.models.")
        for name in getattr(importlib.import_module(info.name), "VARIANTS", {})
    ]
    assert len(names) == len(set(names)) == len(models.variants())


def test_options_override_a_variant():
    network = models.build("resnet8", 10, stem=4, widths=(4, 8), strides=(2, 2))
    shapes = models.feature_shapes(network, (8, 8, 1))
    assert shapes["stem"] == (8, 8, 4)
    assert shapes["stage2"] == (2, 2, 8)
    assert "stage3" not in shapes


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("resnet20", {"widths": (8, 16)}, "2 widths, 3 strides"),
        ("ResNet18", {"blocks": (1, 1, 1)}, "3 blocks, 4 widths, 4 strides"),
        ("ShuffleV2", {"blocks": (1, 1)}, "3 widths, 2 blocks"),
        ("waveresnet8", {"halve": (1,)}, "3 widths, 1 halve"),
        ("nlran_tiny", {"strides": (1,)}, "3 widths, 1 strides"),
        ("convnext_tiny", {"widths": (8,)}, "4 blocks, 1 widths"),
        ("speech", {"audio_blocks": (1,)}, "1 audio_blocks, 4 audio_widths"),
    ],
)
def test_stages_have_one_value_of_each_list(name, options, found):
    with pytest.raises(UserError, match="one value for every stage") as caught:
        models.build(name, 10, **options)
    assert f"has {found}" in str(caught.value)


def test_mistakes_are_explained():
    with pytest.raises(ValueError, match="Did you mean 'resnet32x4'"):
        models.build("resnet32x", 10)
    with pytest.raises(ValueError, match="no option colour"):
        models.build("resnet8", 10, colour=1)


OWN = """
import flax.linen as nn

class Plain(nn.Module):
    num_classes: int
    feature: str = "pooled"

    @nn.compact
    def __call__(self, x, train=False):
        pooled = 2 * x.mean((1, 2))
        return nn.Dense(self.num_classes)(pooled), {self.feature: pooled}

class Classless(nn.Module):
    pass

def hidden(num_classes):
    return Plain(num_classes, feature="hidden")
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "plain_network.py").write_text(OWN)
    return f"{tmp_path}/plain_network.py"


def test_own_code_need_not_name_its_dtype(own):
    network = models.build(f"{own}:Plain", 3, dtype=jnp.dtype("float32"))
    assert models.feature_shapes(network, (4, 4, 1)) == {"pooled": (1,)}
    with pytest.raises(UserError, match=r"has no attribute dtype.*bfloat16"):
        models.build(f"{own}:Plain", 3, dtype=jnp.bfloat16)
    with pytest.raises(UserError, match="'num_classes: int'"):
        models.build(f"{own}:Classless", 3)


def test_own_code_encodes_pairs(own):
    network = models.build("siamese", 2, encoder=f"{own}:Plain")
    pair = jnp.stack([jnp.ones((1, 4, 4, 1)), jnp.zeros((1, 4, 4, 1))], axis=1)
    (_, features), _ = network.init_with_output(jax.random.key(0), pair)
    np.testing.assert_array_equal(features["pooled"], [[[2.0], [0.0]]])
    network = models.build("siamese", 2, encoder=f"{own}:hidden")
    with pytest.raises(UserError, match="has the features hidden, expected 'pooled'"):
        network.init(jax.random.key(0), pair)


def initial(name, **options):
    network = models.build(name, 100, **options)
    images = jnp.zeros((1, 32, 32, 3))
    # Compiling takes longer than running.
    quick = {"xla_backend_optimization_level": 0}
    init = jax.jit(network.init, compiler_options=quick)
    return init(jax.random.key(0), images)["params"]


def test_initial_values_of_vgg_and_wrn():
    params = initial("vgg8", blocks=((8,), (64,), (128,)))
    kernel = params["block2_conv0"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.01)
    assert np.std(params["fc"]["kernel"]) == pytest.approx(0.01, rel=0.02)
    assert not params["fc"]["bias"].any() and not params["block2_conv0"]["bias"].any()
    params = initial("wrn_16_2", blocks=1)
    assert np.abs(params["fc"]["kernel"]).max() == pytest.approx(128**-0.5, rel=0.01)
    assert not params["fc"]["bias"].any()


def test_initial_values_of_shufflenet():
    params = initial("ShuffleV1", widths=(48, 96, 144), blocks=(1, 1, 1))
    block = params["stage3_block0"]
    # Uniform on ±1/sqrt(inputs of one output): 96 / 3 channels; 3x3 of one channel.
    for layer, inputs in (("conv1", 32), ("conv2", 9)):
        largest = np.abs(block[layer]["kernel"]).max()
        assert 0.9 * inputs**-0.5 < largest <= inputs**-0.5
    assert np.abs(params["fc"]["bias"]).max() <= 144**-0.5
    assert np.std(params["fc"]["bias"]) > 0.4 * 144**-0.5
