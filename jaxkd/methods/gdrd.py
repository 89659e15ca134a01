"""GDRD: a generative teacher makes the features, a discriminative one the decision.

"Distilling Generative-Discriminative Representations for Very Low-Resolution Face
Recognition" (arXiv:2409.06371), in two runs. In the first, the student's early stages
learn to predict the encoder features of a denoiser that is shown the large image
(``jaxkd.methods.gdrd_generator``). In the second these are frozen, and the student's
later stages learn from labels and from a classifier of large images, by KD and by relational
contrast. The weights are not public. The margin (ArcFace) that is usual for faces is
left out: the cross entropy is a plain one.
"""

import functools
from collections.abc import Callable, Sequence

import jax

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import Aux, Batch, Extra, Method, Params, Spec
from jaxkd.evaluators import resolution
from jaxkd.losses.numerics import unit
from jaxkd.methods import streams
from jaxkd.methods.common import classification, distillation

STAGES = ("generative", "discriminative")


def make(
    spec: Spec,
    *,
    stage: str = "discriminative",
    tap: str = "stage2",
    generator_tap: str = "stage3",
    head: Sequence[str] = ("stage3", "fc"),
    freeze: bool = True,
    start_from: str = "",
    kd: float = 1.0,
    contrast: float = 0.8,
    ce_weight: float = 1.0,
    temperature: float = 0.1,
    kd_temperature: float = 4.0,
    warmup: float = 0.0,
    fade: tuple[float, float] | None = None,
    curve: tuple[int, ...] = (),
) -> Method:
    """Makes a student of one of the two stages.

    The generative stage is ``losses.relative_error`` of the tapped features, behind a
    linear map of channels and with each channel centred over the batch (the generator's
    scaled, too), so that a constant has an error of 1; it needs the run ``generator``.
    The discriminative one is ``ce_weight * CE + kd * KD + contrast * L``; it needs the
    run ``teacher``.

    Args:
      spec: the run.
      stage: ``"generative"`` or ``"discriminative"``.
      tap: the student's features that the generator's are predicted from.
      generator_tap: the generator's features; averaged down to the size of the
        student's.
      head: beginnings of the names of the layers that the discriminative stage trains.
      freeze: whether the other layers are frozen there. Their batch statistics still
        follow the images. A frozen student wants ``config.optim.weight_decay = 0``,
        since weight decay knows nothing of this.
      start_from: name of the needed run of the generative stage.
      kd: weight of the divergence of the logits times the squared temperature.
      contrast: weight of ``losses.relation_contrast`` of the pooled features.
      ce_weight: of the cross entropy with the labels.
      temperature: of the contrast.
      kd_temperature: of KD.
      warmup: units over which the weights of KD and contrast rise.
      fade: units between which they fall to 0, linearly; None keeps them.
      curve: see ``jaxkd.methods.horkd``.

    Raises:
      UserError: if a needed run or a feature is missing, or an option out of its range.
    """
    lookup.choose(stage, dict.fromkeys(STAGES), what="stage of method 'gdrd'")
    if stage == "generative":
        return _generative(spec, tap, generator_tap)

    def relate(params, extra, outputs, batch, targets, key):
        del batch, key
        t = targets["teacher"]["features"]["pooled"]
        s = streams.mapped(params, outputs["features"]["pooled"], t.shape[-1])
        value = losses.relation_contrast(unit(s), unit(t), temperature=temperature)
        return value, extra

    def soften(params, extra, outputs, batch, targets, key):
        del params, batch, key
        logits = outputs["logits"], targets["teacher"]["logits"]
        return losses.kd(*logits, temperature=kd_temperature), extra

    method = streams.student(
        spec,
        "gdrd",
        {"contrast": (contrast, relate), "kd": (kd, soften)},
        ce_weight=ce_weight,
        warmup=warmup,
        fade=fade,
    )
    method = streams.with_maps(method, spec, ("teacher",))
    _check_head(method, tuple(head))
    return method._replace(
        forward=_frozen(method.forward, tuple(head)) if freeze else method.forward,
        adopt=streams.adopt(start_from) if start_from else None,
        assess=resolution.curve(spec, tuple(curve)),
    )


def _centred(x: jax.Array, scaled: bool = False) -> jax.Array:
    """Takes away each channel's mean over batch and places.

    What is the same for all images tells nothing of them, and would be learned first.
    """
    axes = tuple(range(x.ndim - 1))
    x = x - x.mean(axes)
    return x / (x.std(axes) + 1e-6) if scaled else x


def _generative(spec: Spec, tap: str, generator_tap: str) -> Method:
    generator = distillation.require(spec, "generator", "gdrd")
    name = "generative"

    def loss(params, extra, outputs, batch, targets, key, step):
        del batch, key, step
        s = outputs["features"][tap]
        t = targets["generator"]["features"][generator_tap]
        t = losses.adaptive_average_pool(t, s.shape[1:3])
        s = streams.mapped(params, s, t.shape[-1])
        value = losses.relative_error(_centred(s), _centred(t, scaled=True))
        return value, Aux(extra, {name: value})

    targets = {"generator": classification.frozen_outputs(generator, "generator")}
    method = classification.classifier(spec, loss, (name,), targets)
    return streams.with_maps(method, spec, ("generator",), tap, generator_tap)


@functools.cache
def _frozen(forward: Callable, head: tuple[str, ...]) -> Callable:
    """Stops the gradients of all layers but the head's."""

    def run(params: Params, extra: Extra, batch: Batch, key: jax.Array):
        layers = {
            name: layer if name.startswith(head) else jax.lax.stop_gradient(layer)
            for name, layer in params["student"].items()
        }
        return forward({**params, "student": layers}, extra, batch, key)

    return run


def _check_head(method: Method, head: tuple[str, ...]) -> None:
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    names = list(params["student"])
    missing = [each for each in head if not any(n.startswith(each) for n in names)]
    if missing:
        raise UserError(
            f"Method 'gdrd' trains the head {', '.join(head)}, but the student has no "
            f"layer {', '.join(missing)}. Its layers: {', '.join(names)}."
        )
