"""CMDFD's loss against float64 NumPy, its controls, and the command from end to end."""

import itertools
import json
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.errors import Interrupted, UserError
from jaxkd.core.source import Info
from jaxkd.core.types import FrozenNetwork, LossInputs, Spec
from jaxkd.drawing import talking_heads
from jaxkd.methods import cmdfd, frame_recognition
from jaxkd.models.talknet import packed
from jaxkd.train import train
from jaxkd.views import clips
from tests.test_configs import MODULES

T, SIZE = 6, 4
RNG = np.random.default_rng(0)


def field(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def spec(frozen=None, **fields):
    known = {
        "clip": field(T, SIZE * SIZE + 53),
        "present": field(T, dtype=np.bool_),
        "label": field(dtype=np.int32),
        "units": field(T, dtype=np.int32),
    }
    module, options = packed.VARIANTS["talknet_pico"]
    network = module(num_classes=2, **options)
    return Spec(network, frozen or {}, 2, known | fields, 10.0, input_key="clip")


def inputs(target, labels, present):
    outputs = {
        "logits": jnp.zeros((3, 2)),
        "frame_logits": jnp.array(RNG.normal(size=(3, T, 2))),
        "correlation": jnp.array(RNG.uniform(0.1, 0.9, (3, T))),
    }
    batch = {"label": jnp.array(labels), "present": jnp.array(present)}
    zero = jnp.zeros((), jnp.int32)
    found = {"agreement": jnp.array(target)}
    return LossInputs({}, {}, outputs, batch, found, jax.random.key(0), zero)


POSTERIORS = {
    "audio_posteriors": field(T, 5),
    "video_posteriors": field(T, 5),
}


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_loss_is_the_sum_of_the_three_terms(shuffled):
    target = RNG.uniform(0.2, 1.0, (3, T))
    labels, present = np.array([0, 1, 1]), np.ones((3, T), bool)
    present[2, 4:] = False
    given = inputs(target, labels, present)
    weights = {"detection_weight": 0.5, "correlation_weight": 2.0, "margin": 0.9}
    method = cmdfd.make(
        spec(**POSTERIORS), **weights, contrast_weight=3.0, shuffled_targets=shuffled
    )
    found = method.loss(given)
    logits, c = (
        np.asarray(given.outputs[k], np.float64)
        for k in ("frame_logits", "correlation")
    )
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    ce = -np.take_along_axis(log_p, labels[:, None, None].repeat(T, 1), 2)[..., 0]
    kept, s = present, target
    if shuffled:
        s = target[[2, 0, 1]]
        kept = present & present[[2, 0, 1]]
    bce = -s * np.log(c) - (1 - s) * np.log(1 - c)
    distance = np.sqrt((((s - c) ** 2) * kept).sum(1))
    d = 1 / (1 + np.exp(-distance))
    contrast = (1 - labels) * d**2 + labels * np.maximum(0, 0.9 - d) ** 2
    expected = {
        "detection": ce[present].mean(),
        "correlation": bce[kept].mean(),
        "contrast": contrast.mean(),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found.metrics[name], value, rtol=1e-5)
    total = 0.5 * expected["detection"] + 2 * expected["correlation"]
    np.testing.assert_allclose(found.value, total + 3 * expected["contrast"], rtol=1e-5)


def test_targets_from_posteriors_and_their_scale():
    p, q = (RNG.dirichlet(np.ones(5), (3, T)) for _ in range(2))
    method = cmdfd.make(spec(**POSTERIORS), target_scale=0.5)
    batch = {"audio_posteriors": jnp.array(p), "video_posteriors": jnp.array(q)}
    found = method.targets["agreement"]({}, batch, jax.random.key(0))
    expected = 1 - 0.5 * ((p - q) * np.log(p / q)).mean(-1) / 2
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), rtol=1e-5)


