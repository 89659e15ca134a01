"""The networks of clips as a study runs them: one array holds film, sound and mask.

``[batch, time, columns]``: the pixels of a frame, its four rows of 13 coefficients, and
1 where the frame is there. ``jaxkd.views.clips`` packs it.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models.talknet.recognisers import AudioRecogniser, VideoRecogniser
from jaxkd.models.talknet.student import PICO, SMALL, Student

ROWS, CEPSTRA = 4, 13
_SOUND = ROWS * CEPSTRA

Clip = tuple[jax.Array, jax.Array, jax.Array]


def pack(video: jax.Array, mfcc: jax.Array, present: jax.Array) -> jax.Array:
    """Joins film, sound and mask.

    Args:
      video: grey ``[batch, time, size, size]``, 0 to 255.
      mfcc: ``[batch, 4 time, 13]``.
      present: ``[batch, time]``, frames that are there.

    Returns:
      float32 ``[batch, time, size^2 + 53]``.
    """
    batch, time = video.shape[:2]
    parts = (
        video.reshape(batch, time, -1),
        mfcc.reshape(batch, time, _SOUND),
        present[..., None],
    )
    return jnp.concatenate([part.astype(jnp.float32) for part in parts], axis=-1)


def unpack(clip: jax.Array) -> Clip:
    """Undoes ``pack``.

    Raises:
      ValueError: if the number of columns is not that of square frames.
    """
    batch, time, columns = clip.shape
    size = math.isqrt(max(columns - _SOUND - 1, 0))
    if size * size + _SOUND + 1 != columns or not size:
        raise ValueError(
            f"A clip has {columns} columns, expected size^2 + {_SOUND + 1}: use the "
            'view "clips", and config.model.input = "clip".'
        )
    video = clip[..., : size * size].reshape(batch, time, size, size)
    mfcc = clip[..., size * size : -1].reshape(batch, ROWS * time, CEPSTRA)
    return video, mfcc, clip[..., -1] > 0.5


def _check(dtype: Any) -> None:
    if jnp.dtype(dtype) != jnp.float32:
        raise ValueError(
            f"The networks of clips got dtype {jnp.dtype(dtype)}, expected float32, "
            "the only one they are written for: set config.dtype."
        )


class ClipStudent(Student):
    """``Student`` of packed clips.

    Attributes:
      dtype: float32.
    """

    dtype: Any = jnp.float32

    def __call__(  # type: ignore[override]  # one argument stands for three
        self, clip: jax.Array, train: bool = False
    ) -> Any:
        """Maps packed clips to logits ``[batch, time, 2]`` and embeddings."""
        _check(self.dtype)
        video, mfcc, present = unpack(clip)
        return super().__call__(video, mfcc, present, train)


class ClipAudioRecogniser(AudioRecogniser):
    """``AudioRecogniser`` of packed clips.

    Attributes:
      num_classes: of the data set's clips; not used.
      dtype: float32.
    """

    units: int = 10
    num_classes: int = 0
    dtype: Any = jnp.float32

    def __call__(  # type: ignore[override]  # one argument stands for three
        self, clip: jax.Array, train: bool = False
    ) -> Any:
        """Maps packed clips to logits ``[batch, time, units]``."""
        _check(self.dtype)
        _, mfcc, present = unpack(clip)
        return super().__call__(mfcc, present, train)


class ClipVideoRecogniser(VideoRecogniser):
    """``VideoRecogniser`` of packed clips.

    Attributes:
      num_classes: of the data set's clips; not used.
      dtype: float32.
    """

    units: int = 10
    num_classes: int = 0
    dtype: Any = jnp.float32

    def __call__(  # type: ignore[override]  # one argument stands for three
        self, clip: jax.Array, train: bool = False
    ) -> Any:
        """Maps packed clips to logits ``[batch, time, units]``."""
        _check(self.dtype)
        video, _, present = unpack(clip)
        return super().__call__(video, present, train)


def _audio(options: Mapping[str, Any]) -> dict[str, Any]:
    return {k: options[k] for k in ("audio_blocks", "audio_widths")}


def _visual(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("stem", "visual_widths", "hidden", "temporal_blocks", "window")
    taken = {k: options[k] for k in names if k in options}
    return taken | {"width": options["audio_widths"][-1]}


VARIANTS: Mapping[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "talknet": (ClipStudent, {}),
    "talknet_small": (ClipStudent, dict(SMALL)),
    "talknet_pico": (ClipStudent, dict(PICO)),
    "speech": (ClipAudioRecogniser, {}),
    "speech_small": (ClipAudioRecogniser, _audio(SMALL)),
    "speech_pico": (ClipAudioRecogniser, _audio(PICO)),
    "lips": (ClipVideoRecogniser, {}),
    "lips_small": (ClipVideoRecogniser, _visual(SMALL)),
    "lips_pico": (ClipVideoRecogniser, _visual(PICO)),
}
