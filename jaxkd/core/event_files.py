"""TensorBoard event files, written at once and by the thread that measures.

The library's own writer hands events to a thread that writes them now and then: a
killed process loses them, and a full disk ends the thread with a traceback while the
run waits for it. Here each record is with the operating system when ``write`` returns.
"""

import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# TensorBoard reads the files of a folder in the order of their names, which begin with
# the second of their creation elsewhere. Here that is a count, since clocks may jump.
_NAME = re.compile(r"events\.out\.tfevents\.(\d+)\..*")


class EventFile:
    """One event file, that replaces those before it."""

    def __init__(self, folder: Path, began: float):
        """Opens a new file; the older ones stay until ``supersede``.

        Args:
          folder: made if missing.
          began: when the run began, in seconds since 1970.
        """
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._older = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
        numbers = [int(_NAME.fullmatch(path.name)[1]) for path in self._older]  # type: ignore[index]
        number = max(numbers, default=0) + 1
        name = f"events.out.tfevents.{number:010d}.{socket.gethostname()}"
        self._event = event_pb2.Event
        self._file = (folder / name).open("wb")
        self._put(file_version="brain.Event:2", wall_time=began)
        if self._older:  # a TensorBoard that is open forgets what it read from them
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._put(session_log=start, step=0, wall_time=began)

    def write(self, step: int, time: float, scalars: Mapping[str, float]) -> None:
        """Writes scalars of one step, measured at a time in seconds since 1970."""
        from tensorboardX.proto.summary_pb2 import Summary

        values = [
            Summary.Value(tag=name, simple_value=value)
            for name, value in scalars.items()
        ]
        if values:
            self._put(summary=Summary(value=values), step=step, wall_time=time)

    def _put(self, **fields: Any) -> None:
        """Appends a record of TensorFlow's format: length, data, a checksum of each."""
        from tensorboardX.record_writer import masked_crc32c

        data = self._event(**fields).SerializeToString()
        length = struct.pack("<Q", len(data))
        for part in (length, data):
            self._file.write(part + struct.pack("<I", masked_crc32c(part)))

    def flush(self) -> None:
        """Hands what was written to the operating system."""
        self._file.flush()

    def supersede(self) -> None:
        """Deletes the older files, once this one holds all that they held."""
        self.flush()
        for path in self._older:
            path.unlink(missing_ok=True)
        self._older = []

    def close(self) -> None:
        """Flushes and closes the file."""
        self._file.close()
