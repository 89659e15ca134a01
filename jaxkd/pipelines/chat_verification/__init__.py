"""Asks a chat model whether one hand wrote two words, and why (arXiv:2407.21788).

Images go as image parts, in every mode; nothing is dropped: a pair without a usable
answer is an error, and how many were answered stands beside it. Everything that was
paid for is on disk: replies in ``cache/``, answers in ``answers.jsonl``, prices in
``spending.jsonl``; the same command resumes an interrupted run, and repeats a finished
one without a call.

The published script pastes images as base64 text and leaves out who answers "Unknown";
that is not reproduced.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core.errors import Interrupted, UserError
from jaxkd.core.preemption import StopRequest, never_stop
from jaxkd.pipelines.chat_verification import asking, pairs, prompts, results
from jaxkd.pipelines.chat_verification.client import Client, Settings
from jaxkd.pipelines.chat_verification.config import RUNTIME_KEYS, check, default
from jaxkd.pipelines.chat_verification.results import format_table
from jaxkd.pipelines.workdir import ANSWERS

SPENDING = "spending.jsonl"

__all__ = (
    "RUNTIME_KEYS",
    "check",
    "default",
    "dry_run",
    "format_table",
    "run",
    "sample",
    "write_report",
)


def run(
    config: ConfigDict, workdir: Path, stop_requested: StopRequest = never_stop
) -> dict[str, Any]:
    """Asks about all pairs, or the rest of them, and measures the answers.

    Raises:
      UserError: for a refused key, or a reached budget; the answers so far are kept.
      Interrupted: if it was asked to stop between two pairs.
    """
    began = time.perf_counter()
    loaded = pairs.load(config)
    plan, settings = _plan(config, loaded), _settings(config)
    path = workdir / ANSWERS
    cache = Path(config.cache or workdir / "cache")
    client = Client(settings, cache, workdir / SPENDING)
    try:
        rows, reason = asking.ask_all(
            loaded.questions, plan, client, path, lambda: bool(stop_requested())
        )
    finally:
        client.close()
    results.write_table(workdir / "verdicts.csv", rows)
    if reason == "stopped":
        raise Interrupted(
            f"Stopped after {len(rows)} answers; the same command asks for the rest."
        )
    if reason == "budget":
        raise UserError(
            f"The budget of ${config.budget:.2f} is reached after {len(rows)} answers "
            f"(${client.spent:.2f}), which are kept in {path}. Raise config.budget and "
            "run the same command to go on."
        )
    return _described(config, plan) | {
        "prompt_sha256": plan.prompts.sha256,
        "measures": results.measure(rows, loaded),
        "dollars": client.spent,
        "seconds": time.perf_counter() - began,
    }


def dry_run(config: ConfigDict) -> dict[str, Any]:
    """Estimates what a run would cost; asks nobody and writes nothing."""
    loaded = pairs.load(config)
    plan = _plan(config, loaded)
    cost = asking.estimate(loaded.questions, plan, _settings(config))
    cost |= {key: config[key] for key in ("price_input", "price_output", "budget")}
    return {"pipeline": config.pipeline, "estimate": cost} | _described(config, plan)


def write_report(config: ConfigDict, workdir: Path, found: Mapping[str, Any]) -> None:
    """Writes ``verdicts.csv`` and ``report.html`` from the answers that are kept."""
    loaded, rows = pairs.load(config), asking.read_sorted(workdir / ANSWERS)
    results.write_table(workdir / "verdicts.csv", rows)
    results.write_page(workdir / "report.html", rows, loaded, found)


def _plan(config: ConfigDict, loaded: pairs.Pairs) -> asking.Plan:
    return asking.Plan(
        prompts=prompts.read(config.prompts),
        mode=config.mode,
        composite=config.composite,
        swap=config.swap,
        detail=config.detail,
        again=config.again,
        examples=loaded.examples,
        workers=config.workers,
    )


def _described(config: ConfigDict, plan: asking.Plan) -> dict[str, Any]:
    return {
        "model": config.model,
        "mode": config.mode,
        "prompt_id": plan.prompts.prompt_id,
    }


def sample(
    config: ConfigDict,
    workdir: Path,
    seeds: Sequence[int],
    output: str | Path | None = None,
) -> Path:
    """Refuses: a chat model draws nothing here.

    Raises:
      UserError: always.
    """
    raise UserError(
        "The pipeline chat_verification draws no samples. Its pairs and explanations "
        f"are in {workdir / 'report.html'}."
    )


def _settings(config: ConfigDict) -> Settings:
    return Settings(
        model=config.model,
        base_url=config.base_url,
        key_variable=config.key_variable,
        params=dict(config.params),
        timeout=config.timeout,
        retries=config.retries,
        requests_per_minute=config.requests_per_minute,
        price_input=config.price_input,
        price_output=config.price_output,
        budget=config.budget,
    )
