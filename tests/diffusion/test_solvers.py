"""Every solver against its paper in float64, and its order of convergence."""

from functools import partial

import jax
import numpy as np
import pytest

from jaxkd.diffusion import densities, samplers, schedules, solvers
from jaxkd.diffusion.solvers import adams
from tests.diffusion import solver_reference as reference

MULTISTEP = {
    "ipndm": reference.ipndm_step,
    "ipndm_v": reference.official_variable_step,
    "ab_v": reference.ab_step,
    "deis": reference.deis_step,
}


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


def _mixture(size=4, seed=0):
    rng = np.random.default_rng(seed)
    factors = rng.normal(size=(3, size, size)) * 0.3
    covariances = factors @ factors.transpose(0, 2, 1) + 0.01 * np.eye(size)
    return np.array([0.2, 0.3, 0.5]), rng.normal(size=(3, size)), covariances


MIXTURE = _mixture()
NUMPY_DENOISE = reference.mixture_denoiser(*MIXTURE)
GRID = schedules.polynomial(9, 0.05, 20.0)
NOISE = 20.0 * np.random.default_rng(1).normal(size=(5, 4))


@pytest.fixture(scope="module")
def denoise():
    with jax.enable_x64(True):
        return densities.mixture(*MIXTURE)


def _cases():
    for name in ("euler", "heun", "dpm"):
        yield name, {}, partial(reference.two_stage, kind=name)
    for name, step in MULTISTEP.items():
        for order in (1, 2, 3, 4):
            expected = partial(reference.multistep, step=step(order))
            yield name, {"order": order}, expected
    yield (
        "deis",
        {"order": 4, "variant": "rhoab"},
        partial(reference.multistep, step=reference.ab_step(4)),
    )
    for order in (1, 2, 3):
        for predict in ("x0", "eps"):
            for lower in (True, False):
                shared = {"order": order, "predict": predict}
                options = shared | {"lower_order_final": lower}
                expected = partial(reference.dpmpp, **shared, lower=lower)
                yield "dpmpp", options, expected
                for variant in ("bh1", "bh2"):
                    expected = partial(
                        reference.unipc, **shared, lower=lower, variant=variant
                    )
                    yield "unipc", options | {"variant": variant}, expected


@pytest.mark.parametrize(
    ("solver", "options", "expected"),
    [
        pytest.param(*case, id="-".join(map(str, (case[0], *case[1].values()))))
        for case in _cases()
    ],
)
def test_states_equal_the_formulas(denoise, solver, options, expected):
    run = samplers.sample(denoise, NOISE, GRID, solver, **options)
    truth = expected(NUMPY_DENOISE, NOISE, GRID)
    np.testing.assert_allclose(run.x, truth, rtol=0, atol=1e-10)
    assert run.nfe == (16 if solver in ("heun", "dpm") else 8)


