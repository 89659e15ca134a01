"""Image classification as a ``Method``: what the methods beside this file share.

``supervised`` and the distillation methods (``distillation.py``) call ``classifier``
with their loss. The functions of one network are cached, so that students which differ
in their loss alone hold the *same* functions, by which a study knows that they can
share one compiled body.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from clu import metrics

from jaxkd import losses
from jaxkd.core.types import (
    Batch,
    Loss,
    LossInputs,
    Method,
    ModelState,
    Params,
    Spec,
)
from jaxkd.methods.common.networks import NetworkFunctions, init_student


@flax.struct.dataclass
class Confusion(metrics.Metric):
    """Counts of (true class, predicted class), ``[classes, classes]``."""

    counts: jax.Array

    @classmethod
    def from_model_output(cls, *, logits, labels, mask, **_) -> "Confusion":
        """Counts the predictions ``argmax(logits)`` of unmasked examples.

        A label's logit that is not a number is no prediction of it.
        """
        counts = jnp.zeros((logits.shape[-1],) * 2, jnp.int32)
        own = jnp.arange(logits.shape[-1]) == labels[:, None]
        logits = jnp.where(own & jnp.isnan(logits), -jnp.inf, logits)
        predicted = jnp.argmax(logits, axis=-1)
        return cls(counts.at[labels, predicted].add(mask.astype(jnp.int32)))

    def merge(self, other: "Confusion") -> "Confusion":
        """Adds the counts of two sets of examples."""
        return Confusion(self.counts + other.counts)

    def compute(self) -> jax.Array:
        """Returns the counts; rows are true classes."""
        return self.counts


# Counts of more classes, squared, would take more memory than the network, on the
# device and for every student and seed; nobody reads such a table.
MAX_CONFUSION = 2000


@flax.struct.dataclass
class Accuracies(metrics.Collection):
    """Accuracy (top-1, top-5) and mean cross entropy of a classifier."""

    top1: metrics.Average.from_output("top1")  # type: ignore[valid-type]
    top5: metrics.Average.from_output("top5")  # type: ignore[valid-type]
    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """The same and the confusion, of at most ``MAX_CONFUSION`` classes."""

    # Not inherited: a collection knows the metrics of its own class alone.
    top1: metrics.Average.from_output("top1")  # type: ignore[valid-type]
    top5: metrics.Average.from_output("top5")  # type: ignore[valid-type]
    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]
    confusion: Confusion


def evaluate(outputs: dict[str, jax.Array], batch: Batch) -> metrics.Collection:
    """Compares logits ``[batch, classes]`` with labels; padding does not count.

    Confusions are counted of at most ``MAX_CONFUSION`` classes.

    Of equal logits the first ranks highest, as in ``argmax``. One that is not a number
    never counts for a network: the label's ranks lowest, another class's above it.
    """
    logits, labels = outputs["logits"], batch["label"]
    label_logits = jnp.take_along_axis(logits, labels[:, None], axis=1)
    classes = jnp.arange(logits.shape[-1])
    earlier = classes < labels[:, None]
    behind = jnp.where(earlier, label_logits > logits, label_logits >= logits)
    # A logit that is computed twice need not equal itself.
    behind = jnp.where(classes == labels[:, None], ~jnp.isnan(label_logits), behind)
    rank = jnp.sum(~behind, axis=1)
    kind = Evaluation if logits.shape[-1] <= MAX_CONFUSION else Accuracies
    return kind.single_from_model_output(
        logits=logits,
        labels=labels,
        mask=batch["mask"],
        top1=rank < 1,
        top5=rank < 5,
        loss=losses.cross_entropy(logits, labels),
    )


# Cached, so that students which differ in their loss alone share its functions.
@functools.cache
def network_functions(
    network: nn.Module, image_shape: tuple[int, ...], input_key: str
) -> NetworkFunctions:
    """Returns the functions of a classifier: ``logits`` and ``features``."""

    def forward(params: Params, model_state: ModelState, batch: Batch, key: jax.Array):
        del key
        variables = {"params": params["student"], **model_state["student"]}
        (logits, features), updated = network.apply(
            variables,
            batch[input_key],
            train=True,
            mutable=list(model_state["student"]),
        )
        return {"logits": logits, "features": features}, {
            **model_state,
            "student": updated,
        }

    def predict(params: Params, model_state: ModelState, batch: Batch):
        variables = {"params": params["student"], **model_state["student"]}
        logits, features = network.apply(variables, batch[input_key], train=False)
        return {"logits": logits, "features": features}

    return NetworkFunctions(init_student(network, image_shape), forward, predict)


def classifier(
    spec: Spec,
    loss: Callable[[LossInputs], Loss],
    targets: dict[str, Callable] | None = None,
) -> Method:
    """Makes a classifier's method from its loss.

    Args:
      spec: the run.
      loss: as in ``Method``.
      targets: as in ``Method``.
    """
    functions = network_functions(spec.network, spec.image_shape, spec.input_key)
    return Method(
        targets=targets or {}, loss=loss, evaluate=evaluate, **functions._asdict()
    )


def cross_entropy(outputs: dict[str, jax.Array], batch: Batch) -> jax.Array:
    """Returns the batch mean of the cross entropy with the labels."""
    return jnp.mean(losses.cross_entropy(outputs["logits"], batch["label"]))


def cross_entropy_term(inputs: LossInputs) -> jax.Array:
    """Returns the mean cross entropy with the labels, as a term of a loss."""
    return cross_entropy(inputs.outputs, inputs.batch)


def accuracy(logits: jax.Array, batch: Batch) -> jax.Array:
    """Returns the fraction of the batch whose largest logit is the label's."""
    return jnp.mean(jnp.argmax(logits, axis=-1) == batch["label"])
