"""What a trained network expects of its inputs: recorded with it, and read wherever
it is used.

Mean, standard deviation, size, the rule that brings photographs to it, the order of the
channels and the class names belong to the run that trained the network, not to the data
that it is used on. They are the key ``preprocessing`` of ``results.json``, and the file
``preprocessing.json`` of folders without one: converted networks, unfinished runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core import records
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.core.writers import write_json
from jaxkd.training.workdir import RESULTS, read_json

FILE = "preprocessing.json"
_CHANNELS = {1: "grey", 3: "RGB"}


def describe(info: Info, view: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """Describes what a network is shown, as JSON types.

    Args:
      info: of the data that the network was trained on.
      view: ``config.view`` of that run.
    """
    channels = len(info.mean)
    return {
        "data": info.name,
        "image_shape": list(info.image_shape),
        "channels": _CHANNELS.get(channels, f"{channels} channels" if channels else ""),
        "resize": info.resize,
        "mean": list(info.mean),
        "std": list(info.std),
        "view": configs.resolved(ConfigDict(view)),
        "num_classes": info.num_classes,
        "class_names": list(info.class_names),
        "numbered": info.numbered,
    }


def write(workdir: Path, record: Mapping[str, Any]) -> None:
    """Writes the record into a run's folder."""
    write_json(workdir / FILE, record)


def read(workdir: Path) -> Info | None:
    """Reads what the network of a run's folder was trained on.

    Returns:
      The description; None of a folder that holds no record. What a converted network
      was recorded without is empty: ``mean``, ``std``, ``class_names``.

    Raises:
      UserError: if the record is damaged.
    """
    path = workdir / RESULTS
    if path.is_file():
        results = records.read_results(workdir)
        # Version 0.1 had these keys in the description of the data.
        record = results.get("preprocessing") or results.get("data")
        return None if record is None else _info(record, path)
    path = workdir / FILE
    return _info(read_json(path), path) if path.is_file() else None


def _info(record: Mapping[str, Any], path: Path) -> Info:
    try:
        return Info(
            name=record.get("data") or record.get("name") or "",
            num_classes=record["num_classes"],
            image_shape=tuple(record["image_shape"]),
            mean=tuple(record["mean"]),
            std=tuple(record["std"]),
            class_names=tuple(record["class_names"]),
            resize=record.get("resize", ""),
            numbered=record.get("numbered", False),
        )
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not tell how its network's images are normalised: {error}. "
            "It may have been edited: restore it."
        ) from error


def channels_of_files(trained: Info) -> int | None:
    """Returns the channels that image files are decoded to for a network.

    Args:
      trained: what the network was trained on.

    Returns:
      Their number; None where no file has them: it was trained on volumes, or on arrays
      of channels whose meaning is not known.
    """
    if len(trained.image_shape) != 3:
        return None
    channels = trained.image_shape[-1]
    return channels if channels in (1, 3) or trained.resize else None


def normalised_as(info: Info, trained: Info | None) -> Info:
    """Returns a data set's description with the normalisation of a trained network.

    Args:
      info: of the data.
      trained: of the data that the network was trained on; None or without ``mean``
        and ``std`` where that is not known.

    Raises:
      UserError: if the images have other channels.
    """
    if trained is None or not trained.mean:
        return info
    if len(trained.mean) != len(info.mean):
        raise UserError(
            f"The images of {info.name} have {len(info.mean)} channels, but the "
            f"network was trained on {len(trained.mean)} ({trained.name}). Give data "
            "of as many channels."
        )
    return info._replace(mean=trained.mean, std=trained.std)
