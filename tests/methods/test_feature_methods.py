"""Methods that compare features and train nothing beside the student."""

import numpy as np
import pytest

from jaxkd import losses, methods
from jaxkd.core.errors import UserError
from jaxkd.core.types import Spec
from tests.fields import fields
from tests.methods.feature_net import (
    CLASSES,
    SHAPE,
    Net,
    Once,
    batch,
    cross_entropy,
    largest,
    make,
    once,
)

METHODS = ("at", "nst", "pkt", "kdsvd", "rkd", "sp")
SHALLOW = Net(widths=(4, 7), sizes=(2, 4))


def staged(loss, *pairs):
    return lambda s, t: sum(loss(s[a], t[b]).mean() for a, b in pairs)


def rows(loss, name="pooled"):
    return lambda s, t: loss(s[name], t[name])


def rkd(distance, angle):
    def value(s, t):
        both = s["pooled"], t["pooled"]
        return distance * losses.rkd_distance(*both) + angle * losses.rkd_angle(*both)

    return value


def halved(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def kdsvd(rank):
    def value(s, t):
        # Sizes are 8, 4, 2 and 8, 2, 4.
        students = s["stage1"], halved(s["stage2"]), s["stage3"]
        teachers = t["stage1"], t["stage2"], halved(t["stage3"])
        return losses.kdsvd(students, teachers, rank=rank).mean()

    return value


STAGES = [(f"stage{n}", f"stage{n}") for n in (1, 2, 3)]
CASES = {
    "at": (1000, {}, staged(losses.attention_transfer, *STAGES)),
    "nst": (50, {}, staged(losses.neuron_selectivity, *STAGES)),
    "pkt": (30000, {}, rows(losses.pkt)),
    "kdsvd": (1, {}, kdsvd(1)),
    "kdsvd-2": (1, {"rank": 2}, kdsvd(2)),
    "rkd": (1, {}, rkd(25, 50)),
    "rkd-own": (1, {"distance_weight": 2.0, "angle_weight": 3.0}, rkd(2, 3)),
    "sp": (3000, {}, rows(losses.similarity_preserving, "stage3")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_loss_is_the_weighted_sum_of_the_published_terms(case):
    weight, options, formula = CASES[case]
    name = case.split("-")[0]
    data = batch()
    seen = once(name, tuple(options.items()))()
    wanted = formula(seen.outputs["features"], seen.targets["teacher"]["features"])
    assert wanted > 1e-6
    np.testing.assert_allclose(seen.metrics[name], wanted, rtol=2e-4, atol=1e-8)
    ce = cross_entropy(seen.outputs["logits"], data["label"])
    total = ce + weight * seen.metrics[name]
    np.testing.assert_allclose(seen.total, total, rtol=1e-5)
    assert set(seen.model_state) == {"student"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ("at", "nst"))
def test_stages_are_paired_from_the_deepest(name):
    method = Once(make(name, teacher=SHALLOW), teacher=SHALLOW)
    seen = method()
    loss = {"at": losses.attention_transfer, "nst": losses.neuron_selectivity}[name]
    pairs = ("stage2", "stage1"), ("stage3", "stage2")
    wanted = staged(loss, *pairs)(
        seen.outputs["features"], seen.targets["teacher"]["features"]
    )
    np.testing.assert_allclose(seen.metrics[name], wanted, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_the_student_learns_and_the_teacher_does_not(name):
    _, outputs, targets = once(name, (("ce_weight", 0.0),)).gradients()
    assert largest(outputs["features"]) > 1e-9
    # Cross entropy is the only term that sees the logits.
    assert largest(outputs["logits"]) == 0
    assert largest(targets) == 0


def test_they_share_one_compiled_network():
    made = [make(name) for name in (*METHODS, "kd")]
    assert len({(method.init, method.forward) for method in made}) == 1
    assert len({method.targets["teacher"] for method in made}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_weights_are_options_and_warmup_scales_the_term_alone(name):
    options = {f"{name}_weight": 2.0, "ce_weight": 0.5, "warmup": 4.0}
    data = batch()
    seen = Once(make(name, options), step=15)()  # in the second of four units
    ce = cross_entropy(seen.outputs["logits"], data["label"])
    wanted = 0.5 * ce + 2 * 2 / 4 * seen.metrics[name]
    np.testing.assert_allclose(seen.total, wanted, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_wrong_options_and_a_missing_teacher_are_refused(name):
    with pytest.raises(UserError, match=rf"no option '{name}_wieght'.*{name}_weight"):
        make(name, {f"{name}_wieght": 1.0})
    alone = Spec(Net(), {}, CLASSES, fields(SHAPE), 10.0)
    with pytest.raises(UserError, match=r"config\.needs\.teacher"):
        methods.make(name, alone, {})


def test_a_sum_is_the_sum_of_its_parts():
    options = {"kd": {"kd_weight": 2.0}, "sp": {"sp_weight": 10.0}}
    seen = Once(make("kd+at+sp", options))()
    kd = once("kd", (("kd_weight", 2.0),))()
    parts = [once(n)().metrics[n] for n in ("at", "sp")]
    wanted = kd.total + 1000 * parts[0] + 10 * parts[1]
    np.testing.assert_allclose(seen.total, wanted, rtol=1e-5)
    assert {"ce", "kd", "at", "sp"} <= set(seen.metrics)
