"""Writes the pages of the API reference: one for each package.

A page lists the package's files with the first line of their docstrings, then documents
each file: its docstring, its public functions and classes. The files of packages that
are used alone (``BY_FILE``) have pages of their own; a page for every file would double
the time of a build, since each page repeats the list of all in its margin.

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
BY_FILE = ("jaxkd.losses", "jaxkd.diffusion")

# From the command line down to the contracts, as in the layers of CONTRIBUTING.md;
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


def children(name: str) -> tuple[list[str], list[str]]:
    """Lists the public modules and the packages directly within a package."""
    path = getattr(importlib.import_module(name), "__path__", [])
    found: tuple[list[str], list[str]] = ([], [])
    for info in pkgutil.iter_modules(path, f"{name}."):
        if not info.name.rpartition(".")[2].startswith("_"):
            found[info.ispkg].append(info.name)
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


def section(name: str, mark: str = "-") -> list[str]:
    """Returns the lines that document one module."""
    module = importlib.import_module(name)
    lines = [*_heading(name, mark), f".. automodule:: {name}", "   :no-members:", ""]
    for member in members(module):
        value = vars(module)[member]
        kind = "class" if inspect.isclass(value) else "function"
        lines.append(f".. auto{kind}:: {public_name(module, member)}")
        lines += ["   :members:"] if kind == "class" else []
        lines.append("")
    return lines


def package_pages(name: str) -> dict[str, str]:
    """Returns the pages of a room and of what lies in it, by file name."""
    files, packages = children(name)
    own_pages = name in BY_FILE
    lines = section(name, "=")
    if files or packages:
        # Without this, a module that was documented is taken for the current one.
        lines += [".. py:currentmodule:: None", "", ".. autosummary::", ""]
        lines += [f"   ~{each}" for each in (*packages, *files)]
        lines += ["", ".. toctree::", "   :hidden:", ""]
        lines += [f"   {each} <{each}>" for each in (*packages, *files * own_pages)]
        lines.append("")
    pages = {}
    for each in files:
        if own_pages:
            pages[f"{each}.rst"] = "\n".join(section(each, "="))
        else:
            lines += section(each)
    pages[f"{name}.rst"] = "\n".join(lines)
    for package in packages:
        pages |= package_pages(package)
    return pages


def write_pages(app) -> None:
    """Writes all pages; those that did not change keep their time stamp."""
    folder = Path(app.srcdir) / FOLDER
    folder.mkdir(exist_ok=True)
    pages: dict[str, str] = {}
    names = rooms()
    for room in names:
        pages |= package_pages(f"jaxkd.{room}")
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
