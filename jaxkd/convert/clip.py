"""CLIP's weights for detectors of forged faces: the image tower, and labels as texts.

    python -m jaxkd.convert.clip clip-vit-base-patch32 runs/clip
    python -m jaxkd.convert.clip clip-vit-base-patch32 runs/clip_ffsc --labels=ffsc

The folder has the hub's layout (``config.json``, ``model.safetensors``, ``vocab.json``,
``merges.txt``). The first is for ``config.model.name`` such as ``clip_vit_b32``, whose
linear head starts anew; the second, ``clip_vit_b32_joint``, whose label table are the
embeddings of texts and whose scale is CLIP's (SJEDD, arXiv:2408.16305). Then
``--config.init_from=runs/clip``.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxkd.convert.stable_diffusion import load_clip
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.methods.common.label_heads import GRAPHS
from jaxkd.models import clip_image, label_table
from jaxkd.models.stable_diffusion.clip import MAX_LOGIT_SCALE, MEAN, STD, Clip
from jaxkd.training import export


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts; mistakes of the user end with a message and status 2."""
    parser = argparse.ArgumentParser(
        "python -m jaxkd.convert.clip",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of the hub's layout")
    parser.add_argument("workdir", type=Path, help="new folder")
    parser.add_argument(
        "--labels", choices=sorted(GRAPHS), help="graph whose labels become texts"
    )
    options = parser.parse_args(arguments)
    try:
        print(to_run(options.folder, options.workdir, options.labels))
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        sys.exit(2)


def to_run(folder: Path, workdir: Path, labels: str | None = None) -> str:
    """Writes the folder of a run with CLIP's image tower.

    Args:
      folder: of CLIP, in the hub's layout.
      workdir: a new folder.
      labels: ``"ffsc"`` or ``"ffpp"``: graph whose labels are embedded as texts.

    Returns:
      What was written, for the terminal.

    Raises:
      UserError: as ``load_clip``; if the new folder holds something.
    """
    clip, params, tokenizer = load_clip(folder)
    variables: dict[str, Any] = {"params": {"image": params["image"]}}
    names: tuple[str, ...] = ()
    if labels:
        names = GRAPHS[labels]().nodes
        texts = prompts(GRAPHS[labels]())
        table = clip.apply(
            {"params": params}, jnp.asarray(tokenizer.encode(texts)), method=_encode
        )
        log_scale = np.minimum(params["logit_scale"], np.log(MAX_LOGIT_SCALE))
        variables["params"]["fc"] = {"embeddings": np.asarray(table)}
        variables[label_table.CONSTANTS] = {"fc": {"log_scale": np.float32(log_scale)}}
    name, options = network_options(clip, "_joint" if labels else "")
    side = clip.image.image_size
    info = Info(folder.name, len(names), (side, side, 3), MEAN, STD, names)
    export.write(workdir, variables, name, options, info)
    given = "".join(f" --config.model.{k}={v}" for k, v in options.items())
    return (
        f"{workdir}: the image tower of {folder.name}"
        f"{f' and {len(names)} labels as texts' if labels else ''}. Start from it with "
        f"--config.model.name={name}{given} --config.init_from={workdir}"
    )


def prompts(graph: LabelGraph) -> list[str]:
    """Returns the text of each label, in the words of SJEDD.

    >>> prompts(LabelGraph.ffsc())[6]
    'A photo of a face with the local attribute of eye altered'
    """
    texts = []
    for kind, level in zip(("", "global", "local"), graph.levels, strict=True):
        for node in level:
            altered = f"the {kind} attribute of {graph.nodes[node]} altered"
            texts.append(f"A photo of a face with {altered}" if kind else "")
    return ["A photo of a fake face", *texts[1:]]


def network_options(clip: Clip, suffix: str) -> tuple[str, dict[str, Any]]:
    """Returns the name of a network with a CLIP's image tower, and its options.

    Args:
      clip: both towers.
      suffix: of the name: ``"_joint"`` for labels, or nothing.
    """
    fields = {
        field.name for field in dataclasses.fields(clip_image.ClipImageClassifier)
    }
    own = {
        field.name: getattr(clip.image, field.name)
        for field in dataclasses.fields(clip.image)
        if field.name in fields - {"parent", "name", "dtype"}
    }
    found = []
    for name, (module, attributes) in clip_image.VARIANTS.items():
        network = module(num_classes=1, **attributes)
        if name.endswith("_joint") == bool(suffix):
            other = {k: v for k, v in own.items() if getattr(network, k) != v}
            found.append((name, other))
    return min(found, key=lambda each: len(each[1]))


def _encode(clip: Clip, ids: jnp.ndarray) -> jnp.ndarray:
    return clip.encode_text(ids)


if __name__ == "__main__":
    main()
