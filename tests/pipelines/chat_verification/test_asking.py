import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.metrics.verdicts import verdict_metrics
from jaxkd.pipelines.chat_verification import client as clients
from jaxkd.pipelines.chat_verification import journal, prompts
from jaxkd.pipelines.chat_verification.asking import (
    Plan,
    Question,
    ask_all,
    estimate,
    read_answers,
)
from jaxkd.pipelines.chat_verification.client import (
    Client,
    Reply,
    RequestFailed,
    Settings,
)
from jaxkd.pipelines.chat_verification.prompts import Sample
from tests.pipelines.chat_verification import chat_server
from tests.pipelines.chat_verification.chat_server import ChatServer

pytest.importorskip("openai")

KEY = "sk-secret-0123456789abcdef"
PAIRS, MANY = 18, 48


def draw(pair: int) -> Sample:
    rng = np.random.default_rng(pair)
    known = rng.integers(0, 256, (4, 6)).repeat(5, 0).repeat(5, 1).astype(np.uint8)
    other = rng.integers(0, 256, (4, 6)).repeat(5, 0).repeat(5, 1)
    share = 0.1 if pair % 2 else 0.9
    questioned = ((1 - share) * known + share * other).astype(np.uint8)
    # Every fifth pair is drawn so that the rule errs on it.
    return Sample(known, questioned, "and", bool(pair % 2) != (pair % 5 == 0))


def questions(count=PAIRS):
    return [Question(i, lambda i=i: draw(i), draw(i).same) for i in range(count)]


def plan(**options):
    return Plan(prompts.read("handwriting-v1"), **options)


def make_client(url, folder, **options):
    os.environ.setdefault("JAXKD_TEST_KEY", KEY)
    params = {"temperature": 0, "max_tokens": 50}
    options = {"timeout": 1.0} | options
    settings = Settings("rule", url, "JAXKD_TEST_KEY", params, **options)
    return Client(settings, folder / "cache", folder / "spending.jsonl")


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("JAXKD_TEST_KEY", KEY)


def ask(server, folder, count=PAIRS, options=None, **how):
    client = make_client(server.url, folder, **(options or {}))
    try:
        rows, reason = ask_all(
            questions(count), plan(**how), client, folder / "answers.jsonl"
        )
    finally:
        client.close()
    return rows, reason, client


def in_colour(sample):
    """Returns both images as the server decodes them."""
    return [np.repeat(x[..., None], 3, 2) for x in (sample.known, sample.questioned)]


def salt_for_all(server):
    """Finds a salt with which the pairs meet every fault of the plan."""
    pairs = [in_colour(draw(i)) for i in range(MANY)]
    for server.salt in range(1000):
        if {server.fault_of(*pair) for pair in pairs} == set(chat_server.ALL):
            break
    return server.salt


