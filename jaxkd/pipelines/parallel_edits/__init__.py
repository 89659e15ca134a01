"""ParallelEdits: edits several aspects of an image at once, each in its own branch.

``edit`` and ``plan`` edit images with any ``text_to_image.Backbone``; as a pipeline it
runs the benchmark of ``configs/parallel_edits.py``.
"""

from jaxkd.pipelines.parallel_edits.benchmark import (
    check,
    default,
    format_table,
    run,
    sample,
)
from jaxkd.pipelines.parallel_edits.edit import Branches, Edited, Settings, edit
from jaxkd.pipelines.parallel_edits.plan import Grouping, Plan

__all__ = [
    "Branches",
    "Edited",
    "Grouping",
    "Plan",
    "Settings",
    "check",
    "default",
    "edit",
    "format_table",
    "run",
    "sample",
]
