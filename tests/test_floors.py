"""The layers of CONTRIBUTING.md: no import runs up, and none runs in a circle.

Imports inside functions count, too. When a test fails it prints the offending imports
and how many modules each room has.
"""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jaxkd"

# From the top down; a room may import from its own floor and from those below.
FLOORS = (
    ("main", "api"),
    ("pipelines", "train"),
    ("evaluate", "predictors", "convert", "aot"),
    ("training",),
    ("methods",),
    ("evaluators",),
    ("datasets", "views"),
    ("readers", "drawing", "models", "report", "recipes"),
    ("losses", "diffusion", "metrics", "core"),
)
LOOSE = {"main", "api", "train", "evaluate"}
# These work in anybody's loop: nothing but the packages named here is imported.
PURE = {
    "losses": {"jax", "jaxkd", "numpy", "optax", "flax", "scipy"},
    "models": {"jax", "jaxkd", "numpy", "optax", "flax", "scipy"},
    "diffusion": {"jax", "jaxkd", "numpy", "optax", "flax", "scipy"},
}


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def room(module):
    """The top-level room of a module; empty for the package itself."""
    return ".".join(module.split(".")[1:2])


def imports(module):
    """All modules that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                longer = f"{node.module}.{alias.name}"
                found.add(longer if longer in MODULES else node.module)
    return found


EDGES = {name: imports(name) & MODULES.keys() - {name} for name in MODULES}


def picture():
    """The rooms in numbers."""
    rooms = Counter(room(name) for name in MODULES if room(name))
    return ", ".join(f"{name} {count}" for name, count in rooms.most_common())


def test_no_import_runs_up():
    floor = {name: -at for at, rooms in enumerate(FLOORS) for name in rooms}
    assert {room(name) for name in MODULES} - {""} <= floor.keys(), picture()
    up = [
        f"{name} imports {other}"
        for name in MODULES
        for other in EDGES[name]
        if room(name) and room(other) and floor[room(other)] > floor[room(name)]
    ]
    assert not up, "\n".join([*sorted(up), picture()])


def test_no_import_runs_in_a_circle():
    """Removes modules that import nothing that is left, until nothing is left."""
    left = {name: set(others) for name, others in EDGES.items()}
    while free := [name for name, others in left.items() if not others]:
        for name in free:
            del left[name]
        for others in left.values():
            others -= set(free)
    circles = "\n".join(f"{name}: {', '.join(sorted(o))}" for name, o in left.items())
    assert not left, f"{circles}\n{picture()}"


def test_no_loose_module_lies_at_the_top():
    loose = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert loose == LOOSE, picture()


def test_the_science_imports_arrays_alone():
    strangers = {
        f"{name} imports {other}"
        for name in MODULES
        for other in imports(name)
        if room(name) in PURE
        and other.split(".")[0] not in PURE[room(name)] | _standard_library()
    }
    assert not strangers, "\n".join(sorted(strangers))


def _standard_library():
    import sys

    return set(sys.stdlib_module_names)


def test_commands_are_not_imported_by_their_package():
    """``python -m`` warns of a module that its package has already imported."""
    commands = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__main__.py" and '__name__ == "__main__"' in path.read_text()
    ]
    code = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name.rpartition('.')[0])\n"
        "    print(name * (name in sys.modules), end='')\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *commands],
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE.parent,
    )
    assert len(commands) > 5 and not ran.stdout
