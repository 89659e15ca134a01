"""DeFI-Net from its official checkpoints, or its backbone from those of HRNet.

A whole DeFI-Net is loaded like any network, strictly:

    python -m jaxkd.convert from-torch DeFI-Net.pth runs/defi --model=defi_net \\
        --classes=2

ImageNet's HRNet-W18-small-v2 has three modules in stage 3 and two in stage 4, where the
backbone has one of each, and a classifier. As in the official code what fits is taken;
here it is also told what was not.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
from flax import traverse_util

from jaxkd.convert.torch import names, weights
from jaxkd.core.errors import UserError
from jaxkd.models.defi_net import DefiNet

Variables = Mapping[str, Any]

_PREFIX = "hrnet."


class Loaded(NamedTuple):
    """What of a backbone's checkpoint was used.

    Attributes:
      loaded: names in the file that were taken.
      missing: names that the backbone has and the file has not; they keep their values.
      unused: names that the file has and the backbone has not.
      reshaped: name -> (shape in the file, shape expected); they keep their values.
    """

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def __str__(self) -> str:
        """Describes it in a few lines."""
        lines = [f"loaded {len(self.loaded)} arrays of the backbone"]
        for text, found in (
            ("not in the file, left as they were", self.missing),
            ("in the file, but not in the backbone", self.unused),
        ):
            if found:
                rest = f" and {len(found) - 4} more" if len(found) > 4 else ""
                lines.append(f"{len(found)} {text}: {', '.join(found[:4])}{rest}")
        lines += [
            f"of another shape, left as it was: {name}, got {got}, expected {wanted}"
            for name, (got, wanted) in self.reshaped.items()
        ]
        return "\n".join(lines)


def load_backbone(
    path: str | Path,
    variables: Variables,
    network: nn.Module | None = None,
) -> tuple[dict[str, Any], Loaded]:
    """Puts the weights of an HRNet into the backbone of a DeFI-Net.

    Args:
      path: of a torch or ``.safetensors`` file: HRNet's classification checkpoint, or
        one of DeFI-Net itself. Nothing in it is executed.
      variables: of the DeFI-Net, ``params`` and ``batch_stats``; not changed.
      network: that they are of; None for the official one.

    Returns:
      The variables with what fitted, and what did and did not.

    Raises:
      UserError: if the file cannot be read or nothing in it fits.
    """
    state = _strip(weights.read_state(path))
    network = DefiNet() if network is None else network
    table = [
        leaf._replace(key=leaf.key.removeprefix(_PREFIX))
        for leaf in names.leaves("defi_net", network)
        if leaf.key.startswith(_PREFIX)
    ]
    flat = dict(traverse_util.flatten_dict(dict(variables)))
    loaded, missing, reshaped = [], [], {}
    for leaf in table:
        if leaf.path is None:  # a counter, which nothing needs
            continue
        if leaf.key not in state:
            missing.append(leaf.key)
        elif state[leaf.key].shape != leaf.shape:
            reshaped[leaf.key] = (state[leaf.key].shape, leaf.shape)
        else:
            flat[leaf.path] = leaf.from_torch(state[leaf.key])
            loaded.append(leaf.key)
    if not loaded:
        raise UserError(
            f"{path} holds nothing of an HRNet of these widths; its names are "
            f"{', '.join(list(state)[:4])}, ... Expected names such as {table[0].key}."
        )
    known = {leaf.key for leaf in table}
    unused = [key for key in state if key not in known and names.COUNTER not in key]
    report = Loaded(tuple(loaded), tuple(missing), tuple(unused), reshaped)
    return traverse_util.unflatten_dict(flat), report


def _strip(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes what wrappers put before names; of a DeFI-Net keeps the backbone."""
    state = {key.replace("model.", ""): array for key, array in state.items()}
    own = {k.removeprefix(_PREFIX): a for k, a in state.items() if _PREFIX in k}
    return own or state
