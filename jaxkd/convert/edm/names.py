"""What EDM's state dictionaries call the variables of its networks.

The names and shapes also tell how a network is built, so that a file of nothing but
tensors is enough.
"""

import functools
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxkd.convert.torch import names
from jaxkd.core.errors import UserError
from jaxkd.models import edm

NETWORKS: Mapping[str, type[edm.UNet]] = {
    "SongUNet": edm.SongUNet,
    "DhariwalUNet": edm.DhariwalUNet,
}
PREFIX = "model."  # What the preconditioning calls its network.
NOISE_LEVELS = "u"  # What iDDPM's preconditioning keeps beside its network.
FILTER = "resample_filter"
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "freqs": "freqs"}


class Entry(NamedTuple):
    """One variable.

    Attributes:
      path: in the variables, the collection first.
      shape: there.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]

    def ours(self) -> np.ndarray:
        """Returns an array of its shape, of next to no memory."""
        return np.broadcast_to(np.float32(0), self.shape)

    def theirs(self) -> np.ndarray:
        """Returns likewise one of its shape in torch."""
        return names.to_torch(self.path, self.ours())


def bare(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a state dictionary without what the preconditioning adds to it."""
    return {
        key.removeprefix(PREFIX): array
        for key, array in state.items()
        if key != NOISE_LEVELS
    }


@functools.lru_cache(maxsize=16)
def table(network: edm.UNet) -> Mapping[str, Entry]:
    """Returns name in a state dictionary -> variable, without the filters.

    Raises:
      UserError: if the attributes of the network contradict one another.
    """
    side = network.img_resolution
    images = jnp.zeros((1, side, side, network.in_channels))
    try:
        shapes = jax.eval_shape(network.init, jax.random.key(0), images, jnp.zeros(1))
    except ValueError as error:
        raise UserError(f"No such network can be built: {error}") from error
    entries = {}
    for path, leaf in traverse_util.flatten_dict(shapes).items():
        module = re.sub("^(enc|dec)_", r"\1.", ".".join(path[1:-1]))
        entries[f"{module}.{_LEAVES[path[-1]]}"] = Entry(path, leaf.shape)
    return types.MappingProxyType(entries)


def taps(network: edm.UNet) -> tuple[float, ...]:
    """Returns the filter of a network's resampling."""
    return getattr(network, FILTER, (1, 1))


def filters(network: edm.UNet) -> dict[str, np.ndarray]:
    """Returns the filters that torch keeps with every layer that changes the size."""
    row = np.asarray(taps(network), np.float32)
    kernel = (np.outer(row, row) / row.sum() ** 2)[None, None]
    layers = []
    sides = [network.img_resolution >> i for i in range(len(network.channel_mult))]
    for side in sides[1:]:
        block = f"enc.{side}x{side}"
        layers += [f"{block}_down.conv0", f"{block}_down.skip"]
        kind = getattr(network, "encoder_type", "standard")
        aux = {"skip": "_aux_down", "residual": "_aux_residual"}
        layers += [block + aux[kind]] if kind in aux else []
    for side in sides[:-1]:
        block = f"dec.{side}x{side}"
        layers += [f"{block}_up.conv0", f"{block}_up.skip"]
        if getattr(network, "decoder_type", "standard") == "skip":
            layers.append(f"{block}_aux_up")
    return {f"{layer}.{FILTER}": kernel for layer in layers}


def infer(
    state: Mapping[str, np.ndarray], origin: str | Path
) -> tuple[str, dict[str, Any]]:
    """Returns name and options of the network that has these tensors.

    What no tensor shows is 0: dropout.

    Args:
      state: name -> array; the names may begin with ``model.``.
      origin: the file it is from, for error messages.

    Raises:
      UserError: if they are of no network of EDM.
    """
    own = bare(state)
    try:
        network = "DhariwalUNet" if "out_conv.weight" in own else "SongUNet"
        options = _common_options(own, network)
        if network == "SongUNet":
            options |= _song_options(own, options)
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"{origin} holds no network of EDM: its {len(own)} tensors "
            f"({', '.join(list(own)[:4])}, ...) have no usable {error}. Expected the "
            f"state dictionary of a {' or '.join(NETWORKS)}."
        ) from error
    return network, options


def _common_options(state: Mapping[str, np.ndarray], network: str) -> dict[str, Any]:
    sides = _sides(state)
    blocks = [f"enc.{side}x{side}_block0" for side in sides]
    stem = state[f"enc.{sides[0]}x{sides[0]}_conv.weight"]
    noise_width = state["map_layer0.weight"].shape[1]
    width = stem.shape[0] if network == "SongUNet" else noise_width
    top = rf"enc\.{sides[0]}x{sides[0]}_block\d+\.conv0\.weight"
    last = f"dec.{sides[0]}x{sides[0]}_aux_conv.weight"
    return {
        "img_resolution": sides[0],
        "in_channels": stem.shape[1],
        "out_channels": state[
            last if network == "SongUNet" else "out_conv.weight"
        ].shape[0],
        "label_dim": _inputs(state, "map_label.weight"),
        "augment_dim": _inputs(state, "map_augment.weight"),
        "model_channels": width,
        "channel_mult": tuple(
            state[f"{block}.conv0.weight"].shape[0] // width for block in blocks
        ),
        "channel_mult_emb": state["map_layer0.weight"].shape[0] // width,
        "num_blocks": sum(bool(re.fullmatch(top, key)) for key in state),
        "attn_resolutions": tuple(
            side
            for side, block in zip(sides, blocks, strict=True)
            if f"{block}.qkv.weight" in state
        ),
        "dropout": 0.0,
        "label_dropout": 0.0,
    }


def _song_options(
    state: Mapping[str, np.ndarray], options: Mapping[str, Any]
) -> dict[str, Any]:
    heads = [key for key in state if key.endswith("_aux_conv.weight")]
    encoder = "standard"
    for kind in ("residual", "skip"):
        if any(key.endswith(f"_aux_{kind}.weight") for key in state):
            encoder = kind
    noise_width = state["map_layer0.weight"].shape[1]
    return {
        "embedding_type": "fourier" if "map_noise.freqs" in state else "positional",
        "channel_mult_noise": noise_width // options["model_channels"],
        "encoder_type": encoder,
        "decoder_type": "skip" if len(heads) > 1 else "standard",
        FILTER: _read_taps(state),
    }


def _sides(state: Mapping[str, np.ndarray]) -> list[int]:
    found = (re.match(r"enc\.(\d+)x\1_", key) for key in state)
    return sorted({int(match[1]) for match in found if match}, reverse=True)


def _inputs(state: Mapping[str, np.ndarray], key: str) -> int:
    return state[key].shape[1] if key in state else 0


def _read_taps(state: Mapping[str, np.ndarray]) -> tuple[float, ...]:
    """Returns the separable filter of the resampling, its least tap 1."""
    kernels = [state[key] for key in state if key.endswith(f".{FILTER}")]
    if not kernels:
        return (1, 1)
    taps = kernels[0][0, 0].sum(0)
    # Published ones are of whole numbers.
    return tuple(float(tap) for tap in np.round(taps / taps.min(), 4))
