"""Turns a configuration into data, networks and students, checking it on the way."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxkd import methods
from jaxkd.core import config as configs
from jaxkd.core import lookup, sharding
from jaxkd.core.errors import UserError
from jaxkd.core.optim import optimizations
from jaxkd.core.partition import leaf_labels
from jaxkd.core.source import ArraySource, Dataset, Info, Source
from jaxkd.core.step import Settings
from jaxkd.core.study import Group, Student, make_groups
from jaxkd.core.types import (
    FROZEN,
    MAIN,
    Ensemble,
    FrozenNetwork,
    Method,
    Score,
    Spec,
)
from jaxkd.training import adaptation, choice, fine_tuning, options, preprocessing
from jaxkd.training.components import (
    build_network,
    build_view,
    input_key,
    load_data,
    source_config,
    student_config,
)
from jaxkd.views import ops


class Run(NamedTuple):
    """All that training and evaluation need to know, checked.

    Attributes:
      config: what was asked for.
      mesh: of devices.
      dataset: description, training and test examples.
      view: augmentation and evaluation view.
      draws: one training source per draw of a batch.
      draw_seeds: the seed of each draw.
      frozen: networks of the needed runs, and what they read.
      spec: what the methods were told, with the run's own network.
      students: rows of the study, in the order of the configuration.
      groups: the same, as they are compiled.
      steps_per_unit: steps per epoch, or 1.
      steps: steps until the last student ends.
      pretrained: the network that students start from, if there is one.
      plans: student -> what becomes of its head then.
    """

    config: ConfigDict
    mesh: Mesh
    dataset: Dataset
    view: ops.View
    draws: tuple[Source, ...]
    draw_seeds: tuple[int, ...]
    frozen: dict[str, FrozenNetwork]
    spec: Spec
    students: tuple[Student, ...]
    groups: tuple[Group, ...]
    steps_per_unit: float
    steps: int
    pretrained: fine_tuning.Pretrained | None = None
    plans: Mapping[str, fine_tuning.Plan] = {}

    @property
    def start(self) -> dict[str, Any]:
        """Variables that students start from beside those of needed runs, by name."""
        if self.pretrained is None:
            return {}
        return {fine_tuning.NAME: self.pretrained.variables}

    def notes(self) -> list[str]:
        """Lists what was decided about ``config.init_from``, for the terminal."""
        lines: list[str] = []
        if self.pretrained is not None:
            known = self.pretrained.info
            lines += dict.fromkeys(
                fine_tuning.report(plan, self.config, known, self.dataset.info)
                for plan in self.plans.values()
            )
        return lines

    @property
    def settings(self) -> Settings:
        """How a training step is computed."""
        return Settings(
            view=self.view.train,
            draw_seeds=self.draw_seeds,
            accumulate=self.config.accumulate,
            ema=self.config.ema,
            loop=self.config.study_loop,
            mesh=self.mesh,
        )

    @property
    def score(self) -> Score:
        """The metric by which all students are compared."""
        return self.students[0].method.score

    def in_steps(self, units: float) -> int:
        """Converts a duration from the run's unit to steps, at least one."""
        return max(round(units * self.steps_per_unit), 1)


