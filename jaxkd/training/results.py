"""Writes a run's results: results.json, confusion counts, report.html."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

import jaxkd
from jaxkd.core import config as configs
from jaxkd.core import files, provenance, records
from jaxkd.core.errors import UserError
from jaxkd.core.frozen import PerSeed
from jaxkd.core.study import Group
from jaxkd.core.writers import read_metrics
from jaxkd.evaluators.base import EvaluationReport
from jaxkd.report import page
from jaxkd.report.statistics import estimate
from jaxkd.training import growth, options, preprocessing
from jaxkd.training.build import Run
from jaxkd.training.components import describe_network, student_config
from jaxkd.training.needs import LoadedNetwork
from jaxkd.training.teachers import Measured
from jaxkd.training.workdir import RESULTS, read_config, read_json

# Training metrics in the results are means over this last part of a student's steps.
_TAIL = 0.1


class TrainingEnd(NamedTuple):
    """How training ended.

    Attributes:
      last: group -> metric -> ``[members, ...]`` of the last evaluation.
      best: group -> (scores, steps) of each member's best evaluation, ``[members]``.
      skipped: group -> steps that each member skipped since they were not finite.
      seconds: spent on training, over all sessions.
      findings: of the evaluators.
    """

    last: dict[str, dict[str, np.ndarray]]
    best: dict[str, tuple[np.ndarray, np.ndarray]]
    skipped: dict[str, np.ndarray]
    seconds: float
    evaluation_report: EvaluationReport


def scalars(
    groups: Sequence[Group],
    metrics: Mapping[str, Mapping[str, np.ndarray]],
    split: str,
    since: int,
) -> dict[str, float]:
    """Names the members' metrics ``split_metric/student/seed``.

    Students that ended at step ``since`` or before are left out, and so is everything
    that is not a scalar or that a student does not measure (other than its loss).
    """
    named = {}
    for group in groups:
        ends = group.per_member([student.steps for student in group.students])
        for metric, values in metrics[group.name].items():
            if np.ndim(values) > 1:
                continue
            for (student, seed), end, value in zip(
                group.members, ends, values, strict=True
            ):
                measured = metric == "loss" or not np.isnan(value)
                if end > since and measured:
                    named[f"{split}_{metric}/{student}/{seed}"] = float(value)
    return named


def check_finite(
    run: Run, skipped: Mapping[str, np.ndarray], step: int, saved: int | None
) -> None:
    """Checks that no student has skipped too many steps that were not finite.

    Raises:
      UserError: naming the students that have.
    """
    limit = run.config.max_skipped
    wrong = [
        f"{student}/{seed} ({count:.0f} times)"
        for group in run.groups
        for (student, seed), count in zip(
            group.members, skipped[group.name], strict=True
        )
        if count > limit
    ]
    if wrong:
        kept = "no checkpoint was saved" if saved is None else f"step {saved} is kept"
        raise UserError(
            f"Up to step {step} the loss or the update was not finite for "
            f"{', '.join(wrong)}, expected at most config.max_skipped = {limit} times "
            f"({kept}). A lower learning rate or a longer warm-up usually helps: "
            "change the configuration and start in a new --workdir."
        )


def check_trained(run: Run, skipped: Mapping[str, np.ndarray]) -> None:
    """Checks that every student has made a step, before a run counts as finished.

    Raises:
      UserError: naming the students whose every step was left out.
    """
    never = [
        f"{student}/{seed}"
        for group in run.groups
        for (student, seed), steps, count in zip(
            group.members,
            group.per_member([one.steps for one in group.students]),
            skipped.get(group.name, np.zeros(len(group.members))),
            strict=True,
        )
        if count >= steps
    ]
    if never:
        raise UserError(
            f"Every step of {', '.join(never)} was left out, since the loss or the "
            "update was not finite: nothing was trained, and the run is not finished. "
            "Lower the learning rate or lengthen the warm-up, and start in a new "
            "--workdir."
        )


def write_results(
    run: Run,
    frozen: Mapping[str, LoadedNetwork],
    measured: Measured,
    end: TrainingEnd,
    workdir: Path,
) -> dict[str, Any]:
    """Writes confusion counts and results, which mark the run as finished.

    Returns:
      The results. Those of an earlier, shorter run have lost their report: ``draw``
      has to follow.
    """
    chosen = options.resolved(run.config)
    results = {
        "finished": True,
        "name": run.config.name,
        "version": jaxkd.__version__,
        "provenance": provenance.describe(),
        "data": _describe_data(run),
        "options": {key: chosen[key] for key in ("data", "view")},
        "preprocessing": preprocessing.describe(run.dataset.info, run.config.view),
        "score": run.score._asdict(),
        "seeds": list(run.config.seeds),
        "reference": run.config.reference or None,
        "unit": run.config.unit,
        "steps": run.steps,
        "batch_size": run.config.batch_size,
        "seconds": end.seconds,
        "environment": provenance.environment() | {"devices": run.mesh.size},
        "init_from": _describe_start(run),
        "frozen": {
            name: _describe_frozen(run, name, one, measured.get(name))
            for name, one in frozen.items()
        },
        "students": _describe_students(run, end, workdir, chosen["students"]),
        "figures": [figure._asdict() for figure in end.evaluation_report.figures],
        "extended": growth.read_extensions(workdir),
        "tables": [table._asdict() for table in end.evaluation_report.tables],
    }
    if jax.process_index() == 0:
        confusions: dict[str, Any] = _confusions(run, end)
        with files.replacing(workdir / page.CONFUSION) as path:
            np.savez_compressed(path, **confusions)
        (workdir / page.REPORT).unlink(missing_ok=True)
        records.write_results(workdir, results)
    return results


def is_whole(workdir: Path) -> bool:
    """Tells whether a finished run has its report."""
    return (workdir / page.REPORT).is_file()


def draw(workdir: Path) -> None:
    """Draws the report of a finished run that has none yet (process 0)."""
    if jax.process_index() == 0 and not is_whole(workdir):
        page.write_report(workdir)


def _describe_data(run: Run) -> dict[str, Any]:
    info = run.dataset.info
    return {
        "name": info.name,
        "num_classes": info.num_classes,
        "image_shape": list(info.image_shape),
        "mean": list(info.mean),
        "std": list(info.std),
        "train_examples": len(run.draws[0]),
        "test_examples": len(run.dataset.test),
        "class_names": list(info.class_names),
    }


def _describe_start(run: Run) -> dict[str, Any] | None:
    """Describes the network that the students were fine-tuned from."""
    if run.pretrained is None:
        return None
    fresh = {
        name: ["/".join(path) for path in plan.fresh]
        for name, plan in run.plans.items()
    }
    return {**run.pretrained.record, "initialised_anew": fresh}


def _describe_frozen(
    run: Run,
    name: str,
    frozen: LoadedNetwork,
    measured: Mapping[str, list[float]] | None,
) -> dict[str, Any]:
    network = run.frozen[name]
    described = {
        "model": frozen.model,
        **_describe_network(run, frozen.network, frozen.input_key),
        "path": frozen.recorded,
        **frozen.member._asdict(),
        "hash": frozen.hash,
        "scale": list(network.scale),
        "shift": list(network.shift),
        "classes": list(network.classes),
        "measured_here": measured is not None,
    }
    path = frozen.source / RESULTS
    if path.exists():
        earlier = records.read_results(frozen.source)
        described["run"] = {
            "name": earlier.get("name"),
            **provenance.recorded(earlier),
        }
    last = _own_figures(run, name, frozen) if measured is None else measured
    if isinstance(frozen.variables, PerSeed) and last:
        described |= {key: estimate(values).mean for key, values in last.items()}
        return described | {"by_seed": last}
    return described | {key: values[0] for key, values in last.items()}


def _own_figures(
    run: Run, name: str, frozen: LoadedNetwork
) -> Mapping[str, list[float]]:
    """Returns the figures of a needed run's own test, if it was this run's, too.

    For networks that ``teachers.measure`` cannot evaluate.
    """
    path = frozen.source / RESULTS
    config = read_config(frozen.source)
    there, here = (
        [configs.resolved(one.data), configs.resolved(one.view)]
        for one in (config, run.config)
    )
    adapted = run.frozen[name].scale or run.frozen[name].classes
    if not path.exists() or there != here or adapted or frozen.member.use != "last":
        return {}
    student, seed = frozen.member.student, frozen.member.seed
    last = read_json(path)["students"][student]["last"]
    if isinstance(frozen.variables, PerSeed):
        return last
    place = list(config.seeds).index(seed)
    return {key: [values[place]] for key, values in last.items()}


def _describe_network(run: Run, network: nn.Module, input_key: str) -> dict[str, Any]:
    return describe_network(network, run.spec.fields[input_key].shape)


def _describe_students(
    run: Run, end: TrainingEnd, workdir: Path, chosen: Mapping[str, Any]
) -> dict[str, Any]:
    metrics = read_metrics(workdir)
    described = {}
    for student in run.students:
        config = student_config(run.config, student.name)
        described[student.name] = {
            "method": config.method,
            "options": chosen[student.name]["loss"],
            "model": config.model.name,
            "model_options": chosen[student.name]["model"],
            **_describe_network(run, student.network, student.input_key),
            "steps": student.steps,
            "optim": configs.resolved(config.optim),
            **_describe_scores(run, student.name, end),
            "train": _describe_training(metrics, student.name, student.steps, run),
        }
    return described


def _describe_scores(run: Run, student: str, end: TrainingEnd) -> dict[str, Any]:
    group = next(g for g in run.groups if student in [s.name for s in g.students])
    rows = [i for i, (name, _) in enumerate(group.members) if name == student]
    scores, steps = end.best[group.name]
    scores = -scores if run.score.lower else scores
    last = {
        name: values[rows].tolist()
        for name, values in end.last[group.name].items()
        if values.ndim == 1
    }
    evaluated = end.evaluation_report.scores.get(student, {})
    if repeated := sorted(set(last) & set(evaluated)):
        raise UserError(
            f"The evaluator's scores {', '.join(repeated)} have the names of metrics "
            "that the method's evaluate gives already, expected other names. Rename "
            "them and start again: the training is saved."
        )
    return {
        "last": last
        | {name: list(map(float, values)) for name, values in evaluated.items()},
        "best": {run.score.name: scores[rows].tolist(), "step": steps[rows].tolist()},
        "skipped": end.skipped[group.name][rows].astype(int).tolist(),
    }


def _describe_training(metrics, student: str, steps: int, run: Run) -> dict[str, Any]:
    """Averages the training metrics over the last tenth of the steps, seed by seed."""
    found: dict[str, dict[int, list[float]]] = {}
    for record_ in metrics:
        if not steps * (1 - _TAIL) < record_["step"] <= steps:
            continue
        for key, value in record_.items():
            split, _, member = key.partition("/")
            name, _, seed = member.partition("/")
            if split.startswith("train_") and name == student and value is not None:
                by_seed = found.setdefault(split.removeprefix("train_"), {})
                by_seed.setdefault(int(seed), []).append(value)
    return {
        metric: [float(np.mean(by_seed[seed])) for seed in run.config.seeds]
        for metric, by_seed in found.items()
        if set(by_seed) == set(run.config.seeds)
    }


def _confusions(run: Run, end: TrainingEnd) -> dict[str, np.ndarray]:
    counts: dict[str, np.ndarray] = {}
    for group in run.groups:
        stacked = end.last[group.name].get("confusion")
        if stacked is not None:
            for (student, _), matrix in zip(group.members, stacked, strict=True):
                counts[student] = counts.get(student, 0) + matrix.astype(np.int64)
    return counts
