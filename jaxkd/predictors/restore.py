"""Restores a trained student from its run's folder, as every predictor needs it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core.source import Info
from jaxkd.training import choice, components, preprocessing
from jaxkd.training import workdir as workdirs
from jaxkd.views.ops import View


class Restored(NamedTuple):
    """A trained student with all that is needed to apply it.

    Attributes:
      name: of the student, a row of the study.
      seed: of it.
      use: "last" or "best" parameters.
      results: content of the run's ``results.json``.
      info: of the data set that the run was trained on.
      config: of the student: the run's, with the student's overrides.
      network: the Linen module.
      variables: ``params`` and the other collections.
      view: of the run.
    """

    name: str
    seed: int
    use: str
    results: Mapping[str, Any]
    info: Info
    config: ConfigDict
    network: nn.Module
    variables: Mapping[str, Any]
    view: View

    def see(self, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the field that the network reads of the evaluation view."""
        seen = self.view.evaluate(dict(batch))
        return seen[components.input_key(self.config, seen)]

    def apply(self, batch: Mapping[str, jax.Array]) -> tuple[Any, Mapping[str, Any]]:
        """Applies the network to the evaluation view: ``(outputs, features)``."""
        return self.network.apply(self.variables, self.see(batch), train=False)  # type: ignore[return-value]


def restore(
    workdir: Path,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
) -> Restored:
    """Restores one student of a finished run.

    Args:
      workdir: folder of the run; its data set is not needed.
      student: row of the study; None where it has one alone.
      seed: which of its seeds; None for the first, which is printed.
      use: "last" or "best" parameters.

    Raises:
      UserError: if the run is not finished, the student or seed is unknown, or a study
        of several students is not told which.
    """
    results = workdirs.read_results(workdir)
    config = workdirs.read_config(workdir)
    source = choice.Source("", student, seed, use)
    (name, seed, use), variables = choice.load(config, workdir, source)
    info = preprocessing.read(workdir)
    assert info is not None  # Results hold a record, in all versions.
    own = components.student_config(config, name)
    network = components.build_network(own, info.num_classes)
    view = components.build_view(config, info)
    return Restored(name, seed, use, results, info, own, network, variables, view)


def in_batches(
    forward: Callable[[Any], jax.Array], size: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Pads every batch to ``size`` rows, so that ``forward`` is compiled once.

    Args:
      forward: ``[size, ...] -> [size, ...]``, a jitted function.
      size: of a batch; those given may be smaller.
    """

    def call(batch: np.ndarray) -> np.ndarray:
        padded = np.zeros((size, *batch.shape[1:]), batch.dtype)
        padded[: len(batch)] = batch
        return np.asarray(forward(padded))[: len(batch)]

    return call
