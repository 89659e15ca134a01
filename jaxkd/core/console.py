"""Messages on the way: progress and announcements, on standard error, unless quiet.

Results go to standard output and mistakes are exceptions; neither is silenced here.
"""

import sys

import jax

_quiet = False


def set_quiet(quiet: bool) -> None:
    """Silences progress and announcements of this process, or lets them be shown."""
    global _quiet
    _quiet = quiet


def shows() -> bool:
    """Tells whether this process shows progress: the first one, unless quiet."""
    return not _quiet and jax.process_index() == 0


def announce(text: str) -> None:
    """Writes a line to standard error, if anything is shown."""
    if shows():
        print(text, file=sys.stderr, flush=True)
