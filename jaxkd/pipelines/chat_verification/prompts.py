"""Versioned prompts, and the messages that carry a pair of images to a chat model."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core.errors import UserError

FOLDER = Path(__file__).with_name("prompts")
GAP = 12  # pixels between the two samples of a composite
DETAILS = ("low", "high", "auto")

Message = dict[str, Any]


class Prompts(NamedTuple):
    """One version of the prompts.

    Attributes:
      prompt_id: its name.
      sha256: of the file.
      texts: name -> template.
      schema: of the JSON reply.
      features: name -> possible values.
    """

    prompt_id: str
    sha256: str
    texts: Mapping[str, str]
    schema: Mapping[str, Any]
    features: Mapping[str, Sequence[str]]


class Sample(NamedTuple):
    """Two images to compare.

    Attributes:
      known: uint8 ``[height, width]`` or ``[height, width, 3]``.
      questioned: likewise, of whatever size.
      word: that is written.
      same: whether one writer wrote both; None if nobody knows.
    """

    known: np.ndarray
    questioned: np.ndarray
    word: str
    same: bool | None = None


def read(name: str) -> Prompts:
    """Reads a version of the prompts: one of the package's, or a YAML file.

    Raises:
      UserError: if there is none, or something is missing in it.
    """
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(
            f"There are no prompts {name!r}. Expected one of {there}, or the path of a "
            "YAML file."
        )
    content = path.read_bytes()
    try:
        data = yaml.safe_load(content)
        named = ("prompt_id", "schema", "features")
        prompt_id, schema, features = (data[key] for key in named)
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no prompts ({error}). Copy the package's and change it."
        ) from error
    texts = {key: value for key, value in data.items() if key not in named}
    return Prompts(
        prompt_id, hashlib.sha256(content).hexdigest(), texts, schema, features
    )


def first_messages(
    prompts: Prompts,
    sample: Sample,
    *,
    mode: str,
    composite: bool,
    detail: str,
    examples: Sequence[Sample] = (),
) -> list[Message]:
    """Makes the messages up to the first reply.

    Args:
      prompts: the version.
      sample: the pair.
      mode: "two_turn" asks for a comparison first, "one_turn_json" for all at once.
      composite: whether both samples are put into one image.
      detail: in which the model looks at images, one of ``DETAILS``.
      examples: labelled pairs of other writers, each with its answer.
    """
    template = prompts.texts["explain_composite" if composite else "explain"]
    listed = "\n".join(
        f"{name} | {' / '.join(values)}" for name, values in prompts.features.items()
    )
    text = template.replace("{word}", sample.word).replace("{features}", listed)
    if mode == "one_turn_json":
        text = f"{text}\n{prompts.texts['one_turn']}"
    parts: list[Message] = [{"type": "text", "text": text}]
    for number, example in enumerate(examples, 1):
        answer = '{"same_writer": ' + ("true}" if example.same else "false}")
        shown = prompts.texts["example"].replace("{number}", str(number))
        parts.append({"type": "text", "text": shown.replace("{answer}", answer)})
        parts += _images(example, composite, detail)
    if examples:
        parts.append({"type": "text", "text": "The pair to decide:"})
    parts += _images(sample, composite, detail)
    return [
        {"role": "system", "content": prompts.texts["system"]},
        {"role": "user", "content": parts},
    ]


def side_by_side(known: np.ndarray, questioned: np.ndarray) -> np.ndarray:
    """Puts two images into one, on white, with a gap between them."""
    left, right = _as_rgb(known), _as_rgb(questioned)
    height = max(len(left), len(right))
    width = left.shape[1] + GAP + right.shape[1]
    whole = np.full((height, width, 3), 255, np.uint8)
    whole[: len(left), : left.shape[1]] = left
    whole[: len(right), left.shape[1] + GAP :] = right
    return whole


def _images(sample: Sample, composite: bool, detail: str) -> list[Message]:
    if composite:
        return [_image(side_by_side(sample.known, sample.questioned), detail)]
    return [
        {"type": "text", "text": "Known:"},
        _image(sample.known, detail),
        {"type": "text", "text": "Questioned:"},
        _image(sample.questioned, detail),
    ]


def _image(image: np.ndarray, detail: str) -> Message:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(_as_rgb(image)).save(out, "PNG")
    data = base64.b64encode(out.getvalue()).decode("ascii")
    url = {"url": f"data:image/png;base64,{data}", "detail": detail}
    return {"type": "image_url", "image_url": url}


def _as_rgb(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))
