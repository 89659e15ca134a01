import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.drawing import scenes


def drawn(count=60, seed=0, **options):
    return scenes.draw_scenes(np.random.default_rng(seed), count, **options)


def test_areas_and_colours_of_single_shapes():
    one = drawn(3).change(
        shape=np.array([[0, 1], [1, 2], [2, 0]]), radius=np.full((3, 2), 6.0)
    )
    images, masks = scenes.draw(one)
    # A circle, a square of half side 0.88 r, a triangle of base 2 r and height 1.8 r.
    areas = np.array([np.pi * 36, (2 * 0.88 * 6) ** 2, 6 * 1.8 * 6])
    np.testing.assert_allclose(masks.sum((2, 3)), areas[one.shape], rtol=0.05)
    assert masks.max() == 1 and (masks[:, 0] * masks[:, 1]).max() == 0
    for i in range(3):
        inside = images[i][masks[i, 0] == 1]
        tint = list(scenes.COLOURS.values())[one.colour[i, 0]]
        np.testing.assert_allclose(inside, np.broadcast_to(tint, inside.shape))
        ground = images[i][(masks[i] == 0).all(0)]
        tint = list(scenes.BACKGROUNDS.values())[one.background[i]]
        np.testing.assert_allclose(ground, np.broadcast_to(tint, ground.shape))


def test_reading_finds_what_was_drawn():
    some = drawn(300, single=0.3)
    found = scenes.attributes_match(scenes.read(scenes.draw(some)[0]), some)
    assert found["background"].all() and found["present"].all()
    assert found["colour"].all() and found["shape"].mean() > 0.98


def test_reading_sees_an_edit_and_nothing_else():
    some = drawn(40)
    other = some.change(colour=(some.colour + 1) % 4)
    match = scenes.attributes_match(scenes.read(scenes.draw(other)[0]), some)
    assert not match["colour"].any() and match["background"].all()
    gone = some.change(present=np.stack([np.ones(40, bool), np.zeros(40, bool)], 1))
    match = scenes.attributes_match(scenes.read(scenes.draw(gone)[0]), some)
    assert match["present"].mean() == 0.5


def test_captions_and_tokens():
    some = drawn(2).change(
        shape=np.array([[0, 1], [2, 2]]),
        colour=np.array([[0, 2], [3, 0]]),
        background=np.array([0, 2]),
        present=np.array([[True, True], [True, False]]),
    )
    first, second = scenes.captions(some)
    assert first == "a red circle left of a blue square on white background"
    assert second == "a yellow triangle on gray background"
    tokenizer = scenes.Tokenizer()
    ids = tokenizer.encode([first, second, ""])
    assert ids.shape == (3, scenes.LENGTH)
    assert [scenes.WORDS[i] for i in ids[0]] == ["<start>", *first.split(), "<end>"]
    assert [scenes.WORDS[i] for i in ids[2]] == ["<start>"] + ["<end>"] * 12
    assert tokenizer.words(second).tolist()[:8] == [-1, 0, 1, 2, 3, 4, 5, -1]
    with pytest.raises(UserError, match="not known to the scene model"):
        tokenizer.encode("a purple circle")


def test_held_out_pairs_are_left_out():
    some = drawn(2000, held_out=True)
    for shape, colour in scenes.HELD_OUT:
        pair = (some.shape == scenes.SHAPES.index(shape)) & (
            some.colour == scenes.COLOUR_NAMES.index(colour)
        )
        assert not pair.any()
    counts = np.bincount(some.colour[some.shape == 0], minlength=4)
    assert counts.min() > 200
