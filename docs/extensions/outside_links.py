"""Links from the pages to files outside ``docs/``.

The Markdown is read in two places: in the repository, where ``../launch/README.md``
and, in README.md, ``CONTRIBUTING.md`` open, and as this site. Here links to files that
a page includes lead to that page; others become plain text. If there is no
such file, the build warns.
"""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)

PAGES = {
    "README.md": "index",
    "CONTRIBUTING.md": "contributing",
    "CHANGELOG.md": "changelog",
}


class OutsideLinks(SphinxPostTransform):
    """Redirects links to files outside ``docs/``, or replaces them by their text."""

    default_priority = 5  # before MyST resolves links and misses the target

    def run(self, **kwargs: object) -> None:
        """Goes through the links of one page."""
        root = Path(self.env.srcdir).parent
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get("reftype") != "myst":
                continue
            target, _, anchor = str(node["reftarget"]).partition("#")
            if node.get("refdomain") == "doc":
                # MyST has made a page's name of the path: absolute, without suffix.
                if not target.startswith("/"):
                    continue
                file, anchor = Path(f"{target}.md"), node.get("reftargetid") or ""
            else:
                file = root / target
                if not Path(target).suffix:
                    continue
            self._redirect(node, file, root, anchor)

    def _redirect(self, node, file: Path, root: Path, anchor: str) -> None:
        if not file.exists():
            logger.warning("no file %s", file, location=node)
        page = PAGES.get(str(file.resolve().relative_to(root)))
        if page is None:
            node.replace_self(nodes.inline("", "", *node.children))
            return
        node["refdomain"], node["reftarget"] = "doc", page
        node["reftargetid"] = anchor or None


def setup(app) -> dict[str, bool]:
    """Adds the transform to Sphinx."""
    app.add_post_transform(OutsideLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
