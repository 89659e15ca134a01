"""What a run writes survives kills and restarts, and is valid JSON throughout."""

import io
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from jaxkd.core import console, writers
from jaxkd.core.errors import UserError


def strict(text):
    """Parses JSON as other languages do, without NaN and infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def events(path):
    """Reads an event file: length, its checksum, record, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, result = path.read_bytes(), []
    while data:
        (size,) = struct.unpack("<Q", data[:8])
        result.append(Event.FromString(data[12 : 12 + size]))
        data = data[16 + size :]
    return result


def write_steps(workdir, steps, value=1.0):
    with writers.Writer(workdir, True) as writer:
        for step in steps:
            writer.write_scalars(step, {"test_top1/kd/1": value})


def steps_of(workdir):
    return [record["step"] for record in writers.read_metrics(workdir)]


def test_write_json_accepts_numpy_and_writes_null_for_what_json_lacks(tmp_path):
    path = tmp_path / "results.json"
    writers.write_json(
        path,
        {
            "float": np.float32(0.5),
            "int": np.int64(3),
            "bool": np.bool_(True),
            "array": np.array([[1, 2]]),
            "tuple": (1, "Щ"),
            "lost": [float("nan"), np.inf, -np.inf, np.float32("nan")],
            7: None,
        },
    )
    assert strict(path.read_text(encoding="utf-8")) == {
        "float": 0.5,
        "int": 3,
        "bool": True,
        "array": [[1, 2]],
        "tuple": [1, "Щ"],
        "lost": [None] * 4,
        "7": None,
    }
    assert os.listdir(tmp_path) == ["results.json"]


def test_failed_replacement_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    writers.write_json(path, {"old": 1})

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        writers.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"old": 1}
    assert os.listdir(tmp_path) == ["results.json"]


def test_content_that_json_lacks_leaves_the_old_file(tmp_path):
    path = tmp_path / "results.json"
    writers.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        writers.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_metric_lines_are_valid_json_and_read_back(tmp_path):
    with writers.Writer(tmp_path, True) as writer:
        writer.write_scalars(10, {"train_loss/kd/1": np.float32(0.25)})
        # Readable at once, before anything is flushed or closed.
        assert writers.read_metrics(tmp_path)[0]["train_loss/kd/1"] == 0.25
        writer.write_scalars(20, {"train_loss/kd/1": float("nan"), "x": float("inf")})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    first, second = map(strict, lines)
    assert first["step"] == 10 and first["time"] > 1.6e9
    assert second["train_loss/kd/1"] is None and second["x"] is None
    assert writers.read_metrics(tmp_path) == [first, second]


def test_events_hold_the_same_values(tmp_path):
    with writers.Writer(tmp_path, True) as writer:
        writer.write_scalars(10, {"test_top1/kd/1": 0.5, "lost": float("nan")})
        writer.write_scalars(20, {"test_top1/kd/1": 0.75})
        writer.flush()
    (path,) = (tmp_path / "tensorboard").iterdir()
    found = [
        (event.step, value.tag, value.simple_value)
        for event in events(path)
        for value in event.summary.value
    ]
    assert found == [(10, "test_top1/kd/1", 0.5), (20, "test_top1/kd/1", 0.75)]


def test_disabled_writer_touches_nothing(tmp_path):
    workdir = tmp_path / "run"
    with writers.Writer(workdir, False) as writer:
        writer.write_scalars(1, {"a": 1.0})
        writer.flush()
    assert not workdir.exists()


def test_close_twice_is_allowed(tmp_path):
    writer = writers.Writer(tmp_path, True)
    writer.close()
    writer.close()


