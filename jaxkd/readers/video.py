"""Decodes films with PyAV: grey face crops at 25 frames a second, and their sound.

Frames are chosen by presentation time, so that variable and odd rates keep their
sound in step. Rotation in the metadata is applied. What of a damaged file can be
decoded is kept, and the damage is reported.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.core.parsing import parsing, reason, require_file
from jaxkd.readers import face_alignment
from jaxkd.readers.audio import FPS, RATE, Sound, check_rate, resample
from jaxkd.readers.opening import BLANK_PIXELS

SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".3gp")
SIZE = 112
# Of red, green and blue. The official code has red and blue exchanged.
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
ENLARGE, PAD_GREY, MEDIAN = 0.40, 110, 13
# A film is shown for at most ten seconds, and one second for each decoded frame: what
# declares more has a damaged time.
STILL_SECONDS = 10.0
# Sound that is missing for longer than this is replaced by silence.
HOLE_SECONDS = 0.1
_REMEDY = "Convert it anew."

# An RGB image uint8 [h, w, 3] -> boxes float [n, 4]: left, top, width, height.
Detector = Callable[[np.ndarray], np.ndarray]


class Film(NamedTuple):
    """What was decoded of the pictures of a file.

    Attributes:
      frames: grey uint8 ``[time, size, size]``, at the rate asked for.
      start: seconds from the beginning of the file to the first frame.
      seconds: that the decoded frames last.
      fps: of the file, on average.
      truncated: whether the file is shorter than it claims, or parts are damaged.
      faces: of a detected crop: how many different ones there were; else 0.
      found: of a detected crop: fraction of frames with a face; else 1.
      variable: whether frames last differently long.
    """

    frames: np.ndarray
    start: float
    seconds: float
    fps: float
    truncated: bool = False
    faces: int = 0
    found: float = 1.0
    variable: bool = False


class Decoded(NamedTuple):
    """Times and damage of one pass over the pictures of a file."""

    times: list[float]
    results: list
    damaged: bool


def read_film(
    path: Path, *, size: int = SIZE, fps: float = FPS, detect: Detector | None = None
) -> Film:
    """Decodes the pictures of a file to square grey crops.

    Args:
      path: of the file.
      size: of a crop, in pixels.
      fps: frames per second of the result; the nearest frame in time is taken.
      detect: finds faces; then the file is decoded twice, and the crop follows the
        largest face. None takes the central square.

    Raises:
      UserError: if nothing can be decoded, a frame has more than ``BLANK_PIXELS``
        pixels, frames are more than ``STILL_SECONDS`` and a second each apart, or PyAV
        is not installed.
    """
    faces, found = 0, 1.0
    if detect is None:
        times, crops, damaged = decode_frames(
            path, lambda i, image: centre(image, size)
        )
    else:
        times, boxes, damaged = decode_frames(path, lambda i, image: detect(image))
        track, faces, found = follow(boxes)
        if track is None:
            crops = [np.full((size, size), PAD_GREY, np.uint8)] * len(times)
        else:
            _, crops, _ = decode_frames(
                path,
                lambda i, image: around(image, track[min(i, len(track) - 1)], size),
            )
    if not crops:
        raise UserError(f"{path} has no picture that can be decoded.")
    count = min(len(times), len(crops))
    order = np.argsort(times[:count], kind="stable")
    place = np.asarray(times[:count])[order]
    step = float(np.median(np.diff(place))) if count > 1 else 1 / fps
    seconds = float(place[-1] - place[0]) + step
    if not seconds <= STILL_SECONDS + count:
        raise UserError(
            f"{path} shows {count} frames in {seconds:,.0f} s, expected at least one "
            f"in a second. Its times are damaged. {_REMEDY}"
        )
    chosen = nearest(place - place[0], max(round(seconds * fps), 1), fps)
    frames = np.stack([crops[order[i]] for i in chosen])
    rate = count / seconds if seconds > 0 else fps
    variable = bool(count > 2 and np.ptp(np.diff(place)) > 0.2 * step)
    return Film(
        *(frames, float(place[0]), seconds, rate, damaged, faces, found, variable)
    )


def nearest(times: np.ndarray, count: int, fps: float) -> np.ndarray:
    """Returns, for ``count`` ticks of a clock, the index of the nearest time.

    Args:
      times: sorted seconds.
      count: ticks, the first at 0.
      fps: ticks per second.
    """
    ticks = np.arange(count) / fps
    after = np.clip(np.searchsorted(times, ticks), 0, len(times) - 1)
    before = np.maximum(after - 1, 0)
    closer = np.abs(ticks - times[before]) <= np.abs(times[after] - ticks)
    return np.where(closer, before, after)


def centre(image: np.ndarray, size: int) -> np.ndarray:
    """Cuts the central square of ``[h, w, 3]`` and resizes it; grey uint8."""
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return _resize(grey(image[top : top + side, left : left + side]), size)


def grey(image: np.ndarray) -> np.ndarray:
    """Returns the luma of RGB ``[h, w, 3]``, uint8."""
    return np.rint(image.astype(np.float32) @ LUMA).clip(0, 255).astype(np.uint8)


def around(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """Cuts the surroundings of a face: 40 % more on each side, grey beyond the image.

    Args:
      image: ``[h, w, 3]``.
      box: middle across, middle down, and half the side, in pixels.
      size: of the result.
    """
    x, y, half = box
    reach = half * (1 + ENLARGE)
    left, right = round(x - reach), round(x + reach)
    # Chins move: the margin that TalkNet leaves above goes below.
    top, bottom = round(y - half), round(y + half * (1 + 2 * ENLARGE))
    cut = np.full((max(bottom - top, 1), max(right - left, 1)), PAD_GREY, np.uint8)
    inside = grey(image[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)])
    if inside.size:
        row, column = max(-top, 0), max(-left, 0)
        cut[row : row + inside.shape[0], column : column + inside.shape[1]] = inside
    return _resize(cut, size)


def follow(
    boxes: list[np.ndarray],
) -> tuple[np.ndarray | None, int, float]:
    """Follows the largest face through a clip.

    Boxes that overlap from one frame to the next are of one face. Gaps are
    interpolated, and a median over 13 frames steadies middle and size.

    Args:
      boxes: of each frame, ``[n, 4]``.

    Returns:
      Middle across, middle down and half the side, ``[frames, 3]``, or None if there
      is no face; how many lasting faces there are; in which part of the frames the
      followed one was found.
    """
    from scipy.ndimage import median_filter

    tracks: list[dict[int, np.ndarray]] = []
    for frame, found in enumerate(boxes):
        for box in np.asarray(found, np.float64).reshape(-1, 4):
            overlaps = [
                _overlap(box, track[max(track)]) if max(track) < frame else 0.0
                for track in tracks
            ]
            best = int(np.argmax(overlaps)) if overlaps else -1
            if best >= 0 and overlaps[best] > 0.3:
                tracks[best][frame] = box
            else:
                tracks.append({frame: box})
    if not tracks:
        return None, 0, 0.0
    sizes = [sum(box[2] * box[3] for box in track.values()) for track in tracks]
    chosen = tracks[int(np.argmax(sizes))]
    lasting = sum(len(track) >= max(len(boxes) / 5, 1) for track in tracks)
    seen = np.array(sorted(chosen))
    left, top, width, height = np.stack([chosen[i] for i in seen]).T
    steps = np.arange(len(boxes))
    values = (left + width / 2, top + height / 2, np.maximum(width, height) / 2)
    filled = np.stack([np.interp(steps, seen, value) for value in values], axis=1)
    steady = median_filter(filled, (MEDIAN, 1), mode="nearest")
    return steady, max(lasting, 1), len(seen) / len(boxes)


def yunet(model: Path, threshold: float = 0.6) -> Detector:
    """Makes a face detector of OpenCV's YuNet.

    Args:
      model: the ONNX file, which OpenCV's model zoo offers.
      threshold: of its scores.

    Raises:
      UserError: if the file is missing or OpenCV is not installed.
    """
    find = face_alignment.yunet(model, threshold, ', or take crop="centre"')
    return lambda image: find(image).boxes


def read_sound(path: Path, rate: int = RATE) -> Sound | None:
    """Decodes the first sound track of a film; None if it has none.

    Where packets are missing or damaged there is silence, so that what follows stays
    in step with the pictures.

    Raises:
      UserError: if the file cannot be opened, or PyAV is not installed.
    """
    av = _av()
    parts: list[np.ndarray] = []
    damage: list[str] = []
    start, original, channels = 0.0, rate, 1
    with _open(path) as container:
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        _decoder(path, stream)
        resampler = None
        for frame in _frames(container, stream, damage):
            with parsing(path, "the sound of a film", _REMEDY):
                if resampler is None:
                    original, channels = frame.rate, frame.layout.nb_channels
                    start = 0.0 if frame.time is None else float(frame.time)
                    resampler = av.AudioResampler("fltp", frame.layout.name, frame.rate)
                hole = _hole(frame, start, parts)
                if hole > STILL_SECONDS:
                    damage.append("a damaged time")
                elif hole > HOLE_SECONDS:
                    parts.append(np.zeros((channels, round(hole * original)), "f4"))
                parts += [piece.to_ndarray() for piece in resampler.resample(frame)]
        if resampler is not None:
            with parsing(path, "the sound of a film", _REMEDY):
                parts += [piece.to_ndarray() for piece in resampler.resample(None)]
    check_rate(path, original)
    about = (original, channels, bool(damage))
    if not parts:
        return Sound(np.zeros(0, np.float32), rate, 0.0, *about)
    mono = np.concatenate(parts, axis=1).mean(axis=0) * 32768
    return Sound(resample(mono, original, rate), rate, start, *about)


def _hole(frame, start: float, parts: list[np.ndarray]) -> float:
    """Returns for how many seconds there is no sound before a frame."""
    if frame.time is None:
        return 0.0
    heard = sum(part.shape[1] for part in parts) / frame.rate
    return float(frame.time) - start - heard


def decode_frames(path: Path, function: Callable[[int, np.ndarray], object]) -> Decoded:
    """Applies a function to every decoded frame, in order.

    Args:
      path: of the film.
      function: of a frame's place and its RGB image, upright uint8 ``[h, w, 3]``.

    Raises:
      UserError: if the file cannot be opened or has no pictures, or PyAV is not
        installed.
    """
    times: list[float] = []
    results: list = []
    damage: list[str] = []
    with _open(path) as container:
        if not container.streams.video:
            raise UserError(f"{path} has no pictures.")
        stream = container.streams.video[0]
        _decoder(path, stream).options = {"max_pixels": str(BLANK_PIXELS)}
        rate = float(stream.average_rate or FPS)
        for index, frame in enumerate(_frames(container, stream, damage)):
            times.append(index / rate if frame.time is None else float(frame.time))
            with parsing(path, "a film", _REMEDY):
                image = frame.to_ndarray(format="rgb24")
            turns = round((frame.rotation or 0) / 90) % 4
            results.append(function(index, np.rot90(image, turns) if turns else image))
        claimed = 0.0
        if stream.duration and stream.time_base:
            claimed = float(stream.duration * stream.time_base)
    if times:
        lasted = max(times) - min(times) + 1 / rate
        if claimed - lasted > max(0.25, 0.05 * claimed):
            damage.append("shorter than claimed")
    return Decoded(times, results, bool(damage))


def count_frames(path: Path) -> int:
    """Counts the frames that a film claims to have, without decoding them.

    Raises:
      UserError: as ``decode_frames``.
    """
    with _open(path) as container:
        if not container.streams.video:
            raise UserError(f"{path} has no pictures.")
        with parsing(path, "a film", _REMEDY):
            packets = container.demux(container.streams.video[0])
            return sum(packet.size > 0 for packet in packets)


def _frames(container, stream, damage: list[str]) -> Iterator:
    """Decodes a stream; notes what cannot be decoded and goes on."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except Exception as error:  # of any kind; see ``parsing``
            damage.append(reason(error))
            return
        try:
            for frame in packet.decode():
                if frame.is_corrupt:  # what is missing was guessed by the decoder
                    damage.append("a damaged frame")
                yield frame
        except Exception as error:
            damage.append(reason(error))


def _decoder(path: Path, stream):
    """Returns what decodes a stream."""
    if stream.codec_context is None:
        raise UserError(f"{path} is of a codec that is not known. {_REMEDY}")
    return stream.codec_context


def _open(path: Path):
    av = _av()
    require_file(path, _REMEDY)
    with parsing(path, "a film", _REMEDY):
        return av.open(str(path))


def _av() -> ModuleType:
    return optional.load("av", extra="av", purpose="Films")


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    from PIL import Image

    if image.shape == (size, size):
        return image
    return np.asarray(
        Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    )


def _overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Returns the intersection of two boxes over their union."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    shared = np.prod(np.maximum(high - low, 0))
    return float(shared / (one[2] * one[3] + other[2] * other[3] - shared + 1e-9))
