import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

from jaxkd import pipelines
from jaxkd.core.errors import Interrupted, UserError
from jaxkd.pipelines import chat_verification
from jaxkd.pipelines.chat_verification import pairs
from tests.pipelines.chat_verification import chat_server
from tests.pipelines.chat_verification.chat_server import ChatServer

pytest.importorskip("openai")

KEY = "sk-run-0123456789"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("JAXKD_TEST_KEY", KEY)


def configure(url, **changes):
    config = chat_verification.default()
    config.base_url, config.key_variable = url, "JAXKD_TEST_KEY"
    config.model, config.pairs, config.size, config.timeout = "rule", 12, 24, 1.0
    for name, value in changes.items():
        config[name] = value
    return config


def expected(config):
    """Judges the drawn pairs by the server's rule, without the server."""
    loaded = [q.load() for q in pairs.load(config).questions]
    return [chat_server.judge(one.known, one.questioned) for one in loaded]


def test_a_run_measures_by_hand_and_repeats_without_a_call(tmp_path):
    with ChatServer(("fine", "429", "fenced"), KEY) as server:
        config = configure(server.url, swap=True)
        results = pipelines.run(config, tmp_path)
        found = results["measures"]
        rule = expected(config)
        same = [i % 2 == 0 for i in range(12)]
        right = np.mean([a == b for a, b in zip(rule, same, strict=True)])
        assert found["accuracy"] == pytest.approx(right)
        assert found["averaged_accuracy"] == pytest.approx(right)
        assert found["coverage"] == found["swap_consistency"] == 1.0
        both = 2 * sum(a and b for a, b in zip(rule, same, strict=True))
        assert found["confusion"][0][0] == both
        # One feature of twelve is told, and sometimes rightly.
        told = found["feature_accuracy"]
        assert all(told[name] == 0 for name in told if name != "size")
        assert "accuracy" in pipelines.format_table(results)
        before = server.calls
        table = (tmp_path / "verdicts.csv").read_bytes()
        assert pipelines.run(config, tmp_path)["measures"] == found
        assert server.calls == before
        assert (tmp_path / "verdicts.csv").read_bytes() == table
        with pytest.raises(UserError, match="mode: two_turn -> one_turn_json"):
            pipelines.run(configure(server.url, mode="one_turn_json"), tmp_path)
    rows = list(csv.DictReader(table.decode().splitlines()))
    assert [(r["pair"], r["order"]) for r in rows[:2]] == [
        ("0", "given"),
        ("0", "swapped"),
    ]
    page = (tmp_path / "report.html").read_text()
    assert page.count("<article>") == 12
    assert "size | " in page
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


def test_a_dry_run_asks_nobody_and_writes_nothing(tmp_path):
    config = configure("http://127.0.0.1:9", dry_run=True)
    os.environ.pop("JAXKD_TEST_KEY")
    results = pipelines.run(config, tmp_path / "run")
    assert results["estimate"]["requests"] == 24
    text = pipelines.format_table(results)
    assert "Nobody was asked" in text and "config.budget" not in text
    assert "config.price_input 2.5, config.price_output 10 dollars" in text
    # One that may not suffice is named before anybody is asked.
    most = results["estimate"]["most_dollars"]
    for budget, named in ((0.9 * most, True), (1.1 * most, False)):
        config.budget = budget
        text = pipelines.format_table(pipelines.run(config, tmp_path / "run"))
        assert (f"config.budget is ${budget:.2f}" in text) == named
    assert not (tmp_path / "run").exists()


def test_budget_and_stop_keep_what_was_answered(tmp_path):
    with ChatServer(("fine",), KEY) as server:
        config = configure(server.url, workers=1, price_input=1000.0)
        config.price_output, config.budget = 1000.0, 4.5
        with pytest.raises(UserError, match=r"budget of \$4.50 is reached"):
            pipelines.run(config, tmp_path)
        kept = len((tmp_path / "answers.jsonl").read_text().splitlines())
        assert 0 < kept < 12
        config.budget = 0.0
        asked = iter([None, None, "SIGTERM"])
        with pytest.raises(Interrupted):
            pipelines.run(config, tmp_path, lambda: next(asked, "SIGTERM"))
        assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == kept + 2
        assert pipelines.run(config, tmp_path)["measures"]["answers"] == 12


def test_a_table_of_images_is_read(tmp_path):
    rng = np.random.default_rng(0)
    for name in "abc":
        picture = rng.integers(0, 256, (9, 7), dtype=np.uint8)
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
    table = tmp_path / "pairs.csv"
    table.write_text(
        "sample1,sample2,label\na.png,a.png,1\na.png,b.png,0\nb.png,c.png,\n"
    )
    with ChatServer(("fine",), KEY) as server:
        config = configure(server.url, table=str(table), images=str(tmp_path))
        found = pipelines.run(config, tmp_path / "run")["measures"]
        assert (found["answers"], found["judged"]) == (3, 2)
        assert found["confusion"][0] == [1, 0, 0]
        config.pairs = 2
        results = pipelines.run(config, tmp_path / "first")
        assert "1 further pairs of the table" in pipelines.format_table(results)
        rows = list(
            csv.DictReader((tmp_path / "first/verdicts.csv").read_text().splitlines())
        )
        assert [r["sample2"] for r in rows] == ["a.png", "b.png"]
    table.write_text("sample1,sample2,label\na.png,d.png,1\n")
    with pytest.raises(UserError, match=r"row 2, names .*d\.png"):
        pairs.load(config)
    (tmp_path / "d.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(UserError, match=r"d\.png cannot be read as an image"):
        pairs.load(config)  # before anybody is asked
    table.write_text("sample1,sample2,label\n")
    with pytest.raises(UserError, match="has no pair"):
        pairs.load(config)
    for text in (b"sample1,sample2\n\xff,a.png\n", b'sample1,"sample2\n\0'):
        table.write_bytes(text)
        with pytest.raises(UserError, match=r"pairs\.csv"):
            pairs.load(config)
    table.write_text("one,two\n")
    with pytest.raises(UserError, match="Expected sample1"):
        pairs.load(config)


def test_impossible_configurations_are_refused():
    for changes, message in (
        ({"mode": "chat"}, "mode"),
        ({"few_shot": 3}, "even number"),
        ({"pairs": 3}, "even number"),
        ({"table": "x.csv"}, "expected both"),
        ({"prompts": "handwriting-v0"}, "no prompts"),
        ({"workers": 0}, "at least one worker"),
        ({"size": 0}, "at least one pixel"),
        ({"retries": -1}, "config.retries is -1"),
        ({"budget": float("nan")}, "config.budget is nan"),
        ({"budget": 1.0, "params": {"temperature": 0.0}}, "no max_tokens"),
    ):
        with pytest.raises(UserError, match=message):
            pipelines.check(configure("http://x", **changes))


def test_examples_are_balanced_and_of_other_writers():
    config = configure("http://x", few_shot=4)
    loaded = pairs.load(config)
    assert [one.same for one in loaded.examples] == [True, False, True, False]
    shown = {one.known.tobytes() for one in loaded.examples}
    asked = {q.load().known.tobytes() for q in loaded.questions}
    assert not shown & asked
    assert json.dumps(loaded.gold[0])
