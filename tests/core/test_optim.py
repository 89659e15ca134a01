import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxkd.core import config as configs
from jaxkd.core import optim
from jaxkd.core.errors import UserError

N, BATCH = 50_000, 64
PER_EPOCH = N / BATCH
STEPS = round(240 * PER_EPOCH)


def settings(**changes):
    return dict(configs.default().optim) | changes


def sgd_by_hand(params, gradients, lr, momentum, weight_decay, nesterov):
    """Sutskever-style SGD as torch.optim.SGD documents it, in float64 NumPy."""
    params = {name: np.array(p, np.float64) for name, p in params.items()}
    velocity = dict.fromkeys(params)
    for now in gradients:
        for name, p in params.items():
            g = now[name] + weight_decay * p
            old = velocity[name]
            velocity[name] = g if old is None else momentum * old + g
            move = g + momentum * velocity[name] if nesterov else velocity[name]
            params[name] = p - lr * move
    return params


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 2), "bias": (2,), "bn_scale": (2,), "bn_bias": (2,)}
    params = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gradients = [
        {name: rng.normal(size=shape) for name, shape in shapes.items()}
        for _ in range(6)
    ]
    return params, gradients


def run(transformation, params, gradients):
    params = jax.tree.map(jnp.asarray, params)
    state = transformation.init(params)
    for now in gradients:
        updates, state = transformation.update(now, state, params)
        params = optax.apply_updates(params, updates)
    return params


def assert_trees_close(got, want, rtol=1e-12):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), got, want)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.05])
def test_sgd_equals_the_loop_by_hand(problem, nesterov, weight_decay):
    params, gradients = problem
    make = optim.optimizer(settings(name="sgd", momentum=0.8, nesterov=nesterov))
    with jax.enable_x64(True):
        got = run(make(0.3, weight_decay), params, gradients)
    want = sgd_by_hand(params, gradients, 0.3, 0.8, weight_decay, nesterov)
    assert_trees_close(got, want)


@pytest.mark.torch
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_torch(problem, nesterov):
    torch = pytest.importorskip("torch")
    params, gradients = problem
    tensors = {n: torch.tensor(p, requires_grad=True) for n, p in params.items()}
    other = torch.optim.SGD(
        tensors.values(), lr=0.3, momentum=0.8, weight_decay=0.05, nesterov=nesterov
    )
    for now in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(now[name])
        other.step()
    make = optim.optimizer(settings(name="sgd", momentum=0.8, nesterov=nesterov))
    with jax.enable_x64(True):
        got = run(make(0.3, 0.05), params, gradients)
    assert_trees_close(got, {n: t.detach().numpy() for n, t in tensors.items()})


def test_sgd_decays_every_parameter(problem):
    params, _ = problem
    nothing = [{name: np.zeros_like(p) for name, p in params.items()}]
    make = optim.optimizer(settings(name="sgd", momentum=0.9))
    with jax.enable_x64(True):
        got = run(make(0.5, 0.1), params, nothing)
    assert_trees_close(got, {name: p * (1 - 0.5 * 0.1) for name, p in params.items()})


def test_adamw_equals_optax(problem):
    params, gradients = problem
    make = optim.optimizer(settings(name="adamw", momentum=0.85))
    with jax.enable_x64(True):
        got = run(make(0.01, 0.2), params, gradients)
        want = run(optax.adamw(0.01, b1=0.85, weight_decay=0.2), params, gradients)
    assert_trees_close(got, want)


def test_rates_may_be_traced(problem):
    params, gradients = problem
    make = optim.optimizer(settings(name="sgd", momentum=0.8, nesterov=True))

    @jax.jit
    def one(lr, weight_decay):
        transformation = make(lr, weight_decay)
        state = transformation.init(params)
        return transformation.update(gradients[0], state, params)[0]

    got = one(0.3, 0.05)
    want = sgd_by_hand(params, gradients[:1], 0.3, 0.8, 0.05, True)
    moved = jax.tree.map(lambda new, old: new - old, want, params)
    assert_trees_close(got, moved, rtol=1e-5)


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"optim.name is 'lion'.*sgd, adam or adamw"):
        optim.optimizer(settings(name="lion"))
    with pytest.raises(UserError, match=r"schedule is 'poly'.*cosine, step or const"):
        optim.schedule(settings(schedule="poly"), 10, 1.0)


