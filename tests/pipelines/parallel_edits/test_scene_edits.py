import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.drawing import scenes
from jaxkd.pipelines.parallel_edits import aspects, scene_edits


def tasks(edits, count=12):
    return scene_edits.draw_tasks(np.random.default_rng(0), count, edits)


@pytest.mark.parametrize("edits", [1, 2, 3])
def test_the_truth_is_a_perfect_edit(edits):
    task = tasks(edits)
    truth = scenes.draw(task.after)[0]
    found = scene_edits.measure(task, truth)
    assert found["aspects"].mean() > 0.98  # a shape may be misread
    np.testing.assert_allclose(found["full"], 0)
    np.testing.assert_allclose(found["unedited"], 0, atol=1e-12)


def test_the_source_is_no_edit():
    task = tasks(2)
    source = scenes.draw(task.before)[0]
    found = scene_edits.measure(task, source)
    assert found["aspects"].max() == 0
    np.testing.assert_allclose(found["unedited"], 0)
    assert found["full"].min() > 1e-3


def test_damage_outside_the_edit_is_seen_and_inside_is_not():
    task = scene_edits.draw_tasks(np.random.default_rng(1), 4, 1)
    rows = [i for i, row in enumerate(task.tasks) if row == ("colour",)]
    truth, masks = scenes.draw(task.after)
    inside = np.where(masks[:, 0, :, :, None] > 0, 0.3, truth)
    outside = truth.copy()
    outside[:, :4, 28:] += 0.25
    assert scene_edits.measure(task, inside)["unedited"][rows].max() < 1e-12
    kept = (masks[rows, 0] == 0).sum((1, 2))
    got = scene_edits.measure(task, outside)["unedited"][rows]
    np.testing.assert_allclose(got, 16 * 0.25**2 / kept, rtol=1e-4)


def test_every_edit_changes_its_attribute_alone():
    task = tasks(3, 40)
    before, after = task.before, task.after
    changed = {
        "colour": before.colour[:, 0] != after.colour[:, 0],
        "shape": before.shape[:, 1] != after.shape[:, 1],
        "background": before.background != after.background,
        "delete": before.present[:, 1] != after.present[:, 1],
    }
    for name, found in changed.items():
        assert found.tolist() == [name in row for row in task.tasks]
    assert (before.colour[:, 1] == after.colour[:, 1]).all()
    with pytest.raises(UserError, match="4 edits; expected one of 1, 2, 3"):
        tasks(4)


@pytest.mark.parametrize("edits", [1, 2, 3])
def test_the_edits_that_are_asked_make_the_captions_of_the_result(edits):
    task = tasks(edits, count=60)
    texts = scenes.captions(task.before), scenes.captions(task.after)
    for source, target, asked in zip(*texts, scene_edits.asked(task), strict=True):
        assert len(asked) == edits
        assert aspects.apply(source, asked, range(edits)).text == target
        # From the last to the first, one after the other.
        for one in reversed(asked):
            source = aspects.apply(source, [one], [0]).text
        assert source == target


def test_the_right_object_is_left_out_though_words_are_the_same():
    """To "a green circle" from "a red circle left of a green circle": two edits."""
    task = tasks(2, count=300)
    rows = [
        i
        for i, row in enumerate(task.tasks)
        if row == ("colour", "delete")
        and task.after.colour[i, 0] == task.before.colour[i, 1]
        and task.before.shape[i, 0] == task.before.shape[i, 1]
    ]
    assert rows
    texts = scenes.captions(task.before), scenes.captions(task.after)
    for i in rows:
        assert len(aspects.between(texts[0][i], texts[1][i])) == 1
        colour, gone = scene_edits.asked(task)[i]
        assert (colour.position, gone.position, gone.action) == (1, 3, aspects.DELETE)
