"""Stable Diffusion 1.x and 2.x, and CLIP, from the folders of model hubs and back.

    sd = load_stable_diffusion("stable-diffusion-v1-5")
    ids = sd.tokenizer.encode(["a red fox"])
    context, _ = sd.text_encoder.apply({"params": sd.params["text_encoder"]}, ids)
    noise = sd.unet.apply({"params": sd.params["unet"]}, latents, timesteps, context)

Nothing is downloaded and nothing executed. Weights may be of 32 or 16 bits, in one file
of safetensors or in several; those that are not finite are refused. A safety checker is
neither needed nor read.
"""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxkd.convert.stable_diffusion import configurations, names
from jaxkd.convert.torch import reading
from jaxkd.core import checkpoint, files, lookup, parsing, schema
from jaxkd.core.errors import UserError
from jaxkd.models.stable_diffusion import Autoencoder, Clip, ClipTextEncoder, UNet
from jaxkd.models.stable_diffusion.clip_towers import LEGACY_EOS
from jaxkd.readers.clip_tokenizer import END, ClipTokenizer

CONFIG, INDEX = "config.json", "model_index.json"
SCHEDULER = "scheduler/scheduler_config.json"
_DIFFUSION, _TRANSFORMER = "diffusion_pytorch_model", "model"
# Of files of 16 bits, which are read where there are none of 32.
_VARIANTS = ("", ".fp16", ".bf16")
_REMEDY = "Copy or download it again."
_PREDICTIONS = {"epsilon": "noise", "v_prediction": "velocity"}
# Of Stable Diffusion 1.x.
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


class StableDiffusion(NamedTuple):
    """The networks of a pipeline and their weights.

    Attributes:
      unet: ``apply({"params": params["unet"]}, latents, timesteps, context)``.
      vae: ``apply({"params": params["vae"]}, images, method="encode")`` gives the mean
        and the logarithm of the variance of unscaled latents; ``method="decode"``.
      text_encoder: ``apply({"params": params["text_encoder"]}, ids)`` gives the last
        hidden states and the pooled one.
      tokenizer: ``encode(prompts)`` gives ``ids`` ``[batch, 77]``.
      params: "unet", "vae" and "text_encoder" -> parameters, NumPy arrays.
    """

    unet: UNet
    vae: Autoencoder
    text_encoder: ClipTextEncoder
    tokenizer: ClipTokenizer
    params: dict[str, Any]


def load_stable_diffusion(
    folder: str | Path, *, dtype: Any = jnp.float32
) -> StableDiffusion:
    """Loads the folder of a pipeline, as model hubs lay it out.

    Args:
      folder: with ``unet``, ``vae``, ``text_encoder`` and ``tokenizer``. Files of 16
        bits (``.fp16.safetensors``, ``.bf16.safetensors``) are read where there are
        none of 32.
      dtype: of the parameters and of the computation.

    Raises:
      UserError: if a file is missing or damaged, or is of another network; lists what
        is missing, unexpected or of another shape. Or if the parts do not belong
        together, or the scheduler is of other noise than Stable Diffusion's.
    """
    folder = Path(folder)
    _check_folder(folder)
    configs = {
        part: _read_json(folder / part / CONFIG)
        for part in ("unet", "vae", "text_encoder")
    }
    predicts = _read_prediction(folder)
    tokenizer = ClipTokenizer.load(folder / "tokenizer")
    _check_tokenizer(folder, configs["text_encoder"], tokenizer)
    states = {
        part: _read_state(folder / part, stem)
        for part, stem in (
            ("unet", _DIFFUSION),
            ("vae", _DIFFUSION),
            ("text_encoder", _TRANSFORMER),
        )
    }
    origin = folder / "text_encoder" / CONFIG
    projection = "text_projection.weight" in states["text_encoder"]
    networks: dict[str, Any] = {
        "unet": configurations.unet(
            configs["unet"], folder / "unet" / CONFIG, dtype
        ).clone(predicts=predicts),
        "vae": configurations.vae(configs["vae"], folder / "vae" / CONFIG, dtype),
        "text_encoder": configurations.text(
            configs["text_encoder"], origin, dtype, projection=projection
        ),
    }
    _check_parts(folder, **networks)
    params = {
        part: names.to_params(
            states.pop(part), param_shapes(network), folder / part, dtype
        )
        for part, network in networks.items()
    }
    return StableDiffusion(**networks, tokenizer=tokenizer, params=params)


