"""Which needed runs' networks students read, and which they start from.

Found by tracing. A network of other classes may only be started from, but for its head.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxkd.core.errors import UserError
from jaxkd.core.frozen import of_seed
from jaxkd.core.types import Batch, Method
from jaxkd.training import program
from jaxkd.training.build import Run


class _Recorder(dict):
    """A dictionary that records which of its items are read."""

    def __init__(self, items: Mapping[str, Any], read: set[str]):
        super().__init__(items)
        self.read = read

    def __getitem__(self, name: str) -> Any:
        self.read.add(name)
        return super().__getitem__(name)


def taught_by(run: Run) -> set[str]:
    """Returns the needed runs whose networks the students' targets are made of."""
    methods = [student.method for student in run.students]
    read: set[str] = set()
    batch, key = run.spec.batch_shapes(2), jax.random.key(0)

    def trace(function: Callable, frozen: Any, batch: Batch) -> Any:
        return function(_Recorder(of_seed(frozen, 0), read), batch, key)

    for function in {f for method in methods for f in method.targets.values()}:
        traced = functools.partial(trace, function)
        jax.eval_shape(traced, program.abstract_frozen(run), batch)
    return read


def started_from(run: Run, method: Method) -> set[str]:
    """Returns the needed runs whose networks a student starts from."""
    if method.warm_start is None:
        return set()
    read: set[str] = set()

    def trace(frozen: Any) -> Any:
        params, model_state = method.init(jax.random.key(0))
        recorder = _Recorder(of_seed(frozen, 0), read)
        return method.warm_start(params, model_state, recorder)  # type: ignore[misc]

    jax.eval_shape(trace, program.abstract_frozen(run) | run.start)
    return read & run.frozen.keys()


def check(run: Run) -> None:
    """Refuses networks of other classes where they would be misread.

    Raises:
      UserError: naming the needed run, and the student where one starts from it.
    """
    if not any(one.unlike or one.classes for one in run.frozen.values()):
        return
    for name in sorted(taught_by(run)):
        if run.frozen[name].unlike:
            raise UserError(run.frozen[name].unlike)
    for student in run.students:
        for name in sorted(started_from(run, student.method)):
            _check_start(run, student.name, name, student.method.warm_head)


def notes(run: Run) -> list[str]:
    """Lists what was decided about the needed runs' networks, for the terminal."""
    # Students of one start share it, and are traced once.
    starts = {(m.init, m.warm_start): m for m in (s.method for s in run.students)}
    started = {name for m in starts.values() for name in started_from(run, m)}
    lines = []
    for name, one in run.frozen.items():
        if one.scale and name in started and name not in taught_by(run):
            lines.append(
                f"{name} expects inputs normalised otherwise, {_rounded(one.scale)} "
                f"times these plus {_rounded(one.shift)}; students start from it as it "
                "is"
            )
        elif one.scale:
            lines.append(f"{name} sees images normalised as in its own run")
        if one.classes:
            lines.append(f"{name} answers in this run's classes, by their names")
        if name in started and not one.per_seed:
            lines += _shared_start(run, name)
    return [f"{run.config.name}: {line}" for line in lines]


def _shared_start(run: Run, name: str) -> list[str]:
    here, there = list(run.config.seeds), list(run.config.needs[name].seeds)
    if len(here) == len(there) == 1:
        return []
    return [
        f"all seeds start from one network of {name}, so that errors over seeds do not "
        f"cover it (seeds are {here} here, {there} there; each starts from its own if "
        'both runs have config.batches = "per_seed" and all seeds are there)'
    ]


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 3) for value in values]


def _check_start(run: Run, student: str, name: str, with_head: bool) -> None:
    network = run.frozen[name]
    if with_head and network.unlike:
        raise UserError(network.unlike)
    if with_head and network.classes:
        raise UserError(
            f"The student {student!r} starts from a needed run, but the classes of "
            f"config.needs.{name} are others than this run's, or in another order, so "
            "that its head would be taken over wrongly. Give both data the same class "
            "names in the same order, or start by config.init_from."
        )
