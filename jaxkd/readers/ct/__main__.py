"""Lists the series of a CT export: ``python -m jaxkd.readers.ct FOLDER``."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxkd.core.errors import UserError
from jaxkd.readers.ct import series


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; returns 2 if the folder cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxkd.readers.ct",
        description="Lists all CT series below a folder, and every file that is set "
        "aside with the reason. Reads headers alone and changes nothing.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    folder = parser.parse_args(arguments).folder.expanduser()
    try:
        if not folder.is_dir():
            raise UserError(f"{folder} is no folder, expected one with DICOM files.")
        print(series.table(folder), flush=True)
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # of ``| head``; what Python writes at its end goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == "__main__":
    sys.exit(main())
