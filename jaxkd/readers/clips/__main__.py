"""Command line of the clip readers: ``python -m jaxkd.readers.clips audit FOLDER``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxkd.core.errors import UserError
from jaxkd.readers.clips import Preprocessing, audit


def main(arguments: Sequence[str] | None = None) -> int:
    """Audits a labelled set; returns 1 if a trivial property betrays the fakes."""
    parser = argparse.ArgumentParser(prog="python -m jaxkd.readers.clips")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "audit", help="how well trivial properties tell fakes from real clips"
    )
    command.add_argument("root", metavar="FOLDER_OR_CSV", type=Path)
    command.add_argument("--trim-leading-silence", action="store_true")
    given = parser.parse_args(arguments)
    options = Preprocessing(trim_leading_silence=given.trim_leading_silence)
    try:
        text, leaks = audit.audit(given.root, options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    return 1 if leaks else 0


if __name__ == "__main__":
    sys.exit(main())
