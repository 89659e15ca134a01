"""Batch normalisation that adapts at test time, without labels or gradients.

Where test images differ from the training images in brightness, noise or blur, the
mean and variance of every layer's inputs differ, too. Statistics of the test batches
stand in for those of training, in one of these modes:

- ``source``: nothing adapts.
- ``batch``: the batch's own.
- ``blend``: ``(1 - a) source + a batch`` with ``a = n / (n + 16)`` for a batch of
  ``n``, so that a few images cannot mislead (Schneider et al., arXiv:2006.16971).
- ``ema``: a running average over the batches met so far, of momentum 0.1.

A layer that normalises a convolution of the input by its batch undoes what is added to
each channel and one factor on all of them, but for the border, where the convolution
sees its padding. A factor for each channel changes what is added up before, which no
statistics undo.

All fail where a batch holds few classes, such as a stream that is sorted by class: what
tells the classes apart then looks like a shift, and is normalised away.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.core import lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource
from jaxkd.core.types import Batch, Method, ModelState, Outputs, Params, Spec
from jaxkd.evaluators.base import EvaluationReport, Member, TrainedStudy
from jaxkd.models.layers import MOMENTUM
from jaxkd.report.items import Table
from jaxkd.views import degrade
from jaxkd.views.ops import View

MODES = ("source", "batch", "blend", "ema")
PRIOR = 16  # images that the source's statistics count for, in a blend
# Share of the effective number of classes that chance gives, below which a batch is
# one-sided. Students of configs/aird.py have 0.77 or more in shuffled batches and 0.56
# or less in sorted ones, though they are right on a third of the images only.
ONE_SIDED = 0.65


class Disturbance(NamedTuple):
    """What befalls test images.

    Attributes:
      apply: ``(images [b, h, w, c] in [0, 1], side) -> [b, side, side, c]``.
      label: in words.
    """

    apply: Callable[[jax.Array, int], jax.Array]
    label: str


def _roughen(images: jax.Array, side: int) -> jax.Array:
    """Brightens, blurs and roughens images; each alike whenever it is measured."""
    images = degrade.blur(jnp.sqrt(images), jnp.ones(len(images)), 4)
    small = degrade.resize(images, side, "bicubic_noaa")
    noise = jax.random.normal(jax.random.key(0), small.shape)
    return jnp.clip(small + 0.05 * noise, 0, 1)


def affine(
    gain: tuple[float, ...], offset: tuple[float, ...], images: jax.Array, side: int
) -> jax.Array:
    """Maps each channel by ``gain * value + offset``, and shrinks by ``area``.

    Args:
      gain: of each channel.
      offset: likewise.
      images: ``[b, h, w, c]`` in [0, 1].
      side: of the result.
    """
    small = degrade.resize(images, side, "area")
    return small * jnp.asarray(gain) + jnp.asarray(offset)


def _light_each(images: jax.Array, side: int) -> jax.Array:
    """Gives each image a gain and an offset of its own; alike whenever measured."""
    gain_key, offset_key = jax.random.split(jax.random.key(0))
    gain = jax.random.uniform(gain_key, (len(images), 1, 1, 1), minval=0.1, maxval=0.5)
    room = jax.random.uniform(offset_key, (len(images), 1, 1, images.shape[-1]))
    return degrade.resize(images, side, "area") * gain + (1 - gain) * room


# All but the first stay within [0, 1] for all images, so that nothing is clipped.
DISTURBANCES = {
    "rough": Disturbance(_roughen, "gamma 0.5, blur, another kernel, noise"),
    "fog": Disturbance(
        functools.partial(affine, (0.3,) * 3, (0.6, 0.35, 0.1)),
        "a gain of 0.3 for all channels, an offset for each",
    ),
    "cast": Disturbance(
        functools.partial(affine, (0.6, 0.3, 0.15), (0.1, 0.35, 0.6)),
        "a gain and an offset for each channel",
    ),
    "each": Disturbance(
        _light_each, "a gain and offsets for each image, which no batch shares"
    ),
}


def make_adapted(
    method: Method, mode: str
) -> Callable[..., tuple[Outputs, ModelState]]:
    """Returns ``(params, extra, batch) -> (outputs, extra)``, adapting on the way.

    Every image of the batch counts, so it must not hold padding. ``model_state`` is to
    be given back with the next batch in mode ``ema``; otherwise, the trained one each
    time.

    The statistics are those of one pass that normalises each layer by its batch.

    Args:
      method: of the network, whose collection ``batch_stats`` adapts.
      mode: one of ``MODES``.

    Raises:
      UserError: if there is no such mode.
    """
    lookup.choose(mode, dict.fromkeys(MODES), what="mode of adaptation")

    def run(
        params: Params, model_state: ModelState, batch: Batch
    ) -> tuple[Outputs, ModelState]:
        if mode == "source":
            return method.predict(params, model_state, batch), model_state
        moved = method.forward(params, model_state, batch, jax.random.key(0))[1]
        if mode == "blend":
            count = len(jax.tree.leaves(batch)[0])
            moved = _mix(model_state, moved, count / (count + PRIOR))
        if mode == "batch":
            moved = _mix(model_state, moved, 1.0)
        return method.predict(params, moved, batch), moved

    return run


def _mix(model_state: ModelState, moved: ModelState, share: float) -> ModelState:
    """Takes a share of the batch's statistics; a step took ``1 - MOMENTUM``."""
    own = model_state["student"]["batch_stats"]
    mixed = jax.tree.map(
        lambda old, new: old + (new - old) * (share / (1 - MOMENTUM)),
        own,
        moved["student"]["batch_stats"],
    )
    return {**model_state, "student": {**model_state["student"], "batch_stats": mixed}}


