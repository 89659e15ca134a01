"""The way of Stable Diffusion, through latents, on a tiny one with random weights."""

import jax
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.pipelines import parallel_edits, text_to_image
from jaxkd.pipelines.parallel_edits import plan
from tests import tiny_stable_diffusion as tiny

pytest.importorskip("tokenizers")


def backbone():
    sd = tiny.pipeline()
    unet = tiny.unet(attention=(True, True))
    params = {**sd.params, "unet": tiny.random_params(unet)}
    changed = sd._replace(unet=unet, params=params)
    return text_to_image.of_stable_diffusion(changed, distilled=True)


@pytest.mark.slow
def test_pieces_of_a_word_are_edited_together():
    model = backbone()
    edits = parallel_edits.aspects.between("a fox", "a qqq fox")
    made = plan.of_groups(model, "a fox", edits, [plan.Group(1, (0,))])
    # One token for each letter that no merge joins.
    assert np.flatnonzero(np.asarray(made.branches.local)[0]).tolist() == [2, 3, 4]
    mapper = np.asarray(made.branches.mapper)[0]
    assert mapper[[1, 5, 6]].tolist() == [1, 2, 3]


def test_errors_before_anything_is_compiled():
    model, key = backbone(), jax.random.key(0)
    for image, target, message in (
        (np.zeros((16, 18, 3)), "a fox", "multiples of 4"),
        (np.zeros((16, 16, 3)), "a " * 80, "at most 75"),
    ):
        with pytest.raises(UserError, match=message):
            parallel_edits.edit_picture(model, image, "a cat", target, key=key)


def test_a_model_for_inpainting_is_refused():
    sd = tiny.pipeline()
    with pytest.raises(UserError, match=r"takes 9 channels, .* latents of 4"):
        text_to_image.of_stable_diffusion(sd._replace(unet=tiny.unet(in_channels=9)))
