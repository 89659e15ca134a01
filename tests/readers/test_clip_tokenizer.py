import itertools
import unicodedata

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.readers.clip_tokenizer import END, START, ClipTokenizer
from tests import tiny_stable_diffusion as tiny

pytest.importorskip("tokenizers")


def by_hand(prompt):
    """Byte-pair encoding as in the paper, for plain Latin prompts."""
    import re

    vocabulary, merges = tiny.vocabulary()
    ranks = {pair: i for i, pair in enumerate(merges)}
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+"
    text = unicodedata.normalize("NFC", " ".join(prompt.split())).lower()
    tokens = []
    for piece in re.findall(pattern, text):
        parts = [*piece[:-1], piece[-1] + "</w>"]
        while len(parts) > 1:
            pairs = list(itertools.pairwise(parts))
            best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
            if best not in ranks:
                break
            joined, i = [], 0
            while i < len(parts):
                if tuple(parts[i : i + 2]) == best:
                    joined.append("".join(best))
                    i += 2
                else:
                    joined.append(parts[i])
                    i += 1
            parts = joined
        tokens += [vocabulary[part] for part in parts]
    start, end = vocabulary[START], vocabulary[END]
    return [start, *tokens, end] + [end] * (75 - len(tokens))


@pytest.mark.parametrize(
    "prompt",
    [
        "a red fox",
        "  The  RED fox's house, in snow! 42",
        "don't-we all redfox",
        "",
        "it's the cat'll",
    ],
)
def test_numbers_as_by_hand(prompt):
    assert tiny.tokenizer().encode(prompt)[0].tolist() == by_hand(prompt)


def test_words_of_the_tokens():
    tokenizer = tiny.tokenizer()
    words = tokenizer.words(" a redfox, in snow")
    tokens = tokenizer.encode(" a redfox, in snow")[0]
    spans = [tokenizer.decode(tokens[words == i]).replace(" ", "") for i in range(4)]
    assert spans == ["a", "redfox,", "in", "snow"]
    assert words[0] == -1 and (words[np.flatnonzero(words == 3)[-1] + 1 :] == -1).all()


def test_long_prompts():
    tokenizer = tiny.tokenizer()
    prompt = "a " * 76
    with pytest.raises(UserError, match="has 76 tokens; at most 75"):
        tokenizer.encode(prompt)
    cut = tokenizer.encode(prompt, truncate=True)[0]
    assert len(cut) == 77 and cut[-1] == tokenizer.vocabulary[END]
    assert cut[-2] == tokenizer.vocabulary["a</w>"]


def test_prompts_that_are_none():
    tokenizer = tiny.tokenizer()
    assert tokenizer.encode([]).shape == (0, 77)
    with pytest.raises(UserError, match="A prompt is None; expected text"):
        tokenizer.encode([None])
    with pytest.raises(UserError, match="cannot be read as text"):
        tokenizer.encode("a \ud800 fox")


def test_saved_and_loaded(tmp_path):
    vocabulary, merges = tiny.vocabulary()
    vocabulary = {**vocabulary, "#</w>": len(vocabulary)}
    # A merge of "#" must not pass for the comment of the first line.
    tokenizer = ClipTokenizer(vocabulary, [*merges], pad="!")
    tokenizer.save(tmp_path)
    again = ClipTokenizer.load(tmp_path)
    assert (again.vocabulary, again.merges) == (vocabulary, merges)
    assert again.pad == "!"
    row = again.encode("a fox")[0]
    assert row[-1] == vocabulary["!"] and vocabulary[END] in row


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(UserError, match=r"has no vocab\.json"):
        ClipTokenizer.load(tmp_path)
    tiny.tokenizer().save(tmp_path)
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b c\n")
    with pytest.raises(UserError, match="not two tokens"):
        ClipTokenizer.load(tmp_path)
    (tmp_path / "vocab.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as a vocabulary"):
        ClipTokenizer.load(tmp_path)
    with pytest.raises(UserError, match="lacks"):
        ClipTokenizer({"a": 0}, [])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("merges.txt", b"\xff\xfe", "cannot be read as a list of merges"),
        ("merges.txt", b"r zz\n", "zz.* out of vocabulary"),
        ("vocab.json", b'{"a": "b"}', "cannot be read as a vocabulary"),
        ("vocab.json", b'{"a": -1}', "a number below 0"),
        ("tokenizer_config.json", b"[]", "no object of JSON"),
        ("tokenizer_config.json", b'{"model_max_length": 1e30}', "expected 3 to 4,096"),
    ],
)
def test_damage_is_refused_by_name(tmp_path, name, content, message):
    tiny.tokenizer().save(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        ClipTokenizer.load(tmp_path)
