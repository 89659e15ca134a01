import pytest

from jaxkd.core import schema

SCHEMA = {"name": str, "sizes": [schema.NUMBER], "by?": {...: [int]}}


@pytest.mark.parametrize(
    "tree",
    [
        {"name": "a", "sizes": []},
        {"name": "a", "sizes": [1, 2.5], "by": {"x": [1], "y": []}, "more": None},
    ],
)
def test_what_fits_passes(tree):
    schema.check(tree, SCHEMA, "it")


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ([], r"it is \[\], expected an object"),
        ({"sizes": []}, "it lacks 'name'"),
        ({"name": 3, "sizes": []}, "it.name is 3, expected a string"),
        ({"name": "a", "sizes": [1, "b"]}, r"it.sizes\[1\] is 'b', expected a whole"),
        ({"name": "a", "sizes": [True]}, r"it.sizes\[0\] is True"),
        ({"name": "a", "sizes": [], "by": {"x": 1}}, "it.by.x is 1, expected a list"),
    ],
)
def test_what_does_not_fit_is_named(tree, said):
    with pytest.raises(ValueError, match=said):
        schema.check(tree, SCHEMA, "it")
