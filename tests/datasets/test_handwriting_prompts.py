import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.datasets import handwriting_prompts
from jaxkd.datasets.handwriting_prompts import read_features
from jaxkd.drawing.handwriting import PARAMETERS
from jaxkd.drawing.writer_features import FEATURES, features

SMALL = {"size": 16, "writers": 3, "test_writers": 2, "samples": 3, "test_pairs": 8}


def text_of(source, row):
    return source.tokenizer.decode(source.arrays["tokens"][row])


@pytest.mark.parametrize(
    "target", ["explain_then_answer", "answer_then_explain", "caption"]
)
def test_texts_tell_the_gold_features_and_the_truth(target):
    data = handwriting_prompts.load(target, ("slantness", "staff_of_d"), **SMALL)
    for source in (data.train(0), data.test):
        for row in range(len(source)):
            prompt, text = text_of(source, row).split("\n")
            assert prompt == "verify writer en"
            told = read_features(text, source.described)
            values = source.arrays["features"][row]
            for i, name in enumerate(source.described):
                first, second = values[i]
                assert told[name] == (FEATURES[name][first], FEATURES[name][second])
            answer = ("different", "same")[source.arrays["label"][row]]
            parts = text.split(";")
            if target == "caption":
                assert {"same", "different"}.isdisjoint(parts)
            else:
                assert parts[-1 if target == "explain_then_answer" else 0] == answer
    # Train and test have texts of one length, whatever values occur.
    shapes = [s.arrays["tokens"].shape[1] for s in (data.train(0), data.test)]
    assert shapes[0] == shapes[1]


def test_suffix_and_padding_are_marked():
    source = handwriting_prompts.load("answer_only", length=9, **SMALL).test
    tokens, causal, valid = (source.arrays[k] for k in ("tokens", "causal", "valid"))
    # beginning, prompt, line break; verdict, end; padding
    np.testing.assert_array_equal(causal[0], [0, 0, 0, 1, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(valid[0], [1, 1, 1, 1, 1, 0, 0, 0, 0])
    for row, label in enumerate(source.arrays["label"]):
        assert tokens[row, 3] == source.arrays["answers"][row, label]
        assert tokens[row, 4] == 1


def test_features_are_cut_where_their_table_says():
    middle = np.array([p.mean for p in PARAMETERS.values()])

    def value(name, **changes):
        row = middle.copy()
        for key, number in changes.items():
            row[list(PARAMETERS).index(key)] = number
        number = features(row[None])[0, list(FEATURES).index(name)]
        return FEATURES[name][number]

    assert value("slantness", slant=-10) == "left"
    assert value("slantness", slant=0) == "normal"
    assert value("slantness", slant=10) == "slight right"
    assert value("slantness", slant=30) == "very right"
    assert value("dimension", aspect=0.3) == "low"  # wide words are low
    assert value("is_continuous", join_an=0.9, join_nd=0.4) == "no"
    assert value("is_continuous", join_an=0.9, join_nd=0.9) == "yes"
    assert value("exit_stroke_d", d_exit=0.0, d_angle=0.9) == "none"
    assert value("exit_stroke_d", d_exit=0.3, d_angle=0.9) == "curved up"
    assert value("constancy", tremor=0.04) == "irregular"
    assert value("pen_pressure", pen=2.0) == "strong"
    assert value("tilt", tilt=-5) == "tilted"


def test_what_cannot_be_explained_is_refused(tmp_path):
    with pytest.raises(UserError, match="target"):
        handwriting_prompts.load("explain", **SMALL)
    with pytest.raises(UserError, match="described"):
        handwriting_prompts.load("caption", ("beauty",), **SMALL)
    with pytest.raises(UserError, match="length is 3"):
        handwriting_prompts.load("answer_only", length=3, **SMALL)


def test_torn_texts_give_what_is_whole():
    text = "slantness left normal;size big small;staff_of_d none loopy extra;size"
    assert read_features(text, ("slantness", "size", "staff_of_d")) == {
        "slantness": ("left", "normal")
    }
    two = "exit_stroke_d curved up none"
    assert read_features(two, ("exit_stroke_d",)) == {
        "exit_stroke_d": ("curved up", "none")
    }
