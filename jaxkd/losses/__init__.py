"""Distillation losses: arrays in, arrays out, usable in any training loop.

Logit losses take logits ``[..., classes]`` and return one value per example,
``[...]``; their mean over the batch is the published loss. They compute in at least
float32, never differentiate the teacher's side, and accept ``where``, a boolean
``[...]``: rows where it is False give exactly zero and no gradient, whatever they
hold, and the caller divides by the number of rows they want to count. Labels are from
0 to ``classes - 1``: a row of any other is NaN, in value and gradient, so that a check
for finite losses sees it. Rows without a label, such as those marked 255 or -1, are
left out by ``where=labels < 255``.

Feature losses take the features of one layer, ``[batch, height, width, channels]``,
already mapped to the teacher's channels where that is needed, and return ``[batch]``.
Losses that relate the examples of a batch to each other (``pkt``, ``rkd_distance``,
``rkd_angle``, ``similarity_preserving``, ``second_order``, ``third_order``,
``correlation_congruence``, ``relation_contrast``, ``relative_error``, ``mlkd``,
``mlkd_noaug``, ``distance_weighted_triplet``, ``root_mean_square``,
``semantic_contrast``) return a scalar.
Neither kind knows ``where``: give them the rows that count.

Frame losses (``teacher_divergence``, ``audio_visual_correlation``,
``correlation_distillation``) return one value per frame; ``correlation_contrastive``
reduces the time axis and returns ``[batch]``.

Plain cross-entropy is ``cross_entropy``: optax's, but for negative labels, which optax
counts from the last class, and for ``where``.
"""

from jaxkd.losses._masked import reject_labels
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
from jaxkd.losses.decoupled import (
    dkd,
    masked_correlation,
    non_target_class_kd,
    rld,
    sample_confidence,
    target_class_kd,
)
from jaxkd.losses.detection import focal, giou, iou_loss, overlap, pyramid_distance
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
from jaxkd.losses.frame_correlation import (
    audio_visual_correlation,
    correlation_contrastive,
    correlation_distillation,
    teacher_divergence,
)
from jaxkd.losses.generative import (
    contrastive_margin,
    gaussian_kl,
    gaussian_log_likelihood,
    patch_error,
)
from jaxkd.losses.label_graph import (
    LabelGraph,
    given_fake,
    level_losses,
    level_losses_of_marginals,
    log_marginals,
    most_probable_state,
)
from jaxkd.losses.language import chunked_cross_entropy
from jaxkd.losses.localization import boundary_loss, edge_ring, structure_loss
from jaxkd.losses.logit import combine_logits, cross_entropy, kd, standardize
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
from jaxkd.losses.relation import pkt, rkd_angle, rkd_distance, similarity_preserving
from jaxkd.losses.relational_contrast import (
    instance_contrast,
    relation_contrast,
    relation_nce,
    relation_normalizer,
)
from jaxkd.losses.restoration import (
    hinge_discriminator,
    hinge_generator,
    knowledge_distance,
    score_distillation,
)
from jaxkd.losses.self_supervised import (
    barlow_twins,
    dino,
    fast_siam,
    moco,
    negative_cosine,
    nt_xent,
    vicreg,
    vicreg_terms,
)
from jaxkd.losses.self_supervised_state import (
    centre_update,
    cosine_momentum,
    queue_init,
    queue_update,
)
from jaxkd.losses.singular import kdsvd
from jaxkd.losses.task_weighting import (
    HyperGradient,
    auto_lambda,
    uncertainty_weighting,
)
from jaxkd.losses.text import (
    best_paths,
    character_cross_entropy,
    character_focus,
    focused_visual,
    path_kd,
    semantic_contrast,
    soft_path_targets,
)
from jaxkd.losses.wavelet import haar, inverse_haar, wavelet_similarity

__all__ = (
    "HyperGradient",
    "LabelGraph",
    "adaptive_average_pool",
    "arcface",
    "attention_plus",
    "attention_transfer",
    "audio_visual_correlation",
    "auto_lambda",
    "barlow_twins",
    "batch_correlation",
    "best_paths",
    "boundary_loss",
    "branch_divergence",
    "centre_update",
    "character_cross_entropy",
    "character_focus",
    "chunked_cross_entropy",
    "class_attention",
    "class_correlation",
    "combine_logits",
    "contrastive_margin",
    "correlation_congruence",
    "correlation_contrastive",
    "correlation_distillation",
    "cosine_momentum",
    "crd",
    "crd_normalizer",
    "crd_update",
    "cross_entropy",
    "darkrank",
    "dino",
    "distance_weighted_triplet",
    "dkd",
    "edge_ring",
    "fast_siam",
    "first_order",
    "focal",
    "focused_visual",
    "gaussian_kl",
    "gaussian_log_likelihood",
    "giou",
    "given_fake",
    "gradient_weights",
    "haar",
    "hierarchical_context",
    "hinge_discriminator",
    "hinge_generator",
    "hint",
    "instance_contrast",
    "inverse_haar",
    "iou_loss",
    "kd",
    "kdsvd",
    "knowledge_distance",
    "label_revision",
    "level_losses",
    "level_losses_of_marginals",
    "linear_head_weights",
    "log_marginals",
    "masked_correlation",
    "mlkd",
    "mlkd_noaug",
    "moco",
    "most_probable_state",
    "negative_cosine",
    "neuron_selectivity",
    "non_target_class_kd",
    "nt_xent",
    "ofd",
    "ofd_margins",
    "overlap",
    "patch_error",
    "path_kd",
    "pkt",
    "pyramid_distance",
    "queue_init",
    "queue_update",
    "reject_labels",
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
    "score_distillation",
    "second_order",
    "semantic_contrast",
    "similarity_preserving",
    "soft_path_targets",
    "standardize",
    "structure_loss",
    "swap_labels",
    "target_class_kd",
    "teacher_divergence",
    "third_order",
    "uncertainty_weighting",
    "vicreg",
    "vicreg_terms",
    "vid",
    "wavelet_similarity",
)
