"""What methods with a teacher of large images and a student of small ones share.

Starting a network from another run's, maps between features of different width, and
weights that change with time. Functions are cached, so that students which differ in
their weights alone hold the same ones and share one compiled body.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Aux,
    Batch,
    Extra,
    FrozenNetwork,
    Method,
    Metrics,
    Params,
    Spec,
    Targets,
)
from jaxkd.losses.numerics import at_least_float32, einsum
from jaxkd.methods.common import classification, distillation

MAPS = "maps"
# ``(params, extra, outputs, batch, targets, key) -> (value, extra)``, as the terms of
# ``distillation.distiller``.
Term = Callable[..., tuple[jax.Array, Extra]]


def student(
    spec: Spec,
    name: str,
    terms: Mapping[str, tuple[float, Term]],
    taught_by: Iterable[str] = ("teacher",),
    *,
    ce_weight: float = 1.0,
    warmup: float = 0.0,
    fade: tuple[float, float] | None = None,
) -> Method:
    """Makes the method of a student of several terms, each measured by its own name.

    ``ce_weight * CE + r * sum_t weight_t * mean(term_t)``. Training also measures how
    often a network that teaches is right, and how often the student agrees with it.

    Args:
      spec: of the run.
      name: of the method, for error messages.
      terms: name -> (weight, term); those of weight 0 are left out.
      taught_by: names of the needed runs that the terms look at.
      ce_weight: weight of the cross entropy with the labels.
      warmup: units over which ``r`` rises to 1.
      fade: units between which ``r`` falls to 0, linearly; None keeps it.

    Raises:
      UserError: if a run is missing, a weight is negative, or ``fade`` ends too early.
    """
    check_weights({key: weight for key, (weight, _) in terms.items()}, name)
    _check_fade(fade, name)
    terms = {key: term for key, term in terms.items() if term[0]}
    networks = {each: distillation.require(spec, each, name) for each in taught_by}
    measured = [f"{each}_{what}" for each in networks for what in ("top1", "agreement")]

    def loss(params, extra, outputs, batch, targets, key, step):
        metrics = _measure(outputs, batch, {each: targets[each] for each in networks})
        total = ce_weight * metrics["ce"]
        now = classification.ramp(step, warmup, spec.steps_per_unit)
        now *= _fading(step, fade, spec.steps_per_unit)
        for number, (key_, (weight, term)) in enumerate(terms.items()):
            own = jax.random.fold_in(key, number)
            value, extra = term(params, extra, outputs, batch, targets, own)
            metrics[key_] = jnp.mean(value)
            total += now * weight * metrics[key_]
        return total, Aux(extra, metrics)

    return classification.classifier(
        spec,
        loss,
        ("ce", "top1", *measured, *terms),
        {
            each: classification.frozen_outputs(networks[each], each)
            for each in networks
        },
    )


def _measure(outputs, batch: Batch, targets: Targets) -> Metrics:
    """Returns cross entropy, accuracies and agreement."""
    said = jnp.argmax(outputs["logits"], axis=-1)
    metrics = {
        "ce": classification.cross_entropy(outputs, batch),
        "top1": classification.accuracy(outputs["logits"], batch),
    }
    for name, target in targets.items():
        metrics[f"{name}_top1"] = classification.accuracy(target["logits"], batch)
        theirs = jnp.argmax(target["logits"], axis=-1)
        metrics[f"{name}_agreement"] = jnp.mean(said == theirs)
    return metrics


@functools.cache
def adopt(name: str) -> Callable[[Params, Extra, Any], tuple[Params, Extra]]:
    """Returns a method's ``adopt``: the student starts as the needed run's network.

    Raises:
      UserError: when called, if there is no such run, or its variables do not fit.
    """

    def start(params: Params, extra: Extra, frozen: Any) -> tuple[Params, Extra]:
        if name not in frozen:
            raise UserError(
                f"start_from is {name!r}, but config.needs names "
                f"{', '.join(frozen) or 'no run'}. Add that run to config.needs."
            )
        theirs = dict(frozen[name])
        own = {"params": params["student"], **extra["student"]}
        got, wanted = (
            {
                jax.tree_util.keystr(path): jnp.shape(leaf)
                for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
            }
            for tree in (theirs, own)
        )
        wrong = sorted(
            path for path in got | wanted if got.get(path) != wanted.get(path)
        )
        if wrong:
            raise UserError(
                f"The student cannot start from {name!r}: {len(wrong)} of its "
                f"variables do not fit, such as {wrong[0]}, {got.get(wrong[0])} there "
                f"and {wanted.get(wrong[0])} here. Wanted a network of the same layers "
                "and widths; only strides and the size of the images may differ."
            )
        return (
            {**params, "student": theirs.pop("params")},
            {**extra, "student": theirs},
        )

    return start


def with_maps(
    method: Method,
    spec: Spec,
    frozen: Iterable[str],
    tap: str = "pooled",
    frozen_tap: str = "pooled",
) -> Method:
    """Adds linear maps from the student's features to the frozen networks' widths.

    They are trained beside the student and dropped when it is exported; ``mapped``
    applies them. Networks of equal width share one, and those as wide as the
    student need none.

    Args:
      method: of the student.
      spec: of the run.
      frozen: names of the networks.
      tap: name of the student's features, of which the last axis is mapped.
      frozen_tap: name of the networks' features.
    """
    networks = tuple(spec.frozen[name] for name in sorted(frozen))
    shapes = tuple(spec.batch_shapes(2).items())
    taps = tap, frozen_tap
    init = _init_with_maps(method.init, method.forward, networks, shapes, taps)
    return method._replace(init=init)


@functools.cache
def _init_with_maps(init, forward, networks: tuple[FrozenNetwork, ...], shapes, taps):
    (tap, frozen_tap), batch, key = taps, dict(shapes), jax.random.key(0)

    def width(one: FrozenNetwork) -> int:
        def run(key, images):
            return one.network.init_with_output(key, images)[0][1]

        return jax.eval_shape(run, key, batch[one.reads])[frozen_tap].shape[-1]

    wanted = sorted({width(one) for one in networks})

    def init_both(key: jax.Array) -> tuple[Params, Extra]:
        params, extra = init(key)
        outputs = jax.eval_shape(forward, params, extra, batch, key)[0]
        inputs = outputs["features"][tap].shape[-1]
        keys = jax.random.split(jax.random.fold_in(key, 1), max(len(wanted), 1))
        maps = {
            str(size): jax.random.normal(one, (inputs, size)) * inputs**-0.5
            for one, size in zip(keys, wanted, strict=False)
            if size != inputs
        }
        return ({**params, MAPS: maps} if maps else params), extra

    return init_both


def mapped(params: Params, features: jax.Array, width: int) -> jax.Array:
    """Maps features to another width, or returns them where that is their own."""
    if features.shape[-1] == width:
        return features
    return einsum("...f,fg->...g", at_least_float32(features), params[MAPS][str(width)])


def _fading(
    step: jax.Array, fade: tuple[float, float] | None, steps_per_unit: float
) -> jax.Array:
    """Returns a weight that falls from 1 to 0 between two times, in units."""
    if fade is None:
        return jnp.ones(())
    begin, end = fade
    now = step / steps_per_unit
    return jnp.clip((end - now) / (end - begin), 0.0, 1.0)


def _check_fade(fade: tuple[float, float] | None, method: str) -> None:
    if fade is not None and not (len(fade) == 2 and 0 <= fade[0] < fade[1]):
        raise UserError(
            f"Method {method!r} got fade={tuple(fade)}, wanted the times, in units, at "
            "which the weight begins to fall and reaches 0."
        )


def check_weights(weights: Mapping[str, float], method: str) -> None:
    """Checks that no weight is negative.

    Raises:
      UserError: naming those that are.
    """
    wrong = {name: value for name, value in weights.items() if not value >= 0}
    if wrong:
        raise UserError(f"Method {method!r} got the weights {wrong}, wanted >= 0.")
