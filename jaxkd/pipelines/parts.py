"""The parts of a benchmark: computed one after the other, kept, and counted aloud."""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
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
    run = pending(list(parts), workdir, name, images, stop_requested, unit="part")
    with closing(run) as missing:
        for part in missing:
            folders.keep(workdir, part, parts[part])
    return [folders.read(workdir, one) for one in parts]


def pending(
    parts: Sequence[str],
    workdir: Path,
    name: str,
    images: int,
    stop_requested: StopRequest,
    *,
    unit: str,
) -> Generator[str, None, None]:
    """Yields the parts that are not kept yet, and shows how far the work is.

    Each is to be kept before the next is asked for.

    Args:
      parts: names of all.
      workdir: see ``compute``, as the next three.
      name: likewise.
      images: likewise.
      stop_requested: likewise.
      unit: what a part is called.

    Raises:
      Interrupted: if asked to stop; what is done is kept.
    """
    missing = [one for one in parts if not folders.is_kept(workdir, one)]
    done = len(parts) - len(missing)
    progress = Progress(len(parts), done, name, images, unit=unit)
    try:
        for count, part in enumerate(missing, done):
            who = stop_requested()
            if who is not None:
                raise Interrupted(
                    f"{who}: stopped after {count} of {len(parts)} {unit}s, which are "
                    f"saved in {workdir}. The same command continues."
                )
            progress.update(count)
            yield part
        progress.update(len(parts))
    finally:
        progress.close()
