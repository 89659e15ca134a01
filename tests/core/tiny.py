"""A small problem, and training written out step by step as the standard of truth."""

import functools
import itertools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd.core import config as configs
from jaxkd.core import optim
from jaxkd.core.step import Settings, make_train_call
from jaxkd.core.study import Student, init_group, make_groups
from jaxkd.core.types import MAIN, FrozenNetwork, Spec, TrainState
from jaxkd.methods import make
from tests.fields import fields

SHAPE, CLASSES, MOMENTUM, BATCH = (3, 3, 2), 5, 0.8, 12
# Tests compile more than they compute.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Net(nn.Module):
    """Dense, batch norm, ReLU, dense: in any precision, and quick to compile."""

    num_classes: int = CLASSES
    width: int = 6
    norm: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images, train=False):
        kept = jnp.promote_types(self.dtype, jnp.float32)
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=kept)
        x = dense(self.width, name="first")(images.reshape(len(images), -1))
        hidden = nn.relu(self.normalize(x, train) if self.norm else x)
        logits = dense(self.num_classes, name="last")(hidden)
        return logits.astype(kept), {"hidden": hidden}

    def normalize(self, x, train):
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        like = functools.partial(jnp.zeros, x.shape[-1:], x.dtype)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:], x.dtype)
        mean = self.variable("batch_stats", "mean", like)
        square = self.variable("batch_stats", "square", lambda: like() + 1)
        if train:
            now, now_square = x.mean(0), (x**2).mean(0)
            if not self.is_initializing():
                mean.value = 0.9 * mean.value + 0.1 * now
                square.value = 0.9 * square.value + 0.1 * now_square
        else:
            now, now_square = mean.value, square.value
        return scale * (x - now) / jnp.sqrt(now_square - now**2 + 1e-3)


class Row(NamedTuple):
    """A student as the tests describe it; ``lr`` is a function of the step."""

    method: str
    steps: int
    lr: float = 0.1
    weight_decay: float = 0.0
    loss: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    network: nn.Module = Net()
    nesterov: bool = False


def teacher_of(network, seed=77):
    """Returns a frozen network and its variables."""
    images = jnp.zeros((1, *SHAPE))
    return network, jax.device_get(jit(network.init)(jax.random.key(seed), images))


def see(key, images):
    """Scales and adds noise, so that a wrong key shows."""
    noise = jax.random.normal(key, images.shape, jnp.float32)
    return images.astype(jnp.float32) / 255 + 0.1 * noise


def view(key, batch):
    """The same, of a batch."""
    return batch | {"image": see(key, batch["image"])}


def make_table(examples, seed=0):
    """Returns uint8 images and labels."""
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (examples, *SHAPE)).astype(np.uint8),
        "label": rng.integers(0, CLASSES, examples).astype(np.int32),
    }


def make_student(name, row, frozen):
    """Makes a student from its description, through the method's own file."""
    chosen = configs.default().optim
    chosen.update(lr=row.lr, schedule="cosine", momentum=MOMENTUM)
    chosen.nesterov = row.nesterov
    teacher = FrozenNetwork(frozen)
    spec = Spec(row.network, {"teacher": teacher}, CLASSES, fields(SHAPE), 1.0)
    return Student(
        name=name,
        method=make(row.method, spec, row.loss),
        network=row.network,
        input_key="image",
        steps=row.steps,
        optimizers=optim.optimizations(
            {**chosen, "weight_decay": row.weight_decay}, {}, {MAIN}, row.steps, 1.0
        ),
    )


def make_study(rows, frozen, seeds, shared=True):
    """Returns the groups of students given by name -> Row."""
    students = [make_student(name, row, frozen) for name, row in rows.items()]
    return make_groups(students, seeds, shared)


def draw_seeds(groups):
    """Returns the seeds whose draws of a batch the groups need."""
    seeds, shared = groups[0].seeds, groups[0].shared_batches
    return tuple(seeds[:1] if shared else seeds)


def settings(groups, **changes):
    """Returns the settings of a call with this module's view."""
    return Settings(view=view, draw_seeds=draw_seeds(groups), **changes)


