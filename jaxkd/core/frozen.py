"""Variables of the networks of needed runs, where each seed has a network of its own.

An assistant is trained on a student's own few images. Where every seed draws its own,
the assistant of seed 2 must not teach the student of seed 1, which would learn from
images that it does not own.
"""

from collections.abc import Mapping
from typing import Any

import flax.struct
import jax


class PerSeed(flax.struct.PyTreeNode):
    """A network's variables, stacked on a leading axis, one for each seed of a run."""

    variables: Any


def of_seed(frozen: Mapping[str, Any], index: Any) -> dict[str, Any]:
    """Returns the networks' variables as one seed sees them.

    Args:
      frozen: name -> variables, or ``PerSeed``.
      index: of the seed in the run's.
    """
    return {
        name: jax.tree.map(lambda x: x[index], one.variables)
        if isinstance(one, PerSeed)
        else one
        for name, one in frozen.items()
    }


def any_per_seed(frozen: Mapping[str, Any]) -> bool:
    """Tells whether seeds see different networks."""
    return any(isinstance(one, PerSeed) for one in frozen.values())
