"""Writes text with a cache of keys and values, and scores given answers.

A prompt is run once; its keys and values stay in the first slots of the cache, padding
and all, and each new token takes the next slot in every row. Rows differ in their
masks and positions only, so that shapes are static and rows do not touch each other.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxkd.models.paligemma.gemma import Cache
from jaxkd.models.paligemma.model import PaliGemma

PAD, EOS = 0, 1


def generate(
    model: PaliGemma,
    params: Any,
    images: jax.Array,
    tokens: jax.Array,
    *,
    steps: int,
    valid: jax.Array | None = None,
    eos: int = EOS,
    temperature: float = 0.0,
    top_k: int = 0,
    top_p: float = 1.0,
    key: jax.Array | None = None,
) -> jax.Array:
    """Writes a suffix: greedily, or sampling at a temperature.

    Args:
      model: a ``PaliGemma``.
      params: of it.
      images: ``[batch, height, width, 3]`` in [-1, 1].
      tokens: the prompts, ``[batch, length]``; image placeholders first.
      steps: the most tokens to write.
      valid: bool ``[batch, length]``, True on real tokens; by default the placeholders
        and all tokens but ``PAD``.
      eos: the token that ends a row.
      temperature: 0 for the most probable token; else logits are divided by it.
      top_k: if positive, samples among that many most probable tokens.
      top_p: samples among the fewest tokens that together have this probability.
      key: of the random numbers; each row has its own, whatever its neighbours.

    Returns:
      int32 ``[batch, steps]``; after ``eos``, which is included, ``PAD``.

    Raises:
      ValueError: if a temperature is given without a key, or an option is out of range.
    """
    if steps < 1 or temperature < 0 or not 0 < top_p <= 1 or top_k < 0:
        raise ValueError(
            f"Got steps={steps}, temperature={temperature}, top_k={top_k}, "
            f"top_p={top_p}. Expected at least one step, no negative number, and "
            "top_p within (0, 1]."
        )
    if temperature > 0 and key is None:
        raise ValueError(
            f"The temperature is {temperature}, but there is no key. Give key="
            "jax.random.key(...), or temperature=0 for greedy decoding."
        )
    sampling = _Sampling(float(temperature), int(top_k), float(top_p))
    valid = _valid(model, images, tokens) if valid is None else valid
    return _generate(model, params, images, tokens, valid, key, steps, eos, sampling)


def answer_log_likelihood(
    model: PaliGemma,
    params: Any,
    images: jax.Array,
    tokens: jax.Array,
    answers: jax.Array,
    *,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Scores each of a few answers to every prompt by its summed log-probability.

    The softmax over the answers is the model's probability of each, which makes a
    verdict without sampling.

    Args:
      model: a ``PaliGemma``.
      params: of it.
      images: ``[batch, height, width, 3]`` in [-1, 1].
      tokens: the prompts, ``[batch, length]``.
      answers: ``[answers, answer_length]``, padded with ``PAD`` at the end; whether
        they end with the token of the end is the caller's choice.
      valid: as for ``generate``.

    Returns:
      float32 ``[batch, answers]``.
    """
    valid = _valid(model, images, tokens) if valid is None else valid
    return _answer_log_likelihood(model, params, images, tokens, answers, valid)


@partial(jax.jit, static_argnums=0)
def log_likelihood(
    model: PaliGemma,
    params: Any,
    images: jax.Array,
    tokens: jax.Array,
    causal: jax.Array,
    valid: jax.Array,
) -> jax.Array:
    """Sums the log-probabilities of all tokens of the suffix, without a cache.

    Args:
      model: a ``PaliGemma``.
      params: of it.
      images: ``[batch, height, width, 3]`` in [-1, 1].
      tokens: ``[batch, length]``, prompt and suffix.
      causal: bool ``[batch, length]``, True on the suffix.
      valid: bool ``[batch, length]``, True on real tokens, which padding follows.

    Returns:
      float32 ``[batch]``.
    """
    variables = {"params": params}
    logits: Any = model.apply(variables, images, tokens, causal=causal, valid=valid)
    scores = jax.nn.log_softmax(logits[:, :-1])
    picked = jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(causal[:, 1:] & valid[:, 1:], picked, 0), axis=1)


class _Sampling(NamedTuple):
    temperature: float
    top_k: int
    top_p: float


class _Progress(NamedTuple):
    step: jax.Array
    logits: jax.Array  # [batch, vocabulary], of the token to choose
    ended: jax.Array  # bool [batch]
    written: jax.Array  # [batch, steps]
    cache: Cache