def test_missing_teachers_are_named():
    with pytest.raises(UserError, match=r"does not name audio_teacher and video_te"):
        cmdfd.make(spec())
    with pytest.raises(UserError, match="start_from_teachers"):
        cmdfd.make(
            spec(),
            correlation_weight=0.0,
            contrast_weight=0.0,
            start_from_teachers=True,
        )
    with pytest.raises(UserError, match="expected >= 0"):
        cmdfd.make(spec(**POSTERIORS), margin=1.0, detection_weight=-1.0)
    plain = cmdfd.make(spec(), correlation_weight=0.0, contrast_weight=0.0)
    assert not plain.targets


@pytest.mark.slow
def test_a_control_starts_as_the_teachers_and_remembers_them():
    clip = jnp.array(RNG.uniform(0, 1, (1, T, SIZE * SIZE + 53)), jnp.float32)
    frozen, variables = {}, {}
    for name, model in (("audio_teacher", "speech"), ("video_teacher", "lips")):
        module, options = packed.VARIANTS[f"{model}_pico"]
        network = module(num_classes=2, units=5, **options)
        frozen[name] = FrozenNetwork(network, "clip")
        variables[name] = jax.jit(network.init)(jax.random.key(len(name)), clip)
    off = {"correlation_weight": 0.0, "contrast_weight": 0.0}
    method = cmdfd.make(
        spec(frozen), **off, start_from_teachers=True, keep_teachers=True
    )
    params, state = jax.jit(method.init)(jax.random.key(9))
    before = params["student"]["fc"]
    params, state = method.warm_start(params, state, variables)
    assert set(state["teachers"]) == set(cmdfd.TEACHERS)
    for part, name in (("audio", "audio_teacher"), ("visual", "video_teacher")):
        own = {"params": params["student"], **state["student"]}
        for collection in ("params", "batch_stats"):
            theirs = variables[name][collection][part]
            jax.tree.map(np.testing.assert_array_equal, own[collection][part], theirs)
    assert params["student"]["fc"] is before
    batch = {"clip": clip, "present": jnp.ones((1, T), bool)}
    outputs = jax.jit(method.predict)(params, state, batch)
    logs = [
        jax.nn.log_softmax(
            jax.jit(frozen[name].network.apply)(variables[name], clip)[0]
        )
        for name in cmdfd.TEACHERS
    ]
    p, q = (np.exp(np.float64(x)) for x in logs)
    expected = ((p - q) * (np.log(p) - np.log(q))).mean(-1) / 2
    np.testing.assert_allclose(outputs["disagreement"], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        outputs["logits"], outputs["frame_logits"].mean(1), rtol=1e-5
    )


