"""The embedded benchmark of ParallelEdits: methods, numbers of edits, seeds."""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxkd.core.errors import UserError
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.drawing import scenes
from jaxkd.pipelines import benchmark_page, parts, scene_model
from jaxkd.pipelines import workdir as folders
from jaxkd.pipelines.parallel_edits import edit, scene_edits
from jaxkd.pipelines.parallel_edits.edit import Settings
from jaxkd.pipelines.text_to_image import Backbone
from jaxkd.report.image_grid import as_bytes, mosaic
from jaxkd.report.items import Figure, Table
from jaxkd.report.statistics import format_mean

RUNTIME_KEYS = ("name",)
TYPES = ("attention", "known")
_SHOWN = 8  # scenes in the figure


def default() -> ConfigDict:
    """Returns the configuration of the embedded benchmark, without the scene model."""
    config = ConfigDict()
    config.pipeline = "parallel_edits"
    config.name = "parallel-edits"
    config.seeds = (0, 1, 2)
    config.needs = ConfigDict()  # scenes: configs.needed(configs/scenes.py)
    config.scenes = 8  # for each seed and number of edits
    config.edits = (1, 2, 3)  # at once
    config.methods = scene_edits.METHODS
    # How aspects are typed: by attention, or as the scenes are known to need.
    config.types = "attention"
    config.batch = 8  # scenes edited together
    config.edit = ConfigDict(
        {name: value for name, value in Settings()._asdict().items()}
    )
    # Of the scene model's fewer steps, whose guidance is weaker than the paper's.
    config.edit.scale = 3.0
    config.lock()
    config.needs.unlock()
    return config


def check(config: ConfigDict) -> None:
    """Checks a configuration before anything is trained.

    Raises:
      UserError: for an unknown key or an impossible value.
    """
    benchmark_page.check_keys(config, default(), "edit")
    for name, values, choices in (
        ("methods", config.methods, scene_edits.METHODS),
        ("edits", config.edits, tuple(scene_edits.COMBINATIONS)),
        ("types", (config.types,), TYPES),
    ):
        wrong = [value for value in values if value not in choices]
        if wrong or not values:
            raise UserError(
                f"config.{name} holds {wrong}; expected some of "
                f"{', '.join(map(str, choices))}."
            )
    if config.scenes < 1 or config.batch < 1 or not config.seeds:
        raise UserError(
            f"config.scenes={config.scenes}, batch={config.batch}, "
            f"seeds={config.seeds}; expected at least one of each."
        )
    benchmark_page.check_different(config, "methods", "edits")
    edit.check(Settings(**config.edit.to_dict()))
    scene_model.check(config.needs.get("scenes"))


def run(
    config: ConfigDict, workdir: Path, stop_requested: StopRequest
) -> dict[str, Any]:
    """Measures every method, or those that are left; see ``pipelines.run``."""
    backbone = scene_model.load(config.needs.scenes, stop_requested, workdir)
    plan = {
        _part(*chosen): partial(_measure, config, backbone, workdir, *chosen)
        for chosen in itertools.product(config.seeds, config.edits, config.methods)
    }
    cells = parts.compute(plan, workdir, config.name, config.scenes, stop_requested)
    return {
        "about": _about(config),
        "cells": cells,
        "tables": [
            benchmark_page.as_dict(_table(config, cells, n)) for n in config.edits
        ],
        "seconds": sum(cell["seconds"] for cell in cells),
    }


def write_report(config: ConfigDict, workdir: Path, results: Mapping[str, Any]) -> None:
    """Draws the figures and writes ``report.html``."""
    figures = [_figure(config, workdir, count) for count in config.edits]
    benchmark_page.write(workdir, results, figures)


def format_table(results: dict[str, Any]) -> str:
    """Formats results for the terminal."""
    return benchmark_page.table_text(results["tables"])


