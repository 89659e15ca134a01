"""The student of CMDFD: TalkNet's encoders, cross attention, and a head per frame."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxkd.models import layers
from jaxkd.models.talknet.attention import AttentionLayer
from jaxkd.models.talknet.audio import AudioEncoder
from jaxkd.models.talknet.layers import Where, keep
from jaxkd.models.talknet.visual import WINDOW, VisualEncoder


def check_clips(video: jax.Array, mfcc: jax.Array) -> None:
    """Raises ValueError unless there are four rows of MFCC for each frame."""
    if video.ndim != 4 or mfcc.ndim != 3 or mfcc.shape[1] != 4 * video.shape[1]:
        raise ValueError(
            f"video has shape {video.shape} and mfcc {mfcc.shape}, expected [batch, "
            "time, height, width] and [batch, 4 time, coefficients]: four rows for "
            "each frame (jaxkd.readers.audio.mfcc with rows=4 * frames)."
        )


class Student(nn.Module):
    """Classifies every frame of a talking face, and embeds its sound and its lips.

    At official size (the defaults) it has 15.74 million parameters.

    Attributes:
      num_classes: logits of each frame; two: real and fake.
      stem: channels of the visual frontend's 3-D convolution.
      visual_widths: channels of its residual layers.
      hidden: channels of the last visual layer but one.
      temporal_blocks: visual blocks over time.
      audio_blocks: blocks of the audio encoder's layers.
      audio_widths: their channels; the last is the width of either embedding.
      heads: of the attention; divides the width.
      dropout: rate, in the attention layers.
      window: frames, rows and columns of the visual frontend's first kernel.
    """

    num_classes: int = 2
    stem: int = 64
    visual_widths: Sequence[int] = (64, 128, 256, 512)
    hidden: int = 256
    temporal_blocks: int = 5
    audio_blocks: Sequence[int] = (3, 4, 6, 3)
    audio_widths: Sequence[int] = (16, 32, 64, 128)
    heads: int = 8
    dropout: float = 0.1
    window: tuple[int, int, int] = WINDOW

    @nn.compact
    def __call__(
        self,
        video: jax.Array,
        mfcc: jax.Array,
        where: Where = None,
        train: bool = False,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps clips to logits and embeddings.

        Args:
          video: grey faces ``[batch, time, height, width]``, 0 to 255; officially 112
            pixels wide.
          mfcc: ``[batch, 4 time, coefficients]``.
          where: boolean ``[batch, time]``, frames that are there; the first of each
            clip. None: all.
          train: whether batch norm uses the batch and dropout is on.

        Returns:
          Logits ``[batch, time, num_classes]``, and ``audio`` and ``video``, the
          embeddings ``[batch, time, width]`` after cross attention. Those of frames
          that are not there mean nothing.
        """
        check_clips(video, mfcc)
        visual = VisualEncoder(
            self.stem,
            self.visual_widths,
            self.hidden,
            self.audio_widths[-1],
            self.temporal_blocks,
            self.window,
            name="visual",
        )(video, where, train)
        audio = AudioEncoder(self.audio_blocks, self.audio_widths, name="audio")(
            mfcc, where, train
        )
        # Frames that are not there must not reach others, whatever they hold.
        visual, audio = keep(visual, where), keep(audio, where)
        layer = partial(AttentionLayer, self.heads, dropout=self.dropout)
        heard = layer(name="cross_a2v")(audio, visual, where, train)
        seen = layer(name="cross_v2a")(visual, audio, where, train)
        both = jnp.concatenate([heard, seen], axis=-1)
        fused = layer(name="self_av")(both, both, where, train)
        logits = layers.Linear(self.num_classes, name="fc")(fused)
        return logits, {"audio": heard, "video": seen}


# Small ones for CPU: the same parts, narrower. ``pico`` is for tests.
SMALL: Mapping[str, Any] = {
    "stem": 8,
    "window": (5, 3, 3),
    "visual_widths": (8, 16, 32),
    "hidden": 32,
    "temporal_blocks": 1,
    "audio_blocks": (1, 1, 1, 1),
    "audio_widths": (4, 8, 16, 32),
    "heads": 4,
}
PICO: Mapping[str, Any] = {
    "stem": 4,
    "visual_widths": (4, 8),
    "hidden": 8,
    "temporal_blocks": 1,
    "audio_blocks": (1, 1, 1, 1),
    "audio_widths": (4, 4, 8, 8),
    "heads": 2,
}
