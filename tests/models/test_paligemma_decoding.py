import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.models import paligemma
from jaxkd.models.paligemma import PaliGemma
from jaxkd.models.paligemma.config import GemmaConfig, PaliGemmaConfig, SiglipConfig
from tests import hub_paligemma as hub

STEPS = 5


@pytest.fixture(scope="module")
def tiny():
    config = PaliGemmaConfig(
        SiglipConfig((28, 28), patch=7, width=32, depth=2, heads=4, mlp=64),
        GemmaConfig(48, depth=2, mlp=96, heads=4, head_dim=16, vocabulary=264),
    )
    params = paligemma.init(config, jax.random.key(0))
    # Without a projection the image would not matter.
    params["img"]["head"]["kernel"] = jax.random.normal(jax.random.key(2), (32, 48))
    return PaliGemma(config), params


@pytest.fixture(scope="module")
def prompts():
    """Three prompts of different lengths, padded on the right."""
    images, tokens, _, _ = hub.sequence(batch=3, prompt=6, suffix=0)
    return images, tokens


LENGTH = hub.Sizes.tokens + 12


@functools.lru_cache
def forward(model):
    """Compiles the forward pass on rows of ``LENGTH`` tokens."""

    def apply(params, images, tokens, causal, valid):
        return model.apply(
            {"params": params}, images, tokens, causal=causal, valid=valid
        )

    return jax.jit(apply)


def whole(model, params, image, tokens, start):
    """Computes the logits of one sequence whose suffix begins at ``start``."""
    row = np.zeros((1, LENGTH), np.int32)
    row[0, : len(tokens)] = tokens
    valid = (np.arange(LENGTH) < len(tokens))[None]
    causal = valid & (np.arange(LENGTH) >= start)
    return np.asarray(forward(model)(params, image[None], row, causal, valid))[0], (
        row,
        causal,
        valid,
    )


def slowly(model, params, image, prompt, steps):
    """Writes greedily without a cache: each token by a whole forward pass."""
    tokens = list(prompt[prompt != 0])
    start = len(tokens)
    logits = []
    for _ in range(steps):
        logits.append(whole(model, params, image, tokens, start)[0][len(tokens) - 1])
        tokens.append(int(logits[-1].argmax()))
    return tokens[start:], np.array(logits)


def test_cached_tokens_are_uncached_tokens_in_a_batch_of_mixed_lengths(tiny, prompts):
    model, params = tiny
    images, tokens = prompts
    got = paligemma.generate(model, params, images, tokens, steps=STEPS, eos=-1)
    assert got.shape == (3, STEPS)
    for row in range(3):
        expected, _ = slowly(model, params, images[row], tokens[row], STEPS)
        np.testing.assert_array_equal(got[row], expected)
        alone = paligemma.generate(
            model,
            params,
            images[row : row + 1],
            tokens[row : row + 1],
            steps=STEPS,
            eos=-1,
        )
        np.testing.assert_array_equal(alone[0], expected)
    assert len({tuple(row) for row in np.asarray(got)}) > 1


def test_cached_logits_are_uncached_logits(tiny, prompts):
    model, params = tiny
    images, tokens = prompts
    valid = tokens != 0
    length = tokens.shape[1]
    variables = {"params": params}
    _, cache = model.apply(
        variables, images, tokens, valid=valid, slots=length + 3, method="prefill"
    )
    suffix = np.array([[5, 9, 30]] * 3)
    expected = []
    for image, row in zip(images, tokens, strict=True):
        prompt = row[row != 0]
        row = np.concatenate([prompt, suffix[0]])
        logits, _ = whole(model, params, image, row, len(prompt))
        expected.append(logits[len(prompt) : len(row)])
    expected = np.array(expected)
    for i in range(3):
        fresh = np.broadcast_to(np.arange(3) <= i, (3, 3))
        hidden, cache = model.apply(
            variables,
            suffix[:, i : i + 1],
            positions=(valid.sum(1) + i)[:, None],
            mask=np.concatenate([valid, fresh], 1)[:, None],
            cache=cache,
            index=length + i,
            method="extend",
        )
        logits = model.apply(variables, hidden[:, 0], method="logits")
        np.testing.assert_allclose(logits, expected[:, i], atol=1e-4)


def test_a_row_ends_without_touching_the_others(tiny, prompts):
    model, params = tiny
    images, tokens = prompts
    free = np.asarray(
        paligemma.generate(model, params, images, tokens, steps=STEPS, eos=-1)
    )
    for eos in {int(free[0, 1]), int(free[1, 2])}:
        got = np.asarray(
            paligemma.generate(model, params, images, tokens, steps=STEPS, eos=eos)
        )
        for row in range(3):
            ends = np.flatnonzero(free[row] == eos)
            stop = ends[0] + 1 if len(ends) else STEPS
            np.testing.assert_array_equal(got[row, :stop], free[row, :stop])
            assert not got[row, stop:].any()


@pytest.mark.slow
def test_sampling_follows_the_models_probabilities(tiny, prompts):
    model, params = tiny
    images, tokens = (np.repeat(x[:1], 4000, 0) for x in prompts)
    _, logits = slowly(model, params, prompts[0][0], prompts[1][0], 1)
    options = {"steps": 1, "temperature": 2.0, "key": jax.random.key(0), "eos": -1}
    scores = logits[0] / 2
    best = np.argsort(-scores)
    for limits, kept in (
        ({"top_k": 3}, best[:3]),
        ({"top_p": 0.1}, None),
    ):
        p = np.exp(scores - scores.max())
        p = p / p.sum()
        if kept is None:
            before = np.cumsum(p[best]) - p[best]
            kept = best[before < 0.1]
        got = paligemma.generate(model, params, images, tokens, **options, **limits)
        share = np.bincount(np.asarray(got)[:, 0], minlength=264) / 4000
        expected = np.zeros(264)
        expected[kept] = p[kept] / p[kept].sum()
        deviation = np.sqrt(expected * (1 - expected) / 4000)
        assert (np.abs(share - expected) <= 4.5 * deviation).all()
    with pytest.raises(ValueError, match="no key"):
        paligemma.generate(model, params, images, tokens, steps=1, temperature=1.0)


def test_answers_are_scored_as_by_whole_forward_passes(tiny, prompts):
    model, params = tiny
    images, tokens = prompts
    answers = np.array([[7, 8, 1], [9, 1, 0], [11, 12, 13]])
    got = paligemma.answer_log_likelihood(model, params, images, tokens, answers)
    for row in range(3):
        prompt = tokens[row][tokens[row] != 0]
        for column, answer in enumerate(answers):
            answer = answer[answer != 0]
            both = np.concatenate([prompt, answer])
            logits, batch = whole(model, params, images[row], both, len(prompt))
            scores = np.asarray(jax.nn.log_softmax(logits))
            places = len(prompt) - 1 + np.arange(len(answer))
            expected = scores[places, answer].sum()
            np.testing.assert_allclose(got[row, column], expected, atol=1e-4)
            one = paligemma.log_likelihood(model, params, images[row : row + 1], *batch)
            np.testing.assert_allclose(one[0], expected, atol=1e-4)


def test_answers_of_one_token(tiny, prompts):
    model, params = tiny
    images, tokens = prompts
    every = jnp.arange(264)[:, None]
    got = paligemma.answer_log_likelihood(model, params, images, tokens, every)
    np.testing.assert_allclose(np.exp(got).sum(1), 1, atol=1e-5)
