"""SFTN: a teacher that is trained to be easy to follow.

Park et al., "Learning Student-Friendly Teacher Networks for Knowledge Distillation"
(arXiv:2102.07650). While the teacher is trained, branches grow on its stages: each is
the rest of a student, fed with the teacher's features. They learn the labels and the
teacher's own predictions, and their gradients flow back into the teacher. The branches
are dropped afterwards, and students are distilled from the teacher by any method: name
this run in the ``config.needs`` of theirs.
"""

import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import Loss, LossInputs, Method, ModelState, Params, Spec
from jaxkd.methods.common import classification
from jaxkd.methods.common.terms import check_weights
from jaxkd.models.lowres import Tail

NAME = "branches"


def make(
    spec: Spec,
    *,
    widths: Sequence[int],
    strides: Sequence[int],
    sides: Sequence[int],
    branch_ce_weight: float = 1.0,
    branch_kl_weight: float = 3.0,
    ce_weight: float = 1.0,
    temperature: float = 1.0,
    teacher_gradient: bool = True,
) -> Method:
    """Makes a teacher of ``ce_weight * CE + sum_i (branch_ce_weight * CE_i +
    branch_kl_weight * T^2 KL(branch_i || teacher))``.

    There is a branch on every stage of the network but the last: the student's stages
    that follow, behind a 3x3 convolution to its width.

    Args:
      spec: the run, of the teacher.
      widths: of the student's stages, as many as the network has.
      strides: likewise.
      sides: height of the student's features after each stage but the last, to which
        the teacher's are brought. A student of smaller images has smaller ones.
      branch_ce_weight: weight of the branches' cross entropies.
      branch_kl_weight: weight of their divergences from the teacher.
      ce_weight: of the teacher's cross entropy.
      temperature: of the divergences.
      teacher_gradient: whether the divergences train the teacher, too.

    Raises:
      UserError: if the numbers of stages do not fit, or a weight is negative.
    """
    weights = {
        "ce": ce_weight,
        "branch_ce": branch_ce_weight,
        "branch_kl": branch_kl_weight,
    }
    check_weights(weights, "sftn")
    branches = _branches(spec, tuple(widths), tuple(strides), tuple(sides))

    def loss(inputs: LossInputs):
        logits, updated = _grow(
            branches, inputs.params, inputs.model_state, inputs.outputs["features"]
        )
        divergence = functools.partial(
            losses.branch_divergence,
            teacher_logits=inputs.outputs["logits"],
            temperature=temperature,
            teacher_gradient=teacher_gradient,
        )
        metrics = {
            "ce": classification.cross_entropy(inputs.outputs, inputs.batch),
            "top1": classification.accuracy(inputs.outputs["logits"], inputs.batch),
            "branch_ce": _sum(
                [_cross_entropy(one, inputs.batch["label"]) for one in logits]
            ),
            "branch_kl": _sum([jnp.mean(divergence(one)) for one in logits]),
            "branch_top1": jnp.mean(
                jnp.stack(
                    [classification.accuracy(one, inputs.batch) for one in logits]
                )
            ),
        }
        total = _sum([weight * metrics[name] for name, weight in weights.items()])
        return Loss(total, {**inputs.model_state, NAME: updated}, metrics)

    method = classification.classifier(spec, loss)
    shapes = tuple(spec.batch_shapes(2).items())
    return method._replace(
        init=_init_with_branches(method.init, method.forward, branches, shapes)
    )


def _sum(values: Sequence[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.stack(values))


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(losses.cross_entropy(logits, labels))


def _branches(spec: Spec, widths, strides, sides) -> tuple[tuple[str, nn.Module], ...]:
    """Makes stage of the teacher -> branch."""
    batch = spec.batch_shapes(1)
    _, features = jax.eval_shape(
        lambda key, x: spec.network.init_with_output(key, x)[0],
        jax.random.key(0),
        batch[spec.input_key],
    )
    stages = [n for n in features if n.removeprefix("stage").isdigit()]
    if not len(stages) == len(widths) == len(strides) == len(sides) + 1 > 1:
        raise UserError(
            f"The network has {len(stages)} stages, but method 'sftn' was given "
            f"{len(widths)} widths, {len(strides)} strides and {len(sides)} sides. "
            "Expected as many widths and strides as stages, at least two, and one side "
            "less."
        )
    return tuple(
        (
            f"stage{stage}",
            Tail(spec.num_classes, stage + 1, widths, strides, sides[stage - 1]),
        )
        for stage in range(1, len(stages))
    )


def _grow(branches, params: Params, model_state: ModelState, features):
    """Returns each branch's logits, and their updated statistics."""
    logits, updated = [], {}
    for stage, branch in branches:
        variables = {"params": params[NAME][stage], **model_state[NAME][stage]}
        (said, _), updated[stage] = branch.apply(
            variables,
            features[stage],
            train=True,
            mutable=list(model_state[NAME][stage]),
        )
        logits.append(said)
    return logits, updated


@functools.cache
def _init_with_branches(init, forward, branches, shapes) -> Callable:
    batch, key = dict(shapes), jax.random.key(0)

    def init_all(key_: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = init(key_)
        features = jax.eval_shape(forward, params, model_state, batch, key)[0][
            "features"
        ]
        own: dict[str, Params] = {}
        rest: dict[str, ModelState] = {}
        for number, (stage, branch) in enumerate(branches):
            seen = jnp.zeros(features[stage].shape)
            variables = dict(branch.init(jax.random.fold_in(key_, 1 + number), seen))
            own[stage], rest[stage] = variables.pop("params"), variables
        return {**params, NAME: own}, {**model_state, NAME: rest}

    return init_all
