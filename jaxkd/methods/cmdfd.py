"""CMDFD: cross-modal deepfakes by correlation distillation (arXiv:2404.19171).

A student classifies every frame of a talking face as real or fake. Two frozen
recognisers, the needed runs ``audio_teacher`` and ``video_teacher``, say how far sound
and lips say the same; the student's embeddings of both must reproduce that:

    detection_weight * CE + correlation_weight * BCE + contrast_weight * contrast

Posteriors from disk may stand in for the teachers: fields ``audio_posteriors`` and
``video_posteriors`` of the data. See ``jaxkd.losses.frame_correlation``.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import ANY
from jaxkd.core.types import (
    Batch,
    FrozenNetwork,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Spec,
)
from jaxkd.methods.common import classification
from jaxkd.methods.common.networks import NetworkFunctions, init_student
from jaxkd.methods.common.terms import Term, add_up, check_weights

# What --mode=predict makes of files; see ``jaxkd.predictors``.
PREDICTOR = "clips"

TEACHERS = ("audio_teacher", "video_teacher")
POSTERIORS = ("audio_posteriors", "video_posteriors")
_TARGET = "agreement"
# What the student and a teacher have in common: name of the submodule.
_ENCODERS = {"audio_teacher": "audio", "video_teacher": "visual"}


def make(
    spec: Spec,
    *,
    detection_weight: float = 1.0,
    correlation_weight: float = 1.0,
    contrast_weight: float = 1.0,
    margin: float = 1.0,
    divergence: str = "jeffreys_mean",
    target_scale: float = 1.0,
    shuffled_targets: bool = False,
    start_from_teachers: bool = False,
    keep_teachers: bool = False,
    noise_snrs: Annotated[Sequence[float], ANY] = (),
) -> Method:
    """Makes a detector of forged talking faces.

    Args:
      spec: the run; its batches hold ``label`` (1: fake), ``present`` ``[batch, time]``
        and what the networks read.
      detection_weight: of the cross entropy, averaged over all frames.
      correlation_weight: of the distillation of the teachers' agreement.
      contrast_weight: of the contrast between real and forged clips.
      margin: of the contrast.
      divergence: of the teachers, one of ``losses.frame_correlation.KINDS``.
      target_scale: factor of the divergence in the target ``1 - scale * D``.
      shuffled_targets: gives each clip the next one's target: a control, in which the
        targets' distribution is right and their content wrong.
      start_from_teachers: whether the student's encoders begin as the teachers': a
        control, since distillation knows the teachers' labels indirectly.
      keep_teachers: whether the student remembers the teachers, to report their
        disagreement after training beside its own score. For small ones.
      noise_snrs: signal-to-noise ratios, in dB, at which the students are tested again
        after training, with white noise and with babble on the sound.

    Raises:
      UserError: if there are no teachers where some are needed, or a weight is
        negative.
    """
    weights = {
        "detection": detection_weight,
        "correlation": correlation_weight,
        "contrast": contrast_weight,
    }
    check_weights(weights, "cmdfd")
    teachers = tuple((name, spec.frozen.get(name)) for name in TEACHERS)
    distils = bool(correlation_weight or contrast_weight)
    if start_from_teachers or keep_teachers:
        _require(spec, "start_from_teachers and keep_teachers")
    target = None
    if distils:
        target = _target_function(spec, teachers, divergence, target_scale)
    terms = _terms(weights, margin, shuffled_targets, distils)

    def loss(inputs: LossInputs) -> Loss:
        total = add_up(inputs, terms)
        right = classification.accuracy(inputs.outputs["logits"], inputs.batch)
        measured = {"top1": right}
        if distils:
            measured["target_std"] = jnp.std(
                inputs.targets[_TARGET], where=inputs.batch["present"]
            )
        return total._replace(metrics=measured | total.metrics)

    kept = teachers if keep_teachers else None
    functions = _network(spec.network, spec.image_shape, spec.input_key, kept)
    return Method(
        targets={} if target is None else {_TARGET: target},
        loss=loss,
        evaluate=classification.evaluate,
        warm_start=_starting(start_from_teachers, keep_teachers),
        evaluator=_evaluator(tuple(noise_snrs)),
        **functions._asdict(),
    )


def _terms(
    weights: Mapping[str, float], margin: float, shuffled: bool, distils: bool
) -> dict[str, Term]:
    def detection(inputs: LossInputs) -> jax.Array:
        logits, present = inputs.outputs["frame_logits"], inputs.batch["present"]
        labels = jnp.broadcast_to(inputs.batch["label"][:, None], present.shape)
        each = losses.cross_entropy(logits, labels)
        return _frame_mean(each, present)

    def target(inputs: LossInputs) -> tuple[jax.Array, jax.Array]:
        target, present = inputs.targets[_TARGET], inputs.batch["present"]
        if shuffled:
            target = jnp.roll(target, 1, axis=0)
            present = present & jnp.roll(present, 1, axis=0)
        return target, present

    def correlation(inputs: LossInputs) -> jax.Array:
        wanted, present = target(inputs)
        each = losses.correlation_distillation(inputs.outputs["correlation"], wanted)
        return _frame_mean(each, present)

    def contrast(inputs: LossInputs) -> jax.Array:
        wanted, present = target(inputs)
        return losses.correlation_contrastive(
            inputs.outputs["correlation"],
            wanted,
            inputs.batch["label"],
            margin=margin,
            where=present,
        )

    functions = {"detection": detection}
    if distils:
        functions |= {"correlation": correlation, "contrast": contrast}
    return {name: Term(weights[name], one) for name, one in functions.items()}


def _frame_mean(values: jax.Array, present: jax.Array) -> jax.Array:
    """Averages over the frames of all clips."""
    count = jnp.maximum(jnp.sum(present), 1)
    return jnp.sum(jnp.where(present, values, 0)) / count


def _target_function(spec: Spec, teachers, divergence: str, scale: float) -> Callable:
    if all(network is not None for _, network in teachers):
        return _from_networks(teachers, divergence, scale)
    if set(POSTERIORS) <= set(spec.fields):
        return _from_fields(divergence, scale)
    return _require(spec, "correlation_weight and contrast_weight")


def _require(spec: Spec, why: str) -> Any:
    missing = [name for name in TEACHERS if name not in spec.frozen]
    if missing:
        raise UserError(
            f"Method 'cmdfd' with {why} learns from the runs {' and '.join(TEACHERS)}, "
            f"but config.needs does not name {' and '.join(missing)}, and the data "
            f"have no {' and '.join(POSTERIORS)}. Set config.needs.{missing[0]} = "
            "config.needed(...)."
        )
    return None


# Cached, so that all students of a run share one evaluation of the teachers.
@functools.cache
def _from_networks(
    teachers: tuple[tuple[str, FrozenNetwork], ...], divergence: str, scale: float
) -> Callable:
    def target(variables: Any, batch: Batch, key: jax.Array) -> jax.Array:
        del key
        found = _disagreement(teachers, variables, batch, divergence)
        return jnp.clip(1 - scale * found, 0.0, 1.0)

    return target


@functools.cache
def _from_fields(divergence: str, scale: float) -> Callable:
    def target(variables: Any, batch: Batch, key: jax.Array) -> jax.Array:
        del variables, key
        logs = [jnp.log(batch[name].astype(jnp.float32)) for name in POSTERIORS]
        found = losses.teacher_divergence(*logs, kind=divergence)
        return jnp.clip(1 - scale * found, 0.0, 1.0)

    return target


def _disagreement(teachers, variables: Any, batch: Batch, divergence: str):
    """Returns the divergence of the teachers at every frame, ``[batch, time]``."""
    logs = [
        jax.nn.log_softmax(one.apply(variables[name], batch[one.input_key])[0])
        for name, one in teachers
    ]
    return jax.lax.stop_gradient(losses.teacher_divergence(*logs, kind=divergence))


# Cached, so that students of one network share one compiled body.
@functools.cache
def _network(
    network: nn.Module, shape: tuple[int, ...], input_key: str, teachers
) -> NetworkFunctions:
    init = init_student(network, shape)

    def outputs(logits: jax.Array, features: Any, batch: Batch) -> dict[str, jax.Array]:
        present = batch["present"]
        count = jnp.maximum(jnp.sum(present, axis=1), 1)[:, None]
        kept = jnp.where(present[..., None], logits, 0)
        correlation = losses.audio_visual_correlation(
            features["audio"], features["video"]
        )
        return {
            "logits": jnp.sum(kept, axis=1) / count,
            "frame_logits": logits,
            "correlation": correlation,
        }

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        variables = {"params": params["student"], **model_state["student"]}
        (logits, features), updated = network.apply(
            variables,
            batch[input_key],
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state["student"]),
        )
        state = {**model_state, "student": updated}
        return outputs(logits, features, batch), state

    def predict(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        logits, features = network.apply(variables, batch[input_key], train=False)
        found = outputs(logits, features, batch)
        if teachers is not None and "teachers" in model_state:
            found["disagreement"] = _disagreement(
                teachers, model_state["teachers"], batch, "jeffreys_mean"
            )
        return found

    return NetworkFunctions(init, forward, predict)


# Cached, so that students that start alike hold one function.
@functools.cache
def _starting(from_teachers: bool, keep: bool) -> Callable | None:
    if not (from_teachers or keep):
        return None

    def start(
        params: Params, model_state: ModelState, frozen: Mapping[str, Any]
    ) -> tuple[Params, ModelState]:
        own = {"params": params["student"], **model_state["student"]}
        if from_teachers:
            for name, part in _ENCODERS.items():
                own = _take(own, frozen[name], part, name)
        student = own.pop("params")
        state = {**model_state, "student": own}
        if keep:
            state["teachers"] = {name: frozen[name] for name in TEACHERS}
        return {**params, "student": student}, state

    return start


def _take(own: Mapping[str, Any], theirs: Mapping[str, Any], part: str, name: str):
    """Replaces a submodule's variables by those of a teacher."""
    shapes = [
        jax.tree.map(jnp.shape, {c: tree.get(part) for c, tree in one.items()})
        for one in (own, theirs)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"The student's {part} encoder cannot start from {name}: their layers "
            "differ. Give both networks the same widths."
        )
    return {c: {**tree, part: theirs[c][part]} for c, tree in own.items()}


# Cached, so that students that are tested alike share one table.
@functools.cache
def _evaluator(noise_snrs: tuple[float, ...]) -> Callable[[Any], Any]:
    def evaluate(trained: Any) -> Any:
        # Here, because it needs libraries that training does not.
        from jaxkd.evaluators import clips as evaluator

        return evaluator.evaluate(trained, noise_snrs)

    return evaluate
