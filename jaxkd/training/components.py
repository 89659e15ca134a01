"""Builds the parts that a configuration names: data, view, networks.

Also those of one student, and of a needed run, whose network is another run's.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxkd import datasets, models, views
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.source import Dataset, Info
from jaxkd.training import choice
from jaxkd.training.workdir import read_config
from jaxkd.views import ops


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


def source_config(need: ConfigDict, where: str = "The needed run") -> ConfigDict:
    """Returns the configuration of the network that a needed run gives.

    That of its own run, or of ``init_from``, with the overrides of its student.

    Raises:
      UserError: if ``init_from`` holds no run, is a file of weights, or it is not said
        which of its students is meant.
    """
    source = choice.parse(need.init_from)
    if source.path and Path(source.path).is_file():
        raise UserError(
            f"init_from is {source.path!r}, a file, expected the folder of a run. "
            f"Of a PyTorch checkpoint `python -m jaxkd.convert from-torch "
            f"{source.path} FOLDER --model={need.model.name}` makes one; "
            "`python -m jaxkd.convert --help` lists what else is converted."
        )
    config = read_config(Path(source.path)) if source.path else need
    place = source.path or where
    student, _ = choice.choose(config, place, source.student, source.seed)
    return student_config(config, student)


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
