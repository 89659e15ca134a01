"""Talking-face clips: film and sound in step, with a status for every kind of fault.

    python -m jaxkd.readers.clips audit FOLDER_OR_CSV

measures how well trivial properties (leading silence, duration, loudness, bit rate)
tell fakes from real clips, and warns where they do: a detector would learn them.

    python -m jaxkd.readers.clips check CLIPS --output=FOLDER

shows clips as networks get them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxkd.core import optional, parsing
from jaxkd.core.arrays import read_npz
from jaxkd.core.errors import UserError
from jaxkd.readers import audio, images, listing, video
from jaxkd.readers.audio import FPS, RATE, ROWS_PER_FRAME

OK, TRUNCATED, SILENT, NO_AUDIO, NO_FACE, TOO_SHORT, MISMATCH, UNREADABLE = (
    "ok",
    "truncated",
    "silent",
    "no_audio",
    "no_face",
    "too_short",
    "length_mismatch",
    "unreadable",
)
STATUSES = (OK, TRUNCATED, SILENT, NO_AUDIO, NO_FACE, TOO_SHORT, MISMATCH, UNREADABLE)
CROPS = ("centre", "detect")
SUFFIXES = (*video.SUFFIXES, ".npz")
# What a recogniser says of the clip beside it; see ``jaxkd.datasets.av_clips``.
POSTERIORS = ".posteriors.npz"
# Fraction of frames in which the face may be missing, and is interpolated.
GAPS = 0.2
# Film and sound may differ by this many seconds without a word, and by this part.
SLACK, WORST = 0.2, 0.5


class Preprocessing(NamedTuple):
    """How files become the input of networks; the same in training and inference.

    Attributes:
      crop: "centre" or "detect"; see ``video.read_film``.
      face_model: YuNet's file, for "detect".
      size: of the crops, in pixels.
      min_frames: below which a clip is too short.
      silence: RMS, a fraction of full scale, below which a clip is silent.
      allow_silent: score silent clips all the same.
      trim_leading_silence: cut film and sound where the sound begins; fakes of some
        sets begin with silence (arXiv:2412.00175).
    """

    crop: str = "centre"
    face_model: str = ""
    size: int = video.SIZE
    min_frames: int = 5
    silence: float = 1e-4
    allow_silent: bool = False
    trim_leading_silence: bool = False


class Clip(NamedTuple):
    """A clip as far as it could be read.

    Attributes:
      path: of the film.
      status: one of ``STATUSES``.
      video: grey uint8 ``[time, size, size]`` at 25 frames a second.
      wave: float32 ``[samples]`` at 16 kHz, int16 range, as long as the film.
      usable: whether it may be scored.
      notes: for the reader of a report.
      seconds: of the film that was read.
      fps: of the file.
      leading_silence: in seconds, before any trimming.
      faces: how many were found; 0 if none was looked for.
      skipped: frames that trimming cut from the beginning.
    """

    path: Path
    status: str
    video: np.ndarray
    wave: np.ndarray
    usable: bool = False
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    fps: float = 0.0
    leading_silence: float = 0.0
    faces: int = 0
    skipped: int = 0


def load(
    path: Path, options: Preprocessing | None = None, *, sound: Path | None = None
) -> Clip:
    """Reads a clip; faults become its status and never an exception.

    Args:
      path: a film, or an ``.npz`` with ``video`` uint8 ``[time, h, w]``, ``audio``
        int16 ``[samples]``, ``fps`` and ``sr``.
      options: None for the defaults.
      sound: a wav or flac file; None takes the film's track, or else the wav or flac
        file beside it with the same name.

    Raises:
      UserError: only for impossible options and missing libraries.
    """
    options = options or Preprocessing()
    detect = _detector(options)
    path = Path(path)
    if path.suffix.lower() != ".npz":
        # Here, because a missing library is no fault of the clip.
        optional.load("av", extra="av", purpose="Films")
    try:
        if path.suffix.lower() == ".npz":
            film, heard = _read_npz(path, options.size)
        else:
            film = video.read_film(path, size=options.size, detect=detect)
            heard = _find_sound(path, sound)
    except UserError as error:
        return _failed(path, UNREADABLE, (str(error),), options)
    return assemble(path, film, heard, options)


def assemble(
    path: Path,
    film: video.Film,
    sound: audio.Sound | None,
    options: Preprocessing,
) -> Clip:
    """Brings film and sound into step and judges them; see ``load``."""
    notes: list[str] = []
    if abs(film.fps - FPS) > 0.01:
        notes.append(f"{film.fps:.5g} fps, resampled to {FPS:g}")
    if film.variable:
        notes.append(f"frames of varying length, resampled to {FPS:g} fps")
    if film.faces > 1:
        notes.append(f"{film.faces} faces, the largest was followed")
    common: dict[str, Any] = {
        "seconds": film.seconds,
        "fps": film.fps,
        "faces": film.faces,
    }

    def fail(status: str, note: str) -> Clip:
        bad = _failed(path, status, (*notes, note), options)
        return bad._replace(**common)

    damaged = film.truncated or (sound is not None and sound.damaged)
    if damaged:
        notes.append("the file is damaged or shorter than it claims")
        if film.truncated and film.seconds < 1:
            return fail(UNREADABLE, f"only {film.seconds:.2f} s could be read")
    if 1 - film.found > GAPS:
        return fail(NO_FACE, f"no face in {100 * (1 - film.found):.0f} % of the frames")
    if sound is None:
        return fail(NO_AUDIO, "there is no sound, neither in the file nor beside it")
    if not np.isfinite(sound.wave).all():
        return fail(UNREADABLE, "the sound holds values that are no numbers")
    frames, wave, trouble = align(film, sound)
    if trouble is not None and trouble > WORST:
        return fail(MISMATCH, f"film and sound differ by {100 * trouble:.0f} %")
    if trouble is not None:
        notes.append(f"film and sound differ by {100 * trouble:.0f} %, cut to fit")
    silence, skipped = audio.leading_silence(wave), 0
    silent = audio.level(wave) < options.silence or not np.abs(wave).max(initial=0)
    # Of a clip that is silent throughout, nothing would be left.
    if options.trim_leading_silence and not silent:
        skipped = min(round(silence * FPS), len(frames))
        frames, wave = frames[skipped:], wave[round(skipped * RATE / FPS) :]
        if skipped:
            notes.append(f"{skipped / FPS:.2f} s of leading silence cut")
    if len(frames) < options.min_frames:
        return fail(
            TOO_SHORT, f"{len(frames)} frames, expected {options.min_frames} or more"
        )
    status = TRUNCATED if damaged else OK
    if silent:
        status = SILENT
        notes.append("there is hardly any sound")
    return Clip(
        path,
        status,
        frames,
        wave,
        usable=not silent or options.allow_silent,
        notes=tuple(notes),
        leading_silence=silence,
        skipped=skipped,
        **common,
    )


def align(
    film: video.Film, sound: audio.Sound
) -> tuple[np.ndarray, np.ndarray, float | None]:
    """Cuts film and sound to the time that both have.

    Returns:
      Frames, samples as long as they, and by which part of the longer the two
      differed; None if by less than 0.2 s.
    """
    offset = round((sound.start - film.start) * sound.rate)
    wave, ahead = sound.wave[max(-offset, 0) :], max(offset, 0)
    film_seconds = len(film.frames) / FPS
    sound_seconds = (ahead + len(wave)) / sound.rate
    gap = abs(film_seconds - sound_seconds)
    longer = max(film_seconds, sound_seconds, 1e-9)
    frames = film.frames
    if sound_seconds < film_seconds - SLACK:
        frames = frames[: int(sound_seconds * FPS)]
    needed = round(len(frames) * RATE / FPS)
    ahead = min(ahead, needed)  # which may be a damaged time, of years
    wave = wave[: needed - ahead]
    wave = np.pad(wave, (ahead, needed - ahead - len(wave)))
    return frames, wave.astype(np.float32), gap / longer if gap > SLACK else None


def features(clip: Clip, *names: str, fill: str = "repeat") -> dict[str, np.ndarray]:
    """Computes what networks take of a clip.

    Args:
      clip: that was read.
      names: of "video" uint8 ``[time, size, size]``, "mfcc" ``[4 time, 13]`` and
        "spectrogram" ``[4 time, 321]``.
      fill: see ``audio.mfcc``.
    """
    rows = ROWS_PER_FRAME * len(clip.video)
    makers = {
        "video": lambda: clip.video,
        "mfcc": lambda: audio.mfcc(clip.wave, rows=rows, fill=fill),
        "spectrogram": lambda: audio.spectrogram(clip.wave, rows=rows, fill=fill),
    }
    unknown = sorted(set(names) - set(makers))
    if unknown:
        raise UserError(
            f"There are no features {', '.join(unknown)}; expected some of "
            f"{', '.join(makers)}."
        )
    return {name: makers[name]() for name in names}


def is_clip(path: Path) -> bool:
    """Tells by its name whether a file is a clip; posteriors beside one are not."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.endswith(POSTERIORS)


