"""LPIPS of restored images, with weights from the user's file, once after training."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.types import Spec
from jaxkd.evaluators.base import EvaluationReport, TrainedStudy
from jaxkd.models import lpips
from jaxkd.models.super_resolution import enlarged
from jaxkd.readers import lpips_weights
from jaxkd.report.items import Table
from jaxkd.report.statistics import format_mean

TRUTH, LOW = "image", "low"
NAME, BICUBIC = "lpips", "bicubic"


def by_file(spec: Spec, path: str) -> Callable[[Any], EvaluationReport] | None:
    """Returns a method's evaluator, or None without a file.

    The file is read here, before anything is trained.

    Args:
      spec: of the run; the field ``image`` is the truth.
      path: of weights, see ``jaxkd.readers.lpips_weights``; empty for none.

    Raises:
      UserError: if the file is missing or of another network, or the images are too
        small for it.
    """
    if not path:
        return None
    network, _ = lpips_weights.read(path)
    try:
        lpips.check_side(network.backbone, spec.fields[TRUTH].shape[:2])
    except ValueError as error:
        raise UserError(f"config.loss.lpips: {error}") from error
    return _evaluator(path)


# Cached, so that all students of a run are evaluated together.
@functools.cache
def _evaluator(path: str) -> Callable[[Any], EvaluationReport]:
    def evaluate(trained: TrainedStudy) -> EvaluationReport:
        return find(trained, path)

    return evaluate


def find(trained: TrainedStudy, path: str) -> EvaluationReport:
    """Measures the distance of all members' images from the truth.

    Images are compared whole, rounded to 8 bits. Beside the students stands bicubic
    enlargement, where the batch has small images.

    Args:
      trained: see ``jaxkd.evaluators.base``.
      path: of the weights.
    """
    distance, backbone = measure(path)
    values: dict[Any, list[np.ndarray]] = {}
    for batch in trained.batches():
        mask, truth = np.asarray(batch["mask"]), batch[TRUTH]
        seen: dict[Any, jax.Array] = {
            (one.student, one.seed): one.predict(batch)["image"]
            for one in trained.members
        }
        if LOW in batch:
            scale = truth.shape[1] // batch[LOW].shape[1]
            seen[BICUBIC] = enlarged(jnp.asarray(batch[LOW]), scale)
        for name, images in seen.items():
            values.setdefault(name, []).append(distance(images, truth)[mask])
    means = {name: float(np.concatenate(x).mean()) for name, x in values.items()}
    scores = {
        student: {NAME: [means[student, one.seed] for one in members]}
        for student, members in trained.by_student().items()
    }
    rows = [["", "LPIPS"]]
    if BICUBIC in means:
        rows.append([BICUBIC, f"{means[BICUBIC]:.4f}"])
    rows += [[name, format_mean(found[NAME], 4)] for name, found in scores.items()]
    note = (
        f"Distance from the truth in the features of {backbone} ({path}); lower is "
        "nearer. Mean ± standard error over seeds."
    )
    return EvaluationReport(scores, (), [Table("Perceptual distance", rows, note)])


def measure(path: str) -> tuple[Callable[[Any, Any], np.ndarray], str]:
    """Returns the distance of images by a file of weights, and its backbone.

    Args:
      path: of the weights.

    Returns:
      ``(images, references) -> [batch]``, both ``[batch, h, w, c]`` in [-1, 1], which
      are rounded to 8 bits; and the backbone's name.

    Raises:
      UserError: see ``lpips_weights.read``.
    """
    network, variables = lpips_weights.read(path)
    variables = jax.device_put(variables)

    @jax.jit
    def compare(variables, images, references):
        return network.apply(variables, _rounded(images), _rounded(references))

    def distance(images, references) -> np.ndarray:
        return np.asarray(compare(variables, images, references))

    return distance, network.backbone


def _rounded(images: jax.Array) -> jax.Array:
    """Rounds images of [-1, 1] to the levels of 8 bits."""
    return jnp.round(255 * jnp.clip((images + 1) / 2, 0, 1)) / 127.5 - 1
