"""Needed runs: trained or loaded before a run begins.

A run may need others (``config.needs``): a teacher, an assistant, a backbone. Each is
trained in its own folder exactly as if it had been started by hand, or loaded from
``init_from``.
"""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np

from jaxkd.core import checkpoint, integrity, sharding
from jaxkd.core import config as configs
from jaxkd.core.frozen import PerSeed
from jaxkd.training import choice, program
from jaxkd.training.build import Run
from jaxkd.training.components import source_config
from jaxkd.training.workdir import read_config

# Folders of the runs that were needed so far, by their configurations as JSON.
Known = dict[str, Path]
# Trains a configuration in a folder: ``(config, workdir, known)``.
Train = Callable[[Any, Path, Known], Any]


class LoadedNetwork(NamedTuple):
    """The network of a needed run, laid out over the devices.

    Attributes:
      network: its module.
      input_key: the field of a batch that it reads.
      variables: ``params`` and the other collections.
      hash: of their content.
      source: the run's folder.
      recorded: the same as it is recorded, relative where it lies within the workdir.
      model: its name.
      member: which of the run's students, seeds and parameters it is.
    """

    network: nn.Module
    input_key: str
    variables: Any
    hash: str
    source: Path
    recorded: str
    model: str
    member: choice.Member


def load_all(
    run: Run, workdir: Path, train: Train, known: Known
) -> dict[str, LoadedNetwork]:
    """Trains or loads the needed runs of a run.

    Those that need none themselves come first, since others may need the same; one
    that several runs need is trained once.

    Args:
      run: that needs them.
      workdir: its folder.
      train: trains one of them.
      known: folders of those that were trained before; new ones are added.

    Raises:
      UserError: if one cannot be loaded.
    """
    needs = run.config.needs
    order = sorted(needs, key=lambda name: _depth(needs[name]))
    loaded = {name: _load(run, name, workdir, train, known) for name in order}
    return {name: loaded[name] for name in needs}


def _depth(config: Any) -> int:
    return max((1 + _depth(need) for need in config.needs.values()), default=0)


def _load(
    run: Run, name: str, workdir: Path, train: Train, known: Known
) -> LoadedNetwork:
    need = run.config.needs[name]
    chosen = choice.parse(need.init_from)
    if chosen.path:
        source = recorded = Path(chosen.path)
    else:
        standalone = configs.standalone(need)
        key = json.dumps(configs.resolved(standalone), sort_keys=True)
        source = known.setdefault(key, workdir / name)
        recorded = Path(os.path.relpath(source, workdir))
        train(standalone, source, known)
    config = read_config(source)
    member = choice.member_of(config, source, chosen)
    if not run.frozen[name].per_seed:
        choice.announce(config, source, *member)
    variables = load_variables(run, name, source / "checkpoints", member)
    checkpoint.compare(str(source), variables, program.abstract_frozen(run)[name])
    return LoadedNetwork(
        network=run.frozen[name].network,
        input_key=run.frozen[name].input_key,
        variables=sharding.put(variables, sharding.replicated(run.mesh)),
        hash=integrity.content_hash(variables),
        source=source,
        recorded=str(recorded),
        model=source_config(need, name).model.name,
        member=member,
    )


def load_variables(
    run: Run, name: str, checkpoints: Path, member: choice.Member
) -> Any:
    """Loads a needed run's network, or those of all seeds."""
    load = functools.partial(
        checkpoint.load_member, checkpoints, member.use, member.student
    )
    if not run.frozen[name].per_seed:
        return load(member.seed)
    members = [load(seed) for seed in run.config.seeds]
    return PerSeed(jax.tree.map(lambda *rows: np.stack(rows), *members))
