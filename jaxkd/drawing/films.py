"""Writes films with sound through PyAV, for demos and to try readers with."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from jaxkd.core import optional

# Fine enough for 29.97 frames a second, and for frames at times of their own.
_CLOCK = 90_000


def write(
    path: Path,
    frames: np.ndarray,
    wave: np.ndarray | None = None,
    *,
    fps: Fraction | float = 25,
    times: Sequence[float] | None = None,
    rate: int = 16_000,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    faststart: bool = False,
) -> None:
    """Writes a film; its suffix tells the container.

    Args:
      path: of the file, which is replaced.
      frames: RGB uint8 ``[time, height, width, 3]``, even sides.
      wave: int16 ``[samples]`` or, of several channels, ``[samples, channels]``; None
        writes no sound track.
      fps: frames per second.
      times: seconds at which frames are shown; None: evenly.
      rate: samples per second.
      codec: of the pictures.
      pixel_format: such as "yuv420p10le" for ten bits.
      faststart: whether the index comes first, so that a cut file can be read.

    Raises:
      UserError: if PyAV is not installed.
    """
    av = optional.load("av", extra="av", purpose="Films")
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.time_base = Fraction(1, _CLOCK)
        stream.codec_context.options = {"crf": "16", "bf": "0"}
        sound = None
        if wave is not None:
            wave = wave if wave.ndim == 2 else wave[:, None]
            layout = {1: "mono", 2: "stereo"}[wave.shape[1]]
            sound = container.add_stream("aac", rate=rate, layout=layout)
        for index, image in enumerate(frames):
            seconds = index / float(fps) if times is None else times[index]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24")
            frame.pts, frame.time_base = round(seconds * _CLOCK), Fraction(1, _CLOCK)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            packed = np.ascontiguousarray(wave).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, "s16", layout)
            frame.rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
