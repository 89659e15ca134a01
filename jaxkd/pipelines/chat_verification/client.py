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
      requests_per_minute: 0 for no limit.
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

    def __init__(self, settings: Settings, cache: Path):
        """Prepares a client; nothing is sent.

        Args:
          settings: how the model is called.
          cache: folder of the replies on disk.

        Raises:
          UserError: if openai is not installed, or there is no key.
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
        self._settings, self._cache, self._key = settings, cache, key
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
        self.spent = 0.0
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
        if path.is_file():
            return Reply(**json.loads(path.read_text("utf-8"))), digest
        most = self._reserve(messages, params)
        try:
            reply = self._send(messages, params)
            with self._lock:
                self.spent += price(
                    self._settings, reply.prompt_tokens, reply.completion_tokens
                )
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

    def _send(self, messages, params) -> Reply:
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
                return _read(answer)
            except self._errors as error:
                self._fail(error)
            except (ValueError, TypeError, AttributeError, LookupError) as error:
                problem = f"unreadable reply: {type(error).__name__}"
                time.sleep(min(0.1 * 2**attempt, 8.0))
        raise RequestFailed(problem)

    def _fail(self, error: Exception) -> None:
        status = getattr(error, "status_code", None)
        text = f"{type(error).__name__}: {error}".replace(self._key, "***")
        if status in (401, 403):
            raise UserError(
                f"{self._settings.base_url} refuses the key in "
                f"{self._settings.key_variable} (status {status}). Check it."
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
            int(params.get("max_tokens") or params.get("max_completion_tokens") or 0),
        )
        with self._lock:
            budget = self._settings.budget
            if budget and self.spent + self._reserved + most > budget:
                raise BudgetReached
            self._reserved += most
        return most


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


def _read(answer: Any) -> Reply:
    choice = answer.choices[0]
    content, refusal = choice.message.content, getattr(choice.message, "refusal", None)
    if content is not None and not isinstance(content, str):
        raise TypeError("content")
    usage = answer.usage
    return Reply(
        content,
        choice.finish_reason,
        refusal,
        int(getattr(usage, "prompt_tokens", 0) or 0),
        int(getattr(usage, "completion_tokens", 0) or 0),
    )