def save_stable_diffusion(
    folder: str | Path, sd: StableDiffusion, *, dtype: Any = np.float32
) -> None:
    """Writes the folder that ``load_stable_diffusion`` reads.

    Args:
      folder: created if need be; files of the same names are replaced.
      sd: the networks and their weights.
      dtype: of the files.

    Raises:
      UserError: if a network cannot be described in this format, the parameters are
        not its own or do not fit into ``dtype``, or the folder cannot be written to.
    """
    folder = Path(folder)
    configs = {
        "unet": configurations.of_unet(sd.unet),
        "vae": configurations.of_vae(sd.vae),
        "text_encoder": configurations.of_text(sd.text_encoder),
    }
    # All that can be refused comes before anything is written.
    states = {part: _state_of(sd, part, dtype) for part in configs}
    try:
        _write_folder(folder, sd, configs, states)
    except OSError as error:
        raise UserError(
            f"Cannot write to {folder}: {error.strerror or error}. Choose a folder "
            "that can be written to and has space left."
        ) from error


def _state_of(sd: StableDiffusion, part: str, dtype: Any) -> dict[str, np.ndarray]:
    if part not in sd.params:
        raise UserError(
            f"The parameters have no {part!r}; they have {', '.join(sd.params)}. "
            "Expected those of unet, vae and text_encoder."
        )
    checkpoint.compare(part, sd.params[part], param_shapes(getattr(sd, part)))
    return names.to_state(sd.params[part], dtype)


def _write_folder(
    folder: Path,
    sd: StableDiffusion,
    configs: Mapping[str, Any],
    states: Mapping[str, dict[str, np.ndarray]],
) -> None:
    for part, config in configs.items():
        stem = _TRANSFORMER if part == "text_encoder" else _DIFFUSION
        (folder / part).mkdir(parents=True, exist_ok=True)
        _write_json(folder / part / CONFIG, config)
        path = folder / part / f"{stem}.safetensors"
        files.write_tensors(path, states[part], {"format": "pt"})
    sd.tokenizer.save(folder / "tokenizer")
    (folder / SCHEDULER).parent.mkdir(exist_ok=True)
    kinds = {value: key for key, value in _PREDICTIONS.items()}
    predicted = {"prediction_type": kinds[sd.unet.predicts]}
    _write_json(folder / SCHEDULER, _SCHEDULER | predicted)
    _write_json(
        folder / INDEX,
        {
            "_class_name": "StableDiffusionPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
        },
    )


def load_clip(
    folder: str | Path, *, dtype: Any = jnp.float32
) -> tuple[Clip, dict[str, Any], ClipTokenizer]:
    """Loads both towers of CLIP from the folder of a model hub.

    Args:
      folder: with ``config.json``, ``model.safetensors``, ``vocab.json`` and
        ``merges.txt``.
      dtype: of the parameters and of the computation.

    Returns:
      The module, its parameters and the tokenizer.

    Raises:
      UserError: as ``load_stable_diffusion``.
    """
    folder = Path(folder)
    config = _read_json(folder / CONFIG)
    for name in ("text_config", "vision_config"):
        if not isinstance(config.get(name), dict):
            raise UserError(
                f"{folder / CONFIG} has no {name}. Expected the configuration of both "
                "towers of CLIP."
            )
    width = config.get("projection_dim", 512)
    texts, images = (
        {**config[name], "projection_dim": width}
        for name in ("text_config", "vision_config")
    )
    clip = Clip(
        configurations.text(texts, folder / CONFIG, dtype, projection=True),
        configurations.image(images, folder / CONFIG, dtype, width),
    )
    tokenizer = ClipTokenizer.load(folder)
    _check_tokenizer(folder, texts, tokenizer)
    state = _read_state(folder, _TRANSFORMER)
    params = names.to_params(state, param_shapes(clip), folder, dtype)
    return clip, params, tokenizer


@functools.lru_cache(maxsize=16)
def param_shapes(network: Any) -> Any:
    """Returns the shapes of a network's parameters, without computing anything."""
    key = jax.random.key(0)
    args: tuple[jax.Array, ...]
    if isinstance(network, UNet):
        side = 2 ** (len(network.widths) - 1)
        args = (
            jnp.zeros((1, side, side, network.in_channels)),
            jnp.zeros((1,)),
            jnp.zeros((1, 2, network.context_width)),
        )
    elif isinstance(network, Autoencoder):
        args = (jnp.zeros((1, network.factor, network.factor, network.channels)),)
    elif isinstance(network, Clip):
        side = network.image.image_size
        args = (jnp.zeros((1, 2), jnp.int32), jnp.zeros((1, side, side, 3)))
    else:
        args = (jnp.zeros((1, 2), jnp.int32),)
    method = "project" if getattr(network, "projection_width", None) else None
    shapes = jax.eval_shape(lambda k: network.init(k, *args, method=method), key)
    return shapes["params"]