@pytest.mark.parametrize("sigmas", [2, 3])
@pytest.mark.parametrize("solver", ["dpmpp", "unipc"])
def test_fewer_steps_than_the_order(denoise, solver, sigmas):
    grid = schedules.logsnr(sigmas, 0.05, 20.0)
    run = samplers.sample(denoise, NOISE, grid, solver, 3)
    options = {"variant": "bh2"} if solver == "unipc" else {}
    formula = getattr(reference, solver)
    truth = formula(NUMPY_DENOISE, NOISE, grid, 3, "x0", **options)
    np.testing.assert_allclose(run.x, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("variant", ["bh1", "bh2"])
def test_thresholding(variant):
    # Ten times the data range, so that the limit is far above 1.
    weights, means, covariances = MIXTURE
    scaled = (weights, 10 * means, covariances)
    denoise, model = densities.mixture(*scaled), reference.mixture_denoiser(*scaled)
    run = samplers.sample(denoise, NOISE, GRID, "dpmpp", 3, thresholding=True)
    truth = reference.dpmpp(model, NOISE, GRID, 3, "x0", thresholding=True)
    np.testing.assert_allclose(run.x, truth, rtol=0, atol=1e-10)
    assert np.abs(truth[-1]).max() < 1.2  # The model's own data reaches 10.
    run = samplers.sample(
        denoise, NOISE, GRID, "unipc", 3, thresholding=True, variant=variant
    )
    truth = reference.unipc(model, NOISE, GRID, 3, "x0", variant, thresholding=True)
    np.testing.assert_allclose(run.x, truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("solver", "order"),
    # The published weights of order 4 have a test of their own.
    [(s, o) for s in MULTISTEP for o in (1, 2, 3, 4) if (s, o) != ("ipndm_v", 4)],
)
def test_adams_weights_sum_to_the_step(solver, order):
    made = solvers.make(solver, schedules.polynomial(12, 0.002, 80.0), order)
    # The quadrature of deis is the only approximation.
    tolerance = 1e-9 if solver == "deis" else 1e-12
    np.testing.assert_allclose(
        made.weights.sum(axis=1), np.diff(made.sigmas), rtol=tolerance
    )


def test_on_even_steps_the_exact_weights_are_the_fixed_ones():
    grid = np.linspace(5.0, 1.0, 9)
    exact, fixed = adams.ab_v(grid, 4), adams.ipndm(grid, 4)
    np.testing.assert_allclose(exact.weights, fixed.weights, rtol=0, atol=1e-14)


def test_published_weights_sum_to_the_step_only_at_a_constant_ratio():
    for grid, exact in (
        (schedules.logsnr(12, 0.002, 80.0), True),
        (schedules.polynomial(12, 0.002, 80.0), False),
    ):
        made = solvers.make("ipndm_v", grid, 4)
        excess = np.abs(made.weights.sum(axis=1) / np.diff(grid) - 1)[3:]
        assert np.all(excess < 1e-12) if exact else np.all(excess < 2e-3)
        assert exact or excess.max() > 1e-4


def test_published_weights_at_even_steps():
    grid = np.linspace(5.0, 1.0, 9)
    backward = np.array([[1, 0, 0, 0], [1, -1, 0, 0], [1, -2, 1, 0], [1, -3, 3, -1]])
    # Adams-Bashforth would end on 3/8.
    expected = np.array([1, 1 / 2, 5 / 12, 11 / 24]) @ backward
    weights = adams.ipndm_v(grid, 4).weights[-1] / np.diff(grid)[-1]
    np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-13)


def test_published_quadrature_is_close_but_not_the_same():
    grid = schedules.time_uniform(8, 0.002, 80.0, rho=2.0)
    fine = adams.deis(grid, 4).weights
    coarse = adams.deis(grid, 4, quadrature="riemann10000").weights
    apart = np.abs(coarse - fine).max(axis=1)[1:] / np.abs(fine).max(axis=1)[1:]
    assert np.all(apart < 1e-3)
    assert np.all(apart > 1e-6)


SINGLE_POINT = (
    [("euler", {}), ("heun", {}), ("dpm", {})]
    + [(name, {"order": 3 if name == "ipndm_v" else 4}) for name in MULTISTEP]
    + [
        (name, {"order": 3, "predict": predict})
        for name in ("dpmpp", "unipc")
        for predict in ("x0", "eps")
    ]
)


@pytest.mark.parametrize(("solver", "options"), SINGLE_POINT)
def test_a_single_point_is_reached_exactly_on_any_grid(solver, options):
    rng = np.random.default_rng(3)
    point = rng.normal(size=(1, 4))
    grid = np.sort(rng.uniform(0.01, 20.0, 7))[::-1]
    run = samplers.sample(densities.empirical(point), NOISE, grid, solver, **options)
    # The path is straight: the distance to the point falls as sigma.
    truth = point + (NOISE - point) * (grid / grid[0])[:, None, None]
    tolerance = 2e-9 if solver == "deis" else 1e-12
    np.testing.assert_allclose(run.x, truth, rtol=0, atol=tolerance)


