import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core import checkpoint, lookup
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.types import EXPLAIN, FROZEN, MAIN, LossInputs, Spec
from jaxkd.datasets import handwriting_prompts
from jaxkd.methods import vlm_finetuning
from jaxkd.models import paligemma
from jaxkd.models.paligemma import PaliGemma, PaliGemmaNetwork, lora
from jaxkd.train import train
from tests.test_configs import MODULES

NETWORK = PaliGemmaNetwork(
    image_shape=(16, 32),
    patch=8,
    vision_width=16,
    vision_depth=1,
    vision_heads=2,
    vision_mlp=16,
    text_width=16,
    text_depth=1,
    text_heads=2,
    text_head_dim=8,
    text_mlp=16,
)
ROWS = 4


def draw(target="answer_only"):
    data = handwriting_prompts.load(
        target,
        described=("slantness", "size"),
        size=16,
        writers=3,
        test_writers=2,
        samples=3,
        test_pairs=8,
    )
    arrays = data.train(0).arrays
    rows = np.r_[0:2, len(arrays["label"]) - 2 : len(arrays["label"])]
    batch = {name: jnp.asarray(array[rows]) for name, array in arrays.items()}
    ink = jnp.stack([batch["image"], batch["other"]], 1) / 255.0
    return data, batch | {"pair": 1 - ink, "mask": jnp.ones(ROWS, bool)}


def make(batch, **options):
    fields = {
        name: jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for name, x in batch.items()
    }
    spec = Spec(NETWORK, {}, 0, fields, 1.0, None, "pair")
    return vlm_finetuning.make(spec, **options)


@pytest.fixture(scope="module")
def answers():
    """A batch of verdicts alone, a method, and parameters that see the image."""
    _, batch = draw()
    method = make(batch)
    params, state = jax.jit(method.init)(jax.random.key(0))
    kernel = jax.random.normal(jax.random.key(1), (16, 16))
    params["student"]["img"]["head"]["kernel"] = kernel
    return batch, method, params, state


def logits_of(params, batch):
    """Computes all logits of the text by the model itself."""
    config = NETWORK.config
    places = config.image_tokens

    def pad(text, value):
        return jnp.pad(text, ((0, 0), (places, 0)), constant_values=value)

    @jax.jit
    def apply(params, batch):
        return PaliGemma(config).apply(
            {"params": params["student"]},
            paligemma.compose(batch["pair"], (16, 32)),
            pad(batch["tokens"], 0),
            causal=pad(batch["causal"], False),
            valid=pad(batch["valid"], True),
        )

    logits = apply(params, batch)
    return np.asarray(logits[:, places:], np.float64)


@pytest.mark.parametrize("average", ["token", "example"])
def test_loss_is_the_mean_over_the_suffix_alone(average):
    _, batch = draw("explain_then_answer")
    method = make(batch, average=average, chunks=4)
    params, state = jax.jit(method.init)(jax.random.key(0))
    # Suffixes of different lengths tell the two averages apart.
    batch["valid"] = batch["valid"] & (jnp.arange(batch["valid"].shape[1]) < 9).at[
        9:
    ].set(True)
    short = jnp.arange(batch["causal"].shape[1]) < 8
    batch["causal"] = batch["causal"].at[0].set(batch["causal"][0] & short)
    forward = jax.jit(method.forward)
    outputs, _ = forward(params, state, batch, jax.random.key(0))
    got = method.loss(
        LossInputs(params, state, outputs, batch, {}, jax.random.key(0), jnp.int32(0))
    )
    logits = logits_of(params, batch)
    nll, each = [], []
    for row in range(ROWS):
        own = []
        for at in np.flatnonzero(np.asarray(batch["causal"][row])):
            scores = logits[row, at - 1]
            top = scores.max()
            total = top + np.log(np.exp(scores - top).sum())
            own.append(total - scores[int(batch["tokens"][row, at])])
        nll += own
        each.append(np.mean(own))
    expected = np.mean(nll) if average == "token" else np.mean(each)
    np.testing.assert_allclose(got.value, expected, rtol=1e-4)
    assert abs(np.mean(nll) - np.mean(each)) > 1e-4


def test_verdicts_are_the_likelihood_of_both_answers(answers):
    batch, method, params, state = answers
    got = jax.jit(method.predict)(params, state, batch)["logits"]
    prompt = np.asarray(batch["valid"] & ~batch["causal"])
    logits = logits_of(params, batch)
    for row in range(ROWS):
        at = prompt[row].sum() - 1
        expected = logits[row, at][np.asarray(batch["answers"][row])]
        np.testing.assert_allclose(got[row], expected, atol=1e-4)
    assert np.ptp(np.asarray(got[:, 1] - got[:, 0])) > 1e-3  # the image is seen


