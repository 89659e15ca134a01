"""The lock of a workdir: one run writes into a folder at a time.

``<workdir>/lock`` holds who writes: host, process, and since when. The lock proper is
the operating system's (``flock``), which goes with the process however that ends, so
that a killed run can be resumed at once. Network file systems may not pass locks on
between hosts, or have none: there the content of the file decides.
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from jaxkd.core.distributed import from_first
from jaxkd.core.errors import UserError

LOCK = "lock"
# File systems of one machine: nobody else can hold what the kernel grants there.
_LOCAL = frozenset(
    [
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "bcachefs",
        "tmpfs",
        "ramfs",
        "overlay",
        "apfs",
        "hfs",
    ]
)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_break = False


class Owner(NamedTuple):
    """Who writes into a workdir.

    Attributes:
      host: its name.
      boot: identifies the running kernel, which containers of a machine share.
      pid: the process.
      since: when it began to, in UTC.
    """

    host: str
    boot: str
    pid: int
    since: str


def break_locks() -> None:
    """Lets this process take over what another host has left locked."""
    global _break
    _break = True


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the lock of a workdir; process 0 does, for all of a run.

    The folder is made if it is not there.

    Raises:
      UserError: on every process, if another run holds it, or the folder cannot be
        written to.
    """
    with contextlib.ExitStack() as stack:
        refused = ""
        if jax.process_index() == 0:
            try:
                stack.enter_context(_held(workdir))
            except UserError as error:
                refused = str(error)
        _refuse_on_all(refused, workdir)
        yield


def check_free(workdir: Path) -> None:
    """Checks that no other process of this machine writes, without taking the lock.

    Raises:
      UserError: on every process, if one does.
    """
    refused = ""
    if jax.process_index() == 0 and (workdir / LOCK).is_file():
        with contextlib.suppress(OSError), (workdir / LOCK).open("r") as file:
            if not _lock(file, workdir):
                refused = str(_in_use(workdir, _read(file)))
    _refuse_on_all(refused, workdir)


def _refuse_on_all(refused: str, workdir: Path) -> None:
    """Raises UserError on all processes, if process 0 has a reason to."""
    if int(from_first(np.array(bool(refused)))):
        raise UserError(refused or f"Process 0 cannot lock {workdir}; it says why.")


@contextlib.contextmanager
def _held(workdir: Path) -> Iterator[None]:
    made = not workdir.exists()
    file = _acquire(workdir)
    try:
        yield
    finally:
        # While it is locked: whoever waits for it finds another file, or none.
        with contextlib.suppress(OSError):
            (workdir / LOCK).unlink()
            if made:
                workdir.rmdir()  # if nothing was written into it
        file.close()


def _acquire(workdir: Path) -> TextIO:
    path = workdir / LOCK
    # Whoever only looks holds it for a moment, and whoever took it has yet to sign.
    patience = 5
    while True:
        try:
            workdir.mkdir(parents=True, exist_ok=True)
            file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"Cannot write to {workdir}: {error.strerror}. Choose a --workdir that "
                "can be written to and has space left."
            ) from error
        try:
            granted = _lock(file, workdir)
            owner = _read(file)
            if _same_file(file, path):
                if _may_take(workdir, granted, owner):
                    _write(file)
                    return file
                if granted and not _break:
                    raise _left(workdir, owner)
                if not granted and patience:
                    patience -= 1
                    time.sleep(0.1)
                elif not granted and not (_break and _elsewhere(owner)):
                    raise _in_use(workdir, owner)
                else:
                    path.unlink(missing_ok=True)  # broken: the next turn makes one
            file.close()
        except BaseException:
            file.close()
            raise


def _elsewhere(owner: Owner | None) -> bool:
    return owner is not None and owner.boot != _boot()


def _lock(file: TextIO, workdir: Path) -> bool:
    """Asks the system for the lock; where it has none, returns whether it is free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(
            f"The file system of {workdir} has no locks ({error.strerror}): a run that "
            "another host starts there at the same moment would not be noticed.",
            stacklevel=2,
        )
        owner = _read(file)
        return not (owner and owner.boot == _boot() and _alive(owner.pid))


def _may_take(workdir: Path, granted: bool, owner: Owner | None) -> bool:
    """Tells whether a lock is ours to take, given what the system says of it."""
    if not granted or owner is None:
        return granted
    # Of this machine, in an earlier life perhaps: the system knows who is alive.
    ours = owner.boot == _boot() or owner.host == socket.gethostname()
    return ours or _file_system(workdir) in _LOCAL


def _in_use(workdir: Path, owner: Owner | None) -> UserError:
    who = "another process" if owner is None else _describe(owner)
    gone = ""
    if owner and owner.boot == _boot() and not _alive(owner.pid):
        gone = " That process has ended, but one that it started has not."
    return UserError(
        f"{workdir} is in use by {who}.{gone} Wait until it ends, stop it (it saves "
        "and can be resumed), or choose another --workdir."
    )


def _left(workdir: Path, owner: Owner | None) -> UserError:
    who = "another host" if owner is None else _describe(owner)
    return UserError(
        f"{workdir} was locked by {who}, and whether that still runs cannot be seen "
        "from here. If it does not, run the same command with --break_lock."
    )


def _describe(owner: Owner) -> str:
    return f"a run on {owner.host} (process {owner.pid}, since {owner.since})"


def _write(file: TextIO) -> None:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    owner = Owner(socket.gethostname(), _boot(), os.getpid(), now)
    try:
        file.seek(0)
        file.truncate()
        json.dump(owner._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"Cannot write to the lock {file.name}: {error.strerror}. Free some space, "
            "or choose another --workdir."
        ) from error


def _read(file: TextIO) -> Owner | None:
    try:
        file.seek(0)
        content: dict[str, Any] = json.loads(file.read(10_000))
        return Owner(
            host=str(content["host"]),
            boot=str(content["boot"]),
            pid=int(content["pid"]),
            since=str(content["since"]),
        )
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # empty, or cut short by a kill
        return None


def _same_file(file: TextIO, path: Path) -> bool:
    """Tells whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:  # not Linux
        return socket.gethostname()


def _file_system(path: Path) -> str:
    """Returns the kind of file system of a folder, empty where that is not known."""
    found, longest = "", -1
    with contextlib.suppress(OSError):
        real = str(path.resolve())
        for line in Path("/proc/mounts").read_text().splitlines():
            fields = line.split()
            point = fields[1].replace("\\040", " ")
            inside = real == point or real.startswith(point.rstrip("/") + "/")
            if inside and len(point) >= longest:
                found, longest = fields[2], len(point)
    return found
