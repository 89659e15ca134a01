"""Distillation as a ``Method``: cross entropy plus terms that look at a teacher.

A term that compares logits comes by ``from_logits``, one that compares features by
``from_features``, one that has something of its own to train or to remember by
``with_adapter``, and several terms by ``student``. ``combine`` adds methods up.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Batch,
    FrozenNetwork,
    Loss,
    LossInputs,
    Method,
    Metrics,
    ModelState,
    Params,
    Spec,
    Targets,
)
from jaxkd.methods.common import adapters, classification
from jaxkd.methods.common.networks import ensemble_outputs, frozen_outputs
from jaxkd.methods.common.terms import Term, add_up, check_weights, rise_and_fall

TEACHER = "teacher"

Features = dict[str, jax.Array]
Function = Callable[[LossInputs], Any]


def student(
    spec: Spec,
    name: str,
    terms: Mapping[str, tuple[float, Function]],
    taught_by: Iterable[str] = ("teacher",),
    *,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
    fade: tuple[float, float] | None = None,
    targets: Mapping[str, Callable[..., Any]] | None = None,
    logits_only: bool = False,
) -> Method:
    """Makes the method of a student of several terms, each measured by its own name.

    ``ce_weight * CE + r(step) * sum_t weight_t * mean(term_t)``. Training also
    measures how often a network that teaches is right, and how often the student
    agrees with it.

    Args:
      spec: of the run.
      name: of the method, for error messages.
      terms: name -> (weight, function as in ``Term``); those of weight 0 are left out.
      taught_by: names of the needed runs that the terms look at; each is a target of
        that name, with its ``logits`` and ``features``.
      ce_weight: weight of the cross entropy with the labels.
      warmup: units over which ``r`` rises to 1.
      fade: units between which ``r`` falls to 0, linearly; None keeps it.
      targets: further targets, as in ``Method``.
      logits_only: whether the terms look at logits alone, so that several teachers
        may be one.

    Raises:
      UserError: if a run is missing, a weight is negative, or ``fade`` ends too early.
    """
    weights = {key: weight for key, (weight, _) in terms.items()}
    check_weights({**weights, "ce": ce_weight}, name)
    find = teacher_outputs if logits_only else _single_outputs
    frozen = {each: find(spec, each, name) for each in taught_by}
    ramp = rise_and_fall(warmup, fade, spec.steps_per_unit)
    summed = {
        key: Term(weight, function, ramp)
        for key, (weight, function) in terms.items()
        if weight
    } | {"ce": Term(ce_weight, classification.cross_entropy_term)}

    def loss(inputs: LossInputs) -> Loss:
        total = add_up(inputs, summed)
        taught = {each: inputs.targets[each] for each in frozen}
        measured = _measure(inputs.outputs, inputs.batch, taught)
        return total._replace(metrics=measured | total.metrics)

    return classification.classifier(spec, loss, frozen | dict(targets or {}))


def _measure(outputs, batch: Batch, targets: Targets) -> Metrics:
    """Returns accuracies and agreement."""
    predicted = jnp.argmax(outputs["logits"], axis=-1)
    metrics = {"top1": classification.accuracy(outputs["logits"], batch)}
    for name, target in targets.items():
        metrics[f"{name}_top1"] = classification.accuracy(target["logits"], batch)
        theirs = jnp.argmax(target["logits"], axis=-1)
        metrics[f"{name}_agreement"] = jnp.mean(predicted == theirs)
    return metrics


def from_logits(
    spec: Spec,
    name: str,
    distillation: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    *,
    weight: float,
    standardize: bool = False,
    **options: Any,
) -> Method:
    """Makes the method of a student that learns from a teacher's logits.

    Args:
      spec: the run; it must need a teacher.
      name: of the term among the metrics.
      distillation: ``(student_logits, teacher_logits, labels) -> [batch]``, or a
        scalar.
      weight: of the term.
      standardize: whether both logits are standardised first (arXiv:2403.01427).
      **options: see ``student``.

    Raises:
      UserError: if the run needs no teacher.
    """

    def term(inputs: LossInputs) -> jax.Array:
        logits = inputs.outputs["logits"], inputs.targets["teacher"]["logits"]
        if standardize:
            logits = losses.standardize(logits[0]), losses.standardize(logits[1])
        return distillation(*logits, inputs.batch["label"])

    return student(spec, name, {name: (weight, term)}, logits_only=True, **options)


def from_features(
    spec: Spec,
    name: str,
    distillation: Callable[[Features, Features], jax.Array],
    *,
    weight: float,
    **options: Any,
) -> Method:
    """Makes the method of a student that learns from a teacher's features.

    Args:
      spec: the run; it must need a teacher.
      name: of the term among the metrics.
      distillation: ``(student_features, teacher_features) -> [batch]``, or a scalar;
        both are dictionaries as networks return them.
      weight: of the term.
      **options: see ``student``.

    Raises:
      UserError: if the run needs no teacher.
    """

    def term(inputs: LossInputs) -> jax.Array:
        teacher = inputs.targets["teacher"]["features"]
        return distillation(inputs.outputs["features"], teacher)

    return student(spec, name, {name: (weight, term)}, **options)


def with_adapter(
    spec: Spec, name: str, adapter: nn.Module, *, weight: float, **options: Any
) -> Method:
    """Makes the method of a student whose term is a module with variables of its own.

    The module's parameters are trained beside the student's, under ``params[name]``;
    its other collections, which each step may change, are ``model_state[name]``. Both
    take their shapes from what they are shown, and neither is exported with the
    student.

    Args:
      spec: the run; it must need a teacher.
      name: of the term among the metrics, and of its variables.
      adapter: ``(outputs, targets, batch) -> [batch]``, or a scalar: the student's
        outputs, the run's targets by name (``targets["teacher"]["features"]``) and the
        batch. Random numbers come from the stream ``"sample"``.
      weight: of the term.
      **options: see ``student``.

    Raises:
      UserError: if the run needs no teacher.
    """
    term = functools.partial(adapters.apply, adapter, name)
    method = student(spec, name, {name: (weight, term)}, **options)
    return adapters.with_variables(method, spec, name, adapter)


def combine(methods: Mapping[str, Method]) -> Method:
    """Adds up the losses of methods of one network, each with its own adapters.

    Args:
      methods: by name, for the error message. Cross entropy counts as often as they
        hold it.

    Raises:
      UserError: if they differ in how they run the network, or one has a step of its
        own.
    """
    parts = tuple(methods.values())
    own = [name for name, part in methods.items() if part.update is not None]
    if own or len({part.forward for part in parts}) > 1:
        raise UserError(
            f"The methods {' and '.join(methods)} cannot be combined: they run the "
            "student in different ways. Make them students of their own."
        )

    def loss(inputs: LossInputs) -> Loss:
        total, metrics, model_state = jnp.zeros(()), Metrics(), inputs.model_state
        for index, part in enumerate(parts):
            key = jax.random.fold_in(inputs.key, index)
            one = part.loss(inputs._replace(model_state=model_state, key=key))
            total, model_state = total + one.value, one.model_state
            metrics = one.metrics | metrics
        return Loss(total, model_state, metrics)

    return parts[0]._replace(
        init=_merged_init(tuple(part.init for part in parts)),
        loss=loss,
        targets={n: f for part in parts for n, f in part.targets.items()},
    )


@functools.cache
def _merged_init(inits: tuple[Callable, ...]) -> Callable:
    def init(key: jax.Array) -> tuple[Params, ModelState]:
        params: Params = {}
        model_state: ModelState = {}
        for one in inits:
            more = one(key)
            params, model_state = {**more[0], **params}, {**more[1], **model_state}
        return params, model_state

    return init if len(set(inits)) > 1 else inits[0]


def stages(features: Features, suffix: str = "") -> list[jax.Array]:
    """Lists the features ``stage1``, ``stage2`` ..., or those with a suffix.

    Raises:
      UserError: if there are none.
    """
    count = sum(name.removeprefix("stage").isdigit() for name in features)
    if not count:
        raise UserError(
            "The method compares the stages of two networks, but one of them has only "
            f"the features {', '.join(features)}. Expected stage1, stage2 ..."
        )
    return [features[f"stage{stage + 1}{suffix}"] for stage in range(count)]


def paired_stages(
    student: Features, teacher: Features, suffix: str = ""
) -> list[tuple[jax.Array, jax.Array]]:
    """Pairs the stages of two networks, the deepest with the deepest and so on down.

    Where one network has fewer stages, the other's first ones are left out. (The
    published code pairs from the first stage on, which for such networks compares maps
    of different depth.)
    """
    pairs = zip(
        reversed(stages(student, suffix)),
        reversed(stages(teacher, suffix)),
        strict=False,
    )
    return list(pairs)[::-1]


def require(spec: Spec, frozen: str, method: str) -> FrozenNetwork:
    """Returns the network of a needed run, and what it reads.

    Raises:
      UserError: if the configuration does not name that run.
    """
    if frozen not in spec.frozen and frozen == TEACHER and spec.ensemble:
        raise UserError(
            f"Method {method!r} reads more of its teacher than logits, but "
            "config.teachers makes one of several, whose features cannot be averaged. "
            "Name one run as config.needs.teacher, or choose a method that compares "
            "logits, such as 'kd'."
        )
    if frozen not in spec.frozen:
        raise UserError(
            f"Method {method!r} learns from another run, {frozen!r}, but config.needs "
            f"does not name it. Set config.needs.{frozen} = config.needed(...)."
        )
    return spec.frozen[frozen]


def teacher_outputs(spec: Spec, frozen: str, method: str) -> Callable[..., Any]:
    """Returns the target of a needed run's logits, or of several teachers' as one's.

    Raises:
      UserError: as ``require``.
    """
    if frozen != TEACHER or spec.ensemble is None:
        return _single_outputs(spec, frozen, method)
    names = [name for name, _ in spec.ensemble.weights]
    networks = tuple(require(spec, name, method) for name in names)
    return ensemble_outputs(spec.ensemble, networks)


def _single_outputs(spec: Spec, frozen: str, method: str) -> Callable[..., Any]:
    return frozen_outputs(require(spec, frozen, method), frozen)
