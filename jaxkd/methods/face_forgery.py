"""Face forgery detection with meaning (arXiv:2405.08487, arXiv:2408.16305).

One network with a logit for each node of a label graph (fake; which attribute; which
region), read by one of four heads: ``graph`` (marginals over consistent labels),
``multilabel`` (independent sigmoids), ``binary`` (the first logit alone) and
``multiclass`` (real, or one of the training methods). The losses of the graph's levels
have fixed weights, or are weighted by uncertainty, or for the sake of the first level
(Auto-lambda).

Batches hold ``label`` (1 is fake), ``code`` ``[batch, nodes]`` (2 where unknown) and,
for ``multiclass``, ``manipulation`` (0 is real).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd import losses
from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.types import (
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Score,
    Spec,
)
from jaxkd.losses import label_graph
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.methods.common import auto_lambda
from jaxkd.methods.common.auto_lambda import TASK_WEIGHTS
from jaxkd.methods.common.label_heads import (
    GRAPHS,
    HEADS,
    Levels,
    evaluate,
    read_out,
    single_loss,
)

__all__ = ["GRAPHS", "HEADS", "PREDICTOR", "evaluate", "make", "read_out"]

PREDICTOR = "face_forgery"
ACCURACY = Score("accuracy", "accuracy, real or fake")

WEIGHTINGS = ("fixed", "uncertainty", "auto")


class _Functions(NamedTuple):
    init: Callable
    forward: Callable
    predict: Callable


# Cached, so that students that differ in their loss alone share one compiled body.
@functools.cache
def _functions(
    network: nn.Module,
    image_shape: tuple[int, ...],
    input_key: str,
    head: str,
    graph: LabelGraph,
    root_bias: bool,
    extra: tuple[str, ...],
) -> _Functions:
    levels = len(graph.levels)

    def init(key: jax.Array) -> tuple[Params, ModelState]:
        variables = dict(network.init(key, jnp.zeros((1, *image_shape))))
        params = variables.pop("params")
        if root_bias:
            params = _with_root_bias(params, graph)
        starts = {TASK_WEIGHTS: jnp.ones(levels), "log_variances": jnp.zeros(levels)}
        own = {name: starts[name] for name in extra}
        return {"student": params, **own}, {"student": variables}

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        variables = {"params": params["student"], **model_state["student"]}
        (logits, _), updated = network.apply(
            variables,
            batch[input_key],
            train=True,
            mutable=list(model_state["student"]),
            rngs={"dropout": key},
        )
        return {"logits": logits}, {**model_state, "student": updated}

    def predict(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        logits, _ = network.apply(variables, batch[input_key], train=False)
        found = read_out(logits, head, graph)
        outputs = {"logits": logits, "fake_logit": found.fake_logit}
        if found.log_p is not None:
            outputs["nodes"] = jnp.exp(found.log_p)
        return outputs

    return _Functions(init, forward, predict)


def _with_root_bias(params: Params, graph: LabelGraph) -> Params:
    """Lowers the root's logit so that an untrained network is undecided."""
    head = params.get("fc", {})
    if "bias" not in head:
        raise UserError(
            "The network has no last layer 'fc' with a bias to start from. Set "
            "config.loss.root_bias = False."
        )
    bias = head["bias"].at[0].add(graph.root_bias)
    return {**params, "fc": {**head, "bias": bias}}


