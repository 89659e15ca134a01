"""What a frozen network sees and answers, against the formulas by hand."""

import re

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import views
from jaxkd.core.errors import UserError
from jaxkd.core.source import Info
from jaxkd.training import adaptation

HERE = Info("here", 2, (6, 6, 2), (0.2, 0.5), (0.1, 0.3), ("b", "c"))
THERE = Info("there", 3, (6, 6, 2), (0.7, 0.4), (0.2, 0.25), ("a", "b", "c"))
EXAMPLE = {"image": jax.ShapeDtypeStruct((6, 6, 2), np.uint8)}
PLAIN, SIGNED = ConfigDict({"name": "plain"}), ConfigDict({"name": "signed"})
GLYPH = ConfigDict({"name": "glyph"})
CROPS = ConfigDict({"name": "crop_flip", "pad": 1})


def normalisation(view, own, trained=THERE):
    built = views.build(view.name, HERE)
    where = (HERE, trained, EXAMPLE, "image", "The teacher")
    return adaptation.normalisation(built, view, own, *where)


def test_another_mean_and_deviation_is_an_affine_map():
    scale, shift = normalisation(PLAIN, PLAIN)
    mean, std = np.array(HERE.mean), np.array(HERE.std)
    own_mean, own_std = np.array(THERE.mean), np.array(THERE.std)
    np.testing.assert_allclose(scale, std / own_std, rtol=1e-6)
    np.testing.assert_allclose(shift, (mean - own_mean) / own_std, rtol=1e-6)


def test_another_view_that_only_scales_is_one_too():
    scale, shift = normalisation(PLAIN, SIGNED)
    np.testing.assert_allclose(scale, 2 * np.array(HERE.std), rtol=1e-5)
    np.testing.assert_allclose(shift, 2 * np.array(HERE.mean) - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("view", "own", "trained"),
    [
        (PLAIN, PLAIN, HERE),
        (PLAIN, CROPS, HERE),  # alike in evaluation
        (PLAIN, PLAIN, None),
        (PLAIN, PLAIN, THERE._replace(mean=(), std=())),
        (GLYPH, GLYPH, THERE),  # a view that does not ask for the data's mean
    ],
)
def test_what_is_alike_is_left_alone_bit_for_bit(view, own, trained):
    assert normalisation(view, own, trained) == ((), ())


def test_images_of_other_channels_are_refused():
    grey = THERE._replace(mean=(0.5,), std=(0.5,))
    with pytest.raises(UserError, match=r"2 channels.*trained on 1"):
        normalisation(PLAIN, PLAIN, grey)


@pytest.mark.parametrize(("window", "same"), [("default", True), ("lung", False)])
def test_windows_of_hounsfield_units_are_compared_on_their_range(window, same):
    info = Info("scans", 2, (4, 6, 6), (0.0,), (1.0,), ("a", "b"))
    example = {"image": jax.ShapeDtypeStruct((4, 6, 6), np.int16)}
    still = {"name": "ct", "shift": 0.0, "depth_shift": 0}
    own, there = ConfigDict(still), ConfigDict(still | {"window": window, "zoom": 0.0})
    built = views.build("ct", info, shift=0.0, depth_shift=0)
    where = (built, own, there, info, info, example, "image", "The teacher")
    if same:
        assert adaptation.normalisation(*where) == adaptation.SAME
    else:
        with pytest.raises(UserError, match="cannot be mapped"):
            adaptation.normalisation(*where)


def outputs(count):
    return jax.ShapeDtypeStruct((2, count), np.float32)


def test_classes_are_selected_by_name():
    assert adaptation.classes(HERE, THERE, outputs(3), "It") == ((1, 2), "")
    turned = HERE._replace(class_names=("c", "b"))
    assert adaptation.classes(turned, THERE, outputs(3), "It") == ((2, 1), "")
    assert adaptation.classes(HERE, None, outputs(3), "It") == ((), "")
    assert adaptation.classes(HERE, HERE, outputs(2), "It") == ((), "")
    # An embedding of five numbers has no classes to be sorted.
    assert adaptation.classes(HERE, THERE, outputs(5), "It") == ((), "")


@pytest.mark.parametrize(
    ("info", "trained", "shapes", "message"),
    [
        (THERE, HERE, outputs(2), "It does not know 1 of 3 classes: a"),
        (HERE, THERE._replace(class_names=()), outputs(3), "3 classes.*not known"),
        (HERE, THERE, {"boxes": outputs(3)}, "not plain logits"),
    ],
)
def test_classes_that_cannot_be_joined(info, trained, shapes, message):
    positions, unlike = adaptation.classes(info, trained, shapes, "It")
    assert positions == () and re.search(message, unlike)
