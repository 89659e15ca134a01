"""A study: students times seeds, trained side by side.

Every (student, seed) is a *member*. Members whose networks are one and the same form
a *group*: their states are stacked on a leading axis, seed by seed, and one compiled
body serves them all, with a switch between their losses.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd.core.frozen import of_seed
from jaxkd.core.optim import Optimizer
from jaxkd.core.types import Best, Method, TrainState


class Student(NamedTuple):
    """One row of a study: how a network is trained.

    Attributes:
      name: of the row.
      method: the training system.
      network: the network that is trained.
      reads: the field of the batch that it sees.
      steps: length of its training; a study lasts as long as its longest student.
      schedule: learning rate as a function of the step.
      weight_decay: strength of weight decay.
      optimizer: ``(lr, weight_decay) -> GradientTransformation``.
      optimizer_key: what tells optimisers of different structure apart.
    """

    name: str
    method: Method
    network: nn.Module
    reads: str
    steps: int
    schedule: optax.Schedule
    weight_decay: float
    optimizer: Optimizer
    optimizer_key: str


class Group(NamedTuple):
    """Students that share one compiled body.

    Attributes:
      name: key of the group in the state of the study.
      students: its students.
      seeds: of the study.
      shared_batches: whether all seeds see draw 0, or each its own.
    """

    name: str
    students: tuple[Student, ...]
    seeds: tuple[int, ...]
    shared_batches: bool

    @property
    def members(self) -> list[tuple[str, int]]:
        """(student name, seed) in the order of the stacked state."""
        return [
            (student.name, seed) for seed in self.seeds for student in self.students
        ]

    @property
    def student_index(self) -> np.ndarray:
        """Which of the group's students each member is, ``[members]``."""
        return np.tile(np.arange(len(self.students)), len(self.seeds))

    @property
    def draw_index(self) -> np.ndarray:
        """Which draw of the batch each member sees, ``[members]``."""
        draws = np.arange(len(self.seeds)) * (not self.shared_batches)
        return np.repeat(draws, len(self.students))

    @property
    def member_seeds(self) -> np.ndarray:
        """The seed of each member, ``[members]``."""
        return np.repeat(np.asarray(self.seeds, np.uint32), len(self.students))

    def per_member(self, values: Sequence[Any]) -> np.ndarray:
        """Repeats one value per student for each of its seeds, ``[members]``."""
        return np.tile(np.asarray(values), len(self.seeds))

    def learning_rates(self, start: int, count: int) -> np.ndarray:
        """Learning rates of ``count`` steps from ``start``, ``[count, members]``."""
        steps = np.arange(start, start + count)
        rates = [
            _all_rates(one.schedule, one.steps)[np.minimum(steps, one.steps)]
            for one in self.students
        ]
        return np.tile(np.stack(rates, axis=1), len(self.seeds))


@functools.cache
def _all_rates(schedule: optax.Schedule, steps: int) -> np.ndarray:
    """Evaluates a schedule at steps 0 to ``steps``, where it ends.

    All at once, since a dispatch per step would hold up an accelerator, and since a
    step's rate must not depend on where training resumed.
    """
    rates = jax.device_get(schedule(jnp.arange(steps + 1)))
    return np.broadcast_to(np.asarray(rates, np.float32), (steps + 1,))


def make_groups(
    students: Sequence[Student], seeds: Sequence[int], shared_batches: bool
) -> tuple[Group, ...]:
    """Sorts students into groups by the identity of their network's functions."""
    alike: dict[Any, list[Student]] = {}
    for student in students:
        method = student.method
        key = (method.init, method.adopt, method.forward, student.optimizer_key)
        alike.setdefault(key, []).append(student)
    return tuple(
        Group(f"group{number}", tuple(rows), tuple(seeds), shared_batches)
        for number, rows in enumerate(alike.values())
    )


def init_group(group: Group, frozen: Any, ema: bool) -> TrainState:
    """Initialises the stacked state: every student of a seed starts from one draw.

    Args:
      group: students of one network.
      frozen: variables of the needed runs' networks, which it may start from.
      ema: whether to keep an average of the parameters.
    """
    method = group.students[0].method

    def init_one(one):
        index, seed = one
        params, extra = method.init(jax.random.fold_in(jax.random.key(seed), 0))
        if method.adopt is None:
            return params, extra
        return method.adopt(params, extra, of_seed(frozen, index))

    seeds = jnp.asarray(group.seeds, jnp.uint32)
    keys = jnp.arange(len(seeds)), seeds
    params, extra = jax.tree.map(
        lambda x: jnp.repeat(x, len(group.students), axis=0),
        jax.lax.map(init_one, keys),
    )
    optimizer = group.students[0].optimizer(0.0, 0.0)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        extra=extra,
        opt_state=jax.vmap(optimizer.init)(params),
        ema=params if ema else None,
    )


def init_best(state: TrainState) -> Best:
    """Starts the record of each member's best evaluation."""
    members = jax.tree.leaves(state.params)[0].shape[0]
    return Best(
        score=jnp.full((members,), -jnp.inf),
        step=jnp.zeros((members,), jnp.int32),
        params=state.eval_params,
        extra=state.extra,
    )


def update_best(
    best: Best, state: TrainState, scores: jax.Array, training: jax.Array
) -> Best:
    """Takes over the members that scored higher than ever before.

    Args:
      best: the record so far.
      state: the state that was evaluated.
      scores: of this evaluation, ``[members]``; higher is better (negate others).
      training: False for members that had ended before, ``[members]``.
    """
    better = training & (scores > best.score)

    def pick(new, old):
        return jnp.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    candidate = Best(
        score=scores,
        step=jnp.broadcast_to(state.step, better.shape),
        params=state.eval_params,
        extra=state.extra,
    )
    return jax.tree.map(pick, candidate, best)