def _check_folder(folder: Path) -> None:
    parts = ("unet", "vae", "text_encoder", "tokenizer")
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise UserError(
            f"{folder} has no folder {', '.join(missing)}. Expected a pipeline of "
            f"Stable Diffusion as model hubs lay it out, with {', '.join(parts)}; copy "
            "it whole. Nothing is downloaded."
        )


def _check_tokenizer(
    folder: Path, config: Mapping[str, Any], tokenizer: ClipTokenizer
) -> None:
    """Checks that a text tower knows all tokens; it would make NaN of others."""
    tower = configurations.text(config, folder, jnp.float32)
    largest = max(tokenizer.vocabulary.values())
    if largest >= tower.vocab_size or tokenizer.length > tower.positions:
        raise UserError(
            f"The tokenizer of {folder} has token numbers up to {largest} and rows of "
            f"{tokenizer.length}; its text encoder knows {tower.vocab_size} tokens, "
            f"{tower.positions} in a row. Copy both from the same model."
        )
    end = tokenizer.vocabulary[END]
    if tower.eos_id not in (LEGACY_EOS, end):
        raise UserError(
            f"The tokenizer of {folder} ends a text by the token {end}, its text "
            f"encoder by {tower.eos_id} (eos_token_id). Copy both from the same model."
        )


def _check_parts(
    folder: Path, unet: UNet, vae: Autoencoder, text_encoder: ClipTextEncoder
) -> None:
    if unet.context_width != text_encoder.width:
        raise UserError(
            f"{folder}: the UNet takes hidden states of width {unet.context_width}, "
            f"the text encoder makes them of {text_encoder.width}. Copy both from the "
            "same model."
        )
    if unet.out_channels != vae.latent_channels:
        raise UserError(
            f"{folder}: the UNet makes latents of {unet.out_channels} channels, the "
            f"autoencoder of {vae.latent_channels}. Copy both from the same model."
        )


def _read_prediction(folder: Path) -> str:
    """Returns what the UNet predicts, which only the scheduler's file tells."""
    path = folder / SCHEDULER
    config = _read_json(path) if path.is_file() else _SCHEDULER
    configurations.check_scheduler(config, path)
    return lookup.choose(
        config.get("prediction_type", "epsilon"),
        _PREDICTIONS,
        what=f"The prediction_type of {path}",
    )


def _read_state(folder: Path, stem: str) -> dict[str, np.ndarray]:
    """Reads one file or several, of 32 bits where there are."""
    for variant in _VARIANTS:
        index = folder / f"{stem}.safetensors.index{variant}.json"
        single = folder / f"{stem}{variant}.safetensors"
        if single.is_file():
            return dict(_read_arrays(single))
        if index.is_file():
            return _read_shards(index)
    present = sorted(path.name for path in folder.glob("*") if path.is_file())
    raise UserError(
        f"{folder} has no weights {stem}.safetensors, with or without .fp16 or .bf16, "
        f"whole or in parts with an index; it has {', '.join(present) or 'no files'}. "
        "Copy or download them; weights in .bin files are not read."
    )


def _read_shards(index: Path) -> dict[str, np.ndarray]:
    content = _read_json(index)
    with parsing.parsing(index, "an index of weights", _REMEDY):
        schema.check(content, {"weight_map": {...: str}}, "the index")
    table = content["weight_map"]
    parts = sorted(set(table.values()))
    outside = [name for name in parts if Path(name).name != name]
    if outside:
        raise UserError(
            f"{index} names {', '.join(outside)}; expected files beside it. {_REMEDY}"
        )
    missing = [name for name in parts if not (index.parent / name).is_file()]
    if missing or not parts:
        raise UserError(
            f"{index} names {len(parts)} files; missing: {', '.join(missing) or 'all'}."
            " Copy or download all parts."
        )
    state: dict[str, np.ndarray] = {}
    for name in parts:
        found = _read_arrays(index.parent / name)
        absent = sorted(
            k for k, part in table.items() if part == name and k not in found
        )
        if absent:
            raise UserError(
                f"{index} has {', '.join(absent[:6])} in {name}, which has no such "
                "tensors. Copy or download the index and all parts again, of one model."
            )
        state.update(found)
    return state


def _read_arrays(path: Path) -> Mapping[str, np.ndarray]:
    content = reading.read(path)
    if not isinstance(content, Mapping) or not all(
        isinstance(value, np.ndarray) for value in content.values()
    ):
        raise UserError(f"{path} is not a file of safetensors. Download it again.")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"There is no file {path}. Copy the folder whole.")
    content = parsing.read_json(path, "a configuration", _REMEDY)
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no object of JSON. {_REMEDY}")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    files.write_text(path, json.dumps(content, indent=2) + "\n")
