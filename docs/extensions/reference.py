"""Writes the pages of the API reference: a page for each room, one for each file.

A room is a package below ``jaxkd``. Its page lists its files with the first line of
their docstrings; a file's page holds its docstring and its public functions and classes.
Where a package exports a name (``jaxkd.losses.kd``), it is documented under that name,
in the page of the file that defines it, and nowhere else. The pages are made from the
code at every build, in ``docs/reference/``, which git ignores.
"""

import importlib
import inspect
import pkgutil
from pathlib import Path
from types import ModuleType

import jaxkd

FOLDER = "reference"

# From the command line down to the contracts, as in the floors of CONTRIBUTING.md;
# a room that is not named here comes last.
ORDER = (
    "api",
    "losses",
    "models",
    "diffusion",
    "metrics",
    "methods",
    "datasets",
    "views",
    "evaluators",
    "predictors",
    "pipelines",
    "convert",
    "recipes",
    "readers",
    "drawing",
    "report",
    "training",
    "aot",
    "core",
)


def rooms() -> list[str]:
    """Lists the packages and modules directly below ``jaxkd``, in reading order."""
    names = [m.name for m in pkgutil.iter_modules(jaxkd.__path__) if m.name[0] != "_"]
    last = len(ORDER)
    return sorted(names, key=lambda n: (ORDER.index(n) if n in ORDER else last, n))


def modules(room: str) -> list[str]:
    """Lists the public modules of a room, itself first."""
    package = importlib.import_module(f"jaxkd.{room}")
    found = [package.__name__]
    for info in pkgutil.walk_packages(
        getattr(package, "__path__", []), f"{package.__name__}."
    ):
        if not any(part.startswith("_") for part in info.name.split(".")):
            found.append(info.name)
    return found


def public_name(module: ModuleType, name: str) -> str:
    """Returns the shortest dotted name under which a package exports an object."""
    value = vars(module)[name]
    parts = module.__name__.split(".")
    for depth in range(2, len(parts)):
        package = importlib.import_module(".".join(parts[:depth]))
        exported = name in getattr(package, "__all__", ())
        if exported and getattr(package, name, None) is value:
            return f"{package.__name__}.{name}"
    return f"{module.__name__}.{name}"


def members(module: ModuleType) -> list[str]:
    """Lists the public functions and classes that a module defines, in its order."""
    found = [
        (name, value)
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value)))
        and inspect.getdoc(value)
    ]
    lines = {name: _line(value) for name, value in found}
    return sorted(lines, key=lambda name: lines[name])


def _line(value: object) -> int:
    try:
        return inspect.getsourcelines(inspect.unwrap(value))[1]  # type: ignore[arg-type]
    except (OSError, TypeError):
        return 0


def _heading(text: str, mark: str) -> list[str]:
    return [text, mark * len(text), ""]


def file_page(name: str) -> str:
    """Returns the page of one module."""
    module = importlib.import_module(name)
    lines = [*_heading(name, "="), f".. automodule:: {name}", "   :no-members:", ""]
    for member in members(module):
        value = vars(module)[member]
        kind = "class" if inspect.isclass(value) else "function"
        lines.append(f".. auto{kind}:: {public_name(module, member)}")
        lines += ["   :members:"] if kind == "class" else []
        lines.append("")
    return "\n".join(lines)


def room_page(room: str, files: list[str]) -> str:
    """Returns the page of a room: its own module, and a table of its files."""
    lines = [file_page(files[0])]
    if files[1:]:
        lines += [".. rubric:: Files", "", ".. autosummary::", ""]
        lines += [f"   ~{name}" for name in files[1:]]
        lines += ["", ".. toctree::", "   :hidden:", ""]
        lines += [f"   {name} <{name}>" for name in files[1:]]
        lines.append("")
    return "\n".join(lines)


def write_pages(app) -> None:
    """Writes all pages; those that did not change keep their time stamp."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    pages = {}
    names = rooms()
    for room in names:
        files = modules(room)
        pages[f"{files[0]}.rst"] = room_page(room, files)
        pages |= {f"{name}.rst": file_page(name) for name in files[1:]}
    index = [*_heading("API reference", "="), ".. autosummary::", ""]
    index += [f"   jaxkd.{room}" for room in names]
    index += ["", ".. toctree::", "   :hidden:", ""]
    index += [f"   {room} <jaxkd.{room}>" for room in names]
    pages["index.rst"] = "\n".join([*index, ""])
    for path in folder.glob("*.rst"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app) -> dict[str, bool]:
    """Writes the pages before Sphinx looks for them."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
