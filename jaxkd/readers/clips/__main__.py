"""Command line of the clip readers: ``python -m jaxkd.readers.clips audit|check``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxkd.core.errors import UserError
from jaxkd.readers.clips import CROPS, Preprocessing, audit, check
from jaxkd.readers.video import SIZE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Returns:
      0; 1 if an audit finds a trivial property that betrays the fakes; 2 for bad input.
    """
    given = _parser().parse_args(arguments)
    options = Preprocessing(trim_leading_silence=given.trim_leading_silence)
    leaks: list[str] = []
    try:
        if given.command == "audit":
            text, leaks = audit.audit(given.root, options)
        else:
            options = options._replace(
                crop=given.crop, face_model=given.face_model, size=given.size
            )
            text = check.check(given.inputs, given.output, options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(text)
    return 1 if leaks else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m jaxkd.readers.clips")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "audit", help="how well trivial properties tell fakes from real clips"
    )
    command.add_argument("root", metavar="FOLDER_OR_CSV", type=Path)
    command.add_argument("--trim-leading-silence", action="store_true")
    command = commands.add_parser(
        "check", help="a page of crops, and of sound and lips side by side"
    )
    command.add_argument("inputs", metavar="CLIP_OR_FOLDER", type=Path, nargs="+")
    command.add_argument("--output", type=Path, required=True, help="a folder")
    command.add_argument("--crop", choices=CROPS, default="centre")
    command.add_argument("--face-model", default="", help="YuNet's file, to detect")
    command.add_argument("--size", type=int, default=SIZE, help="of crops, in pixels")
    command.add_argument("--trim-leading-silence", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
