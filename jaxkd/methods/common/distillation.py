"""Distillation as a ``Method``: cross entropy plus a term that looks at a teacher.

A term that compares logits comes by ``from_logits``, one that compares features by
``from_features``, and one that has something of its own to train or to remember (a
regressor, a memory bank) by ``with_adapter``. ``combine`` adds methods up.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Aux,
    Batch,
    Extra,
    FrozenNetwork,
    Method,
    Metrics,
    Outputs,
    Params,
    Spec,
    Targets,
)
from jaxkd.methods.common import classification

Features = dict[str, jax.Array]


def from_logits(
    spec: Spec,
    name: str,
    distillation: Callable[[jax.Array, jax.Array, jax.Array], jax.Array],
    *,
    standardize: bool = False,
    **weights: Any,
) -> Method:
    """Makes the method of a student that learns from a teacher's logits.

    Args:
      spec: the run; it must need a teacher.
      name: of the term among the metrics.
      distillation: ``(student_logits, teacher_logits, labels) -> [batch]``, or a
        scalar.
      standardize: whether both logits are standardised first (arXiv:2403.01427).
      **weights: see ``distiller``.

    Raises:
      UserError: if the run needs no teacher.
    """

    def term(params, extra, outputs, batch, targets, key):
        del params, key
        logits = outputs["logits"], targets["teacher"]["logits"]
        if standardize:
            logits = losses.standardize(logits[0]), losses.standardize(logits[1])
        return distillation(*logits, batch["label"]), extra

    return distiller(spec, name, term, **weights)


def from_features(
    spec: Spec,
    name: str,
    distillation: Callable[[Features, Features], jax.Array],
    **weights: Any,
) -> Method:
    """Makes the method of a student that learns from a teacher's features.

    Args:
      spec: the run; it must need a teacher.
      name: of the term among the metrics.
      distillation: ``(student_features, teacher_features) -> [batch]``, or a scalar;
        both are dictionaries as networks return them.
      **weights: see ``distiller``.

    Raises:
      UserError: if the run needs no teacher.
    """

    def term(params, extra, outputs, batch, targets, key):
        del params, batch, key
        teacher = targets["teacher"]["features"]
        return distillation(outputs["features"], teacher), extra

    return distiller(spec, name, term, **weights)


def with_adapter(
    spec: Spec,
    name: str,
    adapter: nn.Module,
    *,
    targets: Mapping[str, Callable[..., Any]] | None = None,
    **weights: Any,
) -> Method:
    """Makes the method of a student whose term is a module with variables of its own.

    The module's parameters are trained beside the student's, under ``params[name]``;
    its other collections, which each step may change, are ``extra[name]``. Both take
    their shapes from what they are shown, and neither is exported with the student.

    Args:
      spec: the run; it must need a teacher.
      name: of the term among the metrics, and of its variables.
      adapter: ``(outputs, targets, batch) -> [batch]``, or a scalar: the student's
        outputs, the run's targets by name (``targets["teacher"]["features"]``) and the
        batch. Random numbers come from the stream ``"sample"``.
      targets: further targets, as in ``Method``.
      **weights: see ``distiller``.

    Raises:
      UserError: if the run needs no teacher.
    """

    def term(params, extra, outputs, batch, targets, key):
        variables = {"params": params[name], **extra[name]}
        value, updated = adapter.apply(
            variables,
            outputs,
            targets,
            batch,
            mutable=list(extra[name]),
            rngs={"sample": key},
        )
        return value, {**extra, name: updated}

    method = distiller(spec, name, term, targets=targets, **weights)
    return with_variables(method, spec, name, adapter)


def with_variables(method: Method, spec: Spec, name: str, adapter: nn.Module) -> Method:
    """Adds an adapter's variables, under ``name``, to those that a method begins with.

    Args:
      method: whose loss applies the adapter; its forward and targets tell the shapes.
      spec: the run.
      name: of the variables.
      adapter: see ``with_adapter``.
    """
    init = _init_with_adapter(
        name,
        adapter,
        method.init,
        method.forward,
        tuple(method.targets.items()),
        tuple(spec.frozen.items()),
        tuple(spec.batch_shapes(2).items()),
    )
    return method._replace(init=init)


@functools.cache
def _init_with_adapter(
    name: str,
    adapter: nn.Module,
    init: Callable,
    forward: Callable,
    targets: tuple[tuple[str, Callable], ...],
    frozen: tuple[tuple[str, FrozenNetwork], ...],
    batch: tuple[tuple[str, Any], ...],
) -> Callable[[jax.Array], tuple[Params, Extra]]:
    """Adds an adapter's variables to those of the student; cached, as its others."""
    key = jax.random.key(0)
    shapes = dict(batch)

    networks = {
        each: jax.eval_shape(one.network.init, key, shapes[one.reads])
        for each, one in frozen
    }

    def see(params, extra):
        """Returns zeros in the shape of all that the adapter will be shown."""
        outputs = jax.eval_shape(forward, params, extra, shapes, key)[0]
        taught = {n: jax.eval_shape(f, networks, shapes, key) for n, f in targets}
        return jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), (outputs, taught, shapes)
        )

    def init_both(key: jax.Array) -> tuple[Params, Extra]:
        params, extra = init(key)
        own, sample = jax.random.split(jax.random.fold_in(key, 1))
        added = dict(
            adapter.init({"params": own, "sample": sample}, *see(params, extra))
        )
        return (
            {**params, name: added.pop("params", {})},
            {**extra, name: added},
        )

    return init_both


