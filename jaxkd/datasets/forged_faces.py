"""Drawn faces, forged by methods of which some are kept for the test.

A detector can do well on the methods it was trained on by their traces alone. What it
understands shows on methods that leave other traces: ``sharpen`` does the contrary of
``blur``. Nothing is downloaded.
"""

from collections.abc import Sequence

import jax
import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Info
from jaxkd.datasets.face_forgery import DrawnFaces
from jaxkd.drawing.forged_faces import ATTRIBUTES, METHODS, REAL, Plan, draw_faces
from jaxkd.losses.label_graph import LabelGraph

TRAIN, TEST, VALIDATION = range(3)  # folded into the key: never renumber
# Of drawn faces, in [0, 1].
MEAN, STD = (0.54, 0.47, 0.43), (0.18, 0.15, 0.14)


def load(
    size: int = 32,
    train: int = 1200,
    test: int = 20,
    train_methods: Sequence[str] = ("blur", "grid", "quantize"),
    weak: float = 0.1,
    filtered: float = 0.2,
    evaluate_on: str = "test",
    seed: int = 0,
) -> Dataset:
    """Draws the faces.

    Each attribute is forged by two of the training methods, in turn; in the test by all
    methods, also those that no training image knows.

    Args:
      size: side of the images.
      train: training images, half of them real.
      test: forged test images of each method and attribute; half as many are real.
      train_methods: some of ``blur, grid, quantize, sharpen, tone, denoise``.
      weak: part of the real images that are changed, but too little to notice.
      filtered: part of the real images that passed through a method as a whole.
      evaluate_on: ``"test"``, or ``"validation"`` to choose settings.
      seed: of everything.

    Raises:
      UserError: if an option is out of its range.
    """
    _check(size, train, test, train_methods, weak, filtered, evaluate_on)
    rng = np.random.default_rng([seed, TRAIN])
    own = [METHODS.index(name) for name in train_methods]
    others = [place for place in range(len(METHODS)) if place not in own]
    order = [*own, *others]
    fakes = rng.integers(0, len(ATTRIBUTES), train // 2)
    chosen = (fakes + rng.integers(0, 2, len(fakes))) % len(own)
    plans = {
        TRAIN: _plan(
            rng, fakes, np.array(own)[chosen], train - len(fakes), own, weak, filtered
        )
    }
    split = TEST if evaluate_on == "test" else VALIDATION
    rng = np.random.default_rng([seed, split])
    attributes = np.repeat(np.arange(len(ATTRIBUTES)), test * len(order))
    methods = np.tile(np.repeat(order, test), len(ATTRIBUTES))
    reals = len(attributes) // 2
    plans[split] = _plan(rng, attributes, methods, reals, order, weak, filtered)
    names = ("real", *(METHODS[place] for place in order))
    sources = {
        split: _draw(split, plan, order, size, seed, names, 1 + len(own))
        for split, plan in plans.items()
    }
    nodes = LabelGraph.ffsc().nodes
    info = Info("forged faces", len(nodes), (size, size, 3), MEAN, STD, tuple(nodes))
    return Dataset(info, lambda training_seed: sources[TRAIN], sources[split])


def _plan(rng, attributes, methods, reals: int, known, weak, filtered) -> Plan:
    """Adds real images to forged ones, some of them changed or filtered."""
    kinds = rng.random(reals)
    changed, whole = kinds < weak, (kinds >= weak) & (kinds < weak + filtered)
    some = rng.choice(known, reals)
    return Plan(
        attribute=np.concatenate(
            [attributes, np.where(changed, rng.integers(0, 5, reals), REAL)]
        ),
        method=np.concatenate([methods, np.where(changed | whole, some, REAL)]),
        weak=np.concatenate([np.zeros(len(attributes), bool), changed]),
    )


def _draw(split, plan: Plan, order, size, seed, names, trained: int) -> DrawnFaces:
    key = jax.random.fold_in(jax.random.key(seed), split)
    faces = draw_faces(key, plan, size)
    place = np.array([order.index(i) for i in range(len(METHODS))])
    fake = plan.is_fake
    arrays = {
        "image": faces.images,
        "label": fake.astype(np.int32),
        "code": faces.codes,
        "manipulation": np.where(fake, 1 + place[plan.method], 0).astype(np.int32),
        "attribute": np.where(fake, plan.attribute, REAL).astype(np.int32),
    }
    return DrawnFaces(arrays, names, trained)


def _check(size, train, test, methods, weak, filtered, evaluate_on) -> None:
    if size < 16 or size % 2:
        raise UserError(f"size is {size}, expected an even number from 16.")
    if train < 2 or test < 1:
        raise UserError(f"train is {train} and test {test}, expected at least 2 and 1.")
    unknown = sorted(set(methods) - set(METHODS))
    if unknown or len(set(methods)) < 2:
        raise UserError(
            f"train_methods is {tuple(methods)}, expected at least two of "
            f"{', '.join(METHODS)}."
        )
    if min(weak, filtered) < 0 or weak + filtered > 1:
        raise UserError(
            f"weak is {weak} and filtered {filtered}, expected parts of a whole."
        )
    if evaluate_on not in ("test", "validation"):
        raise UserError(f"evaluate_on is {evaluate_on!r}, expected test or validation.")
