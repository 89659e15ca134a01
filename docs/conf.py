"""Sphinx configuration: ``sphinx-build -W -b html docs docs/_build/html``."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "extensions")]

import jaxkd  # noqa: E402

project = "jaxkd"
author = "The jaxkd developers"
copyright = "the jaxkd developers, Apache-2.0"
version = release = jaxkd.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "config_tables",
    "docstrings",
    "outside_links",
    "reference",
]
exclude_patterns = ["_build", "extensions"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

# Headings get the anchors that GitHub gives them, so that links work in both places.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Docstrings: Google style. The single backquotes of Markdown are not used in them.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = False
python_maximum_signature_line_length = 78
add_module_names = True  # jaxkd.losses.kd: what to import
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"jaxkd {version}"
html_show_sphinx = False
html_copy_source = False


# Pages of the first page's other lists; every other page of docs/ is of a system.
GUIDES = {
    *("index", "results", "data", "networks", "configuration", "workdir"),
    *("api", "scale", "robustness", "official_code", "contributing", "changelog"),
    "own_images",
}
FIRST = (
    *("recipes", "cross_resolution", "text", "detection", "restoration", "recognition"),
    *("handwriting", "handwriting_vlm", "forgery", "face_forgery", "cross_modal"),
    *("medical", "sampling", "schedules_elsewhere", "editing"),
)


def list_systems(app, name: str, source: list[str]) -> None:
    """Puts the pages of all systems into the table of contents of the first page."""
    del app
    if name == "index":
        pages = {path.stem for path in HERE.glob("*.md")} - GUIDES
        known = [page for page in FIRST if page in pages]
        listed = "\n".join([*known, *sorted(pages - set(known))])
        source[0] = source[0].replace("SYSTEM_PAGES", listed)


def setup(app) -> None:
    """Connects ``list_systems``."""
    app.connect("source-read", list_systems)


# Attributes of one name in several classes, such as ``width``: which is meant is clear
# from where it stands.
suppress_warnings = ["ref.python"]
