"""The library's distillation step, ready to be timed.

Students are trained by ``jaxkd.core.step``, which is what a study runs. Only the
``Method`` is put together here: ``jaxkd.methods`` needs packages (for its metrics) that
an image with nothing but JAX, Flax and Optax does not have.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd import losses, models, views
from jaxkd.core import optim, study
from jaxkd.core.source import Info
from jaxkd.core.step import Settings, make_train_call
from jaxkd.core.types import MAIN, Loss, LossInputs, Method
from jaxkd.datasets import batching

CIFAR100 = Info(
    name="cifar100",
    num_classes=100,
    image_shape=(32, 32, 3),
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    class_names=(),
)
BATCH = 64
EPOCHS = 240
TRAINING_IMAGES = 50_000
STEPS = EPOCHS * TRAINING_IMAGES // BATCH

# The CIFAR-100 recipe of mdistiller and RLD, for resnet32x4 -> resnet8x4.
TEACHER, STUDENT = "resnet32x4", "resnet8x4"
ALPHA, BETA, TEMPERATURE = 1.0, 8.0, 4.0
OPTIMIZER: dict[str, Any] = {
    "name": "sgd",
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "schedule": "step",
    "warmup": 0.0,
    "milestones": (150.0, 180.0, 210.0),
    "factor": 0.1,
}

# Weight of the cross entropy, and ``(student logits, teacher logits, labels) -> loss``.
LOSSES: dict[str, tuple[float, Callable]] = {
    "rld": (
        1.0,
        functools.partial(losses.rld, alpha=ALPHA, beta=BETA, temperature=TEMPERATURE),
    ),
    "kd": (0.1, lambda s, t, labels: 0.9 * losses.kd(s, t, temperature=TEMPERATURE)),
    "dkd": (
        1.0,
        functools.partial(losses.dkd, alpha=ALPHA, beta=BETA, temperature=TEMPERATURE),
    ),
}


class Pair(NamedTuple):
    """A teacher with its variables, and the student's network."""

    teacher: nn.Module
    variables: Any
    student: nn.Module

    def frozen(self) -> dict[str, Any]:
        """Returns what a target function reads."""
        return {"teacher": self.variables}


def make_pair(dtype: str, seed: int = 0) -> Pair:
    """Makes resnet32x4 and resnet8x4; the teacher is untrained but well scaled."""
    teacher = models.build(TEACHER, CIFAR100.num_classes, dtype=jnp.dtype(dtype))
    student = models.build(STUDENT, CIFAR100.num_classes, dtype=jnp.dtype(dtype))
    return Pair(teacher, _calibrated(teacher, jax.random.key(seed)), student)


