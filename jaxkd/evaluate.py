"""Evaluates networks on a data set's test examples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core import checkpoint, class_names, console, sharding, step
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.lookup import is_own_code
from jaxkd.core.source import (
    ArraySource,
    CheckedSource,
    Dataset,
    Example,
    Info,
    Source,
)
from jaxkd.core.writers import write_json
from jaxkd.readers import images
from jaxkd.report import statistics
from jaxkd.training import (
    adaptation,
    build,
    components,
    input_pipeline,
    options,
    preprocessing,
)
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
                if name in totals:
                    part = merge_members(totals[name], part)
                totals[name] = part
        return {name: jax.device_get(_compute(total)) for name, total in totals.items()}


def evaluate_run(workdir: Path, config: ConfigDict | None, use: str) -> str:
    """Evaluates all students of a run, and writes ``eval.json`` into its folder.

    Images are normalised, and brought to size, as in the run; classes are joined by
    their names. Data with some of the run's classes, in any order, are evaluated among
    all that it knows; they need no training examples.

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
        saved.data = config.data
    # The networks are in the checkpoint already, wherever they started from.
    saved.init_from = ""
    # Nothing is trained: these devices and data smaller than a batch will do.
    saved.mesh = configs.default().mesh
    saved.batch_size, saved.accumulate = jax.device_count(), 1
    trained = preprocessing.read(workdir)
    saved.data = _decoded_as_trained(saved.data, trained)
    dataset = _with_train(components.load_data(saved), saved.seeds[0])
    dataset = _as_trained(dataset, trained)
    if config is not None:
        saved.view = _choose_view(saved, config, dataset)
    run = build.build(saved, dataset, workdir=workdir)
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


def _decoded_as_trained(data: ConfigDict, trained: Info | None) -> ConfigDict:
    """Returns ``config.data`` with the channels that a run's images were decoded to."""
    channels = None if trained is None else preprocessing.channels_of_files(trained)
    if channels is None or is_own_code(data.name):
        return data
    if "channels" not in options.of_data(data.name):
        return data
    return ConfigDict({**data, "channels": channels})


def _with_train(dataset: Dataset, seed: int) -> Dataset:
    """Returns data that are for evaluation alone as a run can be built of them.

    Of training examples nothing but the shape is used.
    """
    if len(dataset.train(seed)):
        return dataset
    test = dataset.test
    return dataset._replace(train=lambda seed: test)


class _Renumbered:
    """Examples whose labels are numbered as in the run that trained a network."""

    def __init__(self, source: Source, positions: tuple[int, ...]):
        self.source, self.positions = source, np.asarray(positions, np.int32)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        example = self.source[index]
        label = np.asarray(example["label"])
        if label.ndim or not 0 <= label < len(self.positions):
            raise UserError(
                f"Example {index} has the label {label}, expected one from 0 to "
                f"{len(self.positions) - 1}, so that its class has a name."
            )
        return example | {"label": self.positions[label]}


def _as_trained(dataset: Dataset, trained: Info | None) -> Dataset:
    """Returns a data set as the networks of a run expect it.

    Raises:
      UserError: if it has other channels, sizes that cannot be changed, or classes that
        the run does not know.
    """
    if trained is None:
        return dataset
    if trained.image_shape:
        dataset = _resized(dataset, trained)
    info = dataset.info
    if trained.mean:
        info = info._replace(mean=trained.mean, std=trained.std)
    if trained.num_classes and info.num_classes:
        found = class_names.join(dataset.info, trained, "The run")
        info = info._replace(
            num_classes=trained.num_classes,
            class_names=trained.class_names or info.class_names,
        )
        if found:
            names = dataset.info.class_names[:8]
            shown = [f"{name} is output {found[i]}" for i, name in enumerate(names)]
            console.announce(
                f"{info.name}: classes are joined by their names with those of the "
                f"run: {', '.join(shown)}{', ...' if len(found) > 8 else ''}"
            )
            dataset = dataset._replace(test=_Renumbered(dataset.test, found))
    return dataset._replace(info=info)


def _resized(dataset: Dataset, trained: Info) -> Dataset:
    """Brings test images to the size of a run's, by its rule."""
    info = dataset.info
    if info.image_shape == trained.image_shape and info.resize == trained.resize:
        return dataset
    sources = dataset.test, dataset.train(0)
    plain = all(
        set(one.arrays) <= {"image", "label"}
        if isinstance(one, ArraySource)
        else bool(info.resize)
        for one in sources
    )
    if not plain or not len(info.image_shape) == len(trained.image_shape) == 3:
        if info.image_shape == trained.image_shape:
            return dataset
        raise UserError(
            f"The images of {info.name} are {info.image_shape}, those that the run was "
            f"trained on {trained.image_shape}. Give images of that size (options of "
            "config.data)."
        )

    def prepare(example: Example) -> Example:
        image = images.fit(example["image"], trained.image_shape, trained.resize)
        return example | {"image": image}

    # Not as arrays: each image is fitted as it is read.
    return dataset._replace(
        info=info._replace(image_shape=trained.image_shape, resize=trained.resize),
        train=lambda seed: CheckedSource(dataset.train(seed), info),
        test=CheckedSource(dataset.test, info),
        prepare_test=prepare,
    )


def _choose_view(saved: ConfigDict, given: ConfigDict, dataset: Dataset) -> ConfigDict:
    """Returns the view to evaluate by: the run's, unless another shows other things.

    A view that normalises otherwise shows the same images, in units that the networks
    have never seen. One that degrades them, or makes other fields, is meant.
    """
    if configs.resolved(given.view) == configs.resolved(saved.view):
        return saved.view
    own, other = (components.build_view(one, dataset.info) for one in (saved, given))
    example = dataset.example(dataset.train(saved.seeds[0]))
    if adaptation.differ_in_scale_alone(own, other, example):
        return saved.view
    console.announce(
        f"{saved.name} was trained with the view {dict(saved.view)}, and is evaluated "
        f"with that of --config, {dict(given.view)}, which shows something else."
    )
    return given.view


@jax.jit
def merge_members(a: Any, b: Any) -> Any:
    """Merges metrics of two batches, stacked over members.

    Member by member, since a metric's own merge knows nothing of a leading axis.
    """
    return jax.vmap(lambda one, other: one.merge(other))(a, b)


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
