"""Distillation losses: arrays in, arrays out, usable in any training loop.

Logit losses take logits ``[..., classes]`` and return one value per example,
``[...]``; their mean over the batch is the published loss. They compute in at least
float32, never differentiate the teacher's side, and accept ``where``, a boolean
``[...]``: rows where it is False give exactly zero and no gradient, whatever they
hold, and the caller divides by the number of rows they want to count.

Feature losses take the features of one layer, ``[batch, height, width, channels]``,
already mapped to the teacher's channels where that is needed, and return ``[batch]``.
Losses that relate the examples of a batch to each other (``pkt``, ``rkd_distance``,
``rkd_angle``, ``similarity_preserving``, ``second_order``, ``third_order``,
``correlation_congruence``, ``relation_contrast``, ``relative_error``, ``mlkd``,
``mlkd_noaug``, ``distance_weighted_triplet``, ``root_mean_square``) return a scalar.
Neither kind knows ``where``: give them the rows that count.

Plain cross-entropy is ``optax.softmax_cross_entropy_with_integer_labels``.
"""

from jaxkd.losses.branches import branch_divergence, relative_error
from jaxkd.losses.class_maps import (
    attention_plus,
    class_attention,
    gradient_weights,
    linear_head_weights,
    root_mean_square,
    scale_attention,
)
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
from jaxkd.losses.label_graph import (
    LabelGraph,
    given_fake,
    level_losses,
    level_losses_of_marginals,
    log_marginals,
    most_probable_state,
)
from jaxkd.losses.localization import boundary_loss, edge_ring, structure_loss
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
from jaxkd.losses.metric import arcface, distance_weighted_triplet
from jaxkd.losses.multilevel import (
    batch_correlation,
    class_correlation,
    mlkd,
    mlkd_noaug,
)
from jaxkd.losses.orders import (
    correlation_congruence,
    darkrank,
    first_order,
    second_order,
    third_order,
)
from jaxkd.losses.relation import (
    pkt,
    rkd_angle,
    rkd_distance,
    similarity_preserving,
)
from jaxkd.losses.relational_contrast import (
    instance_contrast,
    relation_contrast,
    relation_nce,
    relation_normalizer,
)
from jaxkd.losses.singular import kdsvd
from jaxkd.losses.task_weighting import (
    HyperGradient,
    auto_lambda,
    uncertainty_weighting,
)
from jaxkd.losses.wavelet import haar, inverse_haar, wavelet_similarity

__all__ = (
    "HyperGradient",
    "LabelGraph",
    "adaptive_average_pool",
    "arcface",
    "attention_plus",
    "attention_transfer",
    "auto_lambda",
    "batch_correlation",
    "boundary_loss",
    "branch_divergence",
    "class_attention",
    "class_correlation",
    "correlation_congruence",
    "crd",
    "crd_normalizer",
    "crd_update",
    "darkrank",
    "distance_weighted_triplet",
    "dkd",
    "edge_ring",
    "first_order",
    "given_fake",
    "gradient_weights",
    "haar",
    "hierarchical_context",
    "hint",
    "instance_contrast",
    "inverse_haar",
    "kd",
    "kdsvd",
    "label_revision",
    "level_losses",
    "level_losses_of_marginals",
    "linear_head_weights",
    "log_marginals",
    "masked_correlation",
    "mlkd",
    "mlkd_noaug",
    "most_probable_state",
    "neuron_selectivity",
    "non_target_class_kd",
    "ofd",
    "ofd_margins",
    "pkt",
    "relation_contrast",
    "relation_nce",
    "relation_normalizer",
    "relative_error",
    "review_correct",
    "revise_labels",
    "rkd_angle",
    "rkd_distance",
    "rld",
    "root_mean_square",
    "sample_confidence",
    "scale_attention",
    "second_order",
    "similarity_preserving",
    "standardize",
    "structure_loss",
    "swap_labels",
    "target_class_kd",
    "third_order",
    "uncertainty_weighting",
    "vid",
    "wavelet_similarity",
)
