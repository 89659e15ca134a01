"""Views of images, on the device: augmentation and normalisation inside the step.

A view is a pure function of a key and a batch of examples, so that teacher and student
can see the very same view, and a run that resumes sees what it would have seen. It maps
the examples' fields (``image`` uint8, ``label``, ...) to what networks see, and may add
fields, such as a second view. Most change the images alone, and are made of functions
of images by ``of_images``.

Random numbers are drawn for the whole batch at once: with JAX's partitionable generator
the numbers of an example depend on the key and its place in the batch, not on the
devices.
"""

import importlib
from collections.abc import Callable
from typing import Any

from jaxkd.core import lookup
from jaxkd.core.source import Info
from jaxkd.views.ops import View

VIEWS: dict[str, str] = {
    "plain": "jaxkd.views.standard:plain",
    "flip": "jaxkd.views.standard:flip",
    "crop_flip": "jaxkd.views.standard:crop_flip",
    "randaugment": "jaxkd.views.standard:randaugment",
    "weak_strong": "jaxkd.views.standard:weak_strong",
    "glyph": "jaxkd.views.standard:glyph",
    "inputs": "jaxkd.views.inputs:inputs",
    "recolour": "jaxkd.views.low_resolution:recolour",
    "low": "jaxkd.views.low_resolution:low",
    "noisy": "jaxkd.views.low_resolution:noisy",
    "real_esrgan": "jaxkd.views.real_esrgan:real_esrgan",
    "mixed_low": "jaxkd.views.mixed_resolution:mixed_low",
    "ct": "jaxkd.views.ct:ct",
    "mask_dihedral": "jaxkd.views.masks:dihedral",
    "mask_crop_rotate": "jaxkd.views.masks:crop_rotate",
    "face_quality": "jaxkd.views.face_quality:quality",
    "signed": "jaxkd.views.signed:signed",
    "handwriting": "jaxkd.views.handwriting:handwriting",
    "lightly": "jaxkd.views.handwriting:lightly",
    "clips": "jaxkd.views.clips:clips",
    "detection": "jaxkd.views.detection:detection",
    "noised": "jaxkd.views.resshift:noised",
    "signed_dihedral": "jaxkd.views.restoration:signed_dihedral",
    "text_line": "jaxkd.views.text:text_line",
}


def build(name: str, info: Info, **options: Any) -> View:
    """Makes the view ``name``, one of ``VIEWS``, for a data set.

    A name such as ``"turns.py:quarter_turns"`` is own code, called as those of
    ``VIEWS``: ``(info, **options) -> View``.

    Raises:
      UserError: if there is no such view, or it has no such option; the message lists
        those that there are.
    """
    return lookup.call(find(name), options, what=f"view {name!r}", info=info)


def find(name: str) -> Callable[..., View]:
    """Returns what makes a view: ``(info, **options) -> View``.

    Raises:
      UserError: if there is no such view.
    """
    if lookup.is_own_code(name):
        return lookup.own_code(name, what="config.view.name")
    place = lookup.choose(name, VIEWS, what="view")
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)
