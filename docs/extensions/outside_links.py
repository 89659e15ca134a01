"""Links from the pages to files that are no pages: configs, launchers, modules.

The Markdown of ``docs/`` is read in two places: in the repository, where a link such as
``../launch/README.md`` opens, and as this site, where it has no target. Here such a link
becomes plain text in the site, if the file exists; if it does not, the build warns.
"""

from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)


class OutsideLinks(SphinxPostTransform):
    """Replaces links to files of the repository outside ``docs/`` by their text."""

    default_priority = 5  # before MyST resolves links and misses the target

    def run(self, **kwargs: object) -> None:
        """Goes through the links of one page."""
        for node in list(self.document.findall(addnodes.pending_xref)):
            # MyST has made a page's name of the path: absolute, without its suffix.
            target = Path(f"{node.get('reftarget', '')}.md")
            if node.get("refdomain") != "doc" or not target.is_absolute():
                continue
            if not target.exists():
                logger.warning("no file %s", target, location=node)
            node.replace_self(nodes.inline("", "", *node.children))


def setup(app) -> dict[str, bool]:
    """Adds the transform to Sphinx."""
    app.add_post_transform(OutsideLinks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
