"""D-TIIL: where an image and its caption contradict each other, and which words do.

``localise`` works with any ``text_to_image.Backbone``; as a pipeline it runs the
benchmark of ``configs/dtiil.py``.
"""

from jaxkd.pipelines.dtiil.benchmark import (
    RUNTIME_KEYS,
    check,
    default,
    format_table,
    run,
    sample,
    write_report,
)
from jaxkd.pipelines.dtiil.localization import Finding, Settings, localise

__all__ = [
    "RUNTIME_KEYS",
    "Finding",
    "Settings",
    "check",
    "default",
    "format_table",
    "localise",
    "run",
    "sample",
    "write_report",
]
