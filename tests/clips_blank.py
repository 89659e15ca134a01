"""Stands in for clips in files: as many as a large set has, none of which is read."""

import inspect

from jaxkd.aot import fake_data
from jaxkd.datasets import av_clips


def replace(monkeypatch):
    """Lets ``av_clips`` load what it is like without its files."""
    signature = inspect.signature(av_clips.load)

    def load(**options):
        return fake_data.make("av_clips", **options)

    load.__signature__ = signature
    monkeypatch.setattr(av_clips, "load", load)