def recipe(**changes):
    return settings(
        lr=0.05, schedule="step", milestones=(150.0, 180.0, 210.0), **changes
    )


@pytest.mark.parametrize(
    ("epoch", "decays"),
    # The rate of an epoch, counted from 1: a milestone takes effect when as many
    # epochs are complete.
    [(1, 0), (150, 0), (151, 1), (180, 1), (181, 2), (210, 2), (211, 3), (240, 3)],
)
def test_step_schedule_at_every_milestone(epoch, decays):
    schedule = optim.schedule(recipe(), STEPS, PER_EPOCH)
    first = math.ceil((epoch - 1) * PER_EPOCH)  # the first whole batch of the epoch
    last = math.floor(epoch * PER_EPOCH) - 1
    wanted = 0.05 * 0.1**decays
    assert float(schedule(first)) == pytest.approx(wanted, rel=1e-5)
    assert float(schedule(last)) == pytest.approx(wanted, rel=1e-5)


def test_step_schedule_changes_exactly_at_the_rounded_milestone():
    schedule = optim.schedule(recipe(factor=0.5), 100, 10.0)
    assert len({float(schedule(step)) for step in range(100)}) == 1  # none reached
    schedule = optim.schedule(recipe(factor=0.5) | {"milestones": (2, 3.5)}, 100, 10.0)
    rates = [float(schedule(step)) for step in range(100)]
    wanted = [0.05] * 20 + [0.025] * 15 + [0.0125] * 65
    np.testing.assert_allclose(rates, wanted, rtol=1e-6)


def test_step_schedule_with_warmup_keeps_its_milestones():
    plain = optim.schedule(recipe() | {"milestones": (3.0, 5.0)}, 100, 10.0)
    warm = optim.schedule(recipe(warmup=2.0) | {"milestones": (3.0, 5.0)}, 100, 10.0)
    for step in range(20):
        assert float(warm(step)) == pytest.approx(0.05 * step / 20, rel=1e-5)
    for step in range(20, 100):
        assert float(warm(step)) == pytest.approx(float(plain(step)), rel=1e-5)


def test_milestones_that_round_to_one_step_all_count():
    schedule = optim.schedule(recipe(), 3, 0.01)  # all three become step 2
    assert float(schedule(2)) == pytest.approx(0.05 * 0.1**3, rel=1e-5)


def test_cosine_from_end_to_end():
    schedule = optim.schedule(settings(lr=0.4, schedule="cosine"), 80, 10.0)
    for step in range(81):
        wanted = 0.2 * (1 + math.cos(math.pi * step / 80))
        assert float(schedule(step)) == pytest.approx(wanted, abs=1e-7)


def test_cosine_after_warmup():
    chosen = settings(lr=0.4, schedule="cosine", warmup=1.5)
    schedule = optim.schedule(chosen, 80, 10.0)
    for step in range(15):
        assert float(schedule(step)) == pytest.approx(0.4 * step / 15, rel=1e-5)
    for step in range(15, 81):
        wanted = 0.2 * (1 + math.cos(math.pi * (step - 15) / 65))
        assert float(schedule(step)) == pytest.approx(wanted, abs=1e-7)


def test_cosine_whose_warmup_never_ends():
    schedule = optim.schedule(settings(lr=0.4, warmup=10.0, schedule="cosine"), 5, 1.0)
    rates = [float(schedule(step)) for step in range(5)]
    np.testing.assert_allclose(rates, [0, 0.04, 0.08, 0.12, 0.16], atol=1e-7)


def test_constant():
    schedule = optim.schedule(settings(lr=0.3, schedule="constant"), 10, 1.0)
    assert {float(schedule(step)) for step in (0, 5, 9, 1000)} == {0.3}
    warm = optim.schedule(settings(lr=0.3, schedule="constant", warmup=4.0), 10, 1.0)
    rates = [float(warm(step)) for step in range(6)]
    np.testing.assert_allclose(rates, [0, 0.075, 0.15, 0.225, 0.3, 0.3], atol=1e-7)
