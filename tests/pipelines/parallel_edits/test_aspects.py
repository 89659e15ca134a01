import itertools

import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.diffusion.attention_control import GLOBAL, NON_RIGID, RIGID
from jaxkd.pipelines.parallel_edits import aspects, grouping

SOURCE = "a red circle left of a blue square on white background"


def test_aspects_of_two_prompts():
    target = "a green circle left of a blue triangle on black background"
    found = aspects.between(SOURCE, target, whole=("white", "black"))
    assert [str(one) for one in found] == [
        "red -> green",
        "square -> triangle",
        "white -> black",
    ]
    assert [one.whole for one in found] == [False, False, True]
    shorter = aspects.between(SOURCE, "a red circle on white background")
    assert [str(one) for one in shorter] == ["left of a blue square -> -"]
    longer = aspects.between("a cat", "a fat cat outside")
    assert [str(one) for one in longer] == ["+ -> fat", "+ -> outside"]
    with pytest.raises(UserError, match="the same"):
        aspects.between("a [red] cat", "a red cat")


def test_any_order_gives_the_same_prompt():
    edits = [
        aspects.Aspect("swap", 1, ("red",), ("very", "dark")),
        aspects.Aspect("delete", 3, ("left", "of", "a", "blue", "square"), ()),
        aspects.Aspect("add", 10, (), ("shiny",)),
    ]
    expected = "a very dark circle on white shiny background"
    for order in itertools.permutations(range(3)):
        prompt = aspects.apply(SOURCE, edits, order)
        assert prompt.text == expected
        assert prompt.aspect == (-1, 0, 0, -1, -1, -1, 2, -1)
        assert prompt.position == (0, -1, -1, 2, 8, 9, -1, 10)
    assert aspects.apply(SOURCE, edits, ()).text == SOURCE


def test_aspects_that_concern_the_same_word():
    edits = [
        aspects.Aspect("swap", 1, ("red", "circle"), ("fox",)),
        aspects.Aspect("swap", 2, ("circle",), ("square",)),
    ]
    with pytest.raises(UserError, match="concern the same word"):
        aspects.apply(SOURCE, edits, (0, 1))


def test_actions_of_the_published_format():
    actions = {
        "green": {"position": 1, "edit_type": 6, "action": "red"},
        "blue": {"position": 6, "edit_type": 3, "action": "-"},
        "shiny": {"position": 2, "edit_type": 2, "action": "+"},
        "black": {"position": 9, "edit_type": 8, "action": "white"},
        "cake": {"position": 7, "edit_type": 1, "action": "bird"},
    }
    with pytest.warns(UserWarning, match="bird -> cake left out"):
        found = aspects.from_actions(SOURCE, actions)
    text = aspects.apply(SOURCE, found, range(len(found))).text
    assert text == "a green shiny circle left of a square on black background"
    assert [one.whole for one in found] == [False, False, False, True]
    with pytest.warns(UserWarning, match="there is no word -1"):
        (kept,) = aspects.from_actions(
            SOURCE,
            {
                "background": {"position": -1, "action": "-"},
                "green": {"position": "1", "action": "red"},
            },
        )
    assert str(kept) == "red -> green"


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"x": {"position": 1}}, "lacks action"),
        ({"x": None}, "lacks action, position: None"),
        ([{"position": 1}], "expected an object with an entry for each"),
        ({"x": {"position": "one", "action": "+"}}, "whole numbers as position"),
        ({"x": {"position": None, "action": "+"}}, "whole numbers as position"),
        ({"x": {"position": 1, "action": ""}}, "expected words, and for them"),
        ({"[]": {"position": 1, "action": "+"}}, "expected words, and for them"),
        ({"x": {"position": 1, "edit_type": {}, "action": "+"}}, "and edit_type"),
    ],
)
def test_malformed_actions(actions, message):
    with pytest.raises(UserError, match=message):
        aspects.from_actions(SOURCE, actions)


def test_a_target_without_words():
    with pytest.raises(UserError, match="The target prompt is ''"):
        aspects.between(SOURCE, "")


def block(rows, columns):
    values = np.zeros((10, 10))
    values[rows, columns] = 255
    return values


LEFT = block(slice(2, 8), slice(0, 5))
INSIDE = block(slice(3, 5), slice(1, 3))
RIGHT = block(slice(2, 8), slice(5, 10))


def test_overlap_by_counting():
    assert grouping.overlap(LEFT, INSIDE) == 1.0
    assert grouping.overlap(LEFT, INSIDE, union=True) == pytest.approx(4 / 30)
    assert grouping.overlap(LEFT, RIGHT) == 0.0
    assert grouping.overlap(LEFT, np.zeros((10, 10))) == 0.0
    assert grouping.scale_map(np.array([0.0, 0.5])).tolist() == [0, 255]
    assert grouping.scale_map(np.zeros(2)).tolist() == [0, 0]


def test_kinds():
    swap = aspects.Aspect("swap", 1, ("red",), ("green",))
    add = aspects.Aspect("add", 1, (), ("shiny",))
    assert grouping.kind_of(swap, LEFT, INSIDE) == RIGID
    assert grouping.kind_of(swap, LEFT, RIGHT) == NON_RIGID
    assert grouping.kind_of(add, None, LEFT) == NON_RIGID
    assert grouping.kind_of(swap, LEFT, np.full((10, 10), 255.0)) == GLOBAL
    assert grouping.kind_of(swap._replace(whole=True), LEFT, LEFT) == GLOBAL


def test_groups_in_their_order():
    kinds = [GLOBAL, NON_RIGID, RIGID, RIGID, RIGID, GLOBAL]
    maps = [LEFT, LEFT, LEFT, RIGHT, INSIDE, RIGHT]
    found = grouping.group(kinds, maps)
    assert [tuple(one) for one in found] == [
        (RIGID, (2, 4)),
        (RIGID, (3,)),
        (NON_RIGID, (1,)),
        (GLOBAL, (0, 5)),
    ]
    other = grouping.group(kinds, maps, rigid_first=False)
    assert [one.kind for one in other] == [NON_RIGID, RIGID, RIGID, GLOBAL]
    # A small overlap joins only by the slip of the official code.
    touching = [LEFT, block(slice(0, 3), slice(4, 10))]
    assert len(grouping.group([RIGID] * 2, touching)) == 2
    assert len(grouping.group([RIGID] * 2, touching, merge_any=True)) == 1