def find(inputs: Sequence[Path], output: Path | None = None) -> list[Path]:
    """Lists the clips among files and, recursively, folders; sorted in each folder.

    A file that is named is listed whatever its suffix: one row per input.

    Args:
      inputs: files, and folders, which are searched as ``listing.below`` does.
      output: folder that results go to, which is not searched.

    Raises:
      UserError: if a path does not exist, no clip is found, or a folder is the output
        itself.
    """
    found: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            images.check_output(path, output)
            inside = listing.below(path, [] if output is None else [output])
            found += [p for p in inside if is_clip(p)]
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"There is no file or folder {listing.shown(path)}.")
    if not found:
        raise UserError(
            f"There are no clips in {', '.join(map(listing.shown, inputs))}; expected "
            f"files ending in {', '.join(SUFFIXES)}."
        )
    return found


def sounds_beside(path: Path) -> list[Path]:
    """Lists the wav and flac files beside a film that have its name."""
    named = [path.with_suffix(suffix) for suffix in audio.SUFFIXES]
    return [beside for beside in named if beside.exists()]


def _detector(options: Preprocessing) -> video.Detector | None:
    if options.crop not in CROPS:
        raise UserError(
            f"crop is {options.crop!r}, expected one of {', '.join(CROPS)}."
        )
    return video.yunet(Path(options.face_model)) if options.crop == "detect" else None


