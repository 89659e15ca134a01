"""Measures needed runs' networks on this run's own test examples, before training.

A figure from the teacher's own run tells nothing here: other images, other classes,
another view. What students are about to learn from is therefore evaluated once on what
they will be evaluated on. A teacher near chance is refused: it costs hours, and usually
means that something is wrong.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxkd.core import sharding
from jaxkd.core.errors import UserError
from jaxkd.core.frozen import PerSeed
from jaxkd.core.types import TOP1, Batch, FrozenNetwork
from jaxkd.methods.common import classification
from jaxkd.training import reads
from jaxkd.training.build import Run
from jaxkd.training.components import source_config
from jaxkd.training.input_pipeline import test_batches
from jaxkd.training.needs import LoadedNetwork

TEACHER, BASELINE = "teacher", "baseline"

# Name of a needed run -> metric -> one number a network: one, or one a seed.
Measured = dict[str, dict[str, list[float]]]


def measure(run: Run, loaded: Mapping[str, LoadedNetwork]) -> Measured:
    """Evaluates all frozen classifiers of a run of classifiers on its test examples.

    Returns:
      Nothing of networks that do not answer in the run's classes, or that read what the
      evaluation view does not make.
    """
    names = [name for name in loaded if _is_classifier(run, name)]
    if not names:
        return {}
    frozen = {name: run.frozen[name] for name in names}
    variables = {name: _stacked(loaded[name].variables) for name in names}

    @functools.partial(jax.jit, out_shardings=sharding.replicated(run.mesh))
    def evaluate(variables: Any, batch: Batch) -> dict[str, Any]:
        seen = run.view.evaluate(batch)

        def one(network: FrozenNetwork, own: Any) -> Any:
            logits, _ = network.apply(own, seen[network.input_key])
            return classification.evaluate({"logits": logits}, seen)

        return {
            name: jax.lax.map(functools.partial(one, network), variables[name])
            for name, network in frozen.items()
        }

    merge = jax.jit(lambda a, b: {name: a[name].merge(b[name]) for name in a})
    parts = (evaluate(variables, batch) for batch in test_batches(run))
    total = jax.device_get(functools.reduce(merge, parts))
    return {name: _compute(one) for name, one in total.items()}


def _stacked(variables: Any) -> Any:
    if isinstance(variables, PerSeed):
        return variables.variables
    return jax.tree.map(lambda x: x[None], variables)


def _compute(stacked: Any) -> dict[str, list[float]]:
    metrics = jax.device_get(jax.vmap(lambda one: one.compute())(stacked))
    return {
        name: np.asarray(values, np.float64).tolist()
        for name, values in metrics.items()
        if np.ndim(values) == 1
    }


def _is_classifier(run: Run, name: str) -> bool:
    network, classes = run.frozen[name], run.dataset.info.num_classes
    if run.score != TOP1 or not classes or network.unlike:
        return False
    example = {
        key: jax.ShapeDtypeStruct((2, *one.shape), one.dtype)
        for key, one in run.dataset.example(run.draws[0]).items()
    }
    seen = jax.eval_shape(run.view.evaluate, example)
    if network.input_key not in seen or "label" not in seen:
        return False
    inputs = seen[network.input_key]
    variables = jax.eval_shape(network.network.init, jax.random.key(0), inputs)
    outputs, _ = jax.eval_shape(network.apply, variables, inputs)
    return _shape(outputs) == (2, classes) and _shape(seen["label"]) == (2,)


def _shape(leaf: Any) -> tuple[int, ...] | None:
    return leaf.shape if isinstance(leaf, jax.ShapeDtypeStruct) else None


def check(run: Run, measured: Measured) -> None:
    """Refuses a teacher from which nothing can be learnt, or that is worse than others.

    Refused are networks that a student's targets are made of and that are not finite,
    or no better than chance by two standard errors. A student's own accuracy is not
    known before it is trained. What is known is that of the needed runs: an assistant,
    which has learnt from the same teacher, and ``baseline``, a student trained without
    one, if the configuration needs such a run. A teacher that is worse than one of them
    by two standard errors is refused, too.

    Raises:
      UserError: naming the teacher; ``config.allow_weak_teacher`` overrides.
    """
    if run.config.allow_weak_teacher:
        return
    for name in reads.taught_by(run) & measured.keys():
        _check_chance(run, name, measured[name])
    for name in measured.keys() - {TEACHER} if TEACHER in measured else ():
        need = source_config(run.config.needs[name], name)
        if name == BASELINE or TEACHER in need.needs:
            _compare(run, name, measured[TEACHER], measured[name])


def _check_chance(run: Run, name: str, measured: Mapping[str, list[float]]) -> None:
    chance, count = 1 / run.dataset.info.num_classes, len(run.dataset.test)
    limit = chance + 2 * math.sqrt(chance * (1 - chance) / count)
    finite = all(map(math.isfinite, measured["loss"]))
    worst = min(measured[TOP1.name])
    if finite and worst > limit:
        return
    found = f"is {100 * worst:.1f} %, near chance ({100 * chance:.1f} %)"
    if not finite:
        found = "cannot be told: its outputs are not finite"
    raise UserError(
        f"The {TOP1.label} of config.needs.{name} on this run's {count:,} test "
        f"examples of {run.dataset.info.name} {found}. {_REMEDY.format(name=name)}"
    )


_REMEDY = (
    "Students would learn nothing true from it. See that its images, its classes and "
    "its view are those that it was trained on (a converted network: --mean, --std and "
    "--classes of from-torch); train it longer (config.needs.{name}.duration); or set "
    "config.allow_weak_teacher = True."
)


def _compare(
    run: Run,
    name: str,
    teacher: Mapping[str, list[float]],
    other: Mapping[str, list[float]],
) -> None:
    shares = [float(np.mean(one[TOP1.name])) for one in (teacher, other)]
    variance = sum(share * (1 - share) for share in shares)
    if shares[1] - shares[0] > 2 * math.sqrt(variance / len(run.dataset.test)):
        raise UserError(
            f"The teacher's {run.score.label} is {100 * shares[0]:.1f} %, worse than "
            f"the {100 * shares[1]:.1f} % of {name!r}, which is no teacher but a "
            "network for students to be compared with or to learn from. A teacher "
            "that is worse than its student makes the student worse. Train the "
            "teacher longer (config.needs.teacher.duration); see that its data and "
            f"its view are those that it was made for; make {name!r} the teacher; or "
            "set config.allow_weak_teacher = True."
        )
