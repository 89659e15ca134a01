"""Images of faces, real and forged, from lists, csv, folders or DeepfakeBench's JSON.

What a path holds is found by its content: a folder is read by its methods' folders, a
text by its first characters. Labels are codes of a label graph, 2 where unknown. Of
films among the images, evenly spaced frames are taken; they are decoded once and kept
in the cache folder.
"""

import csv
import hashlib
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from jaxkd.core import files, lookup
from jaxkd.core.errors import UserError
from jaxkd.core.source import ArraySource, Dataset, Example, Info
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.readers import face_alignment, video_frames
from jaxkd.readers import face_forgery as reader
from jaxkd.readers.face_forgery import REAL, FaceRow
from jaxkd.readers.images import decode, resize

VERSION = 1  # of the kept frames; part of their files' names
GRAPHS = {"ffsc": LabelGraph.ffsc, "ffpp": LabelGraph.ffpp}
METHODS: dict[str, Mapping[str, str]] = {
    "ffsc": reader.FFSC_METHODS,
    "ffpp": reader.FFPP_METHODS,
}
# Names that a split has in one data set or another.
_SPLITS = {
    "train": ("train", "Train", "train.txt", "train.csv"),
    "test": (
        "test",
        "Test",
        "test.txt",
        "test.csv",
        "val",
        "Val",
        "val.txt",
        "val.csv",
    ),
}


class Manipulations:
    """How the images of a data set were made.

    Attributes:
      names: of the methods, ``"real"`` first, then those of the training images.
      trained: how many of ``names`` there are among the training images.
      keys: (method, video) of each image; None where there are no videos.
    """

    names: tuple[str, ...]
    trained: int
    keys: Sequence[tuple[str, str]] | None


class DrawnFaces(ArraySource, Manipulations):
    """Faces in memory, each of its own."""

    def __init__(self, arrays, names: tuple[str, ...], trained: int):
        super().__init__(arrays)
        self.names, self.trained, self.keys = names, trained, None