def _calibrated(network: nn.Module, key: jax.Array) -> Any:
    """Initialises a network whose batch statistics are those of noise images.

    Left at 0 and 1, they let activations double from block to block. Scales and biases
    are moved away from 1 and 0, so that no two kinds of variable look the same.
    """
    images = jax.random.normal(key, (BATCH, *CIFAR100.image_shape))

    @jax.jit
    def calibrate(key):
        variables = network.init(key, images[:1])
        leaves, structure = jax.tree.flatten(variables["params"])
        keys = jax.random.split(key, len(leaves))
        leaves = [
            x + 0.1 * jax.random.normal(k, x.shape) if x.ndim == 1 else x
            for x, k in zip(leaves, keys, strict=True)
        ]
        params = jax.tree.unflatten(structure, leaves)
        old = variables["batch_stats"]
        _, new = network.apply(
            {"params": params, "batch_stats": old},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        # The moving average took in a tenth of the batch's statistics: undo it.
        stats = jax.tree.map(lambda a, b: (b - 0.9 * a) / 0.1, old, new["batch_stats"])
        return {"params": params, "batch_stats": stats}

    return calibrate(key)


def make_group(pair: Pair, count: int) -> study.Group:
    """Makes ``count`` students of one network: RLD, KD, DKD, RLD, KD, ..."""
    network = pair.student

    def init(key):
        variables = dict(network.init(key, jnp.zeros((1, *CIFAR100.image_shape))))
        params = variables.pop("params")
        return {"student": params}, {"student": variables}

    def forward(params, model_state, batch, key):
        del key
        variables = {"params": params["student"], **model_state["student"]}
        (logits, _), updated = network.apply(
            variables, batch["image"], train=True, mutable=["batch_stats"]
        )
        return {"logits": logits}, {"student": updated}

    def teach(frozen, batch, key):
        del key
        logits, _ = pair.teacher.apply(frozen["teacher"], batch["image"], train=False)
        return jax.lax.stop_gradient({"logits": logits})

    names = list(LOSSES)
    students = [
        _student(f"{names[i % 3]}{i}", names[i % 3], network, init, forward, teach)
        for i in range(count)
    ]
    (group,) = study.make_groups(students, seeds=(1,), shared_batches=True)
    return group


def _student(name, kind, network, init, forward, teach) -> study.Student:
    method = Method(
        init=init,
        targets={"teacher": teach},
        forward=forward,
        loss=_make_loss(*LOSSES[kind]),
        predict=_not_timed,
        evaluate=_not_timed,
    )
    return study.Student(
        name=name,
        method=method,
        network=network,
        input_key="image",
        steps=STEPS,
        optimizers=optim.optimizations(
            OPTIMIZER, {}, {MAIN}, STEPS, TRAINING_IMAGES / BATCH
        ),
    )


def _not_timed(*_):
    raise RuntimeError("Only training is timed.")


def _make_loss(ce_weight: float, distillation: Callable) -> Callable:
    def loss(inputs: LossInputs):
        logits, labels = inputs.outputs["logits"], inputs.batch["label"]
        ce = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        distilled = distillation(
            logits, inputs.targets["teacher"]["logits"], labels
        ).mean()
        top1 = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
        metrics = {"ce": ce, "kd": distilled, "top1": top1}
        return Loss(ce_weight * ce + distilled, inputs.model_state, metrics)

    return loss


def make_table(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Draws a table of random uint8 images with labels."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (size, *CIFAR100.image_shape), np.uint8),
        "label": rng.integers(0, CIFAR100.num_classes, size, np.int32),
    }


class Feed(NamedTuple):
    """Where batches come from.

    Attributes:
      table: examples that stay on the device.
      view: ``(key, batch) -> batch``, the augmentation.
      next: ``step -> batches`` of as many steps as one call covers.
    """

    table: dict[str, Any]
    view: Callable[[jax.Array, dict[str, jax.Array]], dict[str, jax.Array]]
    next: Callable[[int], Any]


def ready_batches(images: np.ndarray, labels: np.ndarray, group: study.Group) -> Feed:
    """Feeds the same float images ``[steps, batch, h, w, c]`` again and again."""
    data = {"image": images[:, None], "label": labels[:, None]}
    rates = {group.name: group.learning_rates(0, len(images))}
    batches = jax.device_put({"data": data, "lr": rates})
    return Feed({}, lambda key, images: images, lambda step: batches)


def from_table(
    table: dict[str, np.ndarray], group: study.Group, steps: int, *, prepared: bool
) -> Feed:
    """Feeds crops and flips of images in a table on the device.

    Args:
      table: ``image`` and ``label``.
      group: whose learning rates go with the batches.
      steps: in one call.
      prepared: whether indices and learning rates are computed once, beforehand, rather
        than for every call, as training does.
    """
    size = len(table["label"])

    def make(step: int):
        index = batching.index_stream(size, BATCH, 1, step, steps)
        rates = {group.name: group.learning_rates(step, steps)}
        return jax.device_put({"data": {"index": index[:, None]}, "lr": rates})

    first = make(0)
    view = views.build("crop_flip", CIFAR100).train
    return Feed(jax.device_put(table), view, (lambda step: first) if prepared else make)


class Trainer:
    """A compiled training call with its state.

    Attributes:
      group: the students.
      state: their state.
      compile_seconds: tracing and compiling.
    """

    def __init__(self, pair: Pair, group: study.Group, feed: Feed, loop: str = "map"):
        self.group, self._feed, self._step = group, feed, 0
        self._frozen = pair.frozen()
        self.state = jax.jit(lambda: {group.name: study.init_group(group, {}, False)})()
        batches = feed.next(0)
        (rates,) = batches["lr"].values()
        self._chunk = len(rates[MAIN])
        call = make_train_call((group,), Settings(feed.view, (1,), loop=loop))
        began = time.perf_counter()
        arguments = (self.state, self._frozen, feed.table, batches, np.int32(1))
        lowered = jax.jit(call, donate_argnums=0).lower(*arguments)
        self._call = lowered.compile()
        self.compile_seconds = time.perf_counter() - began

    def run(self, steps: int) -> dict[str, jax.Array]:
        """Trains for some steps, waits, and returns the metrics of the last call.

        As in the train loop, at most two calls are under way at a time.
        """
        newest: Any = None
        for start in range(0, steps, self._chunk):
            count = min(self._chunk, steps - start)
            self.state, metrics = self._call(
                self.state,
                self._frozen,
                self._feed.table,
                self._feed.next(self._step),
                np.int32(count),
            )
            jax.block_until_ready(newest)
            newest = metrics[self.group.name]
            self._step += count
        jax.block_until_ready((self.state, newest))
        return newest

    def student_variables(self, member: int) -> dict[str, Any]:
        """Returns one student's variables on the host."""
        state = self.state[self.group.name]
        params, model_state = jax.device_get((state.params, state.model_state))
        variables = {"params": params["student"], **model_state["student"]}
        return jax.tree.map(lambda x: x[member], variables)
