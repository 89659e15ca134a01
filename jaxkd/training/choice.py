"""Chooses one trained network of a run: one rule wherever a single one is used.

A study of several students has no student that is meant by itself: which one has to be
said. Seeds are draws of one experiment, of which the first will do unless another is
named, and ``use`` is ``"last"`` unless ``"best"`` is; both defaults are printed.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jaxkd.core import checkpoint, console, lookup
from jaxkd.core.errors import UserError

USES = ("last", "best")
# What may follow a folder: "runs/rld:student=kd,seed=2,use=best".
_SUFFIX = re.compile(
    r":((?:student|seed|use)=[^,:]*(?:,(?:student|seed|use)=[^,:]*)*)$"
)


class Source(NamedTuple):
    """A trained network that a configuration names.

    Attributes:
      path: folder of its run; empty for the needed run's own.
      student: row of its study; None where it has one.
      seed: None for the first.
      use: "last" or "best" parameters.
    """

    path: str
    student: str | None = None
    seed: int | None = None
    use: str = "last"


class Member(NamedTuple):
    """One trained network of a run: its student, its seed, "last" or "best"."""

    student: str
    seed: int
    use: str


def parse(text: str) -> Source:
    """Parses ``init_from``: a folder and, after a colon, which network of it.

    Args:
      text: ``"runs/rld"``, ``"runs/rld:student=kd"``,
        ``"runs/rld:student=kd,seed=2,use=best"``.

    Raises:
      UserError: if a seed is no number, or ``use`` neither "last" nor "best".
    """
    text = os.path.expanduser(text)
    found = _SUFFIX.search(text)
    if not found:
        return Source(text)
    keys = dict(part.split("=", 1) for part in found[1].split(","))
    seed, use = keys.get("seed"), keys.get("use", "last")
    if use not in USES or (seed is not None and not seed.isdigit()):
        raise UserError(
            f"init_from is {text!r}, expected FOLDER or FOLDER:student=NAME,seed=NUMBER"
            ",use=last, of which each may be left out; use is last or best."
        )
    number = None if seed is None else int(seed)
    return Source(text[: found.start()], keys.get("student"), number, use)


def choose(
    config: ConfigDict,
    where: str | Path,
    student: str | None = None,
    seed: int | None = None,
) -> tuple[str, int]:
    """Chooses the student and the seed of a run.

    Args:
      config: of the run.
      where: its folder, or what else names it in an error message.
      student: row of its study; None where it has one.
      seed: None for the first.

    Raises:
      UserError: if a study of several students is not told which, or there is no such
        student or seed.
    """
    names, seeds = student_names(config), list(config.seeds)
    if student is None and len(names) > 1:
        raise UserError(
            f"{where} holds {len(names)} students: {', '.join(names)}. Which one is "
            f"meant has to be said: --student={names[0]} on the command line, "
            f"student={names[0]!r} in Python, FOLDER:student={names[0]} in init_from. "
            "The run's report compares them."
        )
    chosen = names[0] if student is None else student
    picked = seeds[0] if seed is None else seed
    if chosen not in names or picked not in seeds:
        raise UserError(
            f"{where} holds no student {chosen!r} with seed {picked}. Students: "
            f"{', '.join(names)}; seeds: {', '.join(map(str, seeds))}."
        )
    return chosen, picked


def member_of(config: ConfigDict, where: str | Path, source: Source) -> Member:
    """Returns which network of a run a source names; see ``choose``.

    Raises:
      UserError: as ``choose``; or if ``use`` is neither "last" nor "best".
    """
    lookup.choose(source.use, dict.fromkeys(USES), what="use")
    return Member(*choose(config, where, source.student, source.seed), source.use)


def load(
    config: ConfigDict, folder: Path, source: Source
) -> tuple[Member, dict[str, Any]]:
    """Loads the network of a run that a source names, and prints which it is.

    Args:
      config: of the run.
      folder: of the run.
      source: whose ``path`` is not looked at.

    Returns:
      Which network it is, and its variables as NumPy arrays.

    Raises:
      UserError: see ``choose``; or if there is no checkpoint.
    """
    member = member_of(config, folder, source)
    announce(config, folder, *member)
    variables = checkpoint.load_member(
        folder / "checkpoints", member.use, member.student, member.seed
    )
    return member, variables


def student_names(config: ConfigDict) -> list[str]:
    """Returns the rows of a study; the one of a run that names none is its method."""
    return [*config.students] or [lookup.short_name(config.method)]


def announce(
    config: ConfigDict, where: str | Path, student: str, seed: int, use: str
) -> None:
    """Prints which network of a run is used, if it holds several."""
    if len(config.students) <= 1 and len(config.seeds) == 1:
        return
    of = ", ".join(map(str, config.seeds))
    console.announce(
        f"{where}: student {student}, seed {seed} (of {of}), {use} parameters"
    )
