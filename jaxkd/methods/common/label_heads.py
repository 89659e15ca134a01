"""Heads on the nodes of a label graph: what they read off logits, and their losses."""

from collections.abc import Callable
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from clu import metrics

from jaxkd import losses
from jaxkd.core.types import Batch
from jaxkd.losses.label_graph import LabelGraph

GRAPHS: dict[str, Callable[[], LabelGraph]] = {
    "ffsc": LabelGraph.ffsc,
    "ffpp": LabelGraph.ffpp,
}
HEADS = ("graph", "multilabel", "binary", "multiclass")


@flax.struct.dataclass
class Evaluation(metrics.Collection):
    """Accuracy at the probability of one half, and cross entropy, of real or fake."""

    accuracy: metrics.Average.from_output("accuracy")  # type: ignore[valid-type]
    loss: metrics.Average.from_output("loss")  # type: ignore[valid-type]


def evaluate(outputs: dict[str, jax.Array], batch: Batch) -> Evaluation:
    """Compares the log-odds of being fake with ``label``; padding does not count."""
    odds, fake = outputs["fake_logit"], batch["label"] > 0
    return Evaluation.single_from_model_output(
        mask=batch["mask"],
        accuracy=(odds >= 0) == fake,
        loss=optax.sigmoid_binary_cross_entropy(odds, fake.astype(odds.dtype)),
    )


class Readout(NamedTuple):
    """What a head reads off the logits.

    Attributes:
      fake_logit: ``[batch]``, log-odds of being fake.
      log_p: ``[batch, nodes]``, logarithm of each node's probability; None where the
        head has no opinion of attributes and regions.
      log_not_p: likewise of its complement.
    """

    fake_logit: jax.Array
    log_p: jax.Array | None = None
    log_not_p: jax.Array | None = None


def read_out(logits: jax.Array, head: str, graph: LabelGraph) -> Readout:
    """Turns the logits of a network into probabilities, as a head reads them.

    Args:
      logits: ``[batch, nodes]``.
      head: one of ``HEADS``.
      graph: of the labels.
    """
    if head == "graph":
        log_p, log_not_p = losses.log_marginals(logits, graph)
        return Readout(log_p[:, 0] - log_not_p[:, 0], log_p, log_not_p)
    if head == "multilabel":
        log_p, log_not_p = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
        return Readout(logits[:, 0], log_p, log_not_p)
    if head == "binary":
        return Readout(logits[:, 0])
    return Readout(jax.nn.logsumexp(logits[:, 1:], axis=-1) - logits[:, 0])


class Levels(NamedTuple):
    """Computes the losses of a graph's levels, for a head that has levels.

    Attributes:
      graph: of the labels.
      head: ``"graph"`` or ``"multilabel"``.
      kind: see ``losses.level_losses``.
      mean: likewise.
      hold_out: name of a node; images that have it do not train. Empty for none.
    """

    graph: LabelGraph
    head: str
    kind: str
    mean: str
    hold_out: str

    def kept(self, batch: Batch) -> jax.Array:
        """Marks the examples that train, ``[batch]``."""
        if not self.hold_out:
            return jnp.ones(len(batch["label"]), bool)
        return batch["code"][:, self.graph.nodes.index(self.hold_out)] != 1

    def __call__(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """Returns ``[levels]``; what is held out does not dilute them."""
        found, kept = read_out(logits, self.head, self.graph), self.kept(batch)
        assert found.log_p is not None and found.log_not_p is not None
        values = losses.level_losses_of_marginals(
            found.log_p,
            found.log_not_p,
            batch["code"],
            self.graph.levels,
            kind=self.kind,
            where=kept,
            mean=self.mean,
        )
        if self.mean == "batch":
            values = values * len(kept) / jnp.maximum(jnp.sum(kept), 1)
        return values


def single_loss(
    logits: jax.Array, batch: Batch, head: str, kept: Callable[[Batch], jax.Array]
) -> jax.Array:
    """Computes the loss of a head without levels: a mean over the images kept.

    Args:
      logits: ``[batch, nodes]``.
      batch: with ``label``, or ``manipulation`` for ``"multiclass"``.
      head: ``"binary"`` or ``"multiclass"``.
      kept: marks the examples that train, ``[batch]``.
    """
    where = kept(batch)
    if head == "binary":
        fake = batch["label"].astype(logits.dtype)
        loss = optax.sigmoid_binary_cross_entropy(logits[:, 0], fake)
        loss = losses.reject_labels(loss, jnp.where(where, batch["label"], 0), 2)
    else:
        loss = losses.cross_entropy(logits, batch["manipulation"], where=where)
    return jnp.sum(jnp.where(where, loss, 0)) / jnp.maximum(jnp.sum(where), 1)
