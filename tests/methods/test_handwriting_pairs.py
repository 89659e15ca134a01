"""Verification of pairs: symmetry, what is frozen, where the encoder begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd import methods, models
from jaxkd.core.errors import UserError
from jaxkd.core.types import LossInputs, Spec
from jaxkd.methods import handwriting_pairs

rng = np.random.default_rng(0)
PAIRS = rng.uniform(size=(6, 2, 8, 8, 1)).astype(np.float32)
LABELS = np.array([0, 1, 0, 1, 1, 0], np.int32)
BATCH = {"pair": PAIRS, "label": LABELS}
SMALL = {"encoder": "small_conv", "encoder_widths": (4,), "hidden": (4,)}


def _spec(**options):
    network = models.build("siamese", 1, embedding=4, **SMALL | options)
    fields = {
        "pair": jax.ShapeDtypeStruct(PAIRS.shape[1:], jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    return Spec(network, {}, 0, fields, 1.0, input_key="pair")


def _run(method):
    @jax.jit
    def run(params, state, batch):
        def value(params):
            outputs, new = method.forward(params, state, batch, jax.random.key(0))
            inputs = LossInputs(params, new, outputs, batch, {}, jax.random.key(0), 0)
            found = method.loss(inputs)
            return found.value, (found, outputs)

        return jax.grad(value, has_aux=True)(params)

    return run


def test_the_symmetric_head_takes_pairs_in_either_order():
    swapped = {**BATCH, "pair": PAIRS[:, ::-1]}
    for head, equal in (("symmetric", True), ("official", False)):
        method = methods.make("handwriting_pairs", _spec(head=head), {})
        params, state = jax.jit(method.init)(jax.random.key(1))
        predict = jax.jit(method.predict)
        one, other = (predict(params, state, b)["logits"] for b in (BATCH, swapped))
        assert np.allclose(one, other, atol=1e-5) == equal
        if head == "official":  # probabilities, which the loss takes for logits
            np.testing.assert_allclose(one.sum(-1), 1, 1e-5)


def test_frozen_encoders_stay_and_fine_tuned_ones_start_from_the_needed_run():
    encoder = models.build("small_conv", 1, widths=(4,))
    trained = jax.jit(encoder.init)(jax.random.key(7), PAIRS[:, 0])
    trained = jax.tree.map(lambda x: x + 0.1, dict(trained))
    for mode, label in (("frozen", "frozen"), ("finetune", "encoder")):
        method = methods.make(
            "handwriting_pairs", _spec(), {"encoder": mode, "start_from": "vicreg"}
        )
        params, state = jax.jit(method.init)(jax.random.key(1))
        params, state = method.warm_start(params, state, {"vicreg": trained})
        for found, expected in zip(
            jax.tree.leaves(
                [
                    params["student"]["encoder"],
                    state["student"]["batch_stats"]["encoder"],
                ]
            ),
            jax.tree.leaves([trained["params"], trained["batch_stats"]]),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
        labels = method.trainable(params)["student"]
        assert labels["encoder"] == label and labels["embed"] == "main"
        grads, (loss, outputs) = _run(method)(params, state, BATCH)
        still = not np.any(grads["student"]["encoder"]["conv1"]["kernel"])
        before = state["student"]["batch_stats"]["encoder"]["bn1"]["mean"]
        after = loss.model_state["student"]["batch_stats"]["encoder"]["bn1"]["mean"]
        assert still == (mode == "frozen") == np.array_equal(before, after)
        if mode == "frozen":  # the encoder's own features, in evaluation mode
            _, features = encoder.apply(trained, PAIRS[:, 1])
            pooled = outputs["features"]["pooled"][:, 1]
            np.testing.assert_allclose(pooled, features["pooled"], 1e-4, 1e-5)


def test_the_contrastive_loss_pulls_one_hand_together():
    method = methods.make(
        "handwriting_pairs", _spec(), {"loss": "contrastive", "margin": 3.0}
    )
    params, state = jax.jit(method.init)(jax.random.key(1))
    _, (loss, outputs) = _run(method)(params, state, BATCH)
    a, b = np.moveaxis(np.asarray(outputs["features"]["embedding"], float), 1, 0)
    distance = np.linalg.norm(a - b, axis=-1)
    terms = np.where(LABELS, distance**2, np.maximum(3 - distance, 0) ** 2) / 2
    np.testing.assert_allclose(loss.metrics["contrastive"], terms.mean(), 1e-4)
    total = loss.metrics["ce"] + loss.metrics["contrastive"]
    np.testing.assert_allclose(loss.value, total, 1e-5)


def test_evaluation_counts_what_is_not_padding():
    logits = np.array([[0, 1], [0, 1], [1, 0], [1, 0], [0, 1.0]])
    label, mask = np.array([1, 0, 1, 0, 1]), np.array([1, 1, 1, 1, 0], bool)
    found = handwriting_pairs.evaluate(
        {"logits": jnp.asarray(logits)},
        {"label": jnp.asarray(label), "mask": jnp.asarray(mask)},
    )
    twice = found.merge(found).compute()
    assert twice["accuracy"] == 0.5 and twice["f1"] == 0.5


def test_errors():
    with pytest.raises(UserError, match=r"config\.model\.name 'siamese'"):
        spec = _spec()._replace(network=models.build("small_conv", 1))
        methods.make("handwriting_pairs", spec, {})
    with pytest.raises(UserError, match="starts from a needed run"):
        methods.make("handwriting_pairs", _spec(), {"encoder": "frozen"})
    method = methods.make(
        "handwriting_pairs", _spec(), {"encoder": "frozen", "start_from": "simclr"}
    )
    params, state = jax.jit(method.init)(jax.random.key(1))
    with pytest.raises(UserError, match="names vicreg"):
        method.warm_start(params, state, {"vicreg": {}})
    with pytest.raises(UserError, match="do not fit"):
        method.warm_start(params, state, {"simclr": {"params": {}}})
