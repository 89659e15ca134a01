"""Evaluates pre-trained encoders for collapse: do features still tell images apart?"""

import warnings

import jax.numpy as jnp
import numpy as np

from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.metrics.collapse import feature_std
from jaxkd.report.items import Table

# feature_std below which an encoder has collapsed. Features behind a ReLU share a large
# mean, so that good encoders lie well below the 1 of a full sphere: VICReg of
# configs/ssl_hv.py has 0.28, and tells writers apart as well as any.
COLLAPSED = 0.1


def evaluate(trained: TrainedStudy) -> EvaluationReport:
    """Warns of collapsed encoders: they give almost one direction to all images."""
    rows, collapsed = [["student", "seed", "feature std"]], []
    for member in trained.members:
        features = []
        for batch in trained.batches():
            embedding = member.predict(batch)["embedding"]
            features.append(np.asarray(embedding)[np.asarray(batch["mask"])])
        std = float(feature_std(jnp.asarray(np.concatenate(features))))
        rows.append([member.student, str(member.seed), f"{std:.3f}"])
        if not std >= COLLAPSED:  # NaN, too: such features tell nothing apart
            collapsed.append(f"{member.student} (seed {member.seed}): {std:.3f}")
    if not collapsed:
        return EvaluationReport()
    note = (
        f"Collapsed, feature std below {COLLAPSED}: {'; '.join(collapsed)}. All images "
        "get nearly one direction; lower the learning rate, enlarge the batch, or see "
        "that no head or variance term was taken away."
    )
    warnings.warn(note, stacklevel=2)
    return EvaluationReport(tables=[Table("Collapse of features", rows, note)])
