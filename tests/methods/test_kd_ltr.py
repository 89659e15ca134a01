"""KD-LTR's student: its terms are the losses, its start is its teacher."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import losses
from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, LossInputs, Spec
from jaxkd.methods import kd_ltr, text_recognition
from jaxkd.models.text_recognition import Reader, ViTReader
from tests.models.test_text_recognition import SMALL


def spec(**changes):
    shapes = {
        "image": ((16, 32, 3), jnp.float32),
        "low": ((8, 16, 3), jnp.float32),
        "tokens": ((3,), jnp.int32),
        "length": ((), jnp.int32),
    }
    run = Spec(
        network=Reader(**SMALL, first_stride=1, dropout=0.0),
        frozen={"teacher": FrozenNetwork(Reader(**SMALL, dropout=0.0))},
        num_classes=5,
        fields={name: jax.ShapeDtypeStruct(*one) for name, one in shapes.items()},
        steps_per_unit=1.0,
        input_key="low",
    )
    return run._replace(**changes)


@pytest.fixture(scope="module")
def made():
    run = spec()
    method = kd_ltr.make(run, hidden=3, width=4)
    params, model_state = jax.jit(method.init)(jax.random.key(0))
    key = jax.random.key(1)
    batch = {
        "image": jax.random.normal(key, (2, 16, 32, 3)),
        "low": jax.random.normal(key, (2, 8, 16, 3)),
        "tokens": jnp.array([[1, 2, 0], [3, 0, 0]]),
        "length": jnp.array([3, 2]),
    }
    teacher = run.frozen["teacher"].network
    frozen = {"teacher": jax.jit(teacher.init)(key, batch["image"])}
    params, model_state = method.warm_start(params, model_state, frozen)
    targets = {"teacher": jax.jit(method.targets["teacher"])(frozen, batch, key)}
    outputs, model_state = jax.jit(method.forward)(params, model_state, batch, key)
    return (
        method,
        frozen,
        LossInputs(
            params, model_state, outputs, batch, targets, key, jnp.zeros((), int)
        ),
    )


def test_the_student_begins_as_its_teacher(made):
    _, frozen, inputs = made
    own, theirs = inputs.params["student"], frozen["teacher"]["params"]
    np.testing.assert_array_equal(own["conv1"]["kernel"], theirs["conv1"]["kernel"])
    np.testing.assert_array_equal(
        own["classifier"]["bias"], theirs["classifier"]["bias"]
    )


def test_the_terms_and_their_weights(made):
    method, _, inputs = made
    found = jax.jit(method.loss)(inputs)
    own, theirs = inputs.outputs, inputs.targets["teacher"]
    valid = jnp.array([[True, True, True], [True, True, False]])
    focus = losses.character_focus(theirs["features"]["attention"], valid)
    visual = losses.focused_visual(
        own["features"]["stage3"], theirs["features"]["stage3"], focus
    ).mean()
    targets, lengths = losses.soft_path_targets(theirs["logits"])
    logit = losses.path_kd(own["logits"], targets, lengths).mean()
    ce = losses.character_cross_entropy(
        own["logits"], inputs.batch["tokens"], valid
    ).mean()
    for name, value in (("visual", visual), ("logit", logit), ("ce", ce)):
        np.testing.assert_allclose(found.metrics[name], value, 1e-4)
    total = 4 * visual + 20 * logit + 0.025 * ce + 2 * found.metrics["semantic"]
    np.testing.assert_allclose(found.value, total, 1e-4)


def test_exact_matches_count_up_to_the_end(made):
    method, _, inputs = made
    tokens = jnp.array([[1, 2, 0], [3, 0, 4]])  # what follows the end does not count
    outputs = {"logits": 9.0 * jax.nn.one_hot(tokens, 5)}
    batch = inputs.batch | {"mask": jnp.ones(2, bool)}
    found = method.evaluate(outputs, batch).compute()
    assert found["exact"] == 1 and found["characters"] == 1
    wrong = {"logits": outputs["logits"].at[0, 2].set(9.0 * jax.nn.one_hot(3, 5))}
    found = method.evaluate(wrong, batch).compute()
    assert found["exact"] == 0.5
    np.testing.assert_allclose(found["characters"], (2 / 3 + 1) / 2, 1e-6)


def test_patches_of_any_shape_are_folded_as_the_teachers():
    sizes = {"slots": 3, "width": 4, "depth": 1, "heads": 1, "hidden": 4}
    teacher = FrozenNetwork(ViTReader(num_classes=5, patch=(8, 4), **sizes))
    run = spec(
        network=ViTReader(num_classes=5, patch=(4, 2), **sizes),
        frozen={"teacher": teacher},
    )
    method = text_recognition.make(run, start_from="teacher", half=True)
    wide = np.arange(8 * 4.0).reshape(8, 4, 1)
    params = {"student": {"patches": jnp.zeros((4 * 2, 1))}}
    frozen = {"teacher": {"params": {"patches": jnp.asarray(wide.reshape(-1, 1))}}}
    moved, _ = method.warm_start(params, {"student": {}}, frozen)
    expected = sum(wide[i::2, j::2] for i in (0, 1) for j in (0, 1))
    np.testing.assert_array_equal(moved["student"]["patches"], expected.reshape(8, 1))


def test_a_frozen_reader_stays_as_it_is(made):
    _, frozen, inputs = made
    run = spec(network=Reader(**SMALL, dropout=0.0), input_key="image")
    method = text_recognition.make(run, start_from="teacher", frozen=True)
    params, model_state = method.warm_start(
        *jax.jit(method.init)(jax.random.key(3)), frozen
    )
    assert method.trainable(params) == {"student": "frozen", "idle": "main"}
    predicted = method.predict(params, model_state, inputs.batch)
    np.testing.assert_allclose(
        predicted["logits"], inputs.targets["teacher"]["logits"], 1e-5, 1e-5
    )

    def value(params):
        outputs, after = method.forward(params, model_state, inputs.batch, None)
        seen = inputs._replace(params=params, outputs=outputs, model_state=after)
        return method.loss(seen).value

    loss, slope = jax.value_and_grad(value)(params)
    assert loss == 0 and slope["idle"] == 0
    # A step applies no network: all that is left is the product with 0.
    assert len(jax.make_jaxpr(value)(params).eqns) == 1


def test_what_does_not_fit():
    with pytest.raises(UserError, match="Give the student first_stride 1"):
        kd_ltr.make(spec(network=Reader(**SMALL)))
    with pytest.raises(UserError, match="no features 'tokens'"):
        kd_ltr.make(spec(), visual_layer="tokens")
    with pytest.raises(UserError, match="expected the fields tokens and length"):
        run = spec()
        fields = {k: v for k, v in run.fields.items() if k != "tokens"}
        text_recognition.make(run._replace(fields=fields))
    with pytest.raises(UserError, match="should begin as 'other'"):
        kd_ltr.from_teacher("other", (4, 8))({"student": {}}, {"student": {}}, {})