def build(
    config: ConfigDict,
    dataset: Dataset | None = None,
    devices: Sequence[jax.Device] | None = None,
    workdir: Path | None = None,
) -> Run:
    """Builds a run and checks all that can be checked without compiling.

    Args:
      config: of the run.
      dataset: instead of the one that the configuration names; needed runs are then
        taken to have been trained on the same, unless they recorded another.
      devices: instead of those that are there.
      workdir: folder of the run, in which needed runs may lie, finished.

    Raises:
      UserError: for whatever is wrong in the configuration or the data.
    """
    configs.check(config)
    if config.code:
        lookup.add_folder(config.code)
    pretrained = fine_tuning.load(config.init_from)
    outlined = dataset is not None
    if dataset is None:
        dataset = load_data(config)
    described = dataset.info
    if pretrained is not None:
        info = preprocessing.normalised_as(described, pretrained.info)
        dataset = dataset._replace(info=info)
    shared = config.batches == "shared"
    draw_seeds = tuple(config.seeds[:1] if shared else config.seeds)
    draws = tuple(dataset.train(seed) for seed in draw_seeds)
    _check_draws(draws, draw_seeds, config.batch_size)
    per_unit = len(draws[0]) / config.batch_size if config.unit == "epochs" else 1.0
    view = build_view(config, dataset.info)
    example = dataset.example(draws[0])
    fields = _seen(view, example)
    frozen = {
        name: _frozen_network(
            config,
            name,
            _trained_on(config, name, described, workdir, outlined),
            (dataset.info, view, example, fields),
        )
        for name in config.needs
    }
    in_memory = all(isinstance(draw, ArraySource) for draw in draws)
    spec = Spec(
        network=build_network(config, dataset.info.num_classes),
        frozen=frozen,
        num_classes=dataset.info.num_classes,
        fields=fields,
        steps_per_unit=per_unit,
        num_examples=len(draws[0]) if in_memory else None,
        input_key=input_key(config, fields),
        ensemble=_ensemble(config),
    )
    students = tuple(
        _build_student(name, student_config(config, name), spec)
        for name in choice.student_names(config)
    )
    _check_scores(students)
    plans: dict[str, fine_tuning.Plan] = {}
    if pretrained is not None:
        makers = {
            name: functools.partial(build_network, student_config(config, name))
            for name in (student.name for student in students)
        }
        students, plans = fine_tuning.start(
            students, pretrained, makers, spec.batch_shapes(1), dataset.info
        )
    groups = make_groups(students, config.seeds, shared)
    return Run(
        config=config,
        mesh=_make_mesh(config, groups, devices),
        dataset=dataset,
        view=view,
        draws=draws,
        draw_seeds=draw_seeds,
        frozen=frozen,
        spec=spec,
        students=students,
        groups=groups,
        steps_per_unit=per_unit,
        steps=max(student.steps for student in students),
        pretrained=pretrained,
        plans=plans,
    )


def _seen(view: ops.View, example: dict[str, Any]) -> dict[str, Any]:
    """Returns the shapes and dtypes of an example's fields as a view leaves them."""
    batch = {
        name: jax.ShapeDtypeStruct((2, *one.shape), one.dtype)
        for name, one in example.items()
    }
    seen = jax.eval_shape(view.train, jax.random.key(0), batch)
    return {
        name: jax.ShapeDtypeStruct(one.shape[1:], one.dtype)
        for name, one in seen.items()
    }


def _ensemble(config: ConfigDict) -> Ensemble | None:
    """Returns the teachers that are one together, if there are several."""
    weights = config.teachers.weights
    if not weights:
        return None
    total = sum(weights.values())
    shares = tuple((name, weight / total) for name, weight in weights.items())
    return Ensemble(shares, config.teachers.combine)


def _trained_on(
    config: ConfigDict, name: str, info: Info, workdir: Path | None, outlined: bool
) -> Info | None:
    """Returns what is known of the data of a needed run; None if nothing is."""
    need = config.needs[name]
    if path := choice.parse(need.init_from).path:
        return preprocessing.read(Path(path))
    recorded = None if workdir is None else preprocessing.read(workdir / name)
    if recorded is not None:
        return recorded
    if outlined or configs.resolved(need.data) == configs.resolved(config.data):
        return info
    if need.code:
        lookup.add_folder(need.code)
    with options.within(f"config.needs.{name}"):
        return load_data(need).info