# Between 160 and 320 steps on a 5-d Gaussian, of which the flow is known.
ORDERS = [
    ("euler", {}, 1.0),
    ("heun", {}, 2.0),
    ("dpm", {}, 2.0),
    pytest.param(*("ipndm", {"order": 2}, 2.0), marks=pytest.mark.slow),
    pytest.param(*("ipndm", {"order": 3}, 2.0), marks=pytest.mark.slow),
    ("ipndm", {"order": 4}, 2.0),
    ("ipndm_v", {"order": 4}, 1.55),  # 1.8 between 320 and 640 steps.
    pytest.param(*("ab_v", {"order": 2}, 2.0), marks=pytest.mark.slow),
    pytest.param(*("ab_v", {"order": 3}, 3.0), marks=pytest.mark.slow),
    ("ab_v", {"order": 4}, 3.85),
    pytest.param(*("deis", {"order": 2}, 2.0), marks=pytest.mark.slow),
    pytest.param(*("deis", {"order": 3}, 2.95), marks=pytest.mark.slow),
    ("deis", {"order": 4}, 3.9),
    pytest.param(*("dpmpp", {"order": 1}, 1.0), marks=pytest.mark.slow),
    ("dpmpp", {"order": 2}, 2.0),
    ("dpmpp", {"order": 3}, 1.95),
    pytest.param(*("unipc", {"order": 1}, 2.0), marks=pytest.mark.slow),
    ("unipc", {"order": 2}, 3.0),
    ("unipc", {"order": 3}, 4.0),
]


@pytest.mark.parametrize(("solver", "options", "order"), ORDERS)
def test_order_of_convergence(solver, options, order):
    mean, variances = np.full(5, 0.3), np.array([0.01, 0.05, 0.25, 1.0, 2.0])
    denoise = densities.gaussian(mean, variances)
    start = 80.0 * np.random.default_rng(2).normal(size=(5, 5))
    truth = densities.gaussian_path(mean, variances, start, 80.0, 0.002)
    errors = []
    for steps in (160, 320):
        grid = schedules.polynomial(steps + 1, 0.002, 80.0)
        end = samplers.sample(denoise, start, grid, solver, **options).x[-1]
        errors.append(np.linalg.norm(end - truth))
    measured = np.log2(errors[0] / errors[1])
    assert measured == pytest.approx(order, abs=0.2), measured


@pytest.mark.parametrize(
    ("solver", "options", "message"),
    [
        ("rk45", {}, "No solver 'rk45'; there are euler"),
        ("ipndm", {"order": 0}, "ipndm of order 0; expected at least 1 and at most 4"),
        ("euler", {"order": 0}, "euler of order 0; expected at least 1"),
        ("dpmpp", {"order": 4}, "at most 3"),
        ("dpmpp", {"order": 2, "predict": "v"}, "predict='v'; expected"),
        ("deis", {"variant": "bh2"}, "deis has no variant 'bh2'"),
        ("euler", {"variant": ""}, "euler has no variant"),
    ],
)
def test_unknown_names_and_orders(solver, options, message):
    with pytest.raises(ValueError, match=message):
        solvers.make(solver, GRID, **options)


@pytest.mark.parametrize("solver", ["ipndm_v", "ab_v", "deis", "dpmpp", "unipc"])
def test_sigmas_nearer_than_the_solver_can_bear_are_refused(solver):
    """Weights divide by gaps: of sigmas 1e-4 apart, rounding is what they magnify."""
    order = solvers.MAX_ORDER[solver]
    close = [80.0, 20.0, 5.0, 5 * (1 - 2e-5), 5 * (1 - 4e-5), 0.3, 0.002]
    growth = solvers.amplification(solvers.make(solver, close, order, steady=False))
    assert growth.max() > 1e4
    message = rf"{solver} of order {order} multiplies rounding .*sigmas [234] and [345]"
    with pytest.raises(ValueError, match=message):
        solvers.make(solver, close, order)
    for usual in (
        schedules.polynomial(61, 0.002, 80.0),
        schedules.logsnr(3, 0.002, 80.0),
        schedules.time_uniform(401, 0.002, 80.0, 2.0),
        schedules.gits_published("cifar10", 7, 1.15),
    ):
        made = solvers.make(solver, usual, order)
        assert solvers.amplification(made).max() < 1e3
    for simple in ("euler", "heun", "dpm", "ipndm"):  # They divide by no gap.
        made = solvers.make(simple, close, solvers.MAX_ORDER[simple] or 1)
        assert solvers.amplification(made).max() < 10
