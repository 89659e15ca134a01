"""Several teachers as one: their combined logits, in every method of logits."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from jaxkd import losses, methods
from jaxkd.core import config as configs
from jaxkd.core.errors import UserError
from jaxkd.core.types import Ensemble, FrozenNetwork, Spec
from jaxkd.training import build
from tests.fields import fields

LOGIT_METHODS = ("kd", "dkd", "rld", "la", "rc", "lr", "mlkd_noaug", "mlkd")
COMBINATIONS = ("logits", "probabilities")
CLASSES = 5


class Linear(nn.Module):
    """The pixels times a matrix."""

    num_classes: int = CLASSES

    @nn.compact
    def __call__(self, x, train=False):
        pooled = x.reshape(len(x), -1)
        return nn.Dense(self.num_classes, name="fc")(pooled), {"pooled": pooled}


def _spec(combine):
    frozen = {
        "small": FrozenNetwork(Linear()),
        "large": FrozenNetwork(Linear(), input_key="large_image"),
    }
    views = {name: jax.ShapeDtypeStruct((2, 2, 3), jnp.float32) for name in VIEWS}
    views["large_image"] = jax.ShapeDtypeStruct((4, 4, 3), jnp.float32)
    weights = (("small", 0.25), ("large", 0.75))
    return Spec(
        network=Linear(),
        frozen=frozen,
        num_classes=CLASSES,
        fields=fields((2, 2, 3)) | views,
        steps_per_unit=1.0,
        num_examples=None,
        ensemble=Ensemble(weights, combine),
    )


VIEWS = ("image", "strong")


@pytest.mark.parametrize("combine", COMBINATIONS)
def test_targets_of_every_method_of_logits(combine):
    rng = np.random.default_rng(0)
    spec = _spec(combine)
    batch = {
        name: rng.normal(size=(3, *field.shape)).astype(np.float32)
        for name, field in spec.fields.items()
        if name != "label"
    }
    variables = {
        name: {
            "params": {
                "fc": {
                    "kernel": rng.normal(size=(size, CLASSES)),
                    "bias": rng.normal(size=CLASSES),
                }
            }
        }
        for name, size in {"small": 12, "large": 48}.items()
    }

    def logits(name, field):
        fc = variables[name]["params"]["fc"]
        return batch[field].reshape(3, -1) @ fc["kernel"] + fc["bias"]

    def combined(small):
        z = np.stack([logits("small", small), logits("large", "large_image")])
        weights = np.array([0.25, 0.75])[:, None, None]
        if combine == "logits":
            return np.sum(weights * z, 0)
        p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        return np.log(np.sum(weights * p, 0))

    found = set()
    for name in LOGIT_METHODS:
        method = methods.make(name, spec, {})
        found |= set(method.targets.values())
        got = method.targets["teacher"](variables, batch, None)
        assert set(got) == {"logits"}
        np.testing.assert_allclose(got["logits"], combined("image"), 1e-4, 1e-4)
    # One evaluation serves all, and MLKD has another of its strong view.
    assert len(found) == 2
    strong = method.targets["teacher_strong"](variables, batch, None)["logits"]
    np.testing.assert_allclose(strong, combined("strong"), 1e-4, 1e-4)


@pytest.mark.parametrize("name", ["rkd", "at", "crd", "ofd", "fitnet"])
def test_methods_of_features_are_refused(name):
    spec = _spec("logits")._replace(num_examples=9)
    with pytest.raises(UserError, match="reads more of its teacher than logits"):
        methods.make(name, spec, {})


def test_combine_logits():
    rng = np.random.default_rng(0)
    z = [rng.normal(size=(4, CLASSES)) * 50 for _ in range(2)]
    for combine in COMBINATIONS:
        one = losses.combine_logits([z[0]], [3.0], combine=combine)
        shift = np.asarray(one) - z[0]  # a constant of each row, which changes nothing
        np.testing.assert_allclose(shift, shift[:, :1].repeat(CLASSES, 1), atol=1e-4)
        twice = losses.combine_logits(z, [1, 3], combine=combine)
        scaled = losses.combine_logits(z, [10, 30], combine=combine)
        np.testing.assert_allclose(twice, scaled, 1e-5, 1e-5)
        assert np.isfinite(twice).all()
    with pytest.raises(ValueError, match="positive weight for each"):
        losses.combine_logits(z, [1.0])
    with pytest.raises(ValueError, match="combine is 'votes'"):
        losses.combine_logits(z, [1, 1], combine="votes")


def _config():
    config = configs.default()
    config.data = ConfigDict({"name": "digits"})
    config.model = ConfigDict({"name": "resnet8"})
    need = configs.needed(config)
    need.model.input = "teacher_image"
    config.method = "kd"
    config.needs = ConfigDict({"a": need, "b": configs.needed(config)})
    config.teachers.weights = ConfigDict({"a": 1, "b": 3})
    config.view = ConfigDict(
        {
            "name": "inputs",
            "base": {"name": "plain"},
            "fields": {"teacher_image": {"size": 16, "mean": [0.5], "std": [0.5]}},
        }
    )
    return config


def test_a_run_of_two_teachers_is_built():
    run = build.build(_config())
    assert run.spec.ensemble == Ensemble((("a", 0.25), ("b", 0.75)), "logits")
    assert run.frozen["a"].input_key == "teacher_image"
    assert run.frozen["b"].input_key == "image"
    assert run.spec.fields["teacher_image"].shape == (16, 16, 1)


def test_mistakes_are_explained():
    for change, message in (
        ({"combine": "votes"}, "config.teachers.combine is 'votes'"),
        ({"weights": {"c": 1.0}}, "'c', which is no needed run: a, b"),
        ({"weights": {"a": 0}}, "weights.a is 0, expected a number > 0"),
    ):
        config = _config()
        config.teachers.update(change)
        with pytest.raises(UserError, match=message):
            configs.check(config)
    config = _config()
    config.needs.teacher = config.needs.b
    with pytest.raises(UserError, match="has a 'teacher' too"):
        configs.check(config)
