"""One run writes into a workdir at a time, and a killed one leaves it free."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from jaxkd.core.errors import UserError
from jaxkd.training import workdir_lock
from jaxkd.training.workdir_lock import LOCK, locked

HOLD = """
import sys, time
from pathlib import Path
from jaxkd.training.workdir_lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _never_break(monkeypatch):
    monkeypatch.setattr(workdir_lock, "_break", False)


def left_by(workdir, host="elsewhere", boot="another", pid=1):
    """Writes what a run of another machine has left."""
    workdir.mkdir(exist_ok=True)
    content = {"host": host, "boot": boot, "pid": pid, "since": "2026-01-01"}
    (workdir / LOCK).write_text(json.dumps(content))


def test_a_living_process_is_named_and_a_killed_one_leaves_the_folder_free(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for attempt in (workdir_lock.check_free, lambda path: locked(path).__enter__()):
            with pytest.raises(UserError, match=f"process {other.pid}, since") as got:
                attempt(tmp_path)
            assert len(str(got.value).splitlines()) == 1
        other.send_signal(signal.SIGKILL)
    assert (tmp_path / LOCK).exists()
    workdir_lock.check_free(tmp_path)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


def test_of_many_that_start_at_once_one_at_a_time_gets_in(tmp_path):
    inside, most, done = [0], [0], [0]

    def attempt():
        for _ in range(4):
            try:
                with locked(tmp_path / "run"):
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
                    done[0] += 1
            except UserError:
                pass

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1 and done[0] >= 4


def test_an_empty_folder_is_not_left_behind(tmp_path):
    with locked(tmp_path / "a"):
        pass
    assert not (tmp_path / "a").exists()
    with locked(tmp_path / "a"):
        (tmp_path / "a" / "config.json").touch()
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize("content", ["", "{", '{"host": 1}', "[" * 9000])
def test_a_lock_that_was_cut_short_is_taken(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with locked(tmp_path):
        pass


def test_on_a_disk_of_this_machine_the_system_decides(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lock, "_file_system", lambda path: "ext4")
    left_by(tmp_path)
    with locked(tmp_path):
        pass


def test_on_a_network_disk_another_host_is_explained_and_can_be_overridden(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(workdir_lock, "_file_system", lambda path: "nfs4")
    left_by(tmp_path)
    with pytest.raises(UserError, match=r"run on elsewhere .*--break_lock"):
        locked(tmp_path).__enter__()
    workdir_lock.break_locks()
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_a_machine_that_was_started_again_takes_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(workdir_lock, "_file_system", lambda path: "nfs4")
    left_by(tmp_path, host=workdir_lock.socket.gethostname())
    with locked(tmp_path):
        pass


def test_breaking_spares_a_living_process_of_this_machine(tmp_path):
    workdir_lock.break_locks()
    with locked(tmp_path), pytest.raises(UserError, match="is in use"):
        locked(tmp_path).__enter__()


def test_a_file_system_without_locks_says_so_and_goes_by_the_file(
    tmp_path, monkeypatch
):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(workdir_lock.fcntl, "flock", refuse)
    monkeypatch.setattr(workdir_lock, "_file_system", lambda path: "nfs")
    left_by(tmp_path, boot=workdir_lock._boot(), pid=os.getppid())
    with (
        pytest.warns(UserWarning, match="has no locks"),
        pytest.raises(UserError, match="is in use"),
    ):
        locked(tmp_path).__enter__()
    left_by(tmp_path, boot=workdir_lock._boot(), pid=2**22 + 1)  # beyond any process
    with pytest.warns(UserWarning, match="has no locks"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        locked(tmp_path / "file" / "run").__enter__()