def make(
    spec: Spec,
    *,
    graph: str = "ffsc",
    head: str = "graph",
    kind: str = "bce",
    weighting: str = "fixed",
    level_weights: tuple[float, ...] = (1.0, 1.0, 1.0),
    mean: str = "batch",
    hold_out: str = "",
    root_bias: bool = True,
    negative_weights: bool = False,
    official: bool = False,
) -> Method:
    """Makes a detector of forged faces.

    Args:
      spec: the run; its network has a logit for each node of the graph.
      graph: ``"ffsc"`` or ``"ffpp"``.
      head: one of ``HEADS``.
      kind: ``"bce"`` or ``"fidelity"``, see ``losses.level_losses``.
      weighting: of the levels: ``"fixed"`` by ``level_weights``, ``"uncertainty"``
        (arXiv:1705.07115), or ``"auto"``: Auto-lambda. There half of the batch takes
        the virtual step, the other half tells what it did to the first level, and the
        whole batch takes the step itself; the published code draws a second batch. The
        weights are trained by ``config.optimizers.task_weights``.
      level_weights: of ``"fixed"``; and what ``"auto"`` multiplies.
      mean: see ``losses.level_losses``.
      hold_out: name of a node; training leaves out the images that have it (protocol
        2: an attribute that is never seen).
      root_bias: whether the graph's root starts at a probability of one half.
      negative_weights: whether Auto-lambda may turn a weight negative, as published.
      official: whether the gradient of the weights keeps the learning rate as a factor,
        as published: with rates of 1e-6 it drowns in Adam's epsilon.

    Raises:
      UserError: if an option is unknown or the network has another number of logits.
    """
    choices = {"graph": graph, "head": head, "kind": kind, "weighting": weighting}
    allowed = {"graph": GRAPHS, "head": HEADS, "kind": label_graph.KINDS}
    for name, value in choices.items():
        options = dict.fromkeys(allowed.get(name, WEIGHTINGS))
        lookup.choose(value, options, what=f"config.loss.{name}")
    labels = GRAPHS[graph]()
    _check(spec, labels, head, weighting, level_weights, hold_out)
    extra = {"auto": (TASK_WEIGHTS,), "uncertainty": ("log_variances",)}
    functions = _functions(
        spec.network,
        spec.image_shape,
        spec.input_key,
        head,
        labels,
        root_bias and head == "graph",
        extra.get(weighting, ()),
    )
    of_levels = Levels(labels, head, kind, mean, hold_out)
    fixed = jnp.asarray(level_weights, jnp.float32)

    def loss(inputs: LossInputs) -> Loss:
        logits = inputs.outputs["logits"]
        if head in ("binary", "multiclass"):
            value = single_loss(logits, inputs.batch, head, of_levels.kept)
            return Loss(value, inputs.model_state, _accuracy(logits, inputs, of_levels))
        values = of_levels(logits, inputs.batch)
        if weighting == "uncertainty":
            logs = inputs.params["log_variances"]
            total = losses.uncertainty_weighting(values, logs)
            weights = jnp.exp(-logs)
        else:
            weights = fixed
            if weighting == "auto":
                weights = fixed * jax.lax.stop_gradient(inputs.params[TASK_WEIGHTS])
            total = jnp.sum(weights * values)
        found = {f"level{i + 1}": value for i, value in enumerate(values)}
        found |= {f"weight{i + 1}": weight for i, weight in enumerate(weights)}
        found |= _accuracy(logits, inputs, of_levels)
        return Loss(total, inputs.model_state, found)

    update = trainable = None
    if weighting == "auto":
        update = auto_lambda.update(
            functions.forward, loss, of_levels, fixed, negative_weights, official
        )
        trainable = auto_lambda.trainable
    return Method(
        targets={},
        loss=loss,
        evaluate=evaluate,
        score=ACCURACY,
        trainable=trainable,
        update=update,
        evaluator=_evaluator,
        **functions._asdict(),
    )


def _accuracy(logits, inputs: LossInputs, levels: Levels) -> dict[str, jax.Array]:
    odds = read_out(logits, levels.head, levels.graph).fake_logit
    return {"accuracy": jnp.mean((odds >= 0) == (inputs.batch["label"] > 0))}


def _check(
    spec: Spec, graph: LabelGraph, head: str, weighting: str, weights, hold_out: str
) -> None:
    nodes = len(graph.nodes)
    if spec.num_classes != nodes:
        raise UserError(
            f"The data set has {spec.num_classes} labels, expected {nodes}: the nodes "
            f"of the graph, {', '.join(graph.nodes)}. Choose config.loss.graph and "
            "config.data.graph alike."
        )
    missing = {"label", "code"} - set(spec.fields)
    if head == "multiclass":
        missing |= {"manipulation"} - set(spec.fields)
    if missing:
        raise UserError(
            f"Batches hold {', '.join(sorted(spec.fields))}, expected also "
            f"{', '.join(sorted(missing))}. Use a data set such as forged_faces."
        )
    if len(weights) != len(graph.levels):
        raise UserError(
            f"config.loss.level_weights is {tuple(weights)}, expected "
            f"{len(graph.levels)} numbers, one for each level."
        )
    if weighting != "fixed" and head not in ("graph", "multilabel"):
        raise UserError(
            f"config.loss.weighting is {weighting!r}, but the head {head!r} has one "
            "loss only. Use the head 'graph' or 'multilabel', or the weighting 'fixed'."
        )
    if hold_out and hold_out not in graph.nodes[1:]:
        raise UserError(
            f"config.loss.hold_out is {hold_out!r}, expected one of "
            f"{', '.join(graph.nodes[1:])}."
        )


def _evaluator(trained: Any) -> Any:
    # Here, because it needs libraries that training does not.
    from jaxkd.evaluators import face_forgery as evaluator

    return evaluator.evaluate(trained)
