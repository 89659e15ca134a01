"""LPIPS' weights for the metric ``lpips`` of restoration, from public files.

    python -m jaxkd.convert.lpips alexnet-owt-7be5be79.pth alex.pth \\
        lpips_alex.safetensors

The first file is torchvision's backbone (AlexNet or VGG-16), the second the linear
heads (``lpips/weights/v0.1/alex.pth`` or ``vgg.pth`` of the authors' package); a file
with the whole ``state_dict`` of ``lpips.LPIPS`` is enough alone. The last one is
written, in the names of ``jaxkd.readers.lpips_weights``. No pickle is executed, and
nothing downloaded.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxkd.convert.lpips import to_file
from jaxkd.core.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts; mistakes of the user end with a message and status 2."""
    parser = argparse.ArgumentParser(
        "python -m jaxkd.convert.lpips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("files", nargs="+", type=Path, help="one or two, see above")
    parser.add_argument("output", type=Path, help=".safetensors file to write")
    options = parser.parse_args(arguments)
    try:
        print(to_file(options.files, options.output))
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