def sample(
    config: ConfigDict,
    workdir: Path,
    seeds: Sequence[int],
    output: str | Path | None = None,
) -> Path:
    """Edits one scene for each seed and draws source, branches' result and truth.

    Raises:
      UserError: for an impossible configuration.
    """
    backbone = scene_model.load(config.needs.scenes, never_stop)
    count = max(config.edits)
    rows = []
    for seed in seeds:
        task = scene_edits.draw_tasks(np.random.default_rng(seed), 1, count)
        images, _ = scene_edits.run_method(
            backbone,
            "parallel",
            task,
            jax.random.key(seed),
            Settings(**config.edit.to_dict()),
            types=config.types,
            batch=1,
        )
        rows += [scenes.draw(task.before)[0], images, scenes.draw(task.after)[0]]
    path = workdir / "samples.png" if output is None else Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    mosaic(as_bytes(2 * np.concatenate(rows) - 1), columns=3).save(path, format="PNG")
    return path


def _part(seed: int, count: int, method: str) -> str:
    return f"{seed}-{count}-{method}"


def _measure(
    config: ConfigDict,
    backbone: Backbone,
    workdir: Path,
    seed: int,
    count: int,
    method: str,
) -> dict[str, Any]:
    task = _task(config, seed, count)
    images, calls = scene_edits.run_method(
        backbone,
        method,
        task,
        jax.random.key(seed),
        Settings(**config.edit.to_dict()),
        types=config.types,
        batch=config.batch,
    )
    found = scene_edits.measure(task, images)
    if seed == config.seeds[0]:
        folders.keep_pictures(workdir, _part(seed, count, method), images[:_SHOWN])
    return {
        "seed": seed,
        "edits": count,
        "method": method,
        "nfe": calls,
        **{name: float(np.mean(values)) for name, values in found.items()},
    }


def _task(config: ConfigDict, seed: int, count: int) -> scene_edits.Task:
    rng = np.random.default_rng((seed, count))
    return scene_edits.draw_tasks(rng, config.scenes, count)


def _table(config: ConfigDict, cells: list[dict[str, Any]], count: int) -> Table:
    rows = [["", "aspects", "unedited MSE ×10³", "full MSE ×10³", "NFE"]]
    for method in config.methods:
        own = [c for c in cells if c["edits"] == count and c["method"] == method]
        rows.append(
            [
                method,
                format_mean([c["aspects"] for c in own], 1, 100),
                format_mean([c["unedited"] for c in own], 1, 1000),
                format_mean([c["full"] for c in own], 1, 1000),
                f"{np.mean([c['nfe'] for c in own]):.0f}",
            ]
        )
    title = f"{count} edit{'s' if count > 1 else ''} at once"
    return Table(title, rows, _NOTE)


_NOTE = (
    "aspects: share of the edits that succeeded, in percent, read off the pictures. "
    "MSE: where nothing should change, and of the whole picture against the scene as "
    "it should become. NFE: rows that the network evaluates for one image. ±: standard "
    "error of the mean over seeds."
)


def _figure(config: ConfigDict, workdir: Path, count: int) -> Figure:
    seed = config.seeds[0]
    task = _task(config, seed, count)
    rows = [scenes.draw(task.before)[0][:_SHOWN]]
    rows += [
        folders.read_pictures(workdir, _part(seed, count, method))
        for method in config.methods
    ]
    rows.append(scenes.draw(task.after)[0][:_SHOWN])
    name = f"edits-{count}"
    (workdir / "figures").mkdir(exist_ok=True)
    images = as_bytes(2 * np.concatenate(rows) - 1)
    columns = min(_SHOWN, config.scenes)
    mosaic(images, columns=columns).save(
        workdir / "figures" / f"{name}.png", format="PNG"
    )
    caption = f"From above: the source, {', '.join(config.methods)}, the truth."
    return Figure(name, f"Pictures, {count} at once", caption)


def _about(config: ConfigDict) -> str:
    return (
        f"{config.scenes} drawn scenes for each of {len(config.seeds)} seeds, edited "
        f"by {config.edit.steps} steps with guidance {config.edit.scale:g}; aspects "
        f"typed by {'attention' if config.types == 'attention' else 'what is known'}."
    )
