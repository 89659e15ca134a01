"""Noise on the sound of clips: how loud it may be before a detector fails.

The signal-to-noise ratio is ``10 log10(P_signal / P_noise)`` in dB, of the mean squares
of a whole clip. White noise is normal. Babble is the sum of other clips' voices, each
as loud as the others, from a random place on.
"""

from collections.abc import Sequence

import numpy as np

from jaxkd.core.errors import UserError
from jaxkd.core.source import Example, Source
from jaxkd.readers import audio

WHITE, BABBLE = "white", "babble"
KINDS = (WHITE, BABBLE)
VOICES = 6  # of babble, at most


def mix(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Adds noise of a signal-to-noise ratio.

    The sum is not clipped to the range of int16, so that the ratio is exact. A silent
    signal has no ratio and stays as it is.

    Args:
      wave: the signal, ``[samples]``.
      noise: of any loudness, likewise.
      snr: signal-to-noise ratio, in dB.

    Raises:
      UserError: if the lengths differ, or the noise is silent.

    >>> import numpy as np
    >>> mix(np.array([8.0, -8.0]), np.array([0.5, 0.5]), 20.0).tolist()
    [8.8, -7.2]
    """
    wave, noise = (np.asarray(x, np.float64) for x in (wave, noise))
    if wave.shape != noise.shape:
        raise UserError(
            f"The signal has shape {wave.shape} and the noise {noise.shape}, expected "
            "the same."
        )
    signal, disturbance = np.mean(wave**2), np.mean(noise**2)
    if not signal:
        return wave
    if not disturbance:
        raise UserError("The noise is silent, expected some sound.")
    return wave + noise * np.sqrt(signal / disturbance) * 10 ** (-snr / 20)


def babble(
    waves: Sequence[np.ndarray], index: int, rng: np.random.Generator
) -> np.ndarray:
    """Sums the voices of other clips, as long as clip ``index``.

    Args:
      waves: of all clips, ``[samples]`` each.
      index: of the clip to disturb, whose own voice is not among them.
      rng: chooses ``VOICES`` of the others, all if there are fewer, and where each
        begins; short ones are repeated.

    Raises:
      UserError: if no other clip has any sound.
    """
    others = [i for i, wave in enumerate(waves) if i != index and np.any(wave)]
    if not others:
        raise UserError(
            "Babble is made of the voices of other test clips, but none of them has "
            "any sound. Give more test clips."
        )
    chosen = rng.permutation(others)[:VOICES]
    total = np.zeros(len(waves[index]))
    for other in chosen:
        voice = np.asarray(waves[other], np.float64)
        places = int(rng.integers(len(voice))) + np.arange(len(total))
        total += voice[places % len(voice)] / np.sqrt(np.mean(voice**2))
    return total


class Noisy:
    """Some examples of a source, their MFCC computed anew from disturbed sound.

    The noise of a clip is the same at every ratio.
    """

    def __init__(
        self,
        source: Source,
        rows: np.ndarray,
        waves: Sequence[np.ndarray],
        kind: str,
        snr: float,
    ):
        """Disturbs nothing yet: clips are, as they are read.

        Args:
          source: of clips with ``mfcc``.
          rows: which of its examples.
          waves: their sound, ``[samples]`` each, in the range of int16.
          kind: one of ``KINDS``.
          snr: signal-to-noise ratio, in dB.

        Raises:
          UserError: for another kind.
        """
        if kind not in KINDS:
            raise UserError(
                f"There is no noise {kind!r}, expected one of {', '.join(KINDS)}."
            )
        self.source, self.rows, self.waves = source, rows, waves
        self.kind, self.snr = kind, snr

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = int(self.rows[index])
        example, wave = self.source[row], self.waves[index]
        rng = np.random.default_rng([KINDS.index(self.kind), row])
        if self.kind == WHITE:
            noise = rng.normal(size=len(wave))
        else:
            noise = babble(self.waves, index, rng)
        mixed = mix(wave, noise, self.snr)
        return example | {"mfcc": audio.mfcc(mixed, rows=len(example["mfcc"]))}
