import jax
import numpy as np
import pytest
from PIL import Image

from jaxkd.core.errors import UserError
from jaxkd.drawing import scenes
from jaxkd.pipelines.parallel_edits import picture
from jaxkd.pipelines.parallel_edits.edit import Settings
from tests.pipelines import tiny_scenes

SETTINGS = Settings(steps=2)


@pytest.mark.slow
def test_a_picture_and_its_page(tmp_path):
    image = scenes.draw(scenes.draw_scenes(np.random.default_rng(3), 1))[0][0]
    actions = {"green": {"position": 1, "edit_type": 6, "action": "red"}}
    found = picture.edit_picture(
        tiny_scenes.backbone(),
        image,
        tiny_scenes.SOURCE,
        actions=actions,
        key=jax.random.key(0),
        settings=SETTINGS,
    )
    np.testing.assert_allclose(found.source, image, atol=1e-6)
    assert len(found.images) == len(found.masks) == len(found.plan.groups) == 1
    page = picture.write_page(tmp_path, found, SETTINGS).read_text()
    assert "red -&gt; green" in page and "a green circle left of" in page
    written = np.asarray(Image.open(tmp_path / "edited.png"))
    np.testing.assert_array_equal(written, np.round(255 * found.images[-1]))


@pytest.mark.parametrize(
    ("image", "target", "message"),
    [
        (np.zeros((30, 32, 3)), "a red circle", "multiples of 4"),
        (np.zeros((32, 32)), "a red circle", r"expected \[height, width, 3\]"),
        (np.zeros((32, 32, 3)), tiny_scenes.SOURCE, "the same"),
        (np.zeros((32, 32, 3)), "a purple circle", "not known"),
    ],
)
def test_input_that_does_not_fit(image, target, message):
    with pytest.raises(UserError, match=message):
        picture.edit_picture(
            tiny_scenes.backbone(),
            image,
            tiny_scenes.SOURCE,
            target,
            key=jax.random.key(0),
        )


def test_prompts_without_words():
    word = {"position": 0, "action": "+"}
    for source, actions in (
        ("", {"red": word}),
        ("red", {"red": {**word, "action": "-"}}),
    ):
        with pytest.raises(UserError, match="has no words: ''"):
            picture.edit_picture(
                tiny_scenes.backbone(),
                np.zeros((32, 32, 3)),
                source,
                actions=actions,
                key=jax.random.key(0),
            )
