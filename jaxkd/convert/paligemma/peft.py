"""LoRA adapters in the files of PEFT: ``adapter_model.safetensors`` and its JSON."""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from jaxkd.convert.paligemma import names
from jaxkd.core import checkpoint, parsing
from jaxkd.core.errors import UserError
from jaxkd.core.files import write_tensors
from jaxkd.models.paligemma import PaliGemmaConfig, lora

WEIGHTS, DESCRIPTION = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."

# Target -> module on the hub, by layer.
_MODULES = {
    "q": f"{names.TEXT}.layers.{{}}.self_attn.q_proj",
    "k": f"{names.TEXT}.layers.{{}}.self_attn.k_proj",
    "v": f"{names.TEXT}.layers.{{}}.self_attn.v_proj",
    "o": f"{names.TEXT}.layers.{{}}.self_attn.o_proj",
    "gate": f"{names.TEXT}.layers.{{}}.mlp.gate_proj",
    "up": f"{names.TEXT}.layers.{{}}.mlp.up_proj",
    "down": f"{names.TEXT}.layers.{{}}.mlp.down_proj",
    "vision_q": f"{names.VISION}.encoder.layers.{{}}.self_attn.q_proj",
    "vision_k": f"{names.VISION}.encoder.layers.{{}}.self_attn.k_proj",
    "vision_v": f"{names.VISION}.encoder.layers.{{}}.self_attn.v_proj",
}
# Options of PEFT that make another network of the same tensors, and what is neutral.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "modules_to_save": ([], None),
    "bias": ("none", None),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    # Others ("pissa", "olora" ...) have changed the base, too.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}


def load_adapter(
    folder: str | Path, config: PaliGemmaConfig, params: Mapping[str, Any]
) -> tuple[PaliGemmaConfig, dict[str, Any]]:
    """Adds adapters saved by PEFT, or by ``save_adapter``, to a model.

    Args:
      folder: with ``adapter_model.safetensors`` and ``adapter_config.json``.
      config: of the model.
      params: of it, without adapters.

    Returns:
      The configuration with the adapters' alpha and dropout, and the parameters with
      the adapters, in float32.

    Raises:
      UserError: if the files are missing, or are adapters that we have no place for.
    """
    from safetensors.numpy import load_file

    folder = Path(folder)
    described = _describe(folder)
    with parsing.parsing(folder / WEIGHTS, "a safetensors file", "Copy it anew."):
        loaded = load_file(folder / WEIGHTS)
    found = _canonical(loaded)
    targets = [
        name
        for name, module in _MODULES.items()
        if f"{module.format(0)}.lora_A.weight" in found
    ]
    flat = traverse_util.flatten_dict(dict(params))
    expected: dict[str, np.ndarray] = {}
    added = {}
    for name in targets:
        target = lora.TARGETS[name]
        matrix = flat[target.parent + target.leaf]
        inputs, outputs = lora.sides(matrix.shape, target)
        rows: dict[str, list[np.ndarray]] = {"a": [], "b": []}
        rank = described["r"]
        for layer in range(matrix.shape[0]):
            key = _MODULES[name].format(layer)
            a, b = f"{key}.lora_A.weight", f"{key}.lora_B.weight"
            expected[a] = np.broadcast_to(0.0, (rank, int(np.prod(inputs))))
            expected[b] = np.broadcast_to(0.0, (int(np.prod(outputs)), rank))
            if _fits(found, expected, a, b):
                rows["a"].append(found[a].T.reshape(*inputs, rank))
                rows["b"].append(found[b].T.reshape(rank, *outputs))
        added[name] = rows
    checkpoint.compare(folder / WEIGHTS, found, expected)
    for name, rows in added.items():
        for side, arrays in rows.items():
            place = (*lora.TARGETS[name].parent, f"lora_{name}", side)
            flat[place] = jnp.asarray(np.stack(arrays).astype(np.float32))
    config = dataclasses.replace(
        config,
        lora_alpha=float(described["lora_alpha"]),
        lora_dropout=float(described.get("lora_dropout") or 0),
    )
    return config, traverse_util.unflatten_dict(flat)


def save_adapter(
    folder: str | Path,
    config: PaliGemmaConfig,
    params: Mapping[str, Any],
    *,
    base_model: str = "",
) -> None:
    """Saves the adapters of a model, for PEFT and for ``load_adapter``.

    Args:
      folder: to write into; made if there is none.
      config: of the model.
      params: of it; the base is not written.
      base_model: name or path of the base, for PEFT's description.

    Raises:
      UserError: if there are no adapters.
    """
    _, adapters = lora.split(params)
    flat = traverse_util.flatten_dict(adapters)
    tensors: dict[str, np.ndarray] = {}
    targets: list[str] = []
    rank = 0
    for name, module in _MODULES.items():
        place = (*lora.TARGETS[name].parent, f"lora_{name}")
        if (*place, "a") not in flat:
            continue
        a, b = (np.asarray(flat[*place, side]) for side in ("a", "b"))
        rank, layers = b.shape[1], len(a)
        targets.append(name)
        for layer in range(layers):
            key = PREFIX + module.format(layer)
            tensors[f"{key}.lora_A.weight"] = a[layer].reshape(-1, rank).T
            tensors[f"{key}.lora_B.weight"] = b[layer].reshape(rank, -1).T
    if not tensors:
        raise UserError(
            "The parameters hold no adapters of LoRA. Save the whole model with "
            "save_paligemma instead."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    described = {
        "base_model_name_or_path": base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": _target_modules(targets),
        "task_type": "CAUSAL_LM",
    }
    (folder / DESCRIPTION).write_text(json.dumps(described, indent=2) + "\n")


def _target_modules(targets: list[str]) -> str:
    """Returns a regular expression for the adapted modules, as PEFT matches it.

    A list of names would be matched with endings: "q_proj" is in both towers.
    """
    towers: dict[str, list[str]] = {"language_model": [], "vision_tower": []}
    for name in targets:
        tower = "vision_tower" if name.startswith("vision_") else "language_model"
        towers[tower].append(_MODULES[name].rsplit(".", 1)[1])
    return "|".join(
        rf".*{tower}.*\.({'|'.join(modules)})"
        for tower, modules in towers.items()
        if modules
    )


def _describe(folder: Path) -> dict[str, Any]:
    for name in (WEIGHTS, DESCRIPTION):
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} holds no {name}. Give the folder of an adapter of PEFT."
            )
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{folder / DESCRIPTION} is not JSON: {error}.") from error
    kind = described.get("peft_type")
    if kind != "LORA":
        raise UserError(f"{folder} holds an adapter of kind {kind}. Expected LORA.")
    for option, neutral in _NEUTRAL.items():
        if described.get(option) not in neutral:
            raise UserError(
                f"{folder / DESCRIPTION} has {option}={described[option]!r}, which "
                f"makes another network. Expected {neutral[0]!r}: plain LoRA."
            )
    return described


def _canonical(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames an adapter's tensors to the hub's names, without the adapter's own."""
    # PEFT in memory has the adapter's name in the middle: lora_A.default.weight.
    short = {re.sub(r"(lora_[AB])\.\w+\.weight$", r"\1.weight", n): n for n in tensors}
    return {names.canonical(key): tensors[name] for key, name in short.items()}


def _fits(found, expected, *keys: str) -> bool:
    return all(k in found and found[k].shape == expected[k].shape for k in keys)
