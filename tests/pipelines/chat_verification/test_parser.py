import random
import string

import pytest

from jaxkd.pipelines.chat_verification.parser import parse, parse_features

SAME, DIFFERENT, NEITHER = True, False, None


@pytest.mark.parametrize(
    ("text", "decision", "confidence", "method"),
    [
        ('{"same_writer": true, "confidence": 0.9}', SAME, 0.9, "json"),
        ('{"same_writer": null, "confidence": 0.2}', NEITHER, 0.2, "json"),
        ('Sure.\n```json\n{"same_writer": false}\n```\nBye', DIFFERENT, None, "json"),
        ("{'same_writer': True, 'reasons': ['it\\'s'],}", SAME, None, "json"),
        ("{'same_writer': None}", NEITHER, None, "json"),
        ('{"same_writer": "yes", "confidence": "85%"}', SAME, 0.85, "json"),
        ('{"same_writer": false, "confidence": 7}', DIFFERENT, None, "json"),
        ('{"same_writer": true, "confidence": NaN}', SAME, None, "json"),
        ('Set {a, b} first. {"x": 1} {"decision": "different"}', False, None, "json"),
        ('{"reasons": ["a } brace"], "same_writer": true}', SAME, None, "json"),
        ("broken { then {'same_writer': false}", DIFFERENT, None, "json"),
        ("Features...\n**Decision:** same writer", SAME, None, "tagged"),
        ("Answer: No", DIFFERENT, None, "tagged"),
        ("Decision: Unknown", NEITHER, None, "tagged"),
        ("Final answer = yes, with doubt", SAME, None, "tagged"),
        ("They were written by the same person.", SAME, None, "words"),
        ("They were not written by the same writer.", DIFFERENT, None, "words"),
        ("These samples aren't by the same hand", DIFFERENT, None, "words"),
        ("I see two different writers.", DIFFERENT, None, "words"),
        ("They are not from different writers.", SAME, None, "words"),
        ("No, the slant differs.", DIFFERENT, None, "words"),
        ("Yes. ", SAME, None, "words"),
        (
            "One might say the same writer. Yet: different writers.",
            False,
            None,
            "words",
        ),
        ("I cannot determine whether one writer wrote both.", None, None, "words"),
        ("Could be the same writer or different writers.", None, None, "conflict"),
        ("Decision: same writer, or different writers", None, None, "conflict"),
        ('{"verdict": {"same_writer": true, "confidence": 0.6}}', SAME, 0.6, "json"),
        ('{"verdict": {"other": 1}}\nDecision: no', DIFFERENT, None, "tagged"),
        ("The same writer did not write both.", DIFFERENT, None, "words"),
        ("One writer couldn't have written both.", DIFFERENT, None, "words"),
        ("Different writers are very unlikely.", SAME, None, "words"),
        ("There is no clear evidence of different writers.", SAME, None, "words"),
        ("By the same writer and not by two.", SAME, None, "words"),
        ("The writers are different.", DIFFERENT, None, "words"),
        ("The writer is the same.", SAME, None, "words"),
        ("The writer is not the same.", DIFFERENT, None, "words"),
        ("No clear differences; same writer.", SAME, None, "words"),
        ("The weather is fine.", NEITHER, None, "none"),
        ("", NEITHER, None, "none"),
        (None, NEITHER, None, "none"),
        ({"same_writer": True}, NEITHER, None, "none"),
    ],
)
def test_decisions(text, decision, confidence, method):
    got = parse(text)
    assert got.decision is decision
    assert got.confidence == confidence
    assert got.method == method
    assert got.raw == (text if isinstance(text, str) else "")


def test_later_sentences_outweigh_earlier_ones():
    text = (
        "Both could be by one writer. However, I conclude: different writers.\nThanks!"
    )
    assert parse(text).decision is False


FEATURES = {"slantness": ["normal", "very right"], "staff_of_a": ["none", "loopy"]}


def test_features_are_read_line_by_line():
    text = (
        "1. Slantness | normal | Very right | no\n- staff of a | loopy | none | no\n"
        "slantness | very right | very right | yes\nother | a | b | no"
    )
    assert parse_features(text, FEATURES) == {
        "slantness": ("normal", "very right"),
        "staff_of_a": ("loopy", "none"),
    }
    quoted = '{"reasons": ["slantness | normal | normal | yes", "x"]}'
    assert parse_features(quoted, FEATURES) == {"slantness": ("normal", "normal")}
    table = "| 1. **Slantness** | normal | Very right. | no |\n| --- | --- | --- |"
    assert parse_features(table, FEATURES) == {"slantness": ("normal", "very right")}
    assert parse_features("slantness | upright | normal | no", FEATURES) == {}
    assert parse_features(None, FEATURES) == {}


def test_twenty_thousand_mangled_replies_never_raise():
    rng = random.Random(0)
    seeds = [
        '```json\n{"same_writer": true, "confidence": 0.91, "reasons": ["a | b"]}\n```',
        "{'same_writer': False, 'confidence': 1e999, 'reasons': [None, {'a': {}}],}",
        "The slant differs. They were not written by the same writer. Decision: No",
        "slantness | normal | very right | no\nstaff_of_a | loopy | none | no",
        '{"same_writer": "\\ud800", "confidence": "99%"}',
    ]
    alphabet = string.printable + "{}[]\"'\\|:,.\u2019\u2713\ud800\0"
    for number in range(20_000):
        text = list(rng.choice(seeds)) if number % 4 else []
        for _ in range(rng.randint(0, 30)):
            kind, at = rng.randint(0, 3), rng.randint(0, len(text))
            if kind == 0:
                text.insert(at, rng.choice(alphabet))
            elif kind == 1:
                del text[at : at + rng.randint(1, 9)]
            elif kind == 2:
                text[at:at] = text[: rng.randint(0, 12)]
            else:
                text.insert(at, rng.choice(["{", "}", "not ", "1" * 400, '"', "'"]))
        reply = "".join(text)
        verdict = parse(reply)
        assert verdict.decision in (True, False, None)
        assert verdict.confidence is None or 0 <= verdict.confidence <= 1
        assert verdict.raw == reply
        for known, questioned in parse_features(reply, FEATURES).values():
            assert {known, questioned} <= {v for vs in FEATURES.values() for v in vs}


@pytest.mark.parametrize(
    "text",
    [
        "{" * 50_000,
        "[{" * 9_000 + "}]" * 9_000,
        "'" * 40_001,
        "a" * 10**6,
        "not " * 9000,
    ],
)
def test_monstrous_replies_are_read_in_no_time(text):
    assert parse(text).decision is None
    assert parse_features(text, FEATURES) == {}
