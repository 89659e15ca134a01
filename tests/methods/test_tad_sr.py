"""TAD-SR's terms on a linear denoiser, whose scores and samples are known."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxkd.core.errors import UserError
from jaxkd.core.types import FrozenNetwork, LossInputs, Spec, UpdateInputs
from jaxkd.diffusion import resshift
from jaxkd.methods import resshift as teachers
from jaxkd.methods import tad_sr
from jaxkd.models import swin_unet

SCHEDULE = {"num_steps": 4, "kappa": 1.0, "least": 0.2}


class Linear(nn.Module):
    """Predicts ``a x + b y`` of the scaled input and the condition."""

    width: int = 4
    num_classes: int = 0

    @nn.compact
    def __call__(self, packed, train=False):
        channels = (packed.shape[-1] - 1) // 2
        x, y = packed[..., :channels], packed[..., channels : 2 * channels]
        a = self.param("a", nn.initializers.constant(0.6), ())
        b = self.param("b", nn.initializers.constant(0.3), ())
        features = jnp.concatenate([a * x, b * y, x * y, x - y], axis=-1)
        return a * x + b * y, {"encoder1": features}


def spec(**changes):
    fields = {"image": (4, 4, 1), "low": (2, 2, 1), "packed": (4, 4, 3)}
    run = Spec(
        network=Linear(),
        frozen={"teacher": FrozenNetwork(Linear(), "packed")},
        num_classes=0,
        fields={k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in fields.items()},
        steps_per_unit=1.0,
        input_key="packed",
    )
    return run._replace(**changes)


OPTIONS = {"schedule": SCHEDULE, "taps": ("encoder1",), "width": 4, "groups": 2}


@pytest.fixture(scope="module")
def made():
    method = tad_sr.make(spec(), **OPTIONS)
    params, model_state = jax.jit(method.init)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 3)
    y = jax.random.normal(keys[0], (3, 4, 4, 1))
    s = resshift.schedule(**SCHEDULE)
    x = resshift.start(s, y, jax.random.normal(keys[1], y.shape))
    plane = jnp.ones((3, 4, 4, 1))
    packed = jnp.concatenate([resshift.scale_input(s, x, 3), y, plane], axis=-1)
    batch = {"image": jax.random.normal(keys[2], y.shape), "packed": packed}
    frozen = {"teacher": {"params": {"a": jnp.array(0.5), "b": jnp.array(0.4)}}}
    targets = {"teacher": jax.jit(method.targets["teacher"])(frozen, batch, keys[0])}
    outputs, _ = method.forward(params, model_state, batch, keys[0])
    inputs = LossInputs(
        params, model_state, outputs, batch, targets, keys[0], jnp.zeros((), int)
    )
    return method, inputs, (s, x, y)


def test_the_student_takes_one_step_and_the_teacher_all(made):
    method, inputs, (s, x, y) = made
    scaled = x / np.sqrt(0.99**2 + 1)
    np.testing.assert_allclose(
        inputs.outputs["image"], 0.6 * scaled + 0.3 * y, 1e-4, 1e-5
    )
    root = np.asarray(s.sqrt_eta, np.float64)
    z = np.asarray(x, np.float64)
    for t in (3, 2, 1, 0):
        now, before = root[t], root[t - 1] if t else 0.0
        x0 = 0.5 * z / np.sqrt(now**2 + 1) + 0.4 * np.asarray(y)
        noise = (z - x0 - now**2 * (np.asarray(y) - x0)) / now
        z = x0 + before**2 * (np.asarray(y) - x0) + before * noise
    taught = inputs.targets["teacher"]
    np.testing.assert_allclose(taught["image"], z, 1e-3, 1e-4)
    predicted = method.predict(inputs.params, inputs.model_state, inputs.batch)
    np.testing.assert_allclose(predicted["image"], inputs.outputs["image"], 1e-5)


def test_the_score_distillation_of_a_linear_teacher(made):
    """Both share noise and step: the scores differ by a multiple of z_s - z_T."""
    method, inputs, (s, _, _) = made
    del method
    run = spec()
    system = tad_sr._System(
        teachers.process(run.network, SCHEDULE),
        teachers.process(run.frozen["teacher"].network, SCHEDULE),
        None,
        (),
        1,
        False,
    )  # with one step, t = 0

    def total(z):
        outputs = {"image": z}
        return system.hsd(jax.random.key(5), inputs._replace(outputs=outputs)).sum()

    z = inputs.outputs["image"]
    slope = jax.grad(total)(z)
    eta = float(s.sqrt_eta[0]) ** 2
    apart = (1 - eta) * (z - inputs.targets["teacher"]["image"])  # of the noised images
    x0 = 0.5 * apart / np.sqrt(eta + 1)
    score = (apart - (1 - eta) * x0) / np.sqrt(eta)
    np.testing.assert_allclose(slope, score / 16, 1e-3, 1e-5)


@pytest.mark.slow
def test_two_players_move_their_own(made):
    method, inputs, _ = made
    labels = method.trainable(inputs.params)
    assert labels == {"student": "main", "discriminator": "discriminator"}
    moved = []

    def gradients(function, params, model_state, *, label=None, salt=0):
        def value(part):
            loss = function(
                {**params, **part}, inputs._replace(model_state=model_state)
            )
            return loss.value, loss

        name = "student" if label == "main" else label
        slopes, loss = jax.grad(value, has_aux=True)({name: params[name]})
        zeros = jax.tree.map(jnp.zeros_like, params)
        return zeros | slopes, loss

    def apply(params, gradients, opt_state, *, label="main"):
        moved.append(label)
        step = jax.tree.map(lambda x, g: x - 0.1 * g, params, gradients)
        return step, opt_state

    def update(params, model_state):
        return method.update(
            UpdateInputs(params, model_state, (), gradients, apply, {}, inputs.step)
        )

    after = jax.jit(update)(inputs.params, inputs.model_state)
    assert moved == ["discriminator", "main"]
    for part in ("student", "discriminator"):
        change = jax.tree.map(
            lambda a, b: jnp.abs(a - b).max(), after.params[part], inputs.params[part]
        )
        assert max(jax.tree.leaves(change)) > 0
    assert set(after.metrics) == {"discriminator", "mse", "hsd", "generator"}
    mse = jnp.mean((inputs.outputs["image"] - inputs.targets["teacher"]["image"]) ** 2)
    np.testing.assert_allclose(after.metrics["mse"], mse, 1e-4)
    expected = after.metrics["mse"] + after.metrics["hsd"]
    expected += 0.02 * after.metrics["generator"]
    np.testing.assert_allclose(after.loss, expected, 1e-4)


def test_the_public_codes_noise_is_not_gaussian(made):
    _, _inputs, (s, _, y) = made
    run = spec()
    process = teachers.process(run.network, SCHEDULE)
    z = jnp.zeros((200, 4, 4, 1))
    y = jnp.zeros_like(z)
    for official, mean, deviation in ((False, 0.0, 1.0), (True, 0.5, 12**-0.5)):
        system = tad_sr._System(process, process, None, (), 1, official)
        t = jnp.full(200, 3)
        noise = system.noised(jax.random.key(0), z, y, t) / s.sqrt_eta[3]
        np.testing.assert_allclose(noise.mean(), mean, atol=0.05)
        np.testing.assert_allclose(noise.std(), deviation, rtol=0.05)
        x0, _ = system.see({"params": {"a": 1.0, "b": 0.0}}, z + 1, y, t)
        scale = 1 / np.sqrt(0.99**2 + 1)
        np.testing.assert_allclose(x0, scale**2 if official else scale, 1e-5)


def test_what_does_not_fit():
    with pytest.raises(UserError, match="expected 'packed' of"):
        tad_sr.make(spec(input_key="image"), **OPTIONS)
    with pytest.raises(UserError, match="is 'encoder9', expected one of encoder1"):
        tad_sr.make(spec(), **OPTIONS | {"taps": ("encoder9",)})
    with pytest.raises(UserError, match="expected 1 to as many"):
        tad_sr.make(spec(), **OPTIONS, hsd_steps=5)
    with pytest.raises(UserError, match="has no option 'steps'"):
        tad_sr.make(spec(), **OPTIONS | {"schedule": {"steps": 3}})
    with pytest.raises(UserError, match="at least 2 steps"):
        teachers.make(spec(), schedule={"num_steps": 1})


def test_the_discriminator_sees_all_levels_by_default():
    network = swin_unet.SwinUNet(
        width=4, multipliers=(1, 1, 1, 1), blocks=1, attention=(), groups=2
    )
    fields = {"image": (8, 8, 1), "low": (2, 2, 1), "packed": (8, 8, 3)}
    run = spec(
        network=network,
        frozen={"teacher": FrozenNetwork(network, "packed")},
        fields={k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in fields.items()},
    )
    method = tad_sr.make(run, schedule=SCHEDULE, width=4, groups=2)
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    heads = {name.split("_")[0] for name in params["discriminator"]}
    assert heads == {"encoder1", "encoder2", "encoder3", "encoder4", "middle"}


def test_discriminators_of_two_sizes_share_the_teacher():
    one, other = (tad_sr.make(spec(), **OPTIONS | {"width": n}) for n in (4, 8))
    assert one.targets["teacher"] is other.targets["teacher"]
