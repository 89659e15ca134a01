"""HORKD: a student of small images keeps the teacher's relations of three orders.

Ge et al., "Look One and More" (AAAI 2020, arXiv:2409.05384). A *teacher* sees large
images, the *student* small ones; an *assistant*, which has the teacher's capacity and
the student's images (or the other way round), bridges the two. It is an ordinary run of
this method, which the student's run names in ``config.needs.assistant``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.ranges import Stretch
from jaxkd.core.types import LossInputs, Method, Spec
from jaxkd.losses.orders import Form
from jaxkd.methods.common import adapters, distillation, embedding, warm_start
from jaxkd.methods.common.terms import check_weights

ORDERS = ("kd", "first", "second", "third")


def make(
    spec: Spec,
    *,
    kd_weight: float = 0.0,
    first_weight: float = 1.0,
    second_weight: float = 25.0,
    third_weight: float = 50.0,
    extra_relations: Mapping[str, float] | None = None,
    teacher_weights: Mapping[str, float] | None = None,
    ce_weight: float = 1.0,
    temperature: float = 4.0,
    form: Form = "gram",
    chunk: int | None = None,
    warmup: float = 0.0,
    fade: Stretch | None = None,
    start_from: str = "",
    layer: embedding.Layer = "pooled",
    eval_sizes: tuple[int, ...] = (),
) -> Method:
    """Makes a student of CE and of what a teacher and an assistant say.

    ``ce_weight * CE + r * sum_n w_n * (kd_weight * KD + first_weight * L1 +
    second_weight * L2 + third_weight * L3)``, where ``n`` is the teacher or the
    assistant, and ``r`` rises over ``warmup`` and falls over ``fade``. Orders 2 and 3
    relate the pooled features; order 1 compares their directions, the student's behind
    a linear map if its features are not as many.

    The paper's weights are not public. 25 and 50 are those of the benchmarks of RKD for
    classification; for metric learning its authors take 1 and 2, without cross entropy.

    Args:
      spec: the run.
      kd_weight: weight of the divergence of the logits times the squared temperature.
      first_weight: weight of ``losses.first_order``.
      second_weight: weight of ``losses.second_order``.
      third_weight: weight of ``losses.third_order``.
      extra_relations: weights of other relations of the same features: ``cc`` (behind
        the map of order 1), ``darkrank``, ``pkt``, ``sp``.
      teacher_weights: weight of each needed run that teaches; None is ``{"teacher":
        1.0}``, and usual with an assistant is ``{"teacher": 0.5, "assistant": 0.5}``.
      ce_weight: of the cross entropy with the labels.
      temperature: of KD.
      form: of orders 2 and 3, ``"gram"`` or ``"direct"``.
      chunk: see ``losses.third_order``; with form ``"direct"`` only.
      warmup: units over which the weight of both networks rises.
      fade: units between which it falls to 0, linearly; None keeps it.
      start_from: name of a needed run whose network the student starts from.
      layer: features that relations are between. ``"embedding"`` is for networks that
        embed, such as ``embed8``; pairs of test images are then verified, who may show
        people that no training image does.
      eval_sizes: sides to which test images are reduced after training, for the
        accuracy by resolution; none leaves this out.

    Raises:
      UserError: if the run lacks a network that has a weight, a network lacks the
        layer, or an option is out of its range.
    """
    weights = dict(
        zip(ORDERS, (kd_weight, first_weight, second_weight, third_weight), strict=True)
    )
    weights |= dict(extra_relations or {})
    _check_names(weights)
    embedding.check_layer(spec, "horkd", layer, eval_sizes)
    given = dict({"teacher": 1.0} if teacher_weights is None else teacher_weights)
    check_weights({**weights, **given}, "horkd")
    if not any(weights.values()):
        given = {}
    given = {name: weight for name, weight in given.items() if weight}

    def shared(one):
        def run(inputs: LossInputs):
            said = [
                weight * one(inputs.params, inputs.outputs, inputs.targets[name])
                for name, weight in given.items()
            ]
            return jnp.sum(jnp.stack(said))

        return run

    terms = {
        name: (
            weight if given else 0.0,
            shared(term(name, temperature, form, chunk, layer)),
        )
        for name, weight in weights.items()
    }
    method = distillation.student(
        spec,
        "horkd",
        terms,
        given,
        ce_weight=ce_weight,
        warmup=warmup,
        fade=fade,
    )
    method = adapters.with_projection(method, spec, spec.frozen, layer, layer)
    return embedding.measured(method, spec, layer, eval_sizes)._replace(
        warm_start=warm_start.from_needed_run(start_from) if start_from else None
    )


def term(
    name: str,
    temperature: float,
    form: Form = "gram",
    chunk: int | None = None,
    layer: embedding.Layer = "pooled",
) -> Callable[[Any, Any, Any], jax.Array]:
    """Returns ``(params, outputs, reference) -> scalar``, one of the terms of ``make``.

    Outputs and reference are dictionaries of ``logits`` and ``features``.
    """
    rows: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
        "second": lambda s, t: losses.second_order(s, t, form=form),
        "third": lambda s, t: losses.third_order(s, t, form=form, chunk=chunk),
        "pkt": losses.pkt,
        "sp": losses.similarity_preserving,
        "darkrank": losses.darkrank,
    }
    behind_map = {"first": losses.first_order, "cc": losses.correlation_congruence}

    def run(params, outputs, reference) -> jax.Array:
        if name == "kd":
            logits = outputs["logits"], reference["logits"]
            return jnp.mean(losses.kd(*logits, temperature=temperature))
        s, t = outputs["features"][layer], reference["features"][layer]
        if name in behind_map:
            s = adapters.project(params, s, t.shape[-1])
        return jnp.mean((behind_map | rows)[name](s, t))

    return run


def _check_names(weights: Mapping[str, float]) -> None:
    known = (*ORDERS, "cc", "darkrank", "pkt", "sp")
    unknown = [name for name in weights if name not in known]
    if unknown:
        raise UserError(
            f"Method 'horkd' has no further relation {', '.join(unknown)}, expected "
            f"some of {', '.join(known[len(ORDERS) :])}."
        )
