"""A chat model behind an OpenAI-compatible address: cached, paced and within a budget.

The ``openai`` package does what it does well: retries with back-off and jitter on 408,
409, 429, 5xx and broken connections, honours Retry-After, and times out. The key comes
from an environment variable and goes nowhere else.
"""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxkd.core.errors import UserError
from jaxkd.pipelines.chat_verification import journal

# Rough sizes for estimates: letters of a token, and tokens of an image by its detail.
LETTERS, IMAGE_TOKENS = 4, {"low": 85, "high": 765, "auto": 765}


class Settings(NamedTuple):
    """How a model is called.

    Attributes:
      model: its name.
      base_url: of the service, up to ``/v1``.
      key_variable: environment variable with the key.
      params: of every request, such as ``temperature`` and ``max_tokens``.
      timeout: seconds until a request is given up.
      retries: of one request.
      requests_per_minute: 0 for no limit; retries of the openai package come on top.
      price_input: dollars for a million tokens.
      price_output: likewise.
      budget: dollars that may be spent; 0 for no limit.
    """

    model: str
    base_url: str
    key_variable: str
    params: Mapping[str, Any]
    timeout: float = 60.0
    retries: int = 6
    requests_per_minute: float = 0.0
    price_input: float = 0.0
    price_output: float = 0.0
    budget: float = 0.0


class Reply(NamedTuple):
    """What came back.

    Attributes:
      content: the text; None if there was none.
      finish_reason: "stop", "length", "content_filter" ...
      refusal: the model's refusal, if it refused.
      prompt_tokens: as the service counted.
      completion_tokens: likewise.
    """

    content: str | None
    finish_reason: str | None
    refusal: str | None
    prompt_tokens: int
    completion_tokens: int


class BudgetReached(Exception):
    """The next request could cost more than is left of the budget."""


class RequestFailed(Exception):
    """A request failed for good; the text holds no key."""


