"""Recognisers of speech units, frame by frame, made of the student's own encoders.

Teachers that can be trained in minutes: their posteriors are compared, and their
encoders may start a student. Published recognisers are in ``jaxkd.models.tm_ctc``.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax

from jaxkd.models import layers
from jaxkd.models.talknet.audio import AudioEncoder
from jaxkd.models.talknet.layers import Where
from jaxkd.models.talknet.visual import WINDOW, VisualEncoder


class AudioRecogniser(nn.Module):
    """Classifies the sound of every frame.

    Attributes:
      units: speech units, the classes of a frame.
      audio_blocks: see ``Student``.
      audio_widths: likewise.
    """

    units: int
    audio_blocks: Sequence[int] = (3, 4, 6, 3)
    audio_widths: Sequence[int] = (16, 32, 64, 128)

    @nn.compact
    def __call__(
        self, mfcc: jax.Array, where: Where = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``[batch, 4 time, coefficients]`` to logits ``[batch, time, units]``."""
        x = AudioEncoder(self.audio_blocks, self.audio_widths, name="audio")(
            mfcc, where, train
        )
        return layers.Linear(self.units, name="fc")(x), {"embedding": x}


class VideoRecogniser(nn.Module):
    """Classifies the lips of every frame.

    Attributes:
      units: speech units, the classes of a frame.
      stem: see ``Student``.
      visual_widths: likewise.
      hidden: likewise.
      width: channels of the embedding.
      temporal_blocks: see ``Student``.
      window: likewise.
    """

    units: int
    stem: int = 64
    visual_widths: Sequence[int] = (64, 128, 256, 512)
    hidden: int = 256
    width: int = 128
    temporal_blocks: int = 5
    window: tuple[int, int, int] = WINDOW

    @nn.compact
    def __call__(
        self, video: jax.Array, where: Where = None, train: bool = False
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Maps ``[batch, time, height, width]`` to logits ``[batch, time, units]``."""
        x = VisualEncoder(
            self.stem,
            self.visual_widths,
            self.hidden,
            self.width,
            self.temporal_blocks,
            self.window,
            name="visual",
        )(video, where, train)
        return layers.Linear(self.units, name="fc")(x), {"embedding": x}
