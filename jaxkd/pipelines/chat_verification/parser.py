"""Reads a decision, and the features it rests on, out of whatever a model replies.

Pure functions of text that never raise: a reply without a decision is a result, too.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

# Longer replies are cut: their end is where the decision is.
LONGEST = 20_000
FIELDS = ("same_writer", "same", "decision", "answer", "verdict")


class Verdict(NamedTuple):
    """A decision as it was read.

    Attributes:
      decision: True for one writer, False for two, None for neither.
      confidence: of the decision, in [0, 1], where the reply gives one.
      method: "json", "tagged" or "words", by which part of the reply it was read;
        "conflict" if it contradicts itself, "none" if it decides nothing.
      raw: the reply.
    """

    decision: bool | None
    confidence: float | None
    method: str
    raw: str


def parse(text: Any) -> Verdict:
    """Reads the decision of a reply.

    The first JSON object with a field of ``FIELDS`` counts, strict or not (fences,
    single quotes, trailing commas, Python's words); else the last line such as
    "Decision: ..."; else the last sentence that decides. Who contradicts himself in it
    has not decided.

    >>> parse('```json\\n{"same_writer": False, "confidence": 0.8,}\\n```')[:3]
    (False, 0.8, 'json')
    >>> parse("The slants differ. These are not by the same writer.")[:3]
    (False, None, 'words')

    Args:
      text: a reply; anything else is read as no reply.
    """
    raw = text if isinstance(text, str) else ""
    cut = raw[-LONGEST:]
    for fields in _objects(cut):
        given = _given(fields)
        if given is not None and isinstance(fields[given], dict):
            fields = fields[given]  # {"verdict": {"same_writer": ...}}
            given = _given(fields)
        if given is not None:
            decision = _as_decision(fields[given])
            return Verdict(decision, _confidence(fields), "json", raw)
    tagged = _TAG.findall(cut)
    if tagged:
        kind = _classify(tagged[-1])
        if kind != "none":
            return Verdict(_DECISIONS[kind], None, _method(kind, "tagged"), raw)
    for sentence in reversed(_SENTENCE_END.split(cut)):
        kind = _classify(sentence)
        if kind != "none":
            return Verdict(_DECISIONS[kind], None, _method(kind, "words"), raw)
    return Verdict(None, None, "none", raw)


def parse_features(
    text: Any, features: Mapping[str, Sequence[str]]
) -> dict[str, tuple[str, str]]:
    """Reads the values of features that a comparison gives to its two samples.

    Args:
      text: lines such as ``slantness | normal | very right | no``, in free text, as
        rows of a table in Markdown, or in JSON strings.
      features: name -> its possible values.

    Returns:
      Name -> (known value, questioned value), for the features whose first line gives
      both.
    """
    raw = text if isinstance(text, str) else ""
    found: dict[str, tuple[str, str]] = {}
    # A list of JSON strings has its lines between quotes.
    for line in re.split(r"\\n|[\n\"]", raw[-LONGEST:]):
        name, *cells = map(_bare, line.strip().strip("|").split("|"))
        key = _bare(re.sub(r"^\d+[.)]?\s*", "", name)).replace(" ", "_")
        if key in found or key not in features or len(cells) < 2:
            continue
        values = {value.lower(): value for value in features[key]}
        if cells[0] in values and cells[1] in values:
            found[key] = (values[cells[0]], values[cells[1]])
    return found


def _bare(cell: str) -> str:
    """Returns a cell in small letters, without marks of lists and of emphasis."""
    return cell.strip(" *-`'_.").lower()


def _given(fields: Mapping[str, Any]) -> str | None:
    return next((name for name in FIELDS if name in fields), None)


_DECISIONS = {"same": True, "different": False, "unknown": None, "conflict": None}
_PEOPLE = r"(?:writers?|persons?|people|authors?|hands?|individuals?|scribes?)"
_NOT = (
    r"(?:\bnot\b|n't\b|\bnever\b|\bunlikely\b|\bneither\b"
    r"|\bno (?:\w+ )?(?:evidence|indications?|signs?|reason)\b)"
)
# Behind what it denies: "the same writer did not ...", "two writers are unlikely".
_DENIED = (
    r" (?:(?:is|was|did|does|do|can|could|would|has|have|are|were)(?: not\b|n't\b)"
    r"|(?:(?:is|was|are|were) )?(?:\w+ )?(?:unlikely|improbable)\b)"
)
_UNKNOWN = re.compile(
    r"\bunknown\b|\binconclusive\b|\bundetermined\b|\bunsure\b"
    r"|(?:\bcannot\b|\bcan not\b|n't\b|\b(?:unable|impossible|not possible) to\b)"
    r"[^.]{0,30}\b(?:determine|tell|say|decide|conclude|identify|know|assist|help)\b"
)
_SAME = rf"\b(?:same|one|single|identical)(?: and the same)?(?: \w+)? {_PEOPLE}\b"
_DIFFERENT = (
    rf"\b(?:different|two|distinct|separate|another|other)(?: \w+)? {_PEOPLE}\b"
)
_WORDS = (
    # (pattern, what it means); each match is taken out before the next is looked for.
    (re.compile(_DIFFERENT + _DENIED), "same"),
    (re.compile(_SAME + _DENIED), "different"),
    (re.compile(rf"{_NOT}[^.,;]{{0,40}}?{_DIFFERENT}"), "same"),
    (
        re.compile(rf"{_NOT}[^.,;]{{0,40}}?(?:{_SAME}|\bthe same\b|\bsame$)"),
        "different",
    ),
    (re.compile(_DIFFERENT), "different"),
    (re.compile(_SAME), "same"),
    (re.compile(rf"\b{_PEOPLE} (?:is|are|was|were) (?:the same|identical)\b"), "same"),
    (
        re.compile(
            rf"\b{_PEOPLE} (?:(?:is|are|was|were) (?:different|distinct)|differs?)\b"
        ),
        "different",
    ),
    (re.compile(r"^\W*(?:yes|same|true|genuine|match)\b"), "same"),
    (
        re.compile(r"^\W*no\b(?! (?:\w+ )?(?:difference|disagree|discrepan|doubt))"),
        "different",
    ),
    (re.compile(r"^\W*(?:different|false|forged|mismatch)\b"), "different"),
)
_TAG = re.compile(
    r"(?:decision|verdict|conclusion|final answer|answer|same_writer|same writer)"
    r"\W{0,4}[:=]\s*([^\n]{1,200})",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!?]+(?:\s|$)|\n+")
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"' r"|'(?:[^'\\]|\\.)*'" r"|[A-Za-z_]+|.", re.DOTALL
)
_LITERALS = {"True": "true", "False": "false", "None": "null", "NULL": "null"}


def _classify(sentence: str) -> str:
    """Returns "same", "different", "unknown", "conflict" or "none"."""
    text = " ".join(sentence.lower().replace("\u2019", "'").split())
    if _UNKNOWN.search(text):
        return "unknown"
    meanings = set()
    for pattern, meaning in _WORDS:
        text, count = pattern.subn(" ", text)
        if count:
            meanings.add(meaning)
    if len(meanings) > 1:
        return "conflict"
    return meanings.pop() if meanings else "none"


def _method(kind: str, method: str) -> str:
    return "conflict" if kind == "conflict" else method


def _objects(text: str, limit: int = 20) -> Iterator[dict[str, Any]]:
    """Yields the first balanced ``{...}`` that can be read as JSON."""
    start = text.find("{")
    while start >= 0 and limit:
        limit -= 1
        end = _closing(text, start)
        if end is None:  # an opening brace in prose: look behind it
            start = text.find("{", start + 1)
            continue
        fields = _read_json(text[start : end + 1])
        if isinstance(fields, dict):
            yield fields
        start = text.find("{", end + 1)


def _closing(text: str, start: int) -> int | None:
    depth, quoted, escaped = 0, False, False
    for at in range(start, len(text)):
        letter = text[at]
        if quoted:
            if letter == '"' and not escaped:
                quoted = False
            escaped = letter == "\\" and not escaped
        elif letter == '"':
            quoted, escaped = True, False
        elif letter == "{":
            depth += 1
        elif letter == "}":
            depth -= 1
            if not depth:
                return at
    return None


def _read_json(text: str) -> Any:
    for candidate in (text, _strict(text)):
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    return None


def _strict(text: str) -> str:
    """Rewrites Python's and other loose spellings as JSON."""
    out = []
    for token in _TOKEN.findall(text):
        if token[0] == "'" and len(token) > 1:
            inner = token[1:-1].replace("\\'", "'").replace('"', '\\"')
            token = f'"{inner}"'
        out.append(_LITERALS.get(token, token))
    return re.sub(r",(\s*[}\]])", r"\1", "".join(out))


def _as_decision(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _DECISIONS.get(_classify(value))
    return None


def _confidence(fields: Mapping[str, Any]) -> float | None:
    value = fields.get("confidence")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(str(value).strip().rstrip("%"))
    except (ValueError, OverflowError):
        return None
    if str(value).strip().endswith("%"):
        number /= 100
    return number if math.isfinite(number) and 0 <= number <= 1 else None