@pytest.mark.parametrize("explain_first", [False, True])
def test_verdicts_never_see_the_gold_text(explain_first):
    _, batch = draw("explain_then_answer")
    method = make(batch, explain_first=explain_first)
    params, state = jax.jit(method.init)(jax.random.key(0))
    predict = jax.jit(method.predict)
    got = predict(params, state, batch)
    tokens = jnp.where(
        batch["causal"], (batch["tokens"] * 7 + 3) % 260, batch["tokens"]
    )
    other = predict(
        params, state, batch | {"tokens": tokens, "label": 1 - batch["label"]}
    )
    jax.tree.map(np.testing.assert_array_equal, got, other)
    assert ("written" in got) == explain_first
    asked = batch | {EXPLAIN: jnp.zeros(())}
    assert "written" in jax.eval_shape(method.predict, params, state, asked)


def test_lora_trains_adapters_alone_from_the_needed_run(answers):
    batch, full, base, _ = answers
    method = make(batch, lora=2, start_from="captions", base_dtype="bfloat16")
    params, state = jax.jit(method.init)(jax.random.key(3))
    frozen = {"captions": {"params": base["student"]}}
    started, _ = jax.jit(method.warm_start)(params, state, frozen)
    own, adapters = lora.split(started["student"])
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
        own,
        base["student"],
    )
    labels = method.trainable(started)["student"]
    kinds = jax.tree.leaves(labels)
    assert kinds.count(MAIN) == len(jax.tree.leaves(adapters))
    assert kinds.count(FROZEN) == len(jax.tree.leaves(own))
    assert full.trainable is None
    with pytest.raises(UserError, match="names captions"):
        make(batch, start_from="other").warm_start(params, state, frozen)
    with pytest.raises(UserError, match="adapters of LoRA, which would be lost"):
        method.warm_start(params, state, {"captions": {"params": started["student"]}})
    small = {"captions": {"params": {"img": base["student"]["img"]}}}
    with pytest.raises(UserError, match="do not fit"):
        method.warm_start(params, state, small)


def test_contradictory_options_are_refused(answers):
    batch, *_ = answers
    for options, message in (
        ({"lora": 2}, "start_from names no run"),
        ({"base_dtype": "bfloat16"}, "all parameters train"),
        ({"chunks": 7}, "does not divide"),
        ({"average": "batch"}, "average"),
    ):
        with pytest.raises(UserError, match=message):
            make(batch, **options)
    less = {name: x for name, x in batch.items() if name != "answers"}
    with pytest.raises(UserError, match="no answers"):
        make(less)
    assert lookup.module("jaxkd.methods", "vlm_finetuning", "make") is vlm_finetuning


@pytest.mark.nightly
def test_a_run_trains_adapters_beside_the_bits_of_its_needed_run(tmp_path):
    config = MODULES["handwriting_vlm"].get_config("explain")
    tiny = {
        "image_shape": (16, 32),
        "vision_width": 16,
        "vision_depth": 1,
        "vision_heads": 2,
        "vision_mlp": 16,
        "text_width": 16,
        "text_depth": 1,
        "text_heads": 2,
        "text_head_dim": 8,
        "text_mlp": 16,
    }
    loss = {"start_from": "captions", "lora": 2, "base_dtype": "bfloat16"}
    config.students = configs.students(
        {"lora": {"method": "vlm_finetuning", "loss": loss, "optim": {"lr": 0.1}}}
    )
    for part in (config, config.needs.captions):
        part.model.update(tiny)
        part.data.update({"size": 16, "writers": 4, "test_writers": 3, "samples": 3})
        part.data.update({"test_pairs": 12, "described": ("slantness", "size")})
        part.seeds, part.batch_size, part.eval_batch_size = (0,), 8, 12
        part.duration = part.eval_every = part.checkpoint_every = 4.0
        part.optim.warmup = 1.0
    results = train(config, tmp_path)
    base = checkpoint.load_member(tmp_path / "captions/checkpoints", "last")["params"]
    tuned = checkpoint.load_member(tmp_path / "checkpoints", "last")["params"]
    own, adapters = lora.split(tuned)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)), own, base
    )
    assert min(float(np.abs(x).max()) for x in jax.tree.leaves(adapters)) > 0
    scores = results["students"]["lora"]["last"]
    assert {"accuracy", "auc", "feature_accuracy", "swap_consistency"} <= set(scores)
    assert "<article>" in (tmp_path / "explanations-lora.html").read_text()
    assert "Features in explanations" in (tmp_path / "report.html").read_text()
