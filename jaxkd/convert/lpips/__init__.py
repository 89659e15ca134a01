"""LPIPS' weights for the metric ``lpips`` of restoration, from public files.

They come as two files, a backbone and linear heads, or as one with both; see
``python -m jaxkd.convert.lpips --help``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxkd.convert.torch import weights
from jaxkd.core import files
from jaxkd.core.errors import UserError
from jaxkd.models.lpips import LPIPS
from jaxkd.readers import lpips_weights


def load_lpips(*paths: str | Path) -> tuple[LPIPS, dict[str, Any]]:
    """Loads LPIPS from its backbone and its heads; nothing is executed.

    Args:
      *paths: files that PyTorch wrote, or ``.safetensors``: both, or one with all.

    Returns:
      The network, ``apply(variables, images, references)``, and its variables.

    Raises:
      UserError: if a file cannot be read, or together they are not LPIPS.
    """
    return lpips_weights.from_state(_joined(paths), _origin(paths))


def to_file(paths: Sequence[Path], output: Path) -> str:
    """Writes LPIPS' weights as one safetensors file.

    Args:
      paths: see ``load_lpips``.
      output: the file, which is replaced if it exists.

    Returns:
      What was written, for the terminal.

    Raises:
      UserError: as ``load_lpips``; if the output is of another ending, or its folder
        missing.
    """
    if output.suffix.lower() != ".safetensors" or not output.absolute().parent.is_dir():
        raise UserError(
            f"The output is {output}, expected a file that ends in .safetensors, in a "
            "folder that is there."
        )
    state = _joined(paths)
    network, _ = lpips_weights.from_state(state, _origin(paths))
    files.write_tensors(output, state)
    return (
        f"{output}: LPIPS on {network.backbone}. Measure with it by "
        f"--config.loss.lpips={output}, or of a study --config.students.NAME.loss.lpips"
    )


def _origin(paths: Sequence[str | Path]) -> str:
    return " and ".join(map(str, paths))


def _joined(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Reads all files; a name that stands in several must mean the same."""
    joined: dict[str, Any] = {}
    for path in paths:
        found = lpips_weights.canonical(weights.read_state(path), path)
        twice = sorted(set(found) & set(joined))
        if twice:
            raise UserError(
                f"{path} and a file before it both hold {twice[0]}. Expected one "
                "backbone and one file of heads."
            )
        joined |= found
    return joined