def is_one_sided(predicted: np.ndarray, num_classes: int) -> bool:
    """Tells whether a batch's predictions crowd in far fewer classes than by chance.

    Compares the effective number of classes, one over the sum of squared shares, with
    that of draws at random from all classes. A mere count of the classes would not do:
    a weak classifier's mistakes name many.

    Args:
      predicted: classes, ``[batch]``, by the source's statistics.
      num_classes: that there are.
    """
    shares = np.bincount(predicted, minlength=num_classes) / len(predicted)
    chance = 1 / num_classes + (1 - 1 / num_classes) / len(predicted)
    return bool(1 / np.sum(shares**2) < ONE_SIDED / chance)


def report(
    spec: Spec, disturbances: tuple[str, ...] = ("rough",)
) -> Callable[[Any], EvaluationReport]:
    """Returns a method's evaluator: accuracies by mode and disturbance.

    Args:
      spec: the run.
      disturbances: names in ``DISTURBANCES``.

    Raises:
      UserError: if the student does not read a degraded view, or there is no such
        disturbance.
    """
    for name in disturbances:
        lookup.choose(name, DISTURBANCES, what="disturbance")
    if spec.input_key == "image":
        raise UserError(
            "Adaptation is measured on small images, but config.model.input is "
            "'image'. Set it to 'low', or the option adapt to False."
        )
    return _report(spec.input_key, spec.image_shape[-2], tuple(disturbances))


# Cached, so that all students of a run are evaluated together.
@functools.cache
def _report(
    input_key: str, side: int, disturbances: tuple[str, ...]
) -> Callable[[TrainedStudy], EvaluationReport]:
    def evaluate(trained: TrainedStudy) -> EvaluationReport:
        return evaluation_report(trained, input_key, side, disturbances)

    return evaluate


