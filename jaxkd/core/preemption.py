"""Being asked to stop: SIGTERM of a scheduler or a spot machine, SIGINT of a keyboard.

A run that is asked saves at its next step boundary and ends with ``INTERRUPTED``; the
same command then resumes it. Asked a second time, it ends at once.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import jax

# Tells, at a step boundary, who asks the run to stop, or None. Every process of a run
# calls it equally often, and all get an answer at the same boundary.
StopRequest = Callable[[], str | None]


def never_stop() -> None:
    """Never asks to stop: what ``train`` listens to unless told otherwise."""


@contextlib.contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Yields what tells whether a signal has come; afterwards all is as it was.

    Several processes agree on a boundary through JAX's coordination service, which
    catches SIGTERM itself wherever it arrives.
    """
    signals: list[str] = []
    shared = jax.process_count() > 1

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        restore()
        if shared:
            os.kill(os.getpid(), signal.SIGTERM)
        name = signal.Signals(number).name
        signals.append(name)
        print(f"\njaxkd: {name}: saving at the next step ...", file=sys.stderr)

    caught = [signal.SIGINT] if shared else [signal.SIGINT, signal.SIGTERM]
    before = {number: signal.signal(number, note) for number in caught}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    try:
        yield _ask_all(signals) if shared else lambda: signals[0] if signals else None
    finally:
        restore()


def _ask_all(signals: list[str]) -> StopRequest:
    from jax.experimental import multihost_utils

    calls, reached = 0, False

    def stop_requested() -> str | None:
        nonlocal calls, reached
        calls += 1
        # It is true at the boundary all agree on, and false again after it.
        reached |= multihost_utils.reached_preemption_sync_point(calls)
        return (signals or ["SIGTERM"])[0] if reached else None

    return stop_requested