class Study:
    """Runs a study through the train call, from its initial state."""

    def __init__(self, groups, variables, table, index, **changes):
        """``index`` is ``[steps, draws, batch]`` into ``table``."""
        self.groups, self.table, self.index = groups, table, index
        self.frozen = {"teacher": variables}
        self.call = jit(make_train_call(groups, settings(groups, **changes)))
        self.ema = bool(changes.get("ema"))
        self._start = None

    def init(self):
        if self._start is None:
            self._start = jit(
                lambda: {g.name: init_group(g, {}, self.ema) for g in self.groups}
            )()
        return self._start

    def batches(self, start, count, padded):
        def pad(x):
            return np.pad(x, ((0, padded - count), *[(0, 0)] * (x.ndim - 1)))

        return {
            "data": {"index": pad(self.index[start : start + count])},
            "lr": {
                g.name: jax.tree.map(pad, g.learning_rates(start, count))
                for g in self.groups
            },
        }

    def run(self, stops, padded):
        """Returns the states and the metrics after each stop."""
        state, seen = self.init(), []
        for start, stop in itertools.pairwise([0, *stops]):
            batches = self.batches(start, stop - start, padded)
            state, metrics = self.call(
                state, self.frozen, self.table, batches, stop - start
            )
            seen.append((state, metrics))
        return seen


def member(tree, groups, name, seed):
    """Picks one member out of the stacked state or metrics of all groups."""
    for group in groups:
        if (name, seed) in group.members:
            place = group.members.index((name, seed))
            own = jax.device_get(tree[group.name])
            if isinstance(own, TrainState):
                own = own.replace(step=np.broadcast_to(own.step, len(group.members)))
            return jax.tree.map(lambda x: x[place], own)  # noqa: B023 (called at once)
    raise KeyError((name, seed))


class Alone:
    """Trains one network by a plain loop, with SGD written out in NumPy."""

    def __init__(self, row, loss, frozen):
        """``loss`` is ``(logits, teacher's logits, labels, step) -> scalar``."""
        self.row = row
        teacher, teacher_variables = frozen

        def gradient(params, variables, images, labels, draw_seed, step):
            key = jax.random.fold_in(jax.random.key(draw_seed), 1)
            seen = see(jax.random.fold_in(key, step), images)
            target, _ = teacher.apply(teacher_variables, seen)

            def objective(params):
                (logits, _), new = row.network.apply(
                    {"params": params, **variables},
                    seen,
                    train=True,
                    mutable=list(variables),
                )
                return loss(logits, target, labels, step), new

            return jax.value_and_grad(objective, has_aux=True)(params)

        self.gradient = jit(gradient)

    def init(self, seed):
        """Returns parameters and the other collections at the start."""
        key = jax.random.fold_in(jax.random.key(seed), 0)
        images = jnp.zeros((1, *SHAPE))
        variables = dict(jit(self.row.network.init)(key, images))
        return jax.device_get((variables.pop("params"), variables))

    def train(self, seed, draw_seed, batches):
        """Trains on ``[steps]`` pairs of uint8 images and labels.

        Returns:
          Parameters and other collections after each step, and the losses.
        """
        row = self.row
        params, variables = self.init(seed)
        velocity = jax.tree.map(np.zeros_like, params)
        history, losses = [], []
        for step, (images, labels) in enumerate(batches[: row.steps]):
            (value, variables), grads = jax.device_get(
                self.gradient(params, variables, images, labels, draw_seed, step)
            )
            lr = np.float32(row.lr * 0.5 * (1 + np.cos(np.pi * step / row.steps)))
            decay = np.float32(row.weight_decay)
            grads = jax.tree.map(lambda g, p, d=decay: g + d * p, grads, params)
            velocity = jax.tree.map(lambda v, g: MOMENTUM * v + g, velocity, grads)
            move = velocity
            if row.nesterov:
                move = jax.tree.map(lambda v, g: g + MOMENTUM * v, velocity, grads)
            params = jax.tree.map(lambda p, m, r=lr: p - r * m, params, move)
            history.append((params, variables))
            losses.append(float(value))
        return history, losses


def cross_entropy(logits, labels):
    """Returns the mean cross entropy with integer labels."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
