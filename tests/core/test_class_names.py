import pytest

from jaxkd.core import class_names
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info


def info(names, numbered=False, count=None, name="mine"):
    shape = (6, 6, 1)
    count = len(names) if count is None else count
    return Info(name, count, shape, (0.5,), (0.2,), tuple(names), numbered=numbered)


NUMBERED = info("012", numbered=True)
OTHERS = info("012", numbered=True, name="others")
NAMELESS = info((), count=3)


@pytest.mark.parametrize(
    ("data", "trained", "positions", "announced"),
    [
        (info("ab"), info("ba"), (1, 0), False),
        (info("b"), info("ab"), (1,), False),
        (NUMBERED, NUMBERED, (), False),  # of one file
        (OTHERS, NUMBERED, (), True),
        (NUMBERED, NAMELESS, (), True),
        (info("abc"), NAMELESS, (), True),
        (NUMBERED, info("012"), (), True),  # digits, it seems
        # Who gives numbers as names means them.
        (info("2"), NUMBERED, (2,), False),
        (info("2"), info("012"), (2,), False),
    ],
)
def test_classes_are_joined(data, trained, positions, announced, capsys):
    assert class_names.join(data, trained, "The network") == positions
    said = capsys.readouterr().err
    assert ("The network: classes are joined by their numbers" in said) == announced
    assert said.count("\n") == announced


@pytest.mark.parametrize(
    ("data", "trained", "message"),
    [
        (
            info("01", True),
            NUMBERED,
            r"tells 3 classes apart, and the data have 2, .*no",
        ),
        (info("01", True), info("012"), "3 classes apart, .*config.data.class_names"),
        (info("01", True), NAMELESS, "3 classes apart, whose names are not known.* 2"),
        (info("ab"), NAMELESS, "whose names are not known, and the data have 2. If"),
        (NUMBERED, info("01", True), "does not know 1 of 3 classes: 2"),
        (NUMBERED, info("abc"), "does not know 3 of 3 classes: 0, 1, 2"),
        (info("abc"), NUMBERED, "does not know 3 of 3 classes: a, b, c"),
    ],
)
def test_numbers_are_no_names(data, trained, message):
    with pytest.raises(UserError, match=message):
        class_names.join(data, trained, "The network")


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
