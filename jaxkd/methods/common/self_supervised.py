"""Self-supervised pre-training as a ``Method``: what its files share.

An encoder is trained without labels; what is kept is its feature ``pooled``. Heads
stand beside it in ``params`` and are dropped on export. Joint-embedding methods read
the batch's ``views``, all of which go through the encoder together, so that batch norm
sees one batch of them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd import losses
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
from jaxkd.evaluators import collapse
from jaxkd.losses.numerics import einsum, unit
from jaxkd.methods.common.embedding import PairAccuracy
from jaxkd.metrics.collapse import feature_std
from jaxkd.models.projection import Head, Layer

PAIRS = Score("pairs", "pair accuracy")
RANK = Score("effective_rank", "effective rank", percent=False)


def apply(module: nn.Module, params, state, *args, train: bool, **kwargs) -> Any:
    """Applies a module: ``(output, its updated collections)``."""
    variables = {"params": params, **state}
    if not train:
        return module.apply(variables, *args, train=False, **kwargs), state
    return module.apply(variables, *args, train=True, mutable=list(state), **kwargs)


@flax.struct.dataclass
class Moments(metrics.Metric):
    """Mean of features and scatter about it, for their spread and rank.

    Each batch is centred before it is squared, and batches are joined by the formula of
    Chan, Golub and LeVeque (1979): sums of products would cancel where features
    collapse, which is just where these figures are looked at.
    """

    count: jax.Array
    mean: jax.Array  # [features]
    scatter: jax.Array  # [features, features], the sum of centred products

    @classmethod
    def from_model_output(cls, *, embedding, mask, **_) -> "Moments":
        """Describes the unit vectors of unmasked examples."""
        rows, mask = unit(embedding.astype(jnp.float32)), mask[:, None]
        count = jnp.sum(mask)
        mean = jnp.sum(rows * mask, axis=0) / jnp.maximum(count, 1)
        centred = (rows - mean) * mask
        return cls(count, mean, einsum("nd,ne->de", centred, centred))

    def merge(self, other: "Moments") -> "Moments":
        """Describes two sets of examples together."""
        count = self.count + other.count
        shift = other.mean - self.mean
        share = other.count / jnp.maximum(count, 1)
        between = self.count * share * shift[:, None] * shift
        return type(self)(
            count, self.mean + share * shift, self.scatter + other.scatter + between
        )

    def covariance(self) -> jax.Array:
        """Returns the biased covariance of the unit vectors."""
        return self.scatter / jnp.maximum(self.count, 1)


@flax.struct.dataclass
class Spread(Moments):
    """``feature_std`` of a whole set."""

    def compute(self) -> jax.Array:
        """Returns the spread of directions, 1 for a full sphere."""
        variances = jnp.maximum(jnp.diagonal(self.covariance()), 0)
        return jnp.sqrt(len(variances)) * jnp.mean(jnp.sqrt(variances))


@flax.struct.dataclass
class EffectiveRank(Moments):
    """Exponential of the entropy of the covariance's normalised eigenvalues."""

    def compute(self) -> jax.Array:
        """Returns the rank, between 0 (collapsed) and the number of features."""
        values = jnp.maximum(jnp.linalg.eigvalsh(self.covariance()), 0)
        share = values / jnp.maximum(values.sum(), 1e-12)
        entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(share + 1e-30), 0))
        # What is below is rounding: all vectors are one.
        return jnp.where(values.sum() > 1e-10, jnp.exp(entropy), 0.0)


@flax.struct.dataclass
class Unlabelled(metrics.Collection):
    """Spread and effective rank of the features."""

    feature_std: Spread
    effective_rank: EffectiveRank


@flax.struct.dataclass
class Labelled(metrics.Collection):
    """The same, and how well cosines tell the labels of pairs apart."""

    feature_std: Spread
    effective_rank: EffectiveRank
    pairs: PairAccuracy