class Client:
    """Asks a chat model; safe to use from several threads."""

    def __init__(self, settings: Settings, cache: Path, ledger: Path | None = None):
        """Prepares a client; nothing is sent.

        Args:
          settings: how the model is called.
          cache: folder of the replies on disk.
          ledger: file of what was paid, a line each, which earlier clients began; None
            begins at nothing and keeps nothing.

        Raises:
          UserError: if openai is not installed, there is no key or none that a header
            can hold, or the ledger is damaged.
        """
        try:
            import openai
        except ImportError as error:
            raise UserError(
                "Chat models need the package openai: pip install -e '.[vlm]'"
            ) from error
        key = os.environ.get(settings.key_variable, "")
        if not key:
            raise UserError(
                f"The environment variable {settings.key_variable} is not set. Put the "
                "key of the service into it; local servers take any."
            )
        if not (key.isascii() and key.isprintable()):
            raise UserError(
                f"The environment variable {settings.key_variable} holds a line break "
                "or a letter that is not ASCII, expected a key. Copy it anew."
            )
        self._settings, self._cache, self._key = settings, cache, key
        self._ledger = ledger
        self._openai = openai.OpenAI(
            api_key=key,
            base_url=settings.base_url,
            timeout=settings.timeout,
            max_retries=settings.retries,
        )
        self._errors = openai.OpenAIError
        self._lock = threading.Lock()
        self._next = 0.0
        self.calls = 0
        self.spent = 0.0 if ledger is None else _paid(ledger)
        self._reserved = 0.0

    def ask(
        self, messages: Sequence[Mapping[str, Any]], **params: Any
    ) -> tuple[Reply, str]:
        """Returns a reply, from the disk if the same was asked before, and its key.

        Args:
          messages: as the service takes them.
          **params: of this request, beside those of the settings.

        Raises:
          BudgetReached: if it could cost more than is left.
          RequestFailed: if all attempts failed, or the service refuses the request.
          UserError: if the key is refused.
        """
        params = {**self._settings.params, **params}
        asked = {"model": self._settings.model, "messages": messages, "params": params}
        text = json.dumps(asked, sort_keys=True).encode()
        digest = hashlib.sha256(text).hexdigest()
        path = self._cache / digest[:2] / f"{digest}.json"
        known = _cached(path)
        if known is not None:
            return known, digest
        most = self._reserve(messages, params)
        try:
            reply = self._send(messages, params, digest, most)
        finally:
            with self._lock:
                self._reserved -= most
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{threading.get_ident()}.part")
        part.write_text(json.dumps(reply._asdict()), "utf-8")
        part.replace(path)
        return reply, digest

    def close(self) -> None:
        """Closes the connections."""
        self._openai.close()

    def _send(self, messages, params, digest: str, most: float) -> Reply:
        """Sends until a reply can be read; a damaged one is asked for again."""
        problem = ""
        for attempt in range(1 + self._settings.retries):
            self._pace()
            with self._lock:
                self.calls += 1
            try:
                answer = self._openai.chat.completions.create(
                    model=self._settings.model, messages=messages, **params
                )
                reply = _read(answer)
            except self._errors as error:
                self._fail(error)
            except (ValueError, TypeError, AttributeError, LookupError) as error:
                problem = f"unreadable reply: {type(error).__name__}"
                # Its price is in what cannot be read: the most that it can be.
                self._pay(digest, most)
                self._check_budget()
                time.sleep(min(0.1 * 2**attempt, 8.0))
            else:
                tokens = reply.prompt_tokens, reply.completion_tokens
                self._pay(digest, price(self._settings, *tokens))
                return reply
        raise RequestFailed(problem)

    def _fail(self, error: Exception) -> None:
        status = getattr(error, "status_code", None)
        text = f"{type(error).__name__}: {error}".replace(self._key, "***")
        if status in (401, 403):
            raise UserError(
                f"{self._settings.base_url} refuses the key in "
                f"{self._settings.key_variable} (status {status}). Check it."
            ) from None
        if status == 404:  # of every pair, so that none of them is at fault
            raise UserError(
                f"{self._settings.base_url} has no such address or no model "
                f"{self._settings.model!r} (status 404). Check config.base_url and "
                "config.model."
            ) from None
        if getattr(error, "code", None) == "insufficient_quota":
            raise UserError(
                f"The account of the key in {self._settings.key_variable} has no quota "
                "left. Answers so far are kept: fill it up and run the same command."
            ) from None
        # Without the cause: a traceback of the request could show its headers.
        raise RequestFailed(text[:500]) from None

    def _pace(self) -> None:
        """Waits for the next place in the rate limit."""
        if not self._settings.requests_per_minute:
            return
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            self._next = start + 60 / self._settings.requests_per_minute
        time.sleep(max(0.0, start - now))

    def _reserve(self, messages, params) -> float:
        """Sets aside what a request can cost at most."""
        most = price(
            self._settings,
            estimate_tokens(messages),
            reply_limit(params),
        )
        with self._lock:
            budget = self._settings.budget
            if budget and self.spent + self._reserved + most > budget:
                raise BudgetReached
            self._reserved += most
        return most

    def _check_budget(self) -> None:
        """Stops asking again where what is reserved is more than what is left."""
        with self._lock:
            budget = self._settings.budget
            if budget and self.spent + self._reserved > budget:
                raise BudgetReached

    def _pay(self, digest: str, dollars: float) -> None:
        """Counts a price, on disk before its reply is: a killed run forgets none."""
        with self._lock:
            self.spent += dollars
            if self._ledger is not None:
                self._ledger.parent.mkdir(parents=True, exist_ok=True)
                with self._ledger.open("ab") as file:
                    file.write(journal.line({"request": digest, "dollars": dollars}))


def price(settings: Settings, prompt_tokens: int, completion_tokens: int) -> float:
    """Returns the dollars for a number of tokens."""
    return (
        prompt_tokens * settings.price_input + completion_tokens * settings.price_output
    ) / 1e6


def estimate_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Estimates the tokens of a request, without asking anybody."""
    total = 0
    for message in messages:
        content = message["content"]
        parts: list[Any] = [{"text": content or ""}]
        if isinstance(content, list):
            parts = content
        for part in parts:
            if "image_url" in part:
                total += IMAGE_TOKENS[part["image_url"]["detail"]]
            else:
                total += -(-len(part["text"]) // LETTERS)
    return total


def reply_limit(params: Mapping[str, Any]) -> int:
    """Returns the most tokens of a reply; 0 if its parameters set no limit."""
    return int(params.get("max_tokens") or params.get("max_completion_tokens") or 0)


def _paid(ledger: Path) -> float:
    remedy = "Repair or delete that line; what it tells of is then not counted."
    return sum(float(row["dollars"]) for row in journal.read(ledger, remedy))


def _cached(path: Path) -> Reply | None:
    """Reads a reply; one that a failing disk has damaged is as good as none."""
    try:
        return Reply(**json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _read(answer: Any) -> Reply:
    choice = answer.choices[0]
    content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    if content is not None:
        if not isinstance(content, str):
            raise TypeError("content")
        # JSON can hold half a character, which can be neither written nor sent back.
        content = content.encode("utf-8", "replace").decode("utf-8")
    usage = answer.usage
    return Reply(
        content,
        choice.finish_reason,
        refusal,
        int(getattr(usage, "prompt_tokens", 0) or 0),
        int(getattr(usage, "completion_tokens", 0) or 0),
    )
