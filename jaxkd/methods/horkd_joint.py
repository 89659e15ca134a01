"""HORKD with a joint assistant: the student itself, looking at the large images.

Ge et al., "Look One and More" (AAAI 2020, arXiv:2409.05384), which does not say how its
assistant is trained. This is one reading: student and assistant are one network at two
resolutions, with the same parameters and batch statistics of their own, and are trained
together. The other readings are runs of their own (``horkd``).
"""

import functools
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Stretch
from jaxkd.core.types import Batch, LossInputs, Method, ModelState, Params, Spec
from jaxkd.evaluators import resolution
from jaxkd.methods import horkd
from jaxkd.methods.common import adapters, classification, distillation
from jaxkd.methods.common.terms import check_weights

ASSISTANT = "assistant"


def make(
    spec: Spec,
    *,
    strides: tuple[int, ...],
    kd_weight: float = 0.0,
    first_weight: float = 1.0,
    second_weight: float = 25.0,
    third_weight: float = 50.0,
    teacher_weights: Mapping[str, float] | None = None,
    assistant_weight: float = 1.0,
    assistant_ce_weight: float = 1.0,
    ce_weight: float = 1.0,
    temperature: float = 4.0,
    warmup: float = 0.0,
    fade: Stretch | None = None,
    eval_sizes: tuple[int, ...] = (),
) -> Method:
    """Makes a student that is its own assistant at the teacher's resolution.

    ``ce_weight * CE + r * (assistant_ce * CE_a + sum_k weight_k * (share_t * L_k(s, t)
    + share_a * L_k(s, a) + assistant_weight * L_k(a, t)))`` with ``s``, ``a`` and ``t``
    of student, assistant and teacher, ``k`` one of ``kd_weight``, ``first_weight``,
    ``second_weight`` and ``third_weight`` as in ``horkd``, and ``r`` as there. Where
    the student learns from the assistant, no gradient enters the assistant; its own
    terms train the shared parameters. It reads what the teacher reads.

    Args:
      spec: the run.
      strides: of the assistant's stages, usually such that its maps have the sizes of
        the student's.
      kd_weight: weight of the divergence of the logits times the squared temperature.
      first_weight: weight of ``losses.first_order``.
      second_weight: weight of ``losses.second_order``.
      third_weight: weight of ``losses.third_order``.
      teacher_weights: of ``teacher`` and ``assistant`` in what the student learns;
        None is 0.5 for each.
      assistant_weight: of what the assistant learns from the teacher.
      assistant_ce_weight: weight of the assistant's cross entropy.
      ce_weight: of the student's cross entropy.
      temperature: of KD.
      warmup: units over which the weight of all but ``ce_weight`` rises.
      fade: units between which it falls to 0, linearly; None keeps it.
      eval_sizes: see ``horkd``.

    Raises:
      UserError: if the run has no teacher, the network takes no strides or not so many,
        they change its variables, or an option is out of its range.
    """
    given = {"teacher": 0.5, ASSISTANT: 0.5} | dict(teacher_weights or {})
    check_weights({**given, "assistant_weight": assistant_weight}, "horkd_joint")
    teacher = distillation.require(spec, "teacher", "horkd_joint")
    network = _assistant(spec, tuple(strides), teacher.input_key)

    def both(term):
        def run(inputs: LossInputs):
            large, own = inputs.targets["teacher"], inputs.outputs[ASSISTANT]
            value = given["teacher"] * term(inputs.params, inputs.outputs, large)
            fixed = jax.lax.stop_gradient(own)
            value += given[ASSISTANT] * term(inputs.params, inputs.outputs, fixed)
            return value + assistant_weight * term(inputs.params, own, large)

        return run

    def cross_entropy(inputs: LossInputs):
        return classification.cross_entropy(inputs.outputs[ASSISTANT], inputs.batch)

    weights = {
        "kd": kd_weight,
        "first": first_weight,
        "second": second_weight,
        "third": third_weight,
    }
    terms = {
        name: (weight, both(horkd.term(name, temperature)))
        for name, weight in weights.items()
    }
    method = distillation.student(
        spec,
        "horkd_joint",
        {"assistant_ce": (assistant_ce_weight, cross_entropy), **terms},
        ce_weight=ce_weight,
        warmup=warmup,
        fade=fade,
    )
    init, forward = _joined(method.init, method.forward, network, teacher.input_key)
    method = method._replace(init=init, forward=forward)
    return adapters.with_projection(method, spec, spec.frozen)._replace(
        evaluator=resolution.by_size(spec, tuple(eval_sizes))
    )


def _assistant(spec: Spec, strides: tuple[int, ...], input_key: str) -> nn.Module:
    """Returns the student's network with other strides; its parameters are the same."""
    own = getattr(spec.network, "strides", ())
    if len(own) != len(strides):
        raise UserError(
            f"Method 'horkd_joint' got strides={strides} for a network whose stages "
            f"have {tuple(own) or 'none'}, expected as many: the assistant is the "
            "student's network with other strides."
        )
    network = spec.network.clone(strides=strides)
    batch, key = spec.batch_shapes(1), jax.random.key(0)
    shapes = [
        jax.tree.map(jnp.shape, jax.eval_shape(one.init, key, batch[seen]))
        for one, seen in ((spec.network, spec.input_key), (network, input_key))
    ]
    if shapes[0] != shapes[1]:
        raise UserError(
            f"With strides={strides} the network has other variables than with "
            f"{tuple(own)}: a shortcut is a convolution only where the stride or the "
            "width changes. Expected strides that keep them, or a network whose width "
            "changes in every stage (config.model.stem, config.model.widths)."
        )
    return network


# Cached, so that students which differ in their weights share one compiled body.
@functools.cache
def _joined(
    init: Callable, forward: Callable, network: nn.Module, input_key: str
) -> tuple[Callable, Callable]:
    def init_both(key: jax.Array) -> tuple[Params, ModelState]:
        params, model_state = init(key)
        return params, {**model_state, ASSISTANT: model_state["student"]}

    def forward_both(
        params: Params, model_state: ModelState, batch: Batch, key: jax.Array
    ):
        outputs, model_state = forward(params, model_state, batch, key)
        variables = {"params": params["student"], **model_state[ASSISTANT]}
        (logits, features), updated = network.apply(
            variables,
            batch[input_key],
            train=True,
            mutable=list(model_state[ASSISTANT]),
        )
        seen = {"logits": logits, "features": features}
        return {**outputs, ASSISTANT: seen}, {**model_state, ASSISTANT: updated}

    return init_both, forward_both