def evaluate(outputs: Mapping[str, Any], batch: Batch) -> metrics.Collection:
    """Measures features; with labels, which training never sees, also pairs."""
    given: dict[str, Any] = {"embedding": outputs["embedding"], "mask": batch["mask"]}
    if "label" not in batch:
        return Unlabelled.single_from_model_output(**given)
    return Labelled.single_from_model_output(labels=batch["label"], **given)


def pretrainer(
    spec: Spec,
    init: Callable,
    forward: Callable,
    loss: Callable[[LossInputs], Loss],
    **others: Any,
) -> Method:
    """Makes a method of an encoder that is trained without labels.

    Args:
      spec: the run.
      init: as in ``Method``.
      forward: likewise.
      loss: likewise.
      **others: further functions of ``Method``.
    """
    return Method(
        init=init,
        targets={},
        forward=forward,
        loss=loss,
        predict=_predict(spec.network, spec.input_key),
        evaluate=evaluate,
        score=PAIRS if "label" in spec.fields else RANK,
        evaluator=collapse.evaluate,
        **others,
    )


@functools.cache
def _predict(network: nn.Module, input_key: str) -> Callable:
    def predict(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        _, features = network.apply(variables, batch[input_key], train=False)
        return {"embedding": features["pooled"], "features": features}

    return predict


def init_modules(
    key: jax.Array, modules: Mapping[str, tuple[nn.Module, tuple]]
) -> tuple[Params, ModelState]:
    """Initialises modules by name on examples of their arguments."""
    params, state = {}, {}
    for number, (name, (module, arguments)) in enumerate(modules.items()):
        own = dict(module.init(jax.random.fold_in(key, number), *arguments))
        params[name] = own.pop("params")
        state[name] = own
    return params, state


def encoder_features(spec: Spec) -> int:
    """Returns the number of features that the encoder pools.

    Raises:
      UserError: if the network has no feature ``pooled``.
    """
    images = jax.ShapeDtypeStruct((2, *spec.image_shape), jnp.float32)
    features = jax.eval_shape(
        lambda key, x: spec.network.init_with_output(key, x)[0][1],
        jax.random.key(0),
        images,
    )
    if "pooled" not in features or features["pooled"].ndim != 2:
        raise UserError(
            "Pre-training needs a network with a feature 'pooled' [batch, features], "
            f"but config.model.name has {', '.join(features)}."
        )
    return features["pooled"].shape[1]


def joint_embedding(
    spec: Spec,
    name: str,
    loss: Callable[[LossInputs], Loss],
    *,
    projector: nn.Module,
    predictor: nn.Module | None = None,
    momentum: Callable[[jax.Array], jax.Array] | None = None,
    memory: Callable[[jax.Array], Mapping[str, Any]] | None = None,
    views: int = 2,
) -> Method:
    """Makes a method that compares views of an image.

    The outputs are ``h``, ``z``, and, with a predictor, ``p``, each
    ``[views, batch, dim]``; with a target network also ``target``, its projections.

    Args:
      spec: the run.
      name: of the method, for messages.
      loss: as in ``Method``.
      projector: behind the encoder.
      predictor: behind the projector.
      momentum: step -> momentum of a target network's moving average; None for no
        target network.
      memory: key -> further non-trainable state.
      views: least number of views.

    Raises:
      UserError: if the view makes too few views.
    """
    _check_views(spec, name, views)
    network, width = spec.network, encoder_features(spec)
    shape = spec.fields["views"].shape[1:]

    def init(key):
        modules = {
            "student": (network, (jnp.zeros((2, *shape)),)),
            "projector": (projector, (jnp.zeros((2, width)),)),
        }
        if predictor is not None:
            z = jax.eval_shape(
                lambda key, h: projector.init_with_output(key, h)[0],
                jax.random.key(0),
                jnp.zeros((2, width)),
            )
            modules["predictor"] = (predictor, (jnp.zeros(z.shape),))
        params, state = init_modules(key, modules)
        if momentum is not None:
            parts = ("student", "projector")
            state["target"] = {
                "params": {part: params[part] for part in parts},
                "state": {part: state[part] for part in parts},
            }
        if memory is not None:
            state["memory"] = dict(memory(jax.random.fold_in(key, 99)))
        return params, state

    def project(params, state, images):
        (_, features), own = apply(
            network, params["student"], state["student"], images, train=True
        )
        h = features["pooled"]
        z, heads = apply(
            projector, params["projector"], state["projector"], h, train=True
        )
        return h, z, {"student": own, "projector": heads}

    def forward(params, model_state, batch, key):
        del key
        count, flat = batch["views"].shape[1], join_views(batch["views"])
        split = functools.partial(split_views, views=count)
        h, z, changed = project(params, model_state, flat)
        model_state = {**model_state, **changed}
        outputs = {"h": split(h), "z": split(z)}
        if predictor is not None:
            p, own = apply(
                predictor,
                params["predictor"],
                model_state["predictor"],
                z,
                train=True,
            )
            model_state["predictor"] = own
            outputs["p"] = split(p)
        if momentum is not None:
            target = model_state["target"]
            _, z, changed = project(target["params"], target["state"], flat)
            outputs["target"] = jax.lax.stop_gradient(split(z))
            model_state["target"] = {**target, "state": changed}
        return outputs, model_state

    def logged(inputs: LossInputs) -> Loss:
        found = loss(inputs)
        spread = feature_std(inputs.outputs["h"].reshape(-1, width))
        return found._replace(metrics={**found.metrics, "feature_std": spread})

    return pretrainer(
        spec,
        init,
        forward,
        logged,
        after_step=None if momentum is None else move_target(momentum),
    )


def join_views(views: jax.Array) -> jax.Array:
    """Joins ``[batch, views, ...]`` to one batch, the views of an image side by side.

    The images stay on their devices so; with one view after the other, each device
    would be sent all images, and would compute with all of them.
    """
    return views.reshape(-1, *views.shape[2:])


def split_views(rows: jax.Array, views: int) -> jax.Array:
    """Splits rows of ``join_views`` into ``[views, batch, dim]``."""
    return jnp.swapaxes(rows.reshape(-1, views, rows.shape[-1]), 0, 1)


def move_target(momentum: Callable[[jax.Array], jax.Array]) -> Callable:
    """Returns an ``after_step`` that moves the target towards the trained network."""

    def after_step(params, model_state, step):
        keep = momentum(step)
        target = model_state["target"]
        moved = jax.tree.map(
            lambda old, new: keep * old + (1 - keep) * new,
            target["params"],
            {part: params[part] for part in target["params"]},
        )
        return {**model_state, "target": {**target, "params": moved}}

    return after_step


def symmetric_cosine(inputs: LossInputs, target: str) -> jax.Array:
    """Computes the mean of both directions of ``negative_cosine``, per example."""
    p, z = inputs.outputs["p"], inputs.outputs[target]
    first = losses.negative_cosine(p[0], z[1])
    return 0.5 * (first + losses.negative_cosine(p[1], z[0]))


def hidden(width: int) -> Layer:
    """Returns a layer with batch norm and ReLU."""
    return Layer(width, "batch", relu=True)


def siamese_heads(
    projection: int, bottleneck: int, output: int
) -> tuple[nn.Module, nn.Module]:
    """Returns projector and predictor of SimSiam and FastSiam."""
    projector = Head(
        (hidden(projection), hidden(projection), Layer(output, "plain")),
    )
    return projector, Head((hidden(bottleneck), Layer(output)))


def _check_views(spec: Spec, name: str, count: int) -> None:
    shape = spec.fields["views"].shape if "views" in spec.fields else (0,)
    if shape[0] < count:
        raise UserError(
            f"Method {name!r} compares {count} views of an image, but config.view "
            f"makes {shape[0]}. Choose a view such as 'handwriting' with "
            f"views={count}."
        )


def exactly_two(spec: Spec, name: str) -> None:
    """Raises UserError if the view makes more views than a method of two reads."""
    shape = spec.fields["views"].shape if "views" in spec.fields else (0,)
    if shape[0] != 2:
        raise UserError(
            f"Method {name!r} compares two views, but config.view makes {shape[0]}. "
            "Set config.view.views to 2."
        )
