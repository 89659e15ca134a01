"""The embedded benchmark of D-TIIL: masks, words and detection on drawn scenes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.pipelines import benchmark_page, parts, scene_model
from jaxkd.pipelines import workdir as folders
from jaxkd.pipelines.dtiil import difference, localization, scene_pairs
from jaxkd.pipelines.dtiil.localization import Finding, Settings, localise
from jaxkd.pipelines.dtiil.scene_pairs import Pairs
from jaxkd.pipelines.text_to_image import Backbone
from jaxkd.report.image_grid import as_bytes, mosaic
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean

RUNTIME_KEYS = ("name",)
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, "otsu")
METHODS = ("two stages", "one stage", "cross-attention", "centre box", "random box")
CONTROLS = ("untrained", "two words", "all wrong")
_SHOWN = 8  # pairs in the figure
_FREE = ("two stages", "one stage", "cross-attention")  # those with a threshold


def default() -> ConfigDict:
    """Returns the configuration of the embedded benchmark, without the scene model."""
    config = ConfigDict()
    config.pipeline = "dtiil"
    config.name = "dtiil"
    config.seeds = (0, 1, 2)
    config.needs = ConfigDict()  # scenes: configs.needed(configs/scenes.py)
    config.pairs = 12  # for each seed, half of them with one wrong word
    config.validation = 6  # other pairs, by which thresholds are chosen
    config.controls = CONTROLS
    config.settings = ConfigDict(Settings()._asdict())
    config.settings.update(
        {
            "align_steps": 60,
            "align_lr": 0.01,
            "align_batch": 4,
            "edit_steps": 20,
            "single_words": True,
        }
    )
    config.settings.edit_scale = config.settings.mask_scale = 3.0
    config.lock()
    config.needs.unlock()
    return config


def check(config: ConfigDict) -> None:
    """Checks a configuration before anything is trained.

    Raises:
      UserError: for an unknown key or an impossible value.
    """
    benchmark_page.check_keys(config, default(), "settings")
    wrong = [name for name in config.controls if name not in CONTROLS]
    if wrong:
        raise UserError(
            f"config.controls holds {wrong}; expected some of {', '.join(CONTROLS)}."
        )
    if config.pairs < 2 or config.validation < 2 or not config.seeds:
        raise UserError(
            f"config.pairs={config.pairs}, validation={config.validation}, "
            f"seeds={config.seeds}; expected at least 2, 2 and one."
        )
    benchmark_page.check_different(config, "controls")
    localization.check(Settings(**config.settings.to_dict()))
    scene_model.check(config.needs.get("scenes"))


def run(
    config: ConfigDict, workdir: Path, stop_requested: StopRequest
) -> dict[str, Any]:
    """Measures every seed and control, or what is left; see ``pipelines.run``."""
    backbone = scene_model.load(config.needs.scenes, stop_requested, workdir)
    plan: dict[str, Callable[[], dict[str, Any]]] = {}
    for seed in config.seeds:
        plan[_part(seed)] = partial(_measure, config, backbone, seed, workdir)
        for control in config.controls:
            compute = partial(_control, config, backbone, seed, control)
            plan[f"{seed}-{control}"] = compute
    found = parts.compute(plan, workdir, config.name, config.pairs, stop_requested)
    cells = [cell for part in found for cell in part["cells"]]
    return {
        "about": _about(config),
        "cells": cells,
        "tables": [benchmark_page.as_dict(_table(cells))],
        # The paper's tables were not accessible; nothing is compared with them.
        "published": "unavailable",
        "seconds": sum(part["seconds"] for part in found),
    }


def write_report(config: ConfigDict, workdir: Path, results: Mapping[str, Any]) -> None:
    """Draws the figure and writes ``report.html``."""
    images = as_bytes(folders.read_pictures(workdir, _part(config.seeds[0])))
    (workdir / "figures").mkdir(exist_ok=True)
    mosaic(images, columns=8).save(workdir / "figures" / "pairs.png", format="PNG")
    figure = Figure("pairs", "Pairs with a wrong word", _CAPTION)
    benchmark_page.write(workdir, results, [figure])


def format_table(results: dict[str, Any]) -> str:
    """Formats results for the terminal."""
    return benchmark_page.table_text(results["tables"])


def sample(
    config: ConfigDict,
    workdir: Path,
    seeds: Sequence[int],
    output: str | Path | None = None,
) -> Path:
    """Localises one contradiction for each seed and draws what was found.

    Raises:
      UserError: for an impossible configuration.
    """
    backbone = scene_model.load(config.needs.scenes, never_stop)
    rows = []
    for seed in seeds:
        pairs = scene_pairs.draw_pairs(np.random.default_rng(seed), 1, consistent=0.0)
        rows.append(_rows(pairs, _localise(config, backbone, pairs, seed)))
    path = workdir / "samples.png" if output is None else Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    images = as_bytes(2 * np.concatenate(rows) - 1)
    mosaic(images, columns=4).save(path, format="PNG")
    return path


def _localise(
    config: ConfigDict, backbone: Backbone, pairs: Pairs, seed: int
) -> list[Finding]:
    settings = Settings(**config.settings.to_dict())
    return localise(
        backbone, list(pairs.images), pairs.captions, jax.random.key(seed), settings
    )


def _part(seed: int) -> str:
    return f"{seed}-methods"


def _measure(
    config: ConfigDict, backbone: Backbone, seed: int, workdir: Path
) -> dict[str, Any]:
    """Measures all methods for one seed, thresholds chosen on other pairs."""
    rng = np.random.default_rng(seed)
    known = scene_pairs.draw_pairs(rng, config.validation, consistent=0.0)
    pairs = scene_pairs.draw_pairs(rng, config.pairs)
    both = [_localise(config, backbone, one, seed) for one in (known, pairs)]
    key = jax.random.key(seed)
    maps: list[dict[str, Sequence[np.ndarray]]] = [
        {
            "two stages": [f.difference for f in found],
            "one stage": [f.first_difference for f in found],
            "cross-attention": list(
                scene_pairs.attention_maps(backbone, one, found, key)
            ),
        }
        for one, found in zip((known, pairs), both, strict=True)
    ]
    best: dict[str, float | str] = {}
    for name in _FREE:
        means = scene_pairs.sweep(known, maps[0][name], THRESHOLDS)
        best[name] = max(means, key=means.__getitem__)
    masks = {
        name: [difference.mask(one, best[name]) for one in maps[1][name]]
        for name in _FREE
    }
    masks["centre box"] = list(scene_pairs.box_masks(pairs, None))
    masks["random box"] = list(scene_pairs.box_masks(pairs, rng))
    chosen = [
        f._replace(mask=m) for f, m in zip(both[1], masks["two stages"], strict=True)
    ]
    if seed == config.seeds[0]:
        _keep_shown(pairs, chosen, workdir, _part(seed))
    cells: list[dict[str, Any]] = []
    for name in METHODS:
        found = [f._replace(mask=m) for f, m in zip(both[1], masks[name], strict=True)]
        scores = scene_pairs.measure(pairs, found)
        if name != "two stages":
            scores = {k: scores[k] for k in ("iou", "f1")}
        cells.append(
            {"seed": seed, "method": name, "threshold": best.get(name), **scores}
        )
    errors = scene_pairs.whole_caption_errors(backbone, pairs, key)
    first = np.array([np.mean(f.first_difference) for f in both[1]])
    labels = pairs.inconsistent
    for name, values in (("denoising error", errors), ("one stage", first)):
        own = scene_pairs.detection(labels, values, values)
        cells.append(
            {
                "seed": seed,
                "method": f"{name}, detection",
                "auc": own["auc"],
                "average precision": own["average precision"],
            }
        )
    return {"cells": cells}


def _control(
    config: ConfigDict, backbone: Backbone, seed: int, control: str
) -> dict[str, Any]:
    rng = np.random.default_rng((seed, 1))
    wrong = {"untrained": 1, "two words": 2, "all wrong": 5}[control]
    share = 0.5 if control == "untrained" else 0.0
    pairs = scene_pairs.draw_pairs(
        rng, config.validation, wrong=wrong, consistent=share
    )
    if control == "untrained":
        backbone = scene_model.untrained(config.needs.scenes)
    found = _localise(config, backbone, pairs, seed)
    scores = scene_pairs.measure(pairs, found)
    area = float(np.mean([f.mask.mean() for f in found]))
    return {"cells": [{"seed": seed, "method": control, "area": area, **scores}]}


_COLUMNS = ("iou", "f1", "word", "auc", "average precision", "auc of similarity")


def _table(cells: list[dict[str, Any]]) -> Table:
    rows = [["", "IoU", "F1", "word", "AUC", "AP", "AUC of similarity"]]
    for method in dict.fromkeys(one["method"] for one in cells):
        own = [one for one in cells if one["method"] == method]
        rows.append(
            [
                method,
                *(
                    format_mean([one[name] for one in own], 1, 100)
                    if name in own[0]
                    else ""
                    for name in _COLUMNS
                ),
            ]
        )
    return Table("Localisation and detection, percent", rows, _NOTE)


_NOTE = (
    "IoU and F1 of pixels, and word, over captions with a wrong word; by chance one "
    "word of five is right. AUC and AP tell wrong captions from right ones; chance is "
    "50. Thresholds of masks are chosen on other pairs. untrained, two words and all "
    "wrong are controls of two stages, at the threshold of the configuration. ±: "
    "standard error of the mean over seeds."
)
_CAPTION = (
    "From the left, twice: the image; the image as the caption claims it, inside the "
    "first mask; the mask that was found; the true one."
)


def _rows(pairs: Pairs, found: Sequence[Finding]) -> np.ndarray:
    """Returns image, claim, found mask and truth of each pair, one after the other."""
    images = []
    for i, one in enumerate(found):
        masks = [np.repeat(m[..., None], 3, -1) for m in (one.mask, pairs.masks[i])]
        images += [pairs.images[i], one.edited, *masks]
    return np.stack(images).astype(np.float32)


def _keep_shown(
    pairs: Pairs, found: Sequence[Finding], workdir: Path, part: str
) -> None:
    rows = np.flatnonzero(pairs.inconsistent)[:_SHOWN]
    some = pairs._replace(images=pairs.images[rows], masks=pairs.masks[rows])
    folders.keep_pictures(workdir, part, 2 * _rows(some, [found[i] for i in rows]) - 1)


def _about(config: ConfigDict) -> str:
    return (
        f"{config.pairs} drawn scenes with captions for each of {len(config.seeds)} "
        "seeds, half of them with one wrong word: colour or shape of an object, or the "
        f"background. Hidden states are fitted by {config.settings.align_steps} steps."
    )
