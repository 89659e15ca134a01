"""KD-LTR: a reader of small text lines learns from one of large lines.

Guo et al., "One-stage Low-resolution Text Recognition with High-resolution Knowledge
Transfer" (arXiv:2308.02770). The student begins as its teacher, with a first stride or
patch half as large, so that its maps are as large as the teacher's.
"""

import functools
from typing import Annotated, Any

import flax.linen as nn
import jax

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import SHARE
from jaxkd.core.types import LossInputs, Method, ModelState, Params, Spec
from jaxkd.methods.common import adapters, distillation, text
from jaxkd.methods.common.networks import frozen_outputs
from jaxkd.methods.common.terms import Term, add_up, check_weights
from jaxkd.models.text_recognition import SequenceProjection, for_half_size

PREDICTOR = "text"
NAME = "semantic"


class Semantic(nn.Module):
    """The projection that both readers share, and the contrast behind it.

    Attributes:
      hidden: see ``SequenceProjection``.
      width: likewise.
      temperature: of the contrast.
    """

    hidden: int
    width: int
    temperature: float

    @nn.compact
    def __call__(self, outputs, targets, batch) -> jax.Array:
        """Computes a scalar."""
        project = SequenceProjection(self.hidden, self.width, name="projection")
        own = project(outputs["features"]["semantic"])
        theirs = project(targets["teacher"]["features"]["semantic"])
        valid = text.valid_slots(batch)
        return losses.semantic_contrast(
            own, theirs, valid, temperature=self.temperature
        )


def make(
    spec: Spec,
    *,
    visual_weight: float = 4.0,
    semantic_weight: float = 2.0,
    logit_weight: float = 20.0,
    ce_weight: float = 0.025,
    visual_layer: str = "stage3",
    temperature: float = 4.0,
    alpha: Annotated[float, SHARE] = 0.2,
    threshold: float = 0.1,
    contrast_temperature: float = 0.1,
    hidden: int = 256,
    width: int = 512,
    warm: bool = True,
) -> Method:
    """Makes a student of the visual, semantic, logit and cross-entropy terms.

    Args:
      spec: of the run; it must need a teacher.
      visual_weight: of ``losses.focused_visual``.
      semantic_weight: of ``losses.semantic_contrast`` behind a shared projection.
      logit_weight: of ``losses.path_kd`` to ``losses.soft_path_targets``.
      ce_weight: of the cross-entropy with the labels.
      visual_layer: the compared features: ``stage3``, or ``tokens`` of a ViT.
      temperature: of the logit term.
      alpha: part of the most probable readings in its targets.
      threshold: probability from which these are trusted.
      contrast_temperature: of the semantic term.
      hidden: of each direction of the projection's LSTM.
      width: of the projection.
      warm: whether the student begins with the teacher's parameters.

    Raises:
      UserError: if the teacher is missing, a weight is negative, or features differ.
    """
    weights = {
        "visual": visual_weight,
        NAME: semantic_weight,
        "logit": logit_weight,
        "ce": ce_weight,
    }
    check_weights(weights, "kd_ltr")
    teacher = distillation.require(spec, "teacher", "kd_ltr")
    _check_features(spec, teacher, visual_layer)
    adapter = Semantic(hidden, width, contrast_temperature)

    def visual(inputs: LossInputs):
        theirs = inputs.targets["teacher"]["features"]
        focus = None
        if "attention" in theirs:
            valid = text.valid_slots(inputs.batch)
            focus = losses.character_focus(theirs["attention"], valid)
        own = inputs.outputs["features"][visual_layer]
        return losses.focused_visual(own, theirs[visual_layer], focus)

    def logit(inputs: LossInputs):
        targets, lengths = losses.soft_path_targets(
            inputs.targets["teacher"]["logits"],
            temperature=temperature,
            alpha=alpha,
            threshold=threshold,
        )
        return losses.path_kd(
            inputs.outputs["logits"], targets, lengths, temperature=temperature
        )

    functions = {
        "visual": visual,
        NAME: lambda inputs: adapters.apply(adapter, NAME, inputs),
        "logit": logit,
        "ce": text.cross_entropy,
    }
    terms = {
        name: Term(weights[name], function)
        for name, function in functions.items()
        if weights[name]
    }

    def loss(inputs: LossInputs):
        total = add_up(inputs, terms)
        right = text.exact(inputs.targets["teacher"]["logits"], inputs.batch).mean()
        return total._replace(metrics={**total.metrics, "teacher_exact": right})

    method = text.reader(spec, loss, {"teacher": frozen_outputs(teacher)})
    if semantic_weight:
        method = adapters.with_variables(method, spec, NAME, adapter)
    if warm:
        method = method._replace(warm_start=from_run(spec, "teacher"))
    return method


def from_run(spec: Spec, name: str):
    """Returns ``from_teacher`` of a needed run, whose patches are its network's."""
    network = spec.frozen[name].network if name in spec.frozen else None
    return from_teacher(name, tuple(getattr(network, "patch", (4, 8))))


# Cached, so that students that start alike hold one function.
@functools.cache
def from_teacher(name: str, patch: tuple[int, int]):
    """Returns a ``warm_start`` with the parameters of a reader of twice the size.

    Args:
      name: of the needed run.
      patch: of its network, see ``for_half_size``.
    """

    def start(
        params: Params, model_state: ModelState, frozen: Any
    ) -> tuple[Params, ModelState]:
        if name not in frozen:
            raise UserError(
                f"The student should begin as {name!r}, but config.needs names "
                f"{', '.join(frozen) or 'no run'}. Add that run to config.needs."
            )
        theirs = dict(frozen[name])
        own = {"params": params["student"], **model_state["student"]}
        try:
            moved = {
                key: for_half_size(theirs[key], tree, patch=patch)
                for key, tree in own.items()
            }
        except (ValueError, KeyError) as error:
            raise UserError(f"The student cannot begin as {name!r}: {error}") from error
        return (
            {**params, "student": moved.pop("params")},
            {**model_state, "student": moved},
        )

    return start


def _check_features(spec: Spec, teacher, layer: str) -> None:
    batch, found = spec.batch_shapes(1), {}
    for who, network, key in (
        ("student", spec.network, spec.input_key),
        ("teacher", teacher.network, teacher.input_key),
    ):
        _, features = jax.eval_shape(
            lambda key, x, network=network: network.init_with_output(key, x)[0],
            jax.random.key(0),
            batch[key],
        )
        if layer not in features:
            raise UserError(
                f"kd_ltr: the {who} has no features {layer!r}, expected one of "
                f"{', '.join(features)}. Set config.loss.visual_layer."
            )
        found[who] = features[layer].shape
    if found["student"] != found["teacher"]:
        raise UserError(
            f"kd_ltr: {layer!r} is {found['student'][1:]} in the student and "
            f"{found['teacher'][1:]} in the teacher, expected equal. Give the student "
            "first_stride 1 (or half the patch) and images of half the size."
        )
