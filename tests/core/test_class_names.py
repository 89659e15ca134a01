import pytest

from jaxkd.core import class_names
from jaxkd.core.errors import UserError


@pytest.mark.parametrize(
    ("expected", "present", "positions"),
    [
        (("a", "b", "c"), ("a", "b", "c"), ()),
        (("c", "a", "b"), ("a", "b", "c"), (2, 0, 1)),
        (("c", "b"), ("a", "b", "c"), (2, 1)),
        (("b",), ("a", "b", "a"), (1,)),
    ],
)
def test_classes_are_found_by_name(expected, present, positions):
    found = class_names.positions(expected, present, "It")
    assert found == positions
    assert tuple(present[i] for i in found or range(len(present))) == expected


@pytest.mark.parametrize(
    ("expected", "present", "message"),
    [
        (("b", "c", "d"), ("a", "b", "c"), "does not know 1 of 3 classes: d. It knows"),
        (("a", "b"), ("b", "a", "a"), "It has several classes called a"),
        (("b", "a", "a"), ("a", "b"), "The data has several classes called a"),
    ],
)
def test_other_classes_are_refused_by_name(expected, present, message):
    with pytest.raises(UserError, match=message):
        class_names.positions(expected, present, "It")


def test_names_from_a_list_and_from_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("noon\nday \n")
    assert class_names.read(str(tmp_path / "names.txt")) == ("noon", "day")
    assert class_names.read(["noon", "day"]) == ("noon", "day")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("a\n\nb", "has an empty name"), ("a\nb\na", "has a twice")],
)
def test_wrong_names(tmp_path, text, message):
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(UserError, match=rf"names\.txt {message}"):
        class_names.read(str(tmp_path / "names.txt"))


def test_a_missing_file_of_names():
    with pytest.raises(UserError, match=r"no_such\.txt cannot be read"):
        class_names.read("no_such.txt")
