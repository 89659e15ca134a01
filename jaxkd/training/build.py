"""Turns a configuration into data, networks and students, checking it on the way."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxkd import datasets, methods, models, views
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
from jaxkd.training.workdir import read_config
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
) -> Run:
    """Builds a run and checks all that can be checked without compiling.

    Args:
      config: of the run.
      dataset: instead of the one that the configuration names.
      devices: instead of those that are there.

    Raises:
      UserError: for whatever is wrong in the configuration or the data.
    """
    configs.check(config)
    if config.code:
        lookup.add_folder(config.code)
    if dataset is None:
        dataset = load_data(config)
    shared = config.batches == "shared"
    draw_seeds = tuple(config.seeds[:1] if shared else config.seeds)
    draws = tuple(dataset.train(seed) for seed in draw_seeds)
    _check_draws(draws, draw_seeds, config.batch_size)
    per_unit = len(draws[0]) / config.batch_size if config.unit == "epochs" else 1.0
    view = build_view(config, dataset.info)
    fields = _seen(view, dataset.example(draws[0]))
    frozen = {
        name: _frozen_network(config, need, dataset.info, fields)
        for name, need in config.needs.items()
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
        for name in (config.students or [lookup.short_name(config.method)])
    )
    _check_scores(students)
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


def input_key(config: ConfigDict, fields: Collection[str]) -> str:
    """Returns the field of the batch that the network of ``config.model`` sees.

    Raises:
      UserError: if the view does not make it.
    """
    name = config.model.get("input", "image")
    if name not in fields:
        raise UserError(
            f"{config.name or 'config'}: config.model.input is {name!r}, but "
            f"config.view makes {', '.join(sorted(fields))}. Choose one of these, or a "
            "view that makes it."
        )
    return name


def _ensemble(config: ConfigDict) -> Ensemble | None:
    """Returns the teachers that are one together, if there are several."""
    weights = config.teachers.weights
    if not weights:
        return None
    total = sum(weights.values())
    shares = tuple((name, weight / total) for name, weight in weights.items())
    return Ensemble(shares, config.teachers.combine)


def _frozen_network(
    config: ConfigDict, need: ConfigDict, info: Info, fields
) -> FrozenNetwork:
    """Builds the network of a needed run.

    What it reads is ``need.model.input``, if that is set, even if the network itself
    comes from elsewhere: a view may make a field for it, of its size.

    Where both runs draw their own batches for each of the same seeds, each seed is
    taught by the network of its own; otherwise all are by that of the first.
    """
    source = source_config(need)
    seeds = [tuple(one.seeds) for one in (config, source)]
    own = "per_seed" == config.batches == source.batches and seeds[0] == seeds[1]
    return FrozenNetwork(
        build_network(source, info.num_classes),
        input_key(need if "input" in need.model else source, fields),
        per_seed=own and len(seeds[0]) > 1,
    )


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


def load_data(config: ConfigDict) -> Dataset:
    """Loads the data set that a configuration names."""
    options = configs.resolved(config.data)
    return datasets.load(options.pop("name"), **options)


def build_view(config: ConfigDict, info: Info) -> ops.View:
    """Builds the augmentation and the evaluation view of a data set."""
    options = configs.resolved(config.view)
    return views.build(options.pop("name"), info, **options)


def student_config(config: ConfigDict, name: str) -> ConfigDict:
    """Returns the configuration with one student's overrides applied.

    A student that names its own method starts from no ``loss`` options, since those of
    the run belong to the run's method.
    """
    overrides = config.students.get(name, ConfigDict())
    merged = config.copy_and_resolve_references()
    with merged.unlocked():
        if "method" in overrides:
            merged.loss = ConfigDict()
        if "model" in overrides:
            merged.model = ConfigDict()
        for key, value in overrides.items():
            if isinstance(value, ConfigDict):
                merged[key].update(value)
            else:
                merged[key] = value
    return merged


def source_config(need: ConfigDict) -> ConfigDict:
    """Returns the configuration of a needed run: its own, or that of ``init_from``.

    Raises:
      UserError: if ``init_from`` holds no run, or is a file of weights.
    """
    if not need.init_from:
        return need
    if Path(need.init_from).is_file():
        raise UserError(
            f"init_from is {need.init_from!r}, a file, expected the folder of a run. "
            f"Of a PyTorch checkpoint `python -m jaxkd.convert from-torch "
            f"{need.init_from} FOLDER --model={need.model.name}` makes one; "
            "`python -m jaxkd.convert --help` lists what else is converted."
        )
    return read_config(Path(need.init_from))


def build_network(config: ConfigDict, num_classes: int) -> nn.Module:
    """Builds the network of ``config.model`` in ``config.dtype``.

    Raises:
      UserError: if there is no such network or it has no such option.
    """
    options = {
        key: tuple(value) if isinstance(value, list | tuple) else value
        for key, value in config.model.items()
    }
    name = str(options.pop("name", ""))
    options.pop("input", None)
    if "dtype" in options:
        raise UserError("config.model has no key dtype: set config.dtype instead.")
    try:
        dtype = jnp.dtype(config.dtype)
        # Without classes one logit remains: arrays of size zero cannot be saved.
        return models.build(name, max(num_classes, 1), dtype=dtype, **options)
    except ValueError as error:
        raise UserError(str(error)) from error


def describe_network(
    network: nn.Module, image_shape: tuple[int, ...]
) -> dict[str, Any]:
    """Counts parameters, and the floating-point operations of one image's forward."""

    def init(key):
        return network.init(key, jnp.zeros((1, *image_shape)))

    variables = jax.eval_shape(init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    forward = jax.jit(lambda v, x: network.apply(v, x, train=False)[0])
    cost = forward.lower(variables, image).cost_analysis() or {}
    return {
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "flops_per_image": cost.get("flops"),
    }


def _build_student(name: str, config: ConfigDict, spec: Spec) -> Student:
    """Builds one row of the study; ``spec`` is the run's, with another network."""
    network = build_network(config, spec.num_classes)
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
    if len(draws[0]) < batch_size:
        raise UserError(
            f"config.batch_size is {batch_size}, but there are only {len(draws[0])} "
            "training examples. Choose a smaller batch."
        )
