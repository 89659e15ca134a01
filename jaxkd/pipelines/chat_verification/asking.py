"""Asks about every pair, several at a time, and writes each answer down at once.

``answers.jsonl`` is only ever appended to. Whatever stops a run, even the power, the
next one reads what is there, cuts off a torn last line, and asks for the rest.
"""

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from jaxkd.core.errors import UserError
from jaxkd.pipelines.chat_verification import prompts as prompting
from jaxkd.pipelines.chat_verification.client import (
    BudgetReached,
    Client,
    RequestFailed,
    Settings,
    estimate_tokens,
    price,
)
from jaxkd.pipelines.chat_verification.parser import Verdict, parse, parse_features
from jaxkd.pipelines.chat_verification.prompts import Message, Prompts, Sample

MODES = ("two_turn", "one_turn_json")
ORDERS = ("given", "swapped")


class Question(NamedTuple):
    """A pair, and where its images come from.

    Attributes:
      pair: its number.
      load: reads the images.
      same: the truth; None if unknown.
    """

    pair: int
    load: Callable[[], Sample]
    same: bool | None = None


class Plan(NamedTuple):
    """How questions are put.

    Attributes:
      prompts: the version.
      mode: one of ``MODES``.
      composite: whether both samples are put into one image.
      swap: whether every pair is asked about in both orders.
      detail: of images, "low", "high" or "auto".
      again: how often an answer without a decision is asked for again.
      examples: pairs of other writers, shown with their answers.
      workers: questions in the air at once.
    """

    prompts: Prompts
    mode: str = "two_turn"
    composite: bool = False
    swap: bool = False
    detail: str = "high"
    again: int = 1
    examples: Sequence[Sample] = ()
    workers: int = 4


def ask_all(
    questions: Sequence[Question],
    plan: Plan,
    client: Client,
    path: Path,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[list[dict[str, Any]], str]:
    """Asks what has not been answered yet.

    Args:
      questions: all pairs.
      plan: how they are put.
      client: the model.
      path: ``answers.jsonl``, appended to.
      stop: whether to stop; looked at between two questions.

    Returns:
      All answers there are, by pair and order, and why no more were asked for: "" when
      all are there, "budget" or "stopped".

    Raises:
      UserError: if the key is refused, or the file is damaged before its last line.
    """
    answers = read_answers(path)
    known = {(row["pair"], row["order"]) for row in answers}
    orders = ORDERS if plan.swap else ORDERS[:1]
    todo = iter([(q, o) for q in questions for o in orders if (q.pair, o) not in known])
    lock, reason = threading.Lock(), ""
    running: set[Future] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file, ThreadPoolExecutor(plan.workers) as pool:

        def work(question: Question, order: str) -> dict[str, Any]:
            row = _ask(question, order, plan, client)
            line = json.dumps(row, sort_keys=True).encode() + b"\n"
            with lock:  # one write, one line
                file.write(line)
                file.flush()
            return row

        while True:
            while not reason and len(running) < plan.workers:
                if stop():
                    reason = "stopped"
                    break
                following = next(todo, None)
                if following is None:
                    break
                running.add(pool.submit(work, *following))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    answers.append(future.result())
                except BudgetReached:
                    reason = "budget"
    return _in_order(answers), reason


def read_sorted(path: Path) -> list[dict[str, Any]]:
    """Reads the answers of an earlier run by pair and order; see ``read_answers``."""
    return _in_order(read_answers(path))


def _in_order(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(answers, key=lambda row: (row["pair"], ORDERS.index(row["order"])))


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Reads the answers of an earlier run, and cuts off a torn last line.

    Raises:
      UserError: if an earlier line is damaged.
    """
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}, is not JSON ({error}). Repair or delete that "
                "line; its pair is asked about again."
            ) from error
    return rows


def estimate(
    questions: Sequence[Question], plan: Plan, settings: Settings, sample: int = 8
) -> dict[str, float]:
    """Estimates requests, tokens and dollars from a few of the questions.

    Replies are taken to be as long as ``max_tokens`` lets them.
    """
    orders = 2 if plan.swap else 1
    turns = 2 if plan.mode == "two_turn" else 1
    longest = int(settings.params.get("max_tokens") or 0)
    shown = questions[:sample]
    sizes = []
    for question in shown:
        first = estimate_tokens(_first(question.load(), plan))
        decide = estimate_tokens(
            [{"role": "user", "content": plan.prompts.texts["decide"]}]
        )
        sizes.append(turns * first + (turns - 1) * (longest + decide))
    mean = sum(sizes) / max(len(sizes), 1)
    count = len(questions) * orders
    read, written = mean * count, float(longest * turns * count)
    return {
        "requests": float(count * turns),
        "prompt_tokens": read,
        "completion_tokens": written,
        "dollars": price(settings, int(read), int(written)),
    }


def _first(sample: Sample, plan: Plan) -> list[Message]:
    return prompting.first_messages(
        plan.prompts,
        sample,
        mode=plan.mode,
        composite=plan.composite,
        detail=plan.detail,
        examples=plan.examples,
    )


def _ask(question: Question, order: str, plan: Plan, client: Client) -> dict[str, Any]:
    sample = question.load()
    if order == "swapped":
        sample = sample._replace(known=sample.questioned, questioned=sample.known)
    row: dict[str, Any] = {
        "pair": question.pair,
        "order": order,
        "same": question.same,
        "prompt_id": plan.prompts.prompt_id,
        "prompt_sha256": plan.prompts.sha256,
        "error": None,
    }
    try:
        explanation, verdict, replies = _converse(sample, plan, client)
    except RequestFailed as error:
        explanation, verdict, replies = "", Verdict(None, None, "none", ""), []
        row["error"] = str(error)
    features = parse_features(explanation, plan.prompts.features)
    return row | {
        "decision": verdict.decision,
        "confidence": verdict.confidence,
        "method": verdict.method,
        "reply": verdict.raw,
        "explanation": explanation,
        "features": {name: list(values) for name, values in features.items()},
        "finish_reasons": [reply.finish_reason for reply, _ in replies],
        "refusals": [reply.refusal for reply, _ in replies if reply.refusal],
        "requests": [digest for _, digest in replies],
        "prompt_tokens": sum(reply.prompt_tokens for reply, _ in replies),
        "completion_tokens": sum(reply.completion_tokens for reply, _ in replies),
    }


def _converse(sample: Sample, plan: Plan, client: Client):
    """Returns the explanation, the verdict, and all replies with their keys."""
    messages = _first(sample, plan)
    as_json = {
        "response_format": {"type": "json_schema", "json_schema": plan.prompts.schema}
    }
    replies = []

    def say(**params):
        reply, digest = client.ask(messages, **params)
        replies.append((reply, digest))
        messages.append({"role": "assistant", "content": reply.content or ""})
        return reply.content

    if plan.mode == "two_turn":
        explanation = say() or ""
        messages.append({"role": "user", "content": plan.prompts.texts["decide"]})
        verdict = parse(say())
    else:
        explanation = say(**as_json) or ""
        verdict = parse(explanation)
    for _ in range(plan.again):
        # An explicit null says that the images are unusable: that is an answer.
        if verdict.decision is not None or verdict.method == "json":
            break
        messages.append({"role": "user", "content": plan.prompts.texts["again"]})
        verdict = parse(say(**(as_json if plan.mode == "one_turn_json" else {})))
    return explanation, verdict, replies
