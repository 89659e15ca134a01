"""The parts of a benchmark: computed one after the other, kept, and counted aloud."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxkd.core.errors import Interrupted
from jaxkd.core.preemption import StopRequest
from jaxkd.core.writers import Progress
from jaxkd.pipelines import workdir as folders

Part = dict[str, Any]


def compute(
    parts: Mapping[str, Callable[[], Part]],
    workdir: Path,
    name: str,
    images: int,
    stop_requested: StopRequest,
) -> list[Part]:
    """Computes what is not kept in the folder yet, and returns all parts, in order.

    Args:
      parts: name -> what computes it.
      workdir: where finished parts are kept.
      name: of the run, for the line that shows its progress.
      images: that a part works on, for the speed on that line.
      stop_requested: asked before each part.

    Raises:
      Interrupted: if asked to stop; what is done is kept.
    """
    missing = [one for one in parts if not folders.is_kept(workdir, one)]
    done = len(parts) - len(missing)
    progress = Progress(len(parts), done, name, images, unit="part")
    try:
        for count, part in enumerate(missing, done):
            who = stop_requested()
            if who is not None:
                raise Interrupted(
                    f"Stopped by {who} after {count} of {len(parts)} parts, which are "
                    f"kept in {workdir}. The same command goes on there."
                )
            progress.update(count)
            folders.keep(workdir, part, parts[part])
        progress.update(len(parts))
    finally:
        progress.close()
    return [folders.read(workdir, one) for one in parts]