def _frozen_network(
    config: ConfigDict, name: str, trained: Info | None, seen: tuple[Any, ...]
) -> FrozenNetwork:
    """Builds the network of a needed run, fitted to this run's inputs and classes.

    What it reads is ``need.model.input``, if that is set, even if the network itself
    comes from elsewhere: a view may make a field for it, of its size.

    Where both runs draw their own batches for each seed, and the needed one has all
    seeds of this one, each seed sees the network of its own; otherwise all see that of
    the first.

    Args:
      config: of the run.
      name: of the needed run.
      trained: of the data that it was trained on; None if not known.
      seen: the run's description of data, view, example and fields.
    """
    info, view, example, fields = seen
    given = config.needs[name]
    source = choice.parse(given.init_from)
    need = source_config(given, f"config.needs.{name}")
    seeds = [tuple(one.seeds) for one in (config, need)]
    own = "per_seed" == config.batches == need.batches and {*seeds[0]} <= {*seeds[1]}
    outputs = info.num_classes if trained is None else trained.num_classes
    network = build_network(need, outputs)
    key = input_key(given if "input" in given.model else need, fields)
    whose = f"The network of config.needs.{name}"
    scale, shift = adaptation.normalisation(
        view, config.view, need.view, info, trained, example, key, whose
    )
    field = jax.ShapeDtypeStruct((1, *fields[key].shape), fields[key].dtype)
    shapes = _outputs(network, field)
    positions, unlike = adaptation.classes(info, trained, shapes, whose)
    return FrozenNetwork(
        network,
        key,
        per_seed=own and len(seeds[1]) > 1 and source.seed is None,
        scale=scale,
        shift=shift,
        classes=positions,
        unlike=unlike,
    )


def _outputs(network: nn.Module, field: jax.ShapeDtypeStruct) -> Any:
    """Returns the shapes of a network's outputs, without its features."""
    try:
        found, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), field)
    except (TypeError, ValueError):
        return None  # ``program.check_losses`` tells whose network it is.
    return found[0] if isinstance(found, tuple) else found


def _check_scores(students: Sequence[Student]) -> None:
    names = {student.name: student.method.score.name for student in students}
    if len(set(names.values())) > 1:
        raise UserError(f"The students cannot be compared, their scores are {names}.")


def _make_mesh(config: ConfigDict, groups: Sequence[Group], devices) -> Mesh:
    members = [len(group.members) for group in groups]
    mesh = sharding.make_mesh(config.mesh, members, devices)
    micro = config.batch_size // config.accumulate
    sharding.check_batch(mesh, micro, "config.batch_size / config.accumulate")
    return mesh


def _build_student(name: str, config: ConfigDict, spec: Spec) -> Student:
    """Builds one row of the study; ``spec`` is the run's, with another network."""
    try:
        network = build_network(config, spec.num_classes)
    except UserError as error:
        raise UserError(f"Student {name!r}: {error}") from error
    steps = max(round(config.duration * spec.steps_per_unit), 1)
    spec = spec._replace(
        network=network, input_key=input_key(config, spec.fields), steps=steps
    )
    method = methods.make(config.method, spec, config.loss)
    return Student(
        name=name,
        method=method,
        network=network,
        input_key=spec.input_key,
        steps=steps,
        optimizers=optimizations(
            configs.resolved(config.optim),
            configs.resolved(config.optimizers),
            _labels(method),
            steps,
            spec.steps_per_unit,
        ),
    )


def _labels(method: Method) -> set[str]:
    """Returns the labels of a method's parameters."""
    if method.trainable is None:
        return {MAIN}
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    labels = set(leaf_labels(method.trainable, params) or [])
    if labels <= {FROZEN}:
        raise UserError("The method trains no parameter: Method.trainable froze all.")
    return labels


def _check_draws(draws: tuple[Source, ...], seeds, batch_size: int) -> None:
    sizes = {seed: len(draw) for seed, draw in zip(seeds, draws, strict=True)}
    if len(set(sizes.values())) > 1:
        raise UserError(f"The seeds' training sets differ in size: {sizes}.")
    if not len(draws[0]):
        raise UserError(
            "The data have no training examples: they are for evaluation alone "
            "(--mode=eval). Give others; a folder needs train/ beside val/, or, if it "
            "was never divided, config.data.hold_out=0.2, a share to evaluate on."
        )
    if len(draws[0]) < batch_size:
        raise UserError(
            f"config.batch_size is {batch_size}, but there are only {len(draws[0])} "
            "training examples. Choose a smaller batch."
        )
