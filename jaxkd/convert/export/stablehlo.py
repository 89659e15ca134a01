"""Writes a function as StableHLO, for servers, other compilers and other languages.

The file is what ``jax.export.deserialize`` reads; nothing of jaxkd is needed to use it:

    exported = jax.export.deserialize(Path("student.stablehlo").read_bytes())
    logits = exported.call(images)  # any number of them

and ``exported.mlir_module_serialized`` is the portable StableHLO of it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from jaxkd.convert.export import primitives
from jaxkd.core import optional

# One file serves them all.
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write(
    function: Callable[[jax.Array], tuple[jax.Array, ...]],
    names: Sequence[str],
    shape: Sequence[int],
    path: Path,
) -> None:
    """Writes a function of a batch of float32 arrays; the batch's size stays open.

    Args:
      function: ``[batch, *shape] -> arrays``, weights closed over.
      names: of the arrays. What is exported returns a single one as it is, several
        as a dictionary.
      shape: of one example.
      path: of the file, which is replaced if it exists.

    Raises:
      UserError: if flatbuffers is not installed.
    """
    optional.load("flatbuffers", extra="export", purpose="StableHLO files")
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    flat = primitives.inline(function, images)

    def named(x: jax.Array) -> Any:
        outputs = flat(x)
        if len(names) == 1:
            return outputs[0]
        return dict(zip(names, outputs, strict=True))

    exported = jax.export.export(jax.jit(named), platforms=PLATFORMS)(images)
    part = path.with_name(path.name + ".part")
    part.write_bytes(exported.serialize())
    part.replace(path)


def run(path: Path, names: Sequence[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Reads a file that ``write`` wrote and applies it to a batch."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    outputs = exported.call(images)
    named = {names[0]: outputs} if len(names) == 1 else outputs
    return {name: np.asarray(value) for name, value in named.items()}