def distiller(
    spec: Spec,
    name: str,
    term: Callable[..., tuple[jax.Array, Extra]],
    *,
    ce_weight: float,
    weight: float,
    warmup: float = 0.0,
    targets: Mapping[str, Callable[..., Any]] | None = None,
) -> Method:
    """Makes the method of a student with a teacher.

    ``loss = ce_weight * cross_entropy + weight * ramp * mean(term)``.

    Args:
      spec: the run; it must need a teacher.
      name: of the term among the metrics.
      term: ``(params, extra, outputs, batch, targets, key) -> (value, extra)``; the
        value is a scalar, or one per example, of which the mean is taken.
      ce_weight: weight of the cross entropy with the labels.
      weight: weight of the term.
      warmup: units over which the term's weight rises (see ``classification.ramp``).
      targets: beside ``"teacher"``, the teacher's logits and features.

    Raises:
      UserError: if the run needs no teacher.
    """
    teacher = require(spec, "teacher", name)

    def loss(
        params: Params,
        extra: Extra,
        outputs: Outputs,
        batch: Batch,
        targets: Targets,
        key: jax.Array,
        step: jax.Array,
    ) -> tuple[jax.Array, Aux]:
        value, extra = term(params, extra, outputs, batch, targets, key)
        metrics = {
            "ce": classification.cross_entropy(outputs, batch),
            "top1": classification.accuracy(outputs["logits"], batch),
            "teacher_top1": classification.accuracy(
                targets["teacher"]["logits"], batch
            ),
            name: jnp.mean(value),
        }
        rising = weight * classification.ramp(step, warmup, spec.steps_per_unit)
        total = rising * metrics[name]
        if ce_weight:
            total += ce_weight * metrics["ce"]
        return total, Aux(extra, metrics)

    return classification.classifier(
        spec,
        loss,
        ("ce", "top1", "teacher_top1", name),
        {"teacher": classification.frozen_outputs(teacher), **(targets or {})},
    )


def combine(methods: Mapping[str, Method]) -> Method:
    """Adds up the losses of methods of one network, each with its own adapters.

    Args:
      methods: by name, for the error message. Cross entropy counts as often as they
        hold it.

    Raises:
      UserError: if they differ in how they run the network.
    """
    parts = tuple(methods.values())
    if len({part.forward for part in parts}) > 1:
        raise UserError(
            f"The methods {' and '.join(methods)} cannot be combined: they run the "
            "student in different ways. Make them students of their own."
        )

    def loss(params, extra, outputs, batch, targets, key, step):
        total = jnp.zeros(())
        metrics: Metrics = {}
        for index, part in enumerate(parts):
            own = jax.random.fold_in(key, index)
            value, aux = part.loss(params, extra, outputs, batch, targets, own, step)
            total, extra, metrics = total + value, aux.extra, aux.metrics | metrics
        return total, Aux(extra, metrics)

    return parts[0]._replace(
        init=_merged_init(tuple(part.init for part in parts)),
        loss=loss,
        targets={n: f for part in parts for n, f in part.targets.items()},
        metrics=tuple(dict.fromkeys(n for part in parts for n in part.metrics)),
    )


@functools.cache
def _merged_init(inits: tuple[Callable, ...]) -> Callable:
    def init(key: jax.Array) -> tuple[Params, Extra]:
        params: Params = {}
        extra: Extra = {}
        for one in inits:
            more = one(key)
            params, extra = {**more[0], **params}, {**more[1], **extra}
        return params, extra

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
            f"the features {', '.join(features)}. Wanted stage1, stage2 ..."
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
    if frozen not in spec.frozen:
        raise UserError(
            f"Method {method!r} learns from another run, {frozen!r}, but config.needs "
            f"does not name it. Set config.needs.{frozen} = config.needed(...)."
        )
    return spec.frozen[frozen]
