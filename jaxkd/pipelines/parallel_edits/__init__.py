"""ParallelEdits: edits several aspects of an image at once, each in its own branch."""

from jaxkd.pipelines.parallel_edits.edit import Branches, Edited, Settings, edit
from jaxkd.pipelines.parallel_edits.plan import Grouping, Plan

__all__ = ["Branches", "Edited", "Grouping", "Plan", "Settings", "edit"]
