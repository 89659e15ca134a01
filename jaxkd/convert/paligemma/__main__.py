"""PaliGemma's weights: check them, merge an adapter into them, change their layout.

    python -m jaxkd.convert.paligemma verify --ckpt paligemma-3b-pt-224
    python -m jaxkd.convert.paligemma export --ckpt pt_224.npz --out hub_folder
    python -m jaxkd.convert.paligemma export --ckpt paligemma-3b-pt-224 \\
        --adapter runs/vlm/adapter --out merged
    python -m jaxkd.convert.paligemma to-run --ckpt paligemma-3b-pt-224 \\
        --out runs/paligemma
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jaxkd.core.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command; mistakes of the user end with a message and status 2."""
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m jaxkd.convert.paligemma",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="{verify,export,to-run}")
    check = commands.add_parser("verify", help="count, statistics, NaNs, logits")
    check.add_argument("--reference", type=Path, help=".npz of inputs and logits")
    check.add_argument("--against", choices=("hf",), help="compute the reference now")
    check.set_defaults(run=_verify)
    export = commands.add_parser("export", help="write the hub's layout")
    export.add_argument("--adapter", type=Path, help="folder of an adapter to merge")
    export.add_argument("--out", type=Path, required=True, help="folder to write")
    export.set_defaults(run=_export)
    to_run = commands.add_parser("to-run", help="a run's folder, for config.needs")
    to_run.add_argument("--out", type=Path, required=True, help="new folder")
    to_run.set_defaults(run=_to_run)
    for command, dtype in (
        (check, "float32"),
        (export, "bfloat16"),
        (to_run, "bfloat16"),
    ):
        command.add_argument("--ckpt", type=Path, required=True, help="folder or file")
        command.add_argument(
            "--dtype",
            choices=("float32", "bfloat16"),
            default=dtype,
            help=f"default: {dtype}",
        )
    return parser


def _verify(options: argparse.Namespace) -> str:
    from jaxkd.convert.paligemma import verify

    return verify.report(
        verify.verify(
            options.ckpt,
            dtype=options.dtype,
            reference=options.reference,
            against=options.against,
        )
    )


def _export(options: argparse.Namespace) -> str:
    from jaxkd.convert import paligemma

    config, params = paligemma.load_paligemma(options.ckpt, dtype=options.dtype)
    if options.adapter is not None:
        config, params = paligemma.load_adapter(options.adapter, config, params)
    paligemma.save_paligemma(options.out, config, params)
    return f"{options.out}: {options.dtype} in the layout of the hub"


def _to_run(options: argparse.Namespace) -> str:
    from jaxkd.convert import paligemma
    from jaxkd.training import export

    config, params = paligemma.load_paligemma(options.ckpt, dtype=options.dtype)
    sizes = paligemma.network_options(config)
    export.write(options.out, {"params": params}, "paligemma", sizes)
    return (
        f"{options.out}: the folder of a run. Start from it with "
        f"config.needs.NAME.init_from={options.out}"
    )


if __name__ == "__main__":
    main()
