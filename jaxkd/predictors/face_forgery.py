"""Scores faces for forgery, and names the attributes and regions that were altered.

Images are aligned crops of one face each, and films show such a crop, unless a model
that finds faces is given; the score of a film is the mean over its frames. A score is a
reason to look closer and no proof.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from jaxkd.core import optional
from jaxkd.core.errors import UserError
from jaxkd.core.files import write_text
from jaxkd.losses.label_graph import LabelGraph
from jaxkd.methods.face_forgery import GRAPHS, read_out
from jaxkd.predictors import face_forgery_page
from jaxkd.predictors.inputs import output_name, write_table
from jaxkd.predictors.restore import Restored, in_batches, restore
from jaxkd.readers import face_alignment, images, video_frames
from jaxkd.readers.face_alignment import Finder
from jaxkd.readers.face_forgery import SUFFIXES
from jaxkd.readers.listing import shown
from jaxkd.report.statistics import plural

SMALL = 64  # pixels; smaller faces show little
_BATCH = 32
_REGIONS = 6  # the last nodes of either graph

Classify = Callable[[np.ndarray], np.ndarray]


class Finding(NamedTuple):
    """What was found out about one image or film.

    Attributes:
      file: that was read.
      status: ``"ok"``, ``"small"``, ``"damaged"`` of a film of which a part could be
        read, ``"no_face"`` or ``"unreadable"``.
      name: of the picture that was written.
      width: in pixels.
      height: in pixels.
      frames: that were scored; 1 of an image.
      faces: that were found, at most in one frame; 0 where none were looked for.
      fake: probability of being fake.
      nodes: probability of each node of the graph; NaN where the head has no opinion.
      explanation: in words.
      error: why it could not be scored, or nothing.
    """

    file: str
    status: str
    name: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    faces: int = 0
    fake: float = float("nan")
    nodes: tuple[float, ...] = ()
    explanation: str = ""
    error: str = ""


def predict(
    workdir: Path,
    inputs: Sequence[Path],
    output: Path,
    *,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
    threshold: float = 0.5,
    frames: int = video_frames.FRAMES,
    face_model: str = "",
) -> str:
    """Scores images and films of faces and writes what is found into a folder.

    ``scores.csv`` has a row for each image and film, with its status; ``folders.csv``
    the mean over each folder, for the frames of a video; ``faces/`` the images, and the
    most suspicious frame of each film, with the regions that were altered outlined;
    ``index.html`` shows them all.

    Args:
      workdir: folder of a finished run; its data set is not needed.
      inputs: image files, films and folders; folders are searched through.
      output: a folder, made if it is not there.
      student: which; None where the run has one alone.
      seed: which of its seeds; None for the first.
      use: "last" or "best" parameters.
      threshold: probability from which a face is called fake, and an attribute or
        region altered.
      frames: most frames of a film, evenly spaced; 0 for all.
      face_model: YuNet's ONNX file; then the largest face of each image and frame is
        found and aligned. Without it they are aligned crops already.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if there are no files, none can be scored, the threshold is no
        probability, there is no such model, or a library that is needed is missing.
    """
    if not 0 < threshold < 1:
        raise UserError(f"threshold is {threshold}, expected between 0 and 1.")
    if frames < 0:
        raise UserError(f"frames is {frames}, expected 1 or more, or 0 for all.")
    restored = restore(workdir, student, seed, use)
    options = restored.config.loss
    graph = GRAPHS[options.get("graph", "ffsc")]()
    classify = _in_any_number(in_batches(_forward(restored, graph), _BATCH))
    scoring = _Scoring(
        classify,
        restored.info.image_shape[0],
        graph,
        output,
        threshold,
        frames,
        face_alignment.yunet(face_model) if face_model else None,
    )
    files = list(images.find(inputs, output, SUFFIXES))
    if any(map(video_frames.is_film, files)):
        # Here, because a missing library is no fault of the file.
        optional.load("av", extra="av", purpose="Films")
        if restored.config.data.get("face_model") and not face_model:
            print(
                "jaxkd: warning: films of the training showed faces found and aligned "
                "by a model; these are taken as they are. Give "
                "--option=face_model=FILE unless they show aligned faces alone.",
                file=sys.stderr,
            )
    (output / "faces").mkdir(parents=True, exist_ok=True)
    findings: list[Finding] = []
    for start in tqdm(range(0, len(files), _BATCH), unit="batch", disable=None):
        findings += scoring.score(files[start : start + _BATCH], start)
    good = [finding for finding in findings if not finding.error]
    _write_scores(output / "scores.csv", findings, graph)
    if not good:
        raise UserError(
            f"No file could be scored, such as: {findings[0].error} All of them are in "
            f"{output / 'scores.csv'}."
        )
    _write_folders(output / "folders.csv", good)
    title = f"{restored.results['name']}, {restored.name}"
    page = face_forgery_page.page(findings, title, threshold)
    write_text(output / "index.html", page)
    bad = [f"\n  {finding.error}" for finding in findings if finding.error]
    failed = f"; {len(bad)} could not be scored:{''.join(bad)}" if bad else ""
    fakes = sum(finding.fake >= threshold for finding in good)
    where = output / "index.html"
    return f"{plural(len(good), 'file')}, {fakes} called fake -> {where}{failed}"


def _forward(restored: Restored, graph: LabelGraph) -> Callable:
    """Returns a function of images to probabilities ``[batch, 1 or nodes]``."""
    head = restored.config.loss.get("head", "graph")

    @jax.jit
    def forward(batch: jax.Array) -> jax.Array:
        logits, _ = restored.apply({"image": batch})
        found = read_out(logits, head, graph)
        if found.log_p is None:
            return jax.nn.sigmoid(found.fake_logit)[:, None]
        return jnp.exp(found.log_p)

    return forward


def explain(probabilities: Sequence[float], graph: LabelGraph, threshold: float) -> str:
    """Puts probabilities into words, such as ``fake 0.93; identity 0.90; mouth, skin``.

    Args:
      probabilities: of the nodes; those that are NaN are passed over.
      graph: of the labels.
      threshold: from which an attribute or region is named.

    >>> explain([0.9, 0.2, 0.8, *[0.1] * 5, 0.7, 0.6, 0.1, 0.1], LabelGraph.ffsc(), 0.5)
    'fake 0.90; expression 0.80; lip, mouth'
    """
    values = np.asarray(probabilities, float)
    word = "fake" if values[0] >= threshold else "real"
    parts = [f"{word} {values[0] if word == 'fake' else 1 - values[0]:.2f}"]
    if word == "real" or np.isnan(values[1:]).all():
        return parts[0]
    first_region = len(graph.nodes) - _REGIONS
    attributes = [i for i in range(1, first_region) if values[i] >= threshold]
    for i in sorted(attributes, key=lambda i: -values[i]):
        parts.append(f"{graph.nodes[i]} {values[i]:.2f}")
    regions = [i for i in range(first_region, len(values)) if values[i] >= threshold]
    if regions:
        ordered = sorted(regions, key=lambda i: -values[i])
        parts.append(", ".join(graph.nodes[i] for i in ordered))
    return "; ".join(parts)


class _Scoring(NamedTuple):
    """How files are scored, and where their pictures go."""

    classify: Classify
    side: int
    graph: LabelGraph
    output: Path
    threshold: float
    frames: int
    find: Finder | None = None

    def score(self, files: Sequence[Path], start: int) -> list[Finding]:
        """Scores some files; one that cannot be read has a row that says why."""
        findings: list[Finding] = []
        waiting: dict[int, np.ndarray] = {}  # images, which share one batch
        for place, path in enumerate(files):
            try:
                seen, new = self._read(path)
            except UserError as error:
                print(f"jaxkd: {error}", file=sys.stderr)
                reason = shown(str(error))
                findings.append(Finding(shown(path), "unreadable", error=reason))
                continue
            name = f"{start + place:05d}-{output_name(path)}.png"
            new = new._replace(name=name)
            if video_frames.is_film(path) and seen:
                rows = self.classify(self._resized(seen))
                worst = seen[int(np.argmax(rows[:, 0]))]
                new = self._finished(new, rows.mean(axis=0), worst)
            elif seen:
                waiting[place] = seen[0]
            findings.append(new)
        if waiting:
            rows = self.classify(self._resized(list(waiting.values())))
            for (place, face), row in zip(waiting.items(), rows, strict=True):
                findings[place] = self._finished(findings[place], row, face)
        return findings

    def _read(self, path: Path) -> tuple[list[np.ndarray], Finding]:
        """Reads an image or a film, and finds the faces: none, or those to score."""
        if video_frames.is_film(path):
            seen, damaged = video_frames.read(path, self.frames)
        else:
            seen, damaged = [images.decode(path)], False
        height, width = seen[0].shape[:2]
        side, count = float(min(height, width)), 0
        if self.find is not None:
            looked = [face_alignment.largest(image, self.find) for image in seen]
            found = [(face, length) for face, _, length in looked if face is not None]
            count = max(number for _, number, _ in looked)
            seen = [face for face, _ in found]
            side = float(np.median([length for _, length in found])) if found else 0.0
        status = "damaged" if damaged else "small" if side < SMALL else "ok"
        file, error = shown(path), ""
        if not seen:
            status, error = "no_face", f"{file}: no face was found."
        about = (file, status, "", width, height, len(seen), count)
        return seen, Finding(*about, error=error)

    def _resized(self, faces: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack([images.resize(f, (self.side, self.side)) for f in faces])

    def _finished(self, finding: Finding, row: np.ndarray, face: np.ndarray) -> Finding:
        """Adds what is found, and writes the picture."""
        nodes = np.full(len(self.graph.nodes), np.nan)
        nodes[: len(row)] = np.asarray(row, float)
        regions = dict(
            zip(self.graph.nodes[-_REGIONS:], nodes[-_REGIONS:], strict=True)
        )
        altered = [name for name, p in regions.items() if p >= self.threshold]
        outlined = altered if nodes[0] >= self.threshold else []
        face_forgery_page.write(self.output / "faces" / finding.name, face, outlined)
        return finding._replace(
            fake=float(nodes[0]),
            nodes=tuple(map(float, nodes)),
            explanation=explain(nodes.tolist(), self.graph, self.threshold),
        )


def _in_any_number(classify: Classify) -> Classify:
    """Returns a function of any number of images, however many a batch holds."""

    def call(faces: np.ndarray) -> np.ndarray:
        parts = range(0, len(faces), _BATCH)
        return np.concatenate([classify(faces[i : i + _BATCH]) for i in parts])

    return call


def _write_scores(path: Path, findings: Sequence[Finding], graph: LabelGraph) -> None:
    rows = []
    for finding in findings:
        known = finding.nodes or (float("nan"),) * len(graph.nodes)
        cells = ["" if np.isnan(p) else f"{p:.6f}" for p in known]
        size = (finding.width, finding.height, finding.frames, finding.faces)
        first = [finding.file, finding.status, *size]
        rows.append([*first, *cells, finding.explanation, finding.error])
    head = ("file", "status", "width", "height", "frames", "faces")
    write_table(path, [*head, *graph.nodes, "explanation", "error"], rows)


def _write_folders(path: Path, findings: Sequence[Finding]) -> None:
    """Writes the mean of each folder: the score of a video by its frames."""
    by_folder: dict[str, list[float]] = {}
    for finding in findings:
        by_folder.setdefault(str(Path(finding.file).parent), []).append(finding.fake)
    rows = [
        (folder, len(scores), f"{np.mean(scores):.6f}")
        for folder, scores in by_folder.items()
    ]
    write_table(path, ("folder", "files", "fake"), rows)
