"""TalkNet: audio and visual encoders with cross attention (arXiv:2107.06592).

The student of CMDFD (arXiv:2404.19171), and recognisers of speech units made of the
same encoders. Clips of different lengths share a batch: ``where`` marks their frames,
and what a padded clip gives is what it gives alone.
"""

from jaxkd.models.talknet.recognisers import AudioRecogniser, VideoRecogniser
from jaxkd.models.talknet.student import Student

__all__ = ("AudioRecogniser", "Student", "VideoRecogniser")
