"""Labels that a prediction of text lines is compared with."""

import pytest

from jaxkd.core.errors import UserError
from jaxkd.predictors import text


def test_labels_are_of_one_input_and_say_one_thing(tmp_path):
    table, files = tmp_path / "labels.csv", [tmp_path / "a.png", tmp_path / "b/c.png"]
    table.write_text('a.png,"x,y"\nc.png,z\nc.png,z\n')
    assert text._read_labels(table, files) == {"a.png": "x,y", "c.png": "z"}
    table.write_text("a.png,x\na.png,y\n")
    with pytest.raises(UserError, match=r"line 2: 1 inputs .* the text 'x' or 'y'"):
        text._read_labels(table, files)
    table.write_text("c.png,z\n")
    with pytest.raises(UserError, match=r"line 1: 2 inputs are called .c\.png."):
        text._read_labels(table, [*files, tmp_path / "c.png"])
    table.write_text("d.png,z\n")
    with pytest.raises(UserError, match="name of one of the inputs"):
        text._read_labels(table, files)
