"""A study: students times seeds, trained side by side.

Every (student, seed) is a *member*. Members whose networks are one and the same form
a *group*: their states are stacked on a leading axis, seed by seed, and one compiled
body serves them all, with a switch between their losses.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxkd.core import partition
from jaxkd.core.frozen import of_seed
from jaxkd.core.optim import Optimization
from jaxkd.core.types import MAIN, Best, Method, Params, TrainState


class Student(NamedTuple):
    """One row of a study: how a network is trained.

    Attributes:
      name: of the row.
      method: the training system.
      network: the network that is trained.
      input_key: the field of the batch that it reads.
      steps: length of its training; a study lasts as long as its longest student.
      optimizers: label of ``Method.trainable`` -> how its parameters are trained.
    """

    name: str
    method: Method
    network: nn.Module
    input_key: str
    steps: int
    optimizers: Mapping[str, Optimization]


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

    def member_arrays(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns each member's student, draw and seed, ``[members]`` each."""
        each = self.student_index, self.draw_index, self.member_seeds
        return tuple(jnp.asarray(one) for one in each)  # type: ignore[return-value]

    def learning_rates(self, start: int, count: int) -> dict[str, np.ndarray]:
        """Learning rates of ``count`` steps from ``start``: label -> ``[count,
        members]``."""
        steps = np.arange(start, start + count)

        def of_label(label: str) -> np.ndarray:
            rates = [
                _all_rates(one.optimizers[label].schedule, one.steps)[
                    np.minimum(steps, one.steps)
                ]
                for one in self.students
            ]
            return np.tile(np.stack(rates, axis=1), len(self.seeds))

        return {label: of_label(label) for label in self.students[0].optimizers}


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
        structure = tuple((k, o.key) for k, o in student.optimizers.items())
        own = method.trainable, method.update, method.after_step
        key = (method.init, method.warm_start, method.forward, *own, structure)
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
        params, model_state = method.init(jax.random.fold_in(jax.random.key(seed), 0))
        if method.warm_start is None:
            return params, model_state
        return method.warm_start(params, model_state, of_seed(frozen, index))

    seeds = jnp.asarray(group.seeds, jnp.uint32)
    keys = jnp.arange(len(seeds)), seeds
    params, model_state = jax.tree.map(
        lambda x: jnp.repeat(x, len(group.students), axis=0),
        jax.lax.map(init_one, keys),
    )
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=jax.vmap(functools.partial(_init_optimizers, group))(params),
        ema=params if ema else None,
    )


def _init_optimizers(group: Group, params: Params) -> Any:
    method, optimizers = group.students[0].method, group.students[0].optimizers
    labels = partition.leaf_labels(method.trainable, params)
    if labels is None:
        return optimizers[MAIN].optimizer(0.0, 0.0).init(params)
    return {
        label: one.optimizer(0.0, 0.0).init(partition.part(params, labels, label))
        for label, one in optimizers.items()
    }


def init_best(state: TrainState) -> Best:
    """Starts the record of each member's best evaluation."""
    members = jax.tree.leaves(state.params)[0].shape[0]
    return Best(
        score=jnp.full((members,), -jnp.inf),
        step=jnp.zeros((members,), jnp.int32),
        params=state.eval_params,
        model_state=state.model_state,
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
        model_state=state.model_state,
    )
    return jax.tree.map(pick, candidate, best)
