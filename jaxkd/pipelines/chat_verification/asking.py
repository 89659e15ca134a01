"""Asks about every pair, several at a time, and writes each answer down at once.

``answers.jsonl`` is only ever appended to. Whatever stops a run, even the power, the
next one reads what is there, cuts off a torn last line, and asks for the rest.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

from jaxkd.core.errors import UserError
from jaxkd.pipelines.chat_verification import journal
from jaxkd.pipelines.chat_verification import prompts as prompting
from jaxkd.pipelines.chat_verification.client import (
    BudgetReached,
    Client,
    Reply,
    RequestFailed,
    Settings,
    estimate_tokens,
    price,
    reply_limit,
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
      samples: names of its images; empty where they have none.
    """

    pair: int
    load: Callable[[], Sample]
    same: bool | None = None
    samples: tuple[str, str] = ("", "")


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
      UserError: if the key is refused, the file is damaged before its last line, or
        its answers are about other pairs.
    """
    answers = read_answers(path)
    _check_pairs(answers, questions, path)
    known = {(row["pair"], row["order"]) for row in answers}
    orders = ORDERS if plan.swap else ORDERS[:1]
    todo = iter([(q, o) for q in questions for o in orders if (q.pair, o) not in known])
    lock, reason = threading.Lock(), ""
    running: set[Future] = set()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file, ThreadPoolExecutor(plan.workers) as pool:

        def work(question: Question, order: str) -> dict[str, Any]:
            row = _ask(question, order, plan, client)
            line = journal.line(row)
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
    remedy = "Repair or delete that line; its pair is asked about again."
    return journal.read(path, remedy)


def _check_pairs(answers, questions: Sequence[Question], path: Path) -> None:
    """Refuses answers about pairs that are no longer those of their numbers."""
    asked = {q.pair: (*q.samples, q.same) for q in questions}
    for row in answers:
        if "sample1" not in row:  # of a run before names were kept
            continue
        told = row["sample1"], row.get("sample2", ""), row.get("same")
        now = asked.get(row.get("pair"))
        if now != told:
            raise UserError(
                f"{path} has an answer about pair {row.get('pair')}, {told}, expected "
                f"{now or 'no such pair'}. The table has changed: restore it, or "
                "choose another --workdir."
            )


def estimate(
    questions: Sequence[Question], plan: Plan, settings: Settings, sample: int = 8
) -> dict[str, float]:
    """Estimates requests, tokens and dollars from a few of the questions.

    Replies are taken to be as long as ``max_tokens`` lets them. ``most_dollars`` is the
    price if every answer has to be asked for again as often as the plan allows.
    """
    orders = 2 if plan.swap else 1
    asked = ["decide"] if plan.mode == "two_turn" else []
    longest = reply_limit(settings.params)
    shown = questions[:sample]
    sizes = [estimate_tokens(_first(q.load(), plan)) for q in shown]
    first = sum(sizes) / max(len(sizes), 1)
    count = len(questions) * orders

    def tokens(names: Sequence[str]) -> tuple[float, float]:
        """Counts what is read and written: each turn reads all that is before it."""
        context = total = first
        for name in names:
            text = [{"content": plan.prompts.texts[name]}]
            context += longest + estimate_tokens(text)
            total += context
        return count * total, float(count * longest * (1 + len(names)))

    read, written = tokens(asked)
    most = tokens([*asked, *["again"] * plan.again])
    return {
        "requests": float(count * (1 + len(asked))),
        "prompt_tokens": read,
        "completion_tokens": written,
        "dollars": price(settings, int(read), int(written)),
        "most_dollars": price(settings, int(most[0]), int(most[1])),
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
        "sample1": question.samples[0],
        "sample2": question.samples[1],
        "prompt_id": plan.prompts.prompt_id,
        "prompt_sha256": plan.prompts.sha256,
        "error": None,
    }
    # Filled turn by turn: what was said and paid for before a failure counts.
    replies: list[tuple[Reply, str]] = []
    try:
        verdict = _converse(sample, plan, client, replies)
    except RequestFailed as error:
        last = replies[-1][0].content if replies else None
        verdict = Verdict(None, None, "none", last or "")
        row["error"] = str(error)
    explanation = (replies[0][0].content or "") if replies else ""
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


def _converse(sample: Sample, plan: Plan, client: Client, replies: list) -> Verdict:
    """Returns the verdict; appends each reply with its key, the explanation first."""
    messages = _first(sample, plan)
    as_json = {
        "response_format": {"type": "json_schema", "json_schema": plan.prompts.schema}
    }

    def say(**params):
        reply, digest = client.ask(messages, **params)
        replies.append((reply, digest))
        messages.append({"role": "assistant", "content": reply.content or ""})
        return reply.content

    if plan.mode == "two_turn":
        say()
        messages.append({"role": "user", "content": plan.prompts.texts["decide"]})
        verdict = parse(say())
    else:
        verdict = parse(say(**as_json))
    for _ in range(plan.again):
        # An explicit null says that the images are unusable: that is an answer.
        if verdict.decision is not None or verdict.method == "json":
            break
        messages.append({"role": "user", "content": plan.prompts.texts["again"]})
        verdict = parse(say(**(as_json if plan.mode == "one_turn_json" else {})))
    return verdict