def _find_sound(path: Path, sound: Path | None) -> audio.Sound | None:
    if sound is not None:
        return audio.read(Path(sound))
    track = video.read_sound(path)
    if track is not None and len(track.wave):
        return track
    beside = sounds_beside(path)
    return audio.read(beside[0]) if beside else None


def _read_npz(path: Path, size: int) -> tuple[video.Film, audio.Sound | None]:
    arrays = read_npz(path, "an .npz clip", "Prepare it again.")
    frames = arrays.get("video")
    fits = frames is not None and frames.ndim == 3 and frames.size > 0
    if frames is None or not fits or frames.dtype != np.uint8:
        raise UserError(
            f"{path}: video is {_described(frames)}, expected uint8 [time, height, "
            "width], of at least one pixel."
        )
    fps, rate = (_number(path, arrays, *one) for one in (("fps", FPS), ("sr", RATE)))
    audio.check_rate(path, rate)
    if not 1 <= fps <= 1000:
        raise UserError(f"{path}: fps is {fps:g}, expected 1 to 1,000.")
    seconds = len(frames) / fps
    index = video.nearest(
        np.arange(len(frames)) / fps, max(round(seconds * FPS), 1), FPS
    )
    crops = [video.centre(np.repeat(frames[i][..., None], 3, -1), size) for i in index]
    film = video.Film(np.stack(crops), 0.0, seconds, fps)
    if "audio" not in arrays:
        return film, None
    wave = arrays["audio"]
    # Numbers in [-1, 1] would pass for silence.
    if wave.ndim != 1 or wave.dtype != np.int16:
        raise UserError(
            f"{path}: audio is {_described(wave)}, expected int16 [samples]. Average "
            "the channels, and multiply a signal in [-1, 1] by 32767."
        )
    with parsing.parsing(path, "an .npz clip", "Prepare it again."):
        wave = audio.resample(wave.astype(np.float32), rate, RATE)
    return film, audio.Sound(wave, RATE, 0.0, int(rate))


def _described(array: np.ndarray | None) -> str:
    return "missing" if array is None else f"{array.dtype} {list(array.shape)}"


def _number(path: Path, arrays: dict[str, np.ndarray], name: str, usual) -> float:
    with parsing.parsing(path, f"a clip with {name}", "Prepare it again."):
        return float(arrays.get(name, usual))


def _failed(path, status: str, notes: tuple[str, ...], options) -> Clip:
    nothing = np.zeros((0, options.size, options.size), np.uint8)
    return Clip(path, status, nothing, np.zeros(0, np.float32), notes=notes)
