"""Trouble with the disk: full, read-only, gone. One message, whoever ran into it."""

import contextlib
import errno
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxkd.core.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of files; those of connections are another matter.
_TROUBLE = (
    *(errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR),
    *(errno.EISDIR, errno.EEXIST, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG),
    *(errno.ELOOP, errno.EMFILE, errno.ENFILE),
)
# Of TensorStore, which writes checkpoints: "[OS error 28: No space left on device]".
_CODE = re.compile(r"OS error (\d+)")


def os_error(error: BaseException | None) -> int | None:
    """Returns the number of the trouble with the disk behind an error, or None.

    Of errors that only happened on the way to this one, a full disk alone counts: what
    was met and handled is no reason.
    """
    handled = False
    while error is not None:
        code = _number(error)
        if code in _FULL or (code in _TROUBLE and not handled):
            return code
        handled |= error.__cause__ is None
        error = error.__cause__ or error.__context__
    return None


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if found := _CODE.search(str(error)):
        return int(found[1])
    full = "No space left" in str(error) or "ENOSPC" in str(error)
    return errno.ENOSPC if full else None


def no_space(error: BaseException | None) -> bool:
    """Tells whether an error, or what caused it, is a full disk."""
    return os_error(error) in _FULL


@contextlib.contextmanager
def writing(what: str, place: Path) -> Iterator[None]:
    """Turns trouble with the disk into an error that says what to do.

    Args:
      what: is written, such as "a checkpoint".
      place: where to.

    Raises:
      UserError: for a full disk, or a place that cannot be written to any more.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        code = os_error(error)
        if code is None:
            raise
        raise UserError(message(what, place, code)) from error


def message(what: str, place: Any, code: int) -> str:
    """Returns what to tell of the system's error ``code`` while writing."""
    if code in _FULL:
        return (
            f"No space left while writing {what} to {place}. Complete checkpoints are "
            "kept. Free some space, or choose a --workdir on another disk, and run the "
            "same command again: it resumes."
        )
    return (
        f"Cannot write {what} to {place}: {os.strerror(code)}. What was complete "
        "before is kept, if the folder is still there. Make it writable again, and run "
        "the same command: it resumes."
    )


def refused(place: Any, code: int) -> str:
    """Returns what to tell where the system's error may be of reading or writing."""
    if code in _FULL:
        return message("a file", place, code)
    return (
        f"{place} cannot be read or written: {os.strerror(code)}. What was complete "
        "before is kept. Check the path and its permissions, and run the same command."
    )


def quiet_threads() -> None:
    """Keeps threads that write files from printing the trouble that the run reports.

    Orbax hands what befalls its threads to whoever waits for them, and lets Python
    print a traceback of it, too.
    """
    usual = threading.excepthook

    def hook(given: Any) -> None:
        if os_error(given.exc_value) is None:
            usual(given)

    threading.excepthook = hook

    # Destructors that close a file on a full disk come after the message.
    unraisable = sys.unraisablehook

    def quiet(given: Any) -> None:
        # TensorStore's threads report to an event loop that an error has closed.
        closed = "Event loop is closed" in str(given.exc_value)
        if os_error(given.exc_value) is None and not closed:
            unraisable(given)

    sys.unraisablehook = quiet
