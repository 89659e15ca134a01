"""DINO: a student matches its moving average's prototypes (arXiv:2104.14294)."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.types import Loss, LossInputs, Method, Spec
from jaxkd.methods.common import self_supervised
from jaxkd.methods.common.self_supervised import apply
from jaxkd.models.projection import PrototypeHead

PARTS = ("student", "projector")


def make(
    spec: Spec,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    warm_teacher_temperature: float = 0.04,
    warmup: float = 5.0,
    freeze: float = 1.0,
    momentum: float = 0.996,
    centre_momentum: float = 0.9,
    hidden: int = 512,
    bottleneck: int = 64,
    prototypes: int = 2048,
) -> Method:
    """Makes an encoder trained by self-distillation over views and local views.

    The teacher sees ``views``, the student these and ``local_views`` if the view makes
    them. The paper warms the teacher's temperature from 0.04 to 0.07.

    Args:
      spec: the run.
      student_temperature: of the student's softmax.
      teacher_temperature: of the teacher's, after ``warmup``.
      warm_teacher_temperature: of the teacher's at the beginning.
      warmup: units over which it changes linearly.
      freeze: units at the beginning in which the prototypes do not move.
      momentum: of the teacher at the beginning; it rises to 1 along a cosine.
      centre_momentum: of the centre of the teacher's outputs.
      hidden: width of the head.
      bottleneck: width of the unit vector before the prototypes.
      prototypes: number of outputs.
    """
    self_supervised.exactly_two(spec, "dino")
    network, width = spec.network, self_supervised.encoder_features(spec)
    head = PrototypeHead(hidden, bottleneck, prototypes)
    shape = spec.fields["views"].shape[1:]
    frozen_steps = round(freeze * spec.steps_per_unit)

    def init(key):
        params, state = self_supervised.init_modules(
            key,
            {
                "student": (network, (jnp.zeros((2, *shape)),)),
                "projector": (head, (jnp.zeros((2, width)),)),
            },
        )
        state["target"] = {
            "params": {part: params[part] for part in PARTS},
            "state": {part: state[part] for part in PARTS},
        }
        state["memory"] = {
            "centre": jnp.zeros(prototypes),
            "prototypes_move": jnp.asarray(frozen_steps <= 0),
        }
        return params, state

    def scores(params, state, images):
        """Maps ``[batch, views, h, w, c]`` to ``[views, batch, prototypes]``."""
        (_, features), own = apply(
            network,
            params["student"],
            state["student"],
            self_supervised.join_views(images),
            train=True,
        )
        rows: Any = head.apply({"params": params["projector"]}, features["pooled"])
        rows = self_supervised.split_views(rows, images.shape[1])
        return rows, features["pooled"], own

    def forward(params, model_state, batch, key):
        del key
        move = model_state["memory"]["prototypes_move"]
        still = params["projector"]["prototypes"]
        projector = {
            **params["projector"],
            "prototypes": jnp.where(move, still, jax.lax.stop_gradient(still)),
        }
        params = {**params, "projector": projector}
        student, h, own = scores(params, model_state, batch["views"])
        model_state = {**model_state, "student": own}
        if "local_views" in batch:
            local, _, own = scores(params, model_state, batch["local_views"])
            student = jnp.concatenate([student, local])
            model_state["student"] = own
        target = model_state["target"]
        teacher, _, own = scores(target["params"], target["state"], batch["views"])
        state = {**target["state"], "student": own}
        model_state["target"] = {**target, "state": state}
        teacher = jax.lax.stop_gradient(teacher)
        return {"student": student, "teacher": teacher, "h": h}, model_state

    def loss(inputs: LossInputs) -> Loss:
        outputs, memory = inputs.outputs, inputs.model_state["memory"]
        units = inputs.step / spec.steps_per_unit
        share = jnp.clip(units / max(warmup, 1e-6), 0, 1)
        warm = warm_teacher_temperature
        value = jnp.mean(
            losses.dino(
                outputs["student"],
                outputs["teacher"],
                memory["centre"],
                student_temperature=student_temperature,
                teacher_temperature=warm + (teacher_temperature - warm) * share,
            )
        )
        centre = losses.centre_update(
            memory["centre"], outputs["teacher"], momentum=centre_momentum
        )
        state = {**inputs.model_state, "memory": {**memory, "centre": centre}}
        spread = self_supervised.feature_std(outputs["h"])
        return Loss(value, state, {"dino": value, "feature_std": spread})

    move_target = self_supervised.move_target(
        lambda step: losses.cosine_momentum(step, spec.steps, momentum)
    )

    def after_step(params, model_state, step):
        moved = move_target(params, model_state, step)
        free = step + 1 >= frozen_steps
        return {**moved, "memory": {**moved["memory"], "prototypes_move": free}}

    return self_supervised.pretrainer(spec, init, forward, loss, after_step=after_step)
