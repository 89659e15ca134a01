"""Edits one picture from end to end, and shows how: branches, masks, prompts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxkd.core.writers import write_json
from jaxkd.diffusion.attention_control import KINDS
from jaxkd.pipelines import benchmark_page, text_to_image
from jaxkd.pipelines.parallel_edits import aspects, edit, plan
from jaxkd.pipelines.parallel_edits.aspects import Aspect
from jaxkd.pipelines.parallel_edits.edit import Settings
from jaxkd.pipelines.parallel_edits.plan import Grouping, Plan
from jaxkd.pipelines.text_to_image import Backbone
from jaxkd.report.image_grid import mosaic
from jaxkd.report.items import Figure, Table


class EditedPicture(NamedTuple):
    """An edited picture and how it came about.

    Attributes:
      source: the given picture ``[height, width, 3]`` of [0, 1].
      images: of every branch ``[branches, height, width, 3]``; the last has all edits.
      masks: where each branch was allowed to differ ``[branches, h, w]``.
      aspects: the edits.
      plan: groups and prompts.
    """

    source: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    aspects: tuple[Aspect, ...]
    plan: Plan


def edit_picture(
    backbone: Backbone,
    image: np.ndarray,
    source: str,
    target: str = "",
    *,
    actions: Mapping[str, Mapping[str, Any]] | None = None,
    key: jax.Array,
    settings: Settings = edit.DEFAULT,
    grouping: Grouping = plan.DEFAULT,
) -> EditedPicture:
    """Edits one picture.

    Args:
      backbone: the model.
      image: ``[height, width, 3]``, uint8 or floats of [0, 1].
      source: prompt of the picture.
      target: prompt of the picture to make; aspects are derived from the two.
      actions: aspects in the format of PIE-Bench++, in place of ``target``; see
        ``aspects.from_actions``.
      key: of all noise.
      settings: numbers of the edit.
      grouping: numbers of the grouping.

    Raises:
      UserError: for a picture or prompts that do not fit, before anything is compiled.
    """
    image = np.asarray(image)
    backbone.check_image(image)
    edit.check(settings, backbone)
    plan.check(grouping)
    if actions is None:
        edits = aspects.between(source, target)
    else:
        edits = aspects.from_actions(source, actions)
    goal = aspects.apply(source, edits, range(len(edits)))
    plan.check_words(aspects.strip_marks(source), goal.text)
    backbone.tokenizer.encode([aspects.strip_marks(source), goal.text])
    pixels = text_to_image.to_signed(image)
    clean = backbone.encode_image(backbone.params, pixels[None])[0]
    plan_key, edit_key = jax.random.split(key)
    made = plan.make(
        backbone, clean, source, edits, plan_key, grouping, compat=settings.compat
    )
    found = edit.edit(backbone, clean, made.branches, edit_key, settings)
    images = np.asarray(backbone.decode_image(backbone.params, found.latents))
    text_to_image.check_finite(images, "The edited picture")
    return EditedPicture(
        text_to_image.to_unit(pixels),
        text_to_image.to_unit(images),
        np.asarray(found.masks),
        tuple(edits),
        made,
    )


def write_page(
    folder: str | Path, found: EditedPicture, settings: Settings = edit.DEFAULT
) -> Path:
    """Writes ``report.html`` with the picture, every branch and its mask.

    Beside it stand ``edited.png`` and ``config.json`` with the settings.
    """
    from PIL import Image

    folder = Path(folder)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", settings._asdict())
    whole = np.concatenate([found.source[None], found.images])
    height, width = found.source.shape[:2]
    masks = np.repeat(found.masks[..., None], 3, axis=-1)
    zoom = height // masks.shape[1], width // masks.shape[2]
    masks = masks.repeat(zoom[0], axis=1).repeat(zoom[1], axis=2)
    blank = np.ones((1, height, width, 3))
    rows = np.concatenate([whole, blank, masks]).astype(np.float64)
    images = np.round(255 * rows).astype(np.uint8)
    path = folder / "figures" / "branches.png"
    mosaic(images, columns=len(whole)).save(path, format="PNG")
    Image.fromarray(images[len(whole) - 1]).save(folder / "edited.png")
    results = {
        "name": "ParallelEdits",
        "about": f"From {found.plan.prompts[0].text!r} to "
        f"{found.plan.prompts[-1].text!r} in {len(found.plan.groups)} branches.",
        "tables": [benchmark_page.as_dict(_table(found))],
    }
    caption = "Above: the picture and each branch's; below: where it may differ."
    return benchmark_page.write(
        folder, results, [Figure("branches", "Branches", caption)]
    )


def _table(found: EditedPicture) -> Table:
    rows = [["branch", "kind", "edits", "prompt", "mask"]]
    for i, group in enumerate(found.plan.groups):
        edits = ", ".join(str(found.aspects[k]) for k in group.aspects)
        share = f"{100 * found.masks[i].mean():.0f} %"
        text = found.plan.prompts[i + 1].text
        rows.append([str(i + 1), KINDS[group.kind], edits, text, share])
    return Table("Branches", rows, "mask: share of the picture that may differ.")
