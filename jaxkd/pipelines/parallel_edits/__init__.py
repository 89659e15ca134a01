"""ParallelEdits: edits several aspects of an image at once, each in its own branch.

``edit_picture`` edits a picture with any ``text_to_image.Backbone``; as a pipeline it
runs the benchmark of ``configs/parallel_edits.py``.
"""

from jaxkd.pipelines.parallel_edits.benchmark import (
    RUNTIME_KEYS,
    check,
    default,
    format_table,
    run,
    sample,
    write_report,
)
from jaxkd.pipelines.parallel_edits.edit import Branches, Edited, Settings
from jaxkd.pipelines.parallel_edits.picture import edit_picture, write_page
from jaxkd.pipelines.parallel_edits.plan import Grouping, Plan

__all__ = [
    "RUNTIME_KEYS",
    "Branches",
    "Edited",
    "Grouping",
    "Plan",
    "Settings",
    "check",
    "default",
    "edit_picture",
    "format_table",
    "run",
    "sample",
    "write_page",
    "write_report",
]
