"""More formats whose files are damaged: sound, films, tables, databases, tokenizers."""

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.formats import Format

_SIDE, _FRAMES = 32, 10  # of the film
_TEXTS = ("same writer", "a\nknown <loc0012> größe ✓")


def _sound(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import soundfile

        wave = np.random.default_rng(0).normal(size=(800, 2)).clip(-3, 3) / 4
        soundfile.write(folder / name, wave, 16_000)
        return folder / name

    return make


def _read_sound(path: Path) -> Any:
    from jaxkd.readers import audio

    return audio.read(path)


def _film(name: str, codec: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from jaxkd.drawing import films

        rng = np.random.default_rng(0)
        frames = rng.integers(0, 256, (_FRAMES, _SIDE, _SIDE, 3)).astype(np.uint8)
        wave = rng.integers(-9999, 9999, 640 * _FRAMES).astype(np.int16)
        films.write(folder / name, frames, wave, codec=codec)
        return folder / name

    return make


def _read_film(path: Path) -> Any:
    from jaxkd.core.errors import UserError
    from jaxkd.readers import clips

    clip = clips.load(path, clips.Preprocessing(size=_SIDE))
    if clip.status != clips.OK:  # which takes the place of an error
        raise UserError("; ".join(clip.notes))
    return clip._replace(path=None)


def _png(side: int, repeat: int = 1) -> bytes:
    """Writes ``side`` squares of ``repeat`` pixels a row, so that files stay small."""
    from PIL import Image

    rng, buffer = np.random.default_rng(0), io.BytesIO()
    pixels = rng.integers(0, 256, (side, side, 3)).astype(np.uint8)
    pixels = pixels.repeat(repeat, 0).repeat(repeat, 1)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _edits(folder: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    actions = {"blue": {"position": 1, "edit_type": 6, "action": "red"}}
    row = {
        "id": "7",
        "image": {"bytes": _png(8, 64), "path": "x.png"},
        "source_prompt": "a [red] fox",
        "target_prompt": "a [blue] fox",
        "edit_action": json.dumps(actions),
        "aspect_mapping": json.dumps({"fox": ["blue"]}),
        "blended_words": json.dumps(["red,blue"]),
        "mask": "600 3",
    }
    parquet.write_table(pyarrow.Table.from_pylist([row] * 3), folder / "a.parquet")
    return folder / "a.parquet"


def _read_edits(path: Path) -> Any:
    from jaxkd.readers import edit_benchmarks

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are not known
        return list(edit_benchmarks.read_pie_bench_pp(path))


_FILES = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


def _writers(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from jaxkd.readers import handwriting

        table = handwriting.make_pairs(np.array([0, 0, 1, 1]), seed=0)
        handwriting.write_pairs(folder / name, table, _FILES)
        return folder / name

    return make


def _read_writers(path: Path) -> Any:
    from jaxkd.readers import handwriting

    return handwriting.read_pairs(path, _FILES)


def _chat(folder: Path) -> Path:
    for name in "ab":
        (folder / f"{name}.png").write_bytes(_png(8))
    lines = ["sample1,sample2,label", "a.png,a.png,1", "a.png,b.png,0"]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder / "pairs.csv"


def _read_chat(path: Path) -> Any:
    from jaxkd.pipelines.chat_verification import default, pairs

    config = default()
    config.table, config.images, config.few_shot = str(path), str(path.parent), 0
    return [one.load() for one in pairs.load(config).questions]


def _lmdb(folder: Path) -> Path:
    import lmdb

    with (
        lmdb.open(str(folder / "a"), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        for i in range(1, 9):
            transaction.put(f"image_hr-{i:09d}".encode(), _png(32 if i == 5 else 8))
            transaction.put(f"label-{i:09d}".encode(), b"word %d" % i)
        transaction.put(b"num-samples", b"8")
    return folder / "a/data.mdb"


def _read_lmdb(path: Path) -> Any:
    from jaxkd.readers.text_lmdb import TextLmdb

    lines = TextLmdb(path.parent)
    return [lines[i] for i in range(len(lines))]


def _pieces(rule: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        import sentencepiece

        words = ("same different slant size writer and verify known", "größe a b c")
        with (folder / "a.model").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(words * 50),
                model_writer=file,
                vocab_size=300,
                byte_fallback=True,
                hard_vocab_limit=False,
                normalization_rule_name=rule,
                user_defined_symbols=["\n"],
                minloglevel=2,
                **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3},
            )
        return folder / "a.model"

    return make


def _read_pieces(path: Path) -> Any:
    from jaxkd.readers.tokenizers import SentencePieceTokenizer

    found = SentencePieceTokenizer(path)
    ids = [found.encode(text) for text in _TEXTS]
    every = found.decode(i for i in range(found.size) if i != 1)
    return found.size, found.image, ids, [found.decode(one) for one in ids], every


def _clip(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from jaxkd.readers import clip_tokenizer

        merges = [("f", "o"), ("fo", "x</w>"), ("r", "e"), ("re", "d</w>")]
        tokens = [*"abcdefghijklmnopqrstuvwxyz", *map("".join, merges)]
        tokens += [f"{letter}</w>" for letter in tokens[:26]]
        tokens += [clip_tokenizer.START, clip_tokenizer.END]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        clip_tokenizer.ClipTokenizer(vocabulary, merges).save(folder)
        return folder / name

    return make


def _read_clip(path: Path) -> Any:
    from jaxkd.readers.clip_tokenizer import ClipTokenizer

    found = ClipTokenizer.load(path.parent)
    ids = found.encode(["a red fox", "Foxes hunt at dawn"])
    return ids, found.words("a red fox"), [found.decode(row) for row in ids.tolist()]


FORMATS = {
    "sound, wav": Format(_sound("a.wav"), _read_sound, False, "soundfile"),
    # Samples have a checksum, but their rate has none.
    "sound, flac": Format(_sound("a.flac"), _read_sound, False, "soundfile"),
    "film, mp4": Format(_film("a.mp4", "libx264"), _read_film, False, "av"),
    "film, mkv": Format(_film("a.mkv", "libx264"), _read_film, False, "av"),
    "film, avi": Format(_film("a.avi", "libx264"), _read_film, False, "av"),
    "edits, parquet": Format(_edits, _read_edits, False, "pyarrow"),
    "writers, parquet": Format(_writers("a.parquet"), _read_writers, False, "pyarrow"),
    "writers, csv": Format(_writers("a.csv"), _read_writers, False),
    "chat pairs, csv": Format(_chat, _read_chat, False),
    "text lines, lmdb": Format(_lmdb, _read_lmdb, False, "lmdb"),
    "SentencePiece": Format(_pieces("identity"), _read_pieces, False, "sentencepiece"),
    "SentencePiece, nmt_nfkc": Format(
        _pieces("nmt_nfkc"), _read_pieces, False, "sentencepiece"
    ),
    "CLIP, vocab.json": Format(_clip("vocab.json"), _read_clip, False, "tokenizers"),
    "CLIP, merges.txt": Format(_clip("merges.txt"), _read_clip, False, "tokenizers"),
    "CLIP, settings": Format(
        _clip("tokenizer_config.json"), _read_clip, False, "tokenizers"
    ),
}
