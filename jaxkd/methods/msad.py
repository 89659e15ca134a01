"""MSAD: a detector of small images learns from one of large and small ones together.

Qi et al., "Multi-Scale Aligned Distillation for Low-Resolution Detection"
(arXiv:2109.06875). The teacher detects on the large image, on the small one (its
pyramid read one level lower, so that maps align) and on their fusion by a gate; the
student sees the small image, and imitates the fused pyramid.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import LossInputs, Method, ModelState, Params, Spec
from jaxkd.methods.common import detection, distillation
from jaxkd.methods.common.terms import Term, add_up, check_weights

PREDICTOR = "detection"
LOW = "low"
STAGES = ("teacher", "student")


def make(
    spec: Spec,
    *,
    stage: str = "student",
    fused_weight: float = 0.4,
    feature_weight: float = 0.2,
    temperature: float = 3.0,
    warmup: float = 500.0,
    warm: bool = True,
    official: bool = False,
) -> Method:
    """Makes the teacher or the student.

    The teacher's loss is ``FCOS(large) + FCOS(small) + fused_weight * FCOS(fused)``;
    its network has ``fusion`` and reads the field ``image``. The student's is ``FCOS +
    feature_weight * min(1, time / warmup) * losses.pyramid_distance``; it needs the
    run ``teacher``, and begins with its backbone and head.

    Args:
      spec: of the run.
      stage: ``"teacher"`` or ``"student"``.
      fused_weight: of the fused pyramid's loss.
      feature_weight: of the distance from the teacher's fused pyramid.
      temperature: of that distance, see there.
      warmup: units over which its weight rises; 500 steps in the paper.
      warm: whether the student begins as the teacher.
      official: see ``common.detection.head_losses``.

    Raises:
      UserError: if the teacher or its gate is missing, or an option is out of range.
    """
    lookup.choose(stage, dict.fromkeys(STAGES), what="stage of method 'msad'")
    check_weights({"fused": fused_weight, "feature": feature_weight}, "msad")
    where = detection.layout(spec)

    def terms_of(head, batch, prefix: str, weight: float) -> dict[str, Term]:
        found = detection.head_losses(head, batch, where, official=official)
        return {
            f"{prefix}{name}": Term(weight, detection.known(value))
            for name, value in found.items()
        }

    if stage == "teacher":
        return _teacher(spec, terms_of, fused_weight)
    teacher = distillation.require(spec, "teacher", "msad")
    _check_gate(teacher.network, "The teacher")

    def distance(inputs: LossInputs):
        return losses.pyramid_distance(
            inputs.outputs["features"],
            inputs.targets["teacher"],
            temperature=temperature,
        )

    def rising(step: jax.Array) -> jax.Array:
        return jnp.minimum(step / max(warmup * spec.steps_per_unit, 1.0), 1.0)

    def loss(inputs: LossInputs):
        terms = terms_of(inputs.outputs["head"], inputs.batch, "", 1.0)
        terms["features"] = Term(feature_weight, distance, rising)
        return add_up(inputs, terms)

    method = detection.detector(spec, loss, {"teacher": _fused(teacher)})
    return method._replace(warm_start=from_teacher("teacher") if warm else None)


def _teacher(spec: Spec, terms_of, fused_weight: float) -> Method:
    _check_gate(spec.network, "The network")
    if spec.input_key != detection.IMAGE or LOW not in spec.fields:
        raise UserError(
            f"MSAD's teacher reads {spec.input_key!r} of the fields "
            f"{', '.join(spec.fields)}, expected 'image', and 'low' beside it: leave "
            "out config.model.input, and choose the view 'detection'."
        )

    def loss(inputs: LossInputs):
        weights = {"large": 1.0, "small": 1.0, "fused": fused_weight}
        terms: dict[str, Term] = {}
        for name, weight in weights.items():
            terms |= terms_of(inputs.outputs[name], inputs.batch, f"{name}_", weight)
        return add_up(inputs, terms)

    method = detection.detector(spec, loss)
    return method._replace(forward=_two_sizes(spec.network))


@functools.cache
def _two_sizes(network):
    """Returns the teacher's ``forward``: both images, then their fusion."""

    def forward(params: Params, model_state: ModelState, batch: Any, key: jax.Array):
        del key
        state = dict(model_state["student"])
        maps = []
        for name, level in ((detection.IMAGE, 3), (LOW, 2)):
            found, updated = network.apply(
                {"params": params["student"], **state},
                batch[name],
                True,
                level,
                method="pyramid",
                mutable=list(state),
            )
            state = {**state, **updated}
            maps.append(found)
        variables = {"params": params["student"], **state}
        fused = network.apply(variables, *maps, method="fuse")
        heads = {
            name: network.apply(variables, one, method="detect")
            for name, one in zip(
                ("large", "small", "fused"), (*maps, fused), strict=True
            )
        }
        return heads, {**model_state, "student": state}

    return forward


@functools.cache
def _fused(teacher):
    """Returns the target function: the teacher's fused pyramid."""
    network = teacher.network

    def targets(variables: Any, batch: Any, key: jax.Array) -> dict[str, jax.Array]:
        del key
        maps = [
            network.apply(
                variables["teacher"],
                teacher.see(batch[name]),
                False,
                level,
                method="pyramid",
            )
            for name, level in ((detection.IMAGE, 3), (LOW, 2))
        ]
        fused = network.apply(variables["teacher"], *maps, method="fuse")
        return jax.lax.stop_gradient(fused)

    return targets


def _check_gate(network: Any, who: str) -> None:
    if not getattr(network, "fusion", False):
        raise UserError(
            f"{who} has no gate to fuse two pyramids. Set fusion = True in its "
            "config.model, which must be a detector such as 'fcos_small'."
        )


# Cached, so that students that start alike hold one function.
@functools.cache
def from_teacher(name: str):
    """Returns a ``warm_start`` with the teacher's backbone, pyramid and head."""

    def start(
        params: Params, model_state: ModelState, frozen: Any
    ) -> tuple[Params, ModelState]:
        if name not in frozen:
            raise UserError(
                f"The student should begin as {name!r}, but config.needs names "
                f"{', '.join(frozen) or 'no run'}. Add that run to config.needs."
            )
        theirs = frozen[name]
        own = {"params": params["student"], **model_state["student"]}
        moved = {
            collection: {part: theirs[collection].get(part) for part in tree}
            for collection, tree in own.items()
        }
        shapes = [jax.tree.map(jnp.shape, tree) for tree in (own, moved)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"The student cannot begin as {name!r}: their networks differ. Give "
                "both the same backbone and widths, or set config.loss.warm = False."
            )
        return (
            {**params, "student": moved.pop("params")},
            {**model_state, "student": moved},
        )

    return start
