"""Reading of text lines as a ``Method``: all slots at once, exact matches counted.

Fields: ``tokens`` int ``[batch, slots]`` (0 ends a line) and ``length``, the characters
with the end.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Score,
    Spec,
)
from jaxkd.evaluators import text
from jaxkd.losses.text import character_cross_entropy
from jaxkd.methods.common.networks import NetworkFunctions, init_student

SCORE = Score("exact", "lines read exactly")
END = 0


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """Lines read without a mistake, characters that are right, and cross-entropy."""

    exact: metrics.Average.from_output("exact")  # type: ignore[valid-type]
    characters: metrics.Average.from_output("characters")  # type: ignore[valid-type]
    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]


@functools.cache
def _network(
    network: nn.Module, image_shape: tuple[int, ...], input_key: str
) -> NetworkFunctions:
    def run(params, model_state, batch, **options):
        variables = {"params": params["student"], **model_state["student"]}
        return network.apply(variables, batch[input_key], **options)

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        (logits, features), updated = run(
            params,
            model_state,
            batch,
            train=True,
            mutable=list(model_state["student"]),
            rngs={"dropout": key},
        )
        outputs = {"logits": logits, "features": features}
        return outputs, {**model_state, "student": updated}

    def predict(params: Params, model_state: ModelState, batch: Batch):
        logits, _ = run(params, model_state, batch, train=False)
        return {"logits": logits}

    return NetworkFunctions(init_student(network, image_shape), forward, predict)


def reader(
    spec: Spec,
    loss: Callable[[LossInputs], Loss],
    targets: Mapping[str, Callable] | None = None,
) -> Method:
    """Makes a reader's method from its loss.

    Args:
      spec: of the run.
      loss: as in ``Method``.
      targets: likewise.

    Raises:
      UserError: if the data have no lines of text, or other slots than the network.
    """
    slots = getattr(spec.network, "slots", None)
    tokens = spec.fields.get("tokens")
    if tokens is None or "length" not in spec.fields or tokens.shape != (slots,):
        raise UserError(
            f"The network has {slots} slots and the data "
            f"{'no tokens' if tokens is None else f'tokens {tokens.shape}'}, expected "
            "the fields tokens and length, and as many slots: set config.model.slots, "
            "or choose a data set such as 'words' or 'text_lines'."
        )
    functions = _network(spec.network, spec.image_shape, spec.input_key)
    return Method(
        targets=dict(targets or {}),
        loss=loss,
        evaluate=evaluate,
        score=SCORE,
        evaluator=text.find,
        **functions._asdict(),
    )


def valid_slots(batch: Batch) -> jax.Array:
    """Marks the slots that count, ``[batch, slots]``: characters and the end."""
    return jnp.arange(batch["tokens"].shape[1]) < batch["length"][:, None]


def cross_entropy(inputs: LossInputs) -> jax.Array:
    """Computes the cross-entropy of each line's characters, as a term of a loss."""
    return character_cross_entropy(
        inputs.outputs["logits"], inputs.batch["tokens"], valid_slots(inputs.batch)
    )


def exact(logits: jax.Array, batch: Batch) -> jax.Array:
    """Returns, of each line, whether it is read without a mistake."""
    right = jnp.argmax(logits, axis=-1) == batch["tokens"]
    return jnp.all(right | ~valid_slots(batch), axis=-1)


def evaluate(outputs: Any, batch: Batch) -> Evaluation:
    """Compares readings with the truth; padding does not count."""
    logits, valid = outputs["logits"], valid_slots(batch)
    right = (jnp.argmax(logits, axis=-1) == batch["tokens"]) & valid
    return Evaluation.single_from_model_output(
        exact=exact(logits, batch),
        characters=jnp.sum(right, axis=-1) / jnp.sum(valid, axis=-1),
        loss=character_cross_entropy(logits, batch["tokens"], valid),
        mask=batch["mask"],
    )
