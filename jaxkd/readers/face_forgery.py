"""Lists of face images with label codes: text, csv, folders, DeepfakeBench's JSON.

Films may stand among the images. Every reader returns rows; no file is opened. What
cannot be used is an error that names the file, the line and the rule it breaks.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxkd.core import parsing
from jaxkd.core.errors import UserError
from jaxkd.losses.label_graph import UNKNOWN, LabelGraph
from jaxkd.readers import images, listing, video, video_frames

REAL = "real"  # method of an image that is not forged
SUFFIXES = (*images.SUFFIXES, *video.SUFFIXES)
_AGE, _GENDER, _IDENTITY = "110000100001", "120110111101", "120010111111"
_SMILE, _POSE = "101000001100", "100001111111"
# An expression of unknown kind: a smile moves lip and mouth, a surprise more.
_EXPRESSION = "101000201122"
# Method folder of the FFSC data set -> label code; "Real" is all zeros.
FFSC_METHODS: Mapping[str, str] = {
    "Real": "0" * 12,
    **dict.fromkeys(("diffae-age", "StyleRes-age", "HFGI-age"), _AGE),
    **dict.fromkeys(
        ("diffae-gender", "StyleGAN2_dis-gender", "StyleCLIP-gender"), _GENDER
    ),
    **dict.fromkeys(("simswap", "fsgan", "BlendFace", "InfoSwap"), _IDENTITY),
    **dict.fromkeys(("StyleRes-expr", "fomm-expr"), _EXPRESSION),
    "HFGI-smile": _SMILE,
    **dict.fromkeys(("fomm-pose", "TPS-pose", "FNeVR"), _POSE),
}
# The same of FaceForensics++.
FFPP_METHODS: Mapping[str, str] = {
    "original_sequences": "0" * 10,
    **dict.fromkeys(("Face2Face", "NeuralTextures"), "1101001100"),
    **dict.fromkeys(("Deepfakes", "FaceSwap", "FaceShifter"), "1011111111"),
}
_REMEDY = "Check the path, and that the file is whole."


class FaceRow(NamedTuple):
    """One image and what is known of it.

    Attributes:
      path: of the image.
      code: int8 ``[nodes]``, 2 where unknown; whether it is fake is known.
      method: that made it, ``"real"`` for none.
      video: that it is a frame of, unique within the method; else its own path.
      frame: of a film, which of its evenly spaced frames.
      frames: of a film, how many of these; 0 for an image.
    """

    path: Path
    code: np.ndarray
    method: str
    video: str
    frame: int = 0
    frames: int = 0


def read_list(path: str | Path, graph: LabelGraph, root: str = "") -> list[FaceRow]:
    """Reads a text file of lines ``<image> <code>``, as FFSC's.

    The code is one character for each node: 0, 1, or 2 for unknown. Blank lines and
    lines that begin with ``#`` are passed over. The method is the folder that the
    image lies in (or the folder above, where frames lie in a folder of their video).

    Args:
      path: of the text file.
      graph: of the labels.
      root: folder that the images' paths begin at; that of the file if empty.

    Raises:
      UserError: if the file cannot be read or a line is not of this form.
    """
    path = _existing(path)
    base, rows = Path(root) if root else path.parent, []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        image, _, code = line.strip().rpartition(" ")
        if not image:
            raise UserError(
                f"{path}, line {number}: got {line.strip()!r}, expected the path of an "
                "image, a space and a label code."
            )
        origin = f"{path}, line {number}"
        labels = _checked(code, graph, origin)
        row = _row(base / image.strip(), labels, base)
        rows.append(_with_method(row, row.method, origin))
    return _not_empty(rows, path)


def read_csv(path: str | Path, graph: LabelGraph, root: str = "") -> list[FaceRow]:
    """Reads a csv file with a column ``path`` and one for each node of the graph.

    An empty cell is unknown. A node without a column is unknown throughout, except
    that a real image (the root's label is 0) has nothing altered, and that an image of
    which something is altered is fake. Columns ``method`` and ``video`` are read if
    there; without ``video`` an image is a frame of one only if its name is a number and
    its folder lies in another.

    Args:
      path: of the csv file.
      graph: of the labels.
      root: folder that the images' paths begin at; that of the file if empty.

    Raises:
      UserError: if the file cannot be read, a column or a label is not understood, or
        a row contradicts the graph.
    """
    path = _existing(path)
    base, root_name = Path(root) if root else path.parent, graph.nodes[0]
    table = csv.DictReader(io.StringIO(_text(path), newline=""))
    with parsing.parsing(path, "csv", _REMEDY):
        columns = header(table.fieldnames or ())
        table.fieldnames = columns
        lines = [(table.line_num, line) for line in table]
    if not {"path", root_name} <= set(columns):
        raise UserError(
            f"{path} has the columns {', '.join(columns) or 'none'}; expected path, "
            f"{root_name} and any of {', '.join(graph.nodes[1:])}, method, video."
        )
    unknown = sorted(set(columns) - {"path", "method", "video", *graph.nodes})
    if unknown:
        raise UserError(
            f"{path} has the columns {', '.join(unknown)}, which are no nodes of the "
            f"graph: {', '.join(graph.nodes)}. Rename or remove them."
        )
    rows = [
        _row_of_csv(line, graph, base, f"{path}, line {number}")
        for number, line in lines
    ]
    return _not_empty(rows, path)


def header(cells: Sequence[str]) -> list[str]:
    """Returns the names of a csv file's columns, whose case does not matter."""
    return [cell.strip().lower() for cell in cells]


def _row_of_csv(line: Mapping, graph: LabelGraph, base: Path, origin: str) -> FaceRow:
    parsing.check_cells(line, origin)
    given = {name: (cell or "").strip() for name, cell in line.items()}
    if not given["path"]:
        raise UserError(f"{origin}: path is empty, expected that of an image.")
    # A column with empty cells becomes one of fractions in some programs.
    cells = [(given.get(node) or "2").removesuffix(".0") for node in graph.nodes]
    if cells[0] == "0":
        cells = ["0" if cell == "2" else cell for cell in cells]
    row = _row(base / given["path"], _checked(cells, graph, origin), base)
    frame = row.path.stem.isdigit() or video_frames.is_film(row.path)
    own = row.video if frame else given["path"]
    row = row._replace(video=given.get("video") or own)
    return _with_method(row, given.get("method") or row.method, origin)


def with_frames(rows: Sequence[FaceRow], frames: int) -> list[FaceRow]:
    """Replaces each film by a row for each of its frames that are taken.

    Args:
      rows: of any of the readers.
      frames: most frames of a film, evenly spaced; 0 for all.

    Raises:
      UserError: if a film cannot be opened, or PyAV is not installed.
    """
    found = []
    for row in rows:
        if not video_frames.is_film(row.path):
            found.append(row)
            continue
        count = len(video_frames.places(video.count_frames(row.path), frames))
        if not count:
            raise UserError(f"{row.path} has no frames. {_REMEDY}")
        found += [row._replace(frame=i, frames=count) for i in range(count)]
    return found


def read_folder(
    root: str | Path, graph: LabelGraph, methods: Mapping[str, str] | str | Path
) -> list[FaceRow]:
    """Reads all images below a folder; the folder of a method gives their label.

    Frames lie in the method's folder, as ``<video>_<frame>...``, or in folders of
    their videos, at any depth. Films are listed like images; see ``with_frames``.

    Args:
      root: the folder.
      graph: of the labels.
      methods: method folder -> label code, or the yaml file that holds them. Of
        several folders on an image's path the deepest counts.

    Raises:
      UserError: if there is no such folder, it holds no images, a code is not
        consistent, or an image lies in no method's folder.
    """
    top = _existing(root)
    origin = "The methods' codes"
    if not isinstance(methods, Mapping):
        origin = str(methods)
        methods = read_methods(methods)
    codes = {
        name: _checked(code, graph, f"{origin}, {name}")
        for name, code in methods.items()
    }
    rows, strangers = [], set()
    for image in listing.named(top, SUFFIXES):
        parents = image.relative_to(top).parts[:-1]
        named = [place for place, part in enumerate(parents) if part in codes]
        if not named:
            strangers.add("/".join(parents) or ".")
            continue
        method = parents[named[-1]]
        below = "/".join(parents[named[-1] + 1 :])
        if video_frames.is_film(image):
            below = "/".join((*parents[named[-1] + 1 :], image.stem))
        row = FaceRow(image, codes[method], REAL, below or _video_of_file(image))
        rows.append(_with_method(row, method, origin))
    if strangers:
        raise UserError(
            f"{top}: no method is known for images in "
            f"{', '.join(sorted(strangers)[:5])} ({len(strangers)} folders). Known: "
            f"{', '.join(codes)}. Name the folders' codes in a yaml file (methods), or "
            "move them elsewhere."
        )
    return _not_empty(rows, top)


def read_methods(path: str | Path) -> dict[str, str]:
    """Reads a yaml file of lines ``<method>: <label code>``.

    Raises:
      UserError: if it is something else.
    """
    import yaml

    path = _existing(path)
    with parsing.parsing(path, "yaml", _REMEDY):
        # Strings alone: a code such as 010010 would otherwise be a number.
        content = yaml.load(_text(path), Loader=yaml.BaseLoader)
    if not isinstance(content, dict) or not all(
        isinstance(code, str) for code in content.values()
    ):
        raise UserError(f"{path}: expected lines '<method folder>: <label code>'.")
    return content


def read_deepfakebench(
    path: str | Path,
    graph: LabelGraph,
    split: str,
    *,
    root: str = "",
    compression: str = "c23",
    frames: int = 32,
    codes: Mapping[str, str] | None = None,
) -> list[FaceRow]:
    """Reads one split of a data set as DeepfakeBench describes it in JSON.

    ``{data set: {label: {split: [{compression:] {video: {frames: [paths]}}}}}}``. A
    label whose name ends in "real" is real, all others are fake, and how is unknown
    unless ``codes`` names it. Videos are told apart by label *and* name: two methods
    use the same names.

    Args:
      path: of the JSON file.
      graph: of the labels.
      split: ``"train"``, ``"val"`` or ``"test"``.
      root: folder that the frames' paths begin at; that of the file if empty.
      compression: which of several is taken, where there are several.
      frames: most frames of a video, evenly spaced; 0 for all.
      codes: label -> label code.

    Raises:
      UserError: if the file is not of this form or has no such split.
    """
    path = _existing(path)
    base, rows = Path(root) if root else path.parent, []
    what = (
        "DeepfakeBench's form, {data set: {label: {split: {video: {frames: [...]}}}}}"
    )
    content = parsing.read_json(path, what, _REMEDY)
    with parsing.parsing(path, what, _REMEDY):
        for labels in content.values():
            for label, splits in labels.items():
                if split not in splits:
                    continue
                code = _code_of_label(label, graph, codes or {}, path)
                videos = splits[split]
                for name, clip in dict(videos.get(compression, videos)).items():
                    given = clip["frames"]
                    for place in video_frames.places(len(given), frames):
                        image = base / str(given[place]).replace("\\", "/")
                        row = FaceRow(image, code, REAL, f"{label}/{name}")
                        rows.append(_with_method(row, label, str(path)))
    if not rows:
        raise UserError(f"{path} has no frames in the split {split!r}.")
    return rows


def _code_of_label(label: str, graph: LabelGraph, codes, path: Path) -> np.ndarray:
    if label in codes:
        return _checked(codes[label], graph, f"{path}, {label}")
    rest = len(graph.nodes) - 1
    if label.lower().endswith("real"):
        return np.zeros(rest + 1, np.int8)
    return np.array([1] + [UNKNOWN] * rest, np.int8)


def _row(path: Path, code: np.ndarray, base: Path) -> FaceRow:
    """Makes a row of an image whose folders are all that is known of its method."""
    inside = path.parent.relative_to(base) if path.is_relative_to(base) else path.parent
    names = inside.parts
    name, method = _video_of_file(path), names[-1] if names else "fake"
    frame = path.stem.isdigit() and not video_frames.is_film(path)
    if frame and len(names) > 1:  # <method>/<video>/0001.png
        method, name = names[-2], names[-1]
    return FaceRow(path, code, method, f"{inside}/{name}")


def _with_method(row: FaceRow, method: str, origin: str) -> FaceRow:
    """Names the method of a row: none of a real image, whatever its list or folder."""
    if row.code[0] == 0:
        return row._replace(method=REAL)
    if method == REAL:
        raise UserError(
            f"{origin}: {row.path} is fake, but its method is named {REAL!r}, which "
            "stands for real images. Name the method otherwise, or correct the label."
        )
    return row._replace(method=method)


def _video_of_file(path: Path) -> str:
    """Returns what comes before the frame in a name such as ``id0_0003_aged.png``."""
    return path.stem if video_frames.is_film(path) else path.stem.split("_")[0]


def _checked(code: Sequence[str] | str, graph: LabelGraph, origin: str) -> np.ndarray:
    """Checks a code, and finds out whether the image is fake if it leaves that open."""
    try:
        labels = graph.check(code)
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from error
    if labels[0] == UNKNOWN:
        if not (labels[1:] == 1).any():
            raise UserError(
                f"{origin}: nothing tells whether the image is fake, expected 0 or 1 "
                f"for {graph.nodes[0]!r}. Leave out images of which it is not known."
            )
        labels[0] = 1
    return labels


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    with parsing.parsing(path, "a file or folder", _REMEDY):
        there = path.exists()
    if not there:
        raise UserError(f"{path} does not exist. Check the path.")
    return path


def _text(path: Path) -> str:
    return parsing.read_text(path, "text", _REMEDY)


def _not_empty(rows: list[FaceRow], path: Path) -> list[FaceRow]:
    if not rows:
        raise UserError(f"{path} lists no images.")
    return rows
