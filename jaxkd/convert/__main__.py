"""Converts networks from PyTorch and to PyTorch; needs no torch, executes no pickle.

A teacher's checkpoint becomes the folder of a run, which any configuration takes in
place of training its own:

    python -m jaxkd.convert from-torch ckpt_epoch_240.pth runs/teacher \\
        --model=resnet32x4 --mean=0.507,0.487,0.441 --std=0.267,0.256,0.276 \\
        --classes=names.txt
    python -m jaxkd.main --config=configs/rld.py:cifar100,resnet32x4,resnet8x4 \\
        --config.needs.teacher.init_from=runs/teacher

Its classes are joined with the data's by their names, and its images are normalised by
--mean and --std, whatever the run does for its own. Without --classes, outputs are
numbered as the data's labels; without --mean and --std, images are normalised as the
data's are (networks that end in _imagenet: as ImageNet's).

A trained student becomes a file for torch.load(path)["model"]; a JSON file beside it
tells its classes and how to prepare images:

    python -m jaxkd.convert to-torch runs/rld student.pth --student=rld --use=best

Networks have the names, and files the variables' names, of RepDistiller and mdistiller
for small images, and of timm and torchvision for photographs; a folder with timm's
model.safetensors and config.json names its network, mean and deviation itself:

    python -m jaxkd.convert from-torch downloads/resnet50.a1_in1k runs/resnet50
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from jaxkd.core import class_names
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.writers import write_json
from jaxkd.readers import images


def main(arguments: Sequence[str] | None = None) -> None:
    """Converts; mistakes of the user end with a message and status 2."""
    options = _parser().parse_args(arguments)
    try:
        print(options.run(options))
    except UserError as error:
        print(f"jaxkd: {error}", file=sys.stderr)
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m jaxkd.convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="{from-torch,to-torch}")
    there = commands.add_parser("from-torch", help="torch file -> folder of a run")
    there.add_argument(
        "file",
        type=_path,
        help=".pth, .safetensors, student_best, ..., or a folder of timm's",
    )
    there.add_argument("workdir", type=_path, help="new folder")
    there.add_argument(
        "--model", help="network, such as resnet32x4; default: as the folder names it"
    )
    there.add_argument(
        "--options", type=_json_options, default={}, help="of the network, as JSON"
    )
    there.add_argument(
        "--classes",
        help="names in the order of the outputs: a text file with one a line, or "
        "a,b,c; or their number alone. Default: as many as the file's classifier has",
    )
    there.add_argument(
        "--prefix",
        default="",
        help="of the names to take, such as encoder.; module., _orig_mod. and, where "
        "all names begin so, model. or backbone. are left out by themselves",
    )
    for name, what in (("mean", "mean"), ("std", "standard deviation")):
        there.add_argument(
            f"--{name}",
            type=_numbers,
            help=f"{what} of each channel, images scaled to [0, 1], that it was "
            "trained with, such as 0.485,0.456,0.406",
        )
    there.add_argument(
        "--channels", type=_count, default=3, help="of images; default: 3"
    )
    there.add_argument(
        "--part",
        choices=("student", "teacher", "backbone"),
        help="which to take of a file with both; default: the student. backbone: of a "
        "DeFI-Net, from a file of HRNet",
    )
    there.set_defaults(run=_from_torch)
    back = commands.add_parser("to-torch", help="folder of a run -> torch file")
    back.add_argument("workdir", type=_path, help="folder of a run")
    back.add_argument("file", type=_path, help="file to write")
    back.add_argument("--student", help="row of the study, if it has several")
    back.add_argument("--seed", type=int, help="default: the first")
    back.add_argument(
        "--use", choices=("last", "best"), default="last", help="default: last"
    )
    back.set_defaults(run=_to_torch)
    return parser


def _json_options(text: str) -> dict[str, Any]:
    try:
        options = json.loads(text)
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, dict):
        example = '{"widths": [8, 16, 32]}'
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected JSON such as {example}"
        )
    return options


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected a number for each channel, such as 0.5,0.5,0.5"
        ) from None


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected 1 or more")
    return int(text)


def _from_torch(options: argparse.Namespace) -> str:
    from jaxkd.convert.torch import hub, weights
    from jaxkd.training import export

    names, number = _classes(options.classes)
    found = hub.find(options.file)
    name = options.model or found.name
    if not name:
        raise UserError(
            f"{options.file} does not name its network. Name it with --model, such as "
            "--model=resnet32x4; docs/networks.md lists all."
        )
    if options.part == "backbone":
        return _backbone(options, name, number)
    state = weights.read_state(found.weights, options.part, options.prefix)
    classes = number or weights.count_classes(
        state, found.weights, name, options.channels, options.options
    )
    variables = weights.to_variables(
        state, found.weights, name, classes, options.channels, options.options
    )
    trained = _trained_on(options, found, name, names, classes)
    export.write(options.workdir, variables, name, options.options, trained)
    known = "as the data of each run are"
    if trained.mean:
        known = f"by mean {trained.mean} and standard deviation {trained.std}"
    size = f" of {found.size} pixels" if found.size else ""
    return (
        f"{name} with {classes} classes "
        f"({'joined by name' if names else 'numbered as the labels of the data'}), "
        f"images{size} normalised {known}: {options.workdir}\nUse it as a "
        f"teacher with --config.needs.teacher.init_from={options.workdir}, or "
        f"fine-tune it with --config.init_from={options.workdir}"
    )


def _classes(given: str | None) -> tuple[tuple[str, ...], int | None]:
    """Returns the class names, if they are given, and their number."""
    if given is None:
        return (), None
    if given.isdecimal():
        if not int(given):
            raise UserError("--classes is 0, expected their number or names.")
        return (), int(given)
    names = class_names.read(
        given.split(",") if "," in given and not Path(given).exists() else given
    )
    return names, len(names)


_OF_255 = "They are of images scaled to [0, 1]; divide those of 0 to 255 by 255."


def _trained_on(
    options: argparse.Namespace,
    found: Any,
    name: str,
    names: tuple[str, ...],
    classes: int,
) -> Info:
    mean, std = options.mean or (), options.std or ()
    if not mean and not std and found.mean and found.std:
        mean, std = found.mean, found.std
    elif not mean and not std and name.endswith("_imagenet"):
        mean, std = images.IMAGENET_MEAN, images.IMAGENET_STD
    if len(mean) != len(std) or (mean and len(mean) != options.channels):
        raise UserError(
            f"--mean has {len(mean)} numbers and --std {len(std)}, expected both, with "
            f"one for each of {options.channels} channels (--channels)."
        )
    if not all(0 < value <= 1 for value in std):
        raise UserError(
            f"--std is {std}, expected numbers above 0 and up to 1. {_OF_255}"
        )
    if not all(0 <= value <= 1 for value in mean):
        raise UserError(f"--mean is {mean}, expected numbers from 0 to 1. {_OF_255}")
    shape = (found.size, found.size, options.channels) if found.size else ()
    rule = images.CENTER_CROP if found.size else ""
    origin = options.file.name
    return Info(origin, classes, shape, tuple(mean), tuple(std), names, rule)


def _backbone(options: argparse.Namespace, name: str, classes: int | None) -> str:
    """Writes a DeFI-Net whose backbone is that of a file, and all else is untrained."""
    import jax

    from jaxkd import models
    from jaxkd.convert import defi
    from jaxkd.training import export

    network = models.build(name, classes or 2, **options.options)
    # Fully convolutional: the size of the image changes no variable.
    image = jax.numpy.zeros((1, 32, 32, options.channels))
    variables = jax.jit(network.init)(jax.random.key(0), image)
    loaded, report = defi.load_backbone(options.file, variables, network)
    export.write(options.workdir, loaded, name, options.options)
    return (
        f"{report}\n{name}: {options.workdir}\nUse it with "
        f"--config.loss.start_from=backbone and config.needs.backbone, a run of "
        f"{name} with init_from={options.workdir}"
    )


def _to_torch(options: argparse.Namespace) -> str:
    from jaxkd.convert.torch import weights
    from jaxkd.training import export

    weights.check_file(options.file)
    network = export.read(options.workdir, options.student, options.seed, options.use)
    weights.save_torch(
        options.file, network.variables, network.name, options=network.options
    )
    beside = options.file.with_name(options.file.name + ".json")
    write_json(beside, {"model": network.name, **network.description})
    state = f'torch.load("{options.file}")["model"]'
    if options.file.suffix.lower() == ".safetensors":
        state = f'safetensors.torch.load_file("{options.file}")'
    return (
        f"{network.name}: {options.file}, {beside.name}\n"
        f"In PyTorch: model.load_state_dict({state})"
    )


if __name__ == "__main__":
    # Orbax tells of every file it writes.
    logging.set_verbosity(logging.ERROR)
    main()
