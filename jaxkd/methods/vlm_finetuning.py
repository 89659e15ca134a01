"""Fine-tunes PaliGemma to verify writers, with LoRA or whole (arXiv:2407.21788).

A pair of words becomes one composite image; the model reads it with a short prompt and
learns to write the verdict, with or without an explanation (``config.data.target``).
Verdicts are scored by likelihood, not by sampling: the logits of the tokens "different"
and "same" where the verdict stands. Behind an explanation, that is the model's own.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    EXPLAIN,
    FROZEN,
    MAIN,
    Batch,
    Loss,
    LossInputs,
    Method,
    Spec,
)
from jaxkd.evaluators import explained_verification
from jaxkd.methods import handwriting_pairs
from jaxkd.methods.common.warm_start import check_fit, check_named
from jaxkd.models.paligemma import PaliGemma, PaliGemmaNetwork, compose, generate, init
from jaxkd.models.paligemma import lora as adapters

TARGETS = {
    "decoder": adapters.DECODER,
    "decoder_and_vision": adapters.DECODER + adapters.VISION,
}
FIELDS = ("tokens", "causal", "valid", "answers", "label")


def make(
    spec: Spec,
    *,
    lora: int = 0,
    targets: str = "decoder",
    start_from: str = "",
    explain_first: bool = False,
    average: str = "token",
    chunks: int = 1,
    base_dtype: str = "float32",
) -> Method:
    """Makes a fine-tuned PaliGemma.

    Args:
      spec: the run.
      lora: rank of the adapters; 0 trains all parameters. With adapters, the base is
        frozen: no gradient, no optimiser state, bit for bit as it was.
      targets: matrices with adapters, a key of ``TARGETS``.
      start_from: the needed run whose model is fine-tuned; "" starts at random, which
        only training all parameters makes sense of.
      explain_first: whether verdicts stand behind explanations, as with
        ``config.data.target = "explain_then_answer"``; the model then writes its
        explanation before its verdict is scored.
      average: the loss is the mean over all suffix tokens of the batch, ``"token"``, or
        the batch mean of each example's, ``"example"``.
      chunks: parts of the vocabulary that the loss computes one after the other.
      base_dtype: of the frozen parameters, ``"float32"`` or ``"bfloat16"``.

    Raises:
      UserError: if the network or the data are others, or options contradict.
    """
    for name, value, choices in (
        ("targets", targets, TARGETS),
        ("average", average, dict.fromkeys(("token", "example"))),
        ("base_dtype", base_dtype, dict.fromkeys(("float32", "bfloat16"))),
    ):
        lookup.choose(value, choices, what=name)
    network = _check(spec)
    if lora and not start_from:
        raise UserError(
            f"lora is {lora}, but start_from names no run: adapters beside a frozen "
            "random base learn next to nothing. Name a run of config.needs, or train "
            "all parameters with lora=0."
        )
    if base_dtype == "bfloat16" and not lora:
        raise UserError(
            "base_dtype 'bfloat16' is for a frozen base, but lora is 0 and all "
            "parameters train. Keep 'float32'; config.dtype lowers the activations."
        )
    vocabulary = network.config.text.vocabulary
    if vocabulary % chunks:
        raise UserError(
            f"chunks is {chunks}, which does not divide the vocabulary of {vocabulary}."
        )
    body = _body(network, lora, targets, base_dtype, spec.input_key, explain_first)
    return body._replace(
        loss=_loss(network, average, chunks),
        trainable=_trainable if lora else None,
        warm_start=_from_run(start_from) if start_from else None,
    )


def _check(spec: Spec) -> PaliGemmaNetwork:
    missing = [name for name in FIELDS if name not in spec.fields]
    if not isinstance(spec.network, PaliGemmaNetwork) or missing:
        raise UserError(
            "Method 'vlm_finetuning' needs config.model.name 'paligemma' and data with "
            f"the fields {', '.join(FIELDS)}, such as 'handwriting_prompts'; got a "
            f"{type(spec.network).__name__} and no {', '.join(missing) or 'lack'}."
        )
    if len(spec.image_shape) != 4 and spec.image_shape[:2] != tuple(
        spec.network.config.vision.image_shape
    ):
        raise UserError(
            f"The network reads {spec.input_key!r} of shape {spec.image_shape}, "
            "expected pairs (config.model.input 'pair'), or images of its "
            f"{spec.network.config.vision.image_shape} pixels."
        )
    return spec.network


# Cached, so that students that differ in their loss alone share a compiled network.
@functools.cache
def _body(
    network: PaliGemmaNetwork,
    rank: int,
    targets: str,
    base_dtype: str,
    input_key: str,
    explain_first: bool,
) -> Method:
    config = network.config
    model, places = PaliGemma(config), config.image_tokens

    def see(batch: Batch) -> jax.Array:
        return compose(batch[input_key], config.vision.image_shape)

    def with_places(text: jax.Array, value: Any) -> jax.Array:
        head = jnp.full((len(text), places), value, text.dtype)
        return jnp.concatenate([head, text], axis=1)

    def new(key):
        first, second = jax.random.split(key)
        params = init(config, first)
        if rank:
            params = jax.tree.map(lambda x: x.astype(base_dtype), params)
            params = adapters.add(params, second, rank=rank, targets=TARGETS[targets])
        return {"student": params}, {"student": {}}

    def hidden(params, batch, images, causal, valid, train, key):
        """Returns the hidden states of the text alone, ``[batch, length, width]``."""
        found: Any = model.apply(
            {"params": params["student"]},
            images,
            with_places(batch["tokens"], 0),
            causal=with_places(causal, False),
            valid=with_places(valid, True),
            train=train,
            rngs=None if key is None else {"dropout": key},
            method="hidden",
        )
        return found[:, places:]

    def forward(params, model_state, batch, key):
        found = hidden(
            params, batch, see(batch), batch["causal"], batch["valid"], True, key
        )
        return {"hidden": found}, model_state

    def decide(params, batch, states, place):
        """Returns the logits of both answers where the token at ``place`` is chosen."""
        before = jnp.take_along_axis(states, place[:, None, None] - 1, axis=1)[:, 0]
        table = params["student"]["llm"]["embedder"]["input_embedding"]
        rows = table[batch["answers"]].astype(before.dtype)  # [batch, 2, width]
        return jnp.einsum(
            "bd,bad->ba", before, rows, preferred_element_type=jnp.float32
        )

    def predict(params, model_state, batch):
        del model_state
        images = see(batch)
        prompt = batch["valid"] & ~batch["causal"]
        begin = jnp.sum(prompt, axis=1)
        written: Any = None
        if explain_first or EXPLAIN in batch:
            written = write(params, batch, images, prompt)
        if not explain_first:
            nothing = jnp.zeros_like(prompt)
            asked = batch | {"tokens": jnp.where(prompt, batch["tokens"], 0)}
            states = hidden(params, asked, images, nothing, prompt, False, None)
            place = begin
            logits = decide(params, batch, states, place)
        else:
            length = prompt.shape[1]
            at = jnp.arange(length)[None]
            own = jnp.take_along_axis(
                written, jnp.clip(at - begin[:, None], 0, written.shape[1] - 1), axis=1
            )
            tokens = jnp.where(prompt, batch["tokens"], own)
            causal = ~prompt & (tokens != 0)
            states = hidden(
                params,
                batch | {"tokens": tokens},
                images,
                causal,
                prompt | causal,
                False,
                None,
            )
            verdict = jnp.any(tokens[..., None] == batch["answers"][:, None], axis=-1)
            verdict = verdict & causal
            # Who wrote no verdict is asked behind the last token.
            last = jnp.sum(prompt | causal, axis=1)
            found = jnp.where(
                jnp.any(verdict, axis=1), jnp.argmax(verdict, axis=1), last
            )
            logits = decide(params, batch, states, found)
        outputs = {"logits": logits}
        return outputs if written is None else outputs | {"written": written}

    def write(params, batch, images, prompt):
        return generate(
            model,
            params["student"],
            images,
            with_places(jnp.where(prompt, batch["tokens"], 0), 0),
            steps=prompt.shape[1],
            valid=with_places(prompt, True),
        )

    return Method(
        init=new,
        targets={},
        forward=forward,
        loss=lambda inputs: Loss(jnp.zeros(()), inputs.model_state, {}),
        predict=predict,
        evaluate=handwriting_pairs.evaluate,
        score=handwriting_pairs.SCORE,
        evaluator=explained_verification.evaluate,
    )


@functools.cache
def _loss(network: PaliGemmaNetwork, average: str, chunks: int):
    del network

    def loss(inputs: LossInputs) -> Loss:
        batch = inputs.batch
        table = inputs.params["student"]["llm"]["embedder"]["input_embedding"]
        # The line break chooses the first token of the suffix.
        nll = losses.chunked_cross_entropy(
            inputs.outputs["hidden"][:, :-1],
            table,
            batch["tokens"][:, 1:],
            chunks=chunks,
        )
        counted = (batch["causal"] & batch["valid"])[:, 1:]
        nll = jnp.where(counted, nll, 0)
        token = jnp.sum(nll) / jnp.maximum(jnp.sum(counted), 1)
        if average == "token":
            value = token
        else:
            each = jnp.sum(nll, axis=1) / jnp.maximum(jnp.sum(counted, axis=1), 1)
            value = jnp.mean(each)
        return Loss(value, inputs.model_state, {"nll": token})

    return loss


def _trainable(params):
    return {"student": adapters.labels(params["student"], adapter=MAIN, base=FROZEN)}


@functools.cache
def _from_run(name: str):
    """Returns a ``warm_start`` that takes the model of a needed run as the base."""

    def start(params, model_state, frozen):
        check_named(name, frozen)
        base, own = adapters.split(params["student"])
        theirs, learned = adapters.split(dict(frozen[name])["params"])
        if learned:
            raise UserError(
                f"The run {name!r} has adapters of LoRA, which would be lost: a base "
                "has none. Merge them first (jaxkd.models.paligemma.lora.merge), or "
                "start from a run without."
            )
        check_fit(name, theirs, base, "model", "Give config.model that run's sizes.")
        cast = jax.tree.map(lambda new, old: new.astype(old.dtype), theirs, base)
        student = adapters.combine(cast, own)
        return {**params, "student": student}, model_state

    return start