class FilmFrames:
    """Decodes the frames of a film when one is first asked for, and keeps them.

    Attributes:
      size: side that frames are resized to.
      folder: that they are kept in.
      face_model: YuNet's file, to align the largest face of each frame; empty where
        films show aligned faces alone.
    """

    def __init__(self, size: int, cache: str = "", face_model: str = ""):
        self.size, self.face_model = size, face_model
        own = files.user_cache("face_frames")
        self.folder = Path(cache).expanduser() if cache else own

    def __call__(self, row: FaceRow) -> np.ndarray:
        """Returns one frame, uint8 ``[size, size, 3]``.

        Raises:
          UserError: if nothing of the film can be decoded, or no face is found.
        """
        path = self._place(row)
        try:
            kept = np.load(path, mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):  # a damaged one is made again
            kept = self._decode(row, path)
        # There may be fewer than the film claims: it is damaged, or faces are missing.
        return np.array(kept[row.frame * len(kept) // row.frames])

    def _decode(self, row: FaceRow, path: Path) -> np.ndarray:
        found = video_frames.read(row.path, row.frames)
        if found.damaged:
            print(
                f"jaxkd: warning: {row.path} is damaged; {len(found.images)} frames of "
                "what can be decoded are used.",
                file=sys.stderr,
            )
        shape = (self.size, self.size)
        kept = np.stack([resize(image, shape) for image in self._faces(row, found)])
        self.folder.mkdir(parents=True, exist_ok=True)
        # Complete or not there: several threads and processes may make it.
        with files.replacing(path) as temporary:
            np.save(temporary, kept)
        return kept

    def _faces(self, row: FaceRow, found: video_frames.Frames) -> list[np.ndarray]:
        if not self.face_model:
            return found.images
        # A detector of its own: several threads decode, and it remembers sizes.
        find = face_alignment.yunet(self.face_model)
        looked = [face_alignment.largest(image, find)[0] for image in found.images]
        faces = [face for face in looked if face is not None]
        if not faces:
            raise UserError(f"{row.path}: no face was found. Take it off the data.")
        return faces

    def _place(self, row: FaceRow) -> Path:
        """Names the kept file by all that its content depends on."""
        stat = row.path.stat()
        known = (
            VERSION,
            self.size,
            row.frames,
            self.face_model,
            str(row.path.resolve()),
        )
        text = repr((*known, stat.st_size, stat.st_mtime_ns))
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npy"


class FaceFiles(Manipulations):
    """Image files and frames of films; one is decoded when it is asked for."""

    def __init__(
        self,
        rows: Sequence[FaceRow],
        names: tuple[str, ...],
        trained: int,
        films: FilmFrames,
    ):
        self.rows, self.names, self.trained = rows, names, trained
        self._films = films
        self.keys = [(row.method, row.video) for row in rows]
        self._place = {name: place for place, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self.rows[index]
        # The rarer methods share the last of as many classes as there are logits.
        place = min(self._place[row.method], len(row.code) - 1)
        return {
            "image": self._films(row) if row.frames else decode(row.path),
            "label": np.asarray(row.code[0] == 1, np.int32),
            "code": row.code,
            "manipulation": np.asarray(place, np.int32),
        }


def load(
    root: str = "",
    train: str = "",
    test: str = "",
    graph: str = "ffsc",
    methods: str = "",
    size: int = 299,
    compression: str = "c23",
    frames: int = 32,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
    cache: str = "",
    face_model: str = "",
) -> Dataset:
    """Lists images and films; none is decoded yet, but all have to be there.

    Args:
      root: folder that paths in lists begin at; and that holds the splits ``train`` and
        ``test`` (or ``val``), folders or lists, unless the next two name them.
      train: folder, list, csv or JSON of the training images.
      test: the same of the test images.
      graph: of the labels, ``"ffsc"`` or ``"ffpp"``.
      methods: yaml file of method folder -> label code; the graph's own if empty.
      size: side that images are resized to.
      compression: of DeepfakeBench's JSON.
      frames: most frames of a film, and of a video of DeepfakeBench's JSON, evenly
        spaced; 0 for all.
      mean: of each channel in [0, 1].
      std: of each channel in [0, 1].
      cache: folder that the frames of films are kept in; one of the user's if empty.
      face_model: YuNet's ONNX file, to find and align the largest face in frames of
        films; images, and films if it is empty, are aligned crops already.

    Raises:
      UserError: if a split is missing or empty, a file is not there, or a label is not
        understood; if there are films and PyAV is not installed, or no such model.
    """
    labels = lookup.choose(graph, GRAPHS, what="config.data.graph")()
    codes = reader.read_methods(methods) if methods else METHODS[graph]
    found = {}
    for split, given in {"train": train, "test": test}.items():
        path = Path(given).expanduser() if given else _split(root, split)
        found[split] = read(
            path,
            labels,
            codes,
            split=split,
            root="" if path.is_dir() else root,
            compression=compression,
            frames=frames,
        )
        _check_files(found[split], path)
        found[split] = reader.with_frames(found[split], frames)
    _warn_of_shared(found["train"], found["test"])
    names, trained = _names(found["train"], found["test"], len(labels.nodes))
    if face_model:
        face_alignment.yunet(face_model)
    films = FilmFrames(size, cache, face_model)
    sources = {
        split: FaceFiles(rows, names, trained, films) for split, rows in found.items()
    }
    title = Path(root or train).expanduser().absolute().name
    info, fields = describe_examples(title, labels, size, mean, std)

    def prepare(example: Example, rng: np.random.Generator | None = None) -> Example:
        del rng
        return example | {"image": resize(example["image"], (size, size))}

    return Dataset(
        info, lambda seed: sources["train"], sources["test"], prepare, prepare, fields
    )


def describe_examples(
    name: str,
    labels: LabelGraph,
    size: int = 299,
    mean: tuple[float, ...] = (0.5, 0.5, 0.5),
    std: tuple[float, ...] = (0.5, 0.5, 0.5),
) -> tuple[Info, dict[str, jax.ShapeDtypeStruct]]:
    """Returns what is known of such a data set before its files are.

    Args:
      name: of the data set.
      labels: graph of the labels.
      size: side of the images, in pixels.
      mean: per channel of images from 0 to 1.
      std: likewise.
    """
    shape, nodes = (size, size, 3), labels.nodes
    info = Info(name, len(nodes), shape, tuple(mean), tuple(std), nodes)
    fields = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "label": jax.ShapeDtypeStruct((), np.int32),
        "code": jax.ShapeDtypeStruct((len(nodes),), np.int8),
        "manipulation": jax.ShapeDtypeStruct((), np.int32),
    }
    return info, fields


def read(
    path: str | Path,
    graph: LabelGraph,
    methods: Mapping[str, str],
    *,
    split: str = "test",
    root: str = "",
    compression: str = "c23",
    frames: int = 32,
) -> list[FaceRow]:
    """Reads a folder, list, csv or JSON of faces, whichever it is.

    Args:
      path: of it.
      graph: of the labels.
      methods: method folder -> label code, for folders and JSON.
      split: of DeepfakeBench's JSON.
      root: that paths in lists begin at; the list's own folder if empty.
      compression: see ``read_deepfakebench``.
      frames: likewise.

    Raises:
      UserError: if there is nothing, or it is not understood.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist. Set config.data.train and .test.")
    if path.is_dir():
        return reader.read_folder(path, graph, methods)
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        start = file.readline(10_000).strip()
    if start.startswith("{"):
        return reader.read_deepfakebench(
            path,
            graph,
            split,
            root=root,
            compression=compression,
            frames=frames,
            codes={name: code for name, code in methods.items() if name != "Real"},
        )
    if "path" in reader.header(next(csv.reader([start]), [])):
        return reader.read_csv(path, graph, root)
    return reader.read_list(path, graph, root)


def _split(root: str, split: str) -> Path:
    top = Path(root).expanduser()
    for name in _SPLITS[split]:
        if root and (top / name).exists():
            return top / name
    raise UserError(
        f"config.data.root is {root!r}, expected a folder with one of "
        f"{', '.join(_SPLITS[split])}. Or set config.data.{split}."
    )


def _check_files(rows: Sequence[FaceRow], path: Path) -> None:
    missing = [row.path for row in rows if not row.path.is_file()]
    if missing:
        raise UserError(
            f"{path} names {len(missing)} files that are not there, such as "
            f"{missing[0]}. Set config.data.root to the folder that paths begin at."
        )


def _warn_of_shared(train: Sequence[FaceRow], test: Sequence[FaceRow]) -> None:
    both = {row.path.resolve() for row in train} & {row.path.resolve() for row in test}
    if both:
        print(
            f"jaxkd: warning: {len(both)} files are for training and for testing, "
            f"such as {min(both)}.",
            file=sys.stderr,
        )


def _names(train: Sequence[FaceRow], test: Sequence[FaceRow], classes: int):
    """Returns all methods, the most frequent of training first, and how many train."""
    counts = Counter(row.method for row in train if row.method != REAL)
    own = [name for name, _ in counts.most_common()]
    if len(own) >= classes:
        print(
            f"jaxkd: note: the {len(own) - classes + 2} rarest of {len(own)} methods "
            "are one class to the head 'multiclass'.",
            file=sys.stderr,
        )
    others = sorted({row.method for row in test} - {REAL, *own})
    return (REAL, *own, *others), 1 + len(own)
