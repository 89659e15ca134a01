import io
import random

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.readers.tokenizers import (
    BOS,
    EOS,
    ByteTokenizer,
    SentencePieceTokenizer,
    pack,
)

TEXTS = [
    "",
    "verify writer en",
    "line\nbreak",
    "<loc0512><loc1023> and <seg127>",
    "größe ✓ 手",
    "<loc12> <seg1234> <loc> <image>",
]


def train(path, size=300, symbols=(), **options):
    """Trains a tiny SentencePiece model with PaliGemma's numbers for the marks."""
    sentencepiece = pytest.importorskip("sentencepiece")
    words = ["same", "different", "slant", "size", "writer", "and", "verify", "known"]
    rng = random.Random(0)
    lines = [" ".join(rng.choices(words, k=6)) for _ in range(400)]
    out = io.BytesIO()
    marks = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3} | options
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        vocab_size=size + len(symbols),
        byte_fallback=True,
        add_dummy_prefix=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["\n", *symbols],
        hard_vocab_limit=False,
        minloglevel=2,
        **marks,
    )
    path.write_bytes(out.getvalue())
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return train(tmp_path_factory.mktemp("sp") / "plain.model")


@pytest.fixture(scope="module")
def baked(tmp_path_factory):
    symbols = [f"<loc{i:04}>" for i in range(1024)]
    symbols += [f"<seg{i:03}>" for i in range(128)]
    return train(tmp_path_factory.mktemp("sp") / "baked.model", symbols=symbols)


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_come_back(text):
    tokenizer = ByteTokenizer(("writer", "write", "verify"))
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(4 <= number < tokenizer.size - 1 for number in ids)


def test_words_are_one_token_and_the_longest_wins():
    tokenizer = ByteTokenizer(("write", "writer"))
    assert tokenizer.encode("writer") == [261]
    assert tokenizer.encode("a write") == [4 + 97, 4 + 32, 260]
    assert tokenizer.encode("<image>") == [4 + b for b in b"<image>"]
    with pytest.raises(UserError, match="each once"):
        ByteTokenizer(("a", "a"))


def test_decoding_ends_at_the_end():
    tokenizer = ByteTokenizer()
    ids = [BOS, *tokenizer.encode("ab"), EOS, *tokenizer.encode("c")]
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode([4 + 0xC3, 0]) == "\ufffd"


def test_sequences_are_laid_out_as_the_model_reads_them():
    tokenizer = ByteTokenizer(("same",))
    got = pack(tokenizer, "q", "same", image_tokens=2, length=9)
    image = tokenizer.image
    np.testing.assert_array_equal(
        got.tokens, [image, image, BOS, 4 + ord("q"), 14, 260, EOS, 0, 0]
    )
    np.testing.assert_array_equal(got.causal, [0, 0, 0, 0, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(got.valid, [1, 1, 1, 1, 1, 1, 1, 0, 0])
    asked = pack(tokenizer, "q", image_tokens=2, length=9)
    assert not asked.causal.any()
    assert asked.valid.sum() == 5
    with pytest.raises(UserError, match="take 7 tokens"):
        pack(tokenizer, "q", "same", image_tokens=2, length=6)


@pytest.mark.parametrize("kind", ["plain", "baked"])
def test_places_are_single_tokens(kind, request):
    tokenizer = SentencePieceTokenizer(request.getfixturevalue(kind))
    for text in ("<loc0512>", "<loc0000>", "<seg127>"):
        assert len(tokenizer.encode(text)) == 1
    first, place, last = (
        tokenizer.encode(text)[0] for text in ("<loc0000>", "<loc0512>", "<seg000>")
    )
    assert place - first == 512
    assert last - first == 1024
    text = "same writer<loc0512>\n<seg003> and"
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert max(ids) < tokenizer.size
    assert tokenizer.decode([*ids, EOS, 9]) == text


def test_places_follow_a_plain_vocabulary(plain):
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_file=str(plain))
    tokenizer = SentencePieceTokenizer(plain)
    assert tokenizer.encode("<loc0000>") == [model.GetPieceSize()]
    # What lies between is as the package encodes it.
    assert tokenizer.encode("same writer") == model.encode("same writer")


def test_other_files_are_refused(tmp_path):
    pytest.importorskip("sentencepiece")
    with pytest.raises(UserError, match="There is no tokeniser"):
        SentencePieceTokenizer(tmp_path / "none.model")
    (tmp_path / "bad.model").write_bytes(b'{"version": "1.0"}')
    with pytest.raises(UserError, match=r"not tokenizer\.json"):
        SentencePieceTokenizer(tmp_path / "bad.model")
    whole = train(tmp_path / "whole.model").read_bytes()
    # A piece that is no UTF-8 any more.
    (tmp_path / "bad.model").write_bytes(whole.replace(b"verify", b"ver\xfffy"))
    with pytest.raises(UserError, match="cannot be read as a SentencePiece model"):
        SentencePieceTokenizer(tmp_path / "bad.model")
    other = train(tmp_path / "other.model", pad_id=3, unk_id=0)
    with pytest.raises(UserError, match="numbers padding"):
        SentencePieceTokenizer(other)
