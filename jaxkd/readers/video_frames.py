"""Evenly spaced frames of films, in colour: a video for detectors of single images."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.readers import video

FRAMES = 32  # of a video, as in the evaluations of DeepfakeBench and SO-DFD


class Frames(NamedTuple):
    """What was decoded of a film.

    Attributes:
      images: RGB uint8 ``[h, w, 3]`` each, in order.
      damaged: whether the file is shorter than it claims, or parts are damaged.
    """

    images: list[np.ndarray]
    damaged: bool


def is_film(path: Path) -> bool:
    """Whether a file is a film, by the ending of its name."""
    return path.name.lower().endswith(video.SUFFIXES)


def places(count: int, frames: int) -> np.ndarray:
    """Chooses evenly spaced frames, the first and the last among them.

    Args:
      count: frames that there are.
      frames: most that are taken; 0 for all.

    >>> places(10, 4).tolist(), places(3, 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    if not frames or count <= frames:
        return np.arange(count)
    return np.linspace(0, count - 1, frames).astype(int)


def read(path: Path, frames: int = FRAMES) -> Frames:
    """Decodes evenly spaced frames of a film; of a shorter one, all.

    Args:
      path: of the file.
      frames: most that are taken; 0 for all.

    Raises:
      UserError: if nothing can be decoded, or PyAV is not installed.
    """
    count = video.count_frames(path)
    while True:
        chosen = set(places(count, frames).tolist())
        found = video.decode_frames(path, functools.partial(_kept, chosen))
        if len(found.times) == count or not found.times:
            break
        # It holds fewer frames, or more, than it claims: these are spread anew.
        count = len(found.times)
    images = [image for image in found.results if image is not None]
    if not images:
        raise UserError(f"{path} has no picture that can be decoded.")
    return Frames(images, found.damaged)


def _kept(chosen: set[int], place: int, image: np.ndarray) -> np.ndarray | None:
    return image if place in chosen else None