def test_no_file_means_no_metrics(tmp_path):
    assert writers.read_metrics(tmp_path) == []
    writers.truncate(tmp_path, 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tail", ['{"step": 40, "ti', '{"step": 40}', "\x00\x00"])
def test_incomplete_last_line_is_left_out(tmp_path, tail):
    write_steps(tmp_path, [10, 20])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write(tail)
    assert steps_of(tmp_path) == [10, 20]


@pytest.mark.parametrize("line", ['{"step": 1', "[1]", '{"loss": 1}', '{"step": "1"}'])
def test_bad_line_in_the_middle_is_an_error_with_its_number(tmp_path, line):
    text = f'{{"step": 1}}\n{line}\n{{"step": 3}}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match="line 2"):
        writers.read_metrics(tmp_path)


def test_resume_drops_what_will_be_written_again(tmp_path):
    write_steps(tmp_path, [10, 20, 30, 40], 0.1)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 50, "test_t')
    kept = (tmp_path / "metrics.jsonl").read_text().splitlines()[:2]

    writers.truncate(tmp_path, 25)
    write_steps(tmp_path, [30, 40, 50], 0.9)

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[:2] == kept
    values = [strict(line)["test_top1/kd/1"] for line in lines]
    assert values == [0.1, 0.1, 0.9, 0.9, 0.9]
    assert steps_of(tmp_path) == [10, 20, 30, 40, 50]


def test_events_are_those_of_the_record_after_kills_and_clocks_that_jump(
    tmp_path, monkeypatch
):
    """Whatever the event files have lost or have too much, and whenever it was."""
    write_steps(tmp_path, [10, 20, 30])
    (first,) = (tmp_path / "tensorboard").iterdir()
    first.write_bytes(first.read_bytes()[:40])  # as if it had never been flushed
    day = time.time() - 86_400
    monkeypatch.setattr(writers.time, "time", lambda: day)
    writers.truncate(tmp_path, 20)
    write_steps(tmp_path, [30], value=2.0)

    (path,) = (tmp_path / "tensorboard").iterdir()
    assert path.name > first.name  # in the order that TensorBoard reads them
    shown = {
        (event.step, value.simple_value)
        for event in events(path)
        for value in event.summary.value
    }
    assert shown == {(10, 1.0), (20, 1.0), (30, 2.0)}
    written = [record["time"] for record in writers.read_metrics(tmp_path)]
    assert [e.wall_time for e in events(path) if e.summary.value] == written


def test_an_event_is_with_the_system_once_it_is_written(tmp_path):
    with writers.Writer(tmp_path, True) as writer:
        writer.write_scalars(10, {"a": 0.5})
        (path,) = (tmp_path / "tensorboard").iterdir()
        assert [e.step for e in events(path) if e.summary.value] == [10]


def test_failed_truncation_keeps_all_lines(tmp_path, monkeypatch):
    write_steps(tmp_path, [10, 20])

    def fail(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        writers.truncate(tmp_path, 10)
    assert steps_of(tmp_path) == [10, 20]


def test_killed_process_leaves_lines_that_can_be_continued(tmp_path):
    code = """
import itertools, sys
from jaxkd.core.writers import Writer
writer = Writer(sys.argv[1], True)
for step in itertools.count(1):
    writer.write_scalars(step, {"a": step / 7})
    if step == 50:
        print("ready", flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)
    assert len(writers.read_metrics(tmp_path)) >= 50
    writers.truncate(tmp_path, 42)
    write_steps(tmp_path, [43])
    assert steps_of(tmp_path) == list(range(1, 44))


class Clock:
    """Time under the test's control."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        clock = SimpleNamespace(perf_counter=lambda: self.now)
        monkeypatch.setattr(writers, "time", clock)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Loss:
    """A value that is costly to read, such as an array still being computed."""

    input_key = 0

    def __float__(self):
        self.input_key += 1
        return 1.5


def test_plain_progress_is_one_line_every_ten_seconds(monkeypatch):
    clock, file, loss = Clock(monkeypatch), io.StringIO(), Loss()
    progress = writers.Progress(1000, 0, "rld", 100, file=file)
    for step in range(1, 1001):
        # The first step compiles for 500 s; then ten steps take a second.
        clock.now = 500.0 + 0.1 * (step - 1)
        progress.update(step, loss=loss)
    progress.close()
    assert "\r" not in file.getvalue()
    lines = file.getvalue().splitlines()
    # 99.9 s of training: the first update, nine times ten seconds, the last update.
    assert len(lines) == 11
    assert loss.input_key == 11
    assert lines[0].startswith("rld:   0% 1/1000 [00:00<?")
    # Step 501, after 50 s: 499 steps left at 10 steps a second.
    assert lines[5] == (
        "rld:  50% 501/1000 [00:50<00:49, 10.00step/s, 1000 images/s, loss=1.5]"
    )
    assert lines[-1].startswith("rld: 100% 1000/1000 [01:39<00:00")


def test_progress_of_a_resumed_run_counts_its_own_steps_only(monkeypatch):
    clock, file = Clock(monkeypatch), io.StringIO()
    progress = writers.Progress(2000, 1000, "rld", 64, file=file)
    progress.update(1001)
    clock.now = 20.0
    progress.update(1101)
    progress.close()
    line = file.getvalue().splitlines()[-1]
    assert line == "rld:  55% 1101/2000 [00:20<02:59,  5.00step/s, 320 images/s]"


def test_slow_work_has_digits(monkeypatch):
    clock, file = Clock(monkeypatch), io.StringIO()
    progress = writers.Progress(4, 0, "bench", 12, file=file, unit="part")
    progress.update(0)
    clock.now = 100.0
    progress.update(2)
    progress.close()
    assert "50.00s/part, 0.24 images/s" in file.getvalue().splitlines()[-1]


def test_progress_on_a_terminal_is_one_live_line(monkeypatch):
    clock, file, loss = Clock(monkeypatch), Terminal(), Loss()
    progress = writers.Progress(100, 0, "rld", 10, file=file)
    for step in range(1, 101):
        clock.now += 0.05
        progress.update(step, loss=loss)
    progress.close()
    text = file.getvalue()
    assert text.count("\n") == 1 and text.endswith("\n")
    last = text.rstrip("\n").split("\r")[-1]
    assert "100%" in last and "100/100" in last
    assert "200 images/s" in last and "loss=1.5" in last
    assert 20 <= loss.input_key <= 30  # five times a second in five seconds


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_disabled_progress_is_silent(stream):
    file, loss = stream(), Loss()
    progress = writers.Progress(2, 0, "rld", 10, enabled=False, file=file)
    progress.update(1, loss=loss)
    progress.update(2, loss=loss)
    progress.close()
    assert file.getvalue() == "" and loss.input_key == 0


def test_progress_prints_rows_above_the_bar_and_is_quiet_if_told(monkeypatch):
    file = Terminal()
    progress = writers.Progress(2, 0, "rld", 10, file=file, unit="cell")
    progress.update(1, loss="last")
    progress.print("a row")
    progress.close()
    assert "a row\n" in file.getvalue() and "1/2 [" in file.getvalue()
    assert "cell" in file.getvalue() and "loss=last" in file.getvalue()

    monkeypatch.setattr(console, "_quiet", True)
    file = io.StringIO()
    progress = writers.Progress(2, 0, "rld", 10, file=file)
    progress.update(2)
    progress.print("a row")
    progress.close()
    assert file.getvalue() == ""


class Collector(list):
    """A writer that keeps what it is given."""

    flushed = closed = 0

    def write(self, record):
        self.append(record)

    def flush(self):
        self.flushed += 1

    def close(self):
        self.closed += 1


def test_every_writer_gets_what_the_record_holds(tmp_path, monkeypatch):
    copy = Collector()
    monkeypatch.setattr(writers, "KINDS", {"copy": lambda folder, config: copy})
    with writers.Writer(tmp_path, True, ("copy",)) as writer:
        writer.write_scalars(3, {"a": float("inf")})
        writer.write_scalars(4, {"a": 1})
        writer.flush()
    assert [(record["step"], record["a"]) for record in copy] == [(3, math.inf), (4, 1)]
    assert copy.flushed == copy.closed == 1
    assert not (tmp_path / "tensorboard").exists()
    assert steps_of(tmp_path) == [3, 4]


def test_unknown_writers_and_missing_libraries_are_named(monkeypatch):
    with pytest.raises(UserError, match=r"tensorborad.*mean 'tensorboard'"):
        writers.check(("tensorborad",))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"'.\[wandb\]'"):
        writers.check(("tensorboard", "wandb"))


def test_weights_and_biases_continues_the_run_of_a_folder(tmp_path, monkeypatch):
    """With the library's calls recorded: it is no dependency of the tests."""
    calls = []

    def init(**options):
        calls.append(options)
        log = SimpleNamespace(id=options["id"] or "new", finish=lambda: None)
        log.log = lambda values, step: calls.append((values, step))
        return log

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for _ in range(2):
        with writers.Writer(tmp_path, True, ("wandb",), {"name": "rld"}) as writer:
            writer.write_scalars(5, {"a": 0.5, "lost": float("nan")})
    assert [call["id"] for call in calls[::2]] == [None, "new"]
    assert calls[0]["config"] == {"name": "rld"} and calls[0]["resume"] == "allow"
    assert calls[1] == ({"a": 0.5}, 5)
