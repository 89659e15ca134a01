"""Evaluates networks on a data set's test examples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core import checkpoint, sharding, step
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.writers import write_json
from jaxkd.report import statistics
from jaxkd.training import build, input_pipeline
from jaxkd.training import workdir as workdirs

Results = dict[str, np.ndarray]


class Evaluator:
    """The compiled evaluation of a run's groups."""

    def __init__(self, run: build.Run):
        self._run = run
        self._evaluate = {
            group.name: jax.jit(
                step.make_evaluation(
                    group, run.view.evaluate, run.config.study_loop, run.mesh
                ),
                out_shardings=sharding.replicated(run.mesh),
            )
            for group in run.groups
        }

    def __call__(
        self,
        params: Mapping[str, Any],
        model_state: Mapping[str, Any],
        training: Mapping[str, np.ndarray],
    ) -> dict[str, Results]:
        """Evaluates all members on the test examples.

        Args:
          params: group -> parameters, stacked over members.
          extra: group -> other collections, likewise.
          training: group -> ``[members]``, False to leave a member out.

        Returns:
          group -> metric -> ``[members, ...]``; of members left out they are NaN or 0.
        """
        totals: dict[str, Any] = {}
        for batch in input_pipeline.test_batches(self._run):
            for name, evaluate in self._evaluate.items():
                part = evaluate(params[name], model_state[name], batch, training[name])
                totals[name] = _merge(totals[name], part) if name in totals else part
        return {name: jax.device_get(_compute(total)) for name, total in totals.items()}


def evaluate_run(workdir: Path, config: ConfigDict | None, use: str) -> str:
    """Evaluates all students of a run, and writes ``eval.json`` into its folder.

    Args:
      workdir: folder of the run.
      config: whose data set and view to evaluate on; None for the run's own.
      use: "last" or "best" parameters.

    Returns:
      A table for the terminal.

    Raises:
      UserError: if there is no such run, or the data set does not fit its networks.
    """
    saved = workdirs.read_config(workdir)
    if config is not None:
        saved.data, saved.view = config.data, config.view
    # Nothing is trained: these devices and data smaller than a batch will do.
    saved.mesh = configs.default().mesh
    saved.batch_size, saved.accumulate = jax.device_count(), 1
    run = build.build(saved)
    groups = checkpoint.load_groups(workdir / "checkpoints", use, run.groups)
    _check_networks(run, groups, workdir)
    groups = sharding.put(groups, sharding.replicated(run.mesh))
    metrics = Evaluator(run)(
        {name: group["params"] for name, group in groups.items()},
        {name: group["model_state"] for name, group in groups.items()},
        {group.name: np.ones(len(group.members), bool) for group in run.groups},
    )
    scores = {
        student.name: _scores(run, metrics, student.name) for student in run.students
    }
    data = run.dataset.info.name
    write_json(workdir / "eval.json", {"data": data, "use": use, "students": scores})
    return _format(run, scores, use)


@jax.jit
def _merge(a: Any, b: Any) -> Any:
    return a.merge(b)


@jax.jit
def _compute(stacked: Any) -> Any:
    return jax.vmap(lambda one: one.compute())(stacked)


def _check_networks(run: build.Run, groups: Mapping[str, Any], workdir: Path) -> None:
    for group in run.groups:
        init = group.students[0].method.init
        wanted, _ = jax.eval_shape(init, jax.random.key(0))
        one = jax.tree.map(lambda x: x[0], groups[group.name]["params"])
        checkpoint.compare(workdir / "checkpoints", one, wanted)


def _scores(run: build.Run, metrics: Mapping[str, Results], student: str) -> Results:
    for group in run.groups:
        rows = [i for i, (name, _) in enumerate(group.members) if name == student]
        if rows:
            scalars = {k: v for k, v in metrics[group.name].items() if v.ndim == 1}
            return {name: values[rows] for name, values in scalars.items()}
    raise UserError(f"The run has no student {student!r}.")


def _format(run: build.Run, scores: Mapping[str, Results], use: str) -> str:
    by = run.score
    metrics = list(next(iter(scores.values())))
    metrics.sort(key=lambda name: (name != by.name, name == "loss"))
    # Losses are no fractions, whatever the score is.
    scales = {m: 100 if by.percent and m != "loss" else 1 for m in metrics}
    heads = [f"{name} %" if scales[name] > 1 else name for name in metrics]
    lines = [
        f"{statistics.plural(len(run.dataset.test), 'test example')} of "
        f"{run.dataset.info.name}, {use} parameters, "
        f"{statistics.plural(len(run.config.seeds), 'seed')}:",
        f"{'student':<16}" + "".join(f"{head:>18}" for head in heads),
    ]
    for name, values in scores.items():
        cells = (
            statistics.format_estimate(
                statistics.estimate(values[metric].tolist()),
                2 if scale > 1 else 4,
                scale=scale,
            )
            for metric, scale in scales.items()
        )
        lines.append(f"{name:<16}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)
