"""GDRD: a generative teacher makes the features, a discriminative one the decision.

"Distilling Generative-Discriminative Representations for Very Low-Resolution Face
Recognition" (arXiv:2409.06371), in two runs. In the first, the student's early stages
learn to predict the encoder features of a denoiser that is shown the large image
(``jaxkd.methods.gdrd_generator``). In the second these are frozen, and the student's
later stages learn from labels and from a classifier of large images, by KD and by
relational contrast. The weights are not public. The margin (ArcFace) that is usual for
faces is left out: the cross entropy is a plain one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Stretch
from jaxkd.core.types import FROZEN, MAIN, Loss, LossInputs, Method, Params, Spec
from jaxkd.evaluators import resolution
from jaxkd.losses.numerics import unit
from jaxkd.methods.common import adapters, classification, distillation, warm_start
from jaxkd.methods.common.networks import frozen_outputs

STAGES = ("generative", "discriminative")


def make(
    spec: Spec,
    *,
    stage: str = "discriminative",
    layer: str = "stage2",
    generator_layer: str = "stage3",
    head: Sequence[str] = ("stage3", "fc"),
    freeze: bool = True,
    start_from: str = "",
    kd_weight: float = 1.0,
    contrast_weight: float = 0.8,
    ce_weight: float = 1.0,
    temperature: float = 0.1,
    kd_temperature: float = 4.0,
    warmup: float = 0.0,
    fade: Stretch | None = None,
    eval_sizes: tuple[int, ...] = (),
) -> Method:
    """Makes a student of one of the two stages.

    The generative stage is ``losses.relative_error`` of the features of two layers,
    behind a linear map of channels and with each channel centred over the batch (the
    generator's scaled, too), so that a constant has an error of 1; it needs the run
    ``generator``. The discriminative one is ``ce_weight * CE + kd_weight * KD +
    contrast_weight * L``; it needs the
    run ``teacher``.

    Args:
      spec: the run.
      stage: ``"generative"`` or ``"discriminative"``.
      layer: the student's features that the generator's are predicted from.
      generator_layer: the generator's features; averaged down to the size of the
        student's.
      head: beginnings of the names of the layers that the discriminative stage trains.
      freeze: whether the other layers are frozen there. Their batch statistics still
        follow the images.
      start_from: name of the needed run of the generative stage.
      kd_weight: weight of the divergence of the logits times the squared temperature.
      contrast_weight: weight of ``losses.relation_contrast`` of the pooled features.
      ce_weight: of the cross entropy with the labels.
      temperature: of the contrast.
      kd_temperature: of KD.
      warmup: units over which the weights of KD and contrast rise.
      fade: units between which they fall to 0, linearly; None keeps them.
      eval_sizes: see ``jaxkd.methods.horkd``.

    Raises:
      UserError: if a needed run or a feature is missing, or an option out of its range.
    """
    lookup.choose(stage, dict.fromkeys(STAGES), what="stage of method 'gdrd'")
    if stage == "generative":
        return _generative(spec, layer, generator_layer)

    def relate(inputs: LossInputs):
        t = inputs.targets["teacher"]["features"]["pooled"]
        s = adapters.project(
            inputs.params, inputs.outputs["features"]["pooled"], t.shape[-1]
        )
        value = losses.relation_contrast(unit(s), unit(t), temperature=temperature)
        return value

    def soften(inputs: LossInputs):
        logits = inputs.outputs["logits"], inputs.targets["teacher"]["logits"]
        return losses.kd(*logits, temperature=kd_temperature)

    method = distillation.student(
        spec,
        "gdrd",
        {"contrast": (contrast_weight, relate), "kd": (kd_weight, soften)},
        ce_weight=ce_weight,
        warmup=warmup,
        fade=fade,
    )
    method = adapters.with_projection(method, spec, ("teacher",))
    _check_head(method, tuple(head))
    return method._replace(
        trainable=_trains(tuple(head)) if freeze else None,
        warm_start=warm_start.from_needed_run(start_from) if start_from else None,
        evaluator=resolution.by_size(spec, tuple(eval_sizes)),
    )


def _centred(x: jax.Array, scaled: bool = False) -> jax.Array:
    """Takes away each channel's mean over batch and places.

    What is the same for all images tells nothing of them, and would be learned first.
    """
    axes = tuple(range(x.ndim - 1))
    x = x - x.mean(axes)
    return x / (x.std(axes) + 1e-6) if scaled else x


def _generative(spec: Spec, layer: str, generator_layer: str) -> Method:
    generator = distillation.require(spec, "generator", "gdrd")
    name = "generative"

    def loss(inputs: LossInputs):
        s = inputs.outputs["features"][layer]
        t = inputs.targets["generator"]["features"][generator_layer]
        t = losses.adaptive_average_pool(t, s.shape[1:3])
        s = adapters.project(inputs.params, s, t.shape[-1])
        value = losses.relative_error(_centred(s), _centred(t, scaled=True))
        return Loss(value, inputs.model_state, {name: value})

    targets = {"generator": frozen_outputs(generator, "generator")}
    method = classification.classifier(spec, loss, targets)
    return adapters.with_projection(
        method, spec, ("generator",), layer, generator_layer
    )


@functools.cache
def _trains(head: tuple[str, ...]) -> Callable[[Params], Any]:
    """Returns a ``trainable`` that freezes all layers of the student but the head."""

    def labels(params: Params) -> Any:
        layers = {
            name: MAIN if name.startswith(head) else FROZEN
            for name in params["student"]
        }
        return {**dict.fromkeys(params, MAIN), "student": layers}

    return labels


def _check_head(method: Method, head: tuple[str, ...]) -> None:
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    names = list(params["student"])
    missing = [each for each in head if not any(n.startswith(each) for n in names)]
    if missing:
        raise UserError(
            f"Method 'gdrd' trains the head {', '.join(head)}, but the student has no "
            f"layer {', '.join(missing)}. Its layers: {', '.join(names)}."
        )
