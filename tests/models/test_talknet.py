"""TalkNet and TM-CTC: an independent PyTorch forward, and invariance to padding."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.convert import talknet as convert
from jaxkd.models import tm_ctc
from jaxkd.models.talknet import Student, VideoRecogniser
from jaxkd.models.talknet.student import PICO
from jaxkd.models.tm_ctc import TMCTC

RNG = np.random.default_rng(0)
VIDEO = RNG.uniform(0, 255, (2, 6, 16, 16)).astype(np.float32)
MFCC = RNG.normal(size=(2, 24, 13)).astype(np.float32)


def _twin():
    pytest.importorskip("torch")
    return importlib.import_module("tests.torch_talknet")


def shapes(network, *inputs):
    return jax.eval_shape(network.init, jax.random.key(0), *inputs)


def test_the_official_size():
    variables = shapes(Student(), np.zeros((1, 2, 112, 112)), np.zeros((1, 8, 13)))
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    # Layer by layer, from the spec; without the unused kernel of the first layer.
    frontend = 245 * 64 + 128
    before = 64
    for number, width in enumerate((64, 128, 256, 512)):
        frontend += 9 * before * width + 3 * 9 * width**2 + 4 * 2 * width
        frontend += before * width if number else 0
        before = width
    temporal = 5 * (2 * 512 + 3 * 512 + 1 + 2 * 512 + 512**2)
    temporal += 5 * 512 * 256 + 256 + 512 + 256 * 128 + 128
    audio, before = 49 * 16 + 32, 16
    for blocks, width in zip((3, 4, 6, 3), (16, 32, 64, 128), strict=True):
        for _ in range(blocks):
            audio += 9 * before * width + 9 * width**2 + 4 * width
            audio += 2 * width * (width // 8) + width // 8 + width
            audio += before * width + 2 * width if before != width else 0
            before = width
    attention = [12 * d * d + 13 * d for d in (128, 128, 256)]
    assert count == frontend + temporal + audio + sum(attention) + 514
    assert round(count / 1e6, 2) == 15.74


@pytest.fixture(scope="module")
def twins():
    torch_talknet = _twin()
    network = Student(**PICO, dropout=0.0)
    options = {k: v for k, v in PICO.items()}
    torch_network = torch_talknet.disturb(torch_talknet.MTL(**options))
    state = {k: v.numpy() for k, v in torch_network.state_dict().items()}
    converted = convert.student(state, shapes(network, VIDEO, MFCC))
    return network, torch_network, converted


@pytest.mark.torch
def test_student_is_torch_s_and_its_checkpoint_is_taken_whole(twins):
    import torch

    network, torch_network, converted = twins
    (logits, features) = jax.jit(network.apply)(converted.variables, VIDEO, MFCC)
    with torch.no_grad():
        expected, heard, seen = torch_network(*map(torch.tensor, (VIDEO, MFCC)))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(features["audio"], heard, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(features["video"], seen, rtol=1e-3, atol=2e-4)
    assert sorted(converted.unused) == [
        "lossCont_Spea.projection_A.bias",
        "lossCont_Spea.projection_A.weight",
        "model.visualFrontend.resnet.layer1.downsample.weight",
    ]


@pytest.mark.torch
def test_training_mode_is_torch_s_with_its_running_statistics(twins):
    import copy

    import torch

    network, torch_network, converted = twins
    torch_network = copy.deepcopy(torch_network).train()
    (logits, _), updated = jax.jit(
        lambda v, *x: network.apply(
            v,
            *x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
    )(converted.variables, VIDEO, MFCC)
    with torch.no_grad():
        expected, _, _ = torch_network(*map(torch.tensor, (VIDEO, MFCC)))
    np.testing.assert_allclose(logits, expected, rtol=2e-3, atol=1e-3)
    state = {k: v.numpy() for k, v in torch_network.state_dict().items()}
    after = convert.student(state, converted.variables).variables["batch_stats"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4),
        updated["batch_stats"],
        after,
    )


@pytest.mark.torch
def test_a_padded_clip_gives_what_it_gives_alone(twins):
    network, _, converted = twins
    rng = np.random.default_rng(1)
    padded = rng.uniform(0, 255, (2, 6, 16, 16)).astype(np.float32)
    rows = rng.normal(size=(2, 24, 13)).astype(np.float32)
    padded[0, :4], rows[0, :16] = VIDEO[0, :4], MFCC[0, :16]
    padded[1], rows[1] = VIDEO[1], MFCC[1]
    where = np.array([[True] * 4 + [False] * 2, [True] * 6])
    apply = jax.jit(network.apply)
    logits, _ = apply(converted.variables, padded, rows, where)
    alone, _ = apply(converted.variables, VIDEO[:1, :4], MFCC[:1, :16])
    full, _ = apply(converted.variables, VIDEO, MFCC)
    np.testing.assert_allclose(logits[0, :4], alone[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[1], full[1], rtol=1e-4, atol=1e-5)

    @jax.jit
    def train(video, mfcc, where):
        return network.apply(
            converted.variables,
            *(video, mfcc, where),
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )

    # Nor do the statistics of training see the padding.
    whole, stats = train(VIDEO[:1, :4], MFCC[:1, :16], None)
    masked, padded_stats = train(padded[:1], rows[:1], where[:1])
    np.testing.assert_allclose(masked[0][0, :4], whole[0][0], rtol=1e-3, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        padded_stats,
        stats,
    )


@pytest.mark.torch
def test_clips_do_not_leak_into_each_other(twins):
    network, _, converted = twins
    other = VIDEO.copy()
    other[1] = 255 - other[1]
    apply = jax.jit(network.apply)
    first, _ = apply(converted.variables, VIDEO, MFCC)
    second, _ = apply(converted.variables, other, MFCC)
    np.testing.assert_array_equal(first[0], second[0])
    assert np.abs(first[1] - second[1]).max() > 1e-3


def test_an_empty_clip_is_finite():
    network = VideoRecogniser(3, stem=2, visual_widths=(2,), hidden=2, width=2)
    where = np.zeros((2, 6), bool)
    where[0] = True
    variables = jax.jit(network.init)(jax.random.key(0), VIDEO)

    @jax.jit
    @jax.value_and_grad
    def loss(variables):
        logits, _ = network.apply(variables, VIDEO, where)
        return jnp.sum(jnp.where(where[..., None], logits, 0))

    value, gradient = loss(variables)
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_wrong_shapes_are_refused():
    network = Student(**PICO)
    with pytest.raises(ValueError, match="four rows for each frame"):
        shapes(network, VIDEO, MFCC[:, :20])
    with pytest.raises(ValueError, match="do not divide among 3 heads"):
        shapes(Student(**{**PICO, "heads": 3}), VIDEO, MFCC)


@pytest.mark.torch
@pytest.mark.parametrize("part", ["audio", "video"])
def test_teachers_are_torch_s(part):
    torch = pytest.importorskip("torch")
    torch_talknet = _twin()

    options = {"width": 8, "heads": 2, "layers": 2, "hidden": 16}
    twin = torch_talknet.TMCTC(part, classes=40, inputs=5, **options)
    torch_talknet.disturb(twin)
    rows = {"audio": 4, "video": 1}[part]
    network = TMCTC(**options, rows=rows)
    x = RNG.normal(size=(2, 6 * rows, 5 if part == "audio" else 8)).astype(np.float32)
    prefix = {"audio": "ASRmodel.", "video": "VSRmodel."}[part]
    state = {prefix + k: v.numpy() for k, v in twin.state_dict().items()}
    converted = convert.teacher(state, shapes(network, x), part)
    logits, _ = network.apply(converted.variables, x)
    with torch.no_grad():
        expected = twin(torch.tensor(x))
    np.testing.assert_allclose(jax.nn.softmax(logits), expected, rtol=1e-3, atol=1e-5)
    assert not converted.unused
    where = np.arange(6) < 4
    short, _ = network.apply(converted.variables, x, np.stack([where, where | True]))
    alone, _ = network.apply(converted.variables, x[:1, : 4 * rows])
    np.testing.assert_allclose(short[0, :4], alone[0], rtol=1e-4, atol=1e-5)


def test_characters_are_those_of_the_checkpoints():
    official = {" ": 1, "E": 2, "'": 22, "Z": 28, "0": 29, "1": 30, "9": 31, "3": 37}
    assert len(tm_ctc.CHARACTERS) == 40
    assert all(tm_ctc.CHARACTERS[i] == letter for letter, i in official.items())
    assert len(set(tm_ctc.CHARACTERS[1:39])) == 38


@pytest.mark.torch
def test_other_checkpoints_are_refused(twins):
    from jaxkd.core.errors import UserError

    _, torch_network, converted = twins
    state = {k: v.numpy() for k, v in torch_network.state_dict().items()}
    del state["lossAV.FC.bias"]
    with pytest.raises(UserError, match=r"lossAV\.FC\.bias is missing"):
        convert.student(state, converted.variables)
    state["lossAV.FC.bias"] = np.zeros(3)
    with pytest.raises(UserError, match=r"expected to fit \(2,\)"):
        convert.student(state, converted.variables)
    with pytest.raises(UserError, match="part is 'lips'"):
        convert.teacher(state, converted.variables, "lips")