def test_all_pairs_are_accounted_for_in_the_face_of_faults(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with ChatServer(chat_server.ALL, KEY) as server:
        server.salt = salt_for_all(server)
        rows, reason, client = ask(server, tmp_path, MANY, workers=8)
        met = {}
        for row in rows:
            sample = draw(row["pair"])
            known, questioned = in_colour(sample)
            fault = server.fault_of(known, questioned)
            met.setdefault(fault, []).append(row)
            expected = chat_server.judge(known, questioned)
            assert row["decision"] == (
                None if fault in chat_server.LASTING else expected
            ), fault
        assert reason == ""
        assert [row["pair"] for row in rows] == list(range(MANY))
        assert set(met) == set(chat_server.ALL)  # the plan was met in full
        assert all(row["error"] is None for row in rows)
        assert {429, 500, 200} <= set(server.statuses)
        for row in met["refusal"]:
            assert row["refusals"]
        for row in met["length"]:
            assert "length" in row["finish_reasons"]
        for row in met["null"]:
            assert row["method"] == "json"
        # The accuracy is the rule's, with what was not answered as errors.
        decided = [
            draw(i).same == chat_server.judge(draw(i).known, draw(i).questioned)
            for i in range(MANY)
        ]
        lost = {r["pair"] for f in chat_server.LASTING for r in met[f]}
        got = verdict_metrics([r["decision"] for r in rows], [r["same"] for r in rows])
        right = sum(d for i, d in enumerate(decided) if i not in lost)
        assert got.accuracy == right / MANY
        assert got.coverage == 1 - len(lost) / MANY
        # A second run asks nothing, neither with its answers nor from the cache alone.
        before = server.calls
        assert ask(server, tmp_path, MANY, workers=8)[0] == rows
        (tmp_path / "answers.jsonl").unlink()
        again, _, other = ask(server, tmp_path, MANY, workers=1)
        assert again == rows
        assert server.calls == before
        assert other.calls == 0
    assert client.calls > MANY
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes()
    assert KEY not in caplog.text


def test_the_rules_accuracy_without_faults_in_every_mode(tmp_path):
    expected = [chat_server.judge(draw(i).known, draw(i).questioned) for i in range(10)]
    examples = [draw(101), draw(102)]
    modes = {
        "two": {},
        "one": {"mode": "one_turn_json"},
        "both": {"composite": True},
        "few": {"examples": examples, "mode": "one_turn_json"},
        "swap": {"swap": True},
    }
    with ChatServer(("fine",), KEY) as server:
        for name, how in modes.items():
            before = server.calls
            rows, _, _ = ask(server, tmp_path / name, 10, **how)
            given = [r["decision"] for r in rows if r["order"] == "given"]
            assert given == expected, name
            turns = 1 if "mode" in how else 2
            assert server.calls - before == len(rows) * turns
            if name == "swap":
                swapped = [r["decision"] for r in rows if r["order"] == "swapped"]
                assert swapped == given  # the rule is symmetric
            for row in rows:
                assert set(row["features"]) == {"size"}


def test_concurrency_is_bounded_and_order_does_not_matter(tmp_path):
    with ChatServer(("fine",), KEY, delay=0.02) as server:
        one = ask(server, tmp_path / "one", 8, workers=1)[0]
        assert server.most_at_once == 1
        assert ask(server, tmp_path / "three", 8, workers=3)[0] == one
        assert server.most_at_once <= 3


def test_requests_are_paced(tmp_path):
    with ChatServer(("fine",), KEY) as server:
        start = time.monotonic()
        ask(server, tmp_path, 4, {"requests_per_minute": 600}, mode="one_turn_json")
        assert time.monotonic() - start >= 3 * 0.1


def test_a_killed_run_resumes_to_the_same_table(tmp_path):
    with ChatServer(("fine", "fenced", "500"), KEY, delay=0.05) as server:
        whole = ask(server, tmp_path / "whole")[0]
        folder = tmp_path / "killed"
        root = Path(__file__).parents[3]
        process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.killed", server.url, str(folder)],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        answers = folder / "answers.jsonl"
        for _ in range(600):
            if answers.is_file() and answers.read_bytes().count(b"\n") >= 3:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done = answers.read_bytes().count(b"\n")
        assert 3 <= done < PAIRS
        # As if the last line had been cut off.
        with answers.open("ab") as file:
            file.write(b'{"pair": 99, "ord')
        before = server.calls
        assert ask(server, folder)[0] == whole
        assert server.calls - before < 2.6 * (PAIRS - done) + 10
        assert len(answers.read_bytes().splitlines()) == PAIRS


def test_a_budget_stops_before_it_is_overspent(tmp_path):
    prices = {"price_input": 1000.0, "price_output": 1000.0, "budget": 2.5}
    with ChatServer(("fine",), KEY) as server:
        rows, reason, client = ask(server, tmp_path, options=prices, workers=2)
        assert reason == "budget"
        assert 0 < len(rows) < PAIRS
        assert client.spent <= 2.5
        assert client.spent == pytest.approx(server.calls * 0.11)
        # The next client goes on from what was spent; replies from the disk are free.
        (tmp_path / "answers.jsonl").unlink()
        again = ask(server, tmp_path, options=prices, workers=1)
        assert again[1] == "budget"
        assert again[2].spent == pytest.approx(server.calls * 0.11)
        assert again[2].spent <= 2.5
        rows, reason, _ = ask(server, tmp_path)
        assert (len(rows), reason) == (PAIRS, "")


def test_replies_that_cannot_be_read_are_paid_for(tmp_path):
    with ChatServer(("malformed",), KEY) as server:
        prices = {"price_output": 1e6 / 50}  # at most a dollar for each reply
        how = {"mode": "one_turn_json", "workers": 1}
        *_, client = ask(server, tmp_path / "all", 3, prices, **how)
        assert server.calls == 6
        assert client.spent == pytest.approx(3 * (1 + 10 / 50))
        rows, reason, client = ask(
            server, tmp_path / "some", 3, prices | {"budget": 1.5}, **how
        )
        # The server sends each of these requests' replies whole the second time.
        assert (len(rows), reason) == (3, "") and client.spent == pytest.approx(0.6)
        server.seen.clear()
        rows, reason, client = ask(
            server, tmp_path / "none", 3, prices | {"budget": 1.5}, **how
        )
        assert (rows, reason, client.spent) == ([], "budget", 1.0)


def test_a_failure_keeps_what_was_said_before_it(tmp_path):
    class Failing:
        def ask(self, messages, **_):
            if len(messages) > 2:
                raise RequestFailed("gone")
            return Reply("size | small | large | no", "stop", None, 100, 10), "x"

    path = tmp_path / "answers.jsonl"
    (row,), reason = ask_all(questions(1), plan(), Failing(), path)
    assert (row["error"], reason, row["decision"]) == ("gone", "", None)
    assert row["features"] == {"size": ["small", "large"]}
    assert row["explanation"] == row["reply"] == "size | small | large | no"
    assert (row["prompt_tokens"], row["requests"]) == (100, ["x"])


def test_answers_about_other_pairs_are_refused(tmp_path):
    class Sure:
        def ask(self, messages, **_):
            return Reply('{"same_writer": true}', "stop", None, 1, 1), "x"

    path = tmp_path / "answers.jsonl"
    first = [Question(0, lambda: draw(0), True, ("a.png", "b.png"))]
    rows, _ = ask_all(first, plan(), Sure(), path)
    assert ask_all(first, plan(), Sure(), path)[0] == rows
    for changed in (
        first[0]._replace(samples=("a.png", "c.png")),
        first[0]._replace(same=False),
        first[0]._replace(pair=1),
    ):
        with pytest.raises(UserError, match=r"about pair 0, .* The table has changed"):
            ask_all([changed], plan(), Sure(), path)


def test_damaged_replies_on_disk_are_asked_for_again(tmp_path):
    with ChatServer(("fine",), KEY) as server:
        rows = ask(server, tmp_path, 2)[0]
        before = server.calls
        for path in (tmp_path / "cache").rglob("*.json"):
            path.write_bytes(b"")
        (tmp_path / "answers.jsonl").unlink()
        assert ask(server, tmp_path, 2)[0] == rows
        assert server.calls == 2 * before


def test_half_characters_are_replaced():
    message = SimpleNamespace(content="no \ud800", refusal=None)
    choice = SimpleNamespace(message=message, finish_reason="stop")
    reply = clients._read(SimpleNamespace(choices=[choice], usage=None))
    assert reply.content == "no ?"


def test_estimates_ask_nobody():
    settings = Settings("m", "x", "y", {"max_tokens": 50}, price_output=2.0)
    got = estimate(questions(10), plan(swap=True), settings)
    assert got["requests"] == 40
    assert got["completion_tokens"] == 2000
    assert got["prompt_tokens"] > 40 * 2 * 765
    assert got["dollars"] == pytest.approx(0.004)
    # Every answer asked for once again: a third reply.
    assert got["most_dollars"] == pytest.approx(0.006)
    other = settings._replace(params={"max_completion_tokens": 50})
    assert estimate(questions(10), plan(swap=True), other) == got


def test_a_refused_key_ends_the_run_and_is_not_shown(tmp_path, monkeypatch):
    with ChatServer(("fine",), "sk-other") as server:
        with pytest.raises(UserError, match="refuses the key") as raised:
            ask(server, tmp_path)
        assert KEY not in str(raised.value)
        assert server.statuses.count(401) == server.calls <= 4  # no retries
    monkeypatch.setenv("JAXKD_TEST_KEY", "sk-1\n")
    settings = Settings("m", "http://x", "JAXKD_TEST_KEY", {})
    with pytest.raises(UserError, match="JAXKD_TEST_KEY holds a line break"):
        Client(settings, tmp_path)
    monkeypatch.delenv("JAXKD_TEST_KEY")
    settings = Settings("m", "http://x", "JAXKD_TEST_KEY", {})
    with pytest.raises(UserError, match="JAXKD_TEST_KEY is not set"):
        Client(settings, tmp_path)


def test_a_bad_request_is_not_repeated_but_accounted_for(tmp_path):
    with ChatServer(("fine",), KEY) as server:
        # The server wants more parameters.
        client = Client(Settings("rule", server.url, "JAXKD_TEST_KEY", {}), tmp_path)
        rows, reason = ask_all(questions(3), plan(), client, tmp_path / "answers.jsonl")
        client.close()
        assert server.calls == 3
        assert reason == ""
        assert all(r["decision"] is None and "400" in r["error"] for r in rows)


def test_what_fails_for_every_pair_ends_the_run(tmp_path):
    class Broke(ChatServer):
        def _check(self, handler, body):
            return (429, "insufficient_quota") if self.calls > 4 else None

    with ChatServer(("fine",), KEY) as server:
        client = make_client(server.url + "/nowhere", tmp_path)
        with pytest.raises(UserError, match=r"no model 'rule' \(status 404\)"):
            ask_all(questions(3), plan(), client, tmp_path / "answers.jsonl")
        client.close()
        assert server.calls <= 3
    with Broke(("fine",), KEY) as server:
        options = {"retries": 0}
        with pytest.raises(UserError, match="no quota left"):
            ask(server, tmp_path, 6, options, workers=1)
    # The answers before it are kept, and no pair has an error for one.
    rows = read_answers(tmp_path / "answers.jsonl")
    assert [row["error"] for row in rows] == [None, None]


def test_damaged_answers_are_named(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"pair": 0}\nnot json\n{"pair": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_answers(path)
    path.write_bytes(b"3\n")
    with pytest.raises(UserError, match="line 1, is no JSON object"):
        journal.read(path, "")


def test_prompts_are_versioned(tmp_path):
    read = prompts.read("handwriting-v1")
    assert read.prompt_id == "handwriting-v1"
    counts = [len(values) for values in read.features.values()]
    assert counts == [2, 3, 3, 3, 2, 2, 4, 2, 2, 4, 2, 3, 4, 2, 2]
    text = (prompts.FOLDER / "handwriting-v1.yaml").read_text()
    own = tmp_path / "own.yaml"
    own.write_text(text.replace("forensic", "school"))
    assert prompts.read(str(own)).sha256 != read.sha256
    with pytest.raises(UserError, match="handwriting-v1"):
        prompts.read("handwriting-v0")
    own.write_text("a: [")
    with pytest.raises(UserError, match="holds no prompts"):
        prompts.read(str(own))


def test_composites_have_their_gap():
    whole = prompts.side_by_side(
        np.zeros((4, 3), np.uint8), np.full((2, 5, 3), 9, np.uint8)
    )
    assert whole.shape == (4, 3 + 12 + 5, 3)
    assert (whole[:, :3] == 0).all()
    assert (whole[:, 3:15] == 255).all()
    assert (whole[:2, 15:] == 9).all()
    assert (whole[2:, 15:] == 255).all()


def test_messages_hold_images_as_parts_and_never_as_text():
    messages = prompts.first_messages(
        prompts.read("handwriting-v1"),
        draw(0),
        mode="two_turn",
        composite=False,
        detail="low",
    )
    kinds = [part["type"] for part in messages[1]["content"]]
    assert kinds == ["text", "text", "image_url", "text", "image_url"]
    text = json.dumps([p for p in messages[1]["content"] if p["type"] == "text"])
    assert "'and'" in text
    assert "slantness | normal / slight right" in text
    assert "base64" not in text
