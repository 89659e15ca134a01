"""Distillation losses: arrays in, arrays out, usable in any training loop.

Logit losses take logits ``[..., classes]`` and return one value per example,
``[...]``; their mean over the batch is the published loss. They compute in at least
float32, never differentiate the teacher's side, and accept ``where``, a boolean
``[...]``: rows where it is False give exactly zero and no gradient, whatever they
hold, and the caller divides by the number of rows they want to count.

Feature losses take the features of one layer, ``[batch, height, width, channels]``,
already mapped to the teacher's channels where that is needed, and return ``[batch]``.
Losses that relate the examples of a batch to each other (``pkt``, ``rkd_distance``,
``rkd_angle``, ``similarity_preserving``, ``mlkd``, ``mlkd_noaug``) return a scalar.
Neither kind knows ``where``: give them the rows that count.

Plain cross-entropy is ``optax.softmax_cross_entropy_with_integer_labels``.
"""

from jaxkd.losses.contrastive import crd, crd_normalizer, crd_update
from jaxkd.losses.correction import (
    label_revision,
    review_correct,
    revise_labels,
    swap_labels,
)
from jaxkd.losses.feature import (
    adaptive_average_pool,
    attention_transfer,
    hierarchical_context,
    hint,
    neuron_selectivity,
    ofd,
    ofd_margins,
    vid,
)
from jaxkd.losses.logit import (
    dkd,
    kd,
    masked_correlation,
    non_target_class_kd,
    rld,
    sample_confidence,
    standardize,
    target_class_kd,
)
from jaxkd.losses.multilevel import (
    batch_correlation,
    class_correlation,
    mlkd,
    mlkd_noaug,
)
from jaxkd.losses.relation import (
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from jaxkd.losses.singular import kdsvd

__all__ = (
    "adaptive_average_pool",
    "attention_transfer",
    "batch_correlation",
    "class_correlation",
    "crd",
    "crd_normalizer",
    "crd_update",
    "dkd",
    "hierarchical_context",
    "hint",
    "kd",
    "kdsvd",
    "label_revision",
    "masked_correlation",
    "mlkd",
    "mlkd_noaug",
    "neuron_selectivity",
    "non_target_class_kd",
    "ofd",
    "ofd_margins",
    "pkt",
    "review_correct",
    "revise_labels",
    "rkd_angle",
    "rkd_distance",
    "rld",
    "sample_confidence",
    "similarity_preserving",
    "standardize",
    "swap_labels",
    "target_class_kd",
    "vid",
)
