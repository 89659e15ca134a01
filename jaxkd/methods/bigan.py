"""BiGAN: encoder and generator against a judge of both sides (arXiv:1605.09782)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxkd.core import lookup
from jaxkd.core.types import (
    FROZEN,
    MAIN,
    Loss,
    LossInputs,
    Method,
    Spec,
    Update,
    UpdateInputs,
)
from jaxkd.methods.common import self_supervised
from jaxkd.models import bigan as networks
from jaxkd.models.decoders import ConvDecoder
from jaxkd.models.layers import Linear

JUDGE = "discriminator"


def make(
    spec: Spec,
    *,
    arch: str = "conv",
    latents: int = 100,
    widths: tuple[int, ...] = (128, 64, 32),
    train_encoder: bool = True,
) -> Method:
    """Makes an encoder that inverts the generator that it is trained with.

    A discriminator tells real pictures with their codes from drawn codes with their
    pictures; encoder and generator are trained to swap them. The discriminator's
    optimiser is ``config.optimizers.discriminator``.

    Args:
      spec: the run.
      arch: ``"conv"``, or ``"dense"`` as in arXiv:2405.18320, whose encoder is the
        network ``bigan_encoder``.
      latents: numbers of the code.
      widths: of the convolutional generator, from the smallest map.
      train_encoder: False leaves the encoder as it begins, as the code of
        arXiv:2405.18320 does by mistake: an ablation.

    Raises:
      UserError: if ``arch`` is unknown.
    """
    network, width = spec.network, self_supervised.encoder_features(spec)
    generator, judge = lookup.choose(
        arch,
        {
            "conv": (
                ConvDecoder(spec.image_shape, tuple(widths)),
                networks.ConvDiscriminator(),
            ),
            "dense": (
                networks.DenseGenerator(spec.image_shape),
                networks.DenseDiscriminator(),
            ),
        },
        what="arch",
    )
    head = Linear(latents)

    def init(key):
        images, codes = jnp.zeros((2, *spec.image_shape)), jnp.zeros((2, latents))
        return self_supervised.init_modules(
            key,
            {
                "student": (network, (images,)),
                "head": (head, (jnp.zeros((2, width)),)),
                "generator": (generator, (codes,)),
                JUDGE: (judge, (images, codes)),
            },
        )

    def play(params, state, batch, key):
        """Makes both pairs and judges them: logits, features and new statistics."""
        code_key, *dropout = jax.random.split(key, 3)
        images = batch[spec.input_key]
        (_, features), own = self_supervised.apply(
            network, params["student"], state["student"], images, train=True
        )
        row: Any = head.apply({"params": params["head"]}, features["pooled"])
        codes = jnp.tanh(row)
        drawn = jax.random.normal(code_key, codes.shape)
        pictures, generated = self_supervised.apply(
            generator, params["generator"], state["generator"], drawn, train=True
        )
        # The dense generator's pictures are in [-1, 1] already.
        pictures = jnp.tanh(pictures) if arch == "conv" else pictures
        pairs = (2 * images - 1, codes), (pictures, drawn)
        logits: list[Any] = [
            judge.apply(
                {"params": params[JUDGE]}, *pair, train=True, rngs={"dropout": own_key}
            )
            for pair, own_key in zip(pairs, dropout, strict=True)
        ]
        changed = {**state, "student": own, "generator": generated}
        return logits, features["pooled"], changed

    def forward(params, model_state, batch, key):
        logits, h, state = play(params, model_state, batch, key)
        return {"logits": logits, "h": h}, state

    def player(swapped: bool):
        def loss(params, inputs: LossInputs) -> Loss:
            (real, fake), h, state = play(
                params, inputs.model_state, inputs.batch, inputs.key
            )
            value = adversarial(real, fake, swapped)
            name = "generator_loss" if swapped else "discriminator_loss"
            metrics = {name: value}
            if swapped:
                metrics["feature_std"] = self_supervised.feature_std(h)
                return Loss(value, state, metrics)
            right = jnp.mean(real > 0) + jnp.mean(fake < 0)
            metrics["discriminator_accuracy"] = right / 2
            return Loss(value, inputs.model_state, metrics)

        return loss

    def update(inputs: UpdateInputs) -> Update:
        params, opt_state = inputs.params, inputs.opt_state
        found: dict[str, Loss] = {}
        metrics: dict[str, jax.Array] = {}
        state = inputs.model_state
        for salt, (label, swapped) in enumerate(
            ((JUDGE, False), (MAIN, True)), start=1
        ):
            grads, found[label] = inputs.gradients(
                player(swapped), params, state, label=label, salt=salt
            )
            params, opt_state = inputs.apply(params, grads, opt_state, label=label)
            state = found[label].model_state
            metrics |= found[label].metrics
        total = found[JUDGE].value + found[MAIN].value
        return Update(params, state, opt_state, total, metrics)

    def loss(inputs: LossInputs) -> Loss:
        real, fake = inputs.outputs["logits"]
        value = adversarial(real, fake, True)
        return Loss(value, inputs.model_state, {"generator_loss": value})

    def trainable(params):
        encoder = MAIN if train_encoder else FROZEN
        return {
            "student": encoder,
            "head": encoder,
            "generator": MAIN,
            JUDGE: JUDGE,
        }

    return self_supervised.pretrainer(
        spec, init, forward, loss, update=update, trainable=trainable
    )


def adversarial(real: jax.Array, fake: jax.Array, swapped: bool) -> jax.Array:
    """Computes half the cross entropies of both sides, with labels swapped or not."""
    labels = (0.0, 1.0) if swapped else (1.0, 0.0)
    terms = [
        jnp.mean(optax.sigmoid_binary_cross_entropy(logits, jnp.full_like(logits, y)))
        for logits, y in zip((real, fake), labels, strict=True)
    ]
    return 0.5 * (terms[0] + terms[1])
