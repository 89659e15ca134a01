"""MKD: knowledge for super-resolution that is learnt so that the transfer helps.

"Meta Knowledge Distillation for Single Image Super-Resolution" (arXiv:2207.08356), of
which neither code nor equations are public; built after its abstract. Knowledge
networks (``jaxkd.models.krnet``) turn the features of student and teacher into
comparable maps. They are learnt by the reconstruction of images that the student has
not stepped on: bi-level, by differentiating through one virtual step of the student.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    MAIN,
    Batch,
    Loss,
    LossInputs,
    Method,
    Params,
    Spec,
    Update,
    UpdateInputs,
)
from jaxkd.evaluators import perceptual
from jaxkd.losses.restoration import knowledge_distance
from jaxkd.methods.common import adapters, distillation, super_resolution
from jaxkd.methods.common.networks import frozen_outputs
from jaxkd.methods.common.terms import Term, add_up, check_weights
from jaxkd.models.krnet import KRNet

PREDICTOR = "super_resolution"
NAME, META = "knowledge", "meta"


class Knowledge(nn.Module):
    """The knowledge networks of all taps, and the distance of what they make.

    Attributes:
      taps: names of the features.
      kinds: of texture.
      hidden: see ``krnet.KRNet``.
    """

    taps: Sequence[str]
    kinds: int
    hidden: int

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Computes ``[batch]``, the sum over the taps."""
        del batch
        taught, total = targets["teacher"]["features"], jnp.zeros(())
        for tap in self.taps:
            network = KRNet(self.kinds, self.hidden, name=tap)
            own, theirs, gates = network(outputs["features"][tap], taught[tap])
            total = total + knowledge_distance(own, theirs, gates)
        return total


def make(
    spec: Spec,
    *,
    knowledge_weight: float = 0.1,
    taps: Sequence[str] = ("stage1", "stage2"),
    kinds: int = 4,
    hidden: int = 16,
    meta_every: int = 5,
    first_order: bool = False,
    lpips: str = "",
) -> Method:
    """Makes a student of ``L1 + knowledge_weight * knowledge`` and its meta step.

    Every ``meta_every`` steps, before the student's own, the knowledge networks ``phi``
    move down the gradient of ``L1(theta'(phi))`` on the second half of the batch, with
    ``theta' = theta - r grad [L1 + weight * knowledge(phi)]`` on the first half and
    ``r`` the student's learning rate. Their optimiser is ``config.optimizers.meta``.

    Args:
      spec: of the run; it must need a teacher.
      knowledge_weight: positive.
      taps: names of the features that are compared, of both networks.
      kinds: of texture, kernels per tap.
      hidden: width inside the knowledge networks.
      meta_every: steps between meta steps.
      first_order: whether the virtual step is taken as a constant shift, so that the
        knowledge networks learn from the student's features at ``theta'`` alone:
        cheaper, and no gradient of a gradient.
      lpips: file of weights for LPIPS after training, see
        ``jaxkd.readers.lpips_weights``; empty for none.

    Raises:
      UserError: if the teacher is missing, sizes differ, LPIPS' file does not fit, or
        an option is out of its range.
    """
    check_weights({NAME: knowledge_weight}, "mkd")
    if meta_every < 1 or not knowledge_weight:
        raise UserError(
            f"mkd: meta_every is {meta_every} and knowledge_weight "
            f"{knowledge_weight}, expected at least 1 and a positive weight. Without "
            "knowledge use the method 'super_resolution'."
        )
    teacher = distillation.require(spec, "teacher", "mkd")
    adapter = Knowledge(tuple(taps), kinds, hidden)

    def knowledge(inputs: LossInputs):
        return adapters.apply(adapter, NAME, inputs)

    terms = {
        "l1": Term(1.0, super_resolution.l1),
        NAME: Term(knowledge_weight, knowledge),
    }

    def loss(inputs: LossInputs) -> Loss:
        return add_up(inputs, terms)

    targets = {"teacher": frozen_outputs(teacher, output="image")}
    method = super_resolution.enlarger(spec, loss, targets)
    method = adapters.with_variables(method, spec, NAME, adapter)
    return method._replace(
        evaluator=perceptual.by_file(spec, lpips),
        trainable=_labels,
        update=_update(spec, method.forward, loss, meta_every, first_order),
    )


def _labels(params: Params) -> Any:
    return {**dict.fromkeys(params, MAIN), NAME: META}


def _update(
    spec: Spec,
    forward: Callable,
    loss: Callable[[LossInputs], Loss],
    meta_every: int,
    first_order: bool,
) -> Callable[[UpdateInputs], Update]:
    def whole(params: Params, inputs: LossInputs) -> Loss:
        outputs, model_state = forward(
            params, inputs.model_state, inputs.batch, inputs.key
        )
        return loss(
            inputs._replace(params=params, outputs=outputs, model_state=model_state)
        )

    def update(step: UpdateInputs) -> Update:
        rate = step.learning_rate[MAIN]

        def meta(params: Params, inputs: LossInputs) -> Loss:
            return meta_loss(whole, params, inputs, rate, first_order)

        def moved(params, opt_state):
            gradients, _ = step.gradients(
                meta, params, step.model_state, label=META, salt=1
            )
            params, opt_state = step.apply(params, gradients, opt_state, label=META)
            return params, opt_state

        def kept(params, opt_state):
            return params, opt_state

        params, opt_state = jax.lax.cond(
            step.step % meta_every == 0, moved, kept, step.params, step.opt_state
        )
        gradients, found = step.gradients(whole, params, step.model_state, label=MAIN)
        params, opt_state = step.apply(params, gradients, opt_state, label=MAIN)
        return Update(params, found.model_state, opt_state, found.value, found.metrics)

    return update


def meta_loss(
    loss: Callable[[Params, LossInputs], Loss],
    params: Params,
    inputs: LossInputs,
    rate: jax.Array | float,
    first_order: bool = False,
) -> Loss:
    """Computes a student's error on half of a batch after a virtual step on the other.

    Args:
      loss: ``(params, inputs) -> Loss``, whose metric ``l1`` is the error.
      params: ``student`` and the knowledge networks.
      inputs: of the batch, of at least two examples.
      rate: of the virtual step, plain gradient descent.
      first_order: see ``make``.
    """
    size = len(jax.tree.leaves(inputs.targets)[0])
    if size < 2:
        raise UserError(
            f"mkd: a (micro-)batch has {size} example, expected at least 2: one half "
            "for the virtual step, one to look at after it. Lower config.accumulate."
        )
    first, second = (
        inputs._replace(
            batch=_half(inputs.batch, part, size),
            targets=_half(inputs.targets, part, size),
        )
        for part in (slice(None, size // 2), slice(size // 2, None))
    )

    def of_student(theta):
        return loss({**params, "student": theta}, first).value

    theta = params["student"]
    slope = jax.grad(of_student)(theta)
    if first_order:
        slope = jax.lax.stop_gradient(slope)
    virtual = jax.tree.map(lambda x, g: x - rate * g, theta, slope)
    found = loss({**params, "student": virtual}, second)
    if first_order:
        return Loss(found.value, inputs.model_state, {})
    return Loss(found.metrics["l1"], inputs.model_state, {})


def _half(tree: Any, part: slice, size: int) -> Batch:
    def cut(x):
        return x[part] if jnp.ndim(x) and jnp.shape(x)[0] == size else x

    return jax.tree.map(cut, tree)