def test_recognition_counts_known_frames_alone():
    units = np.array([[2, 2, 0, -1, 3, 3], [1, 1, 1, 1, 4, 4]])
    present = np.ones((2, T), bool)
    present[1, 4:] = False
    logits = RNG.normal(size=(2, T, 5))
    batch = {"units": jnp.array(units), "present": jnp.array(present)}
    zero = jnp.zeros((), jnp.int32)
    given = LossInputs(
        {}, {}, {"logits": jnp.array(logits)}, batch, {}, jax.random.key(0), zero
    )
    found = frame_recognition.make(spec()).loss(given)
    known = present & (units >= 0)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    picked = np.take_along_axis(log_p, units.clip(0)[..., None], 2)[..., 0]
    np.testing.assert_allclose(found.value, -picked[known].mean(), rtol=1e-5)
    right = (logits.argmax(-1) == units) & known
    np.testing.assert_allclose(found.metrics["top1"], right.sum() / known.sum())
    labels, padding = frame_recognition.collapse(jnp.array(units), jnp.array(known))
    np.testing.assert_array_equal(labels, [[3, 1, 4, 0, 0, 0], [2, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(padding, np.asarray(labels) == 0)
    with pytest.raises(UserError, match="objective is 'rnnt'"):
        frame_recognition.make(spec(), objective="rnnt")


def test_ctc_sums_over_all_alignments():
    """Brute force: every path of three frames that spells the label."""
    import itertools

    units = jnp.array([[1, 1, 0, -1, -1, -1]])
    present = jnp.arange(T)[None] < 3
    logits = RNG.normal(size=(1, T, 4))
    batch = {"units": units, "present": present}
    zero = jnp.zeros((), jnp.int32)
    given = LossInputs(
        {}, {}, {"logits": jnp.array(logits)}, batch, {}, jax.random.key(0), zero
    )
    found = frame_recognition.make(spec(), objective="ctc").loss(given)
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    total = 0.0
    for path in itertools.product(range(4), repeat=3):
        spelled = [c for i, c in enumerate(path) if i == 0 or c != path[i - 1]]
        if [c for c in spelled if c] == [2, 1]:
            total += np.prod([p[t, c] for t, c in enumerate(path)])
    np.testing.assert_allclose(found.value, -np.log(total), rtol=1e-4)


@pytest.mark.slow
def test_cut_to_shortest_is_training_on_arrays_that_are_really_cut():
    """Loss and statistics of the batch; clips of 6, 4 and 5 of 6 frames."""
    known = spec(**POSTERIORS)
    module, options = packed.VARIANTS["talknet_pico"]
    quiet = module(num_classes=2, dropout=0.0, **options)
    method = cmdfd.make(known._replace(network=quiet))
    length = np.array([6, 4, 5])
    given = {
        "video": RNG.integers(0, 256, (3, T, SIZE, SIZE)).astype(np.uint8),
        "mfcc": RNG.normal(size=(3, 4 * T, 13)).astype(np.float32),
        "present": np.arange(T) < length[:, None],
        "label": np.array([0, 1, 1], np.int32),
        "audio_posteriors": RNG.dirichlet(np.ones(5), (3, T)).astype(np.float32),
        "video_posteriors": RNG.dirichlet(np.ones(5), (3, T)).astype(np.float32),
    }
    short = {
        k: x[:, : 16 if k == "mfcc" else 4] if x.ndim > 1 else x
        for k, x in given.items()
    }
    info = Info("clips", 2, (T, SIZE, SIZE), (0.0,), (1.0,), ("real", "fake"))
    key, zero = jax.random.key(0), jnp.zeros((), jnp.int32)
    params, state = jax.jit(method.init)(jax.random.key(1))

    @jax.jit
    def step(batch):
        outputs, after = method.forward(params, state, batch, key)
        targets = {"agreement": method.targets["agreement"]({}, batch, key)}
        given = LossInputs(params, after, outputs, batch, targets, key, zero)
        return method.loss(given).metrics, after, outputs["logits"]

    cut = clips.clips(info, augment=False, cut_to_shortest=True).train(key, given)
    really = clips.clips(info, augment=False).train(key, short)
    assert really["clip"].shape[1] == 4
    masked, expected = step(cut), step(really)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        masked,
        expected,
    )
    uncut = step(clips.clips(info, augment=False).train(key, given))
    assert abs(uncut[0]["detection"] - masked[0]["detection"]) > 1e-3


class Tiny(nn.Module):
    """A network of clips that compiles in no time; frames that are there count."""

    num_classes: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, clip, train=False):
        _, mfcc, present = packed.unpack(clip)
        heard = nn.Dense(3)(mfcc.reshape(*clip.shape[:2], -1) / 10)
        heard = heard * present[..., None]
        mean = heard.sum(1, keepdims=True) / present.sum(1)[:, None, None]
        return nn.Dense(2)(heard - mean), {"audio": heard, "video": heard}


@pytest.mark.slow
def test_training_in_buckets_resumes_exactly(tmp_path):
    """Two lengths, two seeds with batches of their own, stopped in the middle."""
    for kind, lengths in {"real": (8, 9, 16), "fake/swap": (8, 9, 15)}.items():
        for split in ("train", "test"):
            below = tmp_path / "clips" / split / kind
            below.mkdir(parents=True)
            for number, frames in enumerate(lengths):
                head = talking_heads.draw((number, len(kind)), frames=frames, size=12)
                path = below / f"{number}.npz"
                np.savez(path, video=head.video[..., 0], audio=head.wave)
    config = MODULES["cmdfd"].get_config("quick")
    config.needs = ConfigDict()
    config.model.name = f"{__name__}:Tiny"
    off = {"correlation_weight": 0.0, "contrast_weight": 0.0, "noise_snrs": (0.0,)}
    config.students = configs.students({"ce": {"method": "cmdfd", "loss": off}})
    config.data = ConfigDict(
        {
            **{"name": "av_clips", "root": str(tmp_path / "clips"), "size": 12},
            **{"frames": 16, "buckets": (10,), "cache": str(tmp_path / "cache")},
        }
    )
    config.view.cut_to_shortest = True
    config.batches = "per_seed"
    config.reference = ""
    config.duration, config.checkpoint_every = 6, 2
    whole = train(config, tmp_path / "whole")
    calls = itertools.count()
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        train(config, tmp_path / "parts", lambda: "X" if next(calls) == 3 else None)
    parts = train(config, tmp_path / "parts")
    assert parts["students"]["ce"]["last"] == whole["students"]["ce"]["last"]
    assert parts["students"]["ce"]["skipped"] == [0, 0]
    assert "auc_seen_babble_0dB" in parts["students"]["ce"]["last"]


@pytest.mark.nightly
def test_from_the_command_to_a_score_with_a_reason(tmp_path):
    """The quick preset trains, reports, and judges films of every kind of fault."""
    pytest.importorskip("av")
    from jaxkd import predictors
    from jaxkd.drawing import films

    config = MODULES["cmdfd"].get_config("quick")
    config.data.cache = str(tmp_path / "cache")
    results = train(config, tmp_path / "run")
    assert set(results["students"]) == {"ce", "ce+corr", "all"}
    for student in results["students"].values():
        assert student["skipped"] == [0, 0]
        assert np.isfinite(student["last"]["auc_unseen"]).all()
    page = (tmp_path / "run/report.html").read_text()
    assert "Scores without the head" in page
    assert "At a calibrated threshold" in page

    folder = tmp_path / "films"
    folder.mkdir()
    head = talking_heads.draw(1, frames=30, size=32)
    films.write(folder / "good.mp4", head.video, head.wave)
    films.write(folder / "mute.mp4", head.video)
    films.write(folder / "silent.mp4", head.video, 0 * head.wave)
    films.write(folder / "short.mp4", head.video[:4], head.wave[:2560])
    (folder / "text.mp4").write_text("no film")
    text = predictors.predict(
        predictors.name_of(tmp_path / "run"),
        tmp_path / "run",
        [str(folder)],
        str(tmp_path / "found"),
        {"student": "all"},
    )
    assert "5 clips, 1 scored" in text
    content = json.loads((tmp_path / "found/scores.json").read_text())
    status = {row["name"]: row["status"] for row in content["clips"]}
    assert status == {
        "good": "ok",
        "mute": "no_audio",
        "short": "too_short",
        "silent": "silent",
        "text": "unreadable",
    }
    good = next(row for row in content["clips"] if row["name"] == "good")
    np.testing.assert_allclose(
        good["score"], np.mean(good["per_frame"]["logit"]), atol=1e-4
    )
    np.testing.assert_allclose(
        good["probability"], 1 / (1 + np.exp(-good["score"])), atol=1e-5
    )
    assert all(row["score"] is None for row in content["clips"] if row is not good)
    assert len((tmp_path / "found/scores.csv").read_text().splitlines()) == 6
    assert (tmp_path / "found/good-curve.png").stat().st_size > 1000
    assert "good-frames.png" in (tmp_path / "found/index.html").read_text()
