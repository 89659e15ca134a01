"""Tells by its first bytes what a file is that lies among those of an export."""

_BEGINNINGS = {
    b"\x89PNG": "PNG image",
    b"\xff\xd8\xff": "JPEG image",
    b"GIF8": "GIF image",
    b"%PDF": "PDF",
    b"PK\x03\x04": "zip archive",
    b"\x1f\x8b": "gzip archive",
    b"MZ": "program",
    b"\x7fELF": "program",
}


def kind(begin: bytes) -> str:
    """Names content that is certainly no DICOM, by the first bytes of a file.

    >>> kind(b"%PDF-1.7"), kind(b"<html>"), kind(bytes(132))
    ('a PDF', 'text', '')
    """
    for magic, name in _BEGINNINGS.items():
        if begin.startswith(magic):
            return f"a {name}"
    if not begin or b"\0" in begin:
        return ""
    text = begin.decode("utf-8", "ignore")
    readable = sum(c.isprintable() or c.isspace() for c in text)
    return "text" if readable >= 0.9 * len(begin) else ""