def evaluation_report(
    trained: TrainedStudy, input_key: str, side: int, disturbances: tuple[str, ...]
) -> EvaluationReport:
    """Measures every member in every mode on plain, disturbed and sorted images."""
    by_class = _sorted_by_class(trained)
    streams: dict[str, tuple[Any, Any]] = {"plain": (None, None)}
    for name in disturbances:
        view = functools.partial(disturb, trained.view, input_key, side, name)
        streams |= {name: (None, view), f"{name}, sorted by class": (by_class, view)}
    scores: dict[str, dict[str, list[float]]] = {}
    warned: dict[str, int] = {}
    # Compiled once for all students and streams, which share shapes.
    runs = {mode: jax.jit(make_adapted(trained.method, mode)) for mode in MODES}
    for stream, (source, view) in streams.items():
        batches = list(_whole(trained.batches(source, view)))
        for student, members in trained.by_student().items():
            for mode, run in runs.items():
                values = [_accuracy(run, member, batches) for member in members]
                scores.setdefault(student, {})[_key(stream, mode)] = values
            first = members[0]
            warned[stream] = warned.get(stream, 0) + sum(
                is_one_sided(
                    np.argmax(first.predict(batch)["logits"], axis=-1),
                    trained.dataset.info.num_classes,
                )
                for batch in batches
            )
    table = _table(scores, tuple(streams), warned, disturbances)
    return EvaluationReport(scores, [], [table])


def _key(stream: str, mode: str) -> str:
    return f"top1 {stream}: {mode}"


def _whole(batches: Iterator[Batch]) -> Iterator[Batch]:
    """Leaves out the padded batch: its padding would count in the statistics."""
    return (batch for batch in batches if bool(np.asarray(batch["mask"]).all()))


def _accuracy(run: Callable, member: Member, batches: list[Batch]) -> float:
    model_state, right, total = member.model_state, 0, 0
    for batch in batches:
        outputs, model_state = run(member.params, model_state, batch)
        right += int(jnp.sum(jnp.argmax(outputs["logits"], -1) == batch["label"]))
        total += len(batch["label"])
    return 100 * right / total


def disturb(view: View, input_key: str, side: int, name: str, batch: Batch) -> Batch:
    """Returns what an evaluation view makes of a batch, its small images disturbed.

    Args:
      view: whose field ``input_key`` is affine in the images, shrunk by ``area``.
      input_key: the field.
      side: of its images.
      name: in ``DISTURBANCES``.
      batch: as the data set gives it.
    """
    seen = view.evaluate(batch)
    images = batch["image"].astype(jnp.float32) / 255
    plain = degrade.resize(images, side, "area")
    # The view is affine in the images: its factor and offset follow from two of them.
    mean, std = _fit(plain, seen[input_key])
    changed = DISTURBANCES[name].apply(images, side)
    return {**seen, input_key: changed * std + mean}


def _fit(images: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Fits ``seen = offset + factor * images`` by channel."""
    axes = (0, 1, 2)
    centre, centre_seen = images.mean(axes), seen.mean(axes)
    product = ((images - centre) * (seen - centre_seen)).mean(axes)
    factor = product / jnp.maximum(images.var(axes), 1e-12)
    return centre_seen - factor * centre, factor


def _sorted_by_class(trained: TrainedStudy) -> ArraySource | None:
    test = trained.dataset.test
    if not isinstance(test, ArraySource):
        return None
    order = np.argsort(test.arrays["label"], kind="stable")
    return ArraySource({name: rows[order] for name, rows in test.arrays.items()})


def _table(
    scores,
    streams: tuple[str, ...],
    warned: dict[str, int],
    disturbances: tuple[str, ...],
) -> Table:
    rows = [["top-1 %", "images", *MODES]]
    for student, found in scores.items():
        for stream in streams:
            means = [np.mean(found[_key(stream, mode)]) for mode in MODES]
            rows.append([student, stream, *(f"{mean:.1f}" for mean in means)])
    note = (
        "Means over seeds. "
        + "; ".join(f"{name}: {DISTURBANCES[name].label}" for name in disturbances)
        + ". Batches that looked one-sided, in which adaptation is not to be trusted: "
        + ", ".join(f"{count} {stream}" for stream, count in warned.items())
        + "."
    )
    return Table("Batch normalisation adapted at test time", rows, note)
