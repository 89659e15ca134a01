"""Recognises the package index's other library of the same import name."""

import importlib.metadata

_OURS = "jaxkd-vision"
_SUMMARY = "Knowledge distillation"  # how ours begins, under its former name, too


def warning() -> str | None:
    """Returns what to do if another library called ``jaxkd`` is installed; or None.

    Both bring a package ``jaxkd``: whichever was installed last has overwritten files
    of the other.
    """
    try:
        found = importlib.metadata.metadata("jaxkd")
    except importlib.metadata.PackageNotFoundError:
        return None
    if (found.get("Summary") or "").startswith(_SUMMARY):
        return None
    return (
        f"another library called jaxkd ({found.get('Version')}) is installed, which "
        f"has the same import name and may have replaced files of this one ({_OURS}). "
        "Remove it with: pip uninstall jaxkd; then install this one again, from its "
        "clone: pip install -e ."
    )