@partial(jax.jit, static_argnums=(0, 6, 7, 8))
def _generate(model, params, images, tokens, valid, key, steps, eos, sampling):
    batch, length = tokens.shape
    variables = {"params": params}
    logits, cache = _prefill(model, variables, images, tokens, valid, length + steps)
    known = jnp.sum(valid, axis=1)
    rows = None
    if sampling.temperature:
        rows = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(batch))

    def advance(at: _Progress) -> _Progress:
        token = _choose(at.logits, sampling, rows, at.step)
        token = jnp.where(at.ended, PAD, token).astype(jnp.int32)
        fresh = jnp.arange(steps) <= at.step
        mask = jnp.concatenate([valid, jnp.broadcast_to(fresh, (batch, steps))], axis=1)
        hidden, cache = model.apply(
            variables,
            token[:, None],
            positions=(known + at.step)[:, None],
            mask=mask[:, None],
            cache=at.cache,
            index=length + at.step,
            method="extend",
        )
        return _Progress(
            at.step + 1,
            model.apply(variables, hidden[:, 0], method="logits"),
            at.ended | (token == eos),
            at.written.at[:, at.step].set(token),
            cache,
        )

    def unfinished(at: _Progress) -> jax.Array:
        return (at.step < steps) & ~jnp.all(at.ended)

    start = _Progress(
        jnp.int32(0),
        logits,
        jnp.zeros(batch, bool),
        jnp.full((batch, steps), PAD, jnp.int32),
        cache,
    )
    return jax.lax.while_loop(unfinished, advance, start).written


@partial(jax.jit, static_argnums=0)
def _answer_log_likelihood(model, params, images, tokens, answers, valid):
    batch, length = tokens.shape
    count = answers.shape[1]
    variables = {"params": params}
    slots = length + count - 1
    first, cache = _prefill(model, variables, images, tokens, valid, slots)
    first = jax.nn.log_softmax(first)
    known = jnp.sum(valid, axis=1, keepdims=True)

    def score(answer):
        total = first[:, answer[0]]
        if count == 1:
            return total
        given = jnp.broadcast_to(answer[:-1], (batch, count - 1))
        order = jnp.tril(jnp.ones((count - 1, count - 1), bool))
        own = jnp.broadcast_to(order, (batch, count - 1, count - 1))
        prompt = jnp.broadcast_to(valid[:, None], (batch, count - 1, length))
        hidden, _ = model.apply(
            variables,
            given,
            positions=known + jnp.arange(count - 1),
            mask=jnp.concatenate([prompt, own], axis=2),
            cache=cache,
            index=length,
            method="extend",
        )
        logits = model.apply(variables, hidden, method="logits")
        scores = jax.nn.log_softmax(logits)
        rest = jnp.take_along_axis(scores, given_next(answer), axis=-1)[..., 0]
        return total + jnp.sum(jnp.where(answer[1:] != PAD, rest, 0), axis=1)

    def given_next(answer):
        return jnp.broadcast_to(answer[1:, None], (batch, count - 1, 1))

    return jax.lax.map(score, answers).T


def _prefill(model, variables, images, tokens, valid, slots):
    """Returns the logits after each row's last real token, and the cache."""
    hidden, cache = model.apply(
        variables, images, tokens, valid=valid, slots=slots, method="prefill"
    )
    last = tokens.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    return model.apply(variables, hidden, method="logits"), cache


def _choose(logits, sampling: _Sampling, rows, step):
    if not sampling.temperature:
        return jnp.argmax(logits, axis=-1)
    logits = logits / sampling.temperature
    if sampling.top_k:
        least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        falling = jnp.sort(logits, axis=-1, descending=True)
        share = jax.nn.softmax(falling)
        before = jnp.cumsum(share, axis=-1) - share
        least = jnp.min(
            jnp.where(before < sampling.top_p, falling, jnp.inf), axis=-1, keepdims=True
        )
        logits = jnp.where(logits < least, -jnp.inf, logits)
    keys = jax.vmap(jax.random.fold_in, (0, None))(rows, step)
    return jax.vmap(jax.random.categorical)(keys, logits)


def _valid(model: PaliGemma, images, tokens):
    several = images.shape[1] if images.ndim == 5 else 1
    places = several * model.config.image_tokens
    return (tokens != PAD) | (jnp.arange(tokens.shape[1]) < places)
